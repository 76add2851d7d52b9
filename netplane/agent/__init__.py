"""The root daemon of a node: *when* to plan, compile and apply. What to apply is decided elsewhere.

`loop.py` waits for events, signals, questions and the clock; `pace.py` says when the next round is due; `work.py`
does it in a thread (`reconcile.py` is one round). Never holds state that the kernel
could tell it. Read `loop.py` first.
"""
