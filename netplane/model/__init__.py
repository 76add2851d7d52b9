"""The nouns of a cluster as frozen values, after decoding and before any meaning.

Never reads, prints or decides anything. Read `service.py` first, then `snapshot.py`.
"""
