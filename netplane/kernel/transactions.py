"""Which transactions of nf_tables are ours: the kernel numbers all, and the drivers of a host count their own."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class OwnTransactions:
    """How many transactions of nf_tables the drivers of one host have made. They share one of these."""

    count: int = 0
