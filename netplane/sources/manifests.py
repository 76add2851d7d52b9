"""A folder of manifests, or one file -> Snapshot. Reads `*.yaml`, `*.yml` and `*.json`, also in subfolders.

Emptiness is never believed. What stops being readable stays in use as it last was: a file that is broken, blank or
unreadable, an object that is refused in a file, a folder that vanished or holds no manifest any more. Only a file that
is deleted while others remain, or an object that is taken out of a good file, is gone.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from netplane.errors import InputError, Problem, one_line
from netplane.model.snapshot import Snapshot
from netplane.sources.assemble import Assembler, Change
from netplane.sources.decode import Found, Key, Object, decode

SUFFIXES = (".yaml", ".yml", ".json")
MAX_SIZE = 256 << 20
_RACY_NS = 20_000_000  # a file changed again within one kernel tick may keep its time stamp

Stamp = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a source holds now: always a whole Snapshot, and what could not be used of the input.

    `complete` is False while something could not be read ever since the first time: what it meant before this process
    began is unknown, so nothing may be taken for unwanted (docs/decisions/0011).
    """

    snapshot: Snapshot
    problems: tuple[Problem, ...]
    complete: bool = True


def is_manifest(name: str) -> bool:
    """Whether a file of this name is read: not hidden, not an editor's backup or swap file."""
    return name.endswith(SUFFIXES) and not name.startswith(".")


def load(path: Path) -> Loaded:
    """Everything under `path`, once. Raises InputError if it does not exist or holds no manifest."""
    return ManifestDirectory(path).refresh()


@dataclass(slots=True)
class _File:
    """The last good version of a file's objects. `stamp` is empty if the file must be read again anyway."""

    stamp: Stamp = ()
    objects: dict[Key, Found] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()


@dataclass(slots=True)
class _Listing:
    """The manifests of a folder with their stamps, and the subfolders that cannot be listed."""

    stamps: dict[str, Stamp] = field(default_factory=dict)
    closed: dict[str, str] = field(default_factory=dict)


class ManifestDirectory:
    """A folder, or a single file, that can be read again and again.

    Objects that did not change are the same objects in every Snapshot, also when their file was written anew.
    Raises InputError if `path` does not exist.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._single = not _is_folder(path)
        self._files: dict[str, _File] = {}
        self._holders: dict[Key, tuple[str, ...]] = {}  # the files that have an object, first one wins
        self._contested: set[Key] = set()
        self._troubled: set[str] = set()  # files with problems: looking for them in 10 000 files took a millisecond
        self._never_read: set[str] = set()  # files that were not wholly understood the first time, nor since
        self._folder_problems: tuple[Problem, ...] = ()
        self._first = True
        self._assembler = Assembler()

    def refresh(self, changed: Iterable[Path] | None = None) -> Loaded:
        """Read again what changed, or look at everything if `changed` is None, and return what there is now."""
        names = None if changed is None else self._names(changed)
        self._first = not self._files
        before: dict[Key, Object | None] = {}
        if names is None or not self._files:
            self._rescan(before)
        else:
            self._reread(names, before)
        changes = [Change(was, now) for key, was in before.items() if (now := self._current(key)) is not was]
        return Loaded(self._assembler.apply(changes), tuple(self._problems()), complete=not self._never_read)

    # --- which files to read ---

    def _names(self, changed: Iterable[Path]) -> list[str] | None:
        """The changed manifests by name; None if a folder is among them, for then anything may have changed."""
        if self._single:
            return [self._path.name]
        names = []
        for path in sorted(changed):
            if path.is_dir() or path == self._path:
                return None
            name = path.relative_to(self._path) if path.is_relative_to(self._path) else Path()
            if is_manifest(name.name) and not any(part.startswith(".") for part in name.parts):
                names.append(name.as_posix())
        return names

    def _reread(self, names: Iterable[str], before: dict[Key, Object | None]) -> None:
        gone = []
        if self._single:
            self._folder_problems = ()
        for name in names:
            if os.path.lexists(self._at(name)):
                self._read(name, before)
            elif name in self._files:
                gone.append(name)
        # The last manifests go, or the folder is gone: let the rescan judge.
        if gone and (self._single or len(gone) == len(self._files) or not self._path.is_dir()):
            self._rescan(before)
            return
        for name in gone:
            self._replace(name, None, before)

    def _rescan(self, before: dict[Key, Object | None]) -> None:
        try:
            listing = self._list()
        except OSError as error:
            self._doubt(f"cannot be read: {error.strerror}")
            return
        if not listing.stamps and not listing.closed:
            self._doubt("holds no manifest (*.yaml, *.yml, *.json)")
            return
        self._folder_problems = tuple(
            Problem(name, "folder", f"cannot be listed: {why}; its objects stay in use, allow reading it")
            for name, why in sorted(listing.closed.items())
        )
        if self._first:
            self._never_read.update(listing.closed)
        self._never_read &= self._files.keys() | listing.closed.keys()
        for name in self._files.keys() - listing.stamps.keys():
            if not name.startswith(tuple(f"{folder}/" for folder in listing.closed)):
                self._replace(name, None, before)
        for name, stamp in sorted(listing.stamps.items()):
            known = self._files.get(name)
            if known is None or not known.stamp or known.stamp != stamp:
                self._read(name, before)

    def _doubt(self, why: str) -> None:
        """Keep everything; without anything to keep there is nothing to work with."""
        what = "file" if self._single else "folder"
        if not self._files:
            raise InputError(f"{one_line(str(self._path))}: {why}; give a folder of manifests or a file")
        remedy = "its objects stay in use; bring it back, or leave one manifest with only a comment to mean nothing"
        self._folder_problems = (Problem(str(self._path), what, f"{why}; {remedy}"),)

    def _list(self) -> _Listing:
        listing = _Listing()
        if self._single:
            listing.stamps[self._path.name] = _stamp(self._path.stat())
        else:
            _walk(os.fspath(self._path), "", listing)
        return listing

    def _at(self, name: str) -> Path:
        return self._path if self._single else self._path / name

    # --- files ---

    def _read(self, name: str, before: dict[Key, Object | None]) -> None:
        """Take over the file's objects; what it no longer says clearly stays as it was."""
        old = self._files.get(name, _File())
        try:
            content, stamp = _content(self._at(name))
        except OSError as error:
            if self._first:
                self._never_read.add(name)
            why = f"cannot be read: {error.strerror or error}; correct it, or delete the file to remove its objects"
            self._replace(name, _File((), old.objects, _kept(name, old.objects, Problem(name, "file", why))), before)
            return
        decoded = decode(name, content)
        problems = decoded.problems
        if not content.strip() and (old.objects or self._first):
            decoded.unknown = True
            problems.append(Problem(name, "file", "is blank; write something, or delete it to remove its objects"))
        if not decoded.unknown and not decoded.refused:
            self._never_read.discard(name)
        elif self._first:
            self._never_read.add(name)
        stays = {
            key: found
            for key, found in old.objects.items()
            if key not in decoded.objects and (decoded.unknown or key in decoded.refused)
        }
        objects = decoded.objects | stays
        self._replace(name, _File(stamp, objects, _kept(name, stays, *problems)), before)

    def _replace(self, name: str, new: _File | None, before: dict[Key, Object | None]) -> None:
        """Put a new version of a file in place; `before` gets the value every touched object had at first."""
        had = self._files[name].objects if name in self._files else {}
        has = new.objects if new is not None else {}
        for key in {**had, **has}:
            before.setdefault(key, self._current(key))
        for key, (document, value) in has.items():
            was = before[key]
            if was is not value and was == value:
                has[key] = Found(document, was)
        for key in had.keys() - has.keys():
            self._hold(key, tuple(one for one in self._holders[key] if one != name))
        mine = (name,)
        for key in has.keys() - had.keys():
            others = self._holders.get(key)
            self._hold(key, tuple(sorted((*others, name))) if others else mine)
        self._files.pop(name, None)
        self._troubled.discard(name)
        if new is not None:
            self._files[name] = new
            if new.problems:
                self._troubled.add(name)
        else:
            self._never_read.discard(name)

    def _hold(self, key: Key, names: tuple[str, ...]) -> None:
        if names:
            self._holders[key] = names
        else:
            del self._holders[key]
        if len(names) > 1:
            self._contested.add(key)
        else:
            self._contested.discard(key)

    def _current(self, key: Key) -> Object | None:
        holders = self._holders.get(key)
        return self._files[holders[0]].objects[key].value if holders else None

    def _problems(self) -> Iterator[Problem]:
        yield from self._folder_problems
        for name in sorted(self._never_read):
            yield Problem(name, "file", "was never read well; until it is corrected or deleted nothing is swept")
        for name in sorted(self._troubled):
            yield from self._files[name].problems
        for key in sorted(self._contested):
            first, *others = self._holders[key]
            for name in others:
                where = f"{name}#{self._files[name].objects[key].document}"
                yield Problem(where, str(key), f"is also in {first}, which is used; remove one of them")


def _kept(name: str, stays: dict[Key, Found], *problems: Problem) -> tuple[Problem, ...]:
    """`problems`, and a line that says what stays in use in spite of them."""
    if not stays:
        return problems
    first = min(stays)
    others = f" and {len(stays) - 1} more" if len(stays) > 1 else ""
    return (*problems, Problem(name, f"{first}{others}", "stays in use as it last was, until the file is corrected"))


def _is_folder(path: Path) -> bool:
    try:
        return stat.S_ISDIR(path.stat().st_mode)
    except FileNotFoundError:
        why = "does not exist"
    except OSError as error:  # a name that is too long, a folder above that may not be entered
        why = f"cannot be read: {error.strerror}"
    raise InputError(f"{one_line(str(path))}: {why}; give a folder of manifests or a file")


def _walk(root: str, below: str, listing: _Listing) -> None:
    """List `root/below` and its subfolders. Folders behind symbolic links are left out, as kubectl does."""
    with os.scandir(os.path.join(root, below)) as entries:  # noqa: PTH118  a Path per file doubles the time
        for entry in entries:
            name = f"{below}/{entry.name}" if below else entry.name
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                try:
                    _walk(root, name, listing)
                except OSError as error:
                    listing.closed[name] = error.strerror or str(error)
            elif is_manifest(entry.name):
                try:
                    listing.stamps[name] = _stamp(entry.stat())
                except OSError:
                    listing.stamps[name] = ()  # reading it will say why


def _stamp(of: os.stat_result) -> Stamp:
    return (of.st_mtime_ns, of.st_ctime_ns, of.st_size, of.st_ino, of.st_dev)


def _content(path: Path) -> tuple[bytes, Stamp]:
    """The bytes of a file and its stamp, empty if the file may change without its stamp changing. Raises OSError."""
    now = time.time_ns()
    # Not blocking: a pipe with a manifest's name must not stop the agent.
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:  # noqa: PTH123
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise OSError(None, "is not a regular file")
        content = file.read(MAX_SIZE + 1) if found.st_size <= MAX_SIZE else b""
    if max(found.st_size, len(content)) > MAX_SIZE:
        raise OSError(None, f"is larger than {MAX_SIZE >> 20} MiB")
    return content, _stamp(found) if now - found.st_mtime_ns > _RACY_NS else ()
