"""A plan as iptables chains."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from netplane.backends.backend import Compiled, Deviation, Requirement
from netplane.backends.iptables.layout import Here, frames, roots
from netplane.backends.iptables.needs import DEVIATIONS, REQUIREMENTS
from netplane.backends.iptables.services import Root, ServiceChains, entries, source_entry, sources
from netplane.model.service import ServiceId
from netplane.model.table import changes, derived
from netplane.plan.plan import Plan, ServicePlan
from netplane.programs.iptables import IptablesProgram, Part, Source, TableKey
from netplane.programs.iptables_text import program_script
from netplane.programs.iptables_tree import Key, Rules, Tree
from netplane.programs.program import Program


@dataclass(frozen=True, slots=True)
class IptablesBackend:
    """kube-proxy's chains, found through trees instead of lists."""

    name: str = "iptables"
    needs: tuple[Requirement, ...] = REQUIREMENTS
    deviations: tuple[Deviation, ...] = DEVIATIONS

    def compile(self, plan: Plan, since: Compiled | None = None) -> Compiled:
        """The program for `plan`; chains and trees of Services that did not change are taken from `since`."""
        here = Here(plan.node, plan.settings)
        old, planned = _reusable(plan, since)
        changed, removed = changes(planned, plan.services)
        draft = _Draft(here, old.sources)
        for service in (*changed, *removed):
            draft.replace(planned.get(service), plan.services.get(service))
        trees = old.trees or roots(plan.families, here)
        fresh: dict[ServiceId, Part] = {each: ServiceChains(plan.services[each], here) for each in changed}
        program = IptablesProgram(
            frames=frames(plan.families, here),
            trees=draft.trees(trees),
            parts=derived(old.parts, fresh, removed),
            sources=draft.counted(),
        )
        return Compiled(plan, Program(iptables=program))

    def text(self, program: Program) -> str:
        """The program as scripts for `iptables-restore` and `ip6tables-restore`, each under its heading."""
        return program_script(program.iptables)


def _reusable(plan: Plan, since: Compiled | None) -> tuple[IptablesProgram, Mapping[ServiceId, ServicePlan]]:
    """What may be taken from `since`: all of it, or nothing if the node, a setting or a family is another."""
    if since is not None and since.program.iptables.frames:
        before = since.plan
        if (before.node, before.settings, before.families) == (plan.node, plan.settings, plan.families):
            return since.program.iptables, before.services
    return IptablesProgram(), {}


@dataclass(slots=True)
class _Draft:
    """What is to change in the trees."""

    here: Here
    known: Mapping[Source, int]
    put: dict[Root, dict[Key, Rules]] = field(default_factory=dict)
    drop: dict[Root, dict[Key, None]] = field(default_factory=dict)
    uses: Counter[Source] = field(default_factory=Counter)

    def replace(self, old: ServicePlan | None, new: ServicePlan | None) -> None:
        """One Service instead of another; None is no Service."""
        before = entries(old, self.here) if old else {}
        after = entries(new, self.here) if new else {}
        for root in {**before, **after}:
            was, now = before.get(root, {}), after.get(root, {})
            self.put.setdefault(root, {}).update((key, rules) for key, rules in now.items() if was.get(key) != rules)
            self.drop.setdefault(root, {}).update((key, None) for key in was if key not in now)
        if self.here.settings.drop_invalid:
            self.uses.subtract(sources(old) if old else ())
            self.uses.update(sources(new) if new else ())

    def counted(self) -> Mapping[Source, int]:
        """How many Services have each source now."""
        now = {source: self.known.get(source, 0) + more for source, more in self.uses.items() if more}
        gone = [source for source, count in now.items() if not count]
        return derived(self.known, {source: count for source, count in now.items() if count}, gone)

    def trees(self, old: Mapping[TableKey, tuple[Tree, ...]]) -> Mapping[TableKey, tuple[Tree, ...]]:
        """The trees as they are now; those in which nothing changes are the same objects."""
        self._draft_sources()
        return {key: self._each(key, trees) for key, trees in old.items()}

    def _draft_sources(self) -> None:
        for source, more in self.uses.items():
            before = self.known.get(source, 0)
            root, key, rules = source_entry(source)
            if before and not before + more:
                self.drop.setdefault(root, {})[key] = None
            elif more and not before:
                self.put.setdefault(root, {})[key] = rules

    def _each(self, key: TableKey, trees: Iterable[Tree]) -> tuple[Tree, ...]:
        return tuple(self._derived((key, tree.root), tree) for tree in trees)

    def _derived(self, root: Root, tree: Tree) -> Tree:
        put, drop = self.put.get(root, {}), self.drop.get(root, {})
        return tree.derive(put, drop) if put or drop else tree


IPTABLES = IptablesBackend()
