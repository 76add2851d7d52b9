"""The state each kernel mechanism should have, as plain values: one module per mechanism.

Pure: types, differences, text. Nothing here knows a Service, and nothing here touches the host. Read
`nftables.py` first.
"""
