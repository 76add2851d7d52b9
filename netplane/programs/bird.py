"""What a configuration of bird and the mechanism that carries it out say to each other.

The text of a configuration has no secrets: a password is a constant, a line of comment says which file it is in, and
whoever applies the text writes the constants into a second file, which the first includes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping

from netplane.errors import InputError

PROTOCOL = 12
"""RTPROT_BIRD (linux/rtnetlink.h): bird gives every route it makes this number, and no other can be had."""
METRIC = 96
"""Of the routes of our bird, and only of those: bird leaves routes of its protocol with another metric alone, and so
do we. Less than the 98 of our own routes."""
PASSWORDS = "passwords.conf"
"""The file of constants, beside the configuration."""
LONGEST_PASSWORD = 80
"""Bytes: TCP_MD5SIG_MAXKEYLEN (linux/tcp.h)."""

_REFERENCE = re.compile(r'^# password (np_password_[0-9]+) is in (".*")$', re.MULTILINE)

_BETWEEN = "\n\n"
_BLOCK = re.compile(r"^(\S[^\n]*) \{\n(.*?)^\}$\n?", re.MULTILINE | re.DOTALL)


def reference(constant: str, path: str) -> str:
    """The line of a configuration that says in which file the password is."""
    return f"# password {constant} is in {json.dumps(path)}"


def references(text: str) -> dict[str, str]:
    """The paths of the files of passwords, by constant."""
    return {constant: json.loads(path) for constant, path in _REFERENCE.findall(text)}


def passwords_text(passwords: Mapping[str, str]) -> str:
    """The file of constants. `passwords` by constant: each must be `sayable`."""
    return "".join(f'define {constant} = "{password}";\n' for constant, password in sorted(passwords.items()))


def password_of(content: bytes, where: str) -> str:
    """The password in a file: all of it but the end of its last line.

    bird's words for text have no escapes. Raises InputError, naming `where` and never the content, for what cannot be
    said in them or what TCP does not take.
    """
    password = content.removesuffix(b"\n").removesuffix(b"\r")
    if not password:
        raise InputError(f"password file {where}: is empty; write the password into it")
    if len(password) > LONGEST_PASSWORD:
        raise InputError(
            f"password file {where}: {len(password)} bytes, TCP takes {LONGEST_PASSWORD}; choose a shorter"
        )
    if unsayable := _unsayable(password):
        raise InputError(
            f"password file {where}: bird cannot be told {' or '.join(unsayable)}; choose another password"
        )
    return password.decode("ascii")


def changed_lines(before: str, after: str) -> list[str]:
    """What a new configuration changes, for people: `- protocol bgp node_n2`, `+ filter np_import4`."""
    then, now = before.split(_BETWEEN), after.split(_BETWEEN)
    same = set(then).intersection(now)  # nearly all of it: what is left is taken apart
    old, new = (parts("\n".join(each for each in paragraphs if each not in same)) for paragraphs in (then, now))
    gone = [f"- {name}" for name, content in old.items() if new.get(name) != content]
    return gone + [f"+ {name}" for name, content in new.items() if old.get(name) != content]


def parts(text: str) -> dict[str, str]:
    """The blocks of a configuration, and its other lines, each by what it is called."""
    blocks = dict(_BLOCK.findall(text))
    alone = (line for line in _BLOCK.sub("", text).splitlines() if line.strip())
    return blocks | dict.fromkeys(alone, "")


def _unsayable(password: bytes) -> Iterable[str]:
    found = []
    if b'"' in password:
        found.append("a quotation mark")
    if any(byte < 0x20 or byte == 0x7F for byte in password):
        found.append("a control character (end of line, tab)")
    if any(byte > 0x7F for byte in password):
        found.append("a letter that is not ASCII")
    return found
