"""The journal: whatever happens to the file, what was not damaged is read, and the rest is said."""

import json
import os
import random
import signal
import stat
import subprocess
import sys
from pathlib import Path

import mount_namespaces
import pytest

from cni import journal
from cni.directory import Directory
from cni.failure import Code, Failure
from cni.journal import Contents, Journal

RECORDS = [
    {"do": "begin", "id": ["pods", "c1", "eth0"], "pod": "größe\x1e\n\x00", "list": [1, None, True, {"a": {}}]},
    {},
    {"do": "forget", "id": ["pods", "c1", "eth0"]},
    {"x": "y" * 300},
    {"last": ["pods", 0, "10.0.0.7"]},
]
ROOT = Path(__file__).parents[2]
LINES = [journal.line(each) for each in RECORDS]
WHOLE = b"".join(LINES)
ENDS = [sum(map(len, LINES[: n + 1])) for n in range(len(LINES))]


@pytest.fixture
def folder(tmp_path):
    with Directory.made(tmp_path / "state") as made:
        yield made


def written(folder, *records):
    with Journal(folder) as made:
        for each in records:
            made.append(each)


def file_of(folder):
    return folder.path / journal.NAME


def test_what_is_written_is_read(folder):
    assert journal.read(folder) == Contents()
    written(folder, *RECORDS[:2])
    written(folder, *RECORDS[2:])
    assert journal.read(folder) == Contents(tuple(RECORDS), (), len(WHOLE))


def test_a_record_is_one_line_that_people_and_jq_can_read():
    assert LINES[2] == b'\x1e0000297436bcbf{"do":"forget","id":["pods","c1","eth0"]}\n'
    for each in LINES:
        assert each.count(b"\n") == each.count(b"\x1e") == 1
        assert json.loads(each[15:]) in RECORDS


@pytest.mark.parametrize("tail", [b"", b"\0" * 700, b"\x1e" * 9, LINES[1]], ids=["", "zeros", "separators", "record"])
def test_cut_at_any_byte_and_written_on_it_keeps_all_that_is_whole(tail):
    """`tail`: what some file systems put there, and the record that was appended after the crash."""
    for cut in range(len(WHOLE) + 1):
        found = journal.parse(WHOLE[:cut] + tail)
        whole = [record for record, end in zip(RECORDS, ENDS, strict=True) if end <= cut]
        expected = [*whole, RECORDS[1]] if tail == LINES[1] else whole
        assert list(found.records) == expected, cut
        torn = cut not in (0, *ENDS) or tail not in (b"", LINES[1])
        assert len(found.problems) == torn, cut


def test_a_flipped_bit_anywhere_costs_its_record_and_no_other():
    for at in range(len(WHOLE)):
        hit = next(n for n, end in enumerate(ENDS) if at < end)
        rest = RECORDS[:hit] + RECORDS[hit + 1 :]
        for bit in range(8):
            damaged = bytearray(WHOLE)
            damaged[at] ^= 1 << bit
            found = journal.parse(bytes(damaged), "here")
            assert list(found.records) == rest, (at, bit)
            (problem,) = found.problems
            assert problem.where == "here"
            assert "damaged" in problem.why


@pytest.mark.parametrize("seed", range(300))
def test_any_damage_costs_what_it_touches_and_no_more(seed):
    """Overwritten stretches, lost and inserted ones: records that are not touched are read, in their order."""
    chance = random.Random(seed)
    records = [{"n": n, "pad": "x" * chance.randrange(60)} for n in range(40)]
    lines = [journal.line(each) for each in records]
    for _ in range(chance.randrange(1, 6)):
        victim, length = chance.randrange(40), chance.randrange(1, 40)
        line, at = lines[victim], chance.randrange(len(lines[victim]))
        junk = bytes(chance.choice([0, 10, 0x1E, 0x30, chance.randrange(256)]) for _ in range(length))
        new = chance.choice([line[:at] + junk + line[at + length :], line[:at] + line[at + length :], line[:at] + junk])
        lines[victim] = new
    alive = [each for each, line in zip(records, lines, strict=True) if journal.line(each) in line]
    found = journal.parse(b"".join(lines))
    assert list(found.records) == alive
    assert bool(found.problems) == (lines != [journal.line(each) for each in records])


@pytest.mark.parametrize("seed", range(50))
def test_noise_is_a_problem_and_never_an_error(seed):
    chance = random.Random(seed)
    words = [b"\x1e", b"\n", b"000000", b"ffffff", b"-00001", b"{", b"}", b"\xff\x00", *LINES]
    noise = b"".join(chance.choice(words) for _ in range(200))
    found = journal.parse(noise)
    assert all(each in RECORDS for each in found.records)
    assert found.size == len(noise)


@pytest.mark.parametrize("text", [b"[1]", b"nonsense", b"[" * 100000, b"\xff", b"", b"NaN"])
def test_a_whole_record_that_is_no_object_is_a_problem(text):
    found = journal.parse(LINES[0] + journal._head(text) + text + b"\n" + LINES[1])
    assert list(found.records) == RECORDS[:2]
    assert [each.why for each in found.problems] == ["is whole, but not a JSON object; skipped"]


def test_the_files_are_for_us_only(folder):
    written(folder, {})
    assert stat.S_IMODE(file_of(folder).stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.path.stat().st_mode) == 0o700


@pytest.mark.parametrize("name", [journal.NAME, journal.NEW])
def test_a_symbolic_link_is_never_followed(folder, tmp_path, name):
    treasure = tmp_path / "treasure"
    treasure.write_text("gold")
    (folder.path / name).symlink_to(treasure)
    if name == journal.NAME:
        with pytest.raises(Failure, match=r"cannot open .*/journal"):
            Journal(folder)
        with pytest.raises(Failure, match=r"cannot read .*/journal"):
            journal.read(folder)
    else:
        with Journal(folder) as made:
            made.append(RECORDS[0])
            made.compact(RECORDS[:1])
    assert treasure.read_text() == "gold"


def test_a_folder_others_may_write_to_is_refused(tmp_path):
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o770)
    (tmp_path / "link").symlink_to(tmp_path)
    (tmp_path / "file").touch()
    for name, said in (("open", "others may write there"), ("link", "cannot open"), ("file", "cannot open")):
        with pytest.raises(Failure, match=said) as refusal:
            Directory.made(tmp_path / name)
        assert refusal.value.code is Code.IO_FAILURE


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give a folder to somebody else")
def test_a_folder_of_somebody_else_is_refused(tmp_path):
    (tmp_path / "theirs").mkdir(mode=0o700)
    os.chown(tmp_path / "theirs", 12345, 12345)
    with pytest.raises(Failure, match="belongs to user 12345"):
        Directory.made(tmp_path / "theirs")


def test_a_compacted_journal_holds_what_it_was_given_and_is_written_on(folder):
    with Journal(folder) as made:
        for _ in range(50):
            made.append(RECORDS[0])
        before = made.size
        made.compact(RECORDS[2:4])
        assert made.size == file_of(folder).stat().st_size < before
        made.append(RECORDS[4], durable=True)
    assert list(journal.read(folder).records) == RECORDS[2:]
    assert folder.names() == [journal.NAME]


def test_a_reader_during_compaction_sees_the_old_file_whole(folder):
    with Journal(folder) as made:
        made.append(RECORDS[0])
        fd = folder.open(journal.NAME, os.O_RDONLY)
        made.compact([])
        assert journal.parse(os.read(fd, 1 << 16)).records == (RECORDS[0],)
        os.close(fd)


def test_what_a_killed_compaction_left_is_removed(folder):
    (folder.path / journal.NEW).write_bytes(WHOLE[:100])
    written(folder, RECORDS[0])
    assert folder.names() == [journal.NAME]
    assert list(journal.read(folder).records) == RECORDS[:1]


def test_a_record_beyond_all_measure_is_refused_and_nothing_is_written(folder):
    with Journal(folder) as made:
        with pytest.raises(Failure, match="too long") as refusal:
            made.append({"x": "y" * (1 << 24)})
        assert refusal.value.code is Code.INTERNAL
        assert made.size == 0


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from cni.directory import Directory
from cni.failure import Code, Failure
from cni.journal import Journal

def limit(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
with Directory.made(Path(sys.argv[1])) as folder, Journal(folder) as made:
    made.append({"n": 1})
    for room in range(0, 40):
        limit(made.size + room)
        try:
            made.append({"pad": "x" * 40})
            raise SystemExit("it fitted")
        except Failure as failure:
            assert failure.code is Code.TRY_AGAIN_LATER, failure
        try:
            made.compact([{"pad": "x" * 4000}])
            raise SystemExit("the new one fitted")
        except Failure as failure:
            assert failure.code is Code.TRY_AGAIN_LATER, failure
        limit(resource.RLIM_INFINITY)
        made.append({"n": 2 + room})
"""


def test_a_full_disk_is_try_again_later_and_the_next_record_is_whole(folder):
    """A limit on the file's size cuts a write short where a full disk would: at every byte of the record."""
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, folder.path], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert (done.returncode, done.stderr) == (0, "")
    found = journal.read(folder)
    assert [each["n"] for each in found.records] == list(range(1, 42))
    assert found.problems == ()
    assert folder.names() == [journal.NAME]


REAL_FULL_DISK = """
import subprocess, sys
from pathlib import Path
from cni.directory import Directory
from cni.failure import Code, Failure
from cni.journal import Journal

place = Path(sys.argv[1])
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k,mode=0700", "none", place], check=True)
with Directory(place) as folder, Journal(folder) as made:
    written = 0
    try:
        while True:
            made.append({"n": written, "pad": "x" * 500})
            written += 1
    except Failure as failure:
        assert failure.code is Code.TRY_AGAIN_LATER, failure
        assert "No space left" in str(failure), failure
    assert written > 100
    from cni import journal
    found = journal.read(folder)
    assert [each["n"] for each in found.records] == list(range(written)), found
"""


def test_a_disk_that_really_is_full(tmp_path):
    words = ["unshare", "--mount", "--propagation", "private"]
    mount_namespaces.needed()
    (tmp_path / "small").mkdir(mode=0o700)
    command = [*words, sys.executable, "-c", REAL_FULL_DISK, tmp_path / "small"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert (done.returncode, done.stderr) == (0, "")


KILLED = """
import sys
from pathlib import Path
from cni.directory import Directory
from cni.journal import Journal

with Directory.made(Path(sys.argv[1])) as folder, Journal(folder) as made:
    print("ready", flush=True)
    n = 0
    while True:
        n += 1
        made.append({"n": n, "pad": "x" * (n % 700)})
        if n % 97 == 0:
            made.compact([{"n": each, "pad": "x" * (each % 700)} for each in range(max(n - 20, 1), n + 1)])
        print(n, flush=True)
"""


def test_all_that_was_acknowledged_is_there_after_kill_9(folder):
    for seed in range(6):
        for name in folder.names():
            folder.remove(name)
        with subprocess.Popen(
            [sys.executable, "-c", KILLED, folder.path], stdout=subprocess.PIPE, text=True, cwd=ROOT
        ) as child:
            assert child.stdout.readline() == "ready\n"
            heard = [child.stdout.readline() for _ in range(90 + 15 * seed)]
            child.send_signal(signal.SIGKILL)
            acknowledged = int([*heard, *child.stdout.read().split("\n")[:-1]][-1])
        found = journal.read(folder)
        assert found.problems == ()
        assert [each["n"] for each in found.records][-1] in (acknowledged, acknowledged + 1)
        first = found.records[0]["n"]
        assert [each["n"] for each in found.records] == list(range(first, first + len(found.records)))
