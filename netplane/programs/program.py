"""A program: the state every kernel mechanism should have. The empty program wants nothing anywhere."""

from __future__ import annotations

from dataclasses import dataclass, field

from netplane.programs.iptables import IptablesProgram
from netplane.programs.network import NetworkProgram
from netplane.programs.nftables import NftablesProgram

NETWORK_TABLE = "netplane-network"
"""The nftables table of the Pod network."""


@dataclass(frozen=True, slots=True)
class Program:
    """One field per mechanism. Cleaning up, and leaving a backend for another, is reconciling towards less."""

    iptables: IptablesProgram = field(default_factory=IptablesProgram)
    nftables: NftablesProgram = field(default_factory=NftablesProgram)
    network: NetworkProgram = field(default_factory=NetworkProgram)
    network_rules: NftablesProgram = field(default_factory=lambda: NftablesProgram(table=NETWORK_TABLE))

    @property
    def serves(self) -> bool:
        """Whether it wants anything at all. Only who serves takes over from kube-proxy, and removes its rules."""
        return bool(self.iptables.frames or self.nftables.structure)
