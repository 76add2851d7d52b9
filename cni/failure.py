"""What a CNI command answers when it fails: an error with a code (CNI specification 1.1.0, section 5)."""

from __future__ import annotations

from enum import IntEnum

from netplane.errors import NetplaneError, one_line


class Code(IntEnum):
    """The codes of the specification, and two of the reference library's (8 and 999)."""

    INCOMPATIBLE_VERSION = 1
    UNSUPPORTED_FIELD = 2
    UNKNOWN_CONTAINER = 3
    INVALID_ENVIRONMENT = 4
    IO_FAILURE = 5
    DECODING_FAILURE = 6
    INVALID_CONFIG = 7
    INVALID_NETNS = 8
    TRY_AGAIN_LATER = 11
    NOT_AVAILABLE = 50
    LIMITED_CONNECTIVITY = 51
    EXHAUSTED = 100
    """Plugin-specific: no address is left."""
    DUPLICATE = 101
    """Plugin-specific: the container has such an attachment, or somebody else has the host port."""
    DIFFERS = 102
    """Plugin-specific: CHECK found that something is not as ADD left it."""
    INTERNAL = 999


class Failure(NetplaneError):
    """A command failed. `code` is one of `Code`, or whatever another plugin answered; `msg` is one short line,
    `details` say what to do or what the kernel said.
    """

    def __init__(self, code: int, msg: str, details: str = "") -> None:
        self.code = code
        self.msg = one_line(msg)
        self.details = one_line(details, 4000)
        super().__init__(": ".join(part for part in (self.msg, self.details) if part))

    def value(self, version: str) -> dict[str, object]:
        """The error as the runtime reads it, for JSON. `version` is the configuration's cniVersion."""
        said: dict[str, object] = {"cniVersion": version, "code": int(self.code), "msg": self.msg}
        return said | {"details": self.details} if self.details else said
