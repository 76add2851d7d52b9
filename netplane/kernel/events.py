"""Who changes nftables: the kernel's own notifications, and which of them concern what is ours.

The kernel tells every transaction to the group NFNLGRP_NFTABLES of its network namespace: a message per object, then
one (NEWGEN) with the process that did it. iptables of the nf_tables variant is told as well, the legacy one is not.
Numbers are those of linux/netfilter/nfnetlink.h and nf_tables.h.
"""

from __future__ import annotations

import errno
import socket
import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple

from netplane.closing import Closing
from netplane.errors import KernelError
from netplane.kernel import netlink
from netplane.kernel.netlink import as_text, each_attribute, messages
from netplane.model.address import Family
from netplane.programs import iptables, nftables
from netplane.programs.program import NETWORK_TABLE, Program

_GROUP = 7  # NFNLGRP_NFTABLES
_SOL_NETLINK, _ADD_MEMBERSHIP, _DROP_MEMBERSHIP = 270, 1, 2
_RECEIVE_BUFFER = 2 << 20
_DATAGRAM = 1 << 16
_AT_ONCE = 256
"""Datagrams read before others get a turn."""

_SUBSYSTEM = 10  # NFNL_SUBSYS_NFTABLES
_NEW_GENERATION = 15
_CHAINS, _RULES = (3, 5), (6, 8)
_PROCESS_ID, _PROCESS_NAME = 2, 3  # NFTA_GEN_PROC_*
_TABLE_NAME = 1  # the same in every kind of object
_CHAIN_NAME, _CHAIN_OF_RULE = 3, 2
_FAMILIES = {2: Family.IPV4, 10: Family.IPV6}  # NFPROTO_*
_SUBJECT = 4  # nfgenmsg


class Change(NamedTuple):
    """What one notification is about. `chain` is "" for what belongs to no chain."""

    family: Family
    table: str
    chain: str = ""


class Generation(NamedTuple):
    """The end of a transaction: `nft[4711]`, the process that made it, with its id outside of all containers."""

    by: str


def concerns(change: Change, want: Program) -> bool:
    """Whether a change may be one of what is ours, where `want` was applied: all of it is made, all else is swept."""
    if change.table in (nftables.TABLE, NETWORK_TABLE):
        return True
    if change.table == nftables.KUBE_PROXY_TABLE:
        return want.serves
    if change.table not in iptables.TABLES:
        return False
    if iptables.is_ours(change.chain):
        return True
    frame = want.iptables.frames.get((change.family, change.table))
    if frame is None:
        return False
    return not change.chain or any(jump.chain == change.chain for jump in frame.jumps)


class RulesetEvents(Closing):
    """Listens in the network namespace of the thread that creates it, from `join` until `leave`."""

    def __init__(self) -> None:
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, netlink.NETFILTER
        )
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
        self._socket.bind((0, 0))  # whoever has no address of its own is passed over
        self._joined = False
        self._concerned = False

    def fileno(self) -> int:
        """A descriptor that is readable when `read` may have something to say."""
        return self._socket.fileno()

    def join(self) -> None:
        """Be told of what changes from now on."""
        if not self._joined:
            self._member(_ADD_MEMBERSHIP, "join its notifications")
            self._joined = True

    def leave(self) -> None:
        """Be told nothing more. What was told before can still be read."""
        if self._joined:
            self._member(_DROP_MEMBERSHIP, "leave its notifications")
            self._joined = False

    def read(self, want: Program) -> str | None:
        """Who changed something of ours, as far as the kernel told; None if nobody did. Never waits.

        If notifications were lost it is taken for sure that somebody did.
        """
        return next(self._culprits(want, _AT_ONCE), None)

    def drain(self, want: Program) -> str | None:
        """Like `read`, until nothing is waiting any more: after `leave`."""
        culprits = [*self._culprits(want, sys.maxsize)]
        return culprits[0] if culprits else None

    def _culprits(self, want: Program, limit: int) -> Iterator[str]:
        for datagram in self._datagrams(limit):
            if datagram is None:
                self._concerned = False
                yield "somebody; too much changed at once"
                continue
            for told in decode(datagram):
                if isinstance(told, Change):
                    self._concerned = self._concerned or concerns(told, want)
                elif self._concerned:
                    self._concerned = False
                    yield told.by

    def _datagrams(self, limit: int) -> Iterator[bytes | None]:
        """What is waiting; None in the place of what was lost."""
        for _ in range(limit):
            try:
                yield self._socket.recv(_DATAGRAM)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                yield None

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def _member(self, option: int, doing: str) -> None:
        try:
            self._socket.setsockopt(_SOL_NETLINK, option, _GROUP)
        except OSError as error:
            raise KernelError(mechanism="nftables", doing=doing, said=str(error.strerror)) from error


def decode(datagram: bytes) -> Iterator[Change | Generation]:
    """What the messages of one datagram tell, in order; those of other families than IPv4 and IPv6 are left out."""
    for kind, _, _, body in messages(datagram):
        if kind >> 8 == _SUBSYSTEM and len(body) >= _SUBJECT:
            with suppress(ValueError):  # an attribute that does not fit: of a kernel that speaks otherwise
                told = _generation(body) if kind & 0xFF == _NEW_GENERATION else _change(kind & 0xFF, body)
                if told is not None:
                    yield told


def _change(message: int, body: bytes) -> Change | None:
    family = _FAMILIES.get(body[0])
    if family is None:
        return None
    wanted = _CHAIN_NAME if message in _CHAINS else _CHAIN_OF_RULE if message in _RULES else 0
    table = chain = ""
    for kind, value in each_attribute(body, _SUBJECT):
        if kind == _TABLE_NAME:
            table = as_text(value)
            if not wanted:
                break
        elif kind == wanted:
            chain = as_text(value)
            break
    return Change(family, table, chain)


def _generation(body: bytes) -> Generation:
    name, number = "somebody", ""
    for kind, value in each_attribute(body, _SUBJECT):
        if kind == _PROCESS_NAME:
            name = as_text(value)
        elif kind == _PROCESS_ID:
            number = f"[{int.from_bytes(value, 'big')}]"
    return Generation(name + number)
