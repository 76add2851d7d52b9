"""The links of attachments: made, doomed, deleted, compared with what they should be.

    attach    one message batch on the host (cable, port), one in the container (addresses, routes)     0.5 ms
    doom      marks a host link and stops its traffic, without waiting for the kernel                   0.05 ms
    detach    deletes links in one group: the kernel waits once for all of them                         0.6 ms each

Links are named after their attachment (`attachment.link_name`): nothing here is remembered that the kernel can tell.
"""

from __future__ import annotations

import errno
import itertools
import os
import secrets
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cached_property
from typing import NamedTuple

from cni import link_check, link_program, link_repair
from cni.attachment import LINK_PREFIXES, Attachment
from cni.bridges import Bridges
from cni.config import Mode
from cni.failure import Code, Failure
from cni.link_news import News
from cni.link_repair import Seen
from netplane.closing import Closing
from netplane.errors import KernelError
from netplane.kernel import link_orders, link_read, links, sysctls, tc
from netplane.kernel.link_read import LinkFacts
from netplane.kernel.links import LOOPBACK, Links, NotDone, Order
from netplane.kernel.netns import Visit
from netplane.model.address import IPAddress

DOOMED, DELETING = 0x6E70646D, 0x6E706465
"""Groups (IFLA_GROUP) of links that take no more packets, and of those that are being deleted."""
DAD_SECONDS = 5.0

_DOOM, _DELETE = link_orders.group(DOOMED), link_orders.group(DELETING)
# What a doomed routed link answers to: nobody sends to it, so nothing that arrives is taken in.
_DEAD = link_orders.mac(bytes.fromhex("020000000000"))
# Gone, or a port that somebody took out of its bridge: nothing arrives from it.
_NOT_THERE = frozenset({errno.ENODEV, errno.EINVAL, errno.EOPNOTSUPP})
_ATTEMPTS = 4
_POLL_SECONDS = 0.02
_FORWARDING = {4: "net/ipv4/ip_forward", 6: "net/ipv6/conf/all/forwarding"}
# The bridge is not there any more, or its number is something else's now.
_STALE_BRIDGE = frozenset({errno.EINVAL, errno.ENODEV, errno.EOPNOTSUPP, errno.ENOENT})


class Wiring(Closing):
    """Of the network namespace of the thread that makes it; used from any thread, and by several at once.

    Raises Failure for what the runtime or its configuration did, KernelError for what the kernel refused.
    """

    def __init__(self) -> None:
        self._kernel = Links()
        self._netns_fd = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        self._numbers = _numbers()
        self._forwarded: set[int] = set()
        self._ipv6 = sysctls.exists("net/ipv6/conf/all/forwarding")

    def close(self) -> None:
        """Let go of sockets and namespace; links stay."""
        for name in {"events", "_bridges"} & self.__dict__.keys():
            self.__dict__[name].close()
        self._kernel.close()
        os.close(self._netns_fd)

    @cached_property
    def events(self) -> News:
        """What the kernel tells from the first use on. Who does not listen costs the kernel nothing."""
        with Visit(self._netns_fd):
            return News()

    @cached_property
    def _bridges(self) -> Bridges:
        """Known from the first use on: who only deletes links, or routes, listens to nothing."""
        with Visit(self._netns_fd):
            return Bridges(self._kernel, self._netns_fd)

    # --- attach -----------------------------------------------------------------------------------------------------

    def attach(self, attachment: Attachment, netns_fd: int, inner: Links | None = None) -> None:
        """Make the links of an attachment, in the namespace `netns_fd` is open on. All or nothing.

        `inner` is a socket to that namespace, if there is one already: to enter it once is cheaper than twice.
        Waits for nothing but the kernel: `settle` is for afterwards.
        """
        parameters = link_program.checked_sysctls(attachment) if attachment.sysctls else {}
        if attachment.mode is Mode.CHAINED:
            self._chain(attachment, netns_fd, parameters)
            return
        self._forward(attachment)
        index = self._cable(attachment, netns_fd)
        try:
            self._host_side(attachment, index)
            self._inside(attachment, index + 1, _Inner(netns_fd, inner), parameters)
        except BaseException:
            self.detach([attachment.link])
            raise

    def _forward(self, attachment: Attachment) -> None:
        """Packets are forwarded on this host, as far as this process can tell: asked once, written once."""
        if attachment.bridge is not None and not attachment.bridge.gateway:
            return
        for version, wanted in zip((4, 6), link_program.families(attachment), strict=True):
            if wanted and version not in self._forwarded:
                self.mend_forwarding(version)
                self._forwarded.add(version)

    def mend_forwarding(self, version: int) -> bool:
        """Let the host forward packets of an IP version; whether it did not."""
        with Visit(self._netns_fd):
            if sysctls.read(_FORWARDING[version]) != "0":
                return False
            sysctls.write({_FORWARDING[version]: 1})
            return True

    def _cable(self, attachment: Attachment, netns_fd: int) -> int:
        """The number of the host's end of a new cable."""
        for _ in range(_ATTEMPTS):
            bridge = self._bridges.ensure(attachment) if attachment.bridge else 0
            index = next(self._numbers)
            orders = link_program.cable(attachment, index, netns_fd, bridge, ipv6=self._ipv6)
            refused = self._kernel.attempt(orders)
            if not refused:
                return index
            first = refused[0]
            if first.order is not orders[0]:
                self.detach([attachment.link])
                break
            if first.errno == errno.EBUSY:
                self._numbers = _numbers()  # somebody has one of the two
            elif first.errno == errno.EEXIST:
                self._clash(attachment, netns_fd)
            elif attachment.bridge and first.errno in _STALE_BRIDGE:
                self._bridges.forget(attachment.bridge.name)
            else:
                break
        with _inside_of(netns_fd):
            pass  # if it cannot be entered, that is why
        raise _failed(first)

    def _clash(self, attachment: Attachment, netns_fd: int) -> None:
        """A link of one of the two names exists: the container's is an error, the host's was of this attachment."""
        with _inside_of(netns_fd), Links() as kernel:
            if link_read.link(kernel, attachment.id.ifname) is not None:
                said = f"container veth name provided ({attachment.id.ifname}) already exists"
                raise Failure(Code.DUPLICATE, said)
        self.detach([attachment.link])

    def _host_side(self, attachment: Attachment, index: int) -> None:
        orders = link_program.host_side(attachment, index)
        if orders:
            self._do(orders)
        if attachment.mode is Mode.ROUTED and self._ipv6:
            with Visit(self._netns_fd):
                sysctls.write(link_program.host_parameters(attachment))
        if attachment.bandwidth is not None:
            self._limit(attachment, index, attachment.mtu)

    def _limit(self, attachment: Attachment, index: int, mtu: int) -> None:
        queue = 0
        if attachment.bandwidth is not None and attachment.bandwidth.egress_rate:
            queue, name = next(self._numbers), link_program.queue_name(attachment)
            made = [link_orders.new_queue(name, queue, mtu)]
            if self._kernel.attempt(made):
                self.detach([name])  # of a container of the same name, long ago
                self._do(made)
        self._do(link_program.limits(attachment, index, queue, ipv6=self._ipv6))

    def _inside(self, attachment: Attachment, index: int, inner: _Inner, parameters: dict[str, str]) -> None:
        orders = link_program.inside(attachment, index, ipv6=self._ipv6)
        refused = inner.attempt(orders) if orders else []
        if refused and refused[0].errno in (errno.EACCES, errno.EPERM) and link_program.families(attachment)[1]:
            inner.set({f"net/ipv6/conf/{name}/disable_ipv6": "0" for name in ("lo", attachment.id.ifname)})
            refused = inner.attempt(orders)
        if refused:
            raise _failed(refused[0])
        after = link_program.inside_parameters(attachment) | parameters
        if after:
            inner.set(after)

    def settle(self, attachment: Attachment, netns_fd: int) -> None:
        """Until duplicate address detection, if it was asked for, has found nobody: DAD_SECONDS at most.

        In any thread, whatever others do with this. Raises Failure if somebody else has an address.
        """
        checked = attachment.link and attachment.duplicate_address_detection
        if checked and link_program.families(attachment)[1]:
            _settle(netns_fd, attachment.id.ifname)

    # --- chained ----------------------------------------------------------------------------------------------------

    def _chain(self, attachment: Attachment, netns_fd: int, parameters: dict[str, str]) -> None:
        """Limits and parameters for an interface that another plugin made."""
        facts = self._other_end(attachment, netns_fd) if attachment.bandwidth is not None else None
        try:
            if facts is not None:
                self._limit(attachment, facts.index, facts.mtu)
            if parameters:
                with _inside_of(netns_fd):
                    sysctls.write(parameters)
        except BaseException:
            if facts is not None:
                self._kernel.attempt([tc.remove_limit(facts.index), tc.remove_redirect(facts.index)])
            self.unchain(attachment)
            raise

    def unchain(self, attachment: Attachment) -> None:
        """Take away the queue of an interface another plugin made; the limits go with the interface."""
        if attachment.bandwidth is not None and attachment.bandwidth.egress_rate:
            self.detach([link_program.queue_name(attachment)])

    def _other_end(self, attachment: Attachment, netns_fd: int) -> LinkFacts:
        """The host's end of the container's interface."""
        with _inside_of(netns_fd), Links() as kernel:
            inner = link_read.link(kernel, attachment.id.ifname)
        if inner is None:
            raise Failure(Code.INVALID_CONFIG, f"the container has no interface {attachment.id.ifname}")
        outer = link_read.link(self._kernel, inner.peer) if inner.kind == "veth" and inner.peer else None
        number = link_read.namespace_number(self._kernel, netns_fd)
        if outer is None or (outer.peer, outer.peer_netns) != (inner.index, number):
            said = f"bandwidth: {attachment.id.ifname} is not one end of a veth whose other end is on the host"
            raise Failure(Code.INVALID_CONFIG, said)
        return outer

    # --- the end ----------------------------------------------------------------------------------------------------

    def doom(self, names: Collection[str]) -> None:
        """Stop the traffic of host links and mark them for deletion, without waiting. Those that are gone are fine."""
        if not names:
            return
        orders = []
        for name in names:
            if not name.startswith(LINK_PREFIXES[Mode.BRIDGE]):
                orders.append(link_orders.change(name, _DOOM, _DEAD))
            elif index := link_read.number(self._kernel, name):
                # In this order: a change of the link enables the port again. Setting it down would take 16 ms.
                orders += (link_orders.change(index, _DOOM), link_orders.disable_port(index))
        if orders:
            self._do_if_there(orders)

    def detach(self, names: Collection[str]) -> None:
        """Delete host links and their queues; returns when they are gone. Those that are gone already are fine."""
        if not names:
            return
        both = link_program.with_queues(names)
        orders = [link_orders.change(name, _DELETE) for name in both]
        refused = self._kernel.attempt([*orders, link_orders.delete_group(DELETING)])
        if any(each.errno != errno.ENODEV for each in refused):
            self._do_if_there([link_orders.delete(name) for name in both])

    # --- what there is ----------------------------------------------------------------------------------------------

    def exists(self, name: str) -> bool:
        """Whether the host has this link."""
        return link_read.link(self._kernel, name) is not None

    def present(self) -> dict[str, LinkFacts]:
        """The host's links whose names say that they are ours, by name."""
        return link_repair.ours(self._kernel)

    def orphans(self, attachments: Collection[Attachment]) -> list[str]:
        """Links whose names say that they are ours, and that belong to none of these."""
        known = {name for each in attachments for name in link_program.links_of(each)}
        return sorted(self.present().keys() - known)

    def bridge_mac(self, attachment: Attachment) -> bytes:
        """The MAC of the attachment's bridge as it is; b"" if it has none."""
        return self._bridges.mac(attachment.bridge.name) if attachment.bridge else b""

    def path_mtu(self, peers: Sequence[IPAddress]) -> int:
        """The largest packet that fits through the links to all peers; to the default route's if there are none."""
        return link_repair.path_mtu(self._kernel, peers)

    def check(self, attachment: Attachment, netns_fd: int) -> None:
        """Raises Failure(DIFFERS) if something is not as `attach` left it. What others added is fine."""
        with _inside_of(netns_fd), Links() as kernel:
            inside = link_check.look_inside(kernel, attachment)
            for name, value in link_program.checked_sysctls(attachment).items():
                link_check.same(f"sysctl {name}", value, sysctls.read(name))
        if attachment.mode is Mode.CHAINED:
            host = self._other_end(attachment, netns_fd) if attachment.bandwidth is not None else None
        else:
            link_check.inside(attachment, inside)
            host = link_read.link(self._kernel, attachment.link)
            link_check.host(attachment, inside, host, self._kernel)
        if host is not None:
            link_check.limited(attachment, host, self._kernel)

    def repair(self, attachments: Sequence[Attachment]) -> list[str]:
        """Make the host's side of these attachments, which have their links, what it should be; what it was not."""
        seen = link_repair.look(self._kernel, routed=any(each.bridge is None for each in attachments))
        return [*self.repair_shared(attachments), *self.repair_links(attachments, seen)]

    def repair_shared(self, attachments: Sequence[Attachment]) -> list[str]:
        """Bridges and forwarding only."""
        return self._repair().mend_shared(attachments, self.mend_forwarding)

    def repair_links(self, attachments: Sequence[Attachment], seen: Seen) -> list[str]:
        """Their own links only, which nobody has touched since they were seen."""
        return self._repair().mend(attachments, seen)

    def _repair(self) -> link_repair.Repair:
        return link_repair.Repair(self._kernel, self._bridges, self._netns_fd)

    # --- loopback ---------------------------------------------------------------------------------------------------

    def loopback_up(self, netns_fd: int) -> None:
        """Set `lo` of a namespace up."""
        self._loopback(netns_fd, links.up(LOOPBACK))

    def loopback_check(self, netns_fd: int) -> None:
        """Raises Failure(DIFFERS) if `lo` of a namespace is down."""
        with _inside_of(netns_fd), Links() as kernel:
            facts = link_read.link(kernel, LOOPBACK)
        if facts is None or not facts.up:
            raise Failure(Code.DIFFERS, "lo is down")

    def _loopback(self, netns_fd: int, order: Order) -> None:
        with _inside_of(netns_fd), Links() as kernel:
            kernel.carry_out([order])

    # --- sending ----------------------------------------------------------------------------------------------------

    def _do(self, orders: Sequence[Order]) -> None:
        for refused in self._kernel.attempt(orders) if orders else []:
            raise _failed(refused)

    def _do_if_there(self, orders: Sequence[Order]) -> None:
        for refused in self._kernel.attempt(orders):
            if refused.errno not in _NOT_THERE:
                raise _failed(refused)


class _Inner(NamedTuple):
    """The container's namespace, and a socket to it if somebody has one."""

    fd: int
    kernel: Links | None

    def attempt(self, orders: Sequence[Order]) -> list[NotDone]:
        """Do it there; what was refused, but for routes that are there already."""
        if self.kernel is not None:
            return _missed(self.kernel.attempt(orders))
        with _inside_of(self.fd), Links() as kernel:
            return _missed(kernel.attempt(orders))

    def set(self, parameters: Mapping[str, str]) -> None:
        """Write kernel parameters there."""
        with _inside_of(self.fd):
            sysctls.write(parameters)


class _inside_of(Visit):
    """A visit to a container's namespace. Raises Failure(INVALID_NETNS) if it cannot be entered."""

    def __enter__(self) -> None:
        try:
            super().__enter__()
        except KernelError as error:
            raise Failure(Code.INVALID_NETNS, "CNI_NETNS cannot be entered", error.said) from error


def _numbers() -> Iterator[int]:
    """Numbers for links, each with a free one behind it, far above those the kernel gives by itself."""
    return itertools.count(0x100000 + 2 * secrets.randbelow(0x400000), 2)


def _missed(refused: list[NotDone]) -> list[NotDone]:
    """What was refused, but for routes that are there already."""
    return [each for each in refused if each.errno != errno.EEXIST]


def _failed(refused: NotDone) -> KernelError:
    return KernelError(mechanism="links", doing=refused.order.doing, said=refused.said)


def _settle(netns_fd: int, ifname: str) -> None:
    """Until the kernel found nobody else who has the addresses. Raises Failure if somebody does."""
    with _inside_of(netns_fd):
        kernel = Links()
    with kernel:
        index = link_read.number(kernel, ifname)
        deadline = time.monotonic() + DAD_SECONDS
        while True:
            facts = link_read.addresses(kernel, index)
            for each in facts:
                if each.flags & link_read.DUPLICATE:
                    raise Failure(Code.DUPLICATE, f"somebody else has {each.address.ip}")
            if not any(each.flags & link_read.TENTATIVE and not each.link_local for each in facts):
                return
            if time.monotonic() > deadline:
                said = f"IPv6 addresses are still being checked after {DAD_SECONDS:g} s"
                raise Failure(Code.TRY_AGAIN_LATER, said)
            time.sleep(_POLL_SECONDS)
