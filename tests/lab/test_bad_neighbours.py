"""Others have rules on the node too: they keep every one of them, and none of them stops what we serve."""

from __future__ import annotations

import socket
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path

import pytest
from kube_proxy import ALL_PODS, IP, TOOL, neighbours_text, restore, run, saved
from test_take_over import MODES, foreign
from traffic import NODE, WEB, Traffic, cluster, standing

from netplane.backends.registry import BACKENDS
from netplane.errors import InputError
from netplane.kernel.host import Host
from netplane.lab.cases import load_cluster
from netplane.lab.strangers import FOREIGN_FILE, move_in
from netplane.model.address import Family
from netplane.plan.node import plan_node
from netplane.plan.settings import Settings
from netplane.programs.program import Program
from netplane.sources.manifests import load

pytestmark = [pytest.mark.lab, pytest.mark.kernel]

HEALTH_PORT = 32100
HEALTH_SERVICE = f"""apiVersion: v1
kind: Service
metadata: {{name: balanced, namespace: shop}}
spec:
  type: LoadBalancer
  selector: {{app: web}}
  clusterIPs: [10.96.0.40, "fd00:10:96::40"]
  externalTrafficPolicy: Local
  healthCheckNodePort: {HEALTH_PORT}
  ports:
    - {{name: http, protocol: TCP, port: 80, targetPort: 8080, nodePort: 30083}}
status: {{loadBalancer: {{ingress: [{{ip: 203.0.113.5}}, {{ip: "2001:db8:113::5"}}]}}}}
"""

each_variant = pytest.mark.parametrize("variant", ["nft", "legacy"])
each_backend = pytest.mark.parametrize("backend", sorted(BACKENDS))
each_family = pytest.mark.parametrize("family", list(Family), ids=str)


@pytest.fixture
def manifests(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("XTABLES_LOCKFILE", str(tmp_path / "lock"))
    return cluster(tmp_path)


@contextmanager
def host_of(node):
    """The host of a node, closed where it was opened."""
    host = node.run(Host)
    try:
        yield lambda program: node.run(lambda: host.apply(program, reread=True))
    finally:
        host.close()


def program(manifests, backend):
    return BACKENDS[backend].compile(plan_node(load(manifests).snapshot, "n1", Settings())).program


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
def test_neighbours_keep_every_rule_whatever_we_do(manifests, mode):
    with standing(manifests) as lab, host_of(lab.nodes["n1"]) as apply:
        node = lab.nodes["n1"]
        run(node, "nft", "add", "table", "inet", "firewalld")
        for family in Family:
            restore(node, mode.variant, family, neighbours_text(family, mark="CNI-HOSTPORT-SETMARK"))
        before = foreign(node, mode)
        for wanted in [*(program(manifests, name) for name in (*sorted(BACKENDS), *sorted(BACKENDS))), Program()]:
            apply(wanted)
            assert foreign(node, mode) == before


@each_variant
@each_backend
def test_a_neighbour_who_comes_later_and_goes_first_is_let_be(manifests, backend, variant):
    wanted = program(manifests, backend)
    with standing(manifests) as lab, host_of(lab.nodes["n1"]) as apply, Traffic(lab) as traffic:
        node = lab.nodes["n1"]
        for family in Family:  # so that this variant is the one in use
            restore(node, variant, family, "*filter\n:SOMEBODY - [0:0]\n-A INPUT -j SOMEBODY\nCOMMIT\n")
        apply(wanted)
        traffic.start()
        for family in Family:
            restore(node, variant, family, neighbours_text(family, mark="CNI-HOSTPORT-SETMARK"))
            run(node, f"{TOOL[family]}-{variant}", "-t", "nat", "-I", "PREROUTING", "-j", "DOCKER")
        later = [line for line in saved(node, variant) if "DOCKER" in line]
        apply(wanted)
        assert [line for line in saved(node, variant) if "DOCKER" in line] == later
        assert not apply(wanted).changed
        traffic.go_on(100)
        assert traffic.finish() >= 300


@each_backend
@each_family
def test_rules_that_iptables_cannot_say_stay_in_its_tables(manifests, backend, family):
    """iptables-save prints a rule that nft made without what it does not understand."""
    wanted = program(manifests, backend)
    ip = IP[family]
    listed = ", ".join(map(str, sorted(map(ip_address, (NODE[family], WEB[family])))))
    strange = f"{ip} saddr {{ {listed} }} continue"
    with standing(manifests) as lab, host_of(lab.nodes["n1"]) as apply:
        node = lab.nodes["n1"]
        restore(node, "nft", family, "*nat\nCOMMIT\n*filter\nCOMMIT\n")
        run(node, f"{TOOL[family]}-nft", "-A", "FORWARD", "-j", "ACCEPT")
        run(node, "nft", f"insert rule {ip} filter FORWARD {strange}")
        for each in (wanted, wanted, Program()):
            apply(each)
            assert strange in run(node, "nft", "list", "table", ip, "filter")


ACCEPTS_FOR_ALL = {"iptables": True, "nftables": False}
"""A packet goes on if every table lets it: who rules in the neighbour's own table can accept before he drops."""


@each_backend
@each_variant
@each_family
def test_a_forward_policy_of_drop_lets_through_what_iptables_masquerades(manifests, backend, variant, family):
    """As with kube-proxy; what has its own address still must be somebody else's to allow: the network of pods."""
    with standing(manifests) as lab, host_of(lab.nodes["n1"]) as apply, Traffic(lab):
        node = lab.nodes["n1"]
        restore(node, variant, family, "*filter\n:FORWARD DROP [0:0]\n-A INPUT -i nobody -j ACCEPT\nCOMMIT\n")
        apply(program(manifests, backend))
        client = next(namespace for pod, namespace in lab.pods.items() if pod.name == "client")
        assert reaches(lab.outside, (NODE[family], 30080)) == ACCEPTS_FOR_ALL[backend]
        assert not reaches(client, (WEB[family], 80))
        restore(node, variant, family, f"*filter\n-A FORWARD -s {ALL_PODS[family]} -j ACCEPT\nCOMMIT\n")
        restore(node, variant, family, f"*filter\n-A FORWARD -d {ALL_PODS[family]} -j ACCEPT\nCOMMIT\n")
        assert reaches(lab.outside, (NODE[family], 30080))
        assert reaches(client, (WEB[family], 80))


@each_backend
@each_variant
@each_family
def test_an_input_policy_of_drop_lets_through_the_health_check_of_iptables(manifests, backend, variant, family):
    (manifests / "balanced.yaml").write_text(HEALTH_SERVICE)
    ping = "icmp" if family is Family.IPV4 else "icmpv6"
    with standing(manifests) as lab, host_of(lab.nodes["n1"]) as apply:
        node = lab.nodes["n1"]
        text = f"*filter\n:INPUT DROP [0:0]\n-A INPUT -p {ping} -j ACCEPT\nCOMMIT\n"
        restore(node, variant, family, text)
        apply(program(manifests, backend))
        with node.run(lambda: socket.create_server(("::", HEALTH_PORT), family=socket.AF_INET6, dualstack_ipv6=True)):
            assert reaches(lab.outside, (NODE[family], HEALTH_PORT)) == ACCEPTS_FOR_ALL[backend]
            assert not reaches(lab.outside, (NODE[family], HEALTH_PORT + 1))


def reaches(namespace, to):
    """Whether a connection comes about before its SYN would be sent again."""
    try:
        namespace.run(lambda: socket.create_connection(to, timeout=0.9)).close()
    except TimeoutError:
        return False
    return True


def test_foreign_rules_that_cannot_be_loaded_name_their_file(manifests):
    (manifests / FOREIGN_FILE).write_text("table inet firewall { chain forward { type filter hok forward; } }\n")
    case = load_cluster(manifests)
    with standing(manifests) as lab, pytest.raises(InputError, match=r"foreign\.nft: nft refuses it: .*hok"):
        move_in(lab, case.folder)
