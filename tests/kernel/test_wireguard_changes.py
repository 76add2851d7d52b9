"""From the device found to the device wanted, one line per difference."""

from __future__ import annotations

from base64 import b64encode
from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest

from netplane.kernel.wireguard_changes import DeviceFound, PeerChange, Wanted, difference, key_bytes, lines_of
from netplane.programs.network import WireguardLink, WireguardPeer

NOW = 1_700_000_000.0
HEARD_SINCE = NOW - 180
OWN = b64encode(b"o" * 32).decode()
KEY = b64encode(b"1" * 32).decode()
OTHER = b64encode(b"2" * 32).decode()
LINK = WireguardLink("np-wg", 1420, 51820, OWN)


def networks(*texts):
    return tuple(map(ip_network, texts))


def peer(key=KEY, **changes):
    values = {"endpoint": ip_address("10.0.0.2"), "port": 51820, "allowed": networks("10.244.2.0/24", "10.0.0.2/32")}
    return WireguardPeer(key, **(values | changes))


def want(*peers):
    return Wanted(LINK, {each.key: each for each in peers})


def found(*peers, handshake=0.0, **changes):
    device = DeviceFound.of(want(*peers))
    return replace(
        device,
        peers={key: replace(each, handshake=handshake, **changes) for key, each in device.peers.items()},
    )


def test_the_same_is_no_change():
    changes = difference(found(peer(), peer(OTHER)), want(peer(), peer(OTHER)), HEARD_SINCE)
    assert not changes.make
    assert not changes.sweep


def test_a_device_without_anything_gets_all():
    change = difference(DeviceFound("", 0, 7), want(peer()), HEARD_SINCE).make
    assert (change.key, change.port, change.mark) == (OWN, 51820, 0)
    assert list(lines_of(change, "np-wg")) == [
        f"+ wireguard np-wg: key {OWN}, port 51820, no mark",
        f"+ peer np-wg {KEY}: endpoint 10.0.0.2:51820, allowed 10.0.0.2/32 10.244.2.0/24, keepalive 0",
    ]


def test_a_peer_that_is_not_wanted_is_swept():
    changes = difference(found(peer(), peer(OTHER)), want(peer()), HEARD_SINCE)
    assert changes.sweep.peers == (PeerChange(OTHER, remove=True),)
    assert not changes.make


@pytest.mark.parametrize(
    ("wanted", "change"),
    [
        (peer(keepalive=25), PeerChange(KEY, keepalive=25)),
        (peer(port=1), PeerChange(KEY, endpoint=(ip_address("10.0.0.2"), 1))),
        (
            peer(allowed=networks("10.244.2.0/24", "10.0.0.2/32", "fd00::/64")),
            PeerChange(KEY, allowed=networks("fd00::/64")),
        ),
        (peer(allowed=networks("10.244.2.0/24")), PeerChange(KEY, allowed=networks("10.244.2.0/24"), replace=True)),
        (peer(allowed=()), PeerChange(KEY, replace=True)),
        (peer(allowed=networks("10.0.0.2/32", "10.244.2.0/24", "10.0.0.2/32")), None),
    ],
    ids=["keepalive", "endpoint", "one network more", "one network less", "no network", "another order"],
)
def test_of_a_peer_only_the_difference_is_said(wanted, change):
    changes = difference(found(peer(), peer(OTHER)), want(wanted, peer(OTHER)), HEARD_SINCE)
    assert changes.make.peers == ((change,) if change else ())


def test_a_preshared_key_of_somebody_is_taken_off():
    changes = difference(found(peer(), secret=True), want(peer()), HEARD_SINCE)
    assert changes.make.peers == (PeerChange(KEY, open=True),)


@pytest.mark.parametrize(
    ("handshake", "put_back"),
    [(NOW - 5, False), (NOW - 200, True), (0.0, True), (NOW + 5, False)],
    ids=["heard from", "not for long", "never", "by a clock that was set"],
)
def test_an_endpoint_that_moved_is_put_back_unless_it_is_heard_from(handshake, put_back):
    away = (ip_address("10.9.9.9"), 4711)
    changes = difference(found(peer(), handshake=handshake, endpoint=away), want(peer()), HEARD_SINCE)
    assert bool(changes.make) is put_back


def test_an_endpoint_that_is_wanted_elsewhere_now_is_moved_at_once():
    before, now = want(peer()), want(peer(endpoint=ip_address("10.0.0.9")))
    heard = found(peer(), handshake=NOW - 5)
    made = difference(heard, now, HEARD_SINCE, before).make.peers
    assert [each.endpoint for each in made] == [(ip_address("10.0.0.9"), 51820)]
    assert not difference(heard, now, HEARD_SINCE, now).make


def test_beyond_is_what_differs():
    before, now = want(peer(), peer(OTHER)), want(peer(), peer(OTHER, port=1))
    assert set(now.beyond(before).peers) == {OTHER}
    assert set(before.beyond(want()).peers) == {KEY, OTHER}
    assert not now.beyond(now).peers


@pytest.mark.parametrize("text", ["", "AAAA", "nonsense!", b64encode(bytes(31)).decode()])
def test_what_is_no_key_is_refused(text):
    with pytest.raises(ValueError, match=r".*"):
        key_bytes(text)
