"""A folder of manifests while it is being edited: what stays, what goes, and what stays the same object."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from manifest_objects import NODE, POD, SERVICE, SLICE, bent, text

from netplane.errors import InputError
from netplane.model.service import ServiceId
from netplane.sources.manifests import MAX_SIZE, Loaded, ManifestDirectory, load

WEB = ServiceId("shop", "web")


def named(name: str, address: str = "10.96.0.10") -> dict[str, object]:
    return bent(SERVICE, ("metadata.name", name), ("spec.clusterIP", address))


def names(loaded: Loaded) -> list[str]:
    return sorted(service.name for service in loaded.snapshot.services)


def said(loaded: Loaded) -> list[str]:
    return [str(problem) for problem in loaded.problems]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """`a.yaml` with the Services a1 and a2, `sub/b.json` with b1."""
    (tmp_path / "a.yaml").write_text(text(named("a1"), named("a2")))
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "b.json").write_text(json.dumps(named("b1")))
    return tmp_path


def test_a_folder_is_read_with_its_subfolders_and_without_what_editors_leave(folder):
    for name in (".hidden.yaml", "a.yaml~", ".a.yaml.swp", "4913", "#a.yaml#", ".#a.yaml", "a.yaml.tmp", "README.md"):
        (folder / name).write_text(text(named("leftover")))
    (folder / ".git").mkdir()
    (folder / ".git" / "x.yaml").write_text(text(named("leftover")))
    (folder / "c.yml").write_text(text(named("c1")))
    loaded = load(folder)
    assert names(loaded) == ["a1", "a2", "b1", "c1"]
    assert not loaded.problems
    assert loaded.complete


def test_a_single_file_may_have_any_name(tmp_path):
    path = tmp_path / "cluster"
    path.write_text(text(named("a1")))
    assert names(load(path)) == ["a1"]


@pytest.mark.parametrize("make", [lambda path: None, Path.mkdir], ids=["missing", "empty"])
def test_a_folder_that_does_not_exist_or_holds_nothing_cannot_be_started_with(tmp_path, make):
    make(tmp_path / "x")
    with pytest.raises(InputError, match=r"/x: (does not exist|holds no manifest.*); give a folder of manifests"):
        load(tmp_path / "x")


@pytest.mark.parametrize("everything", [True, False], ids=["rescan", "changed"])
@pytest.mark.parametrize(
    "broken",
    [
        pytest.param(text(named("a1"))[:-20].encode(), id="cut off in the middle"),
        pytest.param(b"apiVersion: v1\nkind: Serv", id="cut off in a word"),
        pytest.param(b"apiVersion: v1\nkind: Service\nmetadata:\n", id="cut off before the name"),
        pytest.param(b"a: [\n", id="no YAML"),
        pytest.param(b"\xff\xfe\x00", id="no UTF-8"),
        pytest.param(b"", id="blank"),
        pytest.param(b"\n \n", id="white space"),
    ],
)
def test_a_half_written_file_keeps_its_objects_until_it_is_whole_again(folder, broken, everything):
    source = ManifestDirectory(folder)
    before = source.refresh().snapshot
    path = folder / "a.yaml"
    path.write_bytes(broken)
    loaded = source.refresh(None if everything else [path])
    assert loaded.snapshot is before
    assert loaded.complete, "what the file meant is known"
    assert any(line.startswith("a.yaml") for line in said(loaded))
    assert "a.yaml: Service shop/a1 and 1 more: stays in use as it last was, until the file is corrected" in said(
        loaded
    )
    path.write_text(text(named("a3")))
    loaded = source.refresh(None if everything else [path])
    assert names(loaded) == ["a3", "b1"]
    assert not loaded.problems


def test_a_cut_off_json_file_keeps_its_objects(folder):
    source = ManifestDirectory(folder)
    before = source.refresh().snapshot
    path = folder / "sub" / "b.json"
    path.write_text(path.read_text()[:-5])
    loaded = source.refresh([path])
    assert loaded.snapshot is before
    assert said(loaded)[0].startswith("sub/b.json#1: line 1: is not JSON: ")


def test_a_refused_object_keeps_its_last_good_version_while_the_rest_of_its_file_is_used(folder):
    source = ManifestDirectory(folder)
    old = source.refresh().snapshot.services[ServiceId("shop", "a1")]
    path = folder / "a.yaml"
    path.write_text(text(bent(named("a1"), ("spec.ports.0.port", 0)), named("a3")))
    loaded = source.refresh([path])
    assert names(loaded) == ["a1", "a3", "b1"], "a2 was taken out of a file that says clearly what it holds"
    assert loaded.snapshot.services[old.id] is old


def test_a_refused_object_that_was_never_good_is_not_there(folder):
    (folder / "c.yaml").write_text(text(bent(named("c1"), ("spec.ports.0.port", 0)), named("c2")))
    loaded = load(folder)
    assert names(loaded) == ["a1", "a2", "b1", "c2"]
    assert not loaded.complete


def test_a_file_with_only_a_comment_holds_nothing_on_purpose(folder):
    source = ManifestDirectory(folder)
    source.refresh()
    (folder / "a.yaml").write_text("# nothing for now\n")
    loaded = source.refresh([folder / "a.yaml"])
    assert names(loaded) == ["b1"]
    assert not loaded.problems


@pytest.mark.parametrize("everything", [True, False], ids=["rescan", "changed"])
def test_a_deleted_file_takes_its_objects_with_it(folder, everything):
    source = ManifestDirectory(folder)
    source.refresh()
    (folder / "a.yaml").unlink()
    loaded = source.refresh(None if everything else [folder / "a.yaml"])
    assert names(loaded) == ["b1"]
    assert not loaded.problems


def test_a_deleted_subfolder_takes_its_objects_with_it(folder):
    source = ManifestDirectory(folder)
    source.refresh()
    shutil.rmtree(folder / "sub")
    assert names(source.refresh([folder / "sub" / "b.json"])) == ["a1", "a2"]


def test_a_renamed_file_keeps_its_objects_the_same(folder):
    source = ManifestDirectory(folder)
    before = source.refresh().snapshot
    (folder / "a.yaml").rename(folder / "z.yaml")
    loaded = source.refresh([folder / "a.yaml", folder / "z.yaml"])
    assert loaded.snapshot is before
    assert not loaded.problems


@pytest.mark.parametrize("empty", [shutil.rmtree, lambda path: path.rename(f"{path}-away")], ids=["deleted", "moved"])
def test_a_folder_that_vanishes_keeps_everything_until_it_is_back(tmp_path, empty):
    folder = tmp_path / "m"
    folder.mkdir()
    (folder / "a.yaml").write_text(text(named("a1")))
    source = ManifestDirectory(folder)
    before = source.refresh().snapshot
    empty(folder)
    for changed in (None, [folder / "a.yaml"], [folder]):
        loaded = source.refresh(changed)
        assert loaded.snapshot is before
        assert said(loaded) == [
            f"{folder}: folder: cannot be read: No such file or directory; its objects stay in use;"
            " bring it back, or leave one manifest with only a comment to mean nothing"
        ]
    folder.mkdir()
    (folder / "b.yaml").write_text(text(named("b1")))
    loaded = source.refresh()
    assert names(loaded) == ["b1"]
    assert not loaded.problems


@pytest.mark.parametrize("everything", [True, False], ids=["rescan", "changed"])
def test_a_folder_without_any_manifest_is_not_believed(folder, everything):
    source = ManifestDirectory(folder)
    before = source.refresh().snapshot
    gone = [folder / "a.yaml", folder / "sub" / "b.json"]
    for path in gone:
        path.unlink()
    loaded = source.refresh(None if everything else gone)
    assert loaded.snapshot is before
    assert "holds no manifest" in said(loaded)[0]
    (folder / "a.yaml").write_text(text(named("a1")))
    loaded = source.refresh([folder / "a.yaml"])
    assert names(loaded) == ["a1", "b1"], "files that are put back one by one must not take the others away"
    loaded = source.refresh()
    assert names(loaded) == ["a1"]
    assert not loaded.problems


def test_a_single_file_that_vanishes_stays_in_use(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text(text(named("a1")))
    source = ManifestDirectory(path)
    before = source.refresh().snapshot
    path.unlink()
    loaded = source.refresh([path])
    assert loaded.snapshot is before
    assert "No such file or directory" in said(loaded)[0]
    path.write_text(text(named("a2")))
    loaded = source.refresh([path])
    assert names(loaded) == ["a2"]
    assert not loaded.problems


def test_what_is_no_regular_file_is_a_problem_and_never_waited_for(folder):
    os.mkfifo(folder / "c.yaml")
    (folder / "d.yaml").symlink_to("nowhere")
    (folder / "e.yaml").symlink_to(folder / "sub")
    loaded = load(folder)
    assert names(loaded) == ["a1", "a2", "b1"]
    assert {line.partition(";")[0] for line in said(loaded) if "cannot be read" in line} == {
        "c.yaml: file: cannot be read: is not a regular file",
        "d.yaml: file: cannot be read: No such file or directory",
        "e.yaml: file: cannot be read: Is a directory",
    }


def test_a_file_that_is_too_large_is_a_problem(folder):
    with (folder / "c.yaml").open("wb") as file:
        file.truncate(MAX_SIZE + 1)
    assert "c.yaml: file: cannot be read: is larger than 256 MiB" in said(load(folder))[-1]


def test_a_file_that_became_unreadable_keeps_its_objects(folder):
    source = ManifestDirectory(folder)
    before = source.refresh().snapshot
    path = folder / "a.yaml"
    path.unlink()
    path.symlink_to("nowhere")  # root may read everything: a link to nothing is what no one can read
    loaded = source.refresh([path])
    assert loaded.snapshot is before
    assert "a.yaml: file: cannot be read" in said(loaded)[0]


def test_a_folder_that_was_never_read_well_is_not_complete_until_it_is(folder):
    (folder / "c.yaml").write_text("a: [")
    source = ManifestDirectory(folder)
    assert not source.refresh().complete
    (folder / "c.yaml").write_text(text(named("c1")))
    loaded = source.refresh([folder / "c.yaml"])
    assert loaded.complete
    (folder / "c.yaml").write_text("a: [")
    assert source.refresh([folder / "c.yaml"]).complete


@pytest.mark.parametrize("content", ["", "a: ["], ids=["blank", "broken"])
def test_deleting_a_file_that_was_never_read_well_completes_the_folder(folder, content):
    (folder / "c.yaml").write_text(content)
    source = ManifestDirectory(folder)
    loaded = source.refresh()
    assert not loaded.complete
    assert "c.yaml: file: was never read well; until it is corrected or deleted nothing is swept" in said(loaded)
    (folder / "c.yaml").unlink()
    loaded = source.refresh([folder / "c.yaml"])
    assert loaded.complete
    assert not loaded.problems


def test_an_object_in_two_files_is_taken_from_the_first_and_told_at_the_other(folder):
    source = ManifestDirectory(folder)
    source.refresh()
    (folder / "c.yaml").write_text(text(named("c1"), named("a1", "10.96.0.99")))
    loaded = source.refresh([folder / "c.yaml"])
    key = ServiceId("shop", "a1")
    assert str(loaded.snapshot.services[key].cluster_ips[0]) == "10.96.0.10"
    assert said(loaded) == ["c.yaml#2: Service shop/a1: is also in a.yaml, which is used; remove one of them"]
    (folder / "a.yaml").unlink()
    loaded = source.refresh([folder / "a.yaml"])
    assert str(loaded.snapshot.services[key].cluster_ips[0]) == "10.96.0.99"
    assert not loaded.problems
    (folder / "a.yaml").write_text(text(named("a1")))
    loaded = source.refresh([folder / "a.yaml"])
    assert str(loaded.snapshot.services[key].cluster_ips[0]) == "10.96.0.10"


def test_objects_that_did_not_change_stay_the_same_objects_also_when_their_file_is_written_anew(folder):
    (folder / "c.yaml").write_text(text(SERVICE, SLICE, NODE, POD))
    source = ManifestDirectory(folder)
    before = source.refresh().snapshot
    (folder / "c.yaml").write_text("# the same\n" + text(POD, NODE, SLICE, SERVICE))
    assert source.refresh([folder / "c.yaml"]).snapshot is before
    (folder / "c.yaml").write_text(text(bent(SERVICE, ("spec.clusterIP", "10.96.0.50")), SLICE, NODE, POD))
    after = source.refresh([folder / "c.yaml"]).snapshot
    assert after.services[WEB] is not before.services[WEB]
    assert after.slices[WEB] is before.slices[WEB]
    assert after.services[ServiceId("shop", "a1")] is before.services[ServiceId("shop", "a1")]
    assert (after.nodes, after.pods) == (before.nodes, before.pods)
    assert after.nodes is before.nodes
    assert after.pods is before.pods


def test_a_change_within_one_tick_of_the_clock_is_seen_by_a_rescan(folder):
    source = ManifestDirectory(folder)
    path = folder / "a.yaml"
    stamp = path.stat()
    source.refresh()
    path.write_text(path.read_text().replace("10.96.0.10", "10.96.0.77"))
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    service = source.refresh().snapshot.services[ServiceId("shop", "a1")]
    assert str(service.cluster_ips[0]) == "10.96.0.77"


def test_a_change_somewhere_else_changes_nothing(folder, tmp_path_factory):
    source = ManifestDirectory(folder)
    before = source.refresh().snapshot
    other = tmp_path_factory.mktemp("other") / "x.yaml"
    other.write_text(text(named("x")))
    (folder / ".hidden").mkdir()
    (folder / ".hidden" / "x.yaml").write_text(text(named("x")))
    assert source.refresh([other, folder / ".hidden" / "x.yaml", folder / "README"]).snapshot is before
    assert source.refresh([]).snapshot is before


def test_any_order_of_edits_ends_in_what_a_fresh_reader_sees(folder):
    """The path between two states of a folder leaves no trace."""
    source = ManifestDirectory(folder)
    source.refresh()
    steps = [
        ("a.yaml", text(named("a1", "10.96.0.1"), POD, bent(SERVICE, ("spec.selector", {"app": "web"})))),
        ("c.yaml", text(SLICE, NODE)),
        ("a.yaml", "a: ["),
        ("c.yaml", text(NODE)),
        ("d.yaml", text(named("a1", "10.96.0.2"), bent(POD, ("metadata.name", "web-1")))),
        ("a.yaml", text(bent(SERVICE, ("spec.selector", {"app": "web"})))),
    ]
    for name, content in steps:
        (folder / name).write_text(content)
        loaded = source.refresh([folder / name])
    assert loaded.snapshot == load(folder).snapshot
    assert loaded.problems == load(folder).problems
    assert len(loaded.snapshot.slices[WEB][0].endpoints) == 1
