"""The root daemon of a node: *when* to plan, compile and apply. What to apply is decided elsewhere.

`reconcile.py` does one round, `pace.py` says when the next is due, `loop.py` runs them on events and signals.
"""
