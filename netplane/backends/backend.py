"""What a backend is: a pure function from plan to program, and what it needs and cannot do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from netplane.plan.plan import Plan
from netplane.programs.program import Program


@dataclass(frozen=True, slots=True)
class Requirement:
    """Something the host must have. `script` is a ruleset that only loads where the kernel and nft have it.

    `restore` is the same for iptables-restore. They are tried in a scratch namespace; version numbers are never asked.
    """

    name: str
    minimum: str
    script: str = ""
    program: str = ""
    restore: str = ""


@dataclass(frozen=True, slots=True)
class Deviation:
    """A promise of the plan this backend cannot keep, by name; tested as a strict expected failure."""

    name: str
    promise: str
    instead: str


@dataclass(frozen=True, slots=True)
class Compiled:
    """A plan and the program that spells it."""

    plan: Plan
    program: Program


class Backend(Protocol):
    """One way to spell a plan."""

    @property
    def name(self) -> str:
        """What `--backend` calls it."""

    @property
    def needs(self) -> tuple[Requirement, ...]:
        """What the host must have."""

    @property
    def deviations(self) -> tuple[Deviation, ...]:
        """Where it cannot keep the plan's promise."""

    def compile(self, plan: Plan, since: Compiled | None = None) -> Compiled:
        """The program for `plan`. `since` saves work and never changes the result."""

    def text(self, program: Program) -> str:
        """The program in the mechanism's own language: loading it into an empty kernel gives this state."""
