"""A second reader of the legacy variant agrees with us, and sees what was changed by hand."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from iptables_node import SHOP, Node, hashed

from netplane.errors import UnsupportedError
from netplane.kernel.host import Host, HostOptions
from netplane.kernel.iptables_readback import verify
from netplane.programs.iptables import IptablesProgram

pytestmark = pytest.mark.kernel


@pytest.fixture
def made(legacy) -> Node:
    with legacy.run(lambda: Host(HostOptions("legacy"))) as host:
        legacy.run(lambda: host.apply(SHOP, reread=True))
    return legacy


def said(node: Node, program: IptablesProgram = SHOP.iptables) -> list[str]:
    return node.run(lambda: verify(program, "auto"))


def test_it_agrees_in_both_families(made):
    assert said(made) == []


def test_it_would_see_a_rule_that_it_was_not_told_of(made):
    """Otherwise agreeing would mean nothing: every kind of fact is changed once, and seen."""
    one, two, three = (hashed("SEP", 1000 + each) for each in (1, 2, 3))
    service = hashed("SVC", 1)
    to = "-p tcp -m tcp -j DNAT --to-destination"
    by_hand = {
        f"-R {one} 1 -s 10.1.0.0/24 -j KUBE-MARK-MASQ": "(source 10.1.0.0/24) instead of (source 10.1.0.1/32)",
        f"-R {one} 2 {to} 10.1.0.9:80": "(DNAT --to-destination 10.1.0.9:80) instead of (DNAT",
        f"-R {two} 1 ! -s 10.1.0.2 -j KUBE-MARK-MASQ": "(source ! 10.1.0.2/32) instead of (source 10.1.0.2/32)",
        f"-R {two} 2 {to} 10.1.0.2:81": "(DNAT --to-destination 10.1.0.2:81) instead of (DNAT",
        f"-R {service} 1 -m comment --comment other -j {one}": "(comment --comment other) instead of (",
        f"-R {service} 2 -m statistic --mode random --probability 0.25 -j {two}": "--probability 0.25000000000",
        f"-R {service} 3 -g {three}": f"goto {three}",
        "-R KUBE-MARK-MASQ 1 -j MARK --set-xmark 0x4000/0x8000": "(MARK --set-xmark 0x4000/0x8000) instead of",
        "-R KUBE-SERVICES 1 -p udp -m udp --dport 80 -j RETURN": "protocol udp, target RETURN, udp --dport 80",
        "-A KUBE-POSTROUTING -j RETURN": "chain KUBE-POSTROUTING is seen with 3 rules, not 2",
        "-N KUBE-NODEPORTS": "chain KUBE-NODEPORTS is seen, and nobody wants it",
        "-X NETPLANE": "chain NETPLANE is not seen",
    }
    for words in by_hand:
        made.iptables("-t", "nat", *words.split())
    seen = said(made)
    assert len(seen) == len(by_hand)
    for words, line in by_hand.items():
        assert any(line in each for each in seen), (words, seen)


def test_rules_of_others_that_it_could_not_survive_are_not_looked_at(made):
    """Reading a rule of NFLOG ends python-iptables with a segmentation fault."""
    made.restore("*nat\n:MINE - [0:0]\n-A MINE -j NFLOG --nflog-group 1\n-A PREROUTING -j NFLOG\nCOMMIT\n")
    assert said(made) == []


def test_it_cannot_see_the_other_variant_and_says_so(nf_tables):
    with nf_tables.run(lambda: Host(HostOptions("nf_tables"))) as host:
        nf_tables.run(lambda: host.apply(SHOP, reread=True))
    with pytest.raises(
        UnsupportedError, match="sees only the legacy variant of iptables; this node uses the nf_tables"
    ):
        said(nf_tables)


def test_where_nothing_of_iptables_is_there_and_nothing_wanted_it_has_nothing_to_see(nf_tables):
    with pytest.raises(UnsupportedError, match="there is nothing of iptables here"):
        said(nf_tables, IptablesProgram())


def test_it_runs_in_a_process_of_its_own_and_prints_what_it_saw(made):
    words = [sys.executable, "-m", "netplane.kernel.iptables_readback", "ipv6"]
    done = made.run(lambda: subprocess.run(words, capture_output=True, text=True, check=True))
    seen = json.loads(done.stdout)
    assert [fact for fact in seen["nat"][hashed("SEP", 2004)][1] if fact.startswith(("DNAT", "match recent"))] == [
        "DNAT --to-destination [fd00:1::4]:80",
        "match recent",
    ]
    assert "iptc" not in sys.modules
    assert Path("/proc/self/maps").read_text().count("libip4tc") == 0
