"""`netplane node`: what is said of the way to another node is what its packets meet."""

from __future__ import annotations

import stat

import pytest
from command_line import netplane
from two_nodes import ip, manifests, nft, two_nodes

from netplane.kernel.command import find
from netplane.plan.network_settings import Mode

pytestmark = pytest.mark.lab
JSON = ("--output", "json")


@pytest.fixture
def vxlan(tmp_path):
    with two_nodes(Mode.VXLAN, tmp_path) as site:
        yield site


def wrong(done):
    assert done.code == 1, done
    return done.json["wrong"]


# --- all is well ----------------------------------------------------------------------------------------------------


def test_a_list_says_by_which_way_over_which_link_and_whether_it_is_alive(vxlan):
    done = vxlan.node("list", *JSON)
    assert (done.code, done.err) == (0, "")
    (n2,) = done.json
    assert n2 | {"node": "n2", "way": "vxlan", "link": "np-vxlan4", "by": ["192.0.2.2"], "mtu": 1450} == n2
    assert (n2["alive"], n2["ranges"], n2["problems"]) == (True, ["10.244.2.0/24"], [])
    assert vxlan.node("list").out.splitlines()[1].split()[:6] == [
        "n2",
        "vxlan",
        "np-vxlan4",
        "192.0.2.2",
        "1450",
        "yes",
    ]


def test_an_explanation_has_everything_the_kernel_should_have_and_full_size_packets_pass(vxlan):
    done = vxlan.node("explain", "n2", *JSON)
    assert (done.code, done.json["wrong"]) == (0, [])
    assert [each["entry"].split()[0] for each in done.json["entries"]] == [
        "link", "route", "route", "neighbour", "forwarding",
    ]  # fmt: skip
    assert all(each["there"] for each in done.json["entries"])
    asked = {(each["to"], each["size"]) for each in done.json["echoes"] if each["seconds"] is not None}
    assert asked == {("192.0.2.2", 0), ("10.244.2.0", 0), ("10.244.2.0", 1450)}
    assert done.json["mtuFrom"] == "1500 of the way to 192.0.2.2 less 50 of vxlan"
    assert vxlan.node("explain", "n2").out.endswith("all is well\n")


def test_a_node_on_the_same_network_is_reached_directly(tmp_path):
    with two_nodes(Mode.HOST_GW, tmp_path) as site:
        value = site.node("explain", "n2", *JSON).json
    assert (value["way"], value["link"], value["by"], value["mtu"]) == ("direct", "eth0", ["192.0.2.2"], 1500)
    assert value["mtuFrom"] == "what the way to 192.0.2.2 takes"
    assert value["wrong"] == []


@pytest.mark.skipif(not find("bird"), reason="bird is not installed")
def test_bgp_shows_the_session_and_the_route_that_came_by_it(tmp_path):
    with two_nodes(Mode.BGP, tmp_path) as site:
        site.pair.wait_for_replies()
        value = site.node("explain", "n2", *JSON).json
    assert [each["state"] for each in value["sessions"]] == ["Established"]
    assert value["entries"] == [{"entry": "route 10.244.2.0/24 proto bird", "there": True}]
    assert value["wrong"] == []


@pytest.mark.skipif(not find("wireguard-go"), reason="wireguard-go is not installed")
def test_wireguard_shows_the_last_handshake(tmp_path):
    with two_nodes(Mode.WIREGUARD, tmp_path) as site:
        site.pair.wait_for_replies()
        value = site.node("explain", "n2", *JSON).json
    assert value["handshakeSeconds"] < 60
    assert value["wrong"] == []


# --- what is wrong, and what to do ----------------------------------------------------------------------------------


def test_a_blocked_port_is_told_from_a_node_that_is_down(vxlan):
    nft(vxlan.pair.nodes[1], "table ip fw { chain in { type filter hook input priority 0; udp dport 4789 drop; }; }")
    (said,) = wrong(vxlan.node("explain", "n2", *JSON))
    assert said.startswith("192.0.2.2 answers, the address behind the overlay does not: UDP 4789 between 192.0.2.1")
    assert vxlan.node("list", *JSON).json[0]["alive"] is False
    ip(vxlan.pair.nodes[1], "link set dev eth0 down")
    (said,) = wrong(vxlan.node("explain", "n2", *JSON))
    assert said.startswith("192.0.2.2 does not answer: n2 is down")


def test_what_the_kernel_lacks_is_named(vxlan):
    ip(vxlan.pair.nodes[0], "neigh del 10.244.2.0 dev np-vxlan4")
    done = vxlan.node("explain", "n2", *JSON)
    lacking = [each["entry"] for each in done.json["entries"] if not each["there"]]
    assert [each.split()[:2] for each in lacking] == [["neighbour", "10.244.2.0"]]
    assert "lacks 1 of 5 entries for n2" in wrong(done)[0]
    assert "LACKS  neighbour 10.244.2.0" in vxlan.node("explain", "n2").out


def test_a_link_that_carries_less_than_it_says_is_found(vxlan):
    ip(vxlan.pair.nodes[1], "link set dev eth0 mtu 1400")  # what is larger is lost on arrival, without a word
    (said,) = wrong(vxlan.node("explain", "n2", *JSON))
    assert said.startswith("small packets get to 10.244.2.0, one of 1450 bytes does not (no answer)")


def test_a_node_without_a_way_says_which_field_to_mend(tmp_path):
    folder = manifests(tmp_path / "manifests")
    (folder / "n3.yaml").write_text(
        "apiVersion: v1\nkind: Node\nmetadata: {name: n3}\nspec: {podCIDR: 10.244.3.0/24}\n"
    )
    words = ("--from", str(folder), "--node", "n1", "--network", "vxlan", "--state-dir", str(tmp_path))
    done = netplane("node", "explain", "n3", *words, *JSON)
    assert (done.json["way"], done.json["unreachable"]) == ("none", ["10.244.3.0/24"])
    assert any("status.addresses" in each["what"] for each in done.json["problems"])
    assert "no way to n3's Pods" in wrong(done)[0]


# --- offline, errors ------------------------------------------------------------------------------------------------


def test_offline_asks_nobody(vxlan):
    ip(vxlan.pair.nodes[1], "link set dev eth0 down")
    value = vxlan.node("explain", "n2", "--offline", *JSON).json
    assert {each["there"] for each in value["entries"]} == {None}
    assert (value["echoes"], value["alive"], value["wrong"]) == ([], None, [])
    assert vxlan.node("list", "--offline", *JSON).json[0]["alive"] is None


@pytest.mark.parametrize(
    ("name", "said"), [("n1", "is this node itself"), ("n7", "there is no Node n7"), ("\x1b[31m", "there is no Node")]
)
def test_a_node_that_cannot_be_explained_is_an_input_error(vxlan, name, said):
    done = vxlan.run("node", "explain", name, *vxlan.words, "--state-dir", str(vxlan.place))
    assert done.code == 3
    assert said in done.error
    assert "\x1b" not in done.err


@pytest.mark.parametrize("network", ["no-such-mode", "/no/such/file", "a\nb", ""])
def test_settings_that_cannot_be_read_are_an_input_error(tmp_path, network):
    folder = manifests(tmp_path / "manifests")
    done = netplane("node", "list", "--from", str(folder), "--node", "n1", "--network", network)
    assert done.code == 3
    assert done.error


# --- keys -----------------------------------------------------------------------------------------------------------


def test_a_key_is_made_once_and_readable_by_root_alone(tmp_path):
    words = ("node", "key", "--state-dir", str(tmp_path / "state"), "--node", "n1")
    (tmp_path / "state").mkdir(mode=0o700)
    first, again = netplane(*words, *JSON), netplane(*words)
    assert first.json["nextPublicKey"] == ""
    key = first.json["publicKey"]
    assert again.out.splitlines() == [
        f"in use: {key}",
        f"kubectl annotate --overwrite node n1 netplane.dev/wireguard-public-key={key}",
    ]
    (file,) = (tmp_path / "state" / "wireguard").iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert key not in file.read_text()


def test_the_next_key_waits_until_it_is_published(tmp_path):
    words = ("node", "key", "--state-dir", str(tmp_path / "state"))
    (tmp_path / "state").mkdir(mode=0o700)
    before = netplane(*words, *JSON).json["publicKey"]
    rotated = netplane(*words, "--rotate", *JSON).json
    assert rotated["publicKey"] == before != rotated["nextPublicKey"] != ""
    assert netplane(*words, "--rotate", *JSON).json == rotated
    assert (
        netplane(*words)
        .out.splitlines()[-1]
        .endswith(f"node NODE netplane.dev/wireguard-public-key={rotated['nextPublicKey']}")
    )
