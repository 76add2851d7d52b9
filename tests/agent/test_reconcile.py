"""One round after another with the real kernel in a namespace: what it reports, keeps and repairs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
from builders import LOCAL, exposed, node, port, service, slices, snapshot, up
from node_of_agent import Kernel

from netplane.agent.reconcile import Reconciler, Round
from netplane.backends.backend import Backend
from netplane.backends.registry import BACKENDS
from netplane.errors import InputError, OwnershipError
from netplane.kernel import nft_codec
from netplane.kernel.host import Host
from netplane.kernel.netlink import NETFILTER, NetlinkSocket
from netplane.kernel.netns import Namespace
from netplane.kernel.nftables import _found_chains
from netplane.model.address import Family
from netplane.model.snapshot import Snapshot
from netplane.plan.settings import Settings
from netplane.programs.nftables import TABLE

pytestmark = pytest.mark.kernel

OTHER_IPS = ("10.96.0.11", "fd00:96::11")
WEB = service("web")
WEB_SLICES = slices(WEB, up("10.244.1.5", "n1"), up("fd00:244:1::5", "n1"))
API = service("api", ips=OTHER_IPS)
API_SLICES = slices(API, up("10.244.1.7", "n1"))


@dataclass(frozen=True)
class Rounds:
    """A reconciler of node n1 and the kernel it works on. What it does is done in the namespace."""

    kernel: Kernel
    namespace: Namespace
    reconciler: Reconciler

    def __call__(self, *objects: Any, whole: bool = False, sweep: bool = True) -> Round:
        return self.of(snapshot(*objects), whole=whole, sweep=sweep)

    def of(self, wanted: Snapshot, *, whole: bool = False, sweep: bool = True) -> Round:
        return self.namespace.run(lambda: self.reconciler.reconcile(wanted, whole=whole, sweep=sweep))

    def run(self, work: Callable[[], Any]) -> Any:
        return self.namespace.run(work)


of_nftables = pytest.mark.parametrize("backend", ["nftables"], indirect=True)


@pytest.fixture(params=sorted(BACKENDS))
def backend(request) -> Backend:
    return BACKENDS[request.param]


@pytest.fixture
def rounds(backend) -> Iterator[Rounds]:
    with Namespace() as namespace, Kernel(namespace) as kernel, namespace.run(Host) as host:
        yield Rounds(kernel, namespace, Reconciler("n1", Settings(), backend, host))


# --- what a round reports -------------------------------------------------------------------------------------------


def test_the_first_round_makes_everything(rounds):
    done = rounds(WEB, WEB_SLICES, API, API_SLICES, whole=True)
    assert done.services == 2
    assert done.summary.made > 0
    assert done.summary.swept == 0
    assert done.seconds > 0
    assert rounds.kernel.endpoints() == {"10.244.1.5", "fd00:244:1::5", "10.244.1.7"}


@pytest.mark.parametrize("whole", [False, True])
def test_a_second_round_of_the_same_does_nothing(rounds, whole):
    same = snapshot(WEB, WEB_SLICES)
    rounds.of(same, whole=True)
    before = rounds.kernel.rules()
    done = rounds.of(same, whole=whole)
    assert (done.services, done.summary.made, done.summary.swept, done.summary.changed) == (0, 0, 0, False)
    assert rounds.kernel.rules() == before


def test_only_the_service_that_changed_is_planned_again(rounds):
    before = snapshot(WEB, WEB_SLICES, API, API_SLICES)
    rounds.of(before, whole=True)
    moved = tuple(slices(API, up("10.244.1.8", "n1")))
    done = rounds.of(replace(before, slices={**before.slices, API.id: moved}))
    assert done.services == 1
    assert rounds.kernel.endpoints() == {"10.244.1.5", "fd00:244:1::5", "10.244.1.8"}
    assert done.summary.made < 10
    assert done.summary.swept < 10


def test_the_way_to_a_state_leaves_no_trace(rounds, backend):
    rounds(WEB, WEB_SLICES, whole=True)
    rounds(WEB, WEB_SLICES, exposed("api", ips=OTHER_IPS, seconds=60, ranges=["198.51.100.0/24"]), API_SLICES)
    rounds(API, API_SLICES)
    rounds(WEB, slices(WEB, up("10.244.1.9", "n1")), API)
    rounds(WEB, WEB_SLICES)
    wanted = rounds.run(lambda: _fresh(backend, snapshot(WEB, WEB_SLICES)))
    assert wanted.made == wanted.swept == 0


def test_a_service_that_goes_is_swept(rounds):
    rounds(WEB, WEB_SLICES, API, API_SLICES, whole=True)
    done = rounds(WEB, WEB_SLICES)
    assert done.summary.swept > 0
    assert rounds.kernel.cluster_ips() == {"10.96.0.10", "fd00:96::10"}


# --- problems and health checks -------------------------------------------------------------------------------------


def test_problems_of_a_service_appear_and_disappear_with_it(rounds):
    late = service("web-too")
    rounds(WEB, WEB_SLICES, whole=True)
    assert rounds.reconciler.problems() == ()
    rounds(WEB, WEB_SLICES, late)
    assert {each.what.split(":")[0] for each in rounds.reconciler.problems()} == {"Service shop/web-too"}
    rounds(WEB, WEB_SLICES, service("web-too", ips=OTHER_IPS))
    assert rounds.reconciler.problems() == ()
    rounds(WEB, WEB_SLICES, late)
    assert rounds.reconciler.problems()
    rounds(WEB, WEB_SLICES)
    assert rounds.reconciler.problems() == ()


def test_a_failed_round_keeps_the_problems_and_the_plan_of_the_last_good_one(rounds):
    rounds(WEB, WEB_SLICES, service("web-too"), whole=True)
    plan, problems = rounds.reconciler.plan, rounds.reconciler.problems()
    with pytest.raises(InputError):
        rounds(WEB, WEB_SLICES, node("n2"))
    assert rounds.reconciler.plan is plan
    assert rounds.reconciler.problems() == problems


def test_before_the_first_round_there_is_no_plan(rounds):
    assert rounds.reconciler.plan is None
    assert rounds.reconciler.problems() == ()
    assert rounds.reconciler.health_checks() == []


def test_health_checks_are_those_of_the_last_round_with_the_endpoints_that_are_here(rounds):
    def local(*endpoints):
        made = exposed("web", ports=(port(node_port=30080),), external=LOCAL, health_check_node_port=32000)
        return made, slices(made, *endpoints)

    def said():
        return {(check.family, check.port, check.local_ready) for check in rounds.reconciler.health_checks()}

    both = up("10.244.1.5", "n1"), up("10.244.1.6", "n1"), up("10.244.2.6", "n2"), up("fd00:244:2::6", "n2")
    rounds(*local(*both), whole=True)
    assert said() == {(Family.IPV4, 32000, 2), (Family.IPV6, 32000, 0)}
    rounds(*local(*both[1:]))
    assert said() == {(Family.IPV4, 32000, 1), (Family.IPV6, 32000, 0)}
    rounds(WEB, WEB_SLICES)
    assert said() == set()


# --- without sweeping -----------------------------------------------------------------------------------------------


def test_without_sweep_new_things_are_made_and_old_ones_stay(rounds):
    rounds(WEB, WEB_SLICES, whole=True)
    done = rounds(API, API_SLICES, sweep=False)
    assert done.summary.made > 0
    assert done.summary.swept == 0
    assert rounds.kernel.cluster_ips() == {"10.96.0.10", "fd00:96::10", *OTHER_IPS}
    assert rounds.kernel.endpoints() == {"10.244.1.5", "fd00:244:1::5", "10.244.1.7"}


def test_the_next_round_that_sweeps_removes_what_stayed(rounds):
    rounds(WEB, WEB_SLICES, whole=True)
    only_api = snapshot(API, API_SLICES)
    rounds.of(only_api, sweep=False)
    done = rounds.of(only_api)
    assert done.summary.swept > 0
    assert rounds.kernel.endpoints() == {"10.244.1.7"}


# --- obstacles ------------------------------------------------------------------------------------------------------


@of_nftables
def test_a_foreign_table_is_left_alone_and_the_round_after_it_is_gone_converges(rounds):
    rounds(WEB, WEB_SLICES, whole=True)
    rounds.kernel.nft("delete table ip netplane; add table ip netplane { chain theirs { accept; }; }")
    before = rounds.kernel.rules()
    for _ in range(2):
        with pytest.raises(OwnershipError, match="table ip netplane is not ours"):
            rounds(API, API_SLICES, whole=True)
    assert rounds.kernel.rules() == before
    rounds.kernel.nft("delete", "table", "ip", "netplane")
    rounds(API, API_SLICES, whole=True)
    assert rounds.kernel.endpoints() == {"10.244.1.7"}
    assert rounds.kernel.cluster_ips() == {*OTHER_IPS}


@of_nftables
def test_a_round_that_failed_is_followed_by_one_that_reads_the_kernel_even_if_nobody_asks_it_to(rounds):
    rounds(WEB, WEB_SLICES, whole=True)
    rounds.kernel.nft("delete table ip netplane; add table ip netplane { chain theirs { accept; }; }")
    with pytest.raises(OwnershipError):
        rounds(WEB, WEB_SLICES, whole=True)
    rounds.kernel.nft("delete", "table", "ip", "netplane")
    rounds(WEB, WEB_SLICES, whole=False)
    assert rounds.kernel.endpoints() == {"10.244.1.5", "fd00:244:1::5"}


@of_nftables
def test_a_whole_round_repairs_what_somebody_else_changed(rounds):
    same = snapshot(WEB, WEB_SLICES)
    rounds.of(same, whole=True)
    rounds.kernel.nft("delete element ip netplane endpoints { 10.244.1.5 . tcp . 8080 }")
    rounds.kernel.nft("add element ip netplane endpoints { 10.9.9.9 . tcp . 8080 }")
    done = rounds.of(same, whole=True)
    assert (done.services, done.summary.made, done.summary.swept) == (0, 1, 1)
    assert rounds.kernel.endpoints() == {"10.244.1.5", "fd00:244:1::5"}


def test_an_unknown_node_is_refused_before_anything_is_touched(rounds, backend):
    def stranger() -> None:
        with Host() as host:
            Reconciler("n7", Settings(), backend, host).reconcile(snapshot(WEB), whole=True, sweep=True)

    with pytest.raises(InputError, match="Node n7: not found"):
        rounds.run(stranger)
    assert rounds.kernel.rules() == ""


@of_nftables
def test_a_chain_that_comes_while_the_kernel_is_read_is_no_surprise(rounds):
    """Somebody else at work on our tables (another agent, `backend apply`) must not end the one that reads."""
    rounds(WEB, WEB_SLICES, whole=True)
    with rounds.run(lambda: NetlinkSocket(NETFILTER, "nftables")) as kernel:
        chains = kernel.dump(nft_codec.get_chains(Family.IPV4), "read chains")
        rounds.kernel.nft("add chain ip netplane new; add rule ip netplane new accept")
        rules = kernel.dump(nft_codec.get_rules(Family.IPV4), "read rules")
    assert "new" not in _found_chains(TABLE, chains, rules)


def _fresh(backend: Backend, wanted: Snapshot):
    """What somebody without memory would still do."""
    with Host() as host:
        return Reconciler("n1", Settings(), backend, host).reconcile(wanted, whole=True, sweep=True).summary
