"""What this host can do, found by trying it where it harms nobody; never by a version number."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable

from netplane.errors import KernelError, RequirementError
from netplane.kernel import command, iptables
from netplane.kernel.iptables_variants import AUTO
from netplane.kernel.netns import Namespace
from netplane.programs.iptables_text import scripts

# nft repeats the line it complains about and underlines a part of it: "... add rule ip a b c ^^^^^^"
_UNDERLINE = re.compile(r"\s*\^[\^~]*")


def is_root() -> bool:
    """Whether this process runs as root."""
    return os.geteuid() == 0


def missing_programs(names: Iterable[str]) -> tuple[str, ...]:
    """Those of `names` that are not installed, in the order given."""
    return tuple(name for name in names if command.find(name) is None)


def can_make_namespace() -> bool:
    """Whether this process may make network namespaces."""
    try:
        Namespace().close()
    except (RequirementError, KernelError):
        return False
    return True


def try_ruleset(script: str) -> str | None:
    """Load an nft script in a new namespace that is thrown away: None if it was taken, else what was said, one line.

    Raises RequirementError if that cannot be tried: no privilege, no nft.
    """
    with Namespace() as scratch:
        try:
            scratch.run(
                lambda: command.run("nft", "-f", "-", stdin=script, mechanism="nftables", doing="try a ruleset")
            )
        except KernelError as error:
            return _UNDERLINE.sub("", error.said)
    return None


def try_restore(script: str, wish: str = AUTO) -> str | None:
    """Load a script, or one for each family (iptables_text.HEADING), as this namespace's variant does, in a new one.

    None if it was taken, else what was said, one line. Raises RequirementError if that cannot be tried, OwnershipError
    if it cannot be told which variant is used.
    """
    with iptables.IptablesDriver(wish) as driver:
        variant = driver.decide()

    def load() -> None:
        for family, text in scripts(script).items():
            with iptables.spool("trial") as file:
                file.write(text.encode())
                iptables.restore(variant, family, file)

    with Namespace() as scratch:
        try:
            scratch.run(load)
        except KernelError as error:
            return f"{error.doing}: {error.said}"
    return None
