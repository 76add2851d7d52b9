"""What is rendered is what `iptables-save` prints, byte for byte, in both variants and families."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from ipaddress import ip_address

import pytest
from builders import CLUSTER, LOCAL, exposed, node, plan_of, port, slices, up
from generated.clusters import World

from netplane.backends.iptables import IPTABLES
from netplane.backends.iptables.needs import REQUIREMENTS
from netplane.kernel.command import run
from netplane.kernel.iptables_variants import Variant, tool
from netplane.kernel.netns import Namespace
from netplane.model.address import Family, Protocol
from netplane.plan.node import plan_node
from netplane.plan.plan import Plan
from netplane.plan.settings import NodePortScope
from netplane.programs.iptables_text import scripts

pytestmark = pytest.mark.kernel


@pytest.fixture(autouse=True)
def own_lock(tmp_path, monkeypatch):
    monkeypatch.setenv("XTABLES_LOCKFILE", str(tmp_path / "xtables.lock"))


def by_chain(text: str) -> dict[str, list[str]]:
    """The rules of each chain of each table; chains without any too, but for those the kernel has."""
    found: dict[str, list[str]] = {}
    table = ""
    for line in text.splitlines():
        if line.startswith("*"):
            table = line[1:]
        elif line.startswith(":") and line.split()[1] == "-":
            found.setdefault(f"{table} {line.split()[0][1:]}", [])
        elif line.startswith(("-A ", "-I ")):
            chain, _, rule = line[3:].partition(" ")
            rules = found.setdefault(f"{table} {chain}", [])
            rules.insert(0 if line.startswith("-I") else len(rules), rule)
    return found


def loaded(script: str, variant: Variant, family: Family) -> str:
    def work() -> str:
        words = tool(variant, family, "restore"), "--noflush"
        run(*words, stdin=script, mechanism="iptables", doing="load a rendered program")
        return run(tool(variant, family, "save"), mechanism="iptables", doing="read it back")

    with Namespace() as scratch:
        return scratch.run(work)


def large() -> Plan:
    """Every kind of row and verdict of three protocols, names that are hard to quote, and enough to make trees."""
    ports = tuple(port(80, each, each.value.lower(), 30000 + 10 * at) for at, each in enumerate(Protocol))
    made = []
    for index in range(80):
        name = ("web", "w\"e'b\\", "w e b $(b) `b`", "é\n")[index % 4] + str(index)
        web = exposed(
            name,
            ips=(str(ip_address(0x0A600101 + 3 * index)), str(ip_address((0xFD000096 << 96) + 5 * index + 1))),
            ports=tuple(replace(each, node_port=each.node_port + 30 * index) for each in ports),
            external=LOCAL if index % 3 else CLUSTER,
            affinity=timedelta(hours=3) if index % 5 == 0 else None,
            ranges=("198.51.100.0/24", "0.0.0.0/1", "2001:db8:2::/64") if index % 2 else (),
            health_check_node_port=32000 + index,
        )
        web = replace(web, external_ips=tuple(each + index for each in web.external_ips))
        web = replace(web, ingress=tuple(replace(each, address=each.address + index) for each in web.ingress))
        made.append(web)
        if index % 7:
            ends = [up(f"10.244.{1 + at}.{index + 1}", f"n{1 + at}") for at in range(index % 4)]
            made.append(slices(web, *ends, up(f"fd00:244:1::{index:x}", "n1"), up("::ffff:10.0.0.1", "n9")))
    return plan_of(node(), *made, node_ports=NodePortScope.ALL, service_ranges=World(1).settings.service_ranges)


def plans() -> Iterator[tuple[str, Plan]]:
    yield "large", large()
    for seed in range(12):
        world = World(seed)
        yield f"world {seed}", plan_node(world.snapshot, "n1", world.settings)


PLANS = dict(plans())


@pytest.mark.parametrize("variant", Variant)
@pytest.mark.parametrize("name", PLANS)
def test_save_prints_what_was_rendered(name, variant):
    for family, script in scripts(IPTABLES.text(IPTABLES.compile(PLANS[name]).program)).items():
        wanted = by_chain(script)
        assert len(wanted) > 15
        assert by_chain(loaded(script, variant, family)) == wanted


def test_the_large_plan_has_branches_of_every_kind():
    text = IPTABLES.text(IPTABLES.compile(PLANS["large"]).program)
    names = {line.split("-")[1] for line in text.splitlines() if line.startswith(":KUBE-")}
    assert names >= {"IP", "EIP", "FIP", "SIP", "PORT", "EPORT", "SVC", "SVL", "EXT", "FW", "SEP"}


@pytest.mark.parametrize("variant", Variant)
@pytest.mark.parametrize("need", [each for each in REQUIREMENTS if each.restore], ids=lambda need: need.name)
def test_what_is_tried_of_a_requirement_is_taken(need, variant):
    for family, script in scripts(need.restore).items():
        assert " ".join(need.name.split()[2:3]) in loaded(script, variant, family)
