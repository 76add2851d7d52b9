"""What tests of iptables share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from iptables_node import Node

from netplane.kernel.iptables_variants import Variant
from netplane.kernel.netns import Namespace


@pytest.fixture
def lock_of_its_own(tmp_path, monkeypatch) -> None:
    """The legacy variant's lock is of the whole host, not of a namespace."""
    monkeypatch.setenv("XTABLES_LOCKFILE", str(tmp_path / "xtables.lock"))


@pytest.fixture(params=[*Variant], ids=lambda each: each.value)
def node(request, lock_of_its_own) -> Iterator[Node]:
    with Namespace() as namespace:
        yield Node(namespace, request.param)


@pytest.fixture
def legacy(lock_of_its_own) -> Iterator[Node]:
    with Namespace() as namespace:
        yield Node(namespace, Variant.LEGACY)


@pytest.fixture
def nf_tables(lock_of_its_own) -> Iterator[Node]:
    with Namespace() as namespace:
        yield Node(namespace, Variant.NF_TABLES)
