"""What the doctor finds, each made to happen in a namespace of its own. It changes nothing, and never raises."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from ipaddress import ip_address, ip_interface
from pathlib import Path
from typing import Any

import pytest

from cni import doctor
from cni.attachment import Attachment, AttachmentId, NetnsId, PodAddress, link_name
from cni.config import BridgeOptions, Mode
from cni.doctor import CHECKS, Finding, Level, Place, kernel, machine, node
from cni.install import InstallOptions, LauncherSettings, install
from cni.known_network import NodeNetwork
from cni.node import NodeAttachments
from cni.plugin import Plugin
from cni.server import CniServer
from cni.store import Store
from netplane.errors import KernelError
from netplane.kernel import command, link_orders, netlink, sysctls
from netplane.kernel.links import Links, Order
from netplane.kernel.netlink import CREATE, Request, nested
from netplane.kernel.netns import Namespace

pytestmark = pytest.mark.kernel

ERROR, WARNING, OK = Level.ERROR, Level.WARNING, Level.OK


@dataclass
class Host:
    """A node in a namespace, with folders of its own, that has nothing wrong but what a test does to it."""

    namespace: Namespace
    place: Place

    def run(self, *words: str) -> str:
        return self.namespace.run(lambda: command.run(*words, mechanism="test", doing=" ".join(words)))

    def set(self, **values: str | int) -> None:
        named = {name.replace("__", "/"): value for name, value in values.items()}
        self.namespace.run(lambda: sysctls.write(named))

    def configure(self, name: str = "10-netplane.conflist", **options: Any) -> Path:
        """A network of ours, or with `plugins` of others."""
        ours = {"type": "netplane", "ipam": {"ranges": [[{"subnet": "10.88.1.0/28"}]]}} | options
        plugins = options.get("plugins", [ours])
        path = self.place.conf_dir / name
        path.write_text(json.dumps({"cniVersion": "1.0.0", "name": "pods", "plugins": plugins}))
        return path

    def attach(self, number: int, *, link: bool = True, boot: str = "", mode: Mode = Mode.BRIDGE) -> str:
        """An attachment in the journal, with its host link; returns the link's name."""
        id_ = AttachmentId("pods", f"c{number}", "eth0")
        name = link_name(mode, id_)
        address = PodAddress(ip_interface(f"10.88.1.{number}/28"), ip_address("10.88.1.1"))
        bridge = BridgeOptions() if mode is Mode.BRIDGE else None
        attachment = Attachment(
            id_, mode, "/run/netns/c", NetnsId(4, number), link=name, bridge=bridge, addresses=(address,)
        )
        with Store(self.place.journal, boot or sysctls.read("kernel/random/boot_id")) as store:
            store.begin(attachment)
            store.finish(id_)
        if link:
            self.veth(name)
        return name

    def veth(self, name: str) -> None:
        self.run("ip", "link", "add", name, "type", "veth", "peer", "name", f"e{name[-10:]}")

    def found(self, check: str) -> list[Finding]:
        examined = self.namespace.run(lambda: doctor.examine(self.place))
        return [each.finding for each in examined if each.check == check]

    def only(self, check: str) -> Finding:
        (finding,) = self.found(check)
        return finding


@pytest.fixture
def host(tmp_path, compiled_launcher) -> Iterator[Host]:
    place = Place(tmp_path / "net.d", tmp_path / "bin", tmp_path / "run", tmp_path / "state")
    place.conf_dir.mkdir()
    settings = LauncherSettings(place.socket, place.spool)
    install(InstallOptions(settings, place.bin_dir, place.conf_dir, None, launcher=compiled_launcher))
    with Namespace() as namespace:
        made = Host(namespace, place)
        made.set(net__ipv4__ip_forward=1, net__ipv6__conf__all__forwarding=1)
        made.configure()
        yield made


def levels(found: list[Finding]) -> set[Level]:
    return {each.level for each in found}


# --- all of them ----------------------------------------------------------------------------------------------------


def test_a_host_with_nothing_wrong_lacks_only_an_agent(host):
    found = host.namespace.run(lambda: doctor.examine(host.place))
    assert {each.check for each in found} == {each.name for each in CHECKS}
    assert [each.check for each in found if each.finding.level is not OK] == ["agent"]


def test_what_is_wrong_is_told_with_its_reason_and_its_remedy(host):
    host.attach(2)
    host.set(net__ipv4__ip_forward=0)
    host.place.bin_dir.joinpath("loopback").unlink()
    found = host.namespace.run(lambda: doctor.examine(host.place))
    wrong = [each.finding for each in found if each.finding.level is not OK]
    assert len(wrong) == 3
    assert all(each.what and each.why and each.mend for each in wrong)


def test_an_empty_host_is_told_about_and_no_check_stops_another(tmp_path):
    place = Place(tmp_path / "a", tmp_path / "b", tmp_path / "c", tmp_path / "d")
    with Namespace() as namespace:
        found = namespace.run(lambda: doctor.examine(place))
    assert {each.check for each in found} == {each.name for each in CHECKS}
    assert {each.check for each in found if each.finding.level is ERROR} >= {"configuration", "executables"}


def test_a_check_that_cannot_run_says_so_and_the_others_run(host):
    host.place.journal.mkdir(parents=True)
    host.place.journal.chmod(0o777)  # the journal is not read then
    found = host.namespace.run(lambda: doctor.examine(host.place))
    assert {each.check for each in found} == {each.name for each in CHECKS}
    unable = [each for each in found if "could not be looked at" in each.finding.what]
    assert {each.check for each in unable} >= {"attachments", "addresses"}
    assert {each.finding.level for each in unable} == {WARNING}


def test_nothing_is_changed(host):
    host.attach(2)

    def seen() -> tuple[str, str, str]:
        kept = sorted((str(each), each.stat().st_mtime_ns) for each in host.place.state_dir.rglob("*"))
        return host.run("nft", "list", "ruleset"), host.run("ip", "-d", "addr"), repr(kept)

    before = seen()
    host.namespace.run(lambda: doctor.examine(host.place))
    assert seen() == before


# --- what netplane keeps --------------------------------------------------------------------------------------------


def test_no_network_configuration(host):
    host.configure().unlink()
    assert host.only("configuration").level is ERROR


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"name": "pods", "plugins": []}', '{"plugins": [{"type": "netplane"}]}']
)
def test_a_network_that_cannot_be_read(host, text):
    host.configure().write_text(text)
    finding = host.only("configuration")
    assert finding.level is ERROR
    assert "10-netplane.conflist" in finding.what


def test_a_network_with_a_wrong_option_names_it(host):
    host.configure(mode="bridged")
    finding = host.only("configuration")
    assert finding.level is ERROR
    assert "bridged" in finding.what


def test_another_plugins_network_that_comes_first(host):
    host.configure("05-bridge.conflist", plugins=[{"type": "bridge"}, {"type": "portmap"}])
    finding = host.only("configuration")
    assert finding.level is ERROR
    assert "05-bridge.conflist" in finding.what
    assert "bridge, portmap" in finding.what


def test_one_that_comes_later_does_no_harm(host):
    host.configure("20-bridge.conflist", plugins=[{"type": "bridge"}])
    assert host.only("configuration").level is OK


@pytest.mark.parametrize("name", node.EXECUTABLES)
@pytest.mark.parametrize(
    ("mode", "said"), [(None, "No such file"), (0o644, "not executable"), (0o777, "others than root")]
)
def test_executables(host, name, mode, said):
    path = host.place.bin_dir / name
    path.unlink() if mode is None else path.chmod(mode)
    (finding,) = (each for each in host.found("executables") if each.level is not OK)
    assert (finding.level, str(path) in finding.what, said in finding.what) == (ERROR, True, True)


def test_a_plugin_of_somebody_else_in_the_place_of_ours(host):
    for name in node.EXECUTABLES:
        (host.place.bin_dir / name).write_text("#!/bin/sh\n")
    assert [each.level for each in host.found("executables")] == [ERROR, OK]  # any `loopback` will do


def test_an_executable_that_asks_elsewhere(host):
    moved = replace(host.place, run_dir=host.place.run_dir / "other")
    found = host.namespace.run(lambda: doctor.examine(moved))
    (first, _) = (each.finding for each in found if each.check == "executables")
    assert first.level is ERROR
    assert f"asks {host.place.socket}, not {moved.socket}" in first.what


def test_nobody_answers(host):
    finding = host.only("agent")
    assert finding.level is ERROR
    assert str(host.place.socket) in finding.what


def test_an_agent_that_answers_and_one_that_has_no_address_left(host):
    for number in range(2, 14):
        host.attach(number, link=False)
    with served(host):
        assert host.only("agent").level is OK
    host.attach(14, link=False)
    with served(host):
        finding = host.only("agent")
    assert finding.level is ERROR
    assert "no address is left in 10.88.1.1-10.88.1.14 (code 50)" in finding.what


@contextmanager
def served(host: Host) -> Iterator[None]:
    """The plugin behind its socket, as the agent has it."""
    host.place.run_dir.mkdir(mode=0o700, exist_ok=True)
    host.place.socket.unlink(missing_ok=True)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    listening.bind(str(host.place.socket))
    listening.listen()
    attachments = host.namespace.run(lambda: NodeAttachments(host.place.journal))
    plugin = Plugin(attachments, NodeNetwork, ())
    with attachments, CniServer(listening, plugin) as server:
        server.start()
        yield


@pytest.mark.parametrize("taken", [5, 12, 13])
def test_a_range_that_is_nearly_or_wholly_taken(host, taken):
    """10.88.1.0/28 has 14 addresses, one of them the gateway's."""
    for number in range(2, 2 + taken):
        host.attach(number, link=False)
    assert host.only("addresses").level is {5: OK, 12: WARNING, 13: ERROR}[taken]


def test_the_pool_of_another_network_is_another_one(host):
    host.configure(ipam={"ranges": [[{"subnet": "10.99.0.0/30"}]]})
    for number in range(2, 8):
        host.attach(number, link=False)
    assert host.only("addresses").level is OK


def test_attachments_and_links_that_belong_together(host):
    host.attach(2)
    assert host.only("attachments") == Finding(OK, "1 attachments, and their links")


@pytest.mark.parametrize("how", ["link gone", "another boot"])
def test_an_attachment_that_is_dead(host, how):
    host.attach(2, link=how == "another boot", boot="earlier" if how == "another boot" else "")
    finding = host.only("attachments")
    assert finding.level is WARNING
    assert "pods/c2/eth0" in finding.what


@pytest.mark.parametrize("name", ["npb0123456789ab", "npr0123456789ab", "npi0123456789ab"])
def test_a_link_of_ours_that_nobody_knows(host, name):
    host.veth(name)
    finding = host.only("attachments")
    assert finding.level is WARNING
    assert name in finding.what
    assert f"ip link del {name}" in finding.mend


def test_folders_that_others_may_write_to(host):
    host.place.state_dir.mkdir()
    host.place.state_dir.chmod(0o770)
    finding = host.only("privacy")
    assert finding.level is ERROR
    assert str(host.place.state_dir) in finding.what


# --- the kernel -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"mode": "routed"}, {"capabilities": {"bandwidth": True}}])
def test_what_the_kernel_can_is_tried_and_nothing_of_it_stays(host, options):
    host.configure(**options)
    before = host.run("ip", "-o", "link")
    found = host.found("kernel")
    assert levels(found) == {OK}
    said = " ".join(each.what for each in found)
    assert ("bridges" in said, "queues" in said) == ("mode" not in options, "capabilities" in options)
    assert host.run("ip", "-o", "link") == before


def test_a_kernel_that_lacks_a_kind_of_link(host):
    """None lacks these, so a kind stands for them that every kernel lacks."""
    unknown = nested(18, netlink.text(1, "no-such-kind"))
    order = Order(
        "make link npp0", Request(link_orders.NEW_LINK, bytes(16) + netlink.text(3, "npp0") + unknown, CREATE)
    )
    part = machine.Part("pairs of links (veth)", (order,), "no Pod", "modprobe veth")
    with host.namespace.run(Links) as links:
        finding = part.tried(links)
    assert (finding.level, finding.mend) == (ERROR, "modprobe veth")
    assert finding.what.startswith("the kernel has no pairs of links (veth) (make link npp0: ")


def test_a_kernel_that_does_not_tell_vlans_apart(host):
    host.configure(vlan=7)
    try:
        can = not host.run("ip", "link", "add", "probe", "type", "bridge", "vlan_filtering", "1")
    except KernelError:
        can = False
    (finding,) = (each for each in host.found("kernel") if "VLAN" in each.what)
    assert finding.level is (OK if can else ERROR)
    assert machine.vlans(None).level is ERROR


@pytest.mark.parametrize(("cookie", "level"), [(7, OK), (0, WARNING)])
def test_a_kernel_without_cookies_of_namespaces_mends_less(cookie, level):
    assert machine.cookies(cookie).level is level


def test_the_rules_that_are_tried_are_all_there_can_be(host):
    assert host.only("rules").level is OK
    script = machine.ruleset()
    for word in ("host-ports", "host-address-ports", "selves", "masquerade", "fib saddr", "ip6 netplane-pods"):
        assert word in script


ROUTER = "fe80::1"


def test_a_default_route_that_a_router_announced_is_lost_by_forwarding(host):
    dual = {"ranges": [[{"subnet": "10.88.1.0/28"}], [{"subnet": "fd00:88::/64"}]]}
    uplink(host, "up1", "default")
    assert host.only("router announcements").level is OK  # Pods have no IPv6
    host.configure(ipam=dual)
    missing = host.only("router announcements")
    assert (missing.level, missing.mend) == (WARNING, "sysctl -w net.ipv6.conf.up1.accept_ra=2")
    host.run("ip", "-6", "route", "add", "default", "via", ROUTER, "dev", "up1", "proto", "ra")
    assert "is lost when" in host.only("router announcements").what
    host.set(net__ipv6__conf__up1__accept_ra=2)
    assert host.only("router announcements").level is OK
    host.set(net__ipv6__conf__up1__accept_ra=1)
    host.run("ip", "-6", "route", "replace", "default", "via", ROUTER, "dev", "up1", "proto", "static")
    assert host.only("router announcements").level is OK


def test_forwarding_is_off_and_there_are_pods(host):
    host.set(net__ipv4__ip_forward=0)
    assert host.only("forwarding").level is OK  # the agent does it for the first one
    host.attach(2)
    assert host.only("forwarding").mend == "sysctl -w net.ipv4.ip_forward=1"


def test_forwarding_of_ipv6_matters_where_pods_have_it(host):
    host.attach(2)
    host.set(net__ipv6__conf__all__forwarding=0)
    assert levels(host.found("forwarding")) == {OK}
    host.configure(ipam={"ranges": [[{"subnet": "10.88.1.0/28"}], [{"subnet": "fd00:88::/64"}]]})
    (finding,) = (each for each in host.found("forwarding") if each.level is not OK)
    assert finding.mend == "sysctl -w net.ipv6.conf.all.forwarding=1"


def test_bridged_packets_pass_no_rules(host):
    if not Path("/proc/sys/net/bridge").exists():
        assert "modprobe br_netfilter" in host.only("bridged packets").mend
        return
    host.set(**{"net__bridge__bridge-nf-call-iptables": 0})
    finding = host.only("bridged packets")
    assert finding.level is ERROR
    assert finding.mend == "sysctl -w net.bridge.bridge-nf-call-iptables=1"
    host.configure(mode="routed")
    assert host.only("bridged packets").level is OK


def uplink(host: Host, name: str, route: str, mtu: int = 1500) -> None:
    host.run("ip", "link", "add", name, "mtu", str(mtu), "type", "veth", "peer", "name", f"{name}-far")
    host.run("ip", "link", "set", name, "up")
    host.run("ip", "link", "set", f"{name}-far", "up")
    host.run("ip", "route", "add", route, "dev", name)


def test_a_strict_reverse_path_filter_with_two_ways_out(host):
    uplink(host, "up1", "default")
    host.set(net__ipv4__conf__up1__rp_filter=1)
    assert host.only("reverse path").level is OK
    host.configure(clusterRanges=["10.88.0.0/16"])
    uplink(host, "up2", "10.88.2.0/24")
    finding = host.only("reverse path")
    assert (finding.level, finding.mend) == (WARNING, "sysctl -w net.ipv4.conf.up1.rp_filter=2")


def test_a_loose_filter_everywhere_weakens_routed_mode(host):
    host.set(net__ipv4__conf__all__rp_filter=2)
    assert host.only("reverse path").level is OK
    host.configure(mode="routed")
    assert host.only("reverse path").level is WARNING


def test_links_larger_than_the_way_out(host):
    uplink(host, "up1", "default", mtu=1400)
    name = host.attach(2)
    finding = host.only("packet size")
    assert finding.level is WARNING
    assert f"{name} (1500)" in finding.what
    host.run("ip", "link", "set", name, "mtu", "1400")
    assert host.only("packet size").level is OK
    host.configure(mtu=1450)
    assert "mtu 1450" in host.only("packet size").what


def test_a_link_of_the_bridges_name_that_is_none(host):
    host.veth("cni0")
    finding = host.only("bridge")
    assert finding.level is ERROR
    assert "veth" in finding.what


def test_foreign_addresses_on_the_bridge(host):
    host.run("ip", "link", "add", "cni0", "type", "bridge")
    host.run("ip", "addr", "add", "10.88.1.1/28", "dev", "cni0")
    assert host.only("bridge").level is OK
    host.run("ip", "addr", "add", "10.1.0.1/16", "dev", "cni0")
    finding = host.only("bridge")
    assert finding.level is WARNING
    assert finding.mend.startswith("ip addr del 10.1.0.1/16 dev cni0")


def test_another_link_with_an_address_of_the_pods(host):
    uplink(host, "up1", "default")
    host.run("ip", "addr", "add", "10.88.1.14/28", "dev", "up1")
    finding = host.only("address conflicts")
    assert finding.level is ERROR
    assert "up1 has 10.88.1.14/28" in finding.what


@pytest.mark.parametrize(("entries", "level"), [(10, OK), (90, WARNING), (100, ERROR)])
def test_how_full_a_table_of_connections_is(entries, level):
    assert kernel.fullness(entries, 100).level is level


def test_no_watch_is_left(host):
    script = (
        "from pathlib import Path; from cni.doctor import Place, examine\n"
        "Path('/proc/sys/user/max_inotify_instances').write_text('0')\n"
        "print(*(each.finding.level.value for each in examine(Place()) if each.check == 'watches'))"
    )
    words = ["unshare", "--user", "--map-root-user", "--net", sys.executable, "-c", script]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=20)
    if "unshare failed" in done.stderr:
        pytest.skip("this kernel refuses user namespaces")
    assert (done.stdout, done.stderr) == ("error\n", "")


# --- other programs -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", ["nft", "legacy"])
def test_a_forward_chain_of_iptables_that_drops(host, variant, monkeypatch, tmp_path):
    monkeypatch.setenv("XTABLES_LOCKFILE", str(tmp_path / "xtables.lock"))
    assert host.only("forward chains").level is OK
    tool = f"iptables-{variant}"
    host.run(tool, "-P", "FORWARD", "DROP")
    finding = host.only("forward chains")
    assert finding.level is ERROR
    for mend in finding.mend.split("; "):
        host.run(tool, *mend.split()[1:])
    assert host.only("forward chains").level is OK


@pytest.mark.parametrize(
    "text",
    [
        "add chain inet fw f { type filter hook forward priority 0; policy drop; }",
        "add chain inet fw f { type filter hook forward priority 10; }\n"
        "add rule inet fw f ct state established accept\nadd rule inet fw f counter reject with icmpx admin-prohibited",
    ],
)
def test_a_forward_chain_of_nftables_that_drops(host, text):
    def load(script: str) -> None:
        host.namespace.run(lambda: command.run("nft", "-f", "-", stdin=script, mechanism="test", doing="load"))

    load(f"add table inet fw\n{text}\n")
    finding = host.only("forward chains")
    assert finding.level is ERROR
    assert "inet fw chain f" in finding.what
    for mend in finding.mend.split("; "):
        load(mend.removeprefix("nft ").replace("'", ""))
    assert host.only("forward chains").level is OK


def test_without_nft_no_pod_starts(host, monkeypatch):
    assert host.only("rules").level is OK
    monkeypatch.setattr(command, "_PATH", "/nonexistent")
    found = host.found("rules")
    assert [(each.level, each.mend) for each in found] == [(ERROR, "apt install nftables")]


def test_chains_of_ours_and_those_that_drop_little_are_fine(host):
    for text in (
        "add table ip netplane-pods",
        "add chain ip netplane-pods f { type filter hook forward priority 0; policy drop; }",
        "add table ip other",
        "add chain ip other f { type filter hook forward priority 0; policy accept; }",
        "add rule ip other f ip saddr 192.0.2.1 drop",
    ):
        host.run("nft", text)
    assert host.only("forward chains").level is OK


@pytest.mark.parametrize("name", ["systemd-networkd", "NetworkManager", "firewalld"])
def test_a_manager_that_runs_in_this_namespace(host, name):
    script = (
        "import ctypes, sys\n"
        f"ctypes.CDLL(None).prctl(15, b{name!r}, 0, 0, 0)\n"
        "print('ready', flush=True); sys.stdin.read()"
    )

    def start() -> subprocess.Popen[str]:
        words = [sys.executable, "-c", script]
        return subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    with host.namespace.run(start) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        finding = host.only("managers")
        with Namespace() as elsewhere:
            others = elsewhere.run(lambda: doctor.examine(host.place))
        process.communicate()
    assert finding.level is WARNING
    assert name in finding.what
    assert [each.finding.level for each in others if each.check == "managers"] == [OK]
    assert host.only("managers").level is OK
