"""WireGuard's configuration as text."""

from __future__ import annotations

import random
from base64 import b64encode
from ipaddress import ip_address, ip_network

import pytest

from netplane.errors import KernelError
from netplane.kernel import wireguard_uapi
from netplane.kernel.wireguard_changes import DeviceChange, PeerChange, PeerFound
from netplane.kernel.wireguard_keys import public_of

PRIVATE = bytes.fromhex("e84b5a6d2717c1003a13b431570353dbaca9146cf150c5f8575680feba52027a")
ONE = bytes.fromhex("b85996fecc9c7f1fc6d2572a76eda11d59bcd20be8e543b15ce4bd85a8e75a33")
TWO = bytes.fromhex("58402e695ba1772b1cc9309755f043251ea77fdcf10fbe63989ceb7e19321376")

# The shape of the example at wireguard.com/xplatform.
ANSWER = """\
private_key=e84b5a6d2717c1003a13b431570353dbaca9146cf150c5f8575680feba52027a
listen_port=12912
fwmark=7
public_key=b85996fecc9c7f1fc6d2572a76eda11d59bcd20be8e543b15ce4bd85a8e75a33
preshared_key=188515093e952f5f22e865cef3012e72f8b5f0b598ac0309d5dacce3b70fcf52
protocol_version=1
endpoint=[abcd:23::33]:51820
last_handshake_time_sec=1700000000
last_handshake_time_nsec=500000000
tx_bytes=38333
rx_bytes=2224
persistent_keepalive_interval=111
allowed_ip=192.168.4.4/32
allowed_ip=fd00:244:2::/64
allowed_ip=10.244.2.0/24
public_key=58402e695ba1772b1cc9309755f043251ea77fdcf10fbe63989ceb7e19321376
preshared_key=0000000000000000000000000000000000000000000000000000000000000000
some_word_of_the_future=yes
last_handshake_time_sec=0
last_handshake_time_nsec=0
errno=0
"""


def key(packed):
    return b64encode(packed).decode()


def networks(*texts):
    return tuple(map(ip_network, texts))


def test_an_answer_is_read():
    found = wireguard_uapi.device(ANSWER, "read")
    assert (found.key, found.port, found.mark) == (public_of(PRIVATE), 12912, 7)
    assert list(found.peers.values()) == [
        PeerFound(
            key=key(ONE),
            endpoint=(ip_address("abcd:23::33"), 51820),
            allowed=networks("10.244.2.0/24", "192.168.4.4/32", "fd00:244:2::/64"),
            keepalive=111,
            handshake=1700000000.5,
            received=2224,
            sent=38333,
            secret=True,
        ),
        PeerFound(key=key(TWO), endpoint=None, allowed=()),
    ]


def test_an_empty_device_has_nothing():
    found = wireguard_uapi.device("errno=0\n", "read")
    assert (found.key, found.port, found.mark, found.peers) == ("", 0, 0, {})


def test_an_error_is_said_in_words():
    with pytest.raises(KernelError, match="wireguard: set it: Address already in use"):
        wireguard_uapi.check("errno=-98\n", "set it")


@pytest.mark.parametrize(
    ("of", "text"),
    [
        ("nothing", ""),
        ("no end", "listen_port=5\n"),
        ("no number", "errno=\n"),
        ("letters", "errno=zero\n"),
        ("port", "listen_port=many\nerrno=0\n"),
        ("key", "public_key=zz\nerrno=0\n"),
        ("short key", "public_key=00ff\nerrno=0\n"),
        ("endpoint", f"public_key={ONE.hex()}\nendpoint=nowhere\nerrno=0\n"),
        ("network", f"public_key={ONE.hex()}\nallowed_ip=10.0.0.1/24\nerrno=0\n"),
        ("private key", "private_key=secretsecret\nerrno=0\n"),
    ],
)
def test_garbage_is_refused_without_showing_it(of, text):
    with pytest.raises(KernelError, match="not understood") as refused:
        wireguard_uapi.device(text, "read")
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("seed", range(300))
def test_any_garbage_is_an_answer_or_refused(seed):
    chance = random.Random(seed)
    lines = ANSWER.split("\n")
    for _ in range(chance.randrange(1, 4)):
        at = chance.randrange(len(lines))
        words = "".join(chr(chance.choice((0, 9, 32, 46, 47, 48, 57, 61, 65, 255, 0x0661))) for _ in range(5))
        lines[at] = chance.choice(("", words, lines[at][: chance.randrange(9)], lines[at] + words))
    said = ""
    try:
        wireguard_uapi.device("\n".join(lines), "read")
    except KernelError as error:
        said = str(error)
    assert PRIVATE.hex() not in said


def test_a_change_is_written():
    change = DeviceChange(
        key=public_of(PRIVATE),
        port=51820,
        mark=0,
        peers=(
            PeerChange(
                key(ONE),
                new=True,
                endpoint=(ip_address("10.0.0.2"), 51820),
                allowed=networks("10.244.2.0/24", "fd00:244:2::/64"),
                replace=True,
                keepalive=25,
            ),
            PeerChange(key(TWO), endpoint=(ip_address("fd00::2"), 1), allowed=networks("10.0.0.7/32"), open=True),
            PeerChange(key(TWO), remove=True),
        ),
    )
    assert wireguard_uapi.set_text(change, PRIVATE).splitlines() == [
        "set=1",
        f"private_key={PRIVATE.hex()}",
        "listen_port=51820",
        "fwmark=0",
        f"public_key={ONE.hex()}",
        "endpoint=10.0.0.2:51820",
        "persistent_keepalive_interval=25",
        "replace_allowed_ips=true",
        "allowed_ip=10.244.2.0/24",
        "allowed_ip=fd00:244:2::/64",
        f"public_key={TWO.hex()}",
        "update_only=true",
        f"preshared_key={'0' * 64}",
        "endpoint=[fd00::2]:1",
        "allowed_ip=10.0.0.7/32",
        f"public_key={TWO.hex()}",
        "remove=true",
        "",
    ]


def test_what_does_not_change_is_not_said():
    assert wireguard_uapi.set_text(DeviceChange(), None) == "set=1\n\n"
