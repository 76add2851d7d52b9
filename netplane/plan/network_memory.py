"""What a network plan was made from: `plan_network` may be given its last plan, and makes anew only what changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from netplane.model.address import IPAddress
from netplane.plan.network_bgp import Speaker
from netplane.plan.network_peers import Here, Reached
from netplane.plan.network_plan import BgpSession, Path
from netplane.plan.network_survey import Survey


@dataclass(frozen=True, slots=True)
class Entry:
    """All about one other node."""

    reached: Reached
    sessions: tuple[BgpSession, ...] = ()


@dataclass(frozen=True, slots=True)
class NetworkMemory:
    """`entries` are those of a plan, made from the rest. It holds no earlier memory."""

    here: Here
    speaker: Speaker
    survey: Survey
    paths: Mapping[IPAddress, Path]
    entries: Mapping[str, Entry]
