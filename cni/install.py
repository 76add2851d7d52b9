"""Puts the plugin where a container runtime looks for it, and takes it away: the launcher, a network, a .link file.

    /opt/cni/bin/netplane                    the launcher, told where the agent is
    /opt/cni/bin/loopback                    the same, if there is none: containerd cannot do without
    /etc/cni/net.d/10-netplane.conflist      the network
    /etc/systemd/network/10-netplane.link    udev leaves our links' MAC addresses alone

Every file is replaced by a rename in its own folder: there is no moment without it or with half of it, and a launcher
that runs goes on. What is not ours is never touched: a launcher is ours if it has the launcher's marker, a network if
its first plugin is `netplane`, a .link file if it says so; a symbolic link never is.
"""

from __future__ import annotations

import json
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from cni.launcher.build import LAUNCHER
from netplane.errors import InputError, OwnershipError, RequirementError

MARKER = b"netplane cni launcher block 1\0"
"""Where launcher.c begins what is written into it; the sizes of the fields are there, too."""
_MARKER_BYTES, _FIELD_BYTES = 32, (108, 256, 256)
_ELF = b"\x7fELF"
_MOST_BYTES = 1 << 20

PLUGIN, LOOPBACK = "netplane", "loopback"
CONFLIST, LINK = "10-netplane.conflist", "10-netplane.link"
_LINK_HEAD = b"# Made by netplane"
_LINK_TEXT = _LINK_HEAD + (
    b": the MAC addresses of its links are chosen with care, udev must not choose others.\n"
    b"[Match]\nOriginalName=npb* npr* cni0\n\n[Link]\nMACAddressPolicy=none\n"
)


@dataclass(frozen=True, slots=True)
class LauncherSettings:
    """What is written into the launcher. `python`: what does the work while no agent runs; None: nobody does."""

    socket: Path = Path("/run/netplane/cni.sock")
    spool: Path = Path("/var/lib/netplane/cni/spool")
    python: Path | None = None


@dataclass(frozen=True, slots=True)
class InstallOptions:
    """What is put where. `conflist` None: the default, unless there is one of ours, which stays as it is.

    `link_directory` None: no .link file; nor if the folder does not exist, as without systemd-udevd.
    """

    settings: LauncherSettings = LauncherSettings()
    bin_directory: Path = Path("/opt/cni/bin")
    config_directory: Path = Path("/etc/cni/net.d")
    link_directory: Path | None = Path("/etc/systemd/network")
    loopback: bool = True
    conflist: bytes | None = None
    launcher: Path = LAUNCHER


def default_conflist() -> bytes:
    """A network with the addresses of the Node object, for runtimes old and new (containerd 1.6 reads `cniVersion`)."""
    plugin = {
        "type": PLUGIN,
        "ipam": {"type": PLUGIN, "nodeRanges": True},
        "capabilities": {
            "portMappings": True,
            "bandwidth": True,
            "dns": True,
            "ipRanges": True,
            "ips": True,
            "mac": True,
        },
    }
    network = {"cniVersion": "1.0.0", "cniVersions": ["0.4.0", "1.0.0", "1.1.0"], "name": "pods", "plugins": [plugin]}
    return json.dumps(network, indent=2).encode() + b"\n"


def install(options: InstallOptions) -> list[str]:
    """Put everything in place and return what was done, a line each; again, it changes nothing.

    Nothing is written if one of the files is somebody else's. Raises OwnershipError for that, InputError for a path
    that cannot be used, RequirementError if the launcher was not compiled, or without the right to write.
    """
    launcher = patched(_launcher(options.launcher), options.settings)
    binary, other = options.bin_directory / PLUGIN, options.bin_directory / LOOPBACK
    network, link = options.config_directory / CONFLIST, _link(options)
    with _naming():
        _ours(binary, is_launcher)
        found = _ours(network, is_own_conflist)
        if link is not None:
            _ours(link, is_own_link)
        options.bin_directory.mkdir(mode=0o755, parents=True, exist_ok=True)
        options.config_directory.mkdir(mode=0o755, parents=True, exist_ok=True)
        done = [_put(binary, launcher, 0o755)]
        if options.loopback and _may_replace(other, is_launcher):
            done.append(_put(other, launcher, 0o755))
        if link is not None:
            done.append(_put(link, _LINK_TEXT, 0o644))
        # The network comes last: a runtime takes it as the word that everything else is there.
        wanted = options.conflist or found or default_conflist()
        done.append(_put(network, wanted, 0o644))
        _kick(options.config_directory)
        return done


def uninstall(options: InstallOptions) -> list[str]:
    """Remove what is ours and return what was done, a line each. What is somebody else's stays, and is told of.

    The network goes first: no container is given to a plugin that is gone.
    """
    done = []
    with _naming():
        done.append(_remove(options.config_directory / CONFLIST, is_own_conflist))
        _kick(options.config_directory)
        for name in (PLUGIN, LOOPBACK):
            done.append(_remove(options.bin_directory / name, is_launcher))
        if options.link_directory is not None:
            done.append(_remove(options.link_directory / LINK, is_own_link))
    return [each for each in done if each]


def patched(launcher: bytes, settings: LauncherSettings) -> bytes:
    """A launcher with these settings. Raises InputError if a path is too long or not plain, or this is no launcher."""
    start = _block(launcher)
    paths = (settings.socket, settings.spool, settings.python)
    names = ("socket", "spool", "python")
    block = b"".join(map(_field, names, paths, _FIELD_BYTES))
    return launcher[:start] + block + launcher[start + len(block) :]


def settings_of(launcher: bytes) -> LauncherSettings:
    """What is written in a launcher. Raises InputError if it is none."""
    at = _block(launcher)
    found = []
    for size in _FIELD_BYTES:
        found.append(os.fsdecode(launcher[at : at + size].split(b"\0")[0]))
        at += size
    return LauncherSettings(Path(found[0]), Path(found[1]), Path(found[2]) if found[2] else None)


def is_launcher(content: bytes) -> bool:
    """Whether a file is a launcher of netplane, with whatever settings and of whatever version."""
    return content.startswith(_ELF) and MARKER in content


def is_own_conflist(content: bytes) -> bool:
    """Whether the first plugin of a network is ours."""
    try:
        return bool(json.loads(content)["plugins"][0]["type"] == PLUGIN)
    except (ValueError, LookupError, TypeError, RecursionError):
        return False


def is_own_link(content: bytes) -> bool:
    """Whether a .link file says that it is ours."""
    return content.startswith(_LINK_HEAD)


def _block(launcher: bytes) -> int:
    """Where the settings begin."""
    at = launcher.find(MARKER)
    start = at + _MARKER_BYTES
    if at < 0 or launcher.find(MARKER, start) >= 0 or len(launcher) < start + sum(_FIELD_BYTES):
        raise InputError("this is not the launcher of netplane: its settings are not where they should be")
    return start


def _field(name: str, path: Path | None, size: int) -> bytes:
    """A path as the launcher has it: it goes into JSON as it is, so it holds nothing that JSON would escape."""
    text = "" if path is None else str(path)
    plain = text.isascii() and text.isprintable() and not set(text) & {'"', "\\"}
    if path is not None and not (path.is_absolute() and plain):
        raise InputError(f"{name}: {text!r}: must be an absolute path of plain characters")
    if len(text) >= size:
        raise InputError(f"{name}: {text}: must be shorter than {size} characters")
    return text.encode().ljust(size, b"\0")


def _launcher(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        said = f"{path}: {error.strerror}: it is compiled when netplane is installed"
        raise RequirementError(f"{said}; in a checkout: python -m cni.launcher.build") from error


def _link(options: InstallOptions) -> Path | None:
    there = options.link_directory is not None and options.link_directory.is_dir()
    return options.link_directory / LINK if options.link_directory is not None and there else None


def _ours(path: Path, recognise: Callable[[bytes], bool]) -> bytes | None:
    """What a file of ours holds; None if there is none. Raises OwnershipError if it is not ours."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        if path.is_symlink():
            raise OwnershipError(f"{path}: a symbolic link, which netplane did not make; move it away") from error
        raise
    try:
        content = os.read(fd, _MOST_BYTES) if stat.S_ISREG(os.fstat(fd).st_mode) else b""
    finally:
        os.close(fd)
    if not recognise(content):
        raise OwnershipError(f"{path}: not made by netplane; move it away to have it replaced")
    return content


def _may_replace(path: Path, recognise: Callable[[bytes], bool]) -> bool:
    try:
        _ours(path, recognise)
    except OwnershipError:
        return False
    return True


def _put(path: Path, content: bytes, mode: int) -> str:
    with suppress(OSError):
        if path.read_bytes() == content and stat.S_IMODE(path.lstat().st_mode) == mode:
            return f"{path}: as it should be"
    # Beside it, with an ending no runtime reads: a rename from elsewhere tells containerd nothing.
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(content)
            file.flush()
            os.fchmod(fd, mode)
            os.fsync(fd)
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    _sync(path.parent)
    return f"{path}: written"


def _remove(path: Path, recognise: Callable[[bytes], bool]) -> str:
    try:
        if _ours(path, recognise) is None:
            return ""
    except OwnershipError:
        return f"{path}: left alone, not made by netplane"
    path.unlink(missing_ok=True)
    _sync(path.parent)
    return f"{path}: removed"


def _kick(directory: Path) -> None:
    """Have containerd read the folder again: it overlooks what only appears, and may misread a rename (#11715)."""
    kick = directory / f".netplane.{secrets.token_hex(4)}.kick"
    with suppress(FileNotFoundError):
        fd = os.open(kick, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, b"read again\n")
        finally:
            os.close(fd)
            kick.unlink(missing_ok=True)


def _sync(directory: Path) -> None:
    fd = os.open(directory, os.O_DIRECTORY | os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextmanager
def _naming() -> Iterator[None]:
    try:
        yield
    except PermissionError as error:
        raise RequirementError(f"{error.filename}: {error.strerror}; run as root") from error
    except OSError as error:
        raise InputError(f"{error.filename}: {error.strerror}") from error
