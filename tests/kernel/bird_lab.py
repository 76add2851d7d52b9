"""Nodes and a router on one wire, in namespaces without names, each with a bird."""

from __future__ import annotations

import itertools
import json
import secrets
import socket
import subprocess
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from ipaddress import IPv4Address, ip_address, ip_network
from pathlib import Path
from typing import TypeVar

from netplane.backends.network.bird import bird_text
from netplane.closing import Closing
from netplane.errors import KernelError
from netplane.kernel import bird_process, command
from netplane.kernel.bird import BirdControl, Session, sessions
from netplane.kernel.bird_mechanism import BirdMechanism
from netplane.kernel.mechanism import Pending
from netplane.kernel.netns import Namespace
from netplane.model.address import IPAddress, IPNetwork
from netplane.plan.network_plan import BgpPlan, BgpSession
from netplane.plan.network_settings import Bgp
from netplane.programs.network import NetworkProgram, Route, RouteKey
from netplane.programs.program import Program

Result = TypeVar("Result")
SECONDS = 30.0
FOUR, SIX = "198.18.0.{}", "2001:db8::{}"
ROUTER = 100
CLUSTER = (ip_network("10.244.0.0/16"), ip_network("fd00:244::/48"))
POOL = (ip_network("192.0.2.0/24"), ip_network("2001:db8:1b::/64"))
SYSTEM, ROUTERS = 64512, 65001
OTHER_WAY = NetworkProgram(routes={RouteKey(ip_network("10.244.9.0/24")): Route()})


def until(question: Callable[[], Result], *, but: object = False) -> Result:
    """The first answer that is something. Fails after half a minute with the last one."""
    deadline = time.monotonic() + SECONDS
    while True:
        answer = question()
        if answer:
            return answer
        assert time.monotonic() < deadline, but() if callable(but) else but
        time.sleep(0.02)


def pod_ranges(number: int) -> tuple[IPNetwork, ...]:
    """Of node `number`."""
    return ip_network(f"10.244.{number}.0/24"), ip_network(f"fd00:244:0:{number}::/64")


def addresses(number: int) -> tuple[IPAddress, ...]:
    """Of a node or the router on the wire."""
    return ip_address(FOUR.format(number)), ip_address(SIX.format(number))


def session(here: int, there: int, family: int = 4, **details: object) -> BgpSession:
    """Between two nodes, or a node and the router."""
    local, remote = (next(each for each in addresses(number) if each.version == family) for number in (here, there))
    kind, asn = ("router", ROUTERS) if there == ROUTER else ("node", SYSTEM)
    made = BgpSession(f"{kind}_{there}_{family}", local, remote, asn)
    return replace(made, **details)  # type: ignore[arg-type]


def plan(number: int, sessions_: Iterable[BgpSession], announced: Iterable[IPNetwork] = (), **more: object) -> BgpPlan:
    """What a node says and hears: its Pod ranges, and `announced` besides."""
    made = BgpPlan(
        Bgp(asn=SYSTEM, hold_seconds=30, graceful_restart_seconds=20),
        IPv4Address(FOUR.format(number)),
        tuple(sessions_),
        (*pod_ranges(number), *announced),
        (*CLUSTER, *POOL),
    )
    return replace(made, **more)  # type: ignore[arg-type]


@dataclass
class Member(Closing):
    """A namespace on the wire. `run`: the run directory of its mechanism."""

    number: int
    namespace: Namespace
    run: Path
    left: ExitStack = field(default_factory=ExitStack)

    @property
    def folder(self) -> Path:
        return self.run / "bird"

    def shell(self, *words: str) -> str:
        return self.namespace.run(lambda: command.run(*words, mechanism="test", doing=" ".join(words)))

    def ask(self, question: str) -> list[str]:
        with BirdControl(self.folder) as control:
            return [each.text for each in control.ask(question)]

    def sessions(self) -> dict[str, Session]:
        return {each.name: each for each in sessions(self.folder)}

    def up(self, *names: str) -> bool:
        """Whether these sessions (all, if none is named) are up and have been told everything."""
        try:
            found = self.sessions()
        except KernelError:
            return False
        wanted = names or tuple(found)
        return bool(wanted) and all(name in found and found[name].state == "Established" for name in wanted)

    def routes(self, protocol: str = "bird") -> dict[str, set[str]]:
        """The kernel's routes to networks, with their next hops."""
        found: dict[str, set[str]] = {}
        for family in ("-4", "-6"):
            for each in json.loads(self.shell("ip", "-j", family, "route", "show", "proto", protocol) or "[]"):
                hops = each.get("nexthops", [each])
                found.setdefault(each["dst"], set()).update(hop.get("gateway", each.get("type", "")) for hop in hops)
        return found

    def heard(self) -> dict[str, set[str]]:
        """The routes bird has from others, with who told them."""
        found: dict[str, set[str]] = {}
        network = ""
        for line in self.ask("show route where source = RTS_BGP"):
            words = line.split()
            if not line.startswith((" ", "\t")) and words[:1] != ["Table"] and words:
                network = words[0]
            if "[" in line and words[:1] != ["Table"]:
                teller = line.split("[", 1)[1].split()[0]
                found.setdefault(network, set()).add(teller)
        return found

    def mechanism(self) -> BirdMechanism:
        """A new one, as of a process without memory."""
        made = self.namespace.run(lambda: BirdMechanism(self.run))
        self.left.callback(made.close)
        return made

    def apply(
        self, mechanism: BirdMechanism, text: str, *, reread: bool = True, rest: NetworkProgram | None = None
    ) -> Pending:
        """Make and sweep; what was pending."""
        want = Program(network=replace(rest or NetworkProgram(), bird=text))

        def work() -> Pending:
            pending = mechanism.pending(want, reread=reread, sweep=True)
            pending.make()
            pending.sweep()
            return pending

        return self.namespace.run(work)

    def speak(self, wanted: BgpPlan) -> BirdMechanism:
        """A mechanism that has this plan applied."""
        made = self.mechanism()
        self.apply(made, bird_text(wanted))
        return made

    def pid(self) -> int:
        """Of the one bird of this folder."""
        found = self.namespace.run(lambda: bird_process.find(self.folder, everywhere=True))
        assert found
        found.close()
        return found.pid

    def speak_by_hand(self, text: str, *, recover: bool = False) -> None:
        """bird with this configuration and nothing of netplane's. `recover`: as if it had never been away."""
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "bird.conf").write_text(text)
        self.namespace.run(lambda: bird_process.start(self.folder, recover=recover).close())

    def socket(self, address: IPAddress, port: int = 0) -> socket.socket:
        """A socket for UDP at this address."""
        family = socket.AF_INET if address.version == 4 else socket.AF_INET6
        made = self.namespace.run(lambda: socket.socket(family, socket.SOCK_DGRAM))
        self.left.callback(made.close)
        made.bind((str(address), port))
        made.settimeout(0.2)
        return made

    def close(self) -> None:
        self.left.close()
        with suppress(KernelError):
            if process := self.namespace.run(lambda: bird_process.find(self.folder, everywhere=True)):
                process.kill()
                process.close()
        self.namespace.close()


def reaches(sender: socket.socket, receiver: socket.socket) -> bool:
    """Whether a packet arrives, with the address it was sent from."""
    token = secrets.token_bytes(8)
    try:
        sender.sendto(token, receiver.getsockname()[:2])
        got, source = receiver.recvfrom(100)
    except OSError:
        return False
    return (got, source[:2]) == (token, sender.getsockname()[:2])


class Wire(Closing):
    """A bridge in a namespace of its own, and members on it: dual stack, with addresses of both families."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._left = ExitStack()
        self._numbers = itertools.count(1)
        self._switch = self._left.enter_context(Namespace())
        self._words(
            self._switch, "ip link add wire type bridge mcast_snooping 0 forward_delay 0", "ip link set wire up"
        )
        self._members: list[Member] = []

    def join(self, number: int) -> Member:
        """A new member with the addresses of `number`."""
        namespace = Namespace()
        made = self._left.enter_context(Member(number, namespace, self._folder / f"run{number}"))
        port = f"p{next(self._numbers)}"
        holder = namespace.run(lambda: subprocess.Popen(["sleep", "60"]))
        try:
            self._words(
                self._switch,
                f"ip link add {port} type veth peer name eth0 netns {holder.pid}",
                f"ip link set {port} master wire up",
            )
        finally:
            holder.kill()
            holder.wait()
        self._words(
            namespace,
            "ip link set lo up",
            # Flows, not pairs of addresses, are spread over several next hops.
            "sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 net.ipv4.fib_multipath_hash_policy=1 "
            "net.ipv6.fib_multipath_hash_policy=1",
            f"ip address add {FOUR.format(number)}/24 dev eth0",
            f"ip address add {SIX.format(number)}/64 dev eth0 nodad",
            "ip link set eth0 up",
        )
        for each in pod_ranges(number):  # as the agent has them: own Pods, and a backstop
            kind = "-6" if each.version == 6 else "-4"
            self._words(
                namespace,
                f"ip {kind} address add {each[1]}/{each.prefixlen} dev lo nodad".replace(
                    " nodad", " nodad" * (each.version == 6)
                ),
            )
        until(lambda: '"operstate":"UP"' in made.shell("ip", "-j", "link", "show", "eth0"))
        self._members.append(made)
        return made

    def close(self) -> None:
        self._left.close()

    @staticmethod
    def _words(where: Namespace, *commands: str) -> None:
        for each in commands:
            where.run(partial(command.run, *each.split(), mechanism="test", doing=each))


def router_text(sessions_: Iterable[tuple[IPAddress, str]], routes: Iterable[str] = (), extra: str = "") -> str:
    """A rack router: speaks with each of these addresses (with a password or ""), announces `routes`, tells each node
    what the others said, and puts it into its kernel."""
    parts = [f"router id {FOUR.format(ROUTER)};\nprotocol device {{ }}\ntimeformat protocol iso long ms;\n"]
    for family in (4, 6):
        words = "".join(f"  route {each} blackhole;\n" for each in routes if ip_network(each).version == family)
        parts.append(
            f"""protocol direct {{ ipv{family}; }}
protocol kernel kernel{family} {{
  metric 40;
  scan time 2;
  merge paths yes;
  ipv{family} {{ import none; export where source = RTS_BGP; }};
}}
protocol static static{family} {{
  ipv{family};
{words}}}
"""
        )
    for at, (remote, password) in enumerate(sessions_):
        local = next(each for each in addresses(ROUTER) if each.version == remote.version)
        secret = f'password "{password}";' if password else ""
        parts.append(
            f"""protocol bgp n{at} {{
  local {local} as {ROUTERS};
  neighbor {remote} as {SYSTEM};
  direct;
  connect delay time 1;
  connect retry time 1;
  error wait time 1, 5;
  hold time 30;
  graceful restart yes;
  graceful restart time 20;
  {secret}{extra}
  ipv{remote.version} {{ import all; export where source != RTS_DEVICE; }};
}}
"""
        )
    return "".join(parts)
