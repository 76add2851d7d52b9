"""Backends: a plan spelled in the words of a kernel mechanism. Pure, and dull on purpose.

A backend may ask which verdict; it may not ask why. Backends never import each other: two that need the same
thought need it in `plan`. `registry.py` lists them; read `nftables/` first.
"""
