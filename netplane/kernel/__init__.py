"""Drivers: the only code that touches the host. Each reads and applies the state of one kernel mechanism.

Never decides what should happen to a packet. `host.py` holds the order between mechanisms; `netns.py` runs work
inside network namespaces; `netlink.py` is the wire format.
"""
