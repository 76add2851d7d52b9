"""The outside -> Snapshot: manifests are read, decoded, assembled, and their folder is watched.

Never decides what happens to a packet and never changes what it reads. One bad object never stops the others:
everything here returns values *and* problems. Read `manifests.py` first, then `decode.py` and `assemble.py`.
"""
