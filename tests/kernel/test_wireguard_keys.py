"""Keys of a node: the function X25519, files that only root reads, and one key after another."""

from __future__ import annotations

import os
import stat
from base64 import b64decode, b64encode

import pytest

from netplane.errors import RequirementError
from netplane.kernel.wireguard_keys import IN_USE, NEXT, KeyStore, new_private, public_of, x25519

# RFC 7748, section 5.2: scalar, coordinate, result.
VECTORS = [
    (
        "a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4",
        "e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c",
        "c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552",
    ),
    (
        "4b66e9d4d1b4673c5ad22691957d6af5c11b6421e0ea01d42ca4169e7918ba0d",
        "e5210f12786811d3f4b7959d0538ae2c31dbe7106fc03c3efc4cd549c715a493",
        "95cbde9476e8907d7aade45cb4b873f88b595a68799fa152e6f8f7647aac7957",
    ),
]
# RFC 7748, section 6.1: Alice's public key, both of Bob's, and what the two share.
ALICE = "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a"
SHARED = "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742"
BOB = (
    "5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb",
    "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f",
)


@pytest.mark.parametrize(("scalar", "coordinate", "result"), VECTORS)
def test_x25519_is_that_of_the_rfc(scalar, coordinate, result):
    assert x25519(bytes.fromhex(scalar), bytes.fromhex(coordinate)).hex() == result


def test_a_thousand_times_in_a_row_is_that_of_the_rfc():
    k = u = bytes([9]) + bytes(31)
    results = {}
    for count in range(1, 1001):
        k, u = x25519(k, u), k
        results[count] = k.hex()
    assert results[1] == "422c8e7a6227d7bca1350b3e2bb7279f7897b87bb6854b783c60e80311ae3079"
    assert results[1000] == "684cf59ba83309552800ef566f2f4d3c1c3887c49360e3875f2eb94d99532c51"


def test_both_sides_share_the_same():
    assert x25519(bytes.fromhex(BOB[0]), bytes.fromhex(ALICE)).hex() == SHARED
    one, two = new_private(), new_private()
    assert x25519(one, b64decode(public_of(two))) == x25519(two, b64decode(public_of(one)))


def test_a_public_half_is_that_of_the_rfc():
    assert b64decode(public_of(bytes.fromhex(BOB[0]))).hex() == BOB[1]


def test_new_keys_are_clamped_and_different():
    keys = [new_private() for _ in range(50)]
    assert len(set(keys)) == 50
    assert all(len(key) == 32 and not key[0] & 7 and key[31] & 0xC0 == 0x40 for key in keys)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "state" / "wireguard"


@pytest.fixture
def keys(folder):
    return KeyStore(folder)


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_a_key_is_made_once_and_only_root_reads_it(keys, folder):
    public = keys.public()
    assert public == KeyStore(folder).public() == public_of(keys.private())
    assert (mode(folder), mode(folder / IN_USE)) == (0o700, 0o600)
    assert [each.name for each in folder.iterdir()] == [IN_USE]
    assert b64decode((folder / IN_USE).read_bytes()) == keys.private()


def test_the_umask_does_not_matter(keys, folder):
    before = os.umask(0)
    try:
        keys.public()
    finally:
        os.umask(before)
    assert (mode(folder), mode(folder / IN_USE)) == (0o700, 0o600)


def test_nothing_shows_a_private_key(keys, folder):
    private = keys.private()
    keys.rotate()
    words = f"{keys!r} {keys} {keys.public()}"
    assert b64encode(private).decode() not in words
    assert private.hex() not in words


def test_the_next_key_waits_until_it_is_announced(keys, folder):
    old = keys.public()
    assert keys.next_public() == ""
    new = keys.rotate()
    assert (keys.public(), keys.next_public(), keys.rotate()) == (old, new, new)
    assert mode(folder / NEXT) == 0o600
    assert keys.adopt(old) == keys.adopt("") == keys.adopt("nonsense") == old
    assert keys.adopt(new) == keys.public() == KeyStore(folder).public() == new
    assert keys.next_public() == ""
    assert keys.adopt(new) == new
    assert [each.name for each in folder.iterdir()] == [IN_USE]
    assert keys.rotate() not in {old, new}


def test_a_key_is_as_wg_writes_it(keys, folder):
    folder.mkdir(parents=True, mode=0o700)
    (folder / IN_USE).write_bytes(b64encode(bytes.fromhex(BOB[0])) + b"\n")
    (folder / IN_USE).chmod(0o600)
    assert b64decode(keys.public()).hex() == BOB[1]


@pytest.mark.parametrize("content", [b"", b"nonsense", b"AAAA\n", b"\xff" * 44, b64encode(bytes(33))])
def test_what_is_no_key_is_left_for_a_human(keys, folder, content):
    folder.mkdir(parents=True, mode=0o700)
    (folder / IN_USE).write_bytes(content)
    (folder / IN_USE).chmod(0o600)
    with pytest.raises(RequirementError, match=r"private\.key: is no WireGuard key"):
        keys.public()
    assert (folder / IN_USE).read_bytes() == content


def test_a_key_that_others_could_read_is_none(keys, folder):
    keys.public()
    (folder / IN_USE).chmod(0o640)
    with pytest.raises(RequirementError, match=r"private\.key: others could read or write it .*0640"):
        keys.public()


def test_a_folder_that_others_could_write_to_is_refused(keys, folder):
    keys.public()
    folder.chmod(0o777)
    with pytest.raises(RequirementError, match="others may write there"):
        keys.public()


def test_no_link_is_followed(keys, folder, tmp_path):
    keys.public()
    elsewhere = tmp_path / "elsewhere"
    (folder / IN_USE).rename(elsewhere)
    (folder / IN_USE).symlink_to(elsewhere)
    with pytest.raises(RequirementError, match=r"private\.key"):
        keys.public()
    linked = tmp_path / "linked"
    linked.symlink_to(folder)
    with pytest.raises(RequirementError, match="a symbolic link is not followed"):
        KeyStore(linked).public()
