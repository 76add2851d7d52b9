"""Checks of the other nodes: who answers, and who only does so beside the overlay."""

from __future__ import annotations

from collections.abc import Iterator

from cni.doctor.finding import Finding, error, ok, warning
from netplane.doctor.reach import tells
from netplane.doctor.view import View
from netplane.kernel import echo
from netplane.plan.network_plan import PeerPlan, Way

_SECONDS = 1.0
_SHOWN = 5


def silent(view: View) -> Iterator[Finding]:
    """Whether every other node answers an echo request that goes as packets to its Pods go."""
    if view.plan is None:
        yield ok("without --from, --node and --network no other node is known")
        return
    peers = [each for each in view.plan.peers.values() if each.way is not Way.NONE]
    answered = echo.ask({to for peer in peers for to in (*tells(peer), *peer.addresses)}, _SECONDS)
    lost = [peer for peer in peers if not any(to in answered for to in peer.addresses)]
    cut = [peer for peer in peers if peer not in lost and not all(to in answered for to in tells(peer))]
    if cut:
        yield error(
            f"these nodes answer, and not through {cut[0].link or 'the way of their Pods'}: {_names(cut)}",
            "their Pods are not reached: the overlay's UDP port is blocked, or netplane does not run there",
            f"netplane node explain {cut[0].node} --from … --node {view.plan.node} --network …",
        )
    if lost:
        yield warning(
            f"these nodes do not answer echo requests: {_names(lost)}",
            "they are down or cut off, or somebody drops ICMP",
            f"ping {lost[0].addresses[0]}; netplane node explain {lost[0].node} …",
        )
    without = [each for each in view.plan.peers.values() if each.way is Way.NONE]
    if without:
        yield error(
            f"there is no way to these nodes: {_names(without)}",
            "packets to their Pods are refused",
            "mend their Node objects, or the settings: the problems on standard error say what",
        )
    if not cut and not lost and not without:
        yield ok(f"all {len(peers)} other nodes answer the way their Pods are reached")


def _names(peers: list[PeerPlan]) -> str:
    more = f" and {len(peers) - _SHOWN} more" if len(peers) > _SHOWN else ""
    return ", ".join(each.node for each in peers[:_SHOWN]) + more
