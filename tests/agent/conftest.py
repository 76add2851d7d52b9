"""Let the tests of this folder share `node_of_agent.py`, and give them a node."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture
def node(tmp_path):
    from node_of_agent import Node

    with Node(tmp_path / "manifests") as made:
        yield made
