"""Faults of the iptables backend: rendering, differences, driver."""

from teeth.fault import Fault, case

_WALKED = ("tests/backends/iptables/test_iptables_oracle.py", "-k", "rules_do_what or remembered")
_LAWS = ("tests/backends/iptables/test_iptables_laws.py",)
_LAYOUT, _SPELLED = "netplane.backends.iptables.layout", "netplane.backends.iptables.services"
_WORDS, _CHANGES = "netplane.backends.iptables.words", "netplane.programs.iptables_changes"

IPTABLES = {
    "iptables: nothing is masqueraded": Fault(
        _LAYOUT, '"-j MASQUERADE --random-fully"', '"-j RETURN"', case("node-port", "iptables")
    ),
    "iptables: the mark is not cleared": Fault(
        _LAYOUT, "                _mark(_UNMARK),\n", "", ("tests/lab/test_marks.py", "-k", "iptables")
    ),
    "iptables: hairpin forgotten": Fault(
        _SPELLED,
        "if endpoint.may_be_on(self._here.facts.name):",
        "if endpoint.may_be_on('nowhere'):",
        case("cluster-ip-hairpin", "iptables"),
    ),
    "iptables: 1/n for all": Fault(
        _SPELLED, "probability(left) if left > 1", "probability(len(to)) if left > 1", _WALKED
    ),
    "iptables: outsiders are asked before pods": Fault(
        _SPELLED,
        "_ORIGINS = (Origin.NODE, Origin.POD, Origin.OUTSIDE)",
        "_ORIGINS = (Origin.OUTSIDE, Origin.POD, Origin.NODE)",
        _WALKED,
    ),
    "iptables: the verdict comes before the source ranges": Fault(
        _SPELLED,
        'return self._chain("FW" if row.allowed else "EXT")',
        'return self._chain("EXT")',
        case("source-ranges", "iptables"),
    ),
    "iptables: reject for drop": Fault(
        _SPELLED,
        '"DROP" if isinstance(verdict, Drop) else REFUSE',
        "REFUSE",
        case("internal-local-elsewhere", "iptables"),
    ),
    "iptables: drop for reject": Fault(
        _LAYOUT, 'f"-j REJECT --reject-with {UNREACHABLE[family]}"', '"-j DROP"', case("no-endpoints", "iptables")
    ),
    "iptables: an undefined port of a cluster IP is let through": Fault(
        _SPELLED,
        'rule(host("-d", address), comment(said), f"-j {REFUSE}")',
        'rule(host("-d", address), comment(said), "-j RETURN")',
        case("undefined-port", "iptables"),
    ),
    "iptables: node ports answer on loopback": Fault(
        _LAYOUT, 'rule(f"! -d {LOOPBACK[family]}", said, TO_HERE', "rule(said, TO_HERE", _WALKED
    ),
    "iptables: affinity remembers the Service instead of the client": Fault(
        _WORDS,
        '--set --name {chain} --mask {_WHOLE[family]} --rsource"',
        '--set --name {chain} --mask {_WHOLE[family]} --rdest"',
        ("tests/lab/test_affinity.py", "-k", "iptables"),
    ),
    "iptables: affinity is never remembered": Fault(
        _SPELLED,
        "seen = remember(endpoint_chain(self._port.id, endpoint), self._family) if pool.affinity else",
        "seen =",
        ("tests/lab/test_affinity.py", "-k", "iptables"),
    ),
    "iptables: invalid packets of endpoints reach clients": Fault(
        _LAYOUT,
        "drop_invalid = (invalid,) if here.settings.drop_invalid",
        "drop_invalid = () if here.settings.drop_invalid",
        ("tests/lab/test_invalid.py", "-k", "iptables"),
    ),
    "iptables: an incremental compile keeps the chains of a Service that is gone": Fault(
        "netplane.backends.iptables.compile", "derived(old.parts, fresh, removed)", "derived(old.parts, fresh)", _LAWS
    ),
    "iptables: a chain whose rules changed is left as it was": Fault(
        _CHANGES,
        "if have is not None and have == digest(rules):",
        "if have is not None:",
        ("tests/programs/test_iptables_changes.py",),
    ),
    "iptables: drift is not noticed": Fault(
        "netplane.kernel.iptables_mechanism",
        "if changes is None or not sweep or (reread and self._stale()):",
        "if changes is None or not sweep:",
        ("tests/kernel/test_iptables.py",),
    ),
}
