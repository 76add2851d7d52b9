"""The CNI plugin: gives a container its network interface when containerd asks for one.

    containerd -> /opt/cni/bin/netplane (launcher/, C) -> unix socket -> server -> plugin -+-> ipam, store   (whose)
                                                                                           +-> wiring        (links)
                                                                                           '-> rules         (nftables)

A request is decoded (`request`, `config`), becomes an `Attachment` (`attachment`: a plan, everything one interface of
one container needs) and that becomes link orders (`wiring`) and set elements (`rules`). The store remembers attachments
by an append-only journal, so that removing one needs neither its configuration nor its namespace.

Starts once per container when no agent runs: imports the standard library and netplane's model, programs and kernel,
nothing else. Never prints but to answer: standard output is the protocol. Read `attachment.py` first.
"""
