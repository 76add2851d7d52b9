"""`netplane cni`: installing, what it lists, and doing by hand what a runtime does."""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address, ip_interface
from pathlib import Path
from typing import Any

import pytest
from command_line import Done, netplane
from test_commands import HOSTILE

from cni import doctor
from cni.attachment import Attachment, AttachmentId, NetnsId, PodAddress
from cni.config import Mode, PortMapping
from cni.install import settings_of
from cni.known_network import NodeNetwork
from cni.launcher.build import LAUNCHER, CannotCompile, build
from cni.node import NodeAttachments
from cni.plugin import Plugin
from cni.runtime import kept_result
from cni.server import CniServer
from cni.store import Store
from netplane.kernel.netns import Namespace
from netplane.model.address import Protocol

pytestmark = pytest.mark.kernel
JSON = ("--output", "json")


@dataclass(frozen=True)
class Folders:
    """Folders of a host that is none."""

    root: Path

    def __getattr__(self, name: str) -> Path:
        return self.root / name

    def options(self, *names: str) -> tuple[str, ...]:
        return tuple(word for name in names for word in (f"--{name}-dir", str(self.root / name)))

    def network(self, *types: str, **more: Any) -> None:
        """A network of plugins, each with what `more` says."""
        self.conf.mkdir(exist_ok=True)
        plugins = [{"type": each, **more} for each in types]
        value = {"cniVersion": "1.0.0", "name": "pods", "plugins": plugins}
        (self.conf / "10-pods.conflist").write_text(json.dumps(value))

    def spy(self, name: str, code: int = 0, says: str = "") -> None:
        """A plugin of another type: writes down what it was asked, and passes the result on with its name added."""
        self.bin.mkdir(exist_ok=True)
        script = (
            f"#!{sys.executable} -IS\nimport json, os, sys\nasked = json.load(sys.stdin)\n"
            f"names = {{k: v for k, v in os.environ.items() if k.startswith('CNI_')}}\n"
            f"with open({str(self.root / 'log')!r}, 'a') as log:\n"
            f"    print(json.dumps([{name!r}, names, asked]), file=log)\n"
            f"if {code}: print({says!r}); sys.exit({code})\n"
            "result = asked.get('prevResult') or {'cniVersion': asked['cniVersion'], 'interfaces': []}\n"
            f"result['interfaces'].append({{'name': {name!r}}})\n"
            "if names['CNI_COMMAND'] == 'ADD': print(json.dumps(result))\n"
        )
        (self.bin / name).write_text(script)
        (self.bin / name).chmod(0o755)

    def log(self) -> list[tuple[str, dict[str, str], dict[str, Any]]]:
        """What the spies were asked."""
        return [json.loads(line) for line in (self.root / "log").read_text().splitlines()]


@pytest.fixture
def folders(tmp_path) -> Folders:
    return Folders(tmp_path)


@pytest.fixture(scope="module", autouse=True)
def launcher() -> None:
    if not LAUNCHER.exists():
        try:
            build()
        except CannotCompile as error:
            pytest.skip(str(error))


# --- install --------------------------------------------------------------------------------------------------------

PLACES = ("bin", "conf", "run", "state", "link")


def install(folders: Folders, *words: str) -> Done:
    return netplane("cni", "install", *folders.options(*PLACES), *words)


def own_plugin(folders: Folders) -> dict[str, Any]:
    network = json.loads((folders.conf / "10-netplane.conflist").read_text())
    (plugin,) = network["plugins"]
    return plugin


def test_install_puts_everything_in_place_and_again_changes_nothing(folders):
    done = install(folders, *JSON)
    assert (done.code, done.err) == (0, "")
    assert all(line.endswith(": written") for line in done.json["done"])
    for name in ("netplane", "loopback"):
        assert (folders.bin / name).stat().st_mode & 0o777 == 0o755
    settings = settings_of((folders.bin / "netplane").read_bytes())
    assert (settings.socket, settings.spool, settings.python) == (
        folders.run / "cni.sock",
        folders.state / "cni" / "spool",
        None,
    )
    assert own_plugin(folders)["ipam"]["nodeRanges"] is True
    again = install(folders)
    assert again.code == 0
    assert all(line.endswith(": as it should be") for line in again.out.splitlines())


def test_install_writes_what_the_options_say(folders):
    words = ("--mode", "routed", "--pod-range", "10.1.0.0/24", "--pod-range", "fd00::/64", "--without-agent", "work")
    assert install(folders, *words, "--cluster-range", "10.0.0.0/8").code == 0
    plugin = own_plugin(folders)
    assert (plugin["mode"], plugin["clusterRanges"]) == ("routed", ["10.0.0.0/8"])
    assert plugin["ipam"]["ranges"] == [[{"subnet": "10.1.0.0/24"}], [{"subnet": "fd00::/64"}]]
    assert settings_of((folders.bin / "netplane").read_bytes()).python == Path(sys.executable)
    assert install(folders).code == 0  # without options the configuration that is there stays
    assert own_plugin(folders) == plugin


def test_install_takes_a_configuration_as_it_is(folders, tmp_path):
    own = tmp_path / "own.conflist"
    own.write_text('{"cniVersion": "1.0.0", "name": "mine",\n "plugins": [{"type": "netplane", "mtu": 1400}]}')
    assert install(folders, "--config", str(own)).code == 0
    assert (folders.conf / "10-netplane.conflist").read_text() == own.read_text()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "not JSON"),
        ('{"name": "a", "plugins": [{"type": "bridge"}]}', "no plugin of it has the type 'netplane'"),
        ('{"cniVersion": "1.0.0", "name": "a", "plugins": [{"type": "netplane", "mtu": "big"}]}', "mtu"),
    ],
)
def test_install_refuses_a_configuration_that_would_not_work(folders, tmp_path, text, said):
    own = tmp_path / "own.conflist"
    own.write_text(text)
    done = install(folders, "--config", str(own))
    assert done.code == 3
    assert said in done.error
    assert not folders.conf.exists()


@pytest.mark.parametrize(
    "words", [("--pod-range", "10.1.0.1/24"), ("--config", "x", "--mode", "routed"), ("--mode", "x")]
)
def test_install_with_options_that_make_no_sense(folders, words):
    assert install(folders, *words).code == 2


def test_what_is_somebody_elses_is_left_alone(folders):
    folders.bin.mkdir()
    theirs = folders.bin / "netplane"
    theirs.write_text("theirs")
    done = install(folders)
    assert done.code == 5
    assert str(theirs) in done.error
    assert (theirs.read_text(), folders.conf.exists()) == ("theirs", False)


def test_uninstall_takes_away_what_install_put_there(folders):
    folders.network("bridge")
    install(folders)
    done = netplane("cni", "uninstall", *folders.options("bin", "conf", "link"), *JSON)
    assert done.code == 0
    assert all(line.endswith(": removed") for line in done.json["done"])
    assert [each.name for each in folders.conf.iterdir()] == ["10-pods.conflist"]
    assert [*folders.bin.iterdir()] == []
    assert netplane("cni", "uninstall", *folders.options("bin", "conf", "link")).out == "nothing to do\n"


# --- list -----------------------------------------------------------------------------------------------------------


def attached(folders: Folders, pod: str = "shop/web-1") -> None:
    attachment = Attachment(
        AttachmentId("pods", "0123456789abcdef0123", "eth0"),
        Mode.ROUTED,
        "/run/netns/c1",
        NetnsId(4, 7),
        "npr0123456789ab",
        addresses=(PodAddress(ip_interface("10.1.0.5/32"), ip_address("169.254.1.1")),),
        ports=(PortMapping(Protocol.TCP, 8080, 80), PortMapping(Protocol.UDP, 53, 53, ip_address("fd00::1"))),
        pod=pod,
    )
    with Store(folders.state / "cni", "boot-1") as store:
        store.begin(attachment)
        store.finish(attachment.id)


def test_list_says_who_has_what(folders):
    attached(folders)
    done = netplane("cni", "list", *folders.options("state"), *JSON)
    (one,) = done.json
    since = one.pop("since")
    assert since.endswith("Z")
    assert one == {
        "network": "pods",
        "container": "0123456789abcdef0123",
        "ifname": "eth0",
        "pod": "shop/web-1",
        "addresses": ["10.1.0.5/32"],
        "mode": "routed",
        "bridge": "",
        "link": "npr0123456789ab",
        "mac": "",
        "mtu": 0,
        "netns": "/run/netns/c1",
        "hostPorts": [
            {"protocol": "TCP", "hostAddress": "", "hostPort": 8080, "containerPort": 80},
            {"protocol": "UDP", "hostAddress": "fd00::1", "hostPort": 53, "containerPort": 53},
        ],
        "ipam": "netplane",
        "state": "attached",
        "boot": "boot-1",
    }


def test_list_for_people_has_a_line_for_each(folders):
    assert netplane("cni", "list", *folders.options("state")).out == "no attachments\n"
    attached(folders, pod="shop/\x1b[31mred")
    heading, line = netplane("cni", "list", *folders.options("state")).out.splitlines()
    assert heading.startswith("NETWORK  CONTAINER")
    assert "0123456789abc  eth0" in line
    assert "8080->80/TCP,[fd00::1]:53->53/UDP" in line
    assert "\x1b" not in line


# --- doctor ---------------------------------------------------------------------------------------------------------

DOCTOR = ("bin", "conf", "run", "state")


def test_the_doctor_ends_with_1_if_pods_would_fail(folders):
    done = netplane("cni", "doctor", *folders.options(*DOCTOR), *JSON)
    assert (done.code, done.err) == (1, "")
    assert all(each.keys() == {"check", "level", "what", "why", "mend"} for each in done.json)
    assert {each["level"] for each in done.json} >= {"ok", "error"}


def test_the_doctor_shows_what_is_wrong_and_with_all_what_is_well(folders):
    short = netplane("cni", "doctor", *folders.options(*DOCTOR))
    whole = netplane("cni", "doctor", *folders.options(*DOCTOR), "--all")
    assert short.out.splitlines()[-1] == whole.out.splitlines()[-1]
    assert not any(line.startswith("ok ") for line in short.out.splitlines())
    assert any(line.startswith("ok ") for line in whole.out.splitlines())
    assert "mend: netplane cni install" in short.out


@pytest.fixture(scope="module")
def served(tmp_path_factory) -> Iterator[tuple[str, ...]]:
    """The options that lead to an agent: the plugin behind its socket, in a namespace of its own."""
    root = tmp_path_factory.mktemp("agent")
    place = doctor.Place(run_dir=root, state_dir=root)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    listening.bind(str(place.socket))
    listening.listen()
    with Namespace() as namespace:
        attachments = namespace.run(lambda: NodeAttachments(place.journal))
        with attachments, CniServer(listening, Plugin(attachments, NodeNetwork, ())) as server:
            server.start()
            yield "--run-dir", str(root), "--state-dir", str(root)


# --- by hand --------------------------------------------------------------------------------------------------------

WHERE = ("bin", "conf", "run", "state")


def by_hand(folders: Folders, verb: str, *words: str) -> Done:
    return netplane("cni", verb, "--container", "c1", *folders.options(*WHERE), *words)


def test_add_asks_every_plugin_of_the_list_in_order_with_the_result_of_the_one_before(folders):
    folders.network("first", "second", some="option")
    folders.spy("first")
    folders.spy("second")
    done = by_hand(folders, "add", "--netns", "/run/netns/x", "--args", "A=1", "--args", "B=2", "--ifname", "net1")
    assert (done.code, done.err) == (0, "")
    assert done.json["interfaces"] == [{"name": "first"}, {"name": "second"}]
    (first, environment, one), (second, _, two) = folders.log()
    assert (first, second) == ("first", "second")
    assert environment == {
        "CNI_COMMAND": "ADD",
        "CNI_CONTAINERID": "c1",
        "CNI_NETNS": "/run/netns/x",
        "CNI_IFNAME": "net1",
        "CNI_ARGS": "A=1;B=2",
        "CNI_PATH": str(folders.bin),
    }
    assert one == {"type": "first", "some": "option", "name": "pods", "cniVersion": "1.0.0"}
    assert two["prevResult"]["interfaces"] == [{"name": "first"}]


def test_del_asks_the_last_plugin_first_and_needs_no_namespace(folders):
    folders.network("first", "second")
    folders.spy("first")
    folders.spy("second")
    done = by_hand(folders, "del", *JSON)
    assert done.json == {"network": "pods", "container": "c1", "ifname": "eth0", "done": "detached"}
    assert [(name, said["CNI_NETNS"]) for name, said, _ in folders.log()] == [("second", ""), ("first", "")]


def test_check_gives_the_result_to_all(folders, tmp_path):
    folders.network("first", "second")
    folders.spy("first")
    folders.spy("second")
    kept = tmp_path / "result.json"
    kept.write_text(by_hand(folders, "add", "--netns", "/x").out)
    done = by_hand(folders, "check", "--netns", "/x", "--result", str(kept))
    assert done.out == "pods/c1/eth0: as it should be\n"
    asked = folders.log()[2:]
    assert [name for name, _, _ in asked] == ["first", "second"]
    assert all(each["prevResult"] == json.loads(kept.read_text()) for _, _, each in asked)


@pytest.mark.parametrize(
    ("says", "code", "error"),
    [
        ('{"code": 7, "msg": "no", "details": "because"}', 3, "second: ADD: code 7: no: because"),
        ('{"code": 11, "msg": "later"}', 4, "second: ADD: code 11: later"),
        ('{"code": 100, "msg": "full"}', 5, "second: ADD: code 100: full"),
        ("not JSON \x1b[31m", 5, "second: ADD: code 999: not JSON \\x1b[31m"),
        ("", 5, "second: ADD: code 999: exit code 1, no words"),
    ],
)
def test_a_refusal_is_one_line_with_the_plugins_words_and_what_was_done_is_undone(folders, says, code, error):
    folders.network("first", "second")
    folders.spy("first")
    folders.spy("second", 1, says)
    done = by_hand(folders, "add", "--netns", "/x")
    assert (done.code, done.error) == (code, error)
    assert [(name, said["CNI_COMMAND"]) for name, said, _ in folders.log()][:3] == [
        ("first", "ADD"),
        ("second", "ADD"),
        ("second", "DEL"),
    ]


def test_check_that_finds_a_difference_ends_with_1(folders):
    folders.network("first")
    folders.spy("first", 1, '{"code": 102, "msg": "address is gone"}')
    done = by_hand(folders, "check", "--netns", "/x")
    assert (done.code, done.error) == (1, "first: CHECK: code 102: address is gone")


def test_a_plugin_that_is_nowhere_is_named(folders):
    folders.network("nowhere")
    done = by_hand(folders, "add", "--netns", "/x")
    assert done.code == 4
    assert "'nowhere'" in done.error


@pytest.mark.parametrize(
    ("config", "code", "said"),
    [
        ((), 0, ""),
        (("--config", "pods"), 0, ""),
        (("--config", "other"), 3, "no network is called 'other'; there is: pods"),
    ],
)
def test_a_network_is_chosen_by_name(folders, config, code, said):
    folders.network("first")
    folders.spy("first")
    done = by_hand(folders, "del", *config)
    assert done.code == code
    assert said in done.err


def test_no_network_is_an_error_that_says_what_to_do(folders):
    folders.conf.mkdir()
    done = by_hand(folders, "add", "--netns", "/x")
    assert done.code == 3
    assert "netplane cni install" in done.error


def test_results_that_a_runtime_keeps_are_found(folders, monkeypatch):
    from cni import conflist, runtime

    folders.network("first")
    monkeypatch.setattr(runtime, "RESULTS", folders.root)
    kept = {"kind": "cniCacheV1", "result": {"cniVersion": "1.0.0"}}
    (folders.root / "pods-c1-eth0").write_text(json.dumps(kept))
    network = conflist.first(folders.conf)
    assert kept_result(network, runtime.Container("c1", "")) == {"cniVersion": "1.0.0"}
    assert kept_result(network, runtime.Container("c2", "")) is None


def test_our_own_plugin_works_without_an_agent(folders):
    folders.network("netplane", ipam={"ranges": [[{"subnet": "10.88.1.0/24"}]]})
    with Namespace() as node, Namespace() as container:

        def run(verb: str, *words: str) -> Done:
            options = folders.options(*WHERE)
            return netplane("cni", verb, "--container", "c1", *options, *words, namespace=node)

        at = ("--netns", str(container.path))
        done = run("add", *at)
        assert (done.code, done.err) == (0, "")
        assert [each["address"] for each in done.json["ips"]] == ["10.88.1.2/24"]
        kept = folders.root / "result.json"
        kept.write_text(done.out)
        assert run("check", *at, "--result", str(kept)).code == 0
        assert [each["container"] for each in netplane("cni", "list", *folders.options("state"), *JSON).json] == ["c1"]
        assert run("add", *at).code == 5  # twice
        assert run("del").code == 0
        assert run("del").code == 0
        assert netplane("cni", "list", *folders.options("state"), *JSON).json == []


def test_our_own_plugin_is_asked_by_the_agents_socket(folders, served):
    folders.network("netplane", "after", ipam={"ranges": [[{"subnet": "10.88.1.0/24"}]]})
    folders.spy("after")
    where = (*folders.options("bin", "conf"), *served)
    with Namespace() as container:
        done = netplane("cni", "add", "--container", "c9", "--netns", str(container.path), *where)
        assert (done.code, done.err) == (0, "")
        names = [each["name"] for each in done.json["interfaces"]]
        (listed,) = netplane("cni", "list", *served[2:], *JSON).json
        assert names == ["cni0", listed["link"], "eth0", "after"]
        assert listed["addresses"] == [done.json["ips"][0]["address"]]
        assert netplane("cni", "del", "--container", "c9", *where).code == 0


@pytest.mark.parametrize("word", HOSTILE, ids=[f"word-{number}" for number in range(len(HOSTILE))])
@pytest.mark.parametrize(
    "words",
    [
        ("add", "--container", "@", "--netns", "/x"),
        ("add", "--container", "c1", "--netns", "@"),
        ("add", "--container", "c1", "--netns", "/x", "--ifname", "@"),
        ("add", "--container", "c1", "--netns", "/x", "--args", "@"),
        ("del", "--container", "@"),
        ("check", "--container", "@", "--ifname", "@", "--netns", "@"),
        ("del", "--container", "c1", "--config", "@"),
    ],
    ids=lambda words: " ".join(words),
)
def test_hostile_words_give_a_line_and_an_exit_code(folders, served, words, word):
    folders.network("netplane", ipam={"ranges": [[{"subnet": "10.88.1.0/24"}]]})
    done = netplane("cni", *(each.replace("@", word) for each in words), *folders.options("bin", "conf"), *served)
    assert done.code in {0, 2, 3, 5}
    assert "\x1b" not in done.err + done.out
    assert "‮" not in done.err + done.out
    assert done.code == 2 or len(done.err.splitlines()) <= 1


@pytest.mark.parametrize(
    ("verb", "names"), [("install", PLACES), ("list", ("state",)), ("doctor", DOCTOR), ("uninstall", ("bin", "conf"))]
)
def test_folders_that_cannot_be_used_are_one_line(folders, verb, names):
    (folders.root / "file").write_text("")
    options = [word for name in names for word in (f"--{name}-dir", str(folders.root / "file" / name))]
    done = netplane("cni", verb, *options)
    assert done.code in {0, 1, 3}
    assert len(done.err.splitlines()) <= 1
