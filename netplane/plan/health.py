"""What a node answers on a Service's health check node port.

A load balancer in front of a Service with external policy Local asks every node and sends traffic only to those
that answer 200. Terminating endpoints do not count although they are still served: that is how a node drains.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from netplane.plan.plan import HealthCheck


@dataclass(frozen=True, slots=True)
class HealthAnswer:
    """An HTTP answer, byte for byte what kube-proxy sends."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes


def answer(check: HealthCheck, *, healthy: bool) -> HealthAnswer:
    """200 if this node has a ready endpoint and the proxy itself is `healthy`, 503 otherwise."""
    body = {
        "service": {"namespace": check.service.namespace, "name": check.service.name},
        "localEndpoints": check.local_ready,
        "serviceProxyHealthy": healthy,
    }
    return HealthAnswer(
        status=200 if check.local_ready and healthy else 503,
        headers=(
            ("Content-Type", "application/json"),
            ("X-Content-Type-Options", "nosniff"),
            ("X-Load-Balancing-Endpoint-Weight", str(check.local_ready)),
        ),
        body=json.dumps(body, indent="\t").encode(),
    )
