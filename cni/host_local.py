"""The addresses that the reference plugin host-local gave, so that a node changes its plugin while its Pods live on.

    /var/lib/cni/networks/NAME/10.0.0.5             "CONTAINER\\r\\nIFNAME" (written before 2019: only "CONTAINER")
                               last_reserved_ip.0   "10.0.0.5", the last one given of the first range set
                               lock                 flock, held by host-local while it looks or writes

What is there counts as taken until a DEL for its container comes; then the file is removed, as host-local does. Files
that host-local did not write are told as problems and left alone, and no symbolic link is followed.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import NamedTuple

from cni.directory import Directory, flock, read_all
from cni.failure import Code, Failure
from netplane.errors import Problem
from netplane.model.address import IPAddress

LOCK, LAST = "lock", "last_reserved_ip."
WAIT_SECONDS = 10.0
"""How long another process may hold host-local's lock."""
_LONGEST = 1024
_CONTAINER = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.\-]*")


class Owner(NamedTuple):
    """Who has an address. `ifname` "": host-local did not say."""

    container: str
    ifname: str


UNKNOWN = Owner("", "")
"""Of an address whose file says nothing sensible: somebody may have it, and nobody will give it back."""


@dataclass(frozen=True, slots=True)
class Imported:
    """What a folder of host-local says. `last`: the address given last, by index of the range set."""

    addresses: Mapping[IPAddress, Owner]
    last: Mapping[int, IPAddress]
    problems: tuple[Problem, ...] = ()


def read(folder: str | Path) -> Imported:
    """What host-local has given away; nothing if there is no such folder.

    A file without content is what a power failure leaves: nobody has the address. Raises Failure: TRY_AGAIN_LATER if
    somebody holds the lock, IO_FAILURE if the folder is not ours alone.
    """
    with _opened(Path(folder)) as opened:
        return _found(opened) if opened else Imported({}, {})


def release(folder: str | Path, container: str, ifname: str) -> list[IPAddress]:
    """Take back what a container's interface has, as host-local's DEL would: its addresses, sorted.

    Files that name only the container count if none names the interface, too. What is unknown is nothing. Raises
    Failure like `read`, and IO_FAILURE if a file cannot be removed.
    """
    with _opened(Path(folder)) as opened:
        owners = _found(opened).addresses if opened and container else {}
        for owner in (Owner(container, ifname), Owner(container, "")):
            mine = [address for address, its in owners.items() if its == owner]
            if opened and mine:
                _remove(opened, mine)
                return sorted(mine, key=lambda address: (address.version, address))
    return []


@contextmanager
def _opened(path: Path) -> Iterator[Directory | None]:
    """The folder with host-local's lock; None if it is missing."""
    try:
        opened = Directory(path)
    except Failure as failure:
        if not isinstance(failure.__cause__, FileNotFoundError):
            raise
        yield None
        return
    with opened:
        try:
            fd = opened.open(LOCK, os.O_RDWR | os.O_CREAT)
        except OSError as error:
            raise Failure(Code.IO_FAILURE, f"cannot open {path / LOCK}", error.strerror or "") from error
        try:
            if not flock(fd, WAIT_SECONDS):
                said = f"another process has held {path / LOCK} for {WAIT_SECONDS:g} s"
                raise Failure(Code.TRY_AGAIN_LATER, said, "host-local holds it for milliseconds")
            yield opened
        finally:
            os.close(fd)


def _found(opened: Directory) -> Imported:
    addresses: dict[IPAddress, Owner] = {}
    last: dict[int, IPAddress] = {}
    problems: list[Problem] = []
    for name in opened.names():
        try:
            if name.startswith(LAST):
                last[_index(name)] = _address(_content(opened, name))
            elif name != LOCK:
                address = _address(name)
                content = _content(opened, name)
                addresses[address] = UNKNOWN
                addresses[address] = _owner(content)
        except ValueError as error:
            problems.append(Problem(str(opened.path), name, str(error)))
    return Imported(addresses, last, tuple(problems))


def _index(name: str) -> int:
    digits = name.removeprefix(LAST)
    if not re.fullmatch(r"[0-9]{1,4}", digits):
        raise ValueError("is no file of host-local's")
    return int(digits)


def _address(text: str) -> IPAddress:
    try:
        found = ip_address(text)
    except ValueError:
        found = None
    if found is None or str(found) != text or "%" in text:
        raise ValueError("is no address of host-local's")
    return found


def _content(opened: Directory, name: str) -> str:
    """A file without the blanks around it. Raises ValueError if it is empty, or nothing of host-local's."""
    try:
        fd = opened.open(name, os.O_RDONLY)
    except OSError as error:
        raise ValueError(f"is not opened: {error.strerror} (a symbolic link is not followed)") from error
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise ValueError("is no regular file")
        content = read_all(fd, _LONGEST)
    except OSError as error:
        raise ValueError(f"is not readable: {error.strerror}") from error
    finally:
        os.close(fd)
    if not content.strip():
        raise ValueError("is empty, left by a power failure; the address is free. Remove it")
    return content.decode(errors="replace").strip()


def _owner(content: str) -> Owner:
    container, _, ifname = content.partition("\r\n")
    if not _CONTAINER.fullmatch(container) or not ifname.isprintable() or len(content) > _LONGEST:
        raise ValueError("names no container; the address counts as taken until the file is removed")
    return Owner(container, ifname)


def _remove(opened: Directory, addresses: Iterable[IPAddress]) -> None:
    for address in addresses:
        try:
            opened.remove(str(address))
        except OSError as error:
            raise Failure(
                Code.IO_FAILURE, f"cannot remove {opened.path / str(address)}", error.strerror or ""
            ) from error
