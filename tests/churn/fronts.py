"""The Services that are under fire: what they are, and the changes that may happen to them.

The steady ones always have one endpoint that stays on n1, so that no policy leaves them without any; everything else
about them changes. The fleeting one may lose every endpoint, its type and itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from ipaddress import ip_address, ip_network
from random import Random
from typing import TypeVar

from churn.manifests import Object

from netplane.model.address import Family, IPAddress, Protocol
from netplane.model.endpoint import EndpointSlice, EndpointState, SliceEndpoint, SlicePort
from netplane.model.pod import ContainerPort, Pod, PodId
from netplane.model.service import Ingress, Scope, Service, ServiceId, ServicePort, ServiceType

Item = TypeVar("Item")

SERVERS = {"a": ("n1", 21), "b": ("n1", 22), "c": ("n1", 23), "d": ("n2", 24), "e": ("n2", 25)}
"""Pods with servers: their node, and the last part of their addresses."""
WEB, ECHO, DOORS = 8080, 8180, 8
"""A server listens on so many ports from each of these on."""
AFFINITIES = (None, None, timedelta(seconds=1), timedelta(seconds=60), timedelta(hours=3))
ZONES = ("z1", "z2")
EVERYBODY = (ip_network("0.0.0.0/0"), ip_network("::/0"))
RANGES = (
    (),
    (),
    EVERYBODY,
    tuple(map(ip_network, ("10.244.0.0/16", "192.0.2.0/24", "fd00:244::/32", "2001:db8::/64"))),
    tuple(map(ip_network, ("198.18.0.0/15", "fd00:198:18::/47"))),
)

Door = tuple[str, int]
"""A server and which of its doors: an endpoint."""


def address(server: str, family: Family) -> IPAddress:
    """Where a server is."""
    node, last = SERVERS[server]
    number = node.removeprefix("n")
    return ip_address(f"10.244.{number}.{last}" if family is Family.IPV4 else f"fd00:244:{number}::{last}")


@dataclass(slots=True)
class Front:
    """One Service under fire, and what is behind it. Changes are methods; each says what it did."""

    random: Random
    number: int
    anchor: str = ""
    """The server that stays; "" for the fleeting Service."""
    service: Service = field(init=False)
    members: dict[Door, EndpointState] = field(default_factory=dict)
    hinted: float = 0.0
    parts: int = 1
    names: int = 0
    exists: bool = True

    def __post_init__(self) -> None:
        n = self.number
        self.service = Service(
            ServiceId("fire", f"front-{n}"),
            ServiceType.LOAD_BALANCER,
            ports=(
                ServicePort("web", Protocol.TCP, 80, WEB, 31000 + 2 * n),
                ServicePort("echo", Protocol.TCP, 81, ECHO, 31001 + 2 * n),
            ),
            cluster_ips=(ip_address(f"10.96.1.{n + 1}"), ip_address(f"fd00:96::1:{n + 1}")),
            external_ips=(ip_address(f"198.51.100.{n + 101}"), ip_address(f"2001:db8:51::{n + 101}")),
            ingress=(
                Ingress(ip_address(f"203.0.113.{n + 101}")),
                Ingress(ip_address(f"2001:db8:113::{n + 101}")),
            ),
        )
        self.members[(self.anchor or "a", 0)] = EndpointState.READY

    @property
    def title(self) -> str:
        """What files of it are called."""
        return f"fire.{self.service.id.name}"

    def files(self) -> dict[str, tuple[Object, ...]]:
        """What the folder should hold of it."""
        if not self.exists:
            return {}
        return {f"{self.title}": (self.service,), f"{self.title}.slices": self._slices()}

    def change(self) -> str:
        """One thing about it becomes different."""
        changes = CHANGES if self.anchor else CHANGES + FLEETING
        done: Callable[[Front], str] = self.random.choice(changes)
        return f"{self.service.id.name} {done.__name__}: {done(self)}"

    # --- endpoints ---

    def joins(self) -> str:
        door = self._one(sorted(SERVERS)), self._one((0, 0, 0, *range(DOORS)))
        self.members[door] = EndpointState.READY
        return str(door)

    def leaves(self) -> str:
        if gone := self._some_door():
            del self.members[gone]
        return str(gone)

    def turns(self) -> str:
        if door := self._some_door():
            self.members[door] = self._one(tuple(EndpointState))
            return f"{door} {self.members[door].value}"
        return ""

    def crowd_comes(self) -> str:
        for server in SERVERS:
            for door in range(DOORS):
                self.members.setdefault((server, door), EndpointState.READY)
        return f"{len(self.members)} endpoints"

    def crowd_goes(self) -> str:
        self.members = {door: state for door, state in self.members.items() if door == (self.anchor, 0)}
        return f"{len(self.members)} endpoints"

    def hints(self) -> str:
        self.hinted = self._one((0.0, 0.0, 0.9, 1.0))
        return str(self.hinted)

    def regrouped(self) -> str:
        self.parts, self.names = self._one((1, 2, 3)), self.names + 1
        return f"{self.parts} slices of other names"

    # --- the Service ---

    def affinity(self) -> str:
        return self._put(affinity=self._one(AFFINITIES))

    def internal(self) -> str:
        return self._put(internal=_other(self.service.internal))

    def external(self) -> str:
        return self._put(external=_other(self.service.external))

    def ranges(self) -> str:
        return self._put(source_ranges=self._one(RANGES))

    def another_port(self) -> str:
        number = 0 if self.service.type is ServiceType.CLUSTER_IP else self._one((0, 31900 + self.number))
        more = ServicePort("more", Protocol.UDP, 53, 53, number)
        return self._put(ports=self.service.ports[:2] + ((more,) if len(self.service.ports) == 2 else ()))

    def another_address(self) -> str:
        more = ip_address(f"198.51.100.{self.number + 151}")
        listed = self.service.external_ips
        return self._put(external_ips=listed[:2] if more in listed else (*listed, more))

    def label(self) -> str:
        return self._put(labels=frozenset({("touched", str(self.random.randrange(100)))}))

    # --- the fleeting one ---

    def goes(self) -> str:
        self.exists = not self.exists
        return "is there" if self.exists else "is gone"

    def other_type(self) -> str:
        kind = self._one((ServiceType.CLUSTER_IP, ServiceType.NODE_PORT, ServiceType.LOAD_BALANCER))
        n = self.number
        numbers = (0, 0) if kind is ServiceType.CLUSTER_IP else (31000 + 2 * n, 31001 + 2 * n)
        ports = [replace(port, node_port=number) for port, number in zip(self.service.ports, numbers, strict=False)]
        vips = (f"203.0.113.{n + 101}", f"2001:db8:113::{n + 101}") if kind is ServiceType.LOAD_BALANCER else ()
        return self._put(type=kind, ports=tuple(ports), ingress=tuple(Ingress(ip_address(each)) for each in vips))

    def nobody(self) -> str:
        self.members.clear()
        return ""

    def everybody_down(self) -> str:
        self.members = dict.fromkeys(self.members, EndpointState.DOWN)
        return ""

    # --- pieces ---

    def _slices(self) -> tuple[EndpointSlice, ...]:
        made = []
        groups: dict[tuple[int, int], list[Door]] = {}
        for place, door in enumerate(sorted(self.members)):
            groups.setdefault((door[1], place % self.parts), []).append(door)
        for family in Family:
            for (door, part), doors in sorted(groups.items()):
                ports = (SlicePort("web", Protocol.TCP, WEB + door), SlicePort("echo", Protocol.TCP, ECHO + door))
                name = f"{self.service.id.name}-{self.names}-{door}-{part}-{family.value}"
                endpoints = tuple(self._endpoint(each, family) for each in doors)
                made.append(EndpointSlice("fire", name, self.service.id, family, ports, endpoints))
        if not made:
            made.append(EndpointSlice("fire", f"{self.service.id.name}-none", self.service.id, Family.IPV4, (), ()))
        return tuple(made)

    def _endpoint(self, door: Door, family: Family) -> SliceEndpoint:
        server = door[0]
        hinted = Random(f"{self.hinted} {door}")  # the same in both families, and as long as the hints are the same
        zones = frozenset({hinted.choice(ZONES)}) if hinted.random() < self.hinted else frozenset()
        return SliceEndpoint(address(server, family), self.members[door], SERVERS[server][0], zones)

    def _some_door(self) -> Door | None:
        others = [door for door in sorted(self.members) if door != (self.anchor, 0)]
        return self._one(others) if others else None

    def _put(self, **changes: object) -> str:
        self.service = replace(self.service, **changes)  # type: ignore[arg-type]
        return ", ".join(map(str, changes.values()))[:80]

    def _one(self, pool: Sequence[Item]) -> Item:
        return self.random.choice(pool)


@dataclass(slots=True)
class Picked(Front):
    """A Service whose endpoints are the Pods its selector picks; there are no slices."""

    states: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        Front.__post_init__(self)
        first, second, *rest = self.service.ports
        named = replace(first, target="web"), replace(second, target="echo")
        self.service = replace(self.service, ports=(*named, *rest), selector=(("app", "picked"),))

    def files(self) -> dict[str, tuple[Object, ...]]:
        pods = tuple(self._pod(server) for server in SERVERS)
        return {f"{self.title}": (self.service,), f"{self.title}.pods": pods}

    def change(self) -> str:
        if self.random.random() < 0.3:
            done = self.random.choice(
                (Front.affinity, Front.internal, Front.external, Front.ranges, Front.another_address, Front.label)
            )
            return f"picked {done.__name__}: {done(self)}"
        server = self._one([each for each in SERVERS if each != self.anchor])
        self.states[server] = self._one(("ready", "ready", "other", "not ready", "terminating", "finished"))
        return f"pod {server} {self.states[server]}"

    def _pod(self, server: str) -> Pod:
        state = self.states.get(server, "ready" if server == self.anchor else "other")
        return Pod(
            PodId("fire", server),
            SERVERS[server][0],
            tuple(address(server, family) for family in Family),
            frozenset({("app", "other" if state == "other" else "picked")}),
            (ContainerPort("web", Protocol.TCP, WEB), ContainerPort("echo", Protocol.TCP, ECHO)),
            ready=state in ("ready", "other", "terminating"),
            terminating=state == "terminating",
            finished=state == "finished",
        )


def _other(scope: Scope) -> Scope:
    return Scope.LOCAL if scope is Scope.CLUSTER else Scope.CLUSTER


CHANGES: tuple[Callable[[Front], str], ...] = (
    *(Front.joins,) * 6,
    *(Front.leaves,) * 5,
    *(Front.turns,) * 5,
    Front.crowd_comes,
    Front.crowd_goes,
    Front.hints,
    Front.regrouped,
    *(Front.affinity,) * 2,
    *(Front.internal,) * 2,
    *(Front.external,) * 2,
    Front.ranges,
    Front.another_port,
    Front.another_address,
    Front.label,
)
FLEETING: tuple[Callable[[Front], str], ...] = (
    *(Front.goes,) * 3,
    *(Front.other_type,) * 2,
    Front.nobody,
    Front.everybody_down,
)
