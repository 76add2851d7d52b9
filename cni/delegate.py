"""Run another plugin, as a runtime would: the one that `ipam.type` names (CNI specification, section 4).

It gets our environment with its command, and the whole configuration on standard input. What it says on standard error
goes to the log, and the error that it answers is ours to answer. It runs in the calling thread's network namespace,
and no longer than it may.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import signal
import stat
import subprocess
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from cni.failure import Code, Failure
from cni.request import Command, Invocation
from cni.result import Result
from cni.talk import STDOUT_BYTES, TooMuch, talk

SECONDS = 60.0
"""How long a plugin may take."""
_DYING_SECONDS = 5.0
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_SAID = 2000

log = logging.getLogger("netplane.cni")


def run(
    kind: str, command: Command, invocation: Invocation, config: Mapping[str, Any], seconds: float = SECONDS
) -> Result | None:
    """What the plugin of type `kind` answers to `command` for the container of `invocation`: a result of ADD only.

    If ADD fails it has been asked for DEL before this returns. Raises Failure: the plugin's own with its own code,
    TRY_AGAIN_LATER if it took longer than `seconds`, INTERNAL if it broke down, INVALID_CONFIG if there is none (to
    STATUS: NOT_AVAILABLE), DECODING_FAILURE if its answer is not one.
    """
    program = _program(kind, invocation.path, command)
    try:
        said = _answer(program, command, invocation, config, seconds)
        return _result(said, kind, config) if command is Command.ADD else None
    except Failure as failure:
        if command is Command.ADD:
            _take_back(failure, program, invocation, config, seconds)
        raise


def _program(kind: str, path: Iterable[str], command: Command) -> Path:
    """The executable. Raises Failure."""
    if not kind or "/" in kind or "\\" in kind or "\0" in kind or kind in (".", ".."):
        raise Failure(Code.INVALID_CONFIG, f"{kind!r} is not the name of a plugin", "ipam.type must not be a path")
    folders = [Path(each) for each in path if each.startswith("/")]
    for found in (folder / kind for folder in folders):
        with suppress(OSError):
            if stat.S_ISREG(found.stat().st_mode) and os.access(found, os.X_OK, effective_ids=True):
                return found
    code = Code.NOT_AVAILABLE if command is Command.STATUS else Code.INVALID_CONFIG
    places = ", ".join(map(str, folders)) or "nothing"
    raise Failure(code, f'failed to find plugin "{kind}" in path [{places}]', "install it, or correct ipam.type")


def _answer(
    program: Path, command: Command, invocation: Invocation, config: Mapping[str, Any], seconds: float
) -> bytes:
    """Standard output of a plugin that succeeded. Raises Failure."""
    try:
        process = subprocess.Popen(
            [program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=_environment(command, invocation),
            cwd="/",
            start_new_session=True,
        )
    except OSError as error:
        busy = error.errno in (errno.ETXTBSY, errno.EAGAIN, errno.ENOMEM)  # it is being installed, or the host is full
        code = Code.TRY_AGAIN_LATER if busy else Code.INTERNAL
        raise Failure(code, f"cannot run plugin {program}", error.strerror or "") from error
    except ValueError as error:  # a NUL
        raise Failure(Code.INVALID_ENVIRONMENT, f"cannot hand the environment to {program.name}", str(error)) from error
    try:
        out, err = talk(process, json.dumps(dict(config)).encode(), seconds)
    except TooMuch:
        _end(process)
        raise Failure(Code.INTERNAL, f"plugin {program.name} said more than {STDOUT_BYTES >> 20} MiB") from None
    except subprocess.TimeoutExpired:
        _end(process)
        said = f"plugin {program.name} did not answer {command.value} within {seconds:g} s and was killed"
        raise Failure(Code.TRY_AGAIN_LATER, said) from None
    except BaseException:
        _end(process)
        raise
    words = err.decode(errors="backslashreplace").strip()
    if words:
        log.info("plugin said", extra={"plugin": program.name, "command": command.value, "said": words[-_SAID:]})
    if process.returncode:
        raise _failure(program.name, out, words, process.returncode)
    return out


def _environment(command: Command, invocation: Invocation) -> dict[str, str]:
    return {
        "PATH": os.environ.get("PATH", _PATH),
        "CNI_COMMAND": command.value,
        "CNI_CONTAINERID": invocation.container,
        "CNI_NETNS": invocation.netns,
        "CNI_IFNAME": invocation.ifname,
        "CNI_ARGS": ";".join(f"{name}={value}" for name, value in invocation.arguments.items()),
        "CNI_PATH": ":".join(invocation.path),
    }


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill it and what it started. Who left its group may hold the pipes open: nobody reads them any more."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe:
            with suppress(OSError):  # what could not be written yet
                pipe.close()
    with suppress(subprocess.TimeoutExpired):
        process.wait(_DYING_SECONDS)


def _failure(kind: str, out: bytes, err: str, code: int) -> Failure:
    """What a plugin that failed says: the error on its standard output, or whatever else there is."""
    try:
        value = json.loads(out)
    except (ValueError, RecursionError):
        value = None
    if isinstance(value, dict) and isinstance(value.get("code"), int) and value["code"] > 0:
        return Failure(value["code"], str(value.get("msg", "")), str(value.get("details", "")))
    if isinstance(value, dict) and "msg" in value:
        return Failure(Code.INTERNAL, str(value["msg"]), str(value.get("details", "")))
    ended = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
    said = " ".join(part for part in (out.decode(errors="backslashreplace").strip(), err) if part)
    return Failure(Code.INTERNAL, f"plugin {kind} failed ({ended})", said or "it gave no error message")


def _result(said: bytes, kind: str, config: Mapping[str, Any]) -> Result:
    from cni import result_json  # with all that decodes: only who delegates needs it

    try:
        value = json.loads(said)
    except (ValueError, RecursionError) as error:
        why = f"{error}: {said[:200].decode(errors='backslashreplace')!r}"
        raise Failure(Code.DECODING_FAILURE, f"plugin {kind} did not answer with JSON", why) from error
    version = config.get("cniVersion")
    return result_json.decode(value, version if isinstance(version, str) and version else "0.1.0")


def _take_back(
    failure: Failure, program: Path, invocation: Invocation, config: Mapping[str, Any], seconds: float
) -> None:
    """DEL after an ADD that failed (section 4, "Delegated Plugins"). What it says is only for the log."""
    try:
        _answer(program, Command.DEL, invocation, config, seconds)
    except Failure as second:
        said = {"plugin": program.name, "add": str(failure), "del": str(second)}
        log.warning("plugin could not take back an ADD that failed", extra=said)
