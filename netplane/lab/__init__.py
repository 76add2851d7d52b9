"""Real packets between namespaces that pose as nodes, pods and the outside, compared with the oracle.

Never touches the host's own network: every link, rule and packet lives in a namespace made here, and all of it
disappears with the process. `topology.py` says what there is (a value; start there), `namespaces.py` brings it up,
`servers.py` answers, `observe.py` sends and watches, `compare.py` judges, `cases.py` reads case folders, `run.py`
does all of that for many cases and backends.
"""
