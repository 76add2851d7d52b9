"""Have a WireGuard link in the network namespace one is in; as a program, say what is missing."""

from __future__ import annotations

import sys
from pathlib import Path

from netplane.errors import RequirementError
from netplane.kernel.wireguard_keys import KEYS, KeyStore
from netplane.kernel.wireguard_mechanism import LINK, Served, WireguardMechanism
from netplane.programs.network import NetworkProgram, WireguardLink
from netplane.programs.program import Program


def attempt(folder: Path, served: Served) -> None:
    (folder / "run").mkdir(mode=0o700)
    key = KeyStore(folder / "state" / KEYS).public()
    mechanism = WireguardMechanism(folder / "run", folder / "state", served)
    try:
        want = Program(network=NetworkProgram(links={LINK: WireguardLink(LINK, 1420, 51820, key)}))
        mechanism.pending(want, reread=True, sweep=True).make()
    finally:
        mechanism.close()


if __name__ == "__main__":
    try:
        attempt(Path(sys.argv[1]), Served.PROCESS)
    except RequirementError as error:
        print(error)
