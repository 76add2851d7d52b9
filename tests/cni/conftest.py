"""What tests of the plugin share: the launcher, compiled from this checkout; a node, and containers on it."""

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


@pytest.fixture
def node(tmp_path):
    from cni_node import Node

    with Node(tmp_path) as made:
        yield made


@pytest.fixture
def web():
    from cni_node import Container

    with Container("web") as made:
        yield made


@pytest.fixture
def shop():
    from cni_node import Container

    with Container("shop") as made:
        yield made
