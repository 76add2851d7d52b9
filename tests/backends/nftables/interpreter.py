"""What rules do to a packet, given the text of a program: for exactly the rule shapes the layout emits.

Whatever is random is followed on all branches, with its probability. A fragment that is not known here raises: a new
shape needs a new line, not a skip. `packet_path.py` leads a packet through the chains.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from ipaddress import ip_address, ip_network

from netplane.model.address import IPAddress, Protocol

LOCAL_LINK = ""


@dataclass(frozen=True)
class Seen:
    """A packet between two rules. `iif` is the link it came over, "" if a process of the node sent it."""

    source: IPAddress
    destination: IPAddress
    protocol: Protocol | None
    port: int = 0
    source_port: int = 40000
    iif: str = LOCAL_LINK
    mark: int = 0
    translated: bool = False
    invalid: bool = False
    established: bool = False
    """Whether its sender takes a connection to be up that the node knows nothing of; else it opens one."""
    masqueraded: bool = False
    remembered: str = ""
    """The set that now holds the source."""


Branches = Iterator[tuple[Fraction, "Seen | None", str]]
"""Probability, the packet as it is after a fragment (None: the rule does not match), and a verdict ("" for none)."""

Fragment = Callable[["Table", Seen], Branches]


class UnknownRule(Exception):
    """The interpreter does not know what this does."""


@dataclass
class Table:
    """One table, parsed. `clients` are what dynamic sets hold; `local` the addresses of the node."""

    hooks: dict[str, str] = field(default_factory=dict)
    chains: dict[str, list[tuple[str, list[Fragment]]]] = field(default_factory=dict)
    exact: dict[str, dict[tuple[str, ...], str]] = field(default_factory=dict)
    ranges: dict[str, dict[tuple[str, ...], list]] = field(default_factory=dict)
    dynamic: set[str] = field(default_factory=set)
    clients: Mapping[str, set[str]] = field(default_factory=dict)
    local: frozenset[IPAddress] = frozenset()

    def find(self, name: str, key: tuple[str, ...]) -> str | None:
        """The data of an element ("" in a set), None if there is none."""
        if name in self.dynamic:
            return "" if key[0] in self.clients.get(name, ()) else None
        if name in self.ranges:
            networks = self.ranges[name].get(key[:-1], ())
            return "" if any(ip_address(key[-1]) in network for network in networks) else None
        return self.exact[name].get(key)


# --- reading the script -----------------------------------------------------------------------------------------------

_LINE = re.compile(r"add (table|set|map|chain|rule|element) (ip6?) netplane ?(\S*) ?(.*)")
_HOOK = re.compile(r"\{ type (nat|filter) hook (\w+) priority (-?\d+); \}")
_COMMENT = re.compile(r' comment "[0-9a-f]{8}"$')


def tables(script: str) -> dict[str, Table]:
    """The tables `ip` and `ip6` of a script."""
    found: dict[str, Table] = {}
    for line in script.splitlines():
        if not (match := _LINE.fullmatch(line)):
            raise UnknownRule(line)
        what, family, name, rest = match.groups()
        if what == "table":
            found[family] = Table()
            continue
        _add(found[family], what, name, rest, family)
    return found


def _add(table: Table, what: str, name: str, rest: str, ip: str) -> None:
    match what:
        case "chain":
            table.chains[name] = []
            if rest:
                if not (hook := _HOOK.fullmatch(rest)):
                    raise UnknownRule(f"chain {name} {rest}")
                table.hooks[f"{hook[1]} {hook[2]}"] = name
        case "set" | "map":
            if "flags dynamic" in rest:
                table.dynamic.add(name)
            elif "flags interval" in rest:
                table.ranges[name] = defaultdict(list)
            else:
                table.exact[name] = {}
        case "rule":
            text, count = _COMMENT.subn("", rest)
            if count != 1:
                raise UnknownRule(f"no digest: {rest}")
            table.chains[name].append((text, list(_fragments(_without_family(text, ip)))))
        case "element":
            key, _, data = rest.removeprefix("{ ").removesuffix(" }").partition(" : ")
            fields = tuple(key.split(" . "))
            if name in table.ranges:
                table.ranges[name][fields[:-1]].append(ip_network(fields[-1]))
            else:
                table.exact[name][fields] = data


# --- fragments of a rule ----------------------------------------------------------------------------------------------

_KEY = r"(?:(?:ip [sd]addr|meta l4proto|(?:th|tcp|udp|sctp) [sd]port|numgen random mod \d+)(?: \. )?)+"
_END = r"(?: |$)"


def _fragments(text: str) -> Iterator[Fragment]:
    """The rule cut into what it tests and does, from left to right."""
    while text:
        for pattern, make in _SHAPES:
            if match := re.match(pattern + _END, text):
                yield make(*match.groups())
                text = text[match.end() :]
                break
        else:
            raise UnknownRule(text)


def _without_family(rule: str, ip: str) -> str:
    """The rule with `ip` for `ip6`. A rule speaks only of the family of its table."""
    if re.search(r"\bip " if ip == "ip6" else r"\bip6 ", rule):
        raise UnknownRule(f"in a table {ip}: {rule}")
    return rule.replace("ip6 ", "ip ")


ONE = Fraction(1)


def _test(holds: Callable[[Table, Seen], bool]) -> Fragment:
    def fragment(table: Table, packet: Seen) -> Branches:
        yield ONE, packet if holds(table, packet) else None, ""

    return fragment


def _address(which: str) -> Callable[[Seen], IPAddress]:
    return lambda packet: packet.source if which == "s" else packet.destination


def _in_networks(which: str, negated: str | None, text: str) -> Fragment:
    address, networks = _address(which), [ip_network(each) for each in text.strip("{ }").split(", ")]
    wanted = not negated
    return _test(lambda _, packet: any(address(packet) in network for network in networks) is wanted)


def _parts(key: str) -> list[str]:
    return key.split(" . ")


def _keys(parts: list[str], packet: Seen) -> Iterator[tuple[str, ...]]:
    """Every key the packet can have: more than one if it is partly random; none if a part cannot be read."""
    done: list[tuple[str, ...]] = [()]
    for part in parts:
        values = list(_values(part, packet))
        done = [(*each, value) for each in done for value in values]
    return iter(done)


def _values(part: str, packet: Seen) -> Iterator[str]:
    words = part.split()
    match words:
        case ["ip", "saddr"]:
            yield str(packet.source)
        case ["ip", "daddr"]:
            yield str(packet.destination)
        case ["meta", "l4proto"]:
            yield str(packet.protocol) if packet.protocol else "icmp"
        case [header, ("dport" | "sport") as end]:
            # nft adds a test of the protocol to a rule that names one; `th` reads whatever stands there.
            if header in ("th", str(packet.protocol)):
                number = packet.port if end == "dport" else packet.source_port
                yield str(number) if packet.protocol else "what an ICMP header has there"
        case ["numgen", "random", "mod", count]:
            yield from map(str, range(int(count)))
        case _:
            raise UnknownRule(part)


def _lookup(key: str, negated: str | None, name: str) -> Fragment:
    parts, wanted = _parts(key), not negated

    def holds(table: Table, packet: Seen) -> bool:
        (found,) = [table.find(name, each) is not None for each in _keys(parts, packet)] or [not wanted]
        return found is wanted

    return _test(holds)


def _verdict_map(key: str, name: str) -> Fragment:
    parts = _parts(key)

    def fragment(table: Table, packet: Seen) -> Branches:
        for each in _keys(parts, packet):
            verdict = table.find(name, each)
            yield ONE, packet if verdict is not None else None, verdict or ""

    return fragment


def _dnat_map(key: str, name: str) -> Fragment:
    parts = _parts(key)

    def fragment(table: Table, packet: Seen) -> Branches:
        keys = list(_keys(parts, packet))
        for each in keys:
            found = table.find(name, each)
            share = Fraction(1, len(keys))
            if found is None:
                yield share, None, ""
            else:
                address, number = found.split(" . ")
                yield share, _to(packet, address, int(number)), "accept"
        if not keys:
            yield ONE, None, ""

    return fragment


def _dnat(to: str) -> Fragment:
    address, _, number = to.rpartition(":")

    def fragment(table: Table, packet: Seen) -> Branches:
        yield ONE, _to(packet, address.strip("[]"), int(number)), "accept"

    return fragment


def _to(packet: Seen, address: str, number: int) -> Seen:
    return replace(packet, destination=ip_address(address), port=number, translated=True)


def _one_in(count: str) -> Fragment:
    def fragment(table: Table, packet: Seen) -> Branches:
        share = Fraction(1, int(count))
        yield share, packet, ""
        if share != 1:
            yield 1 - share, None, ""

    return fragment


def _does(change: Callable[[Seen], Seen], verdict: str = "") -> Fragment:
    def fragment(table: Table, packet: Seen) -> Branches:
        yield ONE, change(packet), verdict

    return fragment


def _says(verdict: str) -> Fragment:
    return _does(lambda packet: packet, verdict)


def _remembers(name: str) -> Fragment:
    def fragment(table: Table, packet: Seen) -> Branches:
        if name not in table.dynamic:
            raise UnknownRule(f"update of {name}, which is not dynamic")
        yield ONE, replace(packet, remembered=name), ""

    return fragment


def _arrives_over(name: str) -> Fragment:
    if name.endswith("*"):
        return _test(lambda _, packet: packet.iif.startswith(name[:-1]))
    return _test(lambda _, packet: packet.iif == name)


def _is_within_a_connection(_: Table, packet: Seen) -> bool:
    return packet.protocol is Protocol.TCP and packet.established


_NETWORK = r"[0-9a-f:][0-9a-f.:]+(?:/\d+)?"
_SHAPES: list[tuple[str, Callable[..., Fragment]]] = [
    (rf"ip ([sd])addr (!= )?(\{{ {_NETWORK}(?:, {_NETWORK})* \}})", _in_networks),
    (rf"ip ([sd])addr (!= )?({_NETWORK})", _in_networks),
    (rf"({_KEY}) (!= )?@(\S+)", _lookup),
    (rf"({_KEY}) vmap @(\S+)", _verdict_map),
    (rf"dnat ip to ({_KEY}) map @(\S+)", _dnat_map),
    (r"dnat to (\S+:\d+)", _dnat),
    (r"fib daddr type local", lambda: _test(lambda table, packet: is_local(table, packet.destination))),
    (r'iifname "([^"]+)"', _arrives_over),
    (r"meta l4proto (tcp|udp|sctp)", lambda word: _test(lambda _, packet: str(packet.protocol) == word)),
    (r"meta mark & (0x[0-9a-f]+) != 0", lambda bit: _test(lambda _, packet: bool(packet.mark & int(bit, 16)))),
    (
        r"meta mark set meta mark \| (0x[0-9a-f]+)",
        lambda bit: _does(lambda packet: replace(packet, mark=packet.mark | int(bit, 16))),
    ),
    (
        r"meta mark set meta mark \^ (0x[0-9a-f]+)",
        lambda bit: _does(lambda packet: replace(packet, mark=packet.mark ^ int(bit, 16))),
    ),
    (r"ct status dnat", lambda: _test(lambda _, packet: packet.translated)),
    (r"ct state invalid", lambda: _test(lambda _, packet: packet.invalid)),
    (r"numgen random mod (\d+) 0", _one_in),
    (r"update @(\S+) \{ ip saddr \}", _remembers),
    (r"masquerade fully-random", lambda: _does(lambda packet: replace(packet, masqueraded=True), "accept")),
    (r"tcp flags & \(fin \| syn \| rst \| ack\) != syn", lambda: _test(_is_within_a_connection)),
    (r"(goto \S+|drop|reject with tcp reset|reject)", _says),
]


def is_local(table: Table, address: IPAddress) -> bool:
    return address in table.local or address.is_loopback
