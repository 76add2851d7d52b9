"""WireGuard as a mechanism of the host: links with their keys, ports and peers, in the kernel or by wireguard-go.

    found: link --kind--> wireguard: KernelDevice      private keys: STATE/wireguard/, see wireguard_keys.py
                          tun:       ProcessDevice     processes:    RUN/wireguard-go/, see wireguard_go.py

A link named as ours of either kind is ours. Addresses and routes of links are others' business (network_mechanism.py).
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from netplane.errors import KernelError, OwnershipError, RequirementError
from netplane.kernel import link_orders, link_read
from netplane.kernel.links import Links
from netplane.kernel.mechanism import Drift, Pending
from netplane.kernel.wireguard_changes import (
    SESSION_SECONDS,
    Changes,
    DeviceChange,
    DeviceFound,
    Wanted,
    difference,
    lines_of,
)
from netplane.kernel.wireguard_device import KERNEL_KIND, PROCESS_KIND, KernelDevice, ProcessDevice, WireguardDevice
from netplane.kernel.wireguard_go import Silent
from netplane.kernel.wireguard_keys import KEYS, KeyStore
from netplane.programs.network import WireguardLink
from netplane.programs.program import Program

LINK = "np-wg"
"""What is swept where nothing is wanted and nothing is known of earlier."""
_SHARE, _LONGEST_SECONDS = 100, 10.0
"""Comparing all peers takes a hundredth of a processor, but is never longer ago than this."""


class Served(Enum):
    """Who serves new links. AUTO: the kernel if it can, else wireguard-go; what is there and works is kept."""

    AUTO = "auto"
    KERNEL = "kernel"
    PROCESS = "wireguard-go"

    @property
    def kinds(self) -> frozenset[str]:
        """Kinds of links that are as wished."""
        kernel, process = frozenset({KERNEL_KIND}), frozenset({PROCESS_KIND})
        return {Served.AUTO: kernel | process, Served.KERNEL: kernel, Served.PROCESS: process}[self]


@dataclass(frozen=True, slots=True)
class _Found:
    """A link as it is. `kind` is "" if there is none; no `device`: none that answers. `left`: a process without it."""

    kind: str = ""
    mtu: int = 0
    up: bool = False
    device: DeviceFound | None = None
    left: bool = False


@dataclass(frozen=True, slots=True)
class _Step:
    """What leads from what was found of one link to what is wanted of it."""

    name: str
    found: _Found
    want: Wanted | None
    renew: bool
    changes: Changes

    @property
    def set_link(self) -> bool:
        """Whether the link itself is not as wanted: down, or of another size."""
        return self.want is not None and (self.renew or not self.found.up or self.found.mtu != self.want.link.mtu)

    @property
    def remove(self) -> bool:
        """Whether it goes."""
        return self.want is None and (self.found.kind in Served.AUTO.kinds or self.found.left)

    @property
    def made(self) -> int:
        """How much there is to make: the link, what it is set to, peers."""
        return sum((self.renew, self.set_link, self.changes.make.itself, len(self.changes.make.peers)))

    @property
    def swept(self) -> int:
        """How much there is to sweep."""
        return self.remove + len(self.changes.sweep.peers)

    def make_lines(self) -> list[str]:
        """For people."""
        size = f"up, mtu {self.want.link.mtu}" if self.want else ""
        link = [f"+ link {self.name}"] if self.renew else []
        return [*link, *([f"+ link {self.name}: {size}"] if self.set_link else []), *self._lines(self.changes.make)]

    def sweep_lines(self) -> list[str]:
        """For people."""
        return [*self._lines(self.changes.sweep), *([f"- link {self.name}"] if self.remove else [])]

    def _lines(self, change: DeviceChange) -> list[str]:
        return list(lines_of(change, self.name))


class WireguardMechanism:
    """The WireGuard links of the network namespace of the thread that creates it.

    `run` is where processes are found again, `state` where keys are: HostOptions has both. What others change is not
    told by the kernel: `disturbed` looks.
    """

    name = "wireguard"

    def __init__(self, run: Path, state: Path, served: Served = Served.AUTO) -> None:
        self._served, self._keys = served, KeyStore(state / KEYS)
        self._wanted: dict[str, Wanted] = {}
        self._applied: dict[str, Wanted] | None = None
        self._next_look, self._foreign = 0.0, 0
        self._differs: tuple[str, ...] = ()
        self._seen: tuple[str, ...] = ()
        with ExitStack() as made:
            self._links = made.enter_context(Links())
            self._kernel = made.enter_context(KernelDevice(self._links))
            self._process = made.enter_context(ProcessDevice(run))
            self._open = made.pop_all()

    @property
    def told(self) -> bool:
        """See `Mechanism.told`. Where nothing is wanted nothing can be missing."""
        return not self._wanted

    def pending(self, want: Program, *, reread: bool, sweep: bool) -> Pending:  # noqa: ARG002  not at one stroke
        """See `Mechanism.pending`."""
        wanted = {
            name: Wanted(link, want.network.peers.get(name, {}))
            for name, link in want.network.links.items()
            if isinstance(link, WireguardLink)
        }
        drift = Drift()
        if self._applied is None or reread:
            before, self._differs = self._applied or {}, ()
            found = {name: self._read(name) for name in sorted({LINK, *wanted, *before})}
            drift = self._drift(found, before)
            steps = [self._step(name, each, wanted.get(name), before.get(name)) for name, each in found.items()]
        else:
            steps = [
                self._step_on(name, self._applied.get(name), wanted.get(name))
                for name in sorted({*self._applied, *wanted})
            ]
        self._wanted = self._applied = wanted
        return Pending(
            mechanism=self.name,
            made=sum(step.made for step in steps),
            swept=sum(step.swept for step in steps),
            make=lambda: self._make(steps),
            sweep=lambda: self._sweep(steps),
            lines=lambda: [
                *(line for step in steps for line in step.make_lines()),
                *(line for step in reversed(steps) for line in step.sweep_lines()),
            ],
            drift=drift,
        )

    def disturbed(self) -> bool:
        """See `Mechanism.disturbed`. A link that is gone or down is found each time, and so is a process that ended;
        what is different about its peers, as often as a hundredth of a processor allows, and every ten seconds."""
        return bool(self._deviations())

    def mark(self) -> int:
        """See `Mechanism.mark`: how often somebody else changed something."""
        seen = self._deviations()
        if seen and seen != self._seen:
            self._foreign += 1
        self._seen = seen
        return self._foreign

    def forget(self) -> None:
        """See `Mechanism.forget`."""
        self._applied = None

    def close(self) -> None:
        """See `Mechanism.close`. Processes live on."""
        self._open.close()

    # --- reading ----------------------------------------------------------------------------------------------------

    def _read(self, name: str) -> _Found:
        link = link_read.link(self._links, name)
        device: DeviceFound | None = None
        if link and link.kind == KERNEL_KIND:
            device = self._kernel.read(name)
        elif link and link.kind == PROCESS_KIND and self._process.here(name):
            try:
                device = self._process.read(name)
            except Silent:
                device = None
        left = self._process.left(name) and not (link and link.kind == PROCESS_KIND and device)
        return _Found(link.kind or "unknown", link.mtu, link.up, device, left) if link else _Found(left=left)

    def _step(self, name: str, found: _Found, want: Wanted | None, before: Wanted | None = None) -> _Step:
        """Raises OwnershipError if a link that is not ours is in the way."""
        if want is None:
            return _Step(name, found, None, renew=False, changes=_NOTHING)
        if found.kind and found.kind not in Served.AUTO.kinds:
            raise OwnershipError(f"link {name} is not ours but of kind {found.kind}; remove it: ip link delete {name}")
        renew = found.device is None or found.kind not in self._served.kinds
        device = DeviceFound("", 0) if renew or found.device is None else found.device
        return _Step(name, found, want, renew, difference(device, want, time.time() - SESSION_SECONDS, before))

    def _deviations(self) -> tuple[str, ...]:
        """What is not as it was applied, for people: links as they are now, the rest as it was at the last look."""
        applied = self._applied or {}
        links = {name: link_read.link(self._links, name) for name in applied}
        lines = tuple(
            f"link {name}"
            for name, link in links.items()
            if link is None or not link.up or link.mtu != applied[name].link.mtu or link.kind not in self._served.kinds
        )
        begun = time.monotonic()
        if begun >= self._next_look and not lines:
            steps = [self._step(name, self._read(name), want) for name, want in applied.items()]
            self._differs = tuple(line for step in steps for line in (*step.make_lines(), *step.sweep_lines()))
            self._next_look = begun + min((time.monotonic() - begun) * _SHARE, _LONGEST_SECONDS)
        return lines or self._differs

    def _drift(self, found: Mapping[str, _Found], before: Mapping[str, Wanted]) -> Drift:
        steps = [self._step(name, found[name], want) for name, want in before.items()]
        lines = (line for step in steps for line in (*step.make_lines(), *step.sweep_lines()))
        return Drift.of(sum(step.made + step.swept for step in steps), lines)

    def _step_on(self, name: str, before: Wanted | None, want: Wanted | None) -> _Step:
        """The step if what is there is what was applied; of which kind it is, is seen when it is changed."""
        if before is None:
            return self._step(name, _Found(), want)
        device = DeviceFound.of(before.beyond(want) if want else before)
        found = _Found(min(self._served.kinds), before.link.mtu, True, device)
        return self._step(name, found, want.beyond(before) if want else None, before)

    # --- changing ---------------------------------------------------------------------------------------------------

    def _make(self, steps: list[_Step]) -> None:
        for step in steps:
            if step.want is None:
                continue
            if step.renew:
                self._remove(step)
                device = self._chosen()
                device.make(step.name)
            elif step.changes.make:
                device = self._device(step.name)
            if step.set_link:
                self._set_link(step.name, step.want.link.mtu)
            if step.changes.make:
                device.change(step.name, step.changes.make, self._private(step))

    def _sweep(self, steps: list[_Step]) -> None:
        for step in reversed(steps):
            if step.remove:
                self._remove(step)
            elif step.changes.sweep:
                self._device(step.name).change(step.name, step.changes.sweep, None)

    def _remove(self, step: _Step) -> None:
        """A link that is ours, and the process behind it."""
        if step.found.left or step.found.kind == PROCESS_KIND:
            self._process.remove(step.name)
        link = link_read.link(self._links, step.name)
        if link and link.kind in Served.AUTO.kinds:
            for refused in self._links.attempt([link_orders.delete(step.name)]):
                if link_read.number(self._links, step.name):  # else it went by itself meanwhile
                    raise KernelError(mechanism=self.name, doing=refused.order.doing, said=refused.said)

    def _set_link(self, name: str, mtu: int) -> None:
        # In this order: a link that comes up with IPv6 settings as usual has an address of its own making.
        orders = [link_orders.change(name, link_orders.mtu(mtu), link_orders.settings())]
        self._links.carry_out([*orders, link_orders.change(name, up=True)])

    def _private(self, step: _Step) -> bytes | None:
        """Raises KernelError if the key that the link is to have is not here."""
        key = step.changes.make.key
        if not key:
            return None
        private = self._keys.private()
        if self._keys.public() != key:
            said = f"its public half is {self._keys.public()}, wanted is {key}: was it replaced by hand?"
            raise KernelError(mechanism=self.name, doing=f"give {step.name} the key of {self._keys!r}", said=said)
        return private

    def _device(self, name: str) -> WireguardDevice:
        """Who serves a link that is there."""
        link = link_read.link(self._links, name)
        return self._kernel if link and link.kind == KERNEL_KIND else self._process

    def _chosen(self) -> WireguardDevice:
        wished: dict[Served, tuple[WireguardDevice, ...]] = {
            Served.AUTO: (self._kernel, self._process),
            Served.KERNEL: (self._kernel,),
            Served.PROCESS: (self._process,),
        }
        lacks = []
        for device in wished[self._served]:
            lacking = device.missing()
            if not lacking:
                return device
            lacks.append(lacking)
        raise RequirementError(f"wireguard: this host lacks {', and also '.join(lacks)}")


_NOTHING = Changes(DeviceChange(), DeviceChange())
