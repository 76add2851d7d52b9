"""Things that hold sockets or namespaces, and let go of them at the end of a `with` statement."""

from __future__ import annotations

from abc import ABC, abstractmethod
from types import TracebackType
from typing import Self


class Closing(ABC):
    """Whatever has a `close` that must not be forgotten."""

    __slots__ = ()

    @abstractmethod
    def close(self) -> None:
        """Let go of everything; called once."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
