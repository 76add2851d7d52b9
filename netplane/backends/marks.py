"""Bits of the packet mark that are netplane's. No other module writes a mark.

| bit | value  | says                   | lives                                                                |
|-----|--------|------------------------|----------------------------------------------------------------------|
| 14  | 0x4000 | masquerade on the way out | from the nat hook that decides to postrouting, where it is cleared |

Bit 14 is also kube-proxy's default: both mean the same by it, so that a node can be taken over.
"""

MASQUERADE = 0x4000
