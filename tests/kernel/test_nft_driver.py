"""What the nftables driver promises, on the real kernel: see netplane/kernel/nftables.py."""

import ctypes
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from nft_bytes import address, port, protocol, slot

from netplane.errors import KernelError, OwnershipError, RequirementError
from netplane.kernel import command
from netplane.kernel.netns import Namespace
from netplane.kernel.nftables import NftablesDriver, _split
from netplane.model.address import Family
from netplane.programs.nftables import ElementChanges, FoundChain, Hook, NftablesChanges

pytestmark = pytest.mark.kernel

SERVICES, ENDPOINTS, RANGES = (Family.IPV4, "services"), (Family.IPV4, "endpoints"), (Family.IPV4, "ranges")
SERVICES6 = (Family.IPV6, "services")

STRUCTURE = """
table ip netplane {
    comment "made by netplane"
    map services { type ipv4_addr . inet_proto . inet_service : verdict; }
    map endpoints { type ipv4_addr . inet_service : ipv4_addr . inet_service; }
    set ranges { type ipv4_addr . inet_service; flags interval; }
    set sticky { type ipv4_addr; size 1000; flags dynamic, timeout; timeout 1m; }
    chain pick-2 {
        accept comment "Service shop/web 0123abcd"
    }
    chain nat {
        type nat hook prerouting priority dstnat;
        ip daddr { 10.0.0.1, 10.0.0.2 } accept comment "89abcdef"
        accept comment "no digest at all"
        accept
    }
}
table ip6 netplane {
    comment "made by netplane"
    map services { type ipv6_addr . inet_proto . inet_service : verdict; }
    chain pick-2 { }
}
"""


def service(last: int) -> bytes:
    return address(f"10.96.0.{last}") + protocol(6) + port(80)


def service6(last: int) -> bytes:
    return address(f"fd00:96::{last}") + protocol(6) + port(80)


def endpoint(last: int) -> bytes:
    return address(f"10.1.0.{last}") + port(8080)


def between(first: str, last: str) -> bytes:
    return address(first) + port(80) + address(last) + port(80)


@dataclass(frozen=True)
class Node:
    """A namespace with a driver in it."""

    run: Callable[[Callable[[], Any]], Any]
    driver: NftablesDriver

    def nft(self, *words: str, script: str = "") -> str:
        return self.run(lambda: command.run("nft", *words, stdin=script, mechanism="nftables", doing="test"))

    def load(self, script: str) -> None:
        self.nft("-f", "-", script=script)

    def make(self, *, structure: str = "", remove=None, add=None) -> None:
        changes = NftablesChanges(make_structure=structure, make_elements=ElementChanges(remove or {}, add or {}))
        self.run(lambda: self.driver.make(changes))

    def sweep(self, *, remove=None, structure: str = "") -> None:
        changes = NftablesChanges(sweep_elements=ElementChanges(remove=remove or {}), sweep_structure=structure)
        self.run(lambda: self.driver.sweep(changes))

    def elements(self, name) -> dict[bytes, Any]:
        return dict(self.driver.read()[name[0]].elements[name[1]])


@pytest.fixture
def node() -> Iterator[Node]:
    with Namespace() as namespace, namespace.run(NftablesDriver) as driver:
        yield Node(namespace.run, driver)


@pytest.fixture
def made(node) -> Node:
    node.make(structure=STRUCTURE)
    return node


# --- reading --------------------------------------------------------------------------------------------------------


def test_a_namespace_without_our_tables_reads_as_nothing(node):
    node.load("table inet netplane { chain a { accept; }; }\ntable ip other { chain b { accept; }; }")
    assert node.driver.read() == {}


def test_chains_hooks_and_digests_are_read(made):
    assert made.driver.read()[Family.IPV4].chains == {
        "pick-2": FoundChain("pick-2", ("0123abcd",), None),
        "nat": FoundChain("nat", ("89abcdef", "", ""), Hook("nat", "prerouting", -100)),
    }
    assert made.driver.read()[Family.IPV6].chains == {"pick-2": FoundChain("pick-2", (), None)}


def test_sets_are_read_with_whether_packets_fill_them_and_without_those_of_rules(made):
    found = made.driver.read()
    assert found[Family.IPV4].sets == {"services": False, "endpoints": False, "ranges": False, "sticky": True}
    assert found[Family.IPV6].sets == {"services": False}


def test_elements_of_dynamic_sets_are_not_read(made):
    made.load("add element ip netplane sticky { 10.0.0.9 }\nadd element ip netplane ranges { 10.0.0.0/8 . 80 }")
    assert made.driver.read()[Family.IPV4].elements == {
        "services": {},
        "endpoints": {},
        "ranges": {between("10.0.0.0", "10.255.255.255"): None},
    }


def test_other_tables_of_the_same_family_are_not_read(made):
    made.load("table ip other { set services { type ipv4_addr; elements = { 10.0.0.1 }; }; chain pick-2 { drop; }; }")
    assert made.driver.read()[Family.IPV4].chains["pick-2"].digests == ("0123abcd",)
    assert made.elements(SERVICES) == {}


def test_an_interval_set_of_one_field_is_listed_and_neither_read_nor_filled(made):
    made.load("add set ip netplane odd { type ipv4_addr; flags interval; elements = { 10.0.0.0/8 }; }")
    found = made.driver.read()[Family.IPV4]
    assert found.sets["odd"] is False
    assert found.elements["odd"] == {}
    with pytest.raises(KernelError, match="ip netplane odd: it is an interval set of a single field"):
        made.make(add={(Family.IPV4, "odd"): {address("11.0.0.0"): None}})


def test_what_is_read_is_from_one_moment(made):
    """A writer moves one element from set to set in single transactions: it must never be seen twice or nowhere."""
    key = endpoint(1)
    places = ((Family.IPV4, "here"), (Family.IPV4, "there"))
    made.load("add set ip netplane here { type ipv4_addr . inet_service; }")
    made.load("add set ip netplane there { type ipv4_addr . inet_service; }")
    made.make(add={places[0]: {key: None}, SERVICES: {service(n): "goto pick-2" for n in range(200)}})
    done = threading.Event()

    def write() -> None:
        try:
            with made.run(NftablesDriver) as writer:
                for turn in range(1500):
                    source, target = places[turn % 2], places[1 - turn % 2]
                    moved = ElementChanges(remove={source: {key: None}}, add={target: {key: None}})
                    writer.make(NftablesChanges(make_elements=moved))
        finally:
            done.set()

    thread = threading.Thread(target=write)
    thread.start()
    seen = []
    while not done.is_set():
        try:
            found = made.driver.read()[Family.IPV4].elements
        except KernelError as error:
            assert "the ruleset changed during each" in error.said  # noqa: PT017 - one of two right answers
        else:
            seen.append(len(found["here"]) + len(found["there"]))
    thread.join()
    assert set(seen) <= {1}
    assert made.elements(places[0]) == {key: None}


def test_nothing_is_missed_while_the_kernel_grows_a_set(made):
    """A dump alone would miss some in most rounds: the kernel moves elements to a larger hash table meanwhile."""
    made.load("".join(f"add map ip netplane grown-{n} {{ type ipv4_addr : ipv4_addr; }}\n" for n in range(8)))
    elements = {address(f"10.{n >> 8}.{n & 255}.1"): address("10.1.0.1") for n in range(20_000)}
    for n in range(8):
        grown = (Family.IPV4, f"grown-{n}")
        made.make(add={grown: elements})
        assert made.elements(grown) == elements


# --- a table of our name that is not ours ---------------------------------------------------------------------------


@pytest.mark.parametrize("theirs", ["", 'comment "made by hand"'])
def test_a_foreign_table_with_our_name_is_left_alone_by_everything(node, theirs):
    map_of_services = "map services { type ipv4_addr . inet_proto . inet_service : verdict; }"
    node.load(f"table ip netplane {{\n{theirs}\n{map_of_services}\n}}")
    before = node.nft("list", "ruleset")
    with pytest.raises(OwnershipError, match=r"table ip netplane is not ours: .* nft delete table ip netplane"):
        node.driver.read()
    with pytest.raises(OwnershipError):
        node.make(structure=STRUCTURE)
    with pytest.raises(OwnershipError):
        node.make(add={SERVICES: {service(1): "drop"}})
    with pytest.raises(OwnershipError):
        node.sweep(structure="delete table ip netplane")
    assert node.nft("list", "ruleset") == before


# --- making and sweeping --------------------------------------------------------------------------------------------


def test_make_makes_structure_before_the_elements_that_need_it(node):
    node.make(structure=STRUCTURE, add={SERVICES: {service(1): "goto pick-2"}})
    assert node.elements(SERVICES) == {service(1): "goto pick-2"}


def test_sweep_removes_elements_before_the_structure_they_refer_to(made):
    made.make(add={SERVICES: {service(1): "goto pick-2"}, SERVICES6: {service6(1): "drop"}})
    made.sweep(remove={SERVICES: {service(1): "goto pick-2"}}, structure="delete chain ip netplane pick-2")
    found = made.driver.read()
    assert set(found[Family.IPV4].chains) == {"nat"}
    assert made.elements(SERVICES) == {}
    assert made.elements(SERVICES6) == {service6(1): "drop"}


def test_both_families_change_in_one_transaction(made):
    with pytest.raises(KernelError):
        made.make(add={SERVICES6: {service6(1): "drop"}, SERVICES: {service(1): "goto nowhere"}})
    assert made.elements(SERVICES6) == {}
    made.make(add={SERVICES6: {service6(1): "drop"}, SERVICES: {service(1): "drop"}})
    assert (made.elements(SERVICES6), made.elements(SERVICES)) == ({service6(1): "drop"}, {service(1): "drop"})


def test_an_element_on_both_sides_gets_its_new_data(made):
    made.make(add={SERVICES: {service(1): "drop", service(2): "drop"}})
    made.make(remove={SERVICES: {service(1): "drop"}}, add={SERVICES: {service(1): "goto pick-2"}})
    assert made.elements(SERVICES) == {service(1): "goto pick-2", service(2): "drop"}


def test_nothing_to_do_is_no_transaction(made):
    before = made.nft("--handle", "list", "ruleset")
    made.make()
    made.sweep(remove={SERVICES: {}})
    made.make(add={(Family.IPV6, "absent"): {}})
    assert made.nft("--handle", "list", "ruleset") == before


CHANGES = {
    "remove": {SERVICES: {service(1): "drop", service(2): "drop"}, ENDPOINTS: {endpoint(1): endpoint(2)}},
    "add": {
        SERVICES: {service(2): "goto pick-2", service(3): "accept"},
        ENDPOINTS: {endpoint(3): endpoint(4)},
        RANGES: {between("10.0.0.0", "10.0.0.255"): None},
    },
}
AFTER = {
    "services": {service(2): "goto pick-2", service(3): "accept"},
    "endpoints": {endpoint(3): endpoint(4)},
    "ranges": {between("10.0.0.0", "10.0.0.255"): None},
}


@pytest.mark.parametrize(
    "before",
    [
        {SERVICES: {service(1): "drop", service(2): "drop"}, ENDPOINTS: {endpoint(1): endpoint(2)}},
        {},
        {SERVICES: {service(2): "goto pick-2"}, RANGES: {between("10.0.0.0", "10.0.0.255"): None}},
        {SERVICES: {service(1): "drop", service(3): "accept"}, ENDPOINTS: {endpoint(3): endpoint(4)}},
        {SERVICES: {service(2): "return"}, ENDPOINTS: {endpoint(1): endpoint(9)}},
    ],
    ids=["as expected", "empty", "half done", "partly there", "other data where it is replaced"],
)
def test_what_is_there_and_what_is_gone_already_is_success_and_repeating_changes_nothing(made, before):
    made.make(add=before)
    for _ in range(3):
        made.make(**CHANGES)
        assert made.driver.read()[Family.IPV4].elements == AFTER


def test_elements_of_a_set_or_table_that_is_gone_are_gone(node):
    node.sweep(remove={SERVICES: {service(1): "drop"}})
    node.load(STRUCTURE)
    node.sweep(remove={SERVICES: {service(1): "drop"}})
    node.nft("delete", "table", "ip", "netplane")
    node.sweep(remove={SERVICES: {service(1): "drop"}})
    assert Family.IPV4 not in node.driver.read()


def test_a_set_that_was_declared_anew_behind_our_back_is_looked_up_again(made):
    made.make(add={ENDPOINTS: {endpoint(1): endpoint(2)}})
    made.load(
        "delete map ip netplane endpoints\n"
        "add map ip netplane endpoints { type ipv4_addr . inet_service : verdict; flags interval; }"
    )
    key = between("10.0.0.0", "10.0.0.255")
    made.make(add={ENDPOINTS: {key: "drop"}})
    assert made.elements(ENDPOINTS) == {key: "drop"}


def test_removing_a_range_that_is_gone_leaves_the_range_that_covers_it(made):
    """The kernel would remove the covering one: it looks up the first key only."""
    wide, narrow = between("10.0.0.0", "10.255.255.255"), between("10.0.0.0", "10.0.255.255")
    made.make(add={RANGES: {wide: None}})
    made.sweep(remove={RANGES: {narrow: None}})
    assert made.elements(RANGES) == {wide: None}
    made.make(remove={RANGES: {wide: None}}, add={RANGES: {narrow: None}})
    assert made.elements(RANGES) == {narrow: None}


def test_thousands_of_elements_are_one_transaction(made):
    elements = {address(f"10.{n >> 8}.{n & 255}.1") + port(80): endpoint(n & 255) for n in range(20_000)}
    with pytest.raises(KernelError):
        made.make(add={ENDPOINTS: elements, SERVICES: {service(1): "goto nowhere"}})
    assert made.elements(ENDPOINTS) == {}
    made.make(add={ENDPOINTS: elements})
    assert made.elements(ENDPOINTS) == elements
    made.sweep(remove={ENDPOINTS: elements})
    assert made.elements(ENDPOINTS) == {}


def test_a_very_large_change_is_made_whole(made):
    old = {address(f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}") + port(80): endpoint(1) for n in range(80_000)}
    new = dict.fromkeys(old, endpoint(2))
    made.make(add={ENDPOINTS: old})
    made.make(remove={ENDPOINTS: old}, add={ENDPOINTS: new})
    assert made.elements(ENDPOINTS) == new


def test_splitting_keeps_removing_and_adding_one_key_together_and_loses_nothing():
    keys = [bytes((n,)) for n in range(100)]
    changes = ElementChanges(
        remove={SERVICES: dict.fromkeys(keys[:60], "drop"), ENDPOINTS: dict.fromkeys(keys[:5], b"a")},
        add={SERVICES: dict.fromkeys(keys[40:], "accept"), RANGES: dict.fromkeys(keys[:30])},
    )
    parts = list(_split(changes, 20))
    assert len(parts) > 5
    assert all(part.count() <= 21 for part in parts)
    for side, wanted in (("remove", changes.remove), ("add", changes.add)):
        operations = [
            (name, key, data)
            for part in parts
            for name, elements in getattr(part, side).items()
            for key, data in elements.items()
        ]
        assert len(operations) == len(set(operations))
        assert set(operations) == {(name, key, wanted[name][key]) for name in wanted for key in wanted[name]}
    replaced = [key for part in parts for key in part.remove.get(SERVICES, {}) if key in part.add.get(SERVICES, {})]
    assert replaced == keys[40:60]


# --- refusals -------------------------------------------------------------------------------------------------------


def test_a_refused_element_is_named_with_its_set_and_the_kernel_s_words(made):
    elements = {service(n): "goto pick-2" for n in range(100)} | {service(77): "goto nowhere"}
    with pytest.raises(KernelError) as caught:
        made.make(add={SERVICES: elements})
    assert str(caught.value) == (
        "nftables: add element { 10.96.0.77 . tcp . 80 : goto nowhere } to ip netplane services: "
        "No such file or directory"
    )


def test_adding_an_element_that_has_other_data_is_refused_and_not_replaced(made):
    made.make(add={SERVICES6: {service6(7): "drop"}})
    with pytest.raises(KernelError, match=r"add element \{ fd00:96::7 . tcp . 80 : accept \} to ip6 netplane services"):
        made.make(add={SERVICES6: {service6(7): "accept"}})
    assert made.elements(SERVICES6) == {service6(7): "drop"}


def test_adding_to_a_set_that_does_not_exist_names_the_set(made):
    with pytest.raises(KernelError, match="add elements to ip6 netplane absent: there is no such set"):
        made.make(add={(Family.IPV6, "absent"): {service6(1): None}})


def test_a_key_of_the_wrong_size_is_refused(made):
    with pytest.raises(KernelError, match="to ip netplane services: Invalid argument"):
        made.make(add={SERVICES: {service(1) + slot(0): "drop"}})


def test_a_refused_script_changes_nothing_and_stops_before_the_elements(made):
    with pytest.raises(KernelError, match=r"nftables: make structure: .*No such file or directory"):
        made.make(
            structure="add chain ip netplane more\nadd rule ip netplane more goto nowhere",
            add={SERVICES: {service(1): "drop"}},
        )
    assert "more" not in made.driver.read()[Family.IPV4].chains
    assert made.elements(SERVICES) == {}


def test_after_a_refusal_the_driver_goes_on(made):
    with pytest.raises(KernelError):
        made.make(add={SERVICES: {service(1): "goto nowhere"}})
    made.make(add={SERVICES: {service(1): "drop"}})
    assert made.elements(SERVICES) == {service(1): "drop"}


def test_without_privileges_reading_is_a_missing_requirement():
    def powerless() -> None:
        # capset(2) drops every capability of this one thread; it is not used again.
        header, nothing = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
        assert ctypes.CDLL(None, use_errno=True).capset(header, nothing) == 0
        with NftablesDriver() as driver, pytest.raises(RequirementError, match=r"nftables: .*; run as root"):
            driver.read()

    with Namespace() as namespace:
        namespace.run(powerless)


def test_a_driver_works_in_the_namespace_it_was_opened_in_whoever_uses_it(made):
    made.driver.make(NftablesChanges(make_elements=ElementChanges(add={SERVICES: {service(1): "drop"}})))
    assert "10.96.0.1 . tcp . 80 : drop" in made.nft("list", "map", "ip", "netplane", "services").replace(
        " 6 ", " tcp "
    )


def test_the_mark_changes_only_when_somebody_else_changes_nftables():
    with Namespace() as namespace:

        def marks():
            with NftablesDriver() as driver:
                before = driver.mark()
                driver.make(NftablesChanges(make_structure='add table ip netplane { comment "made by netplane"; }\n'))
                driver.make(NftablesChanges(make_structure="add set ip netplane own { type ipv4_addr; }\n"))
                element = {(Family.IPV4, "own"): {bytes((10, 0, 0, 1)): None}}
                driver.make(NftablesChanges(make_elements=ElementChanges(add=element)))
                driver.sweep(NftablesChanges(sweep_elements=ElementChanges(remove=element)))
                ours = driver.mark()
                command.run("nft", "add", "table", "ip", "other", mechanism="nftables", doing="add a foreign table")
                return before, ours, driver.mark()

        before, ours, theirs = namespace.run(marks)
    assert before == ours
    assert theirs != ours


def test_a_transaction_of_ours_that_changes_nothing_does_not_hide_one_of_somebody_else(node):
    """The kernel has no number for it: counted as one, it would make up for the other."""
    element = {(Family.IPV4, "own"): {bytes((10, 0, 0, 1)): None}}
    table = 'add table ip netplane { comment "made by netplane"; }\n'
    node.make(structure=f"{table}add set ip netplane own {{ type ipv4_addr; }}\n")
    before = node.run(node.driver.mark)
    node.nft("add element ip netplane own { 10.0.0.1, 10.0.0.2 }")
    node.make(add=element)
    after = node.run(node.driver.mark)
    assert after != before
    node.make(add=element)
    assert node.run(node.driver.mark) == after


# --- tables of other names ------------------------------------------------------------------------------------------


def test_a_driver_of_another_table_does_not_see_or_touch_this_one(made):
    before = made.nft("list", "table", "ip", "netplane")
    with made.run(lambda: NftablesDriver(table="netplane-too")) as other:
        assert other.read() == {}
        script = STRUCTURE.replace("table ip netplane", "table ip netplane-too").replace(
            "table ip6 netplane", "table ip6 netplane-too"
        )
        add = {SERVICES: {service(1): "drop"}}
        made.run(lambda: other.make(NftablesChanges(script, ElementChanges(add=add))))
        assert other.read()[Family.IPV4].elements["services"] == {service(1): "drop"}
        assert made.elements(SERVICES) == {}
        made.run(lambda: other.sweep(NftablesChanges(sweep_elements=ElementChanges(remove=add))))
        assert other.read()[Family.IPV4].elements["services"] == {}
    assert made.nft("list", "table", "ip", "netplane") == before


def test_a_foreign_table_of_another_name_is_left_alone(node):
    node.load("table ip netplane-too { set services { type ipv4_addr; }; }")
    before = node.nft("list", "ruleset")
    with node.run(lambda: NftablesDriver(table="netplane-too")) as other:
        with pytest.raises(OwnershipError, match="table ip netplane-too is not ours"):
            other.read()
        with pytest.raises(OwnershipError, match="table ip netplane-too is not ours"):
            other.make(NftablesChanges(make_elements=ElementChanges(add={SERVICES: {service(1): None}})))
    assert node.driver.read() == {}
    assert node.nft("list", "ruleset") == before
