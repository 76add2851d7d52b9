"""An existing folder of host-local: what it says is believed, what it does not say is told, nothing else is touched."""

import fcntl
import json
import os
import subprocess
import sys
from ipaddress import ip_address
from pathlib import Path

import pytest

from cni import host_local
from cni.failure import Code, Failure
from cni.host_local import UNKNOWN, Imported, Owner

REAL = Path("/usr/lib/cni/host-local")
needs_host_local = pytest.mark.skipif(not REAL.exists(), reason=f"{REAL} is missing (containernetworking-plugins)")


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "pods"
    made.mkdir(mode=0o755)
    return made


def put(folder, **files):
    for name, content in files.items():
        (folder / name).write_text(content, newline="")


def address(text):
    return ip_address(text)


def test_addresses_owners_and_the_last_ones_are_read(folder):
    put(folder, **{"10.0.0.5": "c1\r\neth0", "10.0.0.6": "c2\r\nnet1", "fd00::5": "c1\r\neth0", "lock": ""})
    put(folder, **{"last_reserved_ip.0": "10.0.0.6", "last_reserved_ip.1": "fd00::5\n"})
    assert host_local.read(folder) == Imported(
        {
            address("10.0.0.5"): Owner("c1", "eth0"),
            address("10.0.0.6"): Owner("c2", "net1"),
            address("fd00::5"): Owner("c1", "eth0"),
        },
        {0: address("10.0.0.6"), 1: address("fd00::5")},
    )


def test_ignores_whitespace_in_disk_files(folder):
    put(folder, **{"10.0.0.5": "  c1\r\neth0\n\n", "10.0.0.6": "\tc2 \r\n", "10.0.0.7": "c3\r\n  "})
    assert list(host_local.read(folder).addresses.values()) == [Owner("c1", "eth0"), Owner("c2", ""), Owner("c3", "")]
    assert host_local.release(folder, "c1", "eth0") == [address("10.0.0.5")]


def test_a_folder_that_is_not_there_says_nothing_and_is_not_made(tmp_path):
    assert host_local.read(tmp_path / "none") == Imported({}, {})
    assert host_local.release(str(tmp_path / "none"), "c1", "eth0") == []
    assert not (tmp_path / "none").exists()


def test_what_host_local_did_not_write_is_a_problem_and_never_followed(folder, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("c1\r\neth0")
    put(folder, **{"10.0.0.5": "c1\r\neth0", "notes.txt": "c1", "010.0.0.6": "c1", "FD00::1": "c1", "fe80::1%lo": "c1"})
    put(folder, **{"last_reserved_ip.x": "10.0.0.1", "last_reserved_ip.7": "nowhere", "last_reserved_ip.8": ""})
    (folder / "10.0.0.7").symlink_to(secret)
    (folder / "last_reserved_ip.2").symlink_to(secret)
    (folder / "10.0.0.8").mkdir()
    os.mkfifo(folder / "10.0.0.9")
    found = host_local.read(folder)
    assert found.addresses == {address("10.0.0.5"): Owner("c1", "eth0")}
    assert found.last == {}
    assert {each.what for each in found.problems} == {each.name for each in folder.iterdir()} - {"10.0.0.5", "lock"}
    assert host_local.release(folder, "c1", "eth0") == [address("10.0.0.5")]
    assert host_local.release(folder, "c1", "") == []
    assert secret.exists()
    assert (folder / "10.0.0.7").is_symlink()


def test_an_empty_file_frees_its_address_and_garbage_keeps_it(folder):
    put(folder, **{"10.0.0.5": "", "10.0.0.6": "\0" * 40, "10.0.0.7": "a b\r\neth0", "10.0.0.8": "x" * 5000})
    (folder / "10.0.0.9").write_bytes(b"c1\r\n\xff\xfe\0")
    found = host_local.read(folder)
    assert found.addresses == {address(f"10.0.0.{last}"): UNKNOWN for last in (6, 7, 8, 9)}
    assert len(found.problems) == 5
    assert "free" in found.problems[0].why
    assert "counts as taken" in found.problems[1].why
    assert host_local.release(folder, "", "") == []
    assert len(list(folder.iterdir())) == 6


def test_release_takes_the_interfaces_addresses_and_no_others(folder):
    put(
        folder,
        **{"fd00::5": "c1\r\neth0", "10.0.0.5": "c1\r\neth0", "10.0.0.6": "c1\r\nnet1", "10.0.0.7": "c11\r\neth0"},
    )
    put(folder, **{"10.0.0.8": "c1"})
    assert host_local.release(folder, "c1", "eth0") == [address("10.0.0.5"), address("fd00::5")]
    assert sorted(each.name for each in folder.iterdir()) == ["10.0.0.6", "10.0.0.7", "10.0.0.8", "lock"]


def test_del_backwards_compatible_with_files_that_name_only_the_container(folder):
    put(folder, **{"10.0.0.5": "c1", "10.0.0.6": "c1\n", "10.0.0.7": "c2"})
    assert host_local.release(folder, "c1", "eth0") == [address("10.0.0.5"), address("10.0.0.6")]
    assert [str(each) for each in host_local.read(folder).addresses] == ["10.0.0.7"]


def test_unknown_id_on_del_is_nothing(folder):
    put(folder, **{"10.0.0.5": "c1\r\neth0"})
    for container, ifname in (("c2", "eth0"), ("c1", "eth1"), ("c1\r\neth0", ""), ("", "eth0")):
        assert host_local.release(folder, container, ifname) == []
    assert (folder / "10.0.0.5").exists()


@pytest.mark.parametrize("use", [host_local.read, lambda folder: host_local.release(folder, "c1", "eth0")])
def test_it_waits_for_host_locals_lock_and_not_for_ever(folder, use, monkeypatch):
    monkeypatch.setattr(host_local, "WAIT_SECONDS", 0.05)
    put(folder, **{"10.0.0.5": "c1\r\neth0"})
    with (folder / "lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(Failure, match="another process has held") as refusal:
            use(folder)
        assert refusal.value.code is Code.TRY_AGAIN_LATER
        assert (folder / "10.0.0.5").exists()
    use(folder)


def test_it_goes_on_when_the_lock_is_given_up(folder):
    code = "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.flock(f, fcntl.LOCK_EX); print('held', flush=True)"
    code += "; sys.stdin.readline()"
    with subprocess.Popen(
        [sys.executable, "-c", code, folder / "lock"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        child.stdout.readline()
        child.stdin.close()
        assert host_local.read(folder) == Imported({}, {})


def test_a_folder_or_lock_that_is_not_what_it_should_be_is_refused(folder, tmp_path):
    (tmp_path / "link").symlink_to(folder)
    with pytest.raises(Failure, match="cannot open the folder"):
        host_local.read(tmp_path / "link")
    (folder / "lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Failure, match=r"cannot open .*lock"):
        host_local.read(folder)
    assert not (tmp_path / "elsewhere").exists()
    folder.chmod(0o777)
    with pytest.raises(Failure, match="others may write there"):
        host_local.read(folder)


def host_local_says(folder, command, container, ifname="eth0"):
    ranges = [[{"subnet": "10.1.2.0/24"}], [{"subnet": "fd00:1::/64"}]]
    ipam = {"type": "host-local", "dataDir": str(folder.parent), "ranges": ranges}
    config = {"cniVersion": "1.0.0", "name": folder.name, "type": "x", "ipam": ipam}
    environment = {"CNI_COMMAND": command, "CNI_CONTAINERID": container, "CNI_IFNAME": ifname, "CNI_NETNS": "/none"}
    done = subprocess.run(
        [REAL],
        input=json.dumps(config),
        env=environment | {"CNI_PATH": "/"},
        capture_output=True,
        text=True,
        check=True,
    )
    return [each["address"].split("/")[0] for each in json.loads(done.stdout)["ips"]] if done.stdout else []


@needs_host_local
def test_what_the_real_host_local_gave_is_read_and_taken_back(folder):
    given = {(c, i): host_local_says(folder, "ADD", c, i) for c in ("c1", "c2") for i in ("eth0", "net1")}
    found = host_local.read(folder)
    assert found.addresses == {address(each): Owner(*owner) for owner, both in given.items() for each in both}
    assert found.last == {index: address(each) for index, each in enumerate(given["c2", "net1"])}
    assert found.problems == ()
    for owner in [("c1", "eth0"), ("c2", "net1")]:
        assert [str(each) for each in host_local.release(folder, *owner)] == given[owner]
        host_local_says(folder, "DEL", *owner)
    assert {str(each) for each in host_local.read(folder).addresses} == {*given["c1", "net1"], *given["c2", "eth0"]}
    again = host_local_says(folder, "ADD", "c3")
    assert not {*again} & {each for both in given.values() for each in both}, "it goes on after the last one"
