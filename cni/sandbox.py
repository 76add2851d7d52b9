"""The container's network namespace, entered once: who it is, and a socket that works in it from outside."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from cni.attachment import NetnsId
from cni.failure import Code, Failure
from netplane.closing import Closing
from netplane.errors import KernelError
from netplane.kernel.links import Links
from netplane.kernel.netns import CLONE_NEWNET, Visit

_NS_GET_NSTYPE = 0xB703  # linux/nsfs.h


class Sandbox(Closing):
    """What a descriptor is open on; the descriptor stays its owner's.

    Raises Failure(INVALID_NETNS) if it is no network namespace, or one that cannot be entered.
    """

    __slots__ = ("fd", "id", "kernel")

    def __init__(self, fd: int) -> None:
        try:
            kind = fcntl.ioctl(fd, _NS_GET_NSTYPE)
        except OSError:
            kind = 0
        if kind != CLONE_NEWNET:
            raise Failure(Code.INVALID_NETNS, "CNI_NETNS is not a network namespace")
        try:
            with Visit(fd):
                self.kernel = Links()
        except KernelError as error:
            raise Failure(Code.INVALID_NETNS, "CNI_NETNS cannot be entered", error.said) from error
        found = os.fstat(fd)
        self.fd = fd
        self.id = NetnsId(found.st_dev, found.st_ino, self.kernel.namespace_cookie())

    def close(self) -> None:
        """Close the socket. A socket keeps a namespace: one that stays open would keep a dead container's links."""
        self.kernel.close()


def leads_to(path: str, netns: NetnsId) -> bool:
    """Whether a path is that of this namespace, as far as device and inode say."""
    try:
        found = Path(path).stat()
    except (OSError, ValueError):
        return False
    return (found.st_dev, found.st_ino) == (netns.device, netns.inode)


def own_netns() -> NetnsId:
    """Of the calling thread."""
    fd = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        with Sandbox(fd) as own:
            return own.id
    finally:
        os.close(fd)
