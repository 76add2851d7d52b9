"""All Nodes compared: who keeps what two of them claim (docs/decisions/0029).

Each node keeps what it has itself; of all others the one whose name sorts first keeps what two claim. Cost follows
the change: the claim of a Node that is the same object is kept, and so is all that follows from equal claims.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from netplane.errors import Problem
from netplane.model.address import IPNetwork
from netplane.model.node import Node
from netplane.model.table import changes
from netplane.plan.network_claims import Claim, Mark, Rules, Thing, claim_of
from netplane.plan.network_spans import merged, span_of


@dataclass(frozen=True, slots=True)
class Lost:
    """What a node does not have because another has a better claim: `key_of`, `mac_of` name that other node."""

    things: frozenset[Thing] = frozenset()
    key_of: str = ""
    mac_of: str = ""
    problems: tuple[Problem, ...] = ()


NOTHING_LOST = Lost()


@dataclass(frozen=True, slots=True)
class Survey:
    """All claims compared, for the node `own` with the public key `key`.

    `line` is sorted; `lost` has only nodes that lost something. `confined` and `keeps_source` are those of the plan.
    """

    own: str
    key: str
    rules: Rules
    nodes: Mapping[str, Node] = field(default_factory=dict)
    claims: Mapping[str, Claim] = field(default_factory=dict)
    line: tuple[Mark, ...] = ()
    lost: Mapping[str, Lost] = field(default_factory=dict)
    confined: tuple[IPNetwork, ...] = ()
    keeps_source: tuple[IPNetwork, ...] = ()

    def lost_by(self, node: str) -> Lost:
        """What that node lost."""
        return self.lost.get(node, NOTHING_LOST)


def survey(nodes: Mapping[str, Node], own: str, key: str, rules: Rules, before: Survey | None) -> Survey:
    """Compare what all `nodes` say. `before` saves work and never changes the result."""
    if before is None or (before.own, before.key, before.rules) != (own, key, rules):
        before = Survey(own, key, rules)
    changed, gone = changes(before.nodes, nodes)
    if not changed and not gone:
        return before
    fresh = {name: claim_of(name, nodes[name], rules, own=name == own) for name in changed}
    claims = {**before.claims, **fresh}
    for name in gone:
        del claims[name]
    moved = set(gone).union(
        name for name, claim in fresh.items() if name not in before.claims or before.claims[name].said() != claim.said()
    )
    if not moved:
        return replace(before, nodes=nodes, claims=claims)
    line = [mark for mark in before.line if mark[2] not in moved]
    line += (mark for name in moved if name in fresh for mark in fresh[name].line)
    line.sort()  # nearly sorted already, which is cheap
    return _compared(replace(before, nodes=nodes, claims=claims, line=tuple(line)))


def _compared(made: Survey) -> Survey:
    """`made` with all that follows from its line and claims."""
    drafts: dict[str, Lost] = {}
    lost, unconfined = set[int](), set[int]()  # by identity: the hash of an address takes long
    for group in _overlapping(made.line):
        for loser, winner in _settled(group, made.own):
            old = drafts.get(loser[2], NOTHING_LOST)
            told = Problem(
                "", f"Node {loser[2]}: {made.claims[loser[2]].field_of(loser[4])}", _why(loser, winner, made.own)
            )
            drafts[loser[2]] = replace(old, things=old.things | {loser[4]}, problems=(*old.problems, told))
            if loser[3] and not winner[3]:
                unconfined.add(id(loser))  # who knows what else is beside that address
            lost.add(id(loser))
    for loser_name, winner_name in _same(
        ((claim.key, claim.name) for claim in made.claims.values()), made.own, made.key
    ):
        drafts[loser_name] = replace(drafts.get(loser_name, NOTHING_LOST), key_of=winner_name)
    for loser_name, winner_name in _same(((claim.mac, claim.name) for claim in made.claims.values()), made.own):
        drafts[loser_name] = replace(drafts.get(loser_name, NOTHING_LOST), mac_of=winner_name)
    ranges = [mark[:2] for mark in made.line if mark[3] and id(mark) not in unconfined]
    ranges += map(span_of, made.rules.cluster)
    # An address of a node inside the cluster ranges has its Problem; to confine it would cut the node off.
    confined = merged(ranges, [mark[0] for mark in made.line if not mark[3] and id(mark) not in lost])
    nodes = [mark[:2] for mark in made.line if not mark[3]]
    more = map(span_of, (*made.rules.services, *made.rules.keeps_source))
    keeps_source = merged((*ranges, *nodes, *more))
    return replace(made, lost=drafts, confined=confined, keeps_source=keeps_source)


def _overlapping(line: Sequence[Mark]) -> Iterator[Sequence[Mark]]:
    """The groups of marks that hang together by overlaps, of two or more."""
    start, reach = 0, -1
    for place, mark in enumerate(line):
        if mark[0] > reach:
            if place - start > 1:
                yield line[start:place]
            start, reach = place, mark[1]
        elif mark[1] > reach:
            reach = mark[1]
    if len(line) - start > 1:
        yield line[start:]


def _settled(group: Iterable[Mark], own: str) -> Iterator[tuple[Mark, Mark]]:
    """Who loses to whom: the best claim first, each keeps what no better claim has kept."""
    firsts, kept = list[int](), list[Mark]()  # of kept marks no two overlap
    for mark in sorted(group, key=lambda mark: (mark[2] != own, mark[2], mark[0])):
        place = bisect_right(firsts, mark[0])
        if place and kept[place - 1][1] >= mark[0]:
            yield mark, kept[place - 1]
        elif place < len(kept) and firsts[place] <= mark[1]:
            yield mark, kept[place]
        else:
            firsts.insert(place, mark[0])
            kept.insert(place, mark)


def _why(loser: Mark, winner: Mark, own: str) -> str:
    """What to tell about a mark that another node keeps."""
    verb = "is" if loser[4] == winner[4] else "overlaps" if loser[3] else "is inside"
    what = f"{loser[4]} {verb} {'that' if verb == 'is' else winner[4]} of Node {winner[2]}"
    if winner[2] == own and loser[2] < own:
        return f"{what}, which keeps it on itself, while other nodes send to {loser[2]}; give one of them another"
    return f"{what}, which keeps it; give one of them another"


def _same(pairs: Iterable[tuple[str | bytes, str]], own: str, owned: str = "") -> Iterator[tuple[str, str]]:
    """Names that share a value with a better one, and that one. Empty is nobody's, `owned` is the own node's."""
    listed = [(value, name) for value, name in pairs if value]
    if len({value for value, _ in listed}) == len(listed) and owned not in {value for value, _ in listed}:
        return
    keepers: dict[str | bytes, str] = {owned: own} if owned else {}
    for value, name in sorted(listed, key=lambda pair: (pair[1] != own, pair[1])):
        keeper = keepers.setdefault(value, name)
        if keeper != name:
            yield name, keeper
