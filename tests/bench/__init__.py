"""The benchmark: netplane next to the layouts kube-proxy uses, in the same run. `scripts/bench` starts it.

Nothing here is installed. `ways.py` says what is compared, `clusters.py` makes synthetic clusters, `baselines.py` loads
kube-proxy's rules (`kube_proxy_*.py`), `nodes.py` puts netplane into namespaces. `cold.py`, `agent.py`, `packets.py`,
`kills.py`, `cni.py` (with `cni_*`) and `network.py` (with `network_*`) each measure one part, `measure.py` all of them;
`results.py` is what they saw, `tables.py` makes tables of it. Read docs/performance.md first.
"""
