"""What leads from one iptables state to another, and how it is written: see netplane/programs/iptables_changes.py."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise

import pytest

from netplane.errors import OwnershipError
from netplane.model.address import Family
from netplane.model.service import ServiceId
from netplane.model.table import Table
from netplane.programs.iptables import Chains, Frame, IptablesProgram, Jump, TableKey
from netplane.programs.iptables_changes import (
    Applied,
    IptablesChanges,
    changes_from_found,
    changes_lines,
    section_end,
    section_start,
)
from netplane.programs.iptables_seen import disagreements, rule_facts
from netplane.programs.iptables_text import (
    FoundTable,
    chain_rules,
    found_table,
    program_script,
    scripts,
    target,
    whole_chains,
)
from netplane.programs.iptables_tree import Key, Rules, Tree

NAT, FILTER, NAT6 = (Family.IPV4, "nat"), (Family.IPV4, "filter"), (Family.IPV6, "nat")
PREROUTING = Jump("PREROUTING", '-m comment --comment "kubernetes service portals" -j KUBE-SERVICES')
OUTPUT = Jump("OUTPUT", "-j KUBE-SERVICES")
POSTROUTING = Jump("POSTROUTING", "-j KUBE-POSTROUTING")
BUILT_IN = [":PREROUTING ACCEPT [0:0]", ":OUTPUT ACCEPT [0:0]", ":POSTROUTING ACCEPT [0:0]"]
MASQ = {"KUBE-MARK-MASQ": ("-j MARK --set-xmark 0x4000/0x4000",)}


@dataclass(frozen=True)
class Held:
    """A part that has its chains at hand."""

    held: Mapping[TableKey, Chains]

    def chains(self) -> Mapping[TableKey, Chains]:
        return self.held


@dataclass(frozen=True)
class Words:
    bits: int = 16

    def chain(self, prefix: int, length: int) -> str:
        return f"KUBE-PORT-TCP-{prefix}-{length}"

    def branch(self, prefix: int, length: int, chain: str) -> Rules:
        return (f"--dport {prefix}/{length} -j {chain}",)


def hashed(kind: str, number: int) -> str:
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
    return f"KUBE-{kind}-" + "A" * 12 + "".join(letters[number >> shift & 31] for shift in (15, 10, 5, 0))


def part(number: int, *endpoints: int, key: TableKey = NAT) -> Held:
    seps = [hashed("SEP", 100 * number + each) for each in endpoints]
    own: dict[str, Rules] = {hashed("SVC", number): tuple(f"-j {sep}" for sep in seps)}
    own.update(dict.fromkeys(seps, ("-j KUBE-MARK-MASQ", "-p tcp -m tcp -j DNAT --to-destination 10.1.0.1:80")))
    return Held({key: own})


def program(parts: Mapping[int, Held] | None = None, *, ports: Mapping[int, str] | None = None) -> IptablesProgram:
    tree = Tree("KUBE-SERVICES", Words()).derive(
        {Key(at): (f"--dport {at} -j {to}",) for at, to in (ports or {}).items()}
    )
    named = {ServiceId("shop", str(name)): each for name, each in (parts or {}).items()}
    return IptablesProgram({NAT: Frame(MASQ, (PREROUTING, OUTPUT))}, {NAT: (tree,)}, Table(named))


def state_of(want: IptablesProgram) -> dict[TableKey, list[str]]:
    """The lines `iptables-save` would print of each table of a program that is all there is."""
    state = {}
    for key in want.frames:
        chains = whole_chains(want, key)
        lines = [*BUILT_IN, *(f":{name} - [0:0]" for name in sorted(chains))]
        lines += [f"-A {jump.chain} {jump.rule}" for jump in want.frames[key].jumps]
        lines += [line.rstrip("\n") for name in sorted(chains) for line in chain_rules(name, chains[name])]
        state[key] = lines
    return state


def found(state: Mapping[TableKey, list[str]]) -> dict[TableKey, FoundTable]:
    return {key: found_table(key, lines) for key, lines in state.items()}


def carry_out(state: Mapping[TableKey, list[str]], changes: IptablesChanges) -> dict[TableKey, list[str]]:
    """What iptables-restore --noflush makes of tables: the words we use, and nothing else."""
    rules: dict[TableKey, list[str]] = {}
    for key, name, each in changes.rules():
        rules.setdefault(key, []).extend(chain_rules(name, each))
    result = {key: [*lines] for key, lines in state.items()}
    for key, each in changes.tables.items():
        start, end = section_start(key[1], each, listed=False), section_end(key[1], each, listed=False)
        table = {":PREROUTING ACCEPT [0:0]": [], ":OUTPUT ACCEPT [0:0]": [], ":POSTROUTING ACCEPT [0:0]": []}
        table |= {line: [] for line in state.get(key, []) if line.startswith(":")}
        chains = {line.split()[0][1:]: into for line, into in table.items()}
        for line in state.get(key, []):
            if line.startswith("-A "):
                chains[line.split()[1]].append(line.split(" ", 2)[2])
        for line in (*start, *rules.get(key, []), *end):
            _obey(line.strip(), table, chains)
        headers = [line for line in table if line[1:].split()[0] in chains]
        result[key] = headers + [f"-A {line[1:].split()[0]} {rule}" for line in headers for rule in table[line]]
    return result


def _obey(line: str, table: dict[str, list[str]], chains: dict[str, list[str]]) -> None:
    word, _, rest = line.partition(" ")
    chain, _, rule = rest.partition(" ")
    if word.startswith(":"):
        chains.setdefault(word[1:], table.setdefault(line, [])).clear()
    elif word == "-A":
        assert not target(rule).startswith("KUBE") or target(rule) in chains
        chains[chain].append(rule)
    elif word == "-I":
        chains[chain].insert(0, rule)
    elif word == "-D":
        chains[chain].remove(rule)
    elif word == "-X":
        assert not any(target(each) == chain for rules in chains.values() for each in rules), f"{chain} is in use"
        del chains[chain], table[f":{chain} - [0:0]"]
    else:
        assert word == "COMMIT" or word.startswith("*")


def is_there(state: Mapping[TableKey, list[str]], want: IptablesProgram) -> bool:
    left = changes_from_found(found(state), want)
    return not left.made() and not left.swept()


def nothing(changes: IptablesChanges | None) -> bool:
    return changes is not None and not changes.made() and not changes.swept()


# --- comparing ------------------------------------------------------------------------------------------------------


def test_into_an_empty_kernel_everything_is_written_and_then_nothing_more():
    want = program({1: part(1, 1, 2)}, ports={80: hashed("SVC", 1)})
    made = changes_from_found({}, want)
    assert {*made.tables[NAT].put} == {
        "NETPLANE", "KUBE-MARK-MASQ", "KUBE-SERVICES", hashed("SVC", 1), hashed("SEP", 101), hashed("SEP", 102),
    }  # fmt: skip
    assert made.tables[NAT].insert == (PREROUTING, OUTPUT)
    assert made.swept() == 0
    assert is_there(carry_out({}, made), want)


def test_what_is_there_as_wanted_is_left_alone():
    want = program({1: part(1, 1, 2)}, ports={80: hashed("SVC", 1)})
    assert nothing(changes_from_found(found(state_of(want)), want))


def test_a_chain_that_differs_is_written_whole_and_the_others_are_not():
    want = program({1: part(1, 1, 2), 2: part(2, 1)})
    state = state_of(want)
    state[NAT].remove(f"-A {hashed('SVC', 1)} -j {hashed('SEP', 102)}")
    changes = changes_from_found(found(state), want)
    assert changes.tables[NAT].put == {hashed("SVC", 1): True}
    assert [*changes_lines(changes)] == [f"~ ip nat chain {hashed('SVC', 1)} (2 rules)"]
    assert is_there(carry_out(state, changes), want)


def test_chains_of_ours_that_nobody_wants_go_and_those_of_the_kubelet_stay():
    state = state_of(program({1: part(1, 1)}))
    state[NAT] += [":KUBE-FIREWALL - [0:0]", ":KUBE-KUBELET-CANARY - [0:0]", ":KUBE-MARK-DROP - [0:0]"]
    changes = changes_from_found(found(state), program())
    assert changes.tables[NAT].drop == (hashed("SEP", 101), hashed("SVC", 1))
    assert is_there(carry_out(state, changes), program())


def test_the_empty_program_removes_all_of_ours_and_nothing_else():
    state = state_of(program({1: part(1, 1)}))
    others = [":DOCKER - [0:0]", "-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER", "-A DOCKER -j RETURN"]
    state[NAT] += others
    changes = changes_from_found(found(state), IptablesProgram())
    left = carry_out(state, changes)[NAT]
    assert sorted(left) == sorted((*BUILT_IN, *others))
    assert changes.made() == 0


@pytest.mark.parametrize(
    "there",
    [
        (),
        (PREROUTING,),
        (OUTPUT,),
        (OUTPUT, PREROUTING),
        (PREROUTING, OUTPUT, OUTPUT),
        (PREROUTING, OUTPUT, Jump("OUTPUT", "-p tcp -j KUBE-SERVICES")),
        (Jump("PREROUTING", "-j KUBE-SERVICES"), OUTPUT),
        (PREROUTING, OUTPUT, POSTROUTING),
        (PREROUTING, OUTPUT, Jump("POSTROUTING", "-j KUBE-SERVICES")),
    ],
)
def test_jumps_are_made_right_whatever_is_there_of_them(there):
    state = state_of(program())
    state[NAT] = [line for line in state[NAT] if not line.startswith(("-A PREROUTING", "-A OUTPUT"))]
    state[NAT] += [":KUBE-POSTROUTING - [0:0]"]
    state[NAT] += [f"-A {jump.chain} {jump.rule}" for jump in there]
    changes = changes_from_found(found(state), program())
    after = carry_out(state, changes)
    assert changes.made() or changes.swept()
    assert is_there(after, program())
    assert {*found(after)[NAT].jumps} == {PREROUTING, OUTPUT}
    assert len(found(after)[NAT].jumps) == 2


def test_order_of_jumps_in_one_chain_counts_and_rules_of_others_between_them_do_not():
    firewall = Jump("OUTPUT", "-j KUBE-MARK-MASQ")
    want = replace(program(), frames={NAT: Frame(MASQ, (firewall, OUTPUT))})
    state = state_of(want)
    at = state[NAT].index(f"-A OUTPUT {OUTPUT.rule}")
    state[NAT].insert(at, "-A OUTPUT -p udp -j ACCEPT")
    assert is_there(state, want)
    state[NAT].insert(at - 1, state[NAT].pop(at + 1))
    assert not is_there(state, want)
    assert is_there(carry_out(state, changes_from_found(found(state), want)), want)


def test_without_sweep_nothing_goes_but_what_is_replaced():
    state = state_of(program({1: part(1, 1)}))
    state[NAT].remove(f"-A OUTPUT {OUTPUT.rule}")
    state[NAT] += [":KUBE-POSTROUTING - [0:0]", f"-A POSTROUTING {POSTROUTING.rule}"]
    changes = changes_from_found(found(state), program()).without_sweep()
    assert changes.swept() == 0
    after = found(carry_out(state, changes))[NAT]
    assert {hashed("SVC", 1), "KUBE-POSTROUTING"} <= after.chains.keys()
    assert {*after.jumps} == {PREROUTING, OUTPUT, POSTROUTING}


def test_a_chain_that_others_refer_to_can_be_kept_and_is_named():
    state = state_of(program())
    state[NAT] += [":CNI-HOSTPORT-SETMARK - [0:0]", "-A CNI-HOSTPORT-SETMARK -j KUBE-MARK-MASQ"]
    assert found(state)[NAT].references == {"KUBE-MARK-MASQ": "CNI-HOSTPORT-SETMARK"}
    changes = changes_from_found(found(state), IptablesProgram())
    kept = changes.keeping({NAT: {"KUBE-MARK-MASQ": "CNI-HOSTPORT-SETMARK"}})
    assert [*changes_lines(kept)][-1] == "= ip nat chain KUBE-MARK-MASQ stays: chain CNI-HOSTPORT-SETMARK refers to it"
    assert "-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000" in carry_out(state, kept)[NAT]


# --- from one program to the next -----------------------------------------------------------------------------------


def test_a_change_of_one_service_writes_only_what_differs():
    have = program({1: part(1, 1, 2), 2: part(2, 1)})
    want = replace(have, parts=have.parts.derive({ServiceId("shop", "1"): part(1, 1, 3)}))  # type: ignore[attr-defined]
    changes = Applied.of(have, {}).changes_to(want)
    assert changes is not None
    assert changes.tables[NAT].put == {hashed("SVC", 1): True, hashed("SEP", 103): False}
    assert changes.tables[NAT].drop == (hashed("SEP", 102),)
    assert not changes.tables[NAT].insert
    assert is_there(carry_out(state_of(have), changes), want)


def test_a_change_of_other_jumps_does_not_need_the_kernel():
    have = program()
    want = replace(have, frames={NAT: Frame({**MASQ, "KUBE-POSTROUTING": ()}, (PREROUTING, POSTROUTING))})
    changes = Applied.of(have, {}).changes_to(want)
    assert changes is not None
    assert is_there(carry_out(state_of(have), changes), want)


@pytest.mark.parametrize("seed", range(20))
def test_any_way_through_programs_ends_where_the_last_one_says(seed):
    rng = random.Random(seed)
    have = program()
    state = state_of(have)
    applied = Applied.of(have, found(state))
    for _ in range(12):
        parts = {n: part(n, *rng.sample(range(9), rng.randrange(4))) for n in rng.sample(range(40), rng.randrange(20))}
        want = program(parts, ports={rng.randrange(600): hashed("SVC", n) for n in parts})
        kept = {name: each for name, each in have.parts.items() if want.parts.get(name) == each}
        want = replace(want, parts=Table(dict(want.parts) | kept))
        if rng.random() < 0.3:
            changes = changes_from_found(found(state), want)
            applied = Applied.of(want, found(state))
        else:
            changes = applied.changes_to(want)
        assert changes is not None
        state = carry_out(state, changes)
        assert is_there(state, want)
        assert sorted(state[NAT]) == sorted(state_of(want)[NAT])
        assert nothing(applied.changes_to(want))
        have = want


def test_the_kernel_must_be_read_when_tables_come_or_go_and_when_a_chain_in_use_would_go():
    have = program({1: part(1, 1)})
    assert Applied.of(have, {}).changes_to(IptablesProgram()) is None
    state = state_of(have)
    state[NAT] += [":MINE - [0:0]", f"-A MINE -j {hashed('SVC', 1)}"]
    assert Applied.of(have, found(state)).changes_to(program()) is None


# --- whose it is ----------------------------------------------------------------------------------------------------

KUBE_PROXY = [
    *BUILT_IN, ":KUBE-SERVICES - [0:0]", ":KUBE-PROXY-CANARY - [0:0]",
    f":{hashed('SEP', 1)} - [0:0]", f":{hashed('FW', 1)} - [0:0]",
    f"-A PREROUTING {PREROUTING.rule}",
    f"-A KUBE-SERVICES -d 10.96.0.10/32 -p tcp -m tcp --dport 80 -j {hashed('FW', 1)}",
    f'-A {hashed("FW", 1)} -m comment --comment "other traffic -j LOG"',
    f"-A {hashed('SEP', 1)} -p tcp -m tcp -j DNAT --to-destination 10.1.0.1:80",
]  # fmt: skip


def test_rules_of_kube_proxy_are_taken_over():
    state = {NAT: KUBE_PROXY}
    after = carry_out(state, changes_from_found(found(state), program()))
    assert is_there(after, program())
    assert sorted(after[NAT]) == sorted(state_of(program())[NAT])


@pytest.mark.parametrize("rule", ["-j LOG --log-prefix x", "-j SNAT --to-source 1.2.3.4", "-g MINE", "-j KUBELET"])
def test_a_chain_of_our_name_with_a_rule_of_somebody_else_is_refused_unless_it_is_marked(rule):
    state = [*KUBE_PROXY, f"-A {hashed('SEP', 1)} {rule}"]
    with pytest.raises(OwnershipError) as caught:
        found_table(NAT, state)
    said = str(caught.value)
    assert f"ip nat chain {hashed('SEP', 1)} is not ours" in said
    assert f"-A {hashed('SEP', 1)} {rule}" in said
    assert "iptables -t nat -N NETPLANE" in said
    assert hashed("SEP", 1) in found_table(NAT, [":NETPLANE - [0:0]", *state]).chains


@pytest.mark.parametrize(
    ("rule", "to"),
    [
        ("-j ACCEPT", "ACCEPT"),
        ("-p tcp -m tcp --dport 80 -g KUBE-X", "KUBE-X"),
        ("-m comment --comment x", ""),
        ("", ""),
        ('-m comment --comment "a -j b" -j RETURN', "RETURN"),
        (r'-m comment --comment "a \" -j b"', ""),
        ("-m comment --comment -j -j RETURN", "RETURN"),
        ('-j LOG --log-prefix " -j DROP "', "LOG"),
    ],
)
def test_the_target_of_a_rule(rule, to):
    assert target(rule) == to


# --- as a script ----------------------------------------------------------------------------------------------------


def test_a_section_makes_chains_first_then_jumps_and_removes_last():
    state = state_of(program({1: part(1, 1)}))
    state[NAT].remove(f"-A PREROUTING {PREROUTING.rule}")
    changes = changes_from_found(found(state), program({2: Held({NAT: {hashed("SVC", 2): ()}})})).tables[NAT]
    assert [*section_start("nat", changes, listed=False)] == [
        "*nat\n",
        f":{hashed('SEP', 101)} - [0:0]\n",
        f":{hashed('SVC', 1)} - [0:0]\n",
        f":{hashed('SVC', 2)} - [0:0]\n",
    ]
    assert [*section_end("nat", changes, listed=False)] == [
        f"-I PREROUTING {PREROUTING.rule}\n",
        f"-X {hashed('SEP', 101)}\n",
        f"-X {hashed('SVC', 1)}\n",
        "COMMIT\n",
    ]


def test_chains_come_by_name_or_scattered():
    """The variants differ in what makes them slow: see docs/decisions/0015."""
    changes = changes_from_found({}, program({number: part(number) for number in range(50)})).tables[NAT]
    by_name = [*section_start("nat", changes, listed=False)]
    scattered = [*section_start("nat", changes, listed=False, scattered=True)]
    assert by_name[1:] == sorted(scattered[1:])
    steps = [one < other for one, other in pairwise(scattered[1:])]
    assert 15 < steps.count(True) < 38
    assert scattered == [*section_start("nat", changes, listed=False, scattered=True)]


def test_a_listed_section_leaves_jumps_of_chains_that_do_not_exist_yet_to_one_after_it():
    changes = changes_from_found({NAT: FoundTable(built_in=frozenset({"OUTPUT"}))}, program()).tables[NAT]
    assert [*section_start("nat", changes, listed=True)][:2] == ["*nat\n", "-S\n"]
    assert [*section_end("nat", changes, listed=True)] == [
        f"-I OUTPUT {OUTPUT.rule}\n",
        "COMMIT\n",
        "*nat\n",
        f"-I PREROUTING {PREROUTING.rule}\n",
        "COMMIT\n",
    ]


def test_a_whole_program_is_a_script_for_each_family():
    want = program({1: part(1, 1), 2: part(2, 1, key=NAT6)})
    want = replace(want, frames={**want.frames, NAT6: Frame(jumps=(PREROUTING,))})
    text = program_script(want)
    assert text.startswith("# iptables-restore --noflush\n*nat\n:KUBE-MARK-MASQ - [0:0]\n")
    four, six = scripts(text).values()
    assert hashed("SVC", 1) in four
    assert hashed("SVC", 1) not in six
    assert hashed("SVC", 2) in six
    assert six.startswith("# ip6tables-restore --noflush\n")
    assert scripts("*nat\nCOMMIT\n") == {Family.IPV4: "*nat\nCOMMIT\n"}


# --- a second reader ------------------------------------------------------------------------------------------------


def test_a_rule_as_facts():
    assert rule_facts(
        '! -s 10.0.0.0/8 -d fd00::1/128 -p tcp -m comment --comment "a \\"b\\" -j c" -m conntrack '
        "! --ctstate NEW,RELATED -m recent --rcheck --seconds 5 --reap --name X -m tcp --dport 80:90 -g KUBE-SVC"
    ) == tuple(
        sorted(
            {
                "source ! 10.0.0.0/8", "destination fd00::1/128", "protocol tcp", 'comment --comment a "b" -j c',
                "match comment", "match conntrack", "conntrack ! --ctstate NEW,RELATED", "match recent",
                "recent --rcheck", "recent --seconds 5", "recent --reap", "recent --name X", "match tcp",
                "tcp --dport 80:90", "goto KUBE-SVC",
            }
        )
    )  # fmt: skip


def test_disagreements_name_the_chain_the_rule_and_what_differs():
    want = program({1: Held({NAT: {hashed("SVC", 1): ("-s 10.1.0.1/32 -j KUBE-MARK-MASQ",)}})})
    chains = whole_chains(want, NAT)
    seen = {name: [rule_facts(rule) for rule in rules] for name, rules in chains.items()}
    assert not [*disagreements(want, Family.IPV4, {"nat": seen})]
    assert not [*disagreements(want, Family.IPV6, {})]
    wrong = {**seen, hashed("SVC", 1): [rule_facts("-s 10.1.0.9/32 -j KUBE-MARK-MASQ")], hashed("SVC", 9): []}
    del wrong["NETPLANE"]
    assert [*disagreements(want, Family.IPV4, {"nat": {**wrong, "KUBE-MARK-MASQ": []}})] == [
        "! ip nat chain KUBE-MARK-MASQ is seen with 0 rules, not 1",
        f"! ip nat chain {hashed('SVC', 1)} rule 1 is seen with (source 10.1.0.9/32) instead of (source 10.1.0.1/32)",
        f"! ip nat chain {hashed('SVC', 9)} is seen, and nobody wants it",
        "! ip nat chain NETPLANE is not seen",
    ]


# --- without sweeping -------------------------------------------------------------------------------------------------


def shared(state: Mapping[TableKey, list[str]]) -> dict[TableKey, FoundTable]:
    return {key: found_table(key, lines, shared=True) for key, lines in state.items()}


def joined(state: Mapping[TableKey, list[str]], want: IptablesProgram) -> IptablesChanges:
    return changes_from_found(shared(state), want, joined=True).without_sweep()


def dispatch(state: Mapping[TableKey, list[str]]) -> list[str]:
    return [line.split(" ", 2)[2] for line in state[NAT] if line.startswith("-A KUBE-SERVICES ")]


def with_last(of: IptablesProgram) -> IptablesProgram:
    return replace(of, trees={NAT: tuple(replace(tree, last=("-j KUBE-MARK-MASQ",)) for tree in of.trees[NAT])})


def test_without_sweeping_what_is_wanted_comes_first_and_what_was_there_before_what_must_be_last():
    old = with_last(program({1: part(1, 1)}, ports={1: hashed("SVC", 1)}))
    new = with_last(program({2: part(2, 1)}, ports={2: hashed("SVC", 2)}))
    state = carry_out(state_of(old), joined(state_of(old), new))
    one, two = (f"--dport {each} -j {hashed('SVC', each)}" for each in (1, 2))
    assert dispatch(state) == [two, one, "-j KUBE-MARK-MASQ"]
    assert nothing(joined(state, new)), "again changes nothing"
    swept = carry_out(state, changes_from_found(found(state), new))
    assert is_there(swept, new)
    assert dispatch(swept) == [two, "-j KUBE-MARK-MASQ"]


def test_without_sweeping_the_first_program_is_written_as_it_is():
    want = with_last(program({1: part(1, 1)}, ports={1: hashed("SVC", 1)}))
    empty = {NAT: BUILT_IN}
    assert is_there(carry_out(empty, joined(empty, want)), want)


@pytest.mark.parametrize("seed", range(8))
def test_without_sweeping_every_chain_that_could_be_reached_still_can(seed):
    rng = random.Random(seed)
    numbers = rng.sample(range(60), 40)
    old = with_last(
        program({n: part(n, 1) for n in numbers[:30]}, ports={n * 7: hashed("SVC", n) for n in numbers[:30]})
    )
    new = with_last(
        program({n: part(n, 2) for n in numbers[20:]}, ports={n * 7: hashed("SVC", n) for n in numbers[20:]})
    )
    state = carry_out(state_of(old), joined(state_of(old), new))
    ahead, seen = ["KUBE-SERVICES"], set()
    while ahead:
        name = ahead.pop()
        if name not in seen:
            seen.add(name)
            ahead += [target(line) for line in state[NAT] if line.startswith(f"-A {name} ")]
    assert {hashed("SVC", n) for n in numbers} <= seen
    assert nothing(joined(state, new))
    assert is_there(carry_out(state, changes_from_found(found(state), new)), new)
