"""The benchmark: netplane next to the layout kube-proxy uses, in the same run. `scripts/bench` starts it.

Nothing here is asserted or installed. `clusters.py` makes synthetic clusters, `kube_proxy_nft.py` the baseline's
rulesets, `nodes.py` puts both into namespaces, `measure.py` times them, `report.py` makes the table. Read
docs/performance.md first.
"""
