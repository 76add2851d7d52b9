"""The store: what was begun, made, doomed and forgotten, after whatever ended the process that knew it."""

import os
import random
import signal
import subprocess
import sys
from dataclasses import replace
from ipaddress import ip_address, ip_interface
from pathlib import Path

import pytest
from cni_random import attachment as any_attachment

from cni import journal, store
from cni.attachment import Attachment, AttachmentId, NetnsId, PodAddress
from cni.config import Mode
from cni.directory import Directory
from cni.failure import Code, Failure
from cni.store import Record, State, Store, StoreBusy

ROOT = Path(__file__).parents[2]
BOOT = "boot-1"


def attachment(container="c1", *addresses, network="pods", **more):
    return Attachment(
        AttachmentId(network, container, "eth0"),
        Mode.BRIDGE,
        f"/run/netns/{container}",
        NetnsId(4, 5),
        addresses=tuple(PodAddress(ip_interface(each)) for each in addresses),
        **more,
    )


ONE = attachment("c1", "10.0.0.2/24", "fd00::2/64")
TWO = attachment("c2", "10.0.0.3/24")


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "var" / "lib" / "cni"


def states(records):
    return {id_.container: record.state for id_, record in records.items()}


def journal_of(folder):
    return folder / journal.NAME


def test_each_step_is_found_again(folder):
    steps = [
        (lambda it: it.begin(ONE), {"c1": State.ADDING}),
        (lambda it: it.finish(ONE.id), {"c1": State.ATTACHED}),
        (lambda it: it.begin(TWO), {"c1": State.ATTACHED, "c2": State.ADDING}),
        (lambda it: it.doom(ONE.id), {"c1": State.DOOMED, "c2": State.ADDING}),
        (lambda it: it.forget(ONE.id), {"c2": State.ADDING}),
        (lambda it: it.begin(ONE), {"c1": State.ADDING, "c2": State.ADDING}),
        (lambda it: it.compact(), {"c1": State.ADDING, "c2": State.ADDING}),
        (lambda it: it.doom(TWO.id), {"c1": State.ADDING, "c2": State.DOOMED}),
    ]
    for step, expected in steps:
        with Store(folder, BOOT) as made:
            step(made)
            assert states(made.records) == expected
            kept = dict(made.records)
        with Store(folder, BOOT) as again:
            assert dict(again.records) == kept
            assert again.problems == ()
            assert again.records == {each.attachment.id: each for each in store.read(folder)}


def test_a_record_says_what_when_and_in_which_boot(folder):
    with Store(folder, BOOT) as made:
        made.begin(ONE)
    with Store(folder, "boot-2") as later:
        later.begin(TWO)
        one, two = later.records[ONE.id], later.records[TWO.id]
    assert one == Record(ONE, State.ADDING, BOOT, one.since)
    assert (two.boot, two.boot == later.boot_id, one.boot == later.boot_id) == ("boot-2", True, False)
    assert 0 <= two.since - one.since < 3600


def test_to_begin_what_is_there_already_is_refused_as_host_local_does(folder):
    """Upstream: "repeat ADD for the same container: error"."""
    with Store(folder, BOOT) as made:
        for prepare in (made.begin, lambda it: made.finish(it.id), lambda it: made.doom(it.id)):
            prepare(ONE)
            with pytest.raises(Failure) as refusal:
                made.begin(ONE)
            assert refusal.value.code is Code.DUPLICATE
            said = "10.0.0.2, fd00::2 has been allocated to c1, duplicate allocation is not allowed"
            assert refusal.value.msg == said
        made.begin(replace(ONE, id=ONE.id._replace(ifname="net1")))
        made.forget(ONE.id)
        made.begin(ONE)


def test_doom_and_forget_of_what_is_unknown_is_fine(folder):
    """Upstream: "unknown ID on DEL"."""
    with Store(folder, BOOT) as made:
        made.doom(ONE.id)
        made.forget(ONE.id)
        made.begin(ONE)
        for _ in range(2):
            made.doom(ONE.id)
        for _ in range(2):
            made.forget(ONE.id)
        with pytest.raises(KeyError):
            made.finish(ONE.id)
    assert [each["do"] for each in journal.parse(journal_of(folder).read_bytes()).records] == [
        "begin",
        "doom",
        "forget",
    ]


def test_the_last_addresses_are_remembered_by_network_and_set(folder):
    expected = {("pods", 0): ip_address("10.0.0.3"), ("pods", 1): ip_address("fd00::2")}
    with Store(folder, BOOT) as made:
        made.begin(ONE)
        made.begin(TWO)
        made.forget(TWO.id)
        assert made.last == expected
        made.begin(attachment("d", "10.9.9.9/24", delegate="host-local"))
        made.begin(replace(attachment("e", "10.9.9.8/24"), mode=Mode.CHAINED))
        made.begin(attachment("f", "10.9.9.7/24", network="others"))
    for _ in range(2):
        with Store(folder, "boot-2") as again:
            assert again.last == expected | {("others", 0): ip_address("10.9.9.7")}
            again.compact()


def test_only_one_process_has_it_and_the_refusal_names_it(folder):
    code = "import sys; from pathlib import Path; from cni.store import Store\n"
    code += "with Store(Path(sys.argv[1]), 'b'): print('have it', flush=True); sys.stdin.read()"
    words = [sys.executable, "-c", code, folder]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT) as child:
        child.stdout.readline()
        for wait in (0.0, 0.05):
            with pytest.raises(StoreBusy, match=f"pid {child.pid} holds {folder}/lock"):
                Store(folder, BOOT, wait)
        assert store.read(folder) == []
        child.stdin.close()
        with Store(folder, BOOT, 30.0) as mine:
            assert (folder / store.LOCK).read_text() == f"{os.getpid()}\n"
            assert mine.records == {}


def test_a_refused_folder_is_not_kept_open(folder, tmp_path):
    folder.mkdir(parents=True)
    folder.chmod(0o777)
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(Failure, match="others may write there"):
        Store(folder, BOOT)
    folder.chmod(0o700)
    (folder / store.LOCK).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Failure, match="cannot open"):
        Store(folder, BOOT)
    (folder / store.LOCK).unlink()
    journal_of(folder).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Failure, match="cannot read"):
        Store(folder, BOOT)
    assert not (tmp_path / "elsewhere").exists()
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_store_that_is_not_there_has_no_records(folder):
    assert store.read(folder) == []
    assert not folder.exists()


def test_steps_of_newer_versions_and_nonsense_are_problems_and_the_rest_is_used(folder):
    with Store(folder, BOOT) as made:
        made.begin(ONE)
    with Directory(folder) as opened, journal.Journal(opened) as file:
        for step in (
            {},
            {"do": "teleport", "id": ["pods", "c1", "eth0"]},
            {"do": "finish", "id": ["pods", "c9", "eth0"]},
            {"do": "forget", "id": 5},
            {"do": ["begin"]},
            {"do": "begin", "attachment": {}, "boot": BOOT, "at": 0},
            {"do": "begin", "boot": BOOT, "at": 0},
            {"do": "last", "last": ["pods", 0, "nowhere"]},
            {"do": "last", "last": "x"},
        ):
            file.append(step)
        file.append({"do": "finish", "id": ONE.id, "newer": True})
    with Store(folder, BOOT) as again:
        assert states(again.records) == {"c1": State.ATTACHED}
        assert [each.what for each in again.problems] == [f"record {number}" for number in range(2, 11)]
        assert "finish of pods/c9/eth0, which was not begun" in str(again.problems[2])


@pytest.mark.parametrize("seed", range(8))
def test_any_walk_is_remembered_exactly_and_compaction_changes_nothing(folder, seed):
    chance, expected = random.Random(seed), {}
    made = Store(folder, BOOT)
    for _ in range(150):
        what = chance.randrange(12)
        known = list(made.records)
        if what < 5 or not known:
            new = any_attachment(chance)
            made.begin(new)
            expected[new.id] = (new, State.ADDING)
        elif what < 11:
            id_ = chance.choice(known)
            doing = chance.choice(["finish", "doom", "forget"])
            getattr(made, doing)(id_)
            old = expected.pop(id_)
            if doing != "forget":
                expected[id_] = (old[0], {"finish": State.ATTACHED, "doom": State.DOOMED}[doing])
        else:
            if chance.random() < 0.5:
                made.compact()
            last = dict(made.last)
            made.close()
            made = Store(folder, BOOT)
            assert (dict(made.last), made.problems) == (last, ())
        assert {id_: (each.attachment, each.state) for id_, each in made.records.items()} == expected
    made.close()


def test_cut_at_any_byte_it_opens_and_knows_all_that_is_whole(folder):
    with Store(folder, BOOT) as made:
        made.begin(ONE)
        made.finish(ONE.id)
        made.begin(TWO)
        made.doom(ONE.id)
    whole = journal_of(folder).read_bytes()
    for cut in range(len(whole) + 1):
        journal_of(folder).write_bytes(whole[:cut])
        lines = whole[:cut].count(b"\n")
        with Store(folder, BOOT) as torn:
            one = {0: None, 1: State.ADDING, 2: State.ATTACHED, 3: State.ATTACHED, 4: State.DOOMED}[lines]
            assert states(torn.records).get("c1") is one, cut
            assert (TWO.id in torn.records) == (lines >= 3)
            torn.forget(TWO.id)
            torn.begin(TWO)
        assert states({each.attachment.id: each for each in store.read(folder)})["c2"] is State.ADDING


def test_the_journal_stays_short_while_containers_come_and_go(folder):
    with Store(folder, BOOT) as made:
        made.begin(ONE)
        made.finish(ONE.id)
        large = attachment("c9", "10.0.0.9/24", delegate_config="x" * 20_000)
        sizes = set()
        for _ in range(200):
            made.begin(large)
            made.finish(large.id)
            made.doom(large.id)
            made.forget(large.id)
            sizes.add(journal_of(folder).stat().st_size)
        assert store.SPARE_BYTES * 0.9 < max(sizes) < store.SPARE_BYTES * 1.1
        assert min(sizes) < 2000
        assert states(made.records) == {"c1": State.ATTACHED}
        assert made.last["pods", 0] == ip_address("10.0.0.9")
    assert sorted(each.name for each in folder.iterdir()) == [journal.NAME, store.LOCK]


def test_only_what_another_plugin_keeps_is_written_through(folder, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fdatasync", lambda fd: synced.append(fd))
    with Store(folder, BOOT) as made:
        made.begin(ONE)
        made.finish(ONE.id)
        made.doom(ONE.id)
        assert synced == []
        made.begin(attachment("d", delegate="host-local"))
        assert len(synced) == 1


FULL = """
import resource, signal, sys
sys.path.insert(0, sys.argv[2])
from pathlib import Path
from cni.failure import Code, Failure
from cni.store import State, Store
from test_cni_store import ONE, TWO, attachment

def limit(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

def refused(doing, *words):
    try:
        doing(*words)
    except Failure as failure:
        assert failure.code is Code.TRY_AGAIN_LATER, failure
        return
    raise SystemExit("it was not refused")

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
with Store(Path(sys.argv[1]), "b") as made:
    made.begin(ONE)
    made.begin(TWO)
    made.finish(TWO.id)
    limit(0)
    refused(made.finish, ONE.id)
    refused(made.begin, attachment("c3"))
    refused(made.compact)
    made.doom(TWO.id)
    made.forget(ONE.id)
    made.forget(TWO.id)
    refused(made.begin, attachment("c3"))
    assert (dict(made.records), made.owed()) == ({}, 3)
    limit(resource.RLIM_INFINITY)
    made.begin(ONE)
    assert made.owed() == 0
    limit(0)
    made.doom(ONE.id)
    made.forget(ONE.id)
    limit(resource.RLIM_INFINITY)
"""


def test_a_full_disk_refuses_add_but_never_del(folder):
    words = [sys.executable, "-c", FULL, folder, Path(__file__).parent]
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=ROOT)
    assert (done.returncode, done.stderr) == (0, "")
    assert store.read(folder) == []
    steps = [each["do"] for each in journal.parse(journal_of(folder).read_bytes()).records]
    assert steps == ["begin", "begin", "finish", "doom", "forget", "forget", "begin", "doom", "forget"]


WORKER = """
import sys
sys.path.insert(0, sys.argv[2])
from pathlib import Path
from cni.store import Store
from test_cni_store import attachment

with Store(Path(sys.argv[1]), "b", 30.0) as made:
    n = max((int(each.container[1:]) for each in made.records), default=0)
    while True:
        n += 1
        one = attachment(f"c{n}", f"10.0.{n % 65536 // 256}.{n % 256}/16", delegate_config="x" * 8000)
        made.begin(one)
        made.finish(one.id)
        print("+", one.id.container, flush=True)
        if n % 3:
            made.forget(one.id)
            print("-", one.id.container, flush=True)
"""


def test_all_that_was_acknowledged_is_known_after_kill_9(folder):
    """Compaction, which happens every hundred containers, is killed too."""
    known = set()
    for round_ in range(5):
        with subprocess.Popen(
            [sys.executable, "-c", WORKER, folder, Path(__file__).parent], stdout=subprocess.PIPE, text=True, cwd=ROOT
        ) as child:
            heard = [child.stdout.readline() for _ in range(301 + 77 * round_)]
            child.send_signal(signal.SIGKILL)
            heard += child.stdout.readlines()
        for line in heard:
            if line.endswith("\n"):
                sign, container = line.split()
                (known.add if sign == "+" else known.discard)(container)
        with Store(folder, "b") as again:
            # The kernel ends a write of two pages between them: of each round the last record may be a piece.
            assert len(again.problems) <= round_ + 1
            found = {id_.container for id_ in again.records}
            assert len(heard) > 300
            on_its_way = found ^ known
            assert len(on_its_way) <= 1, "only the step that nobody was told of"
            known = found
