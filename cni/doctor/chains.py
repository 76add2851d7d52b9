"""What other programs' chains do with packets that none of their rules names."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from netplane.kernel import command

OURS = "netplane"
"""How the names of our own tables begin."""
_LEGACY = (("iptables", "ip_tables_names"), ("ip6tables", "ip6_tables_names"))


def nft(*words: str, kind: str = "chain") -> list[dict[str, Any]]:
    """The objects of one kind that `nft WORDS` lists. Raises NetplaneError as `command.run` does."""
    said = command.run("nft", "-j", *words, mechanism="nftables", doing=" ".join(words))
    return [each[kind] for each in json.loads(said)["nftables"] if kind in each]


def how_it_drops(chain: dict[str, Any]) -> str:
    """`policy drop`, or `last rule drop` or `last rule reject` if that is what it does with everything, else ""."""
    if chain.get("policy") == "drop":
        return "policy drop"
    words = ("list", "chain", chain["family"], chain["table"], chain["name"])
    rules = [each["expr"] for each in nft(*words, kind="rule")]
    verdicts = [each for each in rules[-1] if "counter" not in each and "log" not in each] if rules else []
    if len(verdicts) != 1:
        return ""
    return next((f"last rule {word}" for word in ("drop", "reject") if word in verdicts[0]), "")


def legacy_that_drop(chain: str) -> Iterator[tuple[str, str]]:
    """`iptables` and `ip6tables` where the legacy variant's filter chain has policy DROP, and that table as text."""
    for tool, names in _LEGACY:
        listed = Path("/proc/thread-self/net", names)
        # Looking at a table that is not there would make it.
        if not listed.exists() or "filter" not in listed.read_text().split():
            continue
        words = (f"{tool}-legacy-save", "-t", "filter")
        text = command.run(*words, mechanism="iptables", doing=" ".join(words))
        if f":{chain} DROP" in text:
            yield tool, text
