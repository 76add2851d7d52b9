"""The named places where iptables cannot keep the plan's promise, seen on the kernel; and that no other is named."""

from __future__ import annotations

import socket
from datetime import timedelta
from errno import EHOSTUNREACH, ENETUNREACH
from pathlib import Path

import pytest
from builders import exposed, node, plan_of, service, slices, up

from netplane.backends.backend import Compiled
from netplane.backends.iptables import IPTABLES
from netplane.backends.iptables.words import endpoint_chain
from netplane.kernel.command import run
from netplane.kernel.host import Host, HostOptions
from netplane.kernel.iptables_variants import Variant
from netplane.kernel.netns import Namespace
from netplane.model.address import Family
from netplane.plan.plan import Plan
from netplane.programs.iptables_changes import Applied

pytestmark = pytest.mark.kernel
KEPT = 100


@pytest.fixture(autouse=True)
def own_lock(tmp_path, monkeypatch):
    monkeypatch.setenv("XTABLES_LOCKFILE", str(tmp_path / "xtables.lock"))


def apply(compiled: Compiled, variant: Variant) -> None:
    with Host(HostOptions(variant.value)) as host:
        host.apply(compiled.program, reread=True)


def ip(*words: str) -> None:
    run("ip", *words, mechanism="links", doing="wire a test")


def ask_from(source: str, to: tuple[str, int]) -> int:
    """The errno of one attempt to connect; 0 while it is on its way."""
    with socket.socket() as client:
        client.setblocking(False)
        client.bind((source, 0))
        return client.connect_ex(to)


def sticky() -> Plan:
    of = service(affinity=timedelta(hours=1))
    return plan_of(node(), of, *slices(of, up("10.244.1.5", "n1")))


@pytest.mark.parametrize("variant", Variant)
def test_deviation_affinity_of_100_clients(variant):
    """One client more than the kernel's list holds: the first is forgotten, the last ones are known."""
    limit = int(Path("/sys/module/xt_recent/parameters/ip_list_tot").read_text())
    plan = sticky()
    (row,) = (row for row in plan.rows() if row.frontend.family is Family.IPV4)
    (endpoint,) = row.verdicts.node.pool.endpoints  # type: ignore[union-attr]
    clients = [f"10.9.{index // 250}.{index % 250 + 1}" for index in range(limit + 1)]

    def work() -> list[str]:
        ip("link", "set", "lo", "up")
        ip("route", "add", "local", "10.9.0.0/16", "dev", "lo")
        ip("route", "add", "default", "dev", "lo")
        apply(IPTABLES.compile(plan), variant)
        for client in clients:
            ask_from(client, (str(row.frontend.address), row.frontend.port))
        seen = Path("/proc/thread-self/net/xt_recent", endpoint_chain(row.service_port, endpoint)).read_text()
        return [line.split()[0].removeprefix("src=") for line in seen.splitlines()]

    with Namespace() as scratch:
        remembered = scratch.run(work)
    assert limit == KEPT, "this machine was told to keep another number; docs/backends/iptables.md says 100"
    assert sorted(remembered) == sorted(clients[1:])


@pytest.mark.parametrize("variant", Variant)
@pytest.mark.parametrize("routed", [True, False])
def test_deviation_refused_after_routing(variant, routed):
    """An external address without endpoints: refused where there is a route, unreachable where there is none."""
    of = exposed()
    plan = plan_of(node(), of)
    address = str(of.external_ips[0])

    def work() -> int:
        ip("link", "set", "lo", "up")
        ip("address", "add", "192.0.2.11/32", "dev", "lo")
        if routed:
            ip("route", "add", "default", "dev", "lo")
        apply(IPTABLES.compile(plan), variant)
        with socket.socket() as client:
            client.settimeout(5)
            return client.connect_ex((address, 80))

    with Namespace() as scratch:
        said = scratch.run(work)
    assert (said in (ENETUNREACH, EHOSTUNREACH)) == (not routed)


@pytest.mark.parametrize("endpoints", [(), (up("10.244.1.5", "n1"), up("fd00:244:1::5", "n1"))], ids=["goes", "comes"])
def test_deviation_two_tables(endpoints):
    """The last endpoint goes, or the first comes: both tables change, each at a stroke of its own."""
    of = exposed()
    one = plan_of(node(), of, *slices(of, up("10.244.1.6", "n1"), up("fd00:244:1::6", "n1")) if not endpoints else ())
    other = plan_of(node(), of, *slices(of, *endpoints))
    before, after = IPTABLES.compile(one), IPTABLES.compile(other)
    changes = Applied(before.program.iptables).changes_to(after.program.iptables)
    assert changes is not None
    for family in Family:
        assert [*changes.of(family)] == ["filter", "nat"]


def test_a_cluster_ip_is_refused_between_the_tables_too():
    """What refuses every other port of it does not change."""
    of = exposed()
    for endpoints in ((), (up("10.244.1.5", "n1"),)):
        program = IPTABLES.compile(plan_of(node(), of, *slices(of, *endpoints))).program.iptables
        rules = [rule for tree in program.trees[Family.IPV4, "filter"] for _, each in tree.chains() for rule in each]
        assert any("cluster IP: no such port" in rule for rule in rules)


def test_each_deviation_is_shown_somewhere():
    shown = "\n".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    for deviation in IPTABLES.deviations:
        assert f"def test_deviation_{deviation.name.replace('-', '_')}" in shown, deviation.name
