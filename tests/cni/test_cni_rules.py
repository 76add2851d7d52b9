"""The rules of attachments in the kernel: made, removed, mended, and nobody else's touched."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from cni_attachments import CLUSTER, attachment

from cni.attachment import Attachment
from cni.config import Mode, PortMapping
from cni.failure import Code, Failure
from cni.rule_program import TABLE, program
from cni.rules import Rules
from netplane.backends.nftables import NFTABLES
from netplane.errors import KernelError, OwnershipError
from netplane.kernel import command
from netplane.kernel.host import Host
from netplane.kernel.netns import Namespace
from netplane.kernel.nftables import NftablesDriver
from netplane.kernel.transactions import OwnTransactions
from netplane.model.address import Family, Protocol
from netplane.programs.nftables import Found, NftablesChanges
from netplane.programs.nftables_changes import as_found, changes_from_found
from netplane.programs.program import Program

pytestmark = pytest.mark.kernel

TCP, UDP = Protocol.TCP, Protocol.UDP
DUAL = ("10.244.1.5/24", "fd00:244:1::5/64")


@dataclass(frozen=True)
class Here:
    """A namespace with rules in it, and a driver that only reads."""

    run: Callable[[Callable[[], Any]], Any]
    rules: Rules
    driver: NftablesDriver

    def nft(self, *words: str, script: str | None = None) -> str:
        return self.run(lambda: command.run("nft", *words, stdin=script, mechanism="nft", doing="test"))

    def add(self, *attachments: Attachment) -> None:
        for each in attachments:
            self.run(lambda each=each: self.rules.add(each))

    def reconcile(self, *attachments: Attachment):
        return self.run(lambda: self.rules.reconcile(attachments))

    def found(self) -> Found:
        """What there is; sets without elements have no entry among the elements."""
        return {
            family: replace(table, elements={name: each for name, each in table.elements.items() if each})
            for family, table in self.driver.read().items()
        }

    def elements(self) -> dict[Any, Any]:
        return elements(self.found())


def elements(found: Found) -> dict[Any, Any]:
    """All elements that there are."""
    return {(family, name): dict(each) for family, table in found.items() for name, each in table.elements.items()}


@pytest.fixture
def blank() -> Iterator[Here]:
    """Nothing was reconciled yet."""
    with (
        Namespace() as namespace,
        namespace.run(Rules) as rules,
        namespace.run(lambda: NftablesDriver(table=TABLE)) as driver,
    ):
        yield Here(namespace.run, rules, driver)


@pytest.fixture
def here(blank) -> Here:
    blank.reconcile()
    return blank


def wanted(*attachments: Attachment) -> Found:
    return as_found(program(attachments))


def mapped(number: int, *ports: PortMapping, **changes: Any) -> Attachment:
    return attachment(number, ports=ports or (PortMapping(TCP, 8000 + number, 80),), **changes)


# --- coming and going -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "every",
    [
        [attachment(5)],
        [attachment(5, *DUAL), attachment(6)],
        [mapped(5), attachment(6, mode=Mode.ROUTED), mapped(7, mode=Mode.ROUTED, snat=False)],
        [mapped(5, PortMapping(UDP, 53, 53), PortMapping(TCP, 53, 53, ip_address("192.0.2.1"))), attachment(6)],
        [attachment(5, masquerade_not_to=()), attachment(6, mode=Mode.ROUTED, masquerade_not_to=())],
        [attachment(number, masquerade_not_to=(*CLUSTER, ip_network(f"172.16.{number}.0/24"))) for number in (5, 6)],
    ],
)
def test_what_is_added_is_what_the_program_says(here, every):
    here.add(*every)
    assert here.found() == wanted(*every)
    for each in every:
        here.rules.check(each)
        here.rules.remove(each)
    assert here.elements() == {}


def test_an_attachment_that_needs_nothing_touches_nothing(here):
    here.add(attachment(masquerade=False))
    here.rules.remove(attachment(masquerade=False))
    assert here.found() == {}
    assert not here.rules.disturbed()


def test_adding_and_removing_again_changes_nothing(here):
    here.add(mapped(5), mapped(5))
    assert here.found() == wanted(mapped(5))
    here.rules.remove(mapped(5))
    before = here.found()
    here.rules.remove(mapped(5))
    assert here.found() == before


def test_removing_what_was_never_added_is_no_error(here):
    here.rules.remove(mapped(5))
    here.add(mapped(6))
    here.rules.remove(mapped(7))
    assert here.found() == wanted(mapped(6))


def test_an_attachment_that_comes_back_with_other_ports_has_only_those(here):
    here.add(mapped(5), replace(mapped(5), ports=(PortMapping(TCP, 9000, 80),)))
    assert here.elements() == elements(wanted(replace(mapped(5), ports=(PortMapping(TCP, 9000, 80),))))


def test_rules_are_used_from_any_thread_once_their_structure_is_there(here):
    here.add(attachment(5))
    here.rules.add(attachment(6))
    assert here.found() == wanted(attachment(5), attachment(6))


def test_random_comings_and_goings_end_where_the_program_is(here):
    chance = random.Random(44)
    pool = [
        mapped(
            number,
            PortMapping(chance.choice([TCP, UDP]), number, 80),
            mode=chance.choice([Mode.BRIDGE, Mode.ROUTED]),
            snat=chance.random() < 0.5,
            masquerade=chance.random() < 0.7,
        )
        for number in range(2, 30)
    ]
    there: dict[Any, Attachment] = {}
    for _ in range(300):
        each = chance.choice(pool)
        if each.id in there:
            here.rules.remove(there.pop(each.id))
        else:
            here.add(each)
            there[each.id] = each
    assert here.elements() == elements(wanted(*there.values()))
    assert not here.reconcile(*there.values())


# --- one port for one ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        (PortMapping(TCP, 80, 1), PortMapping(TCP, 80, 2), "host tcp port 80 (IPv4) is taken"),
        (
            PortMapping(UDP, 53, 1, ip_address("192.0.2.1")),
            PortMapping(UDP, 53, 2, ip_address("192.0.2.1")),
            "host udp port 53 of 192.0.2.1 (IPv4) is taken",
        ),
        (PortMapping(TCP, 80, 1), PortMapping(TCP, 80, 2, ip_address("0.0.0.0")), "host tcp port 80 (IPv4) is taken"),
    ],
)
def test_two_cannot_have_one_port_and_both_are_named(here, first, second, said):
    here.add(mapped(5, first, pod="shop/web"))
    before = here.found()
    with pytest.raises(Failure) as refused:
        here.add(mapped(6, second))
    assert refused.value.code is Code.DUPLICATE
    assert refused.value.msg == said
    assert refused.value.details == "net/c6/eth0 wants what net/c5/eth0 (pod shop/web) has"
    here.rules.remove(mapped(6, second))  # as whoever undoes the attachment does
    assert here.found() == before
    here.rules.remove(mapped(5, first))
    here.add(mapped(6, second))
    assert here.found() == wanted(mapped(6, second))


@pytest.mark.parametrize(
    "second",
    [
        PortMapping(UDP, 80, 2),
        PortMapping(TCP, 81, 2),
        PortMapping(TCP, 80, 2, ip_address("192.0.2.1")),
        PortMapping(TCP, 80, 2, ip_address("::")),
    ],
)
def test_two_that_differ_can_coexist(here, second):
    here.add(mapped(5, PortMapping(TCP, 80, 1)), mapped(6, second))
    assert here.found() == wanted(mapped(5, PortMapping(TCP, 80, 1)), mapped(6, second))


# --- what others do -------------------------------------------------------------------------------------------------

DISTURBANCES = {
    "the tables": "delete table ip netplane-pods",
    "everything": "flush ruleset",
    "a rule": "flush chain ip netplane-pods postrouting",
    "an element": "flush set ip netplane-pods selves",
    "elements of a map": "flush map ip netplane-pods host-ports",
    "a stranger's rule": "add rule ip netplane-pods postrouting accept",
    "a stranger's element": "add element ip netplane-pods selves { 1.2.3.4 . 1.2.3.4 }",
    "a stranger's chain": "add chain ip netplane-pods strange",
    "other data": "delete element ip netplane-pods host-ports { tcp . 8005 }\n"
    "add element ip netplane-pods host-ports { tcp . 8005 : 1.2.3.4 . 5 }",
}


@pytest.mark.parametrize("script", DISTURBANCES.values(), ids=DISTURBANCES)
def test_what_others_did_is_noticed_mended_and_told(here, script):
    every = [mapped(5), attachment(6)]
    here.add(*every)
    assert not here.rules.disturbed()
    here.nft("-f", "-", script=script)
    assert here.rules.disturbed()
    differed = here.reconcile(*every)
    assert differed
    assert differed.told()
    assert here.found() == wanted(*every)
    assert not here.rules.disturbed()
    assert not here.reconcile(*every)


@pytest.mark.parametrize(
    "script", [each for each in DISTURBANCES.values() if "strange" not in each and "1.2.3" not in each]
)
def test_check_says_what_is_missing(here, script):
    here.add(mapped(5), attachment(6))
    here.rules.check(mapped(5))
    here.nft("-f", "-", script=script)
    with pytest.raises(Failure) as failed:
        here.rules.check(mapped(5))
    assert failed.value.code is Code.DIFFERS
    assert failed.value.details


def test_check_of_one_does_not_mind_what_another_lacks(here):
    here.add(mapped(5), mapped(6))
    here.nft("delete element ip netplane-pods host-ports { tcp . 8006 }")
    here.rules.check(mapped(5))
    with pytest.raises(Failure):
        here.rules.check(mapped(6))


@pytest.mark.parametrize("script", ["delete table ip netplane-pods", "flush ruleset"])
def test_adding_and_removing_go_on_where_everything_was_deleted(here, script):
    here.add(mapped(5), mapped(6))
    here.nft("-f", "-", script=script)
    here.rules.remove(mapped(6))
    here.add(mapped(7))
    assert here.found() == wanted(mapped(5), mapped(7))


def test_an_addition_that_the_kernel_refuses_leaves_nothing(here):
    """A stranger's element has the port with other data: it is ours to replace, once everything was read."""
    here.add(mapped(5))
    here.nft("add element ip netplane-pods host-ports { tcp . 8006 : 1.2.3.4 . 5 }")
    here.add(mapped(6))
    assert here.found() == wanted(mapped(5), mapped(6))


@pytest.mark.parametrize("words", ["", '{ comment "somebody else"; }'])
@pytest.mark.parametrize("ip", ["ip", "ip6"])
def test_a_foreign_table_of_our_name_is_left_alone(blank, ip, words):
    blank.nft("-f", "-", script=f"add table {ip} netplane-pods {words}")
    before = blank.nft("list", "ruleset")
    dual = attachment(5, *DUAL)
    for work in (
        lambda: blank.rules.add(dual),
        lambda: blank.rules.reconcile([dual]),
        lambda: blank.rules.check(dual),
        lambda: blank.rules.sweep_all(),
    ):
        with pytest.raises(OwnershipError, match="netplane-pods is not ours"):
            blank.run(work)
    assert blank.nft("list", "ruleset") == before


def test_strangers_and_the_services_stay(here):
    """Two tables of ours in one namespace: neither program sees the other."""
    here.nft("-f", "-", script="table inet other { chain a { accept; }; }")

    def services() -> None:
        with Host() as host:
            host.apply(Program(nftables=services_program()), reread=True)

    here.run(services)
    before = here.nft("list", "table", "ip", "netplane"), here.nft("list", "table", "inet", "other")
    here.add(mapped(5))
    with here.run(Host) as host:
        want = Program(nftables=services_program())
        here.run(lambda: host.apply(want, reread=True))
        here.add(mapped(6))
        summary = here.run(lambda: host.apply(want, reread=True))
        assert not summary.changed
        assert not summary.drift
        here.run(lambda: host.apply(Program(), reread=True))
        assert here.found() == wanted(mapped(5), mapped(6))
        here.run(lambda: host.apply(want, reread=True))
    assert here.run(here.rules.sweep_all)
    assert (here.nft("list", "table", "ip", "netplane"), here.nft("list", "table", "inet", "other")) == before


def services_program():
    from builders import node, plan_of, service, slices, up

    return NFTABLES.compile(plan_of(node(), service(), *slices("web", up("10.244.1.5", "n1")))).program.nftables


def test_drivers_that_share_their_count_do_not_disturb_each_other(blank):
    own = OwnTransactions()
    with blank.run(lambda: Rules(own)) as rules, blank.run(lambda: NftablesDriver(own)) as other:
        blank.run(lambda: rules.reconcile([attachment(5)]))
        blank.run(lambda: other.make(changes_from_found({}, services_program())))
        assert not rules.disturbed()
        blank.nft("add table ip stranger")
        assert rules.disturbed()


# --- processes without memory ----------------------------------------------------------------------------------------


def test_another_process_finds_what_the_last_one_left_and_sweeps_what_is_gone(here):
    here.add(mapped(5), attachment(6, mode=Mode.ROUTED))
    with here.run(Rules) as later:
        assert here.run(lambda: later.reconcile([attachment(7)]))
        assert here.found() == wanted(attachment(7))


def test_the_last_one_to_go_leaves_structure_and_the_next_process_removes_it(here):
    here.add(mapped(5))
    here.rules.remove(mapped(5))
    assert here.found()
    assert not here.reconcile()
    with here.run(Rules) as later:
        assert here.run(lambda: later.reconcile([]))
    assert here.found() == {}


def test_everything_is_removed_at_once_and_nothing_of_it_twice(here):
    here.add(mapped(5, *(PortMapping(TCP, port, 80) for port in range(1, 30))), attachment(6, *DUAL))
    assert here.run(here.rules.sweep_all)
    assert here.nft("list", "ruleset") == ""
    assert not here.run(here.rules.sweep_all)
    here.add(mapped(5))
    assert here.found() == wanted(mapped(5))


def test_adding_without_knowing_the_others_takes_nothing_of_theirs(here):
    """A process that never reconciled must not write a chain that lacks the rules of others."""
    here.add(mapped(5), attachment(6, masquerade_not_to=(ip_network("10.0.0.0/8"),)))
    before = here.found()
    with here.run(Rules) as later:
        with pytest.raises(KernelError, match="does not know"):
            here.run(lambda: later.add(attachment(7)))
        assert here.found() == before
        here.run(lambda: later.remove(mapped(5)))
        assert here.elements() == elements(wanted(attachment(6, masquerade_not_to=(ip_network("10.0.0.0/8"),))))


def test_adding_without_knowing_the_others_works_where_all_are_alike(here):
    here.add(attachment(5))
    with here.run(Rules) as later:
        here.run(lambda: later.add(attachment(6)))
    assert here.found() == wanted(attachment(5), attachment(6))


@pytest.mark.parametrize("seed", range(6))
def test_what_was_interrupted_anywhere_is_finished_by_the_next(here, seed):
    """Half of a reconcile: structure without elements, elements without hooks, sets without chains."""
    chance = random.Random(seed)
    every = [mapped(number, mode=chance.choice([Mode.BRIDGE, Mode.ROUTED])) for number in range(2, 9)]
    changes = changes_from_found({}, program(every))
    lines = changes.make_structure.splitlines(keepends=True)
    half = NftablesChanges(make_structure="".join(lines[: chance.randint(1, len(lines))]))
    here.run(lambda: here.driver.make(half))
    if chance.random() < 0.5:
        here.run(lambda: here.driver.make(NftablesChanges(changes.make_structure, changes.make_elements)))
    with here.run(Rules) as later:
        here.run(lambda: later.reconcile(every))
        assert here.found() == wanted(*every)
        assert not here.run(lambda: later.reconcile(every))


def test_ten_thousand(here):
    every = [
        mapped(number, PortMapping(TCP, number, 80)) if number % 2 else attachment(number)
        for number in range(1, 10_001)
    ]
    assert here.reconcile(*every).count > 10_000
    assert not here.reconcile(*every)
    assert not here.rules.disturbed()
    here.rules.remove(every[17])
    here.add(every[17])
    assert here.found() == wanted(*every)
    assert len(here.reconcile().told()) == 21
    assert here.elements() == {}


def test_a_foreign_family_is_no_obstacle(here):
    """A table `inet netplane-pods` is another table, whoever made it."""
    here.nft("-f", "-", script="table inet netplane-pods { chain a { }; }")
    here.add(attachment(5, *DUAL))
    assert here.found() == wanted(attachment(5, *DUAL))
    assert set(here.found()) == set(Family)


def test_where_the_pod_network_masquerades_the_rules_here_do_not_and_host_ports_stay(here):
    pod, other = mapped(5), attachment(6)
    here.add(pod)
    before = here.elements()
    assert any(name.startswith("masquerade-") for _, name in before)
    here.rules.masquerade = False
    assert here.rules.disturbed()
    here.reconcile(pod)
    here.add(other)
    here.run(lambda: here.rules.check(other))
    kept = {name for _, name in here.elements()}
    assert "host-ports" in kept
    assert not [name for name in kept if name.startswith("masquerade-")]
    here.rules.masquerade = True
    here.reconcile(pod)
    assert here.elements() == before
