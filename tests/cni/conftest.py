"""The launcher, compiled from this checkout, in a place of its own."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def compiled_launcher(tmp_path_factory):
    from cni.launcher.build import build

    return build(tmp_path_factory.mktemp("launcher") / "netplane")


@pytest.fixture
def place(compiled_launcher):
    from launching import Place

    with Place(compiled_launcher) as made:
        yield made
