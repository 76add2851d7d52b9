"""Faults of the nftables backend: rendering, differences, driver."""

from teeth.fault import LAWS, Fault, case

_WALKED = ("tests/backends/nftables/test_against_the_oracle.py",)
_WALKS = ("tests/generated/test_kernel_walks.py", "-k", "whatever_happened")
_BOTH_WAYS = ("tests/generated/test_laws.py", "-k", "both_ways")
_LAYOUT, _SPELLED = "netplane.backends.nftables.layout", "netplane.backends.nftables.services"
_CHANGES = "netplane.programs.nftables_changes"

NFTABLES = {
    "nftables: nothing is masqueraded": Fault(
        _LAYOUT,
        "meta mark set meta mark | {MASQUERADE:#x}",
        "meta mark set meta mark | 0",
        case("node-port", "nftables"),
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
        case("source-ranges", "nftables"),
    ),
    "nftables: hairpin forgotten": Fault(
        _LAYOUT,
        '(marked, hairpin), Hook("nat", "postrouting"',
        '(marked,), Hook("nat", "postrouting"',
        case("cluster-ip-hairpin", "nftables"),
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
    "nftables: refusing drops": Fault(
        _LAYOUT, 'reject with tcp reset", "reject"))', 'reject with tcp reset", "drop"))', _WALKED
    ),
    "nftables: an undefined port of a cluster IP is let through": Fault(
        _LAYOUT,
        'f"{words.ip} daddr @cluster-ips goto refuse"',
        'f"{words.ip} daddr @cluster-ips accept"',
        case("undefined-port", "nftables"),
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
        "netplane.backends.nftables.compile", "derived(old.parts, fresh, removed)", "derived(old.parts, fresh)", LAWS
    ),
    "nftables: an element whose data changed is left as it was": Fault(
        _CHANGES,
        "if key in have and have[key] != data}",
        "if key in have and have[key] is None}",
        _BOTH_WAYS,
    ),
    "nftables: a shared element goes with its first Service": Fault(
        _CHANGES,
        "        for part in after:\n            self._count(part, 1)\n        have: MutableElements",
        "        have: MutableElements",
        _BOTH_WAYS,
    ),
    "nftables: drift is not noticed": Fault(
        "netplane.kernel.nftables_mechanism",
        "if changes is None or (reread and self.disturbed()):",
        "if changes is None:",
        _WALKS,
    ),
    "nftables: a foreign table of our name is taken for ours": Fault(
        "netplane.kernel.nftables",
        "if comment != TABLE_COMMENT:",
        "if comment is ...:",
        ("tests/generated/test_kernel_laws.py", "-k", "foreign_table"),
    ),
    "nftables: a range that is in the way of another stays": Fault(
        _CHANGES,
        "if spec.interval and gone and new:",
        "if not spec and gone and new:",
        ("tests/generated/test_ranges.py",),
    ),
    "nftables: the name of a chain means now this pool, now that": Fault(
        _SPELLED,
        'f"sticky-{kernel_name(base)}-{_digest(pool)}"',
        'f"sticky-{kernel_name(base)}-{len(draft.sticky)}"',
        ("tests/generated/test_churn.py", "-k", "name_of_a_chain"),
    ),
    "nftables: half a table sees packets": Fault(
        _CHANGES,
        "if digests is None and chain.hook:",
        "if digests is None and chain.hook and not chain.rules:",
        ("tests/generated/test_laws.py", "-k", "sees_no_packet"),
    ),
}
