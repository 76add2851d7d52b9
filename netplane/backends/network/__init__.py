"""The Pod network across nodes: a network plan in the words of links, routes, neighbours, rules and a bird.

`routes.py` spells one peer and what this node has itself; `rules.py` draws the nftables tables and `elements.py` fills
their sets; `bird.py` writes the configuration of the BGP speaker; `compile.py` puts a program together, `text.py` shows
it.
"""
