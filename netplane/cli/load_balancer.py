"""`netplane load-balancer`: which address each Service of type LoadBalancer has, and why this one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from netplane.cli.options import columns, from_option, output_option, say, say_problems
from netplane.errors import InputError
from netplane.model.service import Service, ServiceId, ServiceType
from netplane.plan.load_balancers import Allocation, Why, allocate
from netplane.sources.manifests import load
from netplane.sources.network_options import read_network_settings

_REASONS = {Why.KEPT: "kept: it is in its status", Why.AUTOMATIC: "automatic: it follows from the Service's name"}


@click.group("load-balancer")
def group() -> None:
    """Addresses of Services of type LoadBalancer."""


@group.command("list")
@from_option
@click.option("--network", required=True, help="File of the network settings, which has the pools.")
@output_option
def list_(source: Path, network: str, output: str) -> None:
    """List the addresses that Services have from the pools, and why these.

    The same on every node. What could not be given is a problem, on standard error.
    """
    settings = read_network_settings(network)
    if not settings.load_balancers.pools:
        raise InputError(
            f"--network {network}: has no load-balancers.pools, so no address is given to anybody; add one"
        )
    loaded = load(source)
    allocation = allocate(loaded.snapshot, settings.load_balancers)
    say_problems([*loaded.problems, *allocation.problems])
    services = [
        service for _, service in sorted(loaded.snapshot.services.items()) if service.type is ServiceType.LOAD_BALANCER
    ]
    rows = [row for service in services for row in _rows(service, allocation)]
    say(
        output,
        [_value(service, allocation) for service in services],
        columns([("SERVICE", "ADDRESS", "WHY"), *rows]),
    )


def _rows(service: Service, allocation: Allocation) -> list[tuple[str, ...]]:
    given = allocation.given.get(service.id, ())
    if not given:
        return [(str(service.id), "-", _why_none(service.id, allocation))]
    return [(str(service.id), str(each.address), _why(service, each.why)) for each in given]


def _why(service: Service, why: Why) -> str:
    return f"asked: {service.asked.field}" if why is Why.ASKED and service.asked else _REASONS[why]


def _why_none(service: ServiceId, allocation: Allocation) -> str:
    """What there is to say about a Service without an address."""
    said = allocation.said.get(service, ())
    return str(said[0]).removeprefix(f"{service}: ").removeprefix(f"Service {service}: ") if said else "-"


def _value(service: Service, allocation: Allocation) -> dict[str, Any]:
    given = allocation.given.get(service.id, ())
    return {
        "namespace": service.id.namespace,
        "name": service.id.name,
        "addresses": [
            {"address": str(each.address), "why": each.why.value, "reason": _why(service, each.why)} for each in given
        ],
        "notes": [str(each) for each in allocation.said.get(service.id, ())],
    }
