"""The nftables backend: the decision table as maps, and no chain per Service.

`layout.py` draws the chains, `services.py` spells one Service as elements, `compile.py` puts a program together.
docs/backends/nftables.md shows the result and follows a packet through it.
"""

from netplane.backends.nftables.compile import NFTABLES

__all__ = ["NFTABLES"]
