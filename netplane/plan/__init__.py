"""What must happen to packets on one node: meaning, decided once, for every backend.

Pure: no clock, no files, no sockets, no log. `plan.py` holds the words, `endpoints.py` chooses endpoints,
`services.py` is the decision table (start there), `node.py` puts a whole node together, `oracle.py` answers what
happens to one packet, `text.py` writes a plan down. Pods on
other nodes are a plan of their own: `network_plan.py` holds its words, `network.py` puts it together.
"""
