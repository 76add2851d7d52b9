"""inotify, and what editors do to files."""

from __future__ import annotations

import errno
import os
import select
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from netplane.errors import RequirementError
from netplane.sources.watch import GRACE, Watcher, _refused

DEADLINE = 10.0


class Listener:
    """A Watcher and everything it reported."""

    def __init__(self, path: Path) -> None:
        self.watcher = Watcher(path)
        self.heard: list[frozenset[Path] | None] = []
        self._poll = select.poll()
        self._poll.register(self.watcher.fileno(), select.POLLIN)

    def listen(self, until: Callable[[], bool]) -> None:
        """Take reports as a daemon would until `until`; fails at the deadline."""
        end = time.monotonic() + DEADLINE
        while not until():
            assert time.monotonic() < end, f"not reported; heard {self.heard}"
            if self._poll.poll(50):
                self._take()

    def expect(self, *wanted: Path) -> None:
        """Wait until exactly these paths were reported since the last call, and nothing else."""
        self.listen(lambda: self._paths() >= set(wanted))
        assert self._paths() == set(wanted)
        assert None not in self.heard
        self.heard.clear()

    def expect_everything(self) -> None:
        """Wait until everything is to be looked at."""
        self.listen(lambda: None in self.heard)
        self.heard.clear()

    def settle(self) -> None:
        """Let all that is held back come out."""
        end = time.monotonic() + 1.5 * GRACE
        while (left := end - time.monotonic()) > 0:
            if self._poll.poll(left * 1000):
                self._take()

    def _take(self) -> None:
        found = self.watcher.changed()
        if found is None or found:
            self.heard.append(found)

    def _paths(self) -> set[Path]:
        return {path for one in self.heard for path in one or ()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with `a.yaml`."""
    made = tmp_path / "m"
    made.mkdir()
    (made / "a.yaml").write_text("old")
    return made


@pytest.fixture
def listener(folder: Path) -> Iterator[Listener]:
    """A listener on `folder`."""
    made = Listener(folder)
    yield made
    made.watcher.close()


def test_a_written_file_is_reported_when_it_is_closed_and_not_before(folder, listener):
    with (folder / "a.yaml").open("w") as file:
        file.write("half")
        file.flush()
        assert listener.watcher.changed() == frozenset()
    listener.expect(folder / "a.yaml")


def test_a_file_renamed_into_place_is_reported_at_once(folder, listener):
    (folder / ".a.yaml.tmp123").write_text("new")
    (folder / ".a.yaml.tmp123").rename(folder / "a.yaml")
    assert listener.watcher.changed() == {folder / "a.yaml"}


def test_an_editor_that_moves_the_file_away_and_writes_a_new_one_never_deletes_it(folder, listener):
    (folder / "4913").write_text("")
    (folder / "4913").unlink()
    (folder / ".a.yaml.swp").write_text("x")
    (folder / "a.yaml").rename(folder / "a.yaml~")
    assert listener.watcher.changed() == frozenset(), "the file is away for a moment only"
    (folder / "a.yaml").write_text("new")
    (folder / "a.yaml~").unlink()
    (folder / ".a.yaml.swp").unlink()
    assert listener.watcher.changed() == {folder / "a.yaml"}
    listener.settle()
    assert not listener.heard, "the deletion is forgotten"


def test_a_deleted_file_is_reported_after_the_grace(folder, listener):
    started = time.monotonic()
    (folder / "a.yaml").unlink()
    listener.expect(folder / "a.yaml")
    assert time.monotonic() - started >= GRACE


def test_a_file_renamed_within_the_folder_is_reported_under_both_names(folder, listener):
    (folder / "a.yaml").rename(folder / "b.yaml")
    listener.expect(folder / "a.yaml", folder / "b.yaml")


def test_files_that_are_no_manifests_are_not_reported(folder, listener):
    for name in ("README.md", "a.yaml~", ".b.yaml", "a.yaml.swp"):
        (folder / name).write_text("x")
    listener.settle()
    assert not listener.heard


def test_a_link_and_a_second_name_are_reported_though_nobody_writes_them(folder, listener):
    (folder / "b.yaml").symlink_to("a.yaml")
    os.link(folder / "a.yaml", folder / "c.yaml")
    listener.listen(lambda: {folder / "b.yaml", folder / "c.yaml"} <= listener._paths())


def test_a_permission_that_changes_is_reported(folder, listener):
    (folder / "a.yaml").chmod(0o600)
    listener.expect(folder / "a.yaml")


def test_a_new_subfolder_is_watched_and_everything_is_looked_at(folder, listener):
    (folder / "sub" / "deep").mkdir(parents=True)
    (folder / "sub" / "b.yaml").write_text("before the watch")
    listener.expect_everything()
    listener.settle()
    listener.heard.clear()
    (folder / "sub" / "deep" / "c.yaml").write_text("x")
    listener.expect(folder / "sub" / "deep" / "c.yaml")


def test_a_subfolder_that_goes_or_is_renamed_means_to_look_at_everything(folder):
    (folder / "sub").mkdir()
    listener = Listener(folder)
    try:
        (folder / "sub").rename(folder / "other")
        listener.expect_everything()
        (folder / "other").rmdir()
        listener.expect_everything()
    finally:
        listener.watcher.close()


def test_the_folder_may_vanish_and_come_back(folder, listener):
    shutil.rmtree(folder.parent)
    listener.expect_everything()
    listener.settle()
    folder.mkdir(parents=True)
    listener.settle()
    listener.heard.clear()
    (folder / "b.yaml").write_text("x")
    listener.expect(folder / "b.yaml")


def test_the_folder_may_be_replaced_by_another_one(folder, listener):
    other = folder.with_name("other")
    other.mkdir()
    (other / "b.yaml").write_text("x")
    folder.rename(folder.with_name("away"))
    other.rename(folder)
    listener.expect_everything()
    listener.settle()
    listener.heard.clear()
    (folder / "b.yaml").write_text("y")
    listener.expect(folder / "b.yaml")
    (folder.with_name("away") / "a.yaml").write_text("y")
    listener.settle()
    assert not listener.heard, "the old folder is nobody's business any more"


def test_a_mounted_config_map_changes_by_turning_its_link(tmp_path):
    mount = tmp_path / "m"
    for version in ("..1", "..2"):
        (mount / version).mkdir(parents=True)
        (mount / version / "a.yaml").write_text(version)
    (mount / "..data").symlink_to("..1")
    (mount / "a.yaml").symlink_to("..data/a.yaml")
    folder, single = Listener(mount), Listener(mount / "a.yaml")
    try:
        (mount / "..data_tmp").symlink_to("..2")
        (mount / "..data_tmp").rename(mount / "..data")
        folder.expect_everything()
        single.expect_everything()
    finally:
        folder.watcher.close()
        single.watcher.close()


def test_a_single_file_is_watched_through_its_folder(folder):
    listener = Listener(folder / "a.yaml")
    try:
        (folder / "b.yaml").write_text("another one")
        (folder / "sub").mkdir()
        (folder / "new").write_text("x")
        (folder / "new").rename(folder / "a.yaml")
        listener.expect(folder / "a.yaml")
        (folder / "a.yaml").unlink()
        listener.expect(folder / "a.yaml")
        (folder / "a.yaml").write_text("back")
        listener.expect(folder / "a.yaml")
    finally:
        listener.watcher.close()


def test_a_queue_that_overflowed_means_to_look_at_everything(folder, listener):
    limit = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    names = [folder / "a.yaml", folder / "b.yaml"]
    names[1].write_text("x")
    for turn in range(limit + 100):  # alternating, for equal events in a row are merged
        os.utime(names[turn % 2])
    listener.expect_everything()


def test_everything_is_not_looked_at_while_a_file_is_away_for_a_moment(folder, listener):
    (folder / "sub").mkdir()
    end = time.monotonic() + GRACE * 0.6
    while time.monotonic() < end:
        assert listener.watcher.changed() == frozenset()
    (folder / "a.yaml").rename(folder / "a.yaml~")
    away = time.monotonic()
    listener.expect_everything()
    assert time.monotonic() - away >= GRACE


@pytest.mark.parametrize(
    ("number", "sysctl"),
    [(errno.EMFILE, "fs.inotify.max_user_instances"), (errno.ENOSPC, "fs.inotify.max_user_watches")],
)
def test_kernel_limits_are_told_with_the_sysctl_to_raise(folder, number, sysctl):
    refused = _refused(OSError(number, os.strerror(number)), folder)
    assert isinstance(refused, RequirementError)
    assert str(refused) == f"inotify: cannot watch {folder}: limit reached; raise the sysctl {sysctl}"


def test_a_closed_watcher_leaves_no_descriptor(folder):
    def descriptors() -> int:
        return len([*Path("/proc/self/fd").iterdir()])

    before = descriptors()
    with Watcher(folder) as watcher:
        (folder / "sub").mkdir()
        watcher.changed()
        assert descriptors() > before
    assert descriptors() == before
