"""The iptables backend: kube-proxy's chains under kube-proxy's names, found through trees instead of lists.

`layout.py` draws the chains there always are, `services.py` spells one Service, `compile.py` puts a program together.
docs/backends/iptables.md shows the result and follows a packet through it.
"""

from netplane.backends.iptables.compile import IPTABLES

__all__ = ["IPTABLES"]
