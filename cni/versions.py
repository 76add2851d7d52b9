"""Versions of the specification: which we speak, and what each allows."""

from __future__ import annotations

import json
import re

from cni.failure import Code, Failure
from cni.request import Command

SUPPORTED = ("0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
"""Oldest first. A configuration must name one of them exactly."""
OLDEST, NEWEST = SUPPORTED[0], SUPPORTED[-1]

_SINCE = {Command.CHECK: "0.4.0", Command.GC: "1.1.0", Command.STATUS: "1.1.0"}
_SPELLED = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9}){0,2}")
_ANSWER = json.dumps({"cniVersion": NEWEST, "supportedVersions": SUPPORTED}).encode() + b"\n"


def answer() -> bytes:
    """What VERSION prints."""
    return _ANSWER


def allow(command: Command, version: str) -> None:
    """Nothing, if a configuration of this version may come with this command.

    Raises Failure(INCOMPATIBLE_VERSION); Failure(DECODING_FAILURE) where the command needs a minimum and the version
    cannot be compared with it, as the reference library does.
    """
    since = _SINCE.get(command)
    if version in SUPPORTED:
        if since is not None and SUPPORTED.index(version) < SUPPORTED.index(since):
            raise _too_old(command, version, since)
        return
    if since is not None:
        if not _SPELLED.fullmatch(version):
            raise Failure(Code.DECODING_FAILURE, f"cniVersion: {version!r} is not a version")
        if _numbers(version) < _numbers(since):
            raise _too_old(command, version, since)
    known = ",".join(f'"{each}"' for each in SUPPORTED)
    said = f'config is "{version}", plugin supports [{known}]'
    raise Failure(Code.INCOMPATIBLE_VERSION, "incompatible CNI versions", said)


def _too_old(command: Command, version: str, since: str) -> Failure:
    said = f'config is "{version}", {command.value} came with {since}'
    return Failure(Code.INCOMPATIBLE_VERSION, f"config version does not allow {command.value}", said)


def _numbers(version: str) -> tuple[int, ...]:
    found = tuple(map(int, version.split(".")))
    return found + (0,) * (3 - len(found))
