"""How many containers are attached, and what was seen. Values only."""

from __future__ import annotations

from dataclasses import dataclass, field

from bench.cni_exec import Block

AT_ONCE = 8
"""How many requests a runtime has under way at once, where it has more than one."""


@dataclass(frozen=True, slots=True)
class AttachAmount:
    """How often: `blocks` of so many operations for each side, by turns. `many`: containers when memory is read."""

    blocks: int
    versions: int
    serial: int
    parallel: int
    ports: int
    many: int


@dataclass(slots=True)
class Verb:
    """What ADD or DEL took. Lists with a value for every block, but `seconds`, which has a list for each."""

    seconds: list[list[float]] = field(default_factory=list)
    rate: list[float] = field(default_factory=list)
    """Operations per second, by block."""
    cpu: list[float] = field(default_factory=list)
    """Processor time per operation: of what is started, and of what serves; for DEL until the links are gone."""
    mib: float = 0.0
    """The largest process that was started."""

    def note(self, block: Block, served: float) -> None:
        """Add a block, in which what serves used so many seconds of processor time."""
        count = len(block.ran)
        self.seconds.append([each.seconds for each in block.ran])
        self.rate.append(count / block.seconds)
        self.cpu.append((sum(each.cpu for each in block.ran) + served) / count)
        self.mib = max(self.mib, *(each.mib for each in block.ran))


@dataclass(slots=True)
class Attached:
    """One side, one way. `gone`: seconds per container from the first DEL until all links are gone, by block."""

    add: Verb = field(default_factory=Verb)
    delete: Verb = field(default_factory=Verb)
    gone: list[float] = field(default_factory=list)


@dataclass(slots=True)
class AttachRun:
    """Everything that was seen; pairs are (netplane, reference)."""

    attached: dict[str, tuple[Attached, Attached]] = field(default_factory=dict)
    """By `case`."""
    versions: tuple[list[float], list[float]] = field(default_factory=lambda: ([], []))
    other: float = 0.0
    """Processors that somebody else used meanwhile, the kernel's own threads included."""
    launcher_bytes: int = 0
    reference_bytes: int = 0
    many: int = 0
    empty_mib: float = 0.0
    many_mib: float = 0.0


def case(way: object, workers: int) -> str:
    """What `attached` calls a way of attaching with so many at once."""
    return f"{way}, {'one at a time' if workers == 1 else f'{workers} at once'}"
