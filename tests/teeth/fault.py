"""A planted fault as data: one wrong piece of code, and the part of the suite that must catch it.

`old` must stand exactly once in the module's file. Where it does not any more, planting is an error: whoever rewrites
the code says what the same mistake looks like now.

Nothing here imports netplane: code that is loaded before it is spoiled would stay right.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
EVERY = "{backend}"
"""Stands in a suspect for each backend there is; naming them here would load their code before it is spoiled."""


@dataclass(frozen=True, slots=True)
class Fault:
    """`old` of `module` becomes `new`; the tests in `suspects` (arguments of pytest) must see it."""

    module: str
    old: str
    new: str
    suspects: tuple[str, ...]

    @property
    def path(self) -> Path:
        """The file of the module."""
        return ROOT / f"{self.module.replace('.', '/')}.py"

    @property
    def line(self) -> int:
        """Where the fault is planted, as a line of that file. Raises ValueError if it cannot be."""
        text = self.path.read_text()
        self.spoil(text)
        return text[: text.index(self.old)].count("\n") + 1

    def spoil(self, text: str) -> str:
        """The module's text with the fault. Raises ValueError if the right piece is not there exactly once."""
        if (found := text.count(self.old)) != 1:
            raise ValueError(f"{self.path}: {found} times instead of once: {self.old!r}")
        return text.replace(self.old, self.new)


def case(name: str, *backends: str) -> tuple[str, ...]:
    """Real packets: this case, on these backends or on all."""
    test = "tests/lab/test_every_case.py::test_every_packet_does_what_the_case_says"
    return tuple(f"{test}[{name}-{backend}]" for backend in backends or (EVERY,))


def agent(test: str, module: str = "loop") -> tuple[str, ...]:
    """The real process."""
    return (f"tests/agent/test_{module}.py::test_{test}",)


ORACLE = ("tests/cases_test/test_corpus.py", "-k", "oracle_answers")
LAWS = ("tests/generated/test_laws.py", "tests/generated/test_churn.py")
CHURN = (f"tests/churn/test_live.py::test_whatever_changes_the_kernel_follows_and_no_connection_suffers[{EVERY}]",)
