"""Health check node ports: a small HTTP server per load-balancer Service with external policy Local.

It listens where the Service's node ports answer: on the node's primary addresses, or on all of them if node ports do.
Any request gets the answer of `plan/health.py`, whatever its path.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Iterable
from http import HTTPStatus

from netplane.model.address import Family, family_of
from netplane.plan.health import HealthAnswer, answer
from netplane.plan.plan import HealthCheck, NodeFacts
from netplane.plan.settings import NodePortScope, Settings

log = logging.getLogger("netplane.agent")

_REQUEST_SECONDS = 5.0
_REQUEST_BYTES = 16384

Address = tuple[str, int]


class HealthServers:
    """The listening servers of a node. Used inside one event loop."""

    def __init__(self) -> None:
        self._servers: dict[Address, asyncio.Server] = {}
        self._checks: dict[Address, HealthCheck] = {}
        self._said: set[str] = set()
        self.healthy = True
        """Whether the proxy itself is well; if not, every answer is 503."""

    async def update(self, checks: Iterable[HealthCheck], facts: NodeFacts, settings: Settings) -> None:
        """Listen for exactly these checks, by port. A refused address is said once and tried again next time."""
        self._checks = {}
        for check in checks:
            for host in _hosts(check.family, facts, settings):
                self._checks.setdefault((host, check.port), check)  # of two Services with one port the first has it
        for gone in self._servers.keys() - self._checks.keys():
            self._servers.pop(gone).close()
        for host, port in sorted(self._checks.keys() - self._servers.keys()):
            try:
                self._servers[host, port] = await self._listen(host, port)
            except OSError as error:
                service, why = self._checks[host, port].service, os.strerror(error.errno or 0)
                self._complain(f"Service {service}: health check node port {port} on {host}: {why}")

    def close(self) -> None:
        """Stop listening."""
        for server in self._servers.values():
            server.close()
        self._servers.clear()

    async def _listen(self, host: str, port: int) -> asyncio.Server:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return await asyncio.start_server(
            lambda reader, writer: self._serve((host, port), reader, writer),
            host,
            port,
            family=family,
            limit=_REQUEST_BYTES,
        )

    async def _serve(self, at: Address, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), _REQUEST_SECONDS)
            check = self._checks.get(at)
            if check is not None:
                writer.write(_http(answer(check, healthy=self.healthy)))
                await writer.drain()
        except (TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, OSError):
            return  # not a request, or nobody waits for its answer any more
        except asyncio.CancelledError:
            return  # the agent ends; asyncio (3.11) would print a traceback of a task that ends as cancelled
        finally:
            writer.close()

    def _complain(self, said: str) -> None:
        if said not in self._said:
            self._said.add(said)
            log.error("cannot answer health checks", extra={"why": said})


def _hosts(family: Family, facts: NodeFacts, settings: Settings) -> list[str]:
    if settings.node_ports is NodePortScope.PRIMARY:
        return [str(address) for address in facts.primary_addresses() if family_of(address) is family]
    return ["0.0.0.0" if family is Family.IPV4 else "::"]  # noqa: S104  as far as node ports go


def _http(said: HealthAnswer) -> bytes:
    status = HTTPStatus(said.status)
    head = [f"HTTP/1.1 {status.value} {status.phrase}", *(f"{name}: {value}" for name, value in said.headers)]
    head += [f"Content-Length: {len(said.body)}", "Connection: close"]
    return "\r\n".join((*head, "", "")).encode() + said.body
