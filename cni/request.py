"""What a runtime asks: a command, and the environment it came with (CNI specification 1.1.0, section 2)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum


class Command(Enum):
    """CNI_COMMAND."""

    ADD = "ADD"
    DEL = "DEL"
    CHECK = "CHECK"
    GC = "GC"
    STATUS = "STATUS"
    VERSION = "VERSION"


@dataclass(frozen=True, slots=True)
class Invocation:
    """The environment of a command, checked. What a command does not need may be "".

    `arguments` are the pairs of CNI_ARGS. `path` is CNI_PATH: where other plugins are.
    """

    command: Command
    container: str = ""
    netns: str = ""
    ifname: str = ""
    arguments: Mapping[str, str] = field(default_factory=dict)
    path: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Request:
    """What reaches the plugin: the environment (only CNI_* of it), standard input, and the container's namespace.

    `netns_fd` is open on CNI_NETNS, or -1; `netns_errno` says why it could not be opened (0: it was not tried).
    Whoever made the request closes the descriptor.
    """

    environment: Mapping[str, str]
    stdin: bytes
    netns_fd: int = -1
    netns_errno: int = 0


@dataclass(frozen=True, slots=True)
class Reply:
    """What the runtime gets: the exit code, and what is written to standard output."""

    code: int
    stdout: bytes = b""
