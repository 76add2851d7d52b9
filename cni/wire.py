"""How a request reaches the agent, and its reply comes back: one frame each way on a unix socket.

    request   "NPC1"  errno     environment bytes   stdin bytes   NAME=VALUE\\0...   stdin
    reply     "NPR1"  exit code  stdout bytes                                       stdout

Numbers are 32 bits as the machine has them: nothing here leaves it. With the first byte of a request comes at most one
descriptor, open on CNI_NETNS; `errno` says why there is none. `launcher/launcher.c` writes the same.
"""

from __future__ import annotations

import os
import socket
import struct
import time
from array import array
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cni.request import Reply, Request
from netplane.errors import InputError, KernelError, OwnershipError, RequirementError
from netplane.kernel.peer import peer

ENVIRONMENT_BYTES, STDIN_BYTES, STDOUT_BYTES = 256 << 10, 4 << 20, 4 << 20
"""The most of each. The launcher has the same limits."""

_REQUEST, _REPLY = struct.Struct("=4s3I"), struct.Struct("=4s2I")
_REQUEST_MAGIC, _REPLY_MAGIC = b"NPC1", b"NPR1"
_TIMEVAL = struct.Struct("@ll")
_PIECE = 1 << 16


class BadFrame(InputError):
    """What came is not a frame, or too large."""


def request_size(start: bytes | bytearray | memoryview) -> int:
    """How many bytes the request that begins so has; 0 if these are too few to tell. Raises BadFrame."""
    if len(start) < _REQUEST.size:
        return 0
    magic, _, environment, stdin = _REQUEST.unpack_from(start)
    if magic != _REQUEST_MAGIC:
        raise BadFrame("not a request")
    if environment > ENVIRONMENT_BYTES or stdin > STDIN_BYTES:
        raise BadFrame(f"a request with {environment} bytes of environment and {stdin} of stdin is too large")
    return int(_REQUEST.size + environment + stdin)


def request_frame(request: Request) -> bytes:
    """The frame of a request, without its descriptor. Raises BadFrame if it is too large or holds a NUL."""
    variables = [f"{name}={value}" for name, value in request.environment.items()]
    if any("\0" in each for each in variables):
        raise BadFrame("a variable with a NUL in it")
    environment = os.fsencode("".join(f"{each}\0" for each in variables))
    head = _REQUEST.pack(_REQUEST_MAGIC, request.netns_errno, len(environment), len(request.stdin))
    request_size(head)
    return head + environment + request.stdin


def request_of(frame: bytes | bytearray | memoryview, netns_fd: int = -1) -> Request:
    """The request of a whole frame. Raises BadFrame.

    As for getenv(3) the first of several variables of one name counts, and what has no `=` is none. Bytes that are not
    UTF-8 become surrogates, as in os.environ.
    """
    if not len(frame) or request_size(frame) != len(frame):
        raise BadFrame("a request of another length than it says")
    _, errno, size, _ = _REQUEST.unpack_from(frame)
    end = _REQUEST.size + size
    variables = bytes(frame[_REQUEST.size : end]).decode(errors="surrogateescape").split("\0")
    if variables.pop():
        raise BadFrame("the last variable of a request does not end")
    environment: dict[str, str] = {}
    for each in variables:
        name, equals, value = each.partition("=")
        if equals and name.startswith("CNI_"):
            environment.setdefault(name, value)
    return Request(environment, bytes(frame[end:]), netns_fd, errno)


def reply_frame(reply: Reply) -> bytes:
    """The frame of a reply. Raises BadFrame if its exit code or its length cannot be told."""
    if not 0 <= reply.code <= 255 or len(reply.stdout) > STDOUT_BYTES:
        raise BadFrame(f"a reply with exit code {reply.code} and {len(reply.stdout)} bytes")
    return _REPLY.pack(_REPLY_MAGIC, reply.code, len(reply.stdout)) + reply.stdout


def call(socket_path: Path, request: Request, seconds: float) -> Reply:
    """Ask the agent that listens at `socket_path`, as the launcher does. `netns_fd` is sent along and stays open.

    Raises KernelError if none listens or it does not answer for so long, RequirementError without the right to ask,
    OwnershipError if it is neither root nor who we are.
    """
    deadline = time.monotonic() + seconds
    frame = request_frame(request)
    doing = f"ask {socket_path}"
    try:
        with _connected(socket_path, seconds) as connection:
            if peer(connection)[1] not in (0, os.geteuid()):
                raise OwnershipError(f"{socket_path}: somebody who is not root listens there")
            with suppress(BrokenPipeError, ConnectionResetError):  # an agent may answer without reading
                _send(connection, frame, request.netns_fd, deadline)
            return _received(connection, deadline)
    except TimeoutError as error:
        said = f"the agent did not answer for {seconds:g} s; see its log"
        raise KernelError(mechanism="cni", doing=doing, said=said) from error
    except PermissionError as error:
        raise RequirementError(f"cni: {doing}: {error.strerror}; run as root") from error
    except (FileNotFoundError, ConnectionRefusedError) as error:
        said = f"no agent listens there ({error.strerror}); start one with: netplane agent run"
        raise KernelError(mechanism="cni", doing=doing, said=said) from error
    except (EOFError, ConnectionError) as error:
        raise KernelError(mechanism="cni", doing=doing, said="the agent ended before it answered") from error
    except OSError as error:
        raise KernelError(mechanism="cni", doing=doing, said=error.strerror or str(error)) from error


@contextmanager
def _connected(path: Path, seconds: float) -> Iterator[socket.socket]:
    folder = os.open(path.parent, os.O_DIRECTORY | os.O_PATH | os.O_CLOEXEC)
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        # Only a blocking socket waits for its turn in the backlog; and it waits for no longer than this.
        made.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _TIMEVAL.pack(int(seconds) + 1, 0))
        try:
            made.connect(f"/proc/self/fd/{folder}/{path.name}")  # short, however long the path is
        except BlockingIOError as error:
            raise TimeoutError from error
        yield made
    finally:
        os.close(folder)
        made.close()


def _send(connection: socket.socket, frame: bytes, netns_fd: int, deadline: float) -> None:
    ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", [netns_fd]))] if netns_fd >= 0 else []
    connection.settimeout(_left(deadline))
    sent = connection.sendmsg([frame], ancillary)
    connection.sendall(frame[sent:])


def _received(connection: socket.socket, deadline: float) -> Reply:
    magic, code, size = _REPLY.unpack(_exactly(connection, _REPLY.size, deadline))
    if magic != _REPLY_MAGIC or code > 255 or size > STDOUT_BYTES:
        raise KernelError(mechanism="cni", doing="read the agent's reply", said="this is no reply")
    return Reply(code, _exactly(connection, size, deadline))


def _exactly(connection: socket.socket, size: int, deadline: float) -> bytes:
    read = bytearray()
    while len(read) < size:
        connection.settimeout(_left(deadline))
        more = connection.recv(min(size - len(read), _PIECE))
        if not more:
            raise EOFError
        read += more
    return bytes(read)


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left
