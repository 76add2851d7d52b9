"""A visit to a namespace ends where it began, or says so fatally. See netplane/kernel/netns.py."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from netplane.errors import KernelError
from netplane.kernel.netns import Namespace, Stranded, Visit

pytestmark = pytest.mark.kernel


def here() -> int:
    return Path("/proc/thread-self/ns/net").stat().st_ino


@pytest.fixture
def there() -> Iterator[Namespace]:
    with Namespace() as made:
        yield made


def test_the_body_runs_there_and_what_follows_here(there):
    own = here()
    with Visit(there.fd):
        assert here() == there.run(here)
    assert here() == own


def test_an_exception_ends_the_visit(there):
    own = here()
    with pytest.raises(ZeroDivisionError), Visit(there.fd):
        1 / 0  # noqa: B018
    assert here() == own


def test_visits_may_be_within_visits(there):
    with Namespace() as third, Visit(there.fd):
        with Visit(third.fd):
            assert here() == third.run(here)
        assert here() == there.run(here)


def test_no_descriptor_stays_open(there):
    before = sorted(os.listdir("/proc/self/fd"))  # noqa: PTH208
    for _ in range(3):
        with Visit(there.fd):
            pass
    assert sorted(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


def test_what_is_no_namespace_cannot_be_visited(tmp_path):
    own = here()
    with (
        (tmp_path / "file").open("w") as file,
        pytest.raises(KernelError, match="join a namespace"),
        Visit(file.fileno()),
    ):
        pass
    assert here() == own


def test_who_cannot_return_is_stranded_and_that_is_no_exception_to_go_on_from(there):
    libc = ctypes.CDLL(None, use_errno=True)

    def powerless() -> None:
        with Visit(there.fd):
            # capset(2) drops every capability of this one thread; it is not used again.
            header, nothing = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
            assert libc.capset(header, nothing) == 0

    with Namespace() as traveller, pytest.raises(Stranded, match="Operation not permitted"):
        traveller.run(powerless)
    assert not issubclass(Stranded, Exception)
