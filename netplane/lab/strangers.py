"""Rules of somebody else on the nodes of a lab: the file `foreign.nft` of a case, loaded before netplane comes."""

from __future__ import annotations

from pathlib import Path

from netplane.errors import InputError, KernelError
from netplane.kernel import command
from netplane.lab.namespaces import Lab

FOREIGN_FILE = "foreign.nft"


def move_in(lab: Lab, folder: Path) -> None:
    """Load the foreign rules of a case on every node, if it has any. Raises InputError with nft's own words."""
    path = folder / FOREIGN_FILE
    if not path.is_file():
        return
    script = path.read_text()
    for node in lab.nodes.values():
        try:
            node.run(lambda: command.run("nft", "-f", "-", stdin=script, mechanism="lab", doing="load"))
        except KernelError as error:
            raise InputError(f"{path}: nft refuses it: {error.said}") from None
