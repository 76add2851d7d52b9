"""wireguard-go: WireGuard as a process, for kernels without; started, asked and ended.

It has its socket at /var/run/wireguard/LINK.sock, whatever one says, and of a host only one process could have that. So
each runs in a mount namespace of its own, in which a folder of ours is /var/run:

    RUN/wireguard-go/              seen as /var/run by the process; root's, 0700
    RUN/wireguard-go/LINK.log      what it said when it could not start
    RUN/wireguard-go/LINK.pid      its number, and when it was started (proc(5), stat: starttime)
    RUN/wireguard-go/wireguard/LINK.sock

It ends by itself when its link or its socket is removed, and its link ends with it: not at once, and its UDP port is
free only then. Decision 0033.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import time
from contextlib import suppress
from pathlib import Path

from netplane.errors import KernelError, RequirementError
from netplane.kernel import command
from netplane.kernel.peer import peer
from netplane.kernel.private_folder import PrivateFolder

PROGRAM = "wireguard-go"
TUN = Path("/dev/net/tun")
ANSWER_SECONDS = 3.0
"""A process that does not answer for so long is as good as dead."""
_START_SECONDS, _END_SECONDS, _POLL_SECONDS = 10.0, 1.0, 0.002
_SOCKETS = "wireguard"
_LONGEST_ANSWER = 64 << 20
# Unmounting elsewhere reaches it (slave), nothing it mounts gets out. `exec`: the process that is started is the one
# that listens in the end.
_SCRIPT = 'cd / && "$1" --bind "$2" /var/run && exec "$3" -f "$4"'


class Silent(KernelError):
    """Something listens on the socket of a wireguard-go, but gives no answer."""

    def __init__(self, doing: str, said: str) -> None:
        super().__init__(mechanism="wireguard", doing=doing, said=said)


def missing() -> str:
    """What this host lacks for wireguard-go; "" if it has all. A mount namespace is tried by `start` only."""
    programs = [name for name in (PROGRAM, "unshare", "mount", "sh") if command.find(name) is None]
    if programs:
        packages = "wireguard-go" if programs == [PROGRAM] else "wireguard-go, util-linux, mount"
        return f"{', '.join(programs)} (Debian: apt install {packages})"
    try:
        os.close(os.open(TUN, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return f"{TUN} ({error.strerror}; modprobe tun, or give it to the container)"
    return ""


class WireguardGo:
    """The processes whose folder is `run`/wireguard-go, one for each link of the calling thread's network namespace."""

    def __init__(self, run: Path) -> None:
        self._folder = run / PROGRAM
        self._home = _namespace("thread-self")
        self._children: set[int] = set()

    def ask(self, link: str, request: str, seconds: float = ANSWER_SECONDS) -> str | None:
        """The answer of a link's process; None if there is none. Raises Silent if it does not answer in time."""
        doing = f"ask {PROGRAM} of {link}"
        try:
            connection = self._connect(link, seconds)
            if connection is None:
                return None
            with connection:
                connection.sendall(request.encode())
                return _answer(connection, time.monotonic() + seconds)
        except TimeoutError as error:
            raise Silent(doing, f"no answer for {seconds:g} s") from error
        except (ConnectionError, EOFError) as error:
            raise Silent(doing, f"it ended in the middle of an answer: {error}") from error

    def pid(self, link: str) -> int:
        """The process of a link, in whatever network namespace; 0 if there is none, or none that we may see."""
        try:
            pid, started = map(int, self._file(link, "pid").read_text().split())
        except (OSError, ValueError):
            return self._listener(link)
        return pid if started and _started(pid) == started else self._listener(link)

    def here(self, link: str) -> bool:
        """Whether the process of a link is in the network namespace in which this was made."""
        pid = self.pid(link)
        return bool(pid) and _namespace(str(pid)) == self._home

    def left(self, link: str) -> bool:
        """Whether there is anything of a link's process: itself, or what it left when it was killed."""
        return any(os.path.lexists(path) for path in (self._socket(link), self._file(link, "pid")))

    def start(self, link: str) -> None:
        """Make a link of kind tun in the network namespace of the calling thread, and have a process serve it.

        It lives until `stop`, or until its link is deleted. Raises RequirementError if this host cannot do that,
        KernelError with what it said if it does not start.
        """
        if lacks := missing():
            raise RequirementError(f"{PROGRAM}: this host lacks {lacks}")
        PrivateFolder.made(self._folder).close()
        PrivateFolder.made(self._folder / _SOCKETS).close()
        if self._runs(link, "silent"):
            return
        # Its complaints are not kept while it runs: nobody would ever cut them, and they come every few seconds.
        self._runs(link, "error")
        raise self._failure(link)

    def stop(self, link: str) -> None:
        """End the process of a link, and remove what it left. Its link goes with it. None there: nothing happens."""
        self._reap()
        if pid := self.pid(link):
            with suppress(ProcessLookupError):
                handle = os.pidfd_open(pid)
                try:
                    if self.pid(link) == pid:  # so this is still the same process, and `handle` is its
                        _end(handle)
                finally:
                    os.close(handle)
        self._reap()
        if self._socket(link).parent.exists():
            with PrivateFolder(self._socket(link).parent) as sockets, PrivateFolder(self._folder) as folder:
                sockets.remove(f"{link}.sock")
                folder.remove(f"{link}.log")
                folder.remove(f"{link}.pid")

    def close(self) -> None:
        """Let go of processes; they live on."""
        self._reap()

    def _runs(self, link: str, level: str) -> bool:
        """Start it; whether it answers then."""
        pid = self._spawn(link, level)
        self._children.add(pid)
        with PrivateFolder(self._folder) as folder:
            folder.remove(f"{link}.pid")
            folder.write_new(f"{link}.pid", f"{pid} {_started(pid)}\n".encode())
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline:
            self._reap()
            if pid not in self._children:
                return False
            with suppress(Silent):
                if self._listener(link) == pid and self.ask(link, "get=1\n\n") is not None:
                    return True
            time.sleep(_POLL_SECONDS)
        os.kill(pid, signal.SIGKILL)  # our child, and not waited for yet: nobody else has its number
        self._reap(block=pid)
        return False

    def _spawn(self, link: str, level: str) -> int:
        """In the calling thread's network namespace, in a session of its own, and with nothing of ours open."""
        words = [
            *(_found("unshare"), "--mount", "--propagation", "slave", _found("sh"), "-c", _SCRIPT),
            *("sh", _found("mount"), str(self._folder), _found(PROGRAM), link),
        ]
        log = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
        return os.posix_spawn(
            words[0],
            words,
            # WG_PROCESS_FOREGROUND: no advice to use the kernel's
            {"LC_ALL": "C.UTF-8", "LOG_LEVEL": level, "WG_PROCESS_FOREGROUND": "1"},
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, str(self._file(link, "log")), log, 0o600),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ],
            setsid=True,
            setsigmask=[],
            setsigdef=[signal.SIGPIPE, signal.SIGXFSZ],  # which Python ignores
        )

    def _failure(self, link: str) -> KernelError | RequirementError:
        said = self._file(link, "log").read_text(errors="backslashreplace")[:2000].strip() or "it ended without a word"
        self.stop(link)
        if said.startswith(("unshare:", "mount:")):
            return RequirementError(
                f"{PROGRAM} needs a mount namespace of its own, which is refused here: {said}; run as root, with "
                "CAP_SYS_ADMIN, and not in a chroot"
            )
        return KernelError(mechanism="wireguard", doing=f"start {PROGRAM} for {link}", said=said)

    def _connect(self, link: str, seconds: float) -> socket.socket | None:
        """A connection to the process of a link; None if none listens."""
        path = self._socket(link)
        if not path.exists():
            return None
        made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            made.settimeout(seconds)
            with PrivateFolder(path.parent) as folder:
                made.connect(f"/proc/self/fd/{folder.fd}/{path.name}")  # sun_path has 108 bytes, ours may have more
        except (FileNotFoundError, ConnectionRefusedError):
            made.close()
            return None
        except BaseException:
            made.close()
            raise
        return made

    def _listener(self, link: str) -> int:
        """The process that listens on the socket of a link; 0 if none does."""
        try:
            connection = self._connect(link, ANSWER_SECONDS)
        except (TimeoutError, ConnectionError):
            return 0
        if connection is None:
            return 0
        with connection:
            return peer(connection)[0]

    def _socket(self, link: str) -> Path:
        return self._folder / _SOCKETS / f"{link}.sock"

    def _file(self, link: str, kind: str) -> Path:
        return self._folder / f"{link}.{kind}"

    def _reap(self, block: int = 0) -> None:
        """Children of ours that have ended are let go; the kernel keeps them as zombies until then."""
        for pid in sorted(self._children):
            try:
                ended = os.waitpid(pid, 0 if pid == block else os.WNOHANG)[0]
            except ChildProcessError:
                ended = pid
            if ended:
                self._children.discard(pid)


def _started(pid: int) -> int:
    """When a process was started, in ticks since the machine was: with it, a number is never another process's. 0 if
    it has ended."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    except OSError:
        return 0


def _namespace(process: str) -> int:
    """The inode of a process's network namespace, unique while it lives; 0 if it has ended."""
    try:
        return Path(f"/proc/{process}/ns/net").stat().st_ino
    except OSError:
        return 0


def _found(program: str) -> str:
    return command.find(program) or program


def _answer(connection: socket.socket, deadline: float) -> str:
    """Up to and without the empty line that ends it."""
    found = bytearray()
    while not found.endswith(b"\n\n"):
        connection.settimeout(max(deadline - time.monotonic(), 0.001))
        some = connection.recv(1 << 20)
        if not some:
            raise EOFError("end of file")
        found += some
        if len(found) > _LONGEST_ANSWER:
            raise EOFError(f"more than {_LONGEST_ANSWER} bytes")
    return found[:-1].decode(errors="backslashreplace")


def _end(handle: int) -> None:
    """End a process; return when it has ended."""
    ended = select.poll()
    ended.register(handle, select.POLLIN)
    for number in (signal.SIGTERM, signal.SIGKILL):
        signal.pidfd_send_signal(handle, number)
        if ended.poll(_END_SECONDS * 1000):
            return
