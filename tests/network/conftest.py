"""Let the tests of this folder share `ground.py` and `by_hand.py`, and labs that take a while to bring up."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


class Standing:
    """Labs that are up, by what they are like. Each is made when it is asked for first."""

    def __init__(self, made: ExitStack) -> None:
        self._made, self._labs = made, {}

    def __call__(self, ground, make):
        from ground import proving

        key = (ground, make)
        if key not in self._labs:
            self._labs[key] = self._made.enter_context(proving(ground, make))
        return self._labs[key]


@pytest.fixture(scope="session")
def standing():
    """The lab of a ground, whose network `make` makes. Tests that use it leave it as it is."""
    with ExitStack() as made:
        yield Standing(made)
