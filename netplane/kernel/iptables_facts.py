"""What can be seen of iptables, both variants, without starting a process: who has tables, and whose chains are there.

The nf_tables variant is asked for by netlink (linux/netfilter/nf_tables.h), the legacy one by getsockopt
(linux/netfilter_ipv4/ip_tables.h, ip6_tables.h). A legacy table is made by the kernel as soon as it is asked for, so
only those are that /proc lists.
"""

from __future__ import annotations

import ctypes
import os
import re
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from errno import EAGAIN, ENOENT
from pathlib import Path

from netplane.closing import Closing
from netplane.errors import KernelError, RequirementError
from netplane.kernel import netlink, nft_codec
from netplane.kernel.netlink import NetlinkSocket, as_text, attributes
from netplane.model.address import Family
from netplane.programs.iptables import MARKER, TABLES, TableKey, is_ours

_MECHANISM = "iptables"
_TABLE_NAME, _CHAIN_TABLE, _CHAIN_NAME, _CHAIN_HOOK, _CHAIN_USE = 1, 1, 3, 4, 6

_ALL_TABLES = frozenset({*TABLES, "raw", "security"})
_BUILT_IN = frozenset({"PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"})
_HINTS = frozenset({"KUBE-IPTABLES-HINT", "KUBE-KUBELET-CANARY"})

_NAMES = {Family.IPV4: "ip_tables_names", Family.IPV6: "ip6_tables_names"}
_LEVEL = {Family.IPV4: socket.IPPROTO_IP, Family.IPV6: socket.IPPROTO_IPV6}
_DOMAIN = {Family.IPV4: socket.AF_INET, Family.IPV6: socket.AF_INET6}
_GET_INFO, _GET_ENTRIES = 64, 65  # IPT_SO_GET_INFO and IPT_SO_GET_ENTRIES, the same for IPv6
_INFO = struct.Struct("=32s13I")  # ipt_getinfo: name, hooks, 5 entries, 5 underflows, number of entries, size
_ENTRIES = struct.Struct("=32sI4x")  # ipt_get_entries: name, size; then what it counts
_EMPTY = {"filter": 4, "nat": 5, "mangle": 6, "raw": 3, "security": 4}
"""Entries of a table without rules: a policy for each hook, and the end."""
# The head of a chain that users made is an ERROR target (its name has 29 bytes, then comes its revision) with the
# name of the chain.
_HEAD = re.compile(rb"ERROR\0{25}([^\0]{1,29})\0")
_ATTEMPTS = 16

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Holding:
    """What one variant holds of all that a namespace has."""

    ours: Mapping[TableKey, bool] = field(default_factory=dict)
    """The tables with chains of our names, of those we look into, and whether netplane has marked them as its own."""
    hints: bool = False
    """Whether the kubelet has put its chains here."""
    rules: tuple[TableKey, ...] = ()
    """The tables with rules or chains of anybody."""
    built_in: Mapping[TableKey, frozenset[str]] = field(default_factory=dict)
    """The tables there are, with the built-in chains they have: nf_tables ones are made when they are first used."""

    def only_marked(self) -> Holding:
        """The same as if chains in tables without our marker were not ours."""
        return replace(self, ours={key: marked for key, marked in self.ours.items() if marked})


@dataclass(slots=True)
class _Seen:
    """A table of nf_tables while its chains are read."""

    ours: bool = False
    marked: bool = False
    built_in: set[str] = field(default_factory=set)
    hints: bool = False
    used: bool = False
    foreign: bool = False

    def chain(self, name: str, chain: Mapping[int, bytes]) -> None:
        self.hints = self.hints or name in _HINTS
        self.ours = self.ours or is_ours(name)
        self.marked = self.marked or name == MARKER
        if name in _BUILT_IN:
            self.built_in.add(name)
            self.used = self.used or bool(int.from_bytes(chain.get(_CHAIN_USE, b""), "big"))  # it counts the rules
        else:
            self.used = True
            self.foreign = self.foreign or _CHAIN_HOOK in chain


def legacy_size(mark: bytes) -> int:
    """The bytes of a legacy table, from its mark."""
    size: int = _INFO.unpack(mark)[-1]
    return size


class IptablesFacts(Closing):
    """Looks at the network namespace of the thread that creates it. Used by one thread at a time."""

    def __init__(self) -> None:
        self._netlink = NetlinkSocket(netlink.NETFILTER, _MECHANISM)
        self._sockets: dict[Family, socket.socket] = {}

    def generation(self) -> int:
        """The number of the last transaction of nf_tables."""
        answers = self._netlink.ask(nft_codec.get_generation(), "read the generation")
        return int.from_bytes(nft_codec.generation(answers[0]))

    def nf_tables(self) -> Holding:
        """What iptables of the nf_tables variant has. A few milliseconds for a thousand chains."""
        tables = {key: _Seen() for family in Family for key in self._nft_tables(family)}
        for family in {family for family, _ in tables}:
            for payload in self._netlink.dump(nft_codec.get_chains(family), "read chains"):
                chain = attributes(payload, 4)
                if seen := tables.get((family, as_text(chain[_CHAIN_TABLE]))):
                    seen.chain(as_text(chain[_CHAIN_NAME]), chain)
        # Tables with other base chains are not iptables', which could not even read them.
        mine = {key: seen for key, seen in sorted(tables.items()) if not seen.foreign}
        return Holding(
            {key: seen.marked for key, seen in mine.items() if seen.ours and key[1] in TABLES},
            any(seen.hints for seen in mine.values()),
            tuple(key for key, seen in mine.items() if seen.used),
            {key: frozenset(seen.built_in) for key, seen in mine.items()},
        )

    def legacy_marks(self) -> Mapping[TableKey, bytes]:
        """For each table of the legacy variant something that is the same while it has the same size and shape."""
        marks: dict[TableKey, bytes] = {}
        for family in Family:
            for table in _listed(family):
                info = bytearray(_INFO.pack(table.encode(), *[0] * 13))
                if table in _ALL_TABLES and self._getsockopt(family, _GET_INFO, info):
                    marks[family, table] = bytes(info)
        return marks

    def legacy(self, marks: Mapping[TableKey, bytes], known: Mapping[TableKey, frozenset[str]]) -> Holding:
        """What iptables of the legacy variant has, where its tables have these marks.

        Chains of tables in `known` are not looked for: whole tables have to be copied for that.
        """
        rules = tuple(sorted(key for key, mark in marks.items() if _INFO.unpack(mark)[-2] > _EMPTY[key[1]]))
        names = {key: known[key] if key in known else self._legacy_chains(key) for key in rules}
        ours = {key: MARKER in each for key, each in names.items() if key[1] in TABLES and any(map(is_ours, each))}
        hints = any(not _HINTS.isdisjoint(each) for each in names.values())
        return Holding(ours, hints, rules, dict.fromkeys(marks, _BUILT_IN))

    def close(self) -> None:
        """Close the sockets."""
        self._netlink.close()
        for each in self._sockets.values():
            each.close()

    def _nft_tables(self, family: Family) -> list[TableKey]:
        answers = self._netlink.dump(nft_codec.get_tables(family), "read tables")
        names = (as_text(attributes(payload, 4)[_TABLE_NAME]) for payload in answers)
        return [(family, name) for name in names if name in _ALL_TABLES]

    def _legacy_chains(self, key: TableKey) -> frozenset[str]:
        for _ in range(_ATTEMPTS):
            info = bytearray(_INFO.pack(key[1].encode(), *[0] * 13))
            if not self._getsockopt(key[0], _GET_INFO, info):
                return frozenset()
            size = _INFO.unpack(info)[-1]
            entries = bytearray(_ENTRIES.size + size)
            _ENTRIES.pack_into(entries, 0, key[1].encode(), size)
            if self._getsockopt(key[0], _GET_ENTRIES, entries):
                return frozenset(name.decode(errors="backslashreplace") for name in _HEAD.findall(entries))
        said = f"it changed during each of {_ATTEMPTS} readings"
        raise KernelError(mechanism=_MECHANISM, doing=f"read legacy table {key[1]}", said=said)

    def _getsockopt(self, family: Family, option: int, buffer: bytearray) -> bool:
        """Fill `buffer`; False if the table is gone or has another size than it had."""
        if family not in self._sockets:
            try:
                self._sockets[family] = socket.socket(_DOMAIN[family], socket.SOCK_RAW, socket.IPPROTO_RAW)
            except OSError as error:
                raise RequirementError(f"iptables: cannot look at legacy tables: {error}; run as root") from error
        length = ctypes.c_uint32(len(buffer))
        place = (ctypes.c_char * len(buffer)).from_buffer(buffer)
        fd = self._sockets[family].fileno()
        if _libc.getsockopt(fd, _LEVEL[family], option, place, ctypes.byref(length)) == 0:
            return True
        number = ctypes.get_errno()
        if number in (ENOENT, EAGAIN):
            return False
        raise KernelError(mechanism=_MECHANISM, doing="look at legacy tables", said=_said(number))


def _said(number: int) -> str:
    return f"{os.strerror(number)} (errno {number})"


def _listed(family: Family) -> list[str]:
    """The legacy tables of the calling thread's namespace, in the order of their names."""
    try:
        return sorted(Path("/proc/thread-self/net", _NAMES[family]).read_text().split())
    except FileNotFoundError:  # a kernel without the legacy variant
        return []
