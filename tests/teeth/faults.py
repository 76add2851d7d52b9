"""The planted faults as data: one wrong piece of code each, and the part of the suite that must catch it.

`old` must stand exactly once in the module's file. Where it does not any more, planting is an error: whoever rewrites
the code says what the same mistake looks like now.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
EVERY = "{backend}"
"""Stands in a suspect for each backend there is; naming them here would load their code before it is spoiled."""


@dataclass(frozen=True, slots=True)
class Fault:
    """`old` of `module` becomes `new`; the tests in `suspects` (arguments of pytest) must see it."""

    module: str
    old: str
    new: str
    suspects: tuple[str, ...]

    @property
    def path(self) -> Path:
        """The file of the module."""
        return ROOT / f"{self.module.replace('.', '/')}.py"

    @property
    def line(self) -> int:
        """Where the fault is planted, as a line of that file. Raises ValueError if it cannot be."""
        text = self.path.read_text()
        self.spoil(text)
        return text[: text.index(self.old)].count("\n") + 1

    def spoil(self, text: str) -> str:
        """The module's text with the fault. Raises ValueError if the right piece is not there exactly once."""
        if (found := text.count(self.old)) != 1:
            raise ValueError(f"{self.path}: {found} times instead of once: {self.old!r}")
        return text.replace(self.old, self.new)


def _case(name: str, *backends: str) -> tuple[str, ...]:
    """Real packets: this case, on these backends or on all."""
    test = "tests/lab/test_every_case.py::test_every_packet_does_what_the_case_says"
    return tuple(f"{test}[{name}-{backend}]" for backend in backends or (EVERY,))


def _agent(test: str) -> tuple[str, ...]:
    """The real process."""
    return (f"tests/agent/test_loop.py::test_{test}",)


_ORACLE = ("tests/cases_test/test_corpus.py", "-k", "oracle_answers")
_PLAN = ("tests/plan",)
_WALKED = ("tests/backends/nftables/test_against_the_oracle.py",)
_LAWS = ("tests/generated/test_laws.py", "tests/generated/test_churn.py")
_CHURN = (f"tests/churn/test_live.py::test_whatever_changes_the_kernel_follows_and_no_connection_suffers[{EVERY}]",)
_WALKS = ("tests/generated/test_kernel_walks.py",)
_ROUNDS = "tests/agent/test_reconcile.py"

_SERVICES, _ENDPOINTS = "netplane.plan.services", "netplane.plan.endpoints"
_LAYOUT, _SPELLED = "netplane.backends.nftables.layout", "netplane.backends.nftables.services"
_HOST = "netplane.kernel.host"

PLAN = {
    "no masquerade for outsiders": Fault(
        _SERVICES,
        "Verdicts.same(_to(pools.anywhere, pools, masquerade=True))",
        "Verdicts.same(_to(pools.anywhere, pools, masquerade=False))",
        _case("external-ip"),
    ),
    "everybody is masqueraded": Fault(
        _SERVICES,
        "pod=_to(pool, pools, masquerade=masquerade_all)",
        "pod=_to(pool, pools, masquerade=True)",
        _PLAN,
    ),
    "short circuit forgotten": Fault(
        _SERVICES,
        "pod=_to(pools.anywhere, pools, masquerade=False)",
        "pod=_to(pools.here, pools, masquerade=False)",
        _case("external-ip-local-elsewhere"),
    ),
    "policy Local uses all endpoints": Fault(
        _SERVICES,
        "outside=_to(pools.here, pools, masquerade=False)",
        "outside=_to(pools.anywhere, pools, masquerade=False)",
        _PLAN,
    ),
    "internal policy Local is ignored": Fault(
        _SERVICES,
        "pool = pools.anywhere if internal is Scope.CLUSTER else pools.here",
        "pool = pools.anywhere",
        _ORACLE,
    ),
    "reject for drop": Fault(
        _SERVICES, "return Drop() if pools.known else Reject()", "return Reject()", _case("internal-local-elsewhere")
    ),
    "drop for reject": Fault(
        _SERVICES, "return Drop() if pools.known else Reject()", "return Drop()", _case("no-endpoints")
    ),
    "source ranges of one family leave the other open": Fault(
        _SERVICES,
        "external if allowed or not ranges else Verdicts.same(Drop())",
        "external",
        _case("source-ranges-one-family"),
    ),
    "other family leaks into the pool": Fault(
        _ENDPOINTS, "if each.family is not family:", "if each.family is None:", ("tests/plan/test_endpoints.py",)
    ),
    "terminating endpoints are used beside ready ones": Fault(
        _ENDPOINTS, "anywhere=near or draining", "anywhere=near + draining", _case("terminating-here-ready-elsewhere")
    ),
    "hints of another zone": Fault(
        _ENDPOINTS,
        "if facts.zone in each.listed.zone_hints",
        "if facts.zone not in each.listed.zone_hints",
        _ORACLE,
    ),
    "hints are heeded though one endpoint has none": Fault(
        _ENDPOINTS,
        "if facts.zone and all(each.listed.zone_hints for each in ready):",
        "if facts.zone and any(each.listed.zone_hints for each in ready):",
        _PLAN,
    ),
    "the worse state of two slices counts": Fault(
        _ENDPOINTS, "_rank(listed) < _rank(other.listed)", "_rank(listed) > _rank(other.listed)", _PLAN
    ),
    "stale UDP flows are not named": Fault(
        "netplane.plan.stale",
        "serving is not None and flow.answers not in serving",
        "serving is None and flow.answers",
        _PLAN,
    ),
    "the oracle forgets the hairpin": Fault(
        "netplane.plan.oracle", "(masquerade or hairpin) and not arrives", "masquerade and not arrives", _ORACLE
    ),
    "the loser of an address is not planned again when the winner goes": Fault(
        "netplane.plan.node", "for service in contested - fresh.keys():", "for service in ():", _LAWS
    ),
    "an incremental plan keeps slices that are gone": Fault(
        "netplane.plan.node", "(*changed, *slices_changed, *slices_gone)", "(*changed, *slices_changed)", _LAWS
    ),
}

NFTABLES = {
    "nftables: nothing is masqueraded": Fault(
        _LAYOUT,
        "meta mark set meta mark | {MASQUERADE:#x}",
        "meta mark set meta mark | 0",
        _case("node-port", "nftables"),
    ),
    "nftables: the mark is not cleared": Fault(
        _LAYOUT,
        "!= 0 meta mark set meta mark ^ {MASQUERADE:#x} masquerade",
        "!= 0 masquerade",
        ("tests/lab/test_marks.py",),
    ),
    "nftables: the verdict comes before the source ranges": Fault(
        _LAYOUT,
        """\
            f"{words.frontend} @guarded {words.frontend} . {words.ip} saddr != @allowed drop",
            f"{words.frontend} vmap @from-{origin.value}",
""",
        """\
            f"{words.frontend} vmap @from-{origin.value}",
            f"{words.frontend} @guarded {words.frontend} . {words.ip} saddr != @allowed drop",
""",
        _case("source-ranges", "nftables"),
    ),
    "nftables: hairpin forgotten": Fault(
        _LAYOUT,
        '(marked, hairpin), Hook("nat", "postrouting"',
        '(marked,), Hook("nat", "postrouting"',
        _case("cluster-ip-hairpin", "nftables"),
    ),
    "nftables: hairpin only where the slice names the node": Fault(
        _SPELLED, "if endpoint.may_be_on(draft.node):", "if endpoint.node == draft.node:", _WALKED
    ),
    "nftables: one endpoint is never chosen": Fault(
        _LAYOUT, "numgen random mod {count} map", "numgen random mod {max(count - 1, 1)} map", _WALKED
    ),
    "nftables: 1/n for all": Fault(
        _SPELLED, 'f"numgen random mod {len(to) - index} 0 {goto}"', 'f"numgen random mod {len(to)} 0 {goto}"', _WALKED
    ),
    "nftables: refusing drops": Fault(_LAYOUT, 'Chain("refuse", ("reject",))', 'Chain("refuse", ("drop",))', _WALKED),
    "nftables: an undefined port of a cluster IP is let through": Fault(
        _LAYOUT,
        'f"{words.ip} daddr @cluster-ips goto refuse"',
        'f"{words.ip} daddr @cluster-ips accept"',
        _case("undefined-port", "nftables"),
    ),
    "nftables: node ports answer on loopback": Fault(
        _LAYOUT, "fib daddr type local {words.ip} daddr != {words.loopback}", "fib daddr type local", _WALKED
    ),
    "nftables: outsiders use the pods' slots": Fault(
        _SPELLED, 'slots.append((base + "-outside", outside.pool))', "slots.append((base, outside.pool))", _WALKED
    ),
    "nftables: affinity remembers the Service instead of the client": Fault(
        _SPELLED,
        'remember = f"update @{clients.name} {{ {WORDS[family].ip} saddr }}"',
        'remember = f"update @{clients.name} {{ {WORDS[family].ip} daddr }}"',
        ("tests/lab/test_affinity.py",),
    ),
    "nftables: affinity is never remembered": Fault(
        _SPELLED,
        'return Chain(name, (remember, f"meta l4proto {protocol} dnat to {endpoint}"))',
        'return Chain(name, (f"meta l4proto {protocol} dnat to {endpoint}",))',
        ("tests/lab/test_affinity.py",),
    ),
    "nftables: invalid packets of endpoints reach clients": Fault(
        _LAYOUT,
        "rules = (invalid,) if settings.drop_invalid",
        "rules = () if settings.drop_invalid",
        ("tests/lab/test_invalid.py",),
    ),
    "nftables: an incremental compile keeps the rows of a Service that is gone": Fault(
        "netplane.backends.nftables.compile", "derived(old.parts, fresh, removed)", "derived(old.parts, fresh)", _LAWS
    ),
    "nftables: an element whose data changed is left as it was": Fault(
        "netplane.programs.nftables_changes",
        "if key in have and have[key] != data}",
        "if key in have and have[key] is None}",
        _LAWS,
    ),
    "nftables: a shared element goes with its first Service": Fault(
        "netplane.programs.nftables_changes",
        "        for part in after:\n            self._count(part, 1)\n        have: MutableElements",
        "        have: MutableElements",
        _LAWS,
    ),
    "nftables: drift is not noticed": Fault(
        "netplane.kernel.nftables_mechanism",
        "if self._applied is None or (reread and self.disturbed()):",
        "if self._applied is None:",
        _WALKS,
    ),
    "nftables: a foreign table of our name is taken for ours": Fault(
        "netplane.kernel.nftables",
        "if comment != TABLE_COMMENT:",
        "if comment is ...:",
        ("tests/generated/test_kernel_laws.py", "-k", "foreign_table"),
    ),
}

NODE = {
    "sweep before make": Fault(
        _HOST,
        """\
            for each in pending:
                each.make()
            for each in reversed(pending if sweep else []):
                each.sweep()
""",
        """\
            for each in reversed(pending if sweep else []):
                each.sweep()
            for each in pending:
                each.make()
""",
        _CHURN,
    ),
    "memory is believed after a failure": Fault(
        _HOST,
        "        except BaseException:\n            self._forget()\n            raise",
        "        except BaseException:\n            raise",
        (f"{_ROUNDS}::test_a_round_that_failed_is_followed_by_one_that_reads_the_kernel_even_if_nobody_asks_it_to",),
    ),
    "sweep though the source is incomplete": Fault(
        "netplane.agent.work",
        "whole=whole, sweep=self.loaded.complete)",
        "whole=whole, sweep=True)",
        _agent("after_a_restart_with_a_broken_file_nothing_is_swept_until_it_is_corrected"),
    ),
    "a broken file means that its objects are gone": Fault(
        "netplane.sources.manifests",
        "if key not in decoded.objects and (decoded.unknown or key in decoded.refused)",
        "if key not in decoded.objects and key in decoded.refused",
        _agent("a_broken_file_leaves_the_kernel_as_it_is_until_it_is_corrected"),
    ),
    "a file renamed into place is not seen": Fault(
        "netplane.sources.watch",
        "_FILES = _flags.CLOSE_WRITE | _flags.MOVED_TO | _flags.CREATE",
        "_FILES = _flags.CLOSE_WRITE | _flags.CREATE",
        _agent("a_manifest_renamed_into_place_changes_the_kernel_and_one_line_says_so"),
    ),
    "the kernel is never compared as a whole": Fault(
        "netplane.agent.pace",
        "bool(self._failures) or now >= self._last_whole + self._limits.at_most",
        "bool(self._failures)",
        ("tests/agent/test_pace.py",),
    ),
}

FAULTS: dict[str, Fault] = {**PLAN, **NFTABLES, **NODE}
"""Every fault by what it does."""
