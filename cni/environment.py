"""The environment of a command, checked as the reference library checks it (libcni `skel`, `utils`).

CNI_COMMAND=ADD CNI_CONTAINERID=4f1c... CNI_NETNS=/var/run/netns/cni-... CNI_IFNAME=eth0
CNI_ARGS="IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-0" CNI_PATH=/opt/cni/bin
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from cni.failure import Code, Failure
from cni.request import Command, Invocation

KNOWN_ARGUMENTS = frozenset(
    {
        "IP",
        "MAC",
        "IgnoreUnknown",
        "K8S_POD_NAMESPACE",
        "K8S_POD_NAME",
        "K8S_POD_INFRA_CONTAINER_ID",
        "K8S_POD_UID",
    }
)
"""Keys of CNI_ARGS that are no error where IgnoreUnknown is not set."""

_OF_A_CONTAINER = ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH")
# The specification calls CNI_PATH optional; the reference library, and so every runtime, does not.
_NEEDED = {
    Command.ADD: _OF_A_CONTAINER,
    Command.CHECK: _OF_A_CONTAINER,
    Command.DEL: ("CNI_CONTAINERID", "CNI_IFNAME", "CNI_PATH"),
    Command.GC: ("CNI_PATH",),
    Command.STATUS: ("CNI_PATH",),
    Command.VERSION: (),
}
_COMMANDS = {each.value: each for each in Command}

_LONGEST_LINK_NAME = 15  # bytes: IFNAMSIZ - 1
_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.\-]*")
# What Go calls white space; Python's \s has the ASCII separators 0x1c to 0x1f too.
_NOT_IN_LINK_NAMES = re.compile(r"[/:\t\n\v\f\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]")
_YES, _NO = ("1", "true"), ("0", "false")


def invocation(environment: Mapping[str, str]) -> Invocation:
    """What a runtime asks. Raises Failure(INVALID_ENVIRONMENT), naming the variables.

    All that are missing are named at once. DEL never fails for CNI_ARGS: what was made must be taken away, however the
    arguments are spelled by now; pairs that cannot be read are passed over.
    """
    command = _command(environment)
    missing = [name for name in _NEEDED[command] if not environment.get(name)]
    if missing:
        raise _bad(f"required env variables [{','.join(missing)}] missing")
    if command in (Command.GC, Command.STATUS, Command.VERSION):
        return Invocation(command, path=_path(environment))
    return Invocation(
        command,
        _container(environment["CNI_CONTAINERID"]),
        _netns(command, environment.get("CNI_NETNS", "")),
        _ifname(environment["CNI_IFNAME"]),
        _arguments(command, environment.get("CNI_ARGS", "")),
        _path(environment),
    )


def is_name(text: str) -> bool:
    """Whether a container or a network may be called so: letters, digits, `_.-`, the first not one of these three."""
    return _NAME.fullmatch(text) is not None


def link_name_fault(name: str) -> tuple[str, str]:
    """Why no link may have this name, and more about it; ("", "") if one may."""
    try:
        length = len(name.encode())
    except UnicodeEncodeError:
        return "interface name is not UTF-8", repr(name)
    if not name:
        return "interface name is empty", ""
    if length > _LONGEST_LINK_NAME:
        return "interface name is too long", f"interface name should be less than 16 characters: {name!r}"
    if name in (".", ".."):
        return "interface name is . or ..", ""
    if _NOT_IN_LINK_NAMES.search(name):
        return "interface name contains / or : or whitespace characters", repr(name)
    # The kernel takes `%d` for the next free number: there would be no link of the name that was asked for.
    return ("interface name contains % or a zero byte", repr(name)) if "%" in name or "\0" in name else ("", "")


def _command(environment: Mapping[str, str]) -> Command:
    said = environment.get("CNI_COMMAND", "")
    if not said:
        raise _bad("required env variables [CNI_COMMAND] missing")
    command = _COMMANDS.get(said)
    if command is None:
        raise _bad(f"unknown CNI_COMMAND: {said}", f"known are {', '.join(_COMMANDS)}")
    return command


def _container(text: str) -> str:
    if not is_name(text):
        raise _bad("invalid characters in containerID", f"CNI_CONTAINERID: {text!r}")
    return text


def _ifname(text: str) -> str:
    fault, more = link_name_fault(text)
    if fault:
        raise _bad(fault, f"CNI_IFNAME: {more}" if more else "CNI_IFNAME")
    return text


def _netns(command: Command, text: str) -> str:
    if _unspeakable(text):
        if command is Command.DEL:
            return ""
        raise _bad("CNI_NETNS is not UTF-8", repr(text))
    return text


def _path(environment: Mapping[str, str]) -> tuple[str, ...]:
    # An empty entry would mean the directory the runtime happens to be in.
    return tuple(filter(None, environment.get("CNI_PATH", "").split(":")))


def _arguments(command: Command, text: str) -> Mapping[str, str]:
    if not text:
        return {}
    if command is Command.DEL:
        return {key: value for key, value in _pairs(text, strict=False) if not _unspeakable(key + value)}
    if _unspeakable(text):
        raise _bad("CNI_ARGS is not UTF-8", repr(text))
    found = dict(_pairs(text, strict=True))
    ignore = found.get("IgnoreUnknown", "0").lower()
    if ignore not in (*_YES, *_NO):
        raise _bad(
            f"CNI_ARGS: error parsing value of pair 'IgnoreUnknown={found['IgnoreUnknown']}'", "0, 1, true, false"
        )
    unknown = sorted(found.keys() - KNOWN_ARGUMENTS)
    if unknown and ignore in _NO:
        raise _bad(f"CNI_ARGS: unknown args {unknown}", f"known are {', '.join(sorted(KNOWN_ARGUMENTS))}")
    return found


def _pairs(text: str, *, strict: bool) -> Iterator[tuple[str, str]]:
    for pair in text.split(";"):
        key, equals, value = pair.partition("=")
        if equals and "=" not in value:
            yield key, value
        elif strict:
            raise _bad(f"CNI_ARGS: invalid pair {pair!r}", "CNI_ARGS is KEY=VALUE;KEY=VALUE")


def _unspeakable(text: str) -> bool:
    """Whether bytes were no UTF-8 (Python keeps them as lone surrogates): JSON cannot say them."""
    return not text.isascii() and any("\ud800" <= each <= "\udfff" for each in text)


def _bad(msg: str, details: str = "") -> Failure:
    return Failure(Code.INVALID_ENVIRONMENT, msg, details)
