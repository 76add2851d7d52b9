"""Which manifests changed: inotify on a folder and its subfolders, or on the folder of a single file.

A file is reported when its writer closes it or renames it into place: at once. What disappears is reported only if it
stays away for `GRACE` seconds: editors and `git checkout` take a file away and put the new one in its place.
When anything is uncertain (the queue overflowed, folders came or went) everything is to be looked at.

What cannot be seen: files behind a symbolic link that leads out of the folder, and a renamed ancestor beyond the
parent. Look at everything now and then.
"""

from __future__ import annotations

import ctypes
import errno
import os
import select
import stat
import time
from pathlib import Path

import inotify_simple

from netplane.closing import Closing
from netplane.errors import KernelError, RequirementError
from netplane.sources.manifests import is_manifest

GRACE = 0.25

_flags = inotify_simple.flags
_FILES = _flags.CLOSE_WRITE | _flags.MOVED_TO | _flags.CREATE | _flags.ATTRIB
_GONE = _flags.DELETE | _flags.MOVED_FROM
_FOLDER = _flags.DELETE_SELF | _flags.MOVE_SELF | _flags.UNMOUNT | _flags.IGNORED
_PLACES = _flags.MOVED_TO | _flags.CREATE | _GONE | _flags.DELETE_SELF | _flags.MOVE_SELF | _flags.ONLYDIR
_WATCHED = _FILES | _PLACES
_SWAPPED = "..data"  # the link that a mounted ConfigMap or Secret turns to its new content
_UNREACHABLE = (errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.ELOOP, errno.ENAMETOOLONG)
_EVERYTHING = Path()  # among the paths held back: look at everything


class Watcher(Closing):
    """Watches one path from construction until `close`. The path need not exist all the time.

    Raises RequirementError if the kernel's inotify limits are used up.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._single = _is_file(path)
        self._waiting = select.epoll()
        self._timer = _Timer()
        self._waiting.register(self._timer.fd, select.EPOLLIN)
        self._held: dict[Path, float] = {}  # what to report later, and when
        try:
            self._inotify = _open()
            self._watch_all()
        except BaseException:
            self.close()
            raise

    def fileno(self) -> int:
        """A descriptor that is readable when `changed` may have something to say."""
        return self._waiting.fileno()

    def changed(self) -> frozenset[Path] | None:
        """The manifests that changed or went since the last call, empty if none; None: look at everything."""
        now = time.monotonic()
        found: set[Path] = set()
        anew = False
        for event in self._inotify.read(timeout=0):
            anew |= self._note(event, found, now)
        if anew:
            self._watch_anew()
            self._held[_EVERYTHING] = now + GRACE
        # Looking at everything would also see what is only away for a moment: wait until nothing is held back.
        last = max(self._held.values(), default=now)
        everything = _EVERYTHING in self._held and last <= now
        due = {path for path, at in self._held.items() if at <= now and (path != _EVERYTHING or everything)}
        for path in due:
            del self._held[path]
        later = [last if path == _EVERYTHING else at for path, at in self._held.items()]
        self._timer.set(max(min(later) - now, 0.001) if later else 0)
        return None if everything else frozenset(found | due)

    def close(self) -> None:
        """Stop watching."""
        if hasattr(self, "_inotify"):
            self._inotify.close()
        self._waiting.close()
        self._timer.close()

    # --- events ---

    def _note(self, event: inotify_simple.Event, found: set[Path], now: float) -> bool:
        """Add what an event means to `found` or to what is held back; True if the watches must be set anew."""
        if event.mask & _flags.Q_OVERFLOW:
            return True
        if event.wd == self._above:
            # Only the watched path, or the way to it, matters there.
            return event.name == self._next or bool(event.mask & _FOLDER)
        folder = self._folders.get(event.wd)
        if folder is None:
            return False  # of a watch that is no more
        if event.mask & _FOLDER or event.name == _SWAPPED:
            return True
        if event.mask & _flags.ISDIR:
            return not self._single and not event.name.startswith(".")
        path = folder / event.name
        if path == self._path if self._single else is_manifest(event.name):
            self._note_file(path, event.mask, found, now)
        return False

    def _note_file(self, path: Path, mask: int, found: set[Path], now: float) -> None:
        # A new file is complete when its writer closes it. A link has no writer: it is reported after the grace.
        if mask & (_GONE | _flags.CREATE):
            self._held[path] = now + GRACE
            found.discard(path)
        else:
            self._held.pop(path, None)
            found.add(path)

    # --- watches ---

    def _watch_anew(self) -> None:
        """Watch the path as it is now, from scratch: descriptors of what was moved would lead astray."""
        self._inotify.close()  # and so it leaves the epoll set
        self._inotify = _open()
        self._watch_all()

    def _watch_all(self) -> None:
        self._folders: dict[int, Path] = {}
        self._above = -1
        self._next = ""
        self._waiting.register(self._inotify.fileno(), select.EPOLLIN)
        if self._single:
            self._watch(self._path.parent)
        else:
            self._watch_tree(self._path)
        self._watch_above(self._path.parent if self._single else self._path)

    def _watch(self, folder: Path) -> bool:
        """Whether `folder` is watched now; it is not if it is gone, is none or may not be read."""
        try:
            descriptor = self._inotify.add_watch(folder, _WATCHED)
        except OSError as error:
            if error.errno in _UNREACHABLE:
                return False
            raise _refused(error, folder) from error
        self._folders[descriptor] = folder
        return True

    def _watch_tree(self, folder: Path) -> None:
        if not self._watch(folder):
            return
        try:
            with os.scandir(folder) as entries:
                below = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
        except OSError:  # gone again: the watch just set will tell
            return
        for name in below:
            if not name.startswith("."):
                self._watch_tree(folder / name)

    def _watch_above(self, path: Path) -> None:
        """Watch the nearest folder above `path` that exists, to see `path` come back."""
        absolute = Path(os.path.abspath(path))  # noqa: PTH100  resolve() would follow a link that is to be watched
        while absolute != absolute.parent:
            self._next, absolute = absolute.name, absolute.parent
            try:
                self._above = self._inotify.add_watch(absolute, _PLACES)
                return
            except OSError as error:
                if error.errno not in _UNREACHABLE:
                    raise _refused(error, absolute) from error


def _is_file(path: Path) -> bool:
    try:
        return not stat.S_ISDIR(path.stat().st_mode)
    except OSError:  # whoever reads it says why it cannot be
        return False


def _open() -> inotify_simple.INotify:
    try:
        return inotify_simple.INotify(nonblocking=True)
    except OSError as error:
        raise _refused(error, Path()) from error


def _refused(error: OSError, path: Path) -> RequirementError | KernelError:
    limits = {
        errno.EMFILE: "fs.inotify.max_user_instances",
        errno.ENOSPC: "fs.inotify.max_user_watches",
    }
    if error.errno in limits:
        return RequirementError(f"inotify: cannot watch {path}: limit reached; raise the sysctl {limits[error.errno]}")
    return KernelError(mechanism="inotify", doing=f"watch {path}", said=os.strerror(error.errno or 0))


class _Timer:
    """A timer that is a descriptor (timerfd; Python has it from 3.13 on)."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self.fd: int = self._libc.timerfd_create(time.CLOCK_MONOTONIC, os.O_CLOEXEC | os.O_NONBLOCK)
        if self.fd < 0:
            raise KernelError(mechanism="timerfd", doing="create", said=os.strerror(ctypes.get_errno()))

    def set(self, seconds: float) -> None:
        """Become readable in `seconds`; 0: never. What it was readable for before is forgotten."""
        nanoseconds = int(seconds * 1e9)
        # struct itimerspec: interval (none), then the first expiry, each as seconds and nanoseconds
        spec = (ctypes.c_long * 4)(0, 0, *divmod(nanoseconds, 1_000_000_000))
        if self._libc.timerfd_settime(self.fd, 0, spec, None) != 0:
            raise KernelError(mechanism="timerfd", doing="set", said=os.strerror(ctypes.get_errno()))

    def close(self) -> None:
        """Give the descriptor back."""
        os.close(self.fd)
