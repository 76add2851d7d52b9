"""Labs that stay up: `lab up` starts a process that holds one, `lab shell` enters it, `lab down` ends it.

A held lab is known by a file `ID.json` in /run/netplane/lab with the holder's process id and the path of every
namespace. The holder removes the file when it ends; a file whose holder is gone is removed by whoever finds it.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NoReturn

from netplane.errors import InputError, KernelError, RequirementError

STATE_FOLDER = Path("/run/netplane/lab")
UP_SECONDS = 60.0
DOWN_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Held:
    """A lab that is up. `started` is the start time of process `pid`, so that a reused id is not mistaken for it."""

    id: str
    pid: int
    started: str
    backend: str
    namespaces: Mapping[str, str]
    """`outside`, node names and `namespace/pod`, and the path each can be joined by."""

    def alive(self) -> bool:
        """Whether its holder still runs."""
        return start_time(self.pid) == self.started


def up(folder: Path, backend: str, *, options: Sequence[str] = (), state: Path = STATE_FOLDER) -> Held:
    """Bring up the lab of a case, or of any folder of manifests, and leave it up with `backend` on every node.

    `options` are the holder's: with `--agent`, the real agent keeps each node as `folder` says. Raises what kept it
    from coming up.
    """
    told, tell = os.pipe()
    words = [sys.executable, "-m", "netplane.lab.holder", str(folder.resolve()), backend, str(state), str(tell)]
    with subprocess.Popen(
        [*words, *options],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        pass_fds=(tell,),
        start_new_session=True,
        text=True,
    ) as holder:
        os.close(tell)
        try:
            return _told(holder, told)
        finally:
            os.close(told)
            holder.returncode = 0 if holder.returncode is None else holder.returncode  # it outlives us: do not wait


def held(state: Path = STATE_FOLDER) -> list[Held]:
    """Every lab that is up, by id. Files of labs whose holder is gone are removed."""
    found = []
    for path in sorted(state.glob("*.json")):
        lab = _read(path)
        if lab.alive():
            found.append(lab)
        else:
            path.unlink(missing_ok=True)
    return found


def find(id_: str = "", state: Path = STATE_FOLDER) -> Held:
    """The lab with this id, or the only one. Raises InputError naming those there are."""
    labs = held(state)
    chosen = [lab for lab in labs if id_ in ("", lab.id)]
    if len(chosen) == 1:
        return chosen[0]
    there_is = ", ".join(lab.id for lab in labs) or "none; `netplane lab up` starts one"
    raise InputError(f"lab {id_ or '(no id given)'}: there is {there_is}")


def words_in(lab: Held, name: str, command: Sequence[str]) -> list[str]:
    """The words that run `command` (a shell if empty) in the namespace of `name`. Raises InputError."""
    paths = [path for full, path in lab.namespaces.items() if name in (full, full.rpartition("/")[2])]
    if len(paths) != 1:
        raise InputError(f"lab {lab.id} has no {name!r}; there is {', '.join(lab.namespaces)}")
    nsenter = shutil.which("nsenter")
    if nsenter is None:
        raise RequirementError("the program 'nsenter' is missing; install it (Debian: apt install util-linux)")
    return [nsenter, f"--net={paths[0]}", "--", *(command or (os.environ.get("SHELL", "/bin/sh"),))]


def shell(lab: Held, name: str, command: Sequence[str] = ()) -> NoReturn:
    """Become `command`, or a shell, inside the namespace of `name`."""
    words = words_in(lab, name, command)
    os.execv(words[0], words)  # noqa: S606  no shell is meant to be in between


def down(lab: Held) -> None:
    """End a lab and wait until nothing of it is left. Raises KernelError if its holder does not end."""
    try:
        holder = os.pidfd_open(lab.pid)
    except ProcessLookupError:
        return
    try:
        if lab.alive():
            signal.pidfd_send_signal(holder, signal.SIGTERM)
            if not select.select([holder], [], [], DOWN_SECONDS)[0]:
                said = f"process {lab.pid} still runs after {DOWN_SECONDS:g} s"
                raise KernelError(mechanism="lab", doing=f"end {lab.id}", said=said)
    finally:
        os.close(holder)


def write(lab: Held, state: Path) -> Path:
    """Put the lab's file in place, whole or not at all."""
    state.mkdir(parents=True, exist_ok=True)
    path = state / f"{lab.id}.json"
    draft = path.with_suffix(".new")
    draft.write_text(json.dumps(asdict(lab), indent=2))
    draft.rename(path)
    return path


def start_time(pid: int) -> str:
    """When a process started, in the kernel's ticks; "" if there is no such process or it is a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    return "" if fields[0] == "Z" else fields[19]


def _told(holder: subprocess.Popen[str], told: int) -> Held:
    deadline = time.monotonic() + UP_SECONDS
    words = b""
    while chunk := _chunk(told, deadline):
        words += chunk
    if words:
        return Held(**json.loads(words))
    holder.terminate()
    said = (holder.communicate()[1] or f"silent for {UP_SECONDS:g} s").strip()[-400:]
    match holder.returncode:
        case InputError.exit_code:
            raise InputError(said)
        case RequirementError.exit_code:
            raise RequirementError(said)
    raise KernelError(mechanism="lab", doing="bring it up", said=said)


def _chunk(told: int, deadline: float) -> bytes:
    ready, _, _ = select.select([told], [], [], max(0.0, deadline - time.monotonic()))
    return os.read(told, 65536) if ready else b""


def _read(path: Path) -> Held:
    try:
        return Held(**json.loads(path.read_text()))
    except (ValueError, TypeError) as error:
        raise InputError(f"{path}: not the state of a lab: {error}; remove it") from None
