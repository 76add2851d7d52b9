"""The agent's socket: one question, one answer, each a line of JSON.

Only root, or the agent's own user, is answered: the file is 0600 in a folder of ours, and the kernel says who asks.
Nothing a client does or fails to do holds up the agent: questions are short and have to come soon, answers that
nobody takes are dropped, and no more than a few hundred clients are listened to at once.

    {"ask": "status"}                            -> {"answer": {...}}
    {"ask": "backend", "backend": "iptables"}    -> {"answer": {...}} or {"error": "...", "exitCode": 3}
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from netplane.agent.lock import SOCKET, RunDirectory
from netplane.errors import KernelError, NetplaneError, RequirementError, one_line
from netplane.kernel.peer import peer

log = logging.getLogger("netplane.agent")

QUESTION_BYTES, ANSWER_BYTES = 4096, 4 << 20
QUESTION_SECONDS, TAKING_SECONDS = 2.0, 5.0
CLIENTS = 256

Answer = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]
"""What a question gets. Raises NetplaneError where it cannot be answered."""


class ControlServer:
    """Answers on a listening socket, which it closes. Used inside one event loop."""

    def __init__(self, listening: socket.socket, answer: Answer) -> None:
        self._listening, self._answer = listening, answer
        self._server: asyncio.Server | None = None
        self._clients = 0

    async def start(self) -> None:
        """Begin to answer."""
        self._server = await asyncio.start_unix_server(self._serve, sock=self._listening, limit=QUESTION_BYTES)

    def close(self) -> None:
        """Answer nobody any more."""
        if self._server is not None:
            self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._clients += 1
        try:
            if self._clients <= CLIENTS and _may_ask(writer):
                question = await asyncio.wait_for(reader.readuntil(b"\n"), QUESTION_SECONDS)
                writer.write(await self._said(question))
                await asyncio.wait_for(writer.drain(), TAKING_SECONDS)
        except (TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, OSError):
            writer.transport.abort()  # not a question, or nobody waits for its answer any more
        except asyncio.CancelledError:
            return  # the agent ends; asyncio (3.11) would print a traceback of a task that ends as cancelled
        finally:
            self._clients -= 1
            writer.close()

    async def _said(self, line: bytes) -> bytes:
        try:
            answer: dict[str, Any] = {"answer": await self._answer(_question(line))}
        except NetplaneError as error:
            answer = {"error": str(error), "exitCode": error.exit_code}
        return json.dumps(answer).encode() + b"\n"


def ask(directory: Path, question: dict[str, Any], seconds: float) -> dict[str, Any]:
    """What the agent of a run directory answers.

    Raises KernelError if none runs there or it does not answer for so long, Refusal with the agent's own words.
    """
    doing = f"ask {directory / SOCKET}"
    try:
        if not directory.exists():
            raise KernelError(mechanism="agent", doing=doing, said=NOBODY)
        with RunDirectory(directory) as place, place.connect(seconds) as connection:
            connection.sendall(json.dumps(question).encode() + b"\n")
            line = _line(connection)
    except TimeoutError as error:
        said = f"the agent did not answer for {seconds:g} s; see its log"
        raise KernelError(mechanism="agent", doing=doing, said=said) from error
    except (FileNotFoundError, ConnectionRefusedError) as error:
        raise KernelError(mechanism="agent", doing=doing, said=NOBODY) from error
    except (BrokenPipeError, ConnectionResetError) as error:
        raise KernelError(mechanism="agent", doing=doing, said=_SENT_AWAY) from error
    except PermissionError as error:
        raise RequirementError(f"agent: {doing}: {error.strerror}; run as root") from error
    except OSError as error:
        raise KernelError(mechanism="agent", doing=doing, said=str(error.strerror or error)) from error
    return _answered(doing, line)


_SENT_AWAY = "it ended, or sent us away, before it answered"
NOBODY = "no agent runs here; start one with: netplane agent run --from DIR --node NODE"


class Refusal(NetplaneError):
    """What the agent refused, in its own words and with the exit code it chose."""

    def __init__(self, said: str, exit_code: int) -> None:
        super().__init__(said)
        self.exit_code = exit_code


def _answered(doing: str, line: bytes) -> dict[str, Any]:
    if not line:
        raise KernelError(mechanism="agent", doing=doing, said=_SENT_AWAY)
    try:
        found = json.loads(line)
        if "error" in found:
            raise Refusal(str(found["error"]), int(found["exitCode"]))
        answer: dict[str, Any] = found["answer"]
    except (ValueError, KeyError, TypeError) as error:
        said = f"what came back is no answer: {one_line(line[:100].decode(errors='replace'))!r}"
        raise KernelError(mechanism="agent", doing=doing, said=said) from error
    return answer


def _line(connection: socket.socket) -> bytes:
    read = bytearray()
    while b"\n" not in read and len(read) < ANSWER_BYTES and (more := connection.recv(1 << 16)):
        read += more
    return bytes(read)


def _question(line: bytes) -> dict[str, Any]:
    try:
        question = json.loads(line)
    except (ValueError, RecursionError):
        question = None
    return question if isinstance(question, dict) else {}


def _may_ask(writer: asyncio.StreamWriter) -> bool:
    _, user = peer(writer.get_extra_info("socket"))
    if user in (0, os.geteuid()):
        return True
    log.warning("somebody who may not asked the agent", extra={"user": user})
    return False
