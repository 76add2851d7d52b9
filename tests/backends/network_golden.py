"""The program of the Pod network as text, one file for each mode in `network_golden/`.

`.venv/bin/python tests/backends/network_golden.py` writes them, test_network_golden.py compares them. Whoever writes
them reads the difference: `git diff tests/backends/network_golden`.
"""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

from network_plans import UPLINK, cluster, peer, plan, ranges

from netplane.backends.network.compile import compile_network
from netplane.backends.network.text import network_program_text
from netplane.plan.network_plan import Announced, NetworkPlan, Way
from netplane.plan.network_settings import Bgp, LoadBalancers, Mode, NetworkSettings, Wireguard

FOLDER = Path(__file__).parent / "network_golden"
_SERVED = ip_address("198.18.0.200")


def golden_plans() -> dict[str, NetworkPlan]:
    """By the name of the file: a node with both families in each mode, and what the modes can be asked for."""
    plaintext = NetworkSettings(Mode.WIREGUARD, wireguard=Wireguard(keepalive=25, plaintext=True))
    served = NetworkSettings(Mode.HOST_GW, load_balancers=LoadBalancers(((_SERVED, _SERVED + 9),)))
    bare = NetworkSettings(Mode.VXLAN, masquerade=False, clamp_mss=False)
    return {
        **{mode.value: cluster(mode) for mode in Mode if mode is not Mode.CROSS_SUBNET},
        "cross-subnet": plan(Mode.CROSS_SUBNET, [peer(2, Way.VXLAN, mtu=1350), peer(3, Way.DIRECT)]),
        "vxlan-ipv4-alone": cluster(Mode.VXLAN, 2, (4,)),
        "vxlan-ipv6-alone": plan(Mode.VXLAN, [peer(2, Way.VXLAN, (6,), 6)], (6,), outside=6),
        "vxlan-bare": plan(bare, [peer(2, Way.VXLAN), peer(3, Way.NONE)]),
        "wireguard-plaintext": plan(plaintext, [peer(2, Way.WIREGUARD), peer(3, Way.DIRECT)]),
        "host-gw-load-balancer": plan(
            served,
            [peer(2, Way.DIRECT), peer(3, Way.DIRECT, (4,), unreachable=ranges(3, (6,)))],
            announced=(Announced(_SERVED, UPLINK),),
            load_balancer_addresses=(_SERVED, _SERVED + 1),
        ),
        "bgp-other-as": plan(NetworkSettings(Mode.BGP, bgp=Bgp(asn=65001)), [peer(2, Way.BGP)]),
    }


def golden_texts() -> dict[str, str]:
    """The texts by file name."""
    return {f"{name}.txt": _text(each) for name, each in golden_plans().items()}


def _text(made: NetworkPlan) -> str:
    """All but what bird is told: that has its own tests."""
    program = compile_network(made).program
    return network_program_text(replace(program, network=replace(program.network, bird="")))


def main() -> None:
    """Write the texts, say which changed, and remove those of no plan any more."""
    FOLDER.mkdir(exist_ok=True)
    texts = golden_texts()
    for path in FOLDER.glob("*.txt"):
        if path.name not in texts:
            path.unlink()
            print(f"{path.name}: removed")
    for name, text in texts.items():
        path = FOLDER / name
        if not path.is_file() or path.read_text() != text:
            path.write_text(text)
            print(name)


if __name__ == "__main__":
    main()
