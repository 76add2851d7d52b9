"""Single steps from one nftables state to another; series of random ones are in tests/generated."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from generated.simulator import Refused, Simulator, plain, wanted

from netplane.model.address import Family
from netplane.model.service import ServiceId
from netplane.programs.nftables import (
    Chain,
    Data,
    ElementChanges,
    Field,
    FoundChain,
    FoundTable,
    Hook,
    NftablesChanges,
    NftablesProgram,
    Part,
    SetSpec,
    Structure,
    digest,
)
from netplane.programs.nftables_changes import Applied, as_found, changes_from_found
from netplane.programs.nftables_text import changes_lines

V4, V6 = Family.IPV4, Family.IPV6
A, B = ServiceId("shop", "a"), ServiceId("shop", "b")
ENDPOINTS, VERDICTS, SLOTS = (V4, "endpoints"), (V4, "from-pod"), (V4, "slots")
ONE, TWO, THREE = b"\x0a\x00\x00\x01", b"\x0a\x00\x00\x02", b"\x0a\x00\x00\x03"

SETS = (
    SetSpec("endpoints", "{ type ipv4_addr; }", (Field.ADDRESS4,)),
    SetSpec("from-pod", "{ type ipv4_addr : verdict; }", (Field.ADDRESS4,), verdicts=True),
    SetSpec("slots", "{ type ipv4_addr : ipv4_addr; }", (Field.ADDRESS4,), (Field.ADDRESS4,)),
)
BASE = (Chain("refuse", ("reject",)), Chain("output", ("goto refuse",), Hook("nat", "output", -100)))


def structure(*chains: Chain, sets: tuple[SetSpec, ...] = ()) -> Structure:
    return Structure({each.name: each for each in chains}, {each.name: each for each in sets})


TABLE = structure(*BASE, sets=SETS)


def part(own: Structure | None = None, **elements: Mapping[bytes, Data]) -> Part:
    """Elements of IPv4 sets, by name with underscores."""
    named = {(V4, name.replace("_", "-")): found for name, found in elements.items()}
    return Part(named, {V4: own} if own else {})


def program(*, table: Structure = TABLE, families: tuple[Family, ...] = (V4,), **parts: Part) -> NftablesProgram:
    return NftablesProgram(
        dict.fromkeys(families, table), {ServiceId("shop", name): each for name, each in parts.items()}
    )


@pytest.fixture(params=["by memory", "by reading"])
def step(request):
    """`step(have, want)`: the changes, after trying them."""

    def changes(have: NftablesProgram, want: NftablesProgram) -> NftablesChanges:
        simulator = Simulator()
        simulator.apply(changes_from_found({}, have))
        if request.param == "by memory":
            made = Applied.of(have).changes_to(want)
        else:
            made = changes_from_found(as_found(have), want)
        simulator.apply(made)
        assert plain(simulator.found()) == wanted(want)
        return made

    return changes


def test_from_nothing_everything_is_made_and_nothing_swept(step):
    made = step(NftablesProgram(), program(a=part(endpoints={ONE: None})))
    assert made.make_structure.startswith('add table ip netplane { comment "made by netplane"; }\n')
    assert made.make_elements == ElementChanges(add={ENDPOINTS: {ONE: None}})
    assert made.swept() == 0


def test_nothing_to_do_is_nothing(step):
    same = program(a=part(endpoints={ONE: None}))
    assert step(same, same) == NftablesChanges()
    assert step(NftablesProgram(), NftablesProgram()) == NftablesChanges()


def test_the_empty_program_deletes_the_tables_and_says_nothing_about_their_elements(step):
    made = step(program(families=(V4, V6)), NftablesProgram())
    assert made == NftablesChanges(sweep_structure="delete table ip netplane\ndelete table ip6 netplane\n")


@pytest.mark.parametrize(("have", "want"), [((V4,), (V4, V6)), ((V4, V6), (V4,)), ((V4,), (V6,))])
def test_a_family_comes_and_goes(step, have, want):
    elements = part(endpoints={ONE: None})
    made = step(program(families=have, **({"a": elements} if V4 in have else {})), program(families=want))
    assert ("add table ip6 netplane" in made.make_structure) is (V6 in want and V6 not in have)
    assert ("delete table ip netplane" in made.sweep_structure) is (V4 not in want)


def test_a_shared_element_goes_with_its_last_service(step):
    both = program(a=part(endpoints={ONE: None}), b=part(endpoints={ONE: None, TWO: None}))
    one = program(b=both.parts[B])
    assert step(both, one) == NftablesChanges()
    assert step(one, program()).sweep_elements == ElementChanges(remove={ENDPOINTS: {ONE: None, TWO: None}})


def test_a_shared_element_that_moves_from_one_service_to_another_is_left_alone(step):
    have = program(a=part(endpoints={ONE: None}), b=part(endpoints={TWO: None}))
    want = program(a=part(endpoints={TWO: None}), b=part(endpoints={ONE: None}))
    assert step(have, want) == NftablesChanges()


def test_counting_goes_on_over_several_steps():
    applied = Applied.of(NftablesProgram())
    element = part(endpoints={ONE: None})
    again = part(endpoints={ONE: None})
    assert applied.changes_to(program(a=element)).make_elements.count() == 1
    assert applied.changes_to(program(a=element, b=again)).make_elements.count() == 0
    assert applied.changes_to(program(a=part(endpoints={ONE: None}), b=again)) == NftablesChanges()
    assert applied.changes_to(program(b=again)).sweep_elements.count() == 0
    assert applied.changes_to(program()).sweep_elements == ElementChanges(remove={ENDPOINTS: {ONE: None}})
    assert applied.changes_to(program(b=again)).make_elements == ElementChanges(add={ENDPOINTS: {ONE: None}})


def test_an_element_with_other_data_is_replaced_while_making(step):
    have, want = program(a=part(from_pod={ONE: "drop"})), program(a=part(from_pod={ONE: "goto refuse"}))
    made = step(have, want)
    assert made.make_elements == ElementChanges({VERDICTS: {ONE: "drop"}}, {VERDICTS: {ONE: "goto refuse"}})
    assert made.sweep_elements == ElementChanges()


def test_an_element_that_moves_between_services_is_replaced_not_swept(step):
    have = program(a=part(slots={ONE: TWO}))
    want = program(b=part(slots={ONE: THREE}))
    made = step(have, want)
    assert made.make_elements == ElementChanges({SLOTS: {ONE: TWO}}, {SLOTS: {ONE: THREE}})
    assert made.sweep_elements.count() == 0


def test_new_chains_are_made_before_elements_lead_to_them_and_swept_after(step):
    own = structure(Chain("pick-2", ("drop",)))
    plain_, leading = program(a=part(from_pod={ONE: "drop"})), program(a=part(own, from_pod={ONE: "goto pick-2"}))
    assert "add chain ip netplane pick-2" in step(plain_, leading).make_structure
    assert "delete chain ip netplane pick-2" in step(leading, plain_).sweep_structure


def test_a_chain_with_other_rules_is_flushed_and_written_in_one_transaction(step):
    other = structure(*BASE[:1], Chain("output", ("drop",), Hook("nat", "output", -100)), sets=SETS)
    made = step(program(), program(table=other))
    assert made.make_structure == (
        f'flush chain ip netplane output\nadd rule ip netplane output drop comment "{digest("drop")}"\n'
    )


@pytest.mark.parametrize(
    "hook", [Hook("nat", "output", -99), Hook("filter", "output", -100), Hook("nat", "input", -100)]
)
def test_a_base_chain_that_moves_goes_and_comes_back_in_one_transaction(step, hook):
    other = structure(*BASE[:1], Chain("output", ("goto refuse",), hook), sets=SETS)
    made = step(program(), program(table=other))
    assert made.make_structure.splitlines()[:3] == [
        "flush chain ip netplane output",
        "delete chain ip netplane output",
        f"add chain ip netplane output {{ {hook} }}",
    ]
    assert made.sweep_structure == ""


def test_chains_that_lead_to_each_other_are_swept_together(step):
    own = structure(Chain("x", ("goto y",)), Chain("y", ("drop",)))
    made = step(program(a=part(own, from_pod={ONE: "goto x"})), program())
    lines = made.sweep_structure.splitlines()
    assert sorted(lines[:2]) == ["flush chain ip netplane x", "flush chain ip netplane y"]
    assert sorted(lines[2:]) == ["delete chain ip netplane x", "delete chain ip netplane y"]


def test_dynamic_sets_come_and_go_with_the_rules_that_fill_them(step):
    clients = SetSpec("clients", "{ type ipv4_addr; flags dynamic,timeout; timeout 60s; }", dynamic=True)
    own = structure(Chain("sticky", ("update @clients { ip saddr }",)), sets=(clients,))
    there = program(a=part(own, from_pod={ONE: "goto sticky"}))
    assert "add set ip netplane clients" in step(program(), there).make_structure
    assert "delete set ip netplane clients" in step(there, program()).sweep_structure


def test_rules_without_our_digest_are_replaced():
    have = {V4: FoundTable(chains={"refuse": FoundChain("refuse", ("", digest("reject")), None)})}
    made = changes_from_found(have, program())
    assert "flush chain ip netplane refuse\n" in made.make_structure


def test_unknown_sets_and_chains_in_our_table_are_swept_without_asking_for_their_elements():
    found = FoundTable(
        chains={"old": FoundChain("old", (), None)}, sets={"left": False}, elements={"left": {ONE: None}}
    )
    made = changes_from_found({V4: found}, program())
    assert "delete chain ip netplane old\n" in made.sweep_structure
    assert "delete set ip netplane left\n" in made.sweep_structure
    assert made.sweep_elements.count() == 0


def test_changes_are_shown_in_the_order_they_are_carried_out():
    have = program(a=part(from_pod={ONE: "drop"}, endpoints={TWO: None}))
    want = program(a=part(structure(Chain("new", ("drop",))), from_pod={ONE: "goto new"}, endpoints={THREE: None}))
    lines = [*changes_lines(changes_from_found(as_found(have), want), want)]
    assert lines == [
        "+ add chain ip netplane new",
        "+ flush chain ip netplane new",
        f'+ add rule ip netplane new drop comment "{digest("drop")}"',
        "+ ip endpoints { 10.0.0.3 }",
        "~ ip from-pod { 10.0.0.1 : goto new }",
        "- ip endpoints { 10.0.0.2 }",
    ]


# --- the simulator is strict ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        NftablesChanges(make_structure="add rule ip netplane output drop\n"),
        NftablesChanges(make_structure='add rule ip netplane output goto nowhere comment "00000000"\n'),
        NftablesChanges(make_structure='add rule ip netplane output ip saddr @nowhere drop comment "00000000"\n'),
        NftablesChanges(make_structure="nonsense\n"),
        NftablesChanges(make_elements=ElementChanges(add={VERDICTS: {TWO: "goto nowhere"}})),
        NftablesChanges(make_elements=ElementChanges(add={ENDPOINTS: {ONE: None}})),
        NftablesChanges(make_elements=ElementChanges(add={(V4, "nowhere"): {ONE: None}})),
        NftablesChanges(sweep_elements=ElementChanges(remove={ENDPOINTS: {TWO: None}})),
        NftablesChanges(sweep_structure="delete chain ip netplane refuse\n"),
    ],
)
def test_the_simulator_refuses_what_the_kernel_would(changes):
    simulator = Simulator()
    simulator.apply(changes_from_found({}, program(a=part(endpoints={ONE: None}))))
    with pytest.raises(Refused):
        simulator.apply(changes)
