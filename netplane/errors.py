"""What can go wrong, by who must act.

    NetplaneError
      InputError           someone must change a manifest, an option or a configuration
      UnsupportedError     choose another backend: this one cannot say it
      RequirementError     change the host: something is missing or too old
      KernelError          read what the kernel said: it refused
      OwnershipError       something that is not ours is in the way

Every message is one line: what was tried, on what, what came back, what to do.
"""

from dataclasses import dataclass


class NetplaneError(Exception):
    """The root. `exit_code` is what a command that ends with this error returns (docs/cli.md)."""

    exit_code = 1


class InputError(NetplaneError):
    """A manifest, flag or configuration value must be changed by its author."""

    exit_code = 3


class UnsupportedError(NetplaneError):
    """The chosen backend has no words for this part of the plan."""

    exit_code = 4


class RequirementError(NetplaneError):
    """The host lacks a kernel feature, a binary or a privilege."""

    exit_code = 4


class KernelError(NetplaneError):
    """A kernel mechanism refused an operation."""

    exit_code = 5

    def __init__(self, *, mechanism: str, doing: str, said: str) -> None:
        """`mechanism` and `doing` name the operation, `said` is the kernel's or the tool's own words."""
        self.mechanism = mechanism
        self.doing = doing
        self.said = one_line(said)
        super().__init__(f"{mechanism}: {one_line(doing)}: {self.said}")


class OwnershipError(NetplaneError):
    """An object with our name exists that netplane did not make; it is left alone."""

    exit_code = 5


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One thing in the input that could not be used, while the rest was.

    `where` is a file and document ("shop.yaml#3") or a flag, `what` an object and field
    ("Service shop/web: spec.ports[0].port"), `why` the reason and the remedy.
    """

    where: str
    what: str
    why: str

    def __str__(self) -> str:
        return one_line(": ".join(part for part in (self.where, self.what, self.why) if part))


def one_line(text: str, limit: int = 400) -> str:
    """`text` safe to print on one line: control and direction characters escaped, cut at `limit` characters."""
    flat = " ".join(text.split())
    safe = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in flat)
    return safe if len(safe) <= limit else safe[: limit - 1] + "…"
