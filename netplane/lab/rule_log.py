"""The rules of legacy iptables a traced packet met: the kernel logs each one that matches, and this listens.

Tracing is one bit of the packet for nftables and for legacy iptables, so whoever sets it with nftables traces both.
Legacy tables tell the packet logger of the network namespace, and that one is told to hand over to netlink group 0.
Numbers are those of linux/netfilter/nfnetlink_log.h.
"""

from __future__ import annotations

import os
import re
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from netplane.closing import Closing
from netplane.errors import KernelError
from netplane.kernel import sysctls
from netplane.kernel.netlink import NETFILTER, as_text, attribute, each_attribute, messages

_LOGGERS = {"ip": "net/netfilter/nf_log/2", "ip6": "net/netfilter/nf_log/10"}
_NETLINK_LOGGER = "nfnetlink_log"
_NAMES = {"ip": Path("/proc/thread-self/net/ip_tables_names"), "ip6": Path("/proc/thread-self/net/ip6_tables_names")}

_FAMILIES = {2: "ip", 10: "ip6"}  # AF_INET, AF_INET6
_PACKET, _CONFIG = 0x400, 0x401  # NFNL_SUBSYS_ULOG, NFULNL_MSG_*
_PREFIX = 10  # NFULA_PREFIX
_REQUEST_ACK = 0x5
_CONFIGURATION = (
    attribute(1, b"\x01"),  # NFULA_CFG_CMD: bind to the group
    attribute(2, struct.pack(">IBx", 0, 1)),  # NFULA_CFG_MODE: no bytes of the packet
    attribute(5, struct.pack(">I", 1)),  # NFULA_CFG_QTHRESH: tell every packet at once
)
_HEADER = struct.Struct("=IHHII")
_SUBJECT = struct.Struct(">BBH")  # family, version, group
_BUFFER, _DATAGRAM = 1 << 20, 1 << 16
# TRACE: nat:KUBE-SERVICES:rule:3
_TRACE = re.compile(r"TRACE: (?P<table>[^:]+):(?P<chain>.+):(?P<kind>rule|return|policy):(?P<number>\d+) ?\Z")


class Logged(NamedTuple):
    """One rule that matched: the `number`th of its chain, from 1. `kind` is `rule`, or the chain's end."""

    family: str
    table: str
    chain: str
    kind: str
    number: int


def legacy_families() -> tuple[str, ...]:
    """`ip`, `ip6`: those with legacy tables in the calling thread's namespace."""
    return tuple(family for family, names in _NAMES.items() if names.exists() and names.read_text().strip())


class RuleLog(Closing):
    """Listens in the network namespace of the thread that creates it, for `families`, until it is closed.

    The loggers are then those of before. Raises KernelError if somebody else listens to group 0 already.
    """

    def __init__(self, families: tuple[str, ...]) -> None:
        self._before = {_LOGGERS[family]: sysctls.read(_LOGGERS[family]) for family in families}
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETFILTER)
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
            for configuration in _CONFIGURATION:
                self._configure(configuration)
            self._socket.setblocking(False)
            sysctls.write(dict.fromkeys(self._before, _NETLINK_LOGGER))
        except BaseException:
            self._socket.close()
            raise

    def read(self) -> Iterator[Logged]:
        """What was logged and not read yet. Never waits: the kernel tells before the packet goes on."""
        while True:
            try:
                datagram = self._socket.recv(_DATAGRAM)
            except BlockingIOError:
                return
            yield from decode(datagram)

    def close(self) -> None:
        """Stop listening. To be called in the namespace it was opened in."""
        sysctls.write(self._before)
        self._socket.close()

    def _configure(self, configuration: bytes) -> None:
        body = _SUBJECT.pack(0, 0, 0) + configuration
        self._socket.send(_HEADER.pack(_HEADER.size + len(body), _CONFIG, _REQUEST_ACK, 0, 0) + body)
        answer = self._socket.recv(_DATAGRAM)  # the kernel answers before `send` returns
        number = -struct.unpack_from("=i", answer, _HEADER.size)[0]
        if number:
            raise KernelError(mechanism="trace", doing="listen to the packet log", said=os.strerror(number))


def decode(datagram: bytes) -> Iterator[Logged]:
    """The traces in one datagram; other packets that are logged are left out."""
    for message in messages(datagram):
        if message.kind != _PACKET or len(message.payload) < _SUBJECT.size:
            continue
        family = _FAMILIES.get(message.payload[0], "")
        for kind, value in each_attribute(message.payload, _SUBJECT.size) if family else ():
            if kind == _PREFIX and (found := _TRACE.match(as_text(value))):
                yield Logged(family, found["table"], found["chain"], found["kind"], int(found["number"]))
