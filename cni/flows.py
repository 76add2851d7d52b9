"""Connections that the kernel remembers wrongly once rules have changed: of UDP, which never begins anew.

A client that went on sending to a host port while nobody had it, or while another container had it, stays where its
first packet went for as long as it goes on. So what a host port's clients were told before is forgotten when its rules
come and when they go. The kernel walks through its whole table for that (of 262144 buckets in 1 ms to erase, in 10 ms
to choose, tried on 6.18): only attachments with a UDP host port pay for it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

from cni.attachment import Attachment
from netplane.closing import Closing
from netplane.kernel import netlink
from netplane.kernel.addresses import addresses_of
from netplane.kernel.conntrack import Connection, Conntrack, Pattern
from netplane.kernel.netlink import NetlinkSocket
from netplane.model.address import Family, IPAddress, Protocol, family_of

_UDP = Protocol.UDP.number
_ERASURES = 8
"""As many take as long as choosing once."""


@dataclass(frozen=True, slots=True)
class _Port:
    """A UDP host port: where clients send to (None: any address of the node), and who answers."""

    family: Family
    address: IPAddress | None
    port: int
    answers: tuple[IPAddress, int]

    def asked(self, connection: Connection, here: frozenset[IPAddress]) -> bool:
        """Whether a client sent to it."""
        to = connection.original
        at = to.destination == self.address if self.address is not None else to.destination in here
        return at and to.destination_port == self.port


class Flows(Closing):
    """The connections of the network namespace of the thread that creates this; used by one thread at a time."""

    def __init__(self) -> None:
        self._conntrack = Conntrack()
        self._addresses = NetlinkSocket(netlink.ROUTE, "addresses")

    def attached(self, attachment: Attachment) -> None:
        """After its rules were made: forget what clients of its UDP host ports were told when it was not there."""
        ports = list(_udp_ports(attachment))
        here = addresses_of(self._addresses) if any(each.address is None for each in ports) else frozenset()
        for family in {each.family for each in ports}:
            self._forget_others([each for each in ports if each.family is family], here)

    def detached(self, attachment: Attachment) -> None:
        """After its rules were removed: forget that it answers for its UDP host ports."""
        ports = list(_udp_ports(attachment))
        for each in ports:
            pattern = Pattern(_UDP, each.family, each.address, each.port, each.answers)
            if not self._conntrack.erase(pattern):
                self._conntrack.delete(self._conntrack.choose(pattern, lambda _: True))

    def forget(self, addresses: Collection[IPAddress]) -> None:
        """Forget every connection of containers that are gone. 10 ms and more: for many at once, and not in an ADD."""
        self._conntrack.erase_hosts(addresses)

    def close(self) -> None:
        """Close the sockets."""
        self._conntrack.close()
        self._addresses.close()

    def _forget_others(self, ports: list[_Port], here: frozenset[IPAddress]) -> None:
        """Whoever else answers for these ports, of one family. Whose rules were just made answers for none yet."""
        patterns = [
            Pattern(_UDP, each.family, address, each.port)
            for each in ports
            for address in ([each.address] if each.address is not None else _of_family(here, each.family))
        ]
        if len(patterns) <= _ERASURES and all(self._conntrack.erase(each) for each in patterns):
            return

        def wanted(to: Connection) -> bool:
            return any(each.asked(to, here) and to.reply[:2] != each.answers for each in ports)

        pattern = Pattern(_UDP, ports[0].family)
        if len(ports) == 1:
            pattern = pattern._replace(destination=ports[0].address, port=ports[0].port)
        self._conntrack.delete(self._conntrack.choose(pattern, wanted))


def _of_family(addresses: Iterable[IPAddress], family: Family) -> list[IPAddress]:
    return [each for each in addresses if family_of(each) is family]


def _udp_ports(attachment: Attachment) -> Iterator[_Port]:
    for mapping in attachment.ports:
        host = mapping.host_address
        for family in Family if mapping.protocol is Protocol.UDP else ():
            own = [each.address.ip for each in attachment.addresses if each.address.version == family]
            if own and (host is None or family_of(host) is family):
                address = None if host is None or host.is_unspecified else host
                yield _Port(family, address, mapping.host_port, (own[0], mapping.container_port))
