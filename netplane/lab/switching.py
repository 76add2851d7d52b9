"""Change the backend of every node of a case while connections to it are open and new ones are made.

An open connection says a word before and after each change and must get it back. New ones are counted as failed if
they do not reach a pod at the first attempt.
"""

from __future__ import annotations

import json
import select
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from netplane.errors import InputError, KernelError
from netplane.lab.agents import LabAgent, agents_of
from netplane.lab.asking import Asking, Try
from netplane.lab.cases import Case
from netplane.lab.namespaces import Lab
from netplane.lab.outcome import Reaches
from netplane.lab.probe import Probe
from netplane.lab.servers import Servers, open_doors
from netplane.lab.strangers import move_in
from netplane.model.address import Protocol

ANSWER_SECONDS = 5.0
SWITCH_SECONDS = 60.0
_EACH = 2
_WORD = b"still there?"


@dataclass(frozen=True, slots=True)
class Switched:
    """One change of backend on all nodes: connections that were open, and new ones made during it."""

    before: str
    after: str
    open: int
    broken: int
    counted: int
    """Translated connections of the nodes that broke, as the agents count them."""
    made: int
    failed: int

    @property
    def unnoticed(self) -> bool:
        """Whether no connection broke and no new one failed."""
        return not (self.broken or self.counted or self.failed)


def switch_case(case: Case, backends: Sequence[str]) -> Iterator[Switched]:
    """Start the case with the first of `backends` on every node and change to each next one; results as they come.

    Connections are those of the TCP lines of `packets.txt` that reach somebody. Raises InputError if there is none,
    KernelError if an agent refuses or the lab itself is broken.
    """
    probes = [
        line.probe for line in case.lines if line.probe.protocol is Protocol.TCP and isinstance(line.expected, Reaches)
    ]
    if not probes:
        raise InputError(f"{case.folder}: no TCP line of its packets reaches anybody, so there is nothing to hold open")
    with Lab(case.topology) as lab, Servers(lasting=True) as servers:
        move_in(lab, case.folder)
        open_doors(servers, lab, {(Protocol.TCP, probe.port) for probe in probes})
        with agents_of(lab, case, backends[0]) as agents, Asking(lab) as asking:
            held = [each for probe in probes for each in asking.send(probe, _EACH)]
            asking.wait()
            if silent := [each.probe for each in held if each.answer is None]:
                raise KernelError(mechanism="lab", doing="connect", said=f"{len(silent)} of {len(held)} got no answer")
            for before, after in pairwise(backends):
                yield _switch(lab, agents, held, before, after)


def _switch(lab: Lab, agents: Mapping[str, LabAgent], held: Sequence[Try], before: str, after: str) -> Switched:
    probes = list(dict.fromkeys(each.probe for each in held))
    asked = {name: agent.switch(after) for name, agent in agents.items()}
    give_up = time.monotonic() + SWITCH_SECONDS
    made = failed = 0
    done = False
    try:
        while not done:
            done = all(process.poll() is not None for process in asked.values())  # and one round after the last
            new, lost = _round(lab, probes)
            made, failed = made + new, failed + lost
            if not done and time.monotonic() > give_up:
                said = f"not in {SWITCH_SECONDS:g} s"
                raise KernelError(mechanism="agent", doing=f"switch to {after}", said=said)
    finally:
        for process in asked.values():
            process.kill()
    counted = sum(_told(name, process, after) for name, process in asked.items())
    return Switched(before, after, len(held), _broken(held), counted, made, failed)


def _told(node: str, process: subprocess.Popen[str], after: str) -> int:
    """How many connections broke, as the agent counts them; KernelError with its words if it did not switch."""
    out, said = process.communicate()
    if not out:
        raise KernelError(mechanism="agent", doing=f"switch {node} to {after}", said=said)
    connections = json.loads(out)["connections"] or {}
    return int(connections.get("broken", 0))


def _round(lab: Lab, probes: Sequence[Probe]) -> tuple[int, int]:
    """Connect once for each probe: how many were tried, and how many got no answer."""
    with Asking(lab) as asking:
        tries = [each for probe in probes for each in asking.send(probe, 1)]
        asking.wait()
        return len(tries), sum(each.answer is None for each in tries)


def _broken(held: Sequence[Try]) -> int:
    """Say a word on every open connection: how many do not give it back."""
    waiting = {each.socket for each in held if _says(each.socket)}
    heard = 0
    give_up = time.monotonic() + ANSWER_SECONDS
    while waiting and (left := give_up - time.monotonic()) > 0:
        ready, _, _ = select.select([*waiting], [], [], left)
        waiting.difference_update(ready)
        heard += sum(_hears(each) for each in ready)
    return len(held) - heard


def _says(made: socket.socket) -> bool:
    try:
        return made.send(_WORD) == len(_WORD)
    except OSError:
        return False


def _hears(made: socket.socket) -> bool:
    try:
        return made.recv(len(_WORD)) == _WORD
    except OSError:
        return False
