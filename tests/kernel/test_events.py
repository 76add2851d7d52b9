"""What the kernel tells of changes of nftables, decoded, and whom it concerns."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from netplane.kernel import command
from netplane.kernel.events import Change, Generation, RulesetEvents, concerns, decode
from netplane.kernel.netlink import attribute, text
from netplane.kernel.netns import Namespace
from netplane.model.address import Family
from netplane.programs.iptables import Frame, IptablesProgram, Jump
from netplane.programs.nftables import NftablesProgram
from netplane.programs.program import Program

NOTHING = Program()
JUMPS = Frame({"KUBE-SERVICES": ()}, (Jump("PREROUTING", "-j KUBE-SERVICES"),))
IPTABLES = Program(iptables=IptablesProgram(frames={(Family.IPV4, "nat"): JUMPS}))
NFTABLES = Program(nftables=NftablesProgram(structure={Family.IPV4: ()}))  # type: ignore[dict-item]

FOUR, SIX = Family.IPV4, Family.IPV6


# --- whom it concerns -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "want", "ours"),
    [
        (Change(FOUR, "netplane"), NOTHING, True),
        (Change(SIX, "netplane", "masq-pick-2"), NOTHING, True),
        (Change(FOUR, "other"), NOTHING, False),
        (Change(FOUR, "netplane-too", "c"), NOTHING, False),
        (Change(FOUR, "netplane-pods", "postrouting"), IPTABLES, False),
        (Change(FOUR, "nat", "KUBE-SERVICES"), NOTHING, True),
        (Change(FOUR, "nat", "KUBE-SVC-AAAAAAAAAAAAAAAA"), IPTABLES, True),
        (Change(FOUR, "raw", "KUBE-SERVICES"), IPTABLES, False),
        (Change(FOUR, "nat", "DOCKER"), IPTABLES, False),
        (Change(FOUR, "nat", "KUBE-FIREWALL"), IPTABLES, False),
        (Change(FOUR, "nat", "PREROUTING"), IPTABLES, True),
        (Change(FOUR, "nat", "OUTPUT"), IPTABLES, False),
        (Change(SIX, "nat", "PREROUTING"), IPTABLES, False),
        (Change(FOUR, "nat", "PREROUTING"), NOTHING, False),
        (Change(FOUR, "nat"), IPTABLES, True),
        (Change(FOUR, "filter"), IPTABLES, False),
        (Change(FOUR, "nat"), NOTHING, False),
        (Change(FOUR, "kube-proxy"), NOTHING, False),
        (Change(FOUR, "kube-proxy"), IPTABLES, True),
    ],
)
def test_what_concerns_us(change, want, ours):
    assert concerns(change, want) is ours


# --- bytes ----------------------------------------------------------------------------------------------------------


def message(kind: int, family: int, *parts: bytes, subsystem: int = 10) -> bytes:
    body = bytes((family, 0, 0, 0)) + b"".join(parts)
    return struct.pack("=IHHII", 16 + len(body), subsystem << 8 | kind, 0, 0, 0) + body


def test_a_transaction_is_its_changes_and_then_who_made_it():
    chain = message(3, 2, text(1, "nat"), attribute(2, bytes(8)), text(3, "KUBE-SERVICES"))
    rule = message(6, 10, text(1, "nat"), text(2, "KUBE-SERVICES"))
    element = message(12, 2, text(1, "netplane"), text(2, "endpoints"))
    who = message(15, 0, attribute(1, bytes(4)), attribute(2, struct.pack(">I", 4711)), text(3, "nft"))
    assert [*decode(chain + rule + element + who)] == [
        Change(FOUR, "nat", "KUBE-SERVICES"),
        Change(SIX, "nat", "KUBE-SERVICES"),
        Change(FOUR, "netplane"),
        Generation("nft[4711]"),
    ]


@pytest.mark.parametrize(
    "datagram",
    [
        b"",
        b"x" * 19,
        message(0, 1, text(1, "netplane")),  # family inet
        message(0, 2, text(1, "netplane"), subsystem=1),
        message(0, 2, b"\xff\xff\x01\x00"),  # an attribute longer than the message
        struct.pack("=IHHII", 0, 10 << 8, 0, 0, 0) + bytes(4),
        struct.pack("=IHHII", 1 << 31, 1 << 8, 0, 0, 0) + bytes(4),
    ],
)
def test_what_does_not_concern_nftables_or_is_garbage_is_left_out(datagram):
    assert [told for told in decode(datagram) if told != Change(FOUR, "")] == []


def test_names_that_are_no_text_do_not_end_the_agent():
    assert [*decode(message(0, 2, attribute(1, b"\xff\xfe\0")))] == [Change(FOUR, "\\xff\\xfe")]


# --- the kernel's own -----------------------------------------------------------------------------------------------


@dataclass
class Told:
    namespace: Namespace
    events: RulesetEvents

    def nft(self, script: str) -> None:
        self.namespace.run(
            lambda: command.run(
                "nft",
                "-f",
                "-",
                stdin=script,
                mechanism="nftables",
                doing="test",
            )
        )

    def by(self, script: str, want: Program = NOTHING) -> str | None:
        """Who, according to the kernel, changed what is ours, after nft carried out `script`."""
        self.nft(script)
        return self.events.drain(want)


@pytest.fixture
def told() -> Iterator[Told]:
    with Namespace() as namespace, namespace.run(RulesetEvents) as events:
        events.join()
        yield Told(namespace, events)


OURS = "table ip netplane { set s { type ipv4_addr; }; chain c { accept; }; }"


@pytest.mark.kernel
class TestKernel:
    def test_who_makes_a_table_of_our_name_is_named(self, told):
        assert told.by("add table ip netplane").startswith("nft[")

    @pytest.mark.parametrize(
        "change",
        [
            "delete table ip netplane",
            "flush chain ip netplane c",
            "add rule ip netplane c drop",
            "insert rule ip netplane c drop",
            "add chain ip netplane d",
            "add element ip netplane s { 10.0.0.1 }",
            "delete set ip netplane s",
            "flush ruleset",
        ],
    )
    def test_every_change_of_ours_is_told(self, told, change):
        told.nft(OURS)
        assert told.events.drain(NOTHING)
        assert told.by(change)

    @pytest.mark.parametrize(
        "change",
        [
            "add table ip other; add chain ip other c; add rule ip other c accept",
            "add table inet netplane; add chain inet netplane c",
            "add table ip nat; add chain ip nat DOCKER; add rule ip nat DOCKER return",
        ],
    )
    def test_changes_of_others_are_not_ours(self, told, change):
        assert told.by(change, NFTABLES) is None

    def test_the_built_in_chain_that_leads_to_ours_is_ours(self, told):
        told.nft("add table ip nat; add chain ip nat PREROUTING { type nat hook prerouting priority -100; }")
        assert told.events.drain(IPTABLES)
        assert told.by("flush chain ip nat PREROUTING; add rule ip nat PREROUTING accept", IPTABLES)
        assert told.by("add rule ip nat PREROUTING accept", NFTABLES) is None

    def test_nothing_is_told_between_leave_and_join(self, told):
        told.events.leave()
        assert told.by("add table ip netplane") is None
        told.events.join()
        told.events.join()
        assert told.by("add chain ip netplane c")

    def test_what_was_told_before_leave_can_still_be_read(self, told):
        told.nft("add table ip netplane")
        told.events.leave()
        assert told.events.drain(NOTHING)

    def test_more_than_fits_is_somebody(self, told):
        names = [f"add chain ip other c{number}" for number in range(30_000)]
        assert told.by("\n".join(["add table ip other", *names])) == "somebody; too much changed at once"
        assert told.by("add table ip more") is None
        assert told.by("add table ip netplane")

    def test_reading_never_waits_and_takes_turns(self, told):
        for number in range(300):
            told.nft(f"add table ip t{number}")
        told.nft("add table ip netplane")
        readings = 0
        while (by := told.events.read(NOTHING)) is None:
            readings += 1
            assert readings < 10
        assert by.startswith("nft[")
        assert readings > 0
        assert told.events.read(NOTHING) is None

    def test_what_packets_write_into_sets_is_not_told(self, told):
        told.nft(
            "table ip netplane { set seen { type ipv4_addr; flags dynamic,timeout; timeout 1h; }; chain out "
            "{ type filter hook output priority 0; update @seen { ip daddr }; }; }"
        )
        told.nft("table ip other { chain out { type filter hook output priority 1; drop; }; }")
        assert told.events.drain(NOTHING)

        def send() -> None:
            command.run("ip", "link", "set", "lo", "up", mechanism="links", doing="test")
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender, pytest.raises(PermissionError):
                sender.sendto(b"x", ("127.0.0.1", 9))

        told.namespace.run(send)
        listed = told.namespace.run(
            lambda: command.run("nft", "list", "set", "ip", "netplane", "seen", mechanism="nftables", doing="test")
        )
        assert "127.0.0.1" in listed
        assert told.events.drain(NOTHING) is None
