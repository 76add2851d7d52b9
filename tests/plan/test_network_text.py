"""A network plan as text."""

from __future__ import annotations

from builders import addresses, networks
from network_nodes import keyed, plan

from netplane.plan.network_settings import Bgp, BgpPeer, Mode
from netplane.plan.network_text import network_text

CROSS_SUBNET = """\
node n1
  mode cross-subnet
  addresses 192.0.2.1
  pods 10.244.1.0/24, packets of at most 1450 bytes
  pods are masqueraded except to 10.96.0.0/16, 10.244.0.0/16, 192.0.2.1/32, 192.0.2.2/31, 192.0.2.4/32
  nothing leaves unless a node has it to 10.244.0.0/16
  no pod is on eth0
  overlay np-vxlan4, mtu 1450, mac 4e:d2:21:86:96:70
    outside 192.0.2.1, inside 10.244.1.0

node n2 is reached directly over eth0, packets of at most 1500 bytes
  addresses 192.0.2.2
  pods 10.244.2.0/24
  via 192.0.2.2

node n3 is reached by vxlan over np-vxlan4, packets of at most 1450 bytes
  addresses 192.0.2.3
  pods 10.244.3.0/24
  outside 192.0.2.3, inside 10.244.3.0, mac a6:29:f0:89:0e:44

node n4 is not reached
  addresses 192.0.2.4

problems
  Node n4: spec.podCIDRs: is missing, so its Pods are not reached; set it, or wait for whoever allocates Pod ranges
"""

BGP = """\
bgp of AS 64512, router id 192.0.2.1, reflects as cluster 192.0.2.1
  announces 10.244.1.0/24
  accepts 10.244.1.0/24, 10.244.2.0/23
  session node_n2: 192.0.2.1 to 192.0.2.2, AS 64512, client
  session node_n3: 192.0.2.1 to 192.0.2.3, AS 64512, several hops, client
  session router_198_18_0_1: 192.0.2.1 to 198.18.0.1, AS 64513, with a password
"""


def four(number: int, **changes):
    made = {"addresses": addresses(f"192.0.2.{number}"), "pod_ranges": networks(f"10.244.{number}.0/24"), **changes}
    return keyed(f"n{number}", **made)


def test_a_plan_of_every_kind_of_way():
    nodes = four(1), four(2), four(3), four(4, pod_ranges=())
    ranges = networks("10.244.0.0/16")
    made = plan(Mode.CROSS_SUBNET, *nodes, far=["n3"], services=networks("10.96.0.0/16"), cluster_ranges=ranges)
    assert network_text(made) == CROSS_SUBNET


def test_sessions_of_bgp():
    rack = BgpPeer(addresses("198.18.0.1")[0], 64513, "/etc/rack")
    bgp = Bgp(reflectors=(("rr", "yes"),), peers=(rack,))
    reflector = four(1, labels=frozenset({("rr", "yes")}))
    made = plan(Mode.BGP, reflector, four(2), four(3), far=["n3"], bgp=bgp)
    assert network_text(made).endswith(BGP)


def test_hostile_words_stay_on_their_line():
    odd = four(2, annotations=(("netplane.dev/wireguard-public-key", "x\n\u202e" * 200),))
    text = network_text(plan(Mode.WIREGUARD, four(1), odd, four(3)))
    assert all(line.isprintable() for line in text.splitlines())
    assert "problems\n  Node n2: metadata.annotations[" in text
    assert max(map(len, text.splitlines())) < 410
