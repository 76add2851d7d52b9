"""The keys of this node for WireGuard: the private halves in files that only root reads, never anywhere else.

`private.key` is in use. `private.key.next` waits until the Node object shows its public half, so that all others know
it: then it takes the place of the first. Both are as `wg genkey` prints them. Decision 0034.
"""

from __future__ import annotations

import os
from base64 import b64decode, b64encode
from pathlib import Path

from netplane.errors import RequirementError
from netplane.kernel.private_folder import PrivateFolder

KEYS = "wireguard"
"""The folder of keys in the state directory."""
IN_USE, NEXT = "private.key", "private.key.next"
KEY_BYTES = 32

_P = 2**255 - 19
_A24 = 121665  # (486662 - 2) / 4
_BASE = (9).to_bytes(KEY_BYTES, "little")


class KeyStore:
    """The keys in one folder, made where they are missing.

    Every method may raise RequirementError: the folder or a file is not ours alone, or is no key. That is for a human
    to decide: a new key would cut this node off until all others know it.
    """

    def __init__(self, directory: Path) -> None:
        self._path = directory
        self._public: dict[bytes, str] = {}

    def __repr__(self) -> str:
        return f"KeyStore({str(self._path)!r})"

    def public(self) -> str:
        """The public half of the key in use, as base64. Makes the key if there is none."""
        return self._half(self.private())

    def next_public(self) -> str:
        """The public half of the key that waits, as base64; "" if none does."""
        with PrivateFolder.made(self._path) as folder:
            waiting = self._read(folder, NEXT)
        return self._half(waiting) if waiting else ""

    def rotate(self) -> str:
        """Have a key wait, and return its public half. One that waits already stays: others may know it."""
        with PrivateFolder.made(self._path) as folder:
            return self._half(self._had(folder, NEXT))

    def adopt(self, announced: str) -> str:
        """Take the waiting key into use if `announced` is its public half; the public half of what is in use then."""
        with PrivateFolder.made(self._path) as folder:
            waiting = self._read(folder, NEXT)
            if waiting and self._half(waiting) == announced:
                folder.rename(NEXT, IN_USE)
            return self._half(self._had(folder, IN_USE))

    def private(self) -> bytes:
        """The key in use, made if there is none: 32 bytes, not to be shown to anybody."""
        with PrivateFolder.made(self._path) as folder:
            return self._had(folder, IN_USE)

    def _half(self, private: bytes) -> str:
        if private not in self._public:
            self._public[private] = public_of(private)
        return self._public[private]

    def _had(self, folder: PrivateFolder, name: str) -> bytes:
        while (found := self._read(folder, name)) is None:
            folder.write_new(name, b64encode(new_private()) + b"\n")
        return found

    def _read(self, folder: PrivateFolder, name: str) -> bytes | None:
        content = folder.read(name)
        if content is None:
            return None
        try:
            key = b64decode(content.strip(), validate=True)
        except ValueError:
            key = b""
        if len(key) != KEY_BYTES:
            raise RequirementError(
                f"{folder.path / name}: is no WireGuard key (32 bytes in base64, {len(content)} bytes found); "
                "put the right one there, or remove it: a new one is made, which the other nodes must be told"
            ) from None
        return key


def new_private() -> bytes:
    """A new private key, of the operating system's randomness."""
    key = bytearray(os.urandom(KEY_BYTES))
    key[0] &= 248
    key[31] = key[31] & 127 | 64
    return bytes(key)


def public_of(private: bytes) -> str:
    """The public half of a private key, as base64."""
    return b64encode(x25519(private, _BASE)).decode()


def x25519(scalar: bytes, point: bytes) -> bytes:
    """The function X25519 of RFC 7748, section 5.

    Not in constant time: Python's integers are not. Here it only ever derives our own public half, rarely, and nobody
    else has a say in its arguments; the handshakes themselves are the kernel's or wireguard-go's.
    """
    k = int.from_bytes(scalar, "little") & ~(7 | 1 << 255) | 1 << 254
    x = (int.from_bytes(point, "little") & ((1 << 255) - 1)) % _P
    x2, z2, x3, z3, swapped = 1, 0, x, 1, 0
    for bit in range(254, -1, -1):
        set_ = k >> bit & 1
        if set_ != swapped:
            x2, z2, x3, z3, swapped = x3, z3, x2, z2, set_
        a, b, c, d = x2 + z2, x2 - z2, x3 + z3, x3 - z3
        da, cb = d * a % _P, c * b % _P
        aa, bb = a * a % _P, b * b % _P
        e = aa - bb
        x3, z3 = (da + cb) ** 2 % _P, x * (da - cb) ** 2 % _P
        x2, z2 = aa * bb % _P, e * (aa + _A24 * e) % _P
    if swapped:
        x2, z2 = x3, z3
    return (x2 * pow(z2, _P - 2, _P) % _P).to_bytes(KEY_BYTES, "little")
