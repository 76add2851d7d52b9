"""What iptables rules do to a packet, given a program as text: for exactly the matches and targets the backend uses.

Whatever is random is followed on all branches, with its probability. A word that is not known here raises: a new match
needs a new line, not a skip. `iptables_path.py` leads a packet through the hooks.
"""

from __future__ import annotations

import shlex
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from ipaddress import ip_address, ip_network

from netplane.model.address import Family, IPAddress, Protocol
from netplane.programs.iptables_text import scripts

ONE = Fraction(1)


@dataclass(frozen=True)
class Seen:
    """A packet between two rules. `iif` is the link it came over, "" if a process of the node sent it."""

    source: IPAddress
    destination: IPAddress
    protocol: Protocol | None
    port: int = 0
    source_port: int = 40000
    opens: bool = True
    """Whether it is what opens a connection of its protocol: a SYN."""
    iif: str = ""
    mark: int = 0
    state: str = "NEW"
    sent: bool = False
    """A DNAT said where to; it may be where the packet was going."""
    translated: bool = False
    masqueraded: bool = False
    remembered: str = ""
    """The list that now has the source."""


@dataclass(frozen=True)
class Around:
    """What rules ask besides the packet: the addresses of the node, and what the lists of clients have."""

    local: frozenset[IPAddress] = frozenset()
    clients: Mapping[str, set[str]] = field(default_factory=dict)

    def is_local(self, address: IPAddress) -> bool:
        return address in self.local or address.is_loopback


class UnknownRule(Exception):
    """The interpreter does not know what this does."""


Test = Callable[[Around, Seen], bool]
Change = Callable[[Seen], Seen]


@dataclass
class Rule:
    """Matches, all of which must hold; then what is done to the packet, and where it goes."""

    tests: list[Test] = field(default_factory=list)
    share: Fraction = ONE
    changes: list[Change] = field(default_factory=list)
    verdict: str = ""
    """ACCEPT, DROP, REJECT, RESET, RETURN; a chain; or "" to go on."""
    goto: bool = False


Table = dict[str, list[Rule]]
"""Rules by chain, the built-in ones too."""


# --- reading ----------------------------------------------------------------------------------------------------------


def tables(text: str) -> dict[Family, dict[str, Table]]:
    """The tables of both families, by name."""
    return {family: _tables(section, family) for family, section in scripts(text).items()}


def _tables(section: str, family: Family) -> dict[str, Table]:
    found: dict[str, Table] = {}
    table: Table = {}
    for line in section.splitlines():
        match line[:1], line[:3]:
            case "*", _:
                table = found[line[1:]] = defaultdict(list)
            case ":", _:
                name, policy, _ = line[1:].split()
                if name in table or policy != "-":
                    raise UnknownRule(line)
                table[name] = []
            case _, "-A " | "-I ":
                chain, _, rest = line[3:].partition(" ")
                at = 0 if line[1] == "I" else len(table[chain])
                table[chain].insert(at, _rule(rest, family))
            case _:
                if line != "COMMIT" and not line.startswith("#"):
                    raise UnknownRule(line)
    for each in found.values():
        _check_targets(each)
    return {name: dict(each) for name, each in found.items()}


def _check_targets(table: Table) -> None:
    """Every chain that is led to is there, and every chain but the marker is led to."""
    led = {rule.verdict for rules in table.values() for rule in rules} - {
        "",
        "ACCEPT",
        "DROP",
        "REJECT",
        "RESET",
        "RETURN",
    }
    if missing := led - table.keys():
        raise UnknownRule(f"no chain {missing}")
    hooks = {"PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"}
    if (
        idle := table.keys()
        - led
        - hooks
        - {"NETPLANE", "KUBE-MARK-MASQ", "KUBE-MASQ-UNLESS-POD", "KUBE-REFUSE", *_NODE_PORTS}
    ):
        raise UnknownRule(f"nothing leads to {idle}")


_NODE_PORTS = {"KUBE-NODEPORTS", "KUBE-EXTERNAL-NODEPORTS"}  # idle where the node has no address for them


def _rule(text: str, family: Family) -> Rule:
    words, rule = _Words(text), Rule()
    while words:
        negated = words.take("!")
        word = words.next()
        if word in ("-j", "-g"):
            if negated:
                raise UnknownRule(text)
            rule.goto = word == "-g"
            _target(words.next(), words, rule, family)
            if words:
                raise UnknownRule(text)
        elif word == "-m":
            _match(words.next(), words, rule, family)
        else:
            _head(word, words.next(), rule, not negated)
    return rule


class _Words:
    def __init__(self, text: str) -> None:
        self._text, self._words = text, shlex.split(text)

    def __bool__(self) -> bool:
        return bool(self._words)

    def next(self) -> str:
        if not self._words:
            raise UnknownRule(self._text)
        return self._words.pop(0)

    def take(self, word: str) -> bool:
        """Whether the next word is this one, which is then taken."""
        found = self._words[:1] == [word]
        if found:
            self._words.pop(0)
        return found

    def after(self, option: str) -> str:
        """The value of an option that must be next."""
        if not self.take(option):
            raise UnknownRule(f"{option} expected: {self._text}")
        return self.next()


def _head(word: str, value: str, rule: Rule, wanted: bool) -> None:
    match word:
        case "-s" | "-d":
            network = ip_network(value)
            if not network.prefixlen:
                raise UnknownRule(f"save would not print {value}")
            which = "source" if word == "-s" else "destination"
            rule.tests.append(lambda _, seen: (getattr(seen, which) in network) is wanted)
        case "-i" if value.endswith("+") and wanted:
            rule.tests.append(lambda _, seen: seen.iif.startswith(value[:-1]))
        case "-i" if wanted:
            rule.tests.append(lambda _, seen: seen.iif == value)
        case "-p" if wanted and value in ("tcp", "udp", "sctp"):
            rule.tests.append(lambda _, seen: str(seen.protocol) == value)
        case _:
            raise UnknownRule(f"{word} {value}")


def _match(name: str, words: _Words, rule: Rule, family: Family) -> None:
    match name:
        case "comment":
            words.after("--comment")
        case "conntrack":
            states = set(words.after("--ctstate").split(","))
            if states - {"NEW", "INVALID", "RELATED", "ESTABLISHED", "DNAT"}:
                raise UnknownRule(f"{states}")
            rule.tests.append(lambda _, seen: bool(states & {seen.state, "DNAT" if seen.translated else seen.state}))
        case "addrtype":
            rule.tests.append(_address_type(words))
        case "mark":
            wanted = not words.take("!")
            value, mask = (int(each, 16) for each in words.after("--mark").split("/"))
            rule.tests.append(lambda _, seen: (seen.mark & mask == value) is wanted)
        case "statistic":
            if words.after("--mode") != "random":
                raise UnknownRule("statistic")
            rule.share = _share(words.after("--probability"))
        case "recent":
            _recent(words, rule, family)
        case "tcp" | "udp" | "sctp":
            _ports(words, rule)
        case _:
            raise UnknownRule(f"-m {name}")


def _address_type(words: _Words) -> Test:
    wanted = not words.take("!")
    which = "source" if words.take("--src-type") else "destination"
    if which == "destination" and not words.take("--dst-type"):
        raise UnknownRule("addrtype")
    if words.next() != "LOCAL":
        raise UnknownRule("addrtype")
    return lambda around, seen: around.is_local(getattr(seen, which)) is wanted


def _share(text: str) -> Fraction:
    """One in a whole number if it is as near to that as the kernel can come, in units of 2^-31."""
    count = round(1 / Fraction(text))
    near = Fraction(round(Fraction(2**31, count)), 2**31)
    return Fraction(1, count) if f"{float(near):.11f}" == text else Fraction(text)


def _recent(words: _Words, rule: Rule, family: Family) -> None:
    whole = "255.255.255.255" if family is Family.IPV4 else "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"
    remembers = words.take("--set")
    checks = remembers or (words.take("--rcheck") and int(words.after("--seconds")) > 0 and words.take("--reap"))
    if not checks:
        raise UnknownRule("recent")
    name = words.after("--name")
    if words.after("--mask") != whole or not words.take("--rsource"):
        raise UnknownRule("recent")
    if remembers:
        rule.changes.append(lambda seen: replace(seen, remembered=name))
    else:
        rule.tests.append(lambda around, seen: str(seen.source) in around.clients.get(name, ()))


def _ports(words: _Words, rule: Rule) -> None:
    if words.take("!"):
        if words.after("--tcp-flags") != "FIN,SYN,RST,ACK" or words.next() != "SYN":
            raise UnknownRule("tcp")
        rule.tests.append(lambda _, seen: not seen.opens)
    for option, which in (("--sport", "source_port"), ("--dport", "port")):
        if words.take(option):
            first, _, last = words.next().partition(":")
            low, high = int(first), int(last or first)
            rule.tests.append(lambda _, seen, which=which, low=low, high=high: low <= getattr(seen, which) <= high)


def _target(name: str, words: _Words, rule: Rule, family: Family) -> None:
    match name:
        case "MARK":
            value, mask = (int(each, 16) for each in words.after("--set-xmark").split("/"))
            rule.changes.append(lambda seen: replace(seen, mark=seen.mark & ~mask ^ value))
        case "DNAT":
            address, _, port = words.after("--to-destination").rpartition(":")
            to, number = ip_address(address.strip("[]")), int(port)
            rule.changes.append(lambda seen: _translated(seen, to, number))
            rule.verdict = "ACCEPT"
        case "MASQUERADE":
            if not words.take("--random-fully"):
                raise UnknownRule("MASQUERADE without --random-fully")
            rule.changes.append(lambda seen: replace(seen, masqueraded=True))
            rule.verdict = "ACCEPT"
        case "REJECT":
            kinds = {"tcp-reset": "RESET", f"icmp{'6' * (family is Family.IPV6)}-port-unreachable": name}
            rule.verdict = kinds[words.after("--reject-with")]
        case _:
            rule.verdict = name


def _translated(seen: Seen, to: IPAddress, port: int) -> Seen:
    """The kernel says DNAT only of a packet whose address or port it changed (nf_nat_setup_info)."""
    changed = (to, port) != (seen.destination, seen.port)
    return replace(seen, destination=to, port=port, sent=True, translated=seen.translated or changed)


# --- walking ----------------------------------------------------------------------------------------------------------

Ways = Iterator[tuple[Fraction, Seen, str]]
"""Probability, the packet at the end, and ACCEPT, DROP, REJECT, RESET or "" if it came back from the chain."""


def walk(table: Table, chain: str, around: Around, seen: Seen, start: int = 0) -> Ways:
    """Every way through a chain."""
    rules, left = table[chain], ONE
    for index in range(start, len(rules)):
        rule = rules[index]
        if not all(test(around, seen) for test in rule.tests):
            continue
        changed = seen
        for change in rule.changes:
            changed = change(changed)
        if rule.share != ONE:
            yield from _scaled(left * rule.share, _after(table, chain, around, changed, index))
            left *= 1 - rule.share
        elif rule.verdict:
            yield from _scaled(left, _after(table, chain, around, changed, index))
            return
        else:
            seen = changed
    yield left, seen, ""


def _after(table: Table, chain: str, around: Around, seen: Seen, index: int) -> Ways:
    """Where a packet goes after the rule at `index` held."""
    rule = table[chain][index]
    match rule.verdict:
        case "ACCEPT" | "DROP" | "REJECT" | "RESET":
            yield ONE, seen, rule.verdict
        case "RETURN":
            yield ONE, seen, ""
        case _ if rule.goto:
            yield from walk(table, rule.verdict, around, seen)
        case _:
            for share, back, verdict in walk(table, rule.verdict, around, seen):
                if verdict:
                    yield share, back, verdict
                else:
                    yield from _scaled(share, walk(table, chain, around, back, index + 1))


def _scaled(share: Fraction, ways: Ways) -> Ways:
    return ways if share == ONE else ((share * each, *rest) for each, *rest in ways)
