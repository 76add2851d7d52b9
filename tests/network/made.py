"""netplane's own network in a lab of a ground: planned, compiled and applied in this process."""

from __future__ import annotations

from contextlib import AbstractContextManager

from ground import Ground

from netplane.lab.namespaces import Lab
from netplane.lab.networking import NetworksHere, network_here


def make(lab: Lab, ground: Ground) -> AbstractContextManager[NetworksHere]:
    return network_here(lab, ground.snapshot().nodes, ground.options())
