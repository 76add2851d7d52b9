"""Every proof of a Pod network, by name. To read what each promises, begin with `proof.py`."""

from __future__ import annotations

from collections.abc import Callable

from netplane.lab import proof_leaks, proof_packets, proof_streams
from netplane.lab.proof import Proving
from netplane.model.address import Family

Proof = Callable[[Proving, Family], list[str]]
"""What is wrong, in words; nothing means proved."""

PROOFS: dict[str, Proof] = {
    proof.__name__: proof
    for proof in (
        proof_packets.everybody_is_reached,
        proof_packets.nodes_reach_pods,
        proof_packets.outside_sees_nodes,
        proof_packets.sizes,
        proof_packets.hops,
        proof_packets.on_the_wire,
        proof_leaks.unknown_pods,
        proof_leaks.forged_senders,
        proof_leaks.no_pod_on_the_underlay,
        proof_streams.much_arrives,
    )
}


def prove(proving: Proving, family: Family) -> dict[str, list[str]]:
    """Try all of them; what is wrong, by the name of the proof. Raises KernelError if the lab itself is broken."""
    found = {name: proof(proving, family) for name, proof in PROOFS.items()}
    return {name: problems for name, problems in found.items() if problems}
