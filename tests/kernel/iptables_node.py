"""A namespace with iptables in it, and programs to put there: rules are exactly what `iptables-save` prints."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from netplane.kernel import command
from netplane.kernel.iptables_variants import Variant, tool
from netplane.kernel.netns import Namespace
from netplane.model.address import Family
from netplane.model.service import ServiceId
from netplane.model.table import Table
from netplane.programs.iptables import Chains, Frame, IptablesProgram, Jump, TableKey, is_ours
from netplane.programs.iptables_text import target
from netplane.programs.program import Program

Result = TypeVar("Result")

MARK = "-j MARK --set-xmark 0x4000/0x4000"
SERVICES = '-m comment --comment "kubernetes service portals" -j KUBE-SERVICES'
NEW = '-m conntrack --ctstate NEW -m comment --comment "kubernetes service portals" -j KUBE-SERVICES'
CLUSTER_IP = {Family.IPV4: "10.96.0.{}/32", Family.IPV6: "fd00:96::{:x}/128"}
ENDPOINT = {Family.IPV4: "10.1.0.{}", Family.IPV6: "fd00:1::{:x}"}
REJECT = {Family.IPV4: "icmp-port-unreachable", Family.IPV6: "icmp6-port-unreachable"}
MASK = {Family.IPV4: "255.255.255.255", Family.IPV6: "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"}


def hashed(kind: str, number: int) -> str:
    """`KUBE-SEP-AAAA...`, another one for each number."""
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
    return f"KUBE-{kind}-" + "A" * 11 + "".join(letters[number >> shift & 31] for shift in (20, 15, 10, 5, 0))


@dataclass(frozen=True)
class Service:
    """The chains of a Service: one that chooses, and one for each endpoint. Rendered when asked."""

    number: int
    endpoints: tuple[int, ...]
    affinity: bool = False

    def chains(self) -> Mapping[TableKey, Chains]:
        return {(family, "nat"): dict(self._chains(family)) for family in Family}

    def _chains(self, family: Family) -> Chains:
        seps = {each: hashed("SEP", 1000 * self.number + each) for each in self.endpoints}
        rules = [
            f"-m recent --rcheck --seconds 10800 --reap --name {sep} --mask {MASK[family]} --rsource -j {sep}"
            for sep in (seps.values() if self.affinity else ())
        ]
        for left, sep in zip(range(len(seps), 0, -1), seps.values(), strict=True):
            chance = f"-m statistic --mode random --probability {round(2**31 / left) / 2**31:.11f} "
            rules.append(f'-m comment --comment "shop/{self.number} -> {left}" {chance if left > 1 else ""}-j {sep}')
        chains = {hashed("SVC", self.number): tuple(rules)}
        for each, sep in seps.items():
            address = ENDPOINT[family].format(each)
            to = f"{address}:80" if family is Family.IPV4 else f"[{address}]:80"
            length = 32 if family is Family.IPV4 else 128
            recent = f"-m recent --set --name {sep} --mask {MASK[family]} --rsource " if self.affinity else ""
            chains[sep] = (
                f"-s {address}/{length} -j KUBE-MARK-MASQ",
                f"-p tcp {recent}-m tcp -j DNAT --to-destination {to}",
            )
        return chains


def program(services: Mapping[int, Service] | None = None, *more: Service) -> Program:
    """Both families; the first Services are dispatched to."""
    parts = {**(services or {}), **{each.number: each for each in more}}
    frames: dict[TableKey, Frame] = {}
    for family in Family:
        portals = tuple(
            f'-d {CLUSTER_IP[family].format(number)} -p tcp -m comment --comment "shop/{number} cluster IP" -m tcp '
            f"--dport 80 -j {hashed('SVC', number)}"
            for number in sorted(parts)[:40]
        )
        frames[family, "filter"] = Frame(
            {
                "KUBE-SERVICES": (
                    f"-d {CLUSTER_IP[family].format(200)} -p tcp -m tcp --dport 80 "
                    f"-j REJECT --reject-with {REJECT[family]}",
                ),
                "KUBE-FORWARD": ("-m conntrack --ctstate INVALID -j DROP", "-m mark --mark 0x4000/0x4000 -j ACCEPT"),
            },
            (
                Jump("FORWARD", NEW),
                Jump("FORWARD", '-m comment --comment "kubernetes forwarding rules" -j KUBE-FORWARD'),
                Jump("OUTPUT", NEW),
            ),
        )
        frames[family, "nat"] = Frame(
            {
                "KUBE-SERVICES": portals,
                "KUBE-MARK-MASQ": (MARK,),
                "KUBE-POSTROUTING": ("-m mark ! --mark 0x4000/0x4000 -j RETURN", "-j MASQUERADE --random-fully"),
            },
            (
                Jump("PREROUTING", SERVICES),
                Jump("OUTPUT", SERVICES),
                Jump("POSTROUTING", '-m comment --comment "kubernetes postrouting rules" -j KUBE-POSTROUTING'),
            ),
        )
    named = {ServiceId("shop", str(number)): each for number, each in parts.items()}
    return Program(iptables=IptablesProgram(frames, {}, Table(named)))


def changed(want: Program, *services: Service, gone: tuple[int, ...] = ()) -> Program:
    """The same program with other Services, which shares with it what does not change."""
    parts = want.iptables.parts
    assert isinstance(parts, Table)
    put = {ServiceId("shop", str(each.number)): each for each in services}
    parts = parts.derive(put, [ServiceId("shop", str(number)) for number in gone])
    fresh = program({int(name.name): each for name, each in parts.items()})  # type: ignore[misc]
    had = want.iptables.frames
    frames = {key: had[key] if had[key] == frame else frame for key, frame in fresh.iptables.frames.items()}
    return Program(iptables=IptablesProgram(frames, {}, parts))


SHOP = program(None, Service(1, (1, 2, 3)), Service(2, (4,), affinity=True), Service(3, ()))


@dataclass(frozen=True)
class Node:
    """A namespace, looked at and changed by other hands than ours, in one of the variants."""

    namespace: Namespace
    variant: Variant
    tables: tuple[str, ...] = field(default=("filter", "nat"))

    def run(self, work: Callable[[], Result]) -> Result:
        return self.namespace.run(work)

    def iptables(self, *words: str, family: Family = Family.IPV4, variant: Variant | None = None) -> str:
        """`iptables-nft -t nat -N MINE` of words `-t nat -N MINE`."""
        name = "nft" if (variant or self.variant) is Variant.NF_TABLES else "legacy"
        program_name = f"{'iptables' if family is Family.IPV4 else 'ip6tables'}-{name}"
        return self.run(lambda: command.run(program_name, *words, mechanism="test", doing=" ".join(words)))

    def restore(self, script: str, *words: str, family: Family = Family.IPV4, variant: Variant | None = None) -> None:
        name = tool(variant or self.variant, family, "restore")
        self.run(lambda: command.run(name, "--noflush", *words, stdin=script, mechanism="test", doing="restore"))

    def saved(self, family: Family, table: str, *words: str, variant: Variant | None = None) -> list[str]:
        """What iptables-save prints, without what changes with the clock."""
        name = tool(variant or self.variant, family, "save")
        text = self.run(lambda: command.run(name, "-t", table, *words, mechanism="test", doing="save"))
        return [line for line in text.splitlines() if not line.startswith("#")]

    def whole(self, *words: str, tables: tuple[str, ...] | None = None) -> dict[tuple[Any, str], list[str]]:
        return {
            (family, table): self.saved(family, table, *words) for family in Family for table in tables or self.tables
        }

    def others(self) -> dict[tuple[Any, str], list[str]]:
        """What is not ours, with counters.

        Without those of policies in the legacy variant: whoever changes anything sets them to zero (iptables 1.8.9).
        """
        whole = self.whole("-c", tables=("filter", "nat", "mangle"))
        left = {key: [line for line in lines if not of_us(line)] for key, lines in whole.items()}
        if self.variant is Variant.NF_TABLES:
            return left
        return {key: [re.sub(r"^(:.*) \[.*", r"\1", line) for line in lines] for key, lines in left.items()}

    def ours(self) -> list[str]:
        """Every line that is ours, whatever the table."""
        whole = self.whole(tables=("filter", "nat", "mangle"))
        return [line for lines in whole.values() for line in lines if of_us(line)]


def of_us(line: str) -> bool:
    """Whether a line of iptables-save is about a chain of ours, or leads to one."""
    line = re.sub(r"^\[\d+:\d+\] ", "", line)
    if line.startswith(":"):
        return is_ours(line[1:].split()[0])
    return line.startswith("-A ") and (is_ours(line.split()[1]) or is_ours(target(line)))
