"""Requests on disk: what is whole is given back, oldest first, and nothing else is opened. See cni/spool.py."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time

import pytest
from launching import CONFIG, SECONDS, request

from cni import spool
from cni.request import Request
from cni.wire import STDIN_BYTES, BadFrame, request_frame
from netplane.errors import InputError, OwnershipError

NOBODY = 65534
NAME = "01763700000123456789-4711-5f3a9c0be1d2f384.del"


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "spool"
    made.mkdir(mode=0o700)
    return made


def test_what_was_put_is_taken_oldest_first_and_stays_until_it_is_done(tmp_path):
    folder = tmp_path / "lib" / "spool"
    names = [spool.put(folder, request("DEL", CONTAINERID=f"c{number}")) for number in range(20)]
    for _ in range(2):
        assert [name for name, _ in spool.take(folder)] == names
    for number, (name, kept) in enumerate(spool.take(folder)):
        assert kept == request("DEL", CONTAINERID=f"c{number}")
        spool.done(folder, name)
        spool.done(folder, name)
    assert list(spool.take(folder)) == []
    assert [*folder.iterdir()] == []


def test_a_name_says_when(tmp_path):
    before = time.time()
    assert before - 1 <= spool.spooled_at(spool.put(tmp_path / "spool", request("DEL"))) <= time.time()
    assert spool.spooled_at(NAME) == 1763700000.123456789
    with pytest.raises(InputError):
        spool.spooled_at("../x.del")


def test_the_folder_and_its_files_are_roots_alone(tmp_path):
    before = os.umask(0)
    try:
        name = spool.put(tmp_path / "spool", request("DEL"))
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "spool").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "spool" / name).stat().st_mode) == 0o600


def test_without_a_folder_there_is_nothing_to_take(tmp_path):
    assert list(spool.take(tmp_path / "nowhere")) == []
    spool.done(tmp_path / "nowhere", NAME)


@pytest.mark.parametrize("kind", ["writable", "somebody's", "link", "file"])
def test_a_folder_others_can_write_to_is_refused(tmp_path, kind):
    folder = tmp_path / "spool"
    match kind:
        case "writable":
            folder.mkdir()
            folder.chmod(0o770)
        case "somebody's":
            if os.geteuid() != 0:
                pytest.skip("needs root to give a folder away")
            folder.mkdir(mode=0o700)
            os.chown(folder, NOBODY, NOBODY)
        case "link":
            (tmp_path / "there").mkdir(mode=0o700)
            folder.symlink_to(tmp_path / "there")
        case "file":
            folder.write_text("")
    for use in (lambda: list(spool.take(folder)), lambda: spool.put(folder, request("DEL"))):
        with pytest.raises((OwnershipError, InputError), match="spool: "):
            use()
    assert not (tmp_path / "there").exists() or not [*(tmp_path / "there").iterdir()]


FRAME = request_frame(request("DEL"))


@pytest.mark.parametrize(
    "content",
    [b"", FRAME[:15], FRAME[:-1], FRAME + b"x", b"NPR1" + FRAME[4:], b"\0" * 5000, b"x" * (STDIN_BYTES + (1 << 20))],
    ids=["empty", "no head", "torn", "more", "a reply", "zeros", "huge"],
)
def test_a_file_that_is_no_request_is_removed_with_a_word(folder, caplog, content):
    (folder / NAME).write_bytes(content)
    good = spool.put(folder, request("DEL"))
    assert [name for name, _ in spool.take(folder)] == [good]
    assert {each.name for each in folder.iterdir()} == {good}
    assert [each.file for each in caplog.records] == [NAME]


@pytest.mark.parametrize("name", ["x", "x.del", NAME.upper(), NAME + "\n", NAME[1:], "0" * 300, "ü"])
def test_a_file_of_another_name_is_removed_with_a_word(folder, caplog, name):
    if len(name) > 255:
        name = name[:255]
    (folder / name).write_bytes(FRAME)
    assert list(spool.take(folder)) == []
    assert [*folder.iterdir()] == []
    assert len(caplog.records) == 1


@pytest.mark.parametrize("kind", ["link", "pipe", "somebody's", "folder"])
def test_what_is_no_file_of_ours_is_not_read(folder, tmp_path, caplog, kind):
    outside = tmp_path / "outside"
    outside.write_bytes(FRAME)
    match kind:
        case "link":
            (folder / NAME).symlink_to(outside)
        case "pipe":
            os.mkfifo(folder / NAME)
        case "somebody's":
            if os.geteuid() != 0:
                pytest.skip("needs root to give a file away")
            (folder / NAME).write_bytes(FRAME)
            os.chown(folder / NAME, NOBODY, NOBODY)
        case "folder":
            (folder / NAME).mkdir()
    assert list(spool.take(folder)) == []
    assert (folder / NAME).exists() == (kind == "folder")
    assert outside.read_bytes() == FRAME
    assert len(caplog.records) == 1


def test_what_a_killed_writer_left_is_removed_when_it_is_old(folder, caplog):
    young, old, later = (folder / f".{NAME}{end}" for end in "123")
    for each in (young, old, later):
        each.write_bytes(FRAME[:20])
    os.utime(old, (1, 1))
    os.utime(later, (2**32, 2**32))
    assert list(spool.take(folder)) == []
    assert [*folder.iterdir()] == [young]
    assert caplog.records == []


def test_a_request_that_has_no_frame_is_not_kept(tmp_path):
    with pytest.raises(BadFrame):
        spool.put(tmp_path / "spool", Request({}, b"x" * (STDIN_BYTES + 1)))
    assert not (tmp_path / "spool").exists()


def test_whenever_a_writer_is_killed_what_is_taken_is_whole(folder):
    writer = (
        "import sys; from pathlib import Path; from cni import spool; from cni.request import Request\n"
        "print('writing', flush=True)\n"
        "while True: spool.put(Path(sys.argv[1]), Request({'CNI_COMMAND': 'DEL'}, b'x' * 300_000))\n"
    )
    for _ in range(5):
        with subprocess.Popen((sys.executable, "-c", writer, str(folder)), stdout=subprocess.PIPE) as process:
            assert process.stdout.readline() == b"writing\n"
            end = time.monotonic() + SECONDS
            while not any(each.name.startswith("0") for each in folder.iterdir()):
                assert time.monotonic() < end
            process.send_signal(signal.SIGKILL)
        for name, kept in spool.take(folder):
            assert kept.stdin == b"x" * 300_000
            spool.done(folder, name)


def test_launchers_killed_at_any_time_leave_whole_files(place):
    done = 0
    for number in range(40):
        process = place.start("DEL")
        process.stdin.write(CONFIG)
        process.stdin.close()
        for _ in range(number * 20):
            os.sched_yield()
        process.kill()
        with process:
            done += process.wait(SECONDS) == 0
    kept = list(spool.take(place.spool))
    assert done <= len(kept) <= 40
    assert all(each.stdin == CONFIG for _, each in kept)
