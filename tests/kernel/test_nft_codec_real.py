"""The nf_tables codec against the real nft and kernel: see netplane/kernel/nft_codec.py."""

import re

import pytest
from nft_bytes import address, port, protocol, slot

from netplane.kernel import command, netlink, nft_codec
from netplane.kernel.netlink import NetlinkSocket
from netplane.kernel.netns import Namespace
from netplane.kernel.nft_codec import KernelSet
from netplane.model.address import Family
from netplane.programs.nftables import NFT_FAMILY, TABLE, Hook

DECLARED = """
add table {nft} netplane {{ comment "made by netplane"; }}
add chain {nft} netplane pick-2
add set {nft} netplane addresses {{ type {address}; }}
add map {nft} netplane services {{ type {address} . inet_proto . inet_service : verdict; }}
add map {nft} netplane endpoints {{ \\
    typeof {nft} daddr . meta l4proto . th dport . numgen random mod 2 : {nft} daddr . th dport; }}
add set {nft} netplane ranges {{ type {address} . inet_service . {address}; flags interval; }}
add map {nft} netplane guarded {{ type {address} . inet_service : verdict; flags interval; }}
"""
FIELD = {Family.IPV4: "ipv4_addr", Family.IPV6: "ipv6_addr"}
ADDRESSES = {
    Family.IPV4: ("10.96.0.10", "10.1.2.3", "10.0.0.0/8", "10.255.255.255"),
    Family.IPV6: ("fd00:96::a", "fd00:1::3", "fd00::/16", "fd00:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
}


def sample(family: Family) -> dict[str, tuple[str, dict]]:
    """For each set of DECLARED: elements as nft writes them, and as bytes."""
    service, endpoint, network, last = ADDRESSES[family]
    first = address(network.partition("/")[0])
    packed, backend, end = address(service), address(endpoint), address(last)
    return {
        "addresses": (f"{service}, {endpoint}", {packed: None, backend: None}),
        "services": (
            f"{service} . tcp . 80 : goto pick-2, {service} . udp . 53 : drop, {service} . sctp . 9 : jump pick-2",
            {
                packed + protocol(6) + port(80): "goto pick-2",
                packed + protocol(17) + port(53): "drop",
                packed + protocol(132) + port(9): "jump pick-2",
            },
        ),
        "endpoints": (
            f"{service} . tcp . 80 . 0 : {endpoint} . 8080, {service} . tcp . 80 . 1 : {endpoint} . 8081",
            {
                packed + protocol(6) + port(80) + slot(0): backend + port(8080),
                packed + protocol(6) + port(80) + slot(1): backend + port(8081),
            },
        ),
        "ranges": (
            f"{service} . 80 . {network}, {service} . 81-82 . {endpoint}",
            {
                packed + port(80) + first + packed + port(80) + end: None,
                packed + port(81) + backend + packed + port(82) + backend: None,
            },
        ),
        "guarded": (
            f"{network} . 80 : accept, {service} . 443 : goto pick-2",
            {
                first + port(80) + end + port(80): "accept",
                packed + port(443) + packed + port(443): "goto pick-2",
            },
        ),
    }


def nft(script: str) -> str:
    return command.run("nft", "-f", "-", stdin=script, mechanism="nftables", doing="test")


def listed(family: Family, name: str) -> str:
    """The elements that nft shows, without white space and in order."""
    kind = "set" if name in ("addresses", "ranges") else "map"
    shown = command.run(
        "nft", "--numeric", "list", kind, NFT_FAMILY[family], TABLE, name, mechanism="nftables", doing="list"
    )
    return in_order(re.search(r"elements = \{(.*?)\}", shown, re.DOTALL)[1])


def in_order(elements: str) -> str:
    numeric = {"tcp": "6", "udp": "17", "sctp": "132"}
    words = re.sub(r"\b(tcp|udp|sctp)\b", lambda name: numeric[name[0]], elements)
    return ",".join(sorted("".join(element.split()) for element in words.split(",")))


@pytest.fixture(params=list(Family), ids=str)
def family(request) -> Family:
    return request.param


@pytest.fixture
def declared(family):
    """A socket to a namespace with empty sets, its `run`, and the sets as the kernel declares them."""
    script = DECLARED.format(nft=NFT_FAMILY[family], address=FIELD[family])
    with Namespace() as namespace, namespace.run(lambda: NetlinkSocket(netlink.NETFILTER, "test")) as socket:
        namespace.run(lambda: nft(script))
        answers = socket.dump(nft_codec.get_sets(family), "sets")
        targets = (nft_codec.declared_set(family, answer) for answer in answers)
        yield namespace.run, socket, {target.name: target for target in targets}


def elements_of(socket: NetlinkSocket, target: KernelSet) -> dict:
    payloads = socket.dump(nft_codec.get_elements(target), "elements")
    return {key: data for payload in payloads for key, data in nft_codec.elements(target, payload).items()}


SETS = ("addresses", "services", "endpoints", "ranges", "guarded")


@pytest.mark.kernel
@pytest.mark.parametrize("name", SETS)
def test_nft_lists_what_we_write_and_we_can_remove_it(declared, family, name):
    run, socket, targets = declared
    words, elements = sample(family)[name]
    requests = list(nft_codec.add_elements(targets[name], elements))
    assert socket.transact(netlink.batch(10, requests)) == []
    assert run(lambda: listed(family, name)) == in_order(words)
    assert elements_of(socket, targets[name]) == elements
    assert socket.transact(netlink.batch(10, list(nft_codec.remove_elements(targets[name], elements)))) == []
    assert elements_of(socket, targets[name]) == {}


@pytest.mark.kernel
@pytest.mark.parametrize("name", SETS)
def test_we_read_what_nft_writes(declared, family, name):
    run, socket, targets = declared
    words, elements = sample(family)[name]
    run(lambda: nft(f"add element {NFT_FAMILY[family]} {TABLE} {name} {{ {words} }}"))
    assert elements_of(socket, targets[name]) == elements
    assert socket.transact(netlink.batch(10, list(nft_codec.remove_elements(targets[name], elements)))) == []
    assert elements_of(socket, targets[name]) == {}


@pytest.mark.kernel
def test_keys_read_from_the_kernel_are_told_as_nft_writes_them(declared, family):
    _, _, targets = declared
    service = ADDRESSES[family][0]
    told = {nft_codec.key_text(targets["endpoints"], key) for key in sample(family)["endpoints"][1]}
    assert told == {f"{service} . tcp . 80 . 0", f"{service} . tcp . 80 . 1"}


@pytest.mark.kernel
def test_sets_are_read_as_declared(declared):
    _, _, targets = declared
    assert {name: (target.interval, target.dynamic, target.readable) for name, target in targets.items()} == {
        "addresses": (False, False, True),
        "services": (False, False, True),
        "endpoints": (False, False, True),
        "ranges": (True, False, True),
        "guarded": (True, False, True),
    }


@pytest.mark.kernel
def test_tables_chains_and_rules_are_read_with_hooks_and_comments(family):
    name = NFT_FAMILY[family]
    script = f"""
        table {name} {TABLE} {{
            comment "made by netplane"
            chain nat {{ type nat hook postrouting priority srcnat + 5; }}
            chain early {{ type filter hook prerouting priority -301; policy drop; }}
            chain plain {{
                accept comment "first 01234567"
                counter accept
                drop comment "{"x" * 100}"
            }}
        }}
        table {name} another {{
            chain theirs {{
                accept comment "89abcdef"
            }}
        }}
        """
    with Namespace() as namespace, namespace.run(lambda: NetlinkSocket(netlink.NETFILTER, "test")) as socket:
        namespace.run(lambda: nft(script))
        comments = [nft_codec.table_comment(answer) for answer in socket.ask(nft_codec.get_table(family), "table")]
        chains = [nft_codec.chain(answer) for answer in socket.dump(nft_codec.get_chains(family), "chains")]
        rules = [nft_codec.rule(answer) for answer in socket.dump(nft_codec.get_rules(family), "rules")]
    assert comments == ["made by netplane"]
    assert [chain for chain in chains if chain] == [
        ("nat", Hook("nat", "postrouting", 105)),
        ("early", Hook("filter", "prerouting", -301)),
        ("plain", None),
    ]
    assert [rule for rule in rules if rule] == [("plain", "first 01234567"), ("plain", ""), ("plain", "x" * 100)]
