"""Queues that limit bandwidth: token buckets, and packets of a link sent through another one's queue.

Pure orders, and the reading of what is there (linux/pkt_sched.h, linux/pkt_cls.h, linux/tc_act/tc_mirred.h).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from netplane.kernel.links import Links, Order
from netplane.kernel.netlink import CREATE, Request, as_text, attribute, attributes, nested, text

_NEW_QUEUE, _DELETE_QUEUE, _GET_QUEUE, _NEW_FILTER = 36, 37, 38, 44
_REPLACE = 0x100
_ROOT, _INGRESS, _INGRESS_HANDLE, _OWN_HANDLE = 0xFFFFFFFF, 0xFFFFFFF1, 0xFFFF0000, 0x00010000
_KIND, _OPTIONS = 1, 2
_PARAMETERS, _RATE64, _BURST = 1, 4, 6  # TCA_TBF_*
_SELECTOR, _ACTIONS = 5, 7  # TCA_U32_*
_MIRRED = 2  # TCA_MIRRED_PARMS
_TERMINAL, _STOLEN, _REDIRECT = 1, 4, 1
_ETHERNET = 1
_EVERY_PROTOCOL = (1 << 16) | 0x0300  # priority 1, ETH_P_ALL in network order

_SUBJECT = struct.Struct("=BBHiIII")
_RATE = struct.Struct("=BBHhHI")
_BUCKET = struct.Struct("=12s12sIII")
_U32, _U64 = struct.Struct("=I"), struct.Struct("=Q")
_LARGEST = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class Bucket:
    """A token bucket: bytes per second, bytes at once, and bytes that may wait."""

    rate: int
    burst: int
    limit: int


@dataclass(frozen=True, slots=True)
class QueueFacts:
    """A queueing discipline of a link. `rate` is a token bucket's, in bytes per second; 0 for other kinds."""

    index: int
    kind: str
    root: bool
    rate: int = 0


def limit(index: int, bucket: Bucket) -> Order:
    """Whatever leaves by this link passes the bucket."""
    rate = _RATE.pack(0, _ETHERNET, 0, -1, 0, min(bucket.rate, _LARGEST))
    parameters = _BUCKET.pack(rate, bytes(12), min(bucket.limit, _LARGEST), 0, 0)
    options = [attribute(_PARAMETERS, parameters), attribute(_BURST, _U32.pack(min(bucket.burst, _LARGEST)))]
    if bucket.rate > _LARGEST:
        options.append(attribute(_RATE64, _U64.pack(bucket.rate)))
    payload = _SUBJECT.pack(0, 0, 0, index, _OWN_HANDLE, _ROOT, 0) + text(_KIND, "tbf") + nested(_OPTIONS, *options)
    return Order(f"limit the bandwidth of link {index}", Request(_NEW_QUEUE, payload, CREATE | _REPLACE))


def redirect(index: int, to: int) -> list[Order]:
    """Whatever arrives on this link leaves by the other one, and comes back from there if that is an ifb."""
    ingress = _SUBJECT.pack(0, 0, 0, index, _INGRESS_HANDLE, _INGRESS, 0) + text(_KIND, "ingress")
    # Every packet: one key whose mask is nothing.
    selector = struct.pack("=BBBBHHhhI", _TERMINAL, 0, 1, 0, 0, 0, 0, 0, 0) + bytes(16)
    mirred = struct.pack("=IIiiiiI", 0, 0, _STOLEN, 0, 0, _REDIRECT, to)
    action = nested(1, text(_KIND, "mirred"), nested(_OPTIONS, attribute(_MIRRED, mirred)))
    options = nested(_OPTIONS, attribute(_SELECTOR, selector), nested(_ACTIONS, action))
    subject = _SUBJECT.pack(0, 0, 0, index, 0, _INGRESS_HANDLE, _EVERY_PROTOCOL)
    filter_ = subject + text(_KIND, "u32") + options
    return [
        Order(f"take in what arrives on link {index}", Request(_NEW_QUEUE, ingress, CREATE | _REPLACE)),
        Order(f"redirect link {index} to link {to}", Request(_NEW_FILTER, filter_, CREATE | _REPLACE)),
    ]


def remove_limit(index: int) -> Order:
    """Take the bucket away; ENOENT or EINVAL if there is none."""
    return Order(f"free link {index}", Request(_DELETE_QUEUE, _SUBJECT.pack(0, 0, 0, index, 0, _ROOT, 0)))


def remove_redirect(index: int) -> Order:
    """Take the redirection away; ENOENT or EINVAL if there is none."""
    subject = _SUBJECT.pack(0, 0, 0, index, _INGRESS_HANDLE, _INGRESS, 0)
    return Order(f"leave what arrives on link {index}", Request(_DELETE_QUEUE, subject))


def read(kernel: Links) -> list[QueueFacts]:
    """The queueing disciplines of all links, but for those the kernel gives a link by itself."""
    payloads = kernel.dump(Request(_GET_QUEUE, _SUBJECT.pack(0, 0, 0, 0, 0, 0, 0)), "list queues")
    return [fact for payload in payloads if (fact := _decode(payload)).kind != "noqueue"]


def _decode(payload: bytes) -> QueueFacts:
    _, _, _, index, _, parent, _ = _SUBJECT.unpack_from(payload)
    found = attributes(payload, _SUBJECT.size)
    kind = as_text(found.get(_KIND, b""))
    return QueueFacts(index, kind, parent == _ROOT, _rate(found) if kind == "tbf" else 0)


def _rate(found: dict[int, bytes]) -> int:
    options = attributes(found.get(_OPTIONS, b""))
    if _RATE64 in options:
        return int(_U64.unpack(options[_RATE64])[0])
    parameters = options.get(_PARAMETERS, b"")
    return int(_RATE.unpack_from(parameters)[-1]) if len(parameters) >= _RATE.size else 0
