"""What somebody else does to our rules is repaired at once and named; what others do to theirs costs nothing."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass

import pytest
from node_of_agent import SECONDS, service

from netplane.agent.control import ask
from netplane.backends.registry import BACKENDS

pytestmark = pytest.mark.kernel

ONLY_EVENTS = ("--at-most", "3600")
"""No comparison will come of itself."""


@dataclass(frozen=True)
class Damage:
    """What somebody does, with which mechanism it is repaired, and a word of what the repair is called."""

    command: str
    mechanism: str
    named: str


DAMAGES = {
    "nftables": [
        Damage("nft delete table ip netplane", "nftables", "add table ip netplane"),
        Damage("nft flush ruleset", "nftables", "netplane"),
        Damage("nft flush table ip6 netplane", "nftables", "ip6 netplane"),
        Damage("nft delete element ip netplane endpoints { 10.244.1.5 . tcp . 8080 }", "nftables", "10.244.1.5"),
        Damage("nft add element ip netplane endpoints { 10.9.9.9 . tcp . 8080 }", "nftables", "10.9.9.9"),
        Damage("nft add chain ip netplane theirs", "nftables", "theirs"),
    ],
    "iptables": [
        Damage("iptables -t nat -F KUBE-SERVICES", "iptables", "KUBE-SERVICES"),
        Damage("iptables -t nat -F PREROUTING", "iptables", "PREROUTING"),
        Damage("iptables -t nat -I KUBE-SERVICES -j RETURN", "iptables", "KUBE-SERVICES"),
        Damage("iptables -t nat -N KUBE-SVC-AAAAAAAAAAAAAAAA", "iptables", "KUBE-SVC-AAAAAAAAAAAAAAAA"),
        Damage("ip6tables -t filter -F KUBE-SERVICES", "iptables", "KUBE-SERVICES"),
        Damage("nft flush ruleset", "iptables", "KUBE-SERVICES"),
    ],
}
EACH = [
    pytest.param(name, damage, id=f"{name}: {damage.command}") for name in sorted(BACKENDS) for damage in DAMAGES[name]
]
every_backend = pytest.mark.parametrize("backend", sorted(BACKENDS))

FOREIGN = [
    "nft add table ip other",
    "nft add chain ip other c",
    "nft add rule ip other c counter",
    "nft flush table ip other",
    "nft add table inet netplane",
    "nft delete table inet netplane",
    "nft delete table ip other",
]


@pytest.fixture
def web(node):
    """A node with Service web: 10.96.0.1 and one endpoint, 10.244.1.5, which is refused to nobody."""
    node.write("web", service("web", 1, "10.244.1.5@n1"))
    return node


def run(node, command: str, *, check: bool = True) -> None:
    node.namespace.run(lambda: subprocess.run(command.split(), check=check, capture_output=True, timeout=SECONDS))


def differs(node, backend: str) -> list[str]:
    """What an apply by somebody without memory would change now."""
    words = ("backend", "diff", backend, "--from", str(node.folder), "--node", "n1", "--output", "json")
    done = node.namespace.run(
        lambda: subprocess.run(
            (sys.executable, "-m", "netplane", *words), check=False, capture_output=True, text=True, timeout=SECONDS
        )
    )
    assert done.returncode in (0, 1), done
    return [line for each in json.loads(done.stdout) for line in each["lines"]]


def status(node) -> dict:
    return ask(node.run_dir, {"ask": "status"}, SECONDS)


# --- ours -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("backend", "damage"), EACH)
def test_what_somebody_does_to_our_rules_is_repaired_at_once_and_named(web, backend, damage):
    with web.agent("--backend", backend, *ONLY_EVENTS) as agent:
        agent.next("ready")
        run(web, damage.command)
        said = agent.next("drift repaired")
        assert differs(web, backend) == []
        found = status(web)["drift"]
    assert said["level"] == "WARNING"
    assert said["mechanism"] == damage.mechanism
    assert said["count"] > 0
    assert said["by"].split("[")[0] in damage.command or said["by"].startswith(("iptables", "xtables", "ip6tables"))
    assert found["times"] == 1
    (repair,) = found["last"]
    assert repair["by"] == said["by"]
    assert repair["count"] == said["count"]
    assert any(damage.named in line for line in repair["named"])


@every_backend
def test_damage_again_and_again_is_repaired_again_and_again_but_not_more_than_once_a_second(web, backend):
    damage = DAMAGES[backend][0]
    with web.agent("--backend", backend, *ONLY_EVENTS) as agent:
        agent.next("ready")
        started = time.monotonic()
        for _ in range(3):
            run(web, damage.command)
            agent.next("drift repaired")
        assert agent.count("drift repaired") <= time.monotonic() - started + 1
        assert differs(web, backend) == []


@every_backend
def test_damage_while_the_agent_applies_something_else_is_not_overlooked(web, backend):
    damage = DAMAGES[backend][0]
    with web.agent("--backend", backend, "--at-least", "0.001", *ONLY_EVENTS) as agent:
        agent.next("ready")
        for number in range(30):
            web.write("api", service("api", 2, f"10.244.1.{number + 10}@n1"))
            run(web, damage.command, check=False)  # there may be nothing left to damage
        deadline = time.monotonic() + SECONDS
        while differs(web, backend):
            assert time.monotonic() < deadline


@pytest.mark.skipif("iptables" not in BACKENDS, reason="there is no backend iptables")
@pytest.mark.skipif(shutil.which("iptables-legacy") is None, reason="iptables-legacy is missing")
def test_of_the_legacy_variant_the_kernel_tells_nothing_and_it_is_repaired_all_the_same(web, tmp_path, monkeypatch):
    monkeypatch.setenv("XTABLES_LOCKFILE", str(tmp_path / "lock"))
    run(web, "iptables-legacy -t nat -N SOMEBODY")
    run(web, "iptables-legacy -t nat -A OUTPUT -j SOMEBODY")
    with web.agent("--backend", "iptables", *ONLY_EVENTS) as agent:
        agent.next("ready")
        for damage in ("-t nat -F KUBE-SERVICES", "-t nat -F", "-t filter -D INPUT 1"):
            run(web, f"iptables-legacy {damage}")
            said = agent.next("drift repaired")
            assert (said["mechanism"], said["by"]) == ("iptables", "unknown")
        deadline = time.monotonic() + SECONDS
        while differs(web, "iptables"):
            assert time.monotonic() < deadline
        compared = status(web)["lastCompare"]
        for number in range(3):
            web.write("api", service("api", 2, f"10.244.1.{number + 10}@n1"))
            agent.next("reconciled")
        assert status(web)["lastCompare"] == compared


def test_damage_hidden_in_a_flood_is_repaired(web, tmp_path):
    """More than the kernel keeps for us: what was lost might have been ours."""
    flood = tmp_path / "flood.nft"
    chains = "".join(f"add chain ip other c{number}\n" for number in range(30_000))
    flood.write_text(f"delete table ip netplane\nadd table ip other\n{chains}")
    with web.agent(*ONLY_EVENTS) as agent:
        agent.next("ready")
        run(web, f"nft -f {flood}")
        assert agent.next("drift repaired")["mechanism"] == "nftables"
        assert differs(web, "nftables") == []


def test_without_events_the_slow_comparison_finds_it(web):
    """An owner's tables cannot be told apart while rounds are deaf; the clock is the last net."""
    with web.agent("--at-most", "0.3") as agent:
        agent.next("ready")
        run(web, "nft delete table ip netplane")
        agent.next("drift repaired")
        assert differs(web, "nftables") == []


def test_what_stood_in_the_way_is_noticed_when_it_goes(web):
    with web.agent(*ONLY_EVENTS) as agent:
        agent.next("ready")
        web.kernel.nft("delete table ip netplane; add table ip netplane { chain theirs { accept; }; }")
        failed = agent.next("cannot reconcile; the last good state stays and is tried again")
        assert "is not ours" in failed["why"]
        assert agent.is_quiet(3.7)  # retries after 0.5, 1 and 2 s have failed, the next is 4 s after the last
        started = time.monotonic()
        web.kernel.nft("delete", "table", "ip", "netplane")
        agent.next("recovered")
        assert time.monotonic() - started < 2
        assert differs(web, "nftables") == []


# --- not ours -------------------------------------------------------------------------------------------------------


@every_backend
def test_what_others_do_to_their_tables_wakes_nobody(web, backend):
    with web.agent("--backend", backend, *ONLY_EVENTS) as agent:
        agent.next("ready")
        compared = status(web)["lastCompare"]
        for _ in range(5):
            for command in FOREIGN:
                run(web, command)
        web.write("api", service("api", 2, "10.244.1.7@n1"))
        agent.next("reconciled")
        found = status(web)
        assert found["lastCompare"] == compared
        assert found["drift"]["times"] == 0


@every_backend
def test_what_the_agent_does_itself_wakes_nobody(web, backend):
    with web.agent("--backend", backend, *ONLY_EVENTS) as agent:
        agent.next("ready")
        compared = status(web)["lastCompare"]
        for number in range(5):
            web.write("api", service("api", 2, f"10.244.1.{number + 10}@n1"))
            agent.next("reconciled")
        found = status(web)
        assert found["lastRound"]["at"] > compared["at"]
        assert found["lastCompare"] == compared
        assert found["drift"]["times"] == 0
