"""The folder of our bird: its configuration, the passwords beside it, and which of them it has taken.

bird.conf  passwords.conf    what it reads; 0600, each replaced as a whole
applied                      a digest of both, written when bird had taken them
next/                        both, while bird is asked whether it would take them
bird.ctl  bird.pid           bird's own
"""

from __future__ import annotations

import hashlib
import os
import stat
from contextlib import suppress
from pathlib import Path

from netplane.closing import Closing
from netplane.errors import InputError
from netplane.kernel.bird import SOCKET
from netplane.kernel.bird_process import CONFIGURATION, PID_FILE
from netplane.kernel.private_folder import PrivateFolder
from netplane.programs import bird

_APPLIED, _NEXT = "applied", "next"
_LARGEST_PASSWORD_FILE = 4096
_FLAGS = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


class Configuration:
    """A configuration, with the passwords it needs: those are never shown."""

    def __init__(self, text: str, passwords: str) -> None:
        self.text, self.passwords = text, passwords

    @classmethod
    def of(cls, text: str) -> Configuration:
        """The configuration with the passwords that are in the files it names. Raises InputError for one it cannot."""
        found = {constant: _password(Path(path)) for constant, path in bird.references(text).items()}
        return cls(text, bird.passwords_text(found))

    @property
    def digest(self) -> str:
        """Equal for equal ones."""
        digest = hashlib.sha256(self.text.encode())
        digest.update(b"\0" + self.passwords.encode())
        return digest.hexdigest()


class BirdFiles(Closing):
    """The folder, open. Raises RequirementError where there is none, or where others could write to it."""

    def __init__(self, path: Path) -> None:
        self._folder = PrivateFolder(path)
        self.path = path

    @classmethod
    def made(cls, path: Path) -> BirdFiles:
        """The folder, made with mode 0700 if it is missing."""
        PrivateFolder.made(path).close()
        return cls(path)

    @property
    def next(self) -> Path:
        """Where a configuration waits that is not in use yet."""
        return self.path / _NEXT

    def text(self) -> str:
        """What bird reads when it starts; "" if that is nothing."""
        return _read(self._folder, CONFIGURATION)

    def has(self, configuration: Configuration) -> bool:
        """Whether bird has taken this one, and would read it again."""
        if self.next.exists():
            return False
        there = Configuration(self.text(), _read(self._folder, bird.PASSWORDS))
        return configuration.digest == there.digest == _read(self._folder, _APPLIED)

    def stage(self, configuration: Configuration) -> None:
        """Put it where bird can be asked about it."""
        with PrivateFolder.made(self.next) as folder:
            _write_all(folder, configuration)

    def install(self, configuration: Configuration) -> None:
        """Put it where bird reads it when it starts."""
        _write_all(self._folder, configuration)

    def took(self, configuration: Configuration) -> None:
        """bird has it."""
        _write(self._folder, _APPLIED, configuration.digest)

    def unstage(self) -> None:
        """Remove what waits."""
        if self.next.is_dir():
            with PrivateFolder(self.next) as folder:
                for name in (CONFIGURATION, bird.PASSWORDS):
                    folder.remove(name)
            self._folder.remove(_NEXT)

    def remove(self) -> None:
        """Remove all of it, and the folder unless somebody else put something into it."""
        self.unstage()
        for name in (_APPLIED, CONFIGURATION, bird.PASSWORDS, SOCKET, PID_FILE):
            self._folder.remove(name)
        with suppress(OSError):
            self.path.rmdir()

    def close(self) -> None:
        """Let go of the folder."""
        self._folder.close()


def exist(path: Path) -> bool:
    """Whether there is anything of ours in this folder."""
    return any((path / name).exists() for name in (_NEXT, _APPLIED, CONFIGURATION, bird.PASSWORDS, SOCKET, PID_FILE))


def _write_all(folder: PrivateFolder, configuration: Configuration) -> None:
    if configuration.passwords:
        _write(folder, bird.PASSWORDS, configuration.passwords)
    else:
        folder.remove(bird.PASSWORDS)
    _write(folder, CONFIGURATION, configuration.text)


def _write(folder: PrivateFolder, name: str, content: str) -> None:
    """The file is the old one or the new one, never a part."""
    draft = f".{name}"
    folder.remove(draft)
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _FLAGS, 0o600, dir_fd=folder.fd)
    with os.fdopen(fd, "w") as file:
        file.write(content)
    os.rename(draft, name, src_dir_fd=folder.fd, dst_dir_fd=folder.fd)


def _read(folder: PrivateFolder, name: str) -> str:
    try:
        fd = os.open(name, os.O_RDONLY | _FLAGS, dir_fd=folder.fd)
    except FileNotFoundError:
        return ""
    with os.fdopen(fd, errors="replace") as file:
        return file.read()


def _password(path: Path) -> str:
    """Links are followed (Secrets are mounted as such), but what they lead to must be root's alone."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise InputError(f"password file {path}: {error.strerror}") from error
    with os.fdopen(fd, "rb") as file:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            raise InputError(f"password file {path}: is no file")
        if found.st_uid not in (0, os.geteuid()) or found.st_mode & 0o077:
            words = f"user {found.st_uid}, mode {stat.S_IMODE(found.st_mode):04o}"
            raise InputError(
                f"password file {path}: others can read or write it ({words}); chown root and chmod 0600 it"
            )
        return bird.password_of(file.read(_LARGEST_PASSWORD_FILE), str(path))
