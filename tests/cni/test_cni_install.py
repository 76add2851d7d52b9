"""Putting the plugin in place and taking it away, next to files of others. See cni/install.py."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from launching import CONFIG, SECONDS, Recorder, environment

from cni.config import IpamOptions
from cni.decode import network_config
from cni.environment import invocation
from cni.install import (
    CONFLIST,
    LINK,
    LOOPBACK,
    MARKER,
    PLUGIN,
    InstallOptions,
    LauncherSettings,
    default_conflist,
    install,
    is_launcher,
    is_own_conflist,
    patched,
    settings_of,
    uninstall,
)
from netplane.errors import InputError, NetplaneError, OwnershipError, RequirementError


@pytest.fixture
def options(tmp_path, compiled_launcher, place):
    (tmp_path / "network").mkdir()
    return InstallOptions(
        settings=LauncherSettings(place.socket, place.spool),
        bin_directory=tmp_path / "opt" / "bin",
        config_directory=tmp_path / "net.d",
        link_directory=tmp_path / "network",
        launcher=compiled_launcher,
    )


def files(options: InstallOptions) -> dict[str, bytes]:
    """Everything in the three folders, whatever its name."""
    folders = (options.bin_directory, options.config_directory, options.link_directory)
    return {each.name: each.read_bytes() for folder in folders for each in sorted(folder.glob("*"))}


def hidden(options: InstallOptions) -> list[Path]:
    return [*options.bin_directory.glob(".*"), *options.config_directory.glob(".*")]


# --- installing -----------------------------------------------------------------------------------------------------


def test_everything_is_put_in_place_and_works(options, place):
    done = install(options)
    assert [line.rpartition(": ")[2] for line in done] == ["written"] * 4
    assert set(files(options)) == {PLUGIN, LOOPBACK, CONFLIST, LINK}
    modes = {each.name: each.stat().st_mode & 0o777 for each in options.bin_directory.iterdir()}
    assert modes == {PLUGIN: 0o755, LOOPBACK: 0o755}
    assert (options.config_directory / CONFLIST).stat().st_mode & 0o777 == 0o644
    assert hidden(options) == []
    for name in (PLUGIN, LOOPBACK):
        with place.serving(Recorder()):
            said = subprocess.run(
                (options.bin_directory / name,), env=environment("ADD"), input=CONFIG, capture_output=True, check=False
            )
        assert said.stdout == b"done\n"


def test_again_it_changes_nothing(options):
    install(options)
    before = {path: path.stat().st_ino for path in options.bin_directory.iterdir()}
    assert [line.rpartition(": ")[2] for line in install(options)] == ["as it should be"] * 4
    assert {path: path.stat().st_ino for path in options.bin_directory.iterdir()} == before


def test_the_default_network_can_be_decoded():
    value = json.loads(default_conflist())
    assert (value["cniVersion"], value["cniVersions"]) == ("1.0.0", ["0.4.0", "1.0.0", "1.1.0"])
    (plugin,) = value["plugins"]
    stdin = json.dumps(plugin | {"cniVersion": "1.0.0", "name": value["name"]}).encode()
    told = network_config(stdin, invocation(environment("ADD", NETNS="/n")), ())
    assert told.ipam == IpamOptions(node_ranges=True)


def test_a_network_of_ours_that_was_edited_stays_unless_another_is_given(options):
    edited = default_conflist().replace(b'"pods"', b'"mine"')
    options.config_directory.mkdir()
    (options.config_directory / CONFLIST).write_bytes(edited)
    install(options)
    assert files(options)[CONFLIST] == edited
    install(replace(options, conflist=default_conflist()))
    assert files(options)[CONFLIST] == default_conflist()


def test_other_settings_replace_a_launcher_that_runs(options):
    install(options)
    with subprocess.Popen(
        (options.bin_directory / PLUGIN,), env=environment("STATUS"), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as running:
        other = replace(options, settings=LauncherSettings(Path("/other.sock"), Path("/other"), Path("/bin/python")))
        install(other)
        out, _ = running.communicate(CONFIG, timeout=SECONDS)
    assert str(options.settings.socket) in json.loads(out)["details"]
    assert settings_of(files(options)[PLUGIN]) == other.settings


def test_there_is_no_moment_without_a_binary_or_with_half_of_one(options):
    install(options)
    stop, wrong = threading.Event(), []

    def look() -> None:
        while not stop.is_set():
            for path, fine in ((options.bin_directory / PLUGIN, is_launcher), (network, is_own_conflist)):
                try:
                    if not fine(path.read_bytes()):
                        wrong.append(path)
                except OSError as error:
                    wrong.append(error)

    network = options.config_directory / CONFLIST
    looking = threading.Thread(target=look)
    looking.start()
    for number in range(50):
        settings = replace(options.settings, spool=Path(f"/spool-{number}"))
        text = default_conflist().replace(b'"pods"', b'"pods-%d"' % number)
        install(replace(options, settings=settings, conflist=text))
    stop.set()
    looking.join()
    assert wrong == []


def test_a_loopback_of_somebody_else_stays(options):
    options.bin_directory.mkdir(parents=True)
    (options.bin_directory / LOOPBACK).write_text("#!/bin/sh\n")
    install(options)
    assert files(options)[LOOPBACK] == b"#!/bin/sh\n"
    uninstall(options)
    assert set(files(options)) == {LOOPBACK}


def test_without_loopback_and_link_there_are_none(options):
    install(replace(options, loopback=False, link_directory=None))
    assert set(files(options)) == {PLUGIN, CONFLIST}
    missing = options.link_directory / "missing"
    install(replace(options, link_directory=missing))
    assert not missing.exists()


@pytest.mark.parametrize("name", [PLUGIN, CONFLIST, LINK])
@pytest.mark.parametrize("kind", ["file", "link to one of ours", "dangling link", "folder", "pipe"])
def test_what_is_somebody_elses_is_not_touched_and_nothing_is_written(options, tmp_path, name, kind):
    folder = {PLUGIN: options.bin_directory, CONFLIST: options.config_directory, LINK: options.link_directory}[name]
    folder.mkdir(parents=True, exist_ok=True)
    path, elsewhere = folder / name, tmp_path / "elsewhere"
    elsewhere.write_bytes(options.launcher.read_bytes() if name == PLUGIN else default_conflist())
    match kind:
        case "file":
            path.write_text("precious")
        case "link to one of ours":
            path.symlink_to(elsewhere)
        case "dangling link":
            path.symlink_to(tmp_path / "nowhere")
        case "folder":
            path.mkdir()
        case "pipe":
            os.mkfifo(path)
    before = elsewhere.read_bytes()
    with pytest.raises(OwnershipError, match=f"{name}: "):
        install(options)
    assert [*folder.iterdir()] == [path]
    assert elsewhere.read_bytes() == before
    assert not (tmp_path / "nowhere").exists()
    assert f"{path}: left alone, not made by netplane" in uninstall(options)
    assert path.is_symlink() or path.exists()


@pytest.mark.parametrize(
    ("content", "ours"),
    [
        (default_conflist(), True),
        (b'{"plugins":[{"type":"netplane"},{"type":"tuning"}]}', True),
        (b'{"plugins":[{"type":"tuning"},{"type":"netplane"}]}', False),
        (b'{"type":"netplane"}', False),
        (b'{"plugins":[]}', False),
        (b'{"plugins":["netplane"]}', False),
        (b"[" * 100_000, False),
        (b"\xff\xfe", False),
        (b"", False),
    ],
)
def test_a_network_is_ours_if_its_first_plugin_is(content, ours):
    assert is_own_conflist(content) == ours


def test_a_launcher_is_ours_if_it_has_the_marker(compiled_launcher):
    assert is_launcher(compiled_launcher.read_bytes())
    assert not is_launcher(Path("/bin/true").read_bytes())
    assert not is_launcher(MARKER)


def test_without_a_compiled_launcher_it_says_what_to_do(options, tmp_path):
    with pytest.raises(RequirementError, match=r"python -m cni\.launcher\.build"):
        install(replace(options, launcher=tmp_path / "nowhere"))


def test_a_folder_that_cannot_be_made_is_said(options, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="Not a directory"):
        install(replace(options, bin_directory=tmp_path / "file" / "bin"))


# --- uninstalling ---------------------------------------------------------------------------------------------------


def test_everything_of_ours_is_taken_away(options):
    install(options)
    (options.config_directory / "99-other.conflist").write_text("{}")
    done = uninstall(options)
    assert [line.rpartition(": ")[2] for line in done] == ["removed"] * 4
    assert done[0].startswith(str(options.config_directory)), "the network goes first"
    assert set(files(options)) == {"99-other.conflist"}
    assert uninstall(options) == []
    assert hidden(options) == []


def test_where_nothing_is_there_is_nothing_to_take_away(options):
    assert uninstall(options) == []
    assert not options.bin_directory.exists()


# --- containerd looks at the folder ---------------------------------------------------------------------------------


@pytest.mark.parametrize("act", [install, uninstall])
def test_the_last_thing_a_watcher_sees_is_a_write_or_a_removal(options, act):
    """containerd ignores what is created and chmodded; a write, rename or removal makes it read the folder again."""
    inotify_simple = pytest.importorskip("inotify_simple")
    install(options)
    if act is install:
        uninstall(options)
    with inotify_simple.INotify() as watch:
        watch.add_watch(options.config_directory, inotify_simple.flags.MODIFY | inotify_simple.flags.DELETE)
        before = (options.config_directory / CONFLIST).exists()
        act(options)
        seen = [(each.name, inotify_simple.flags.from_mask(each.mask)[0].name) for each in watch.read(timeout=1000)]
    assert (options.config_directory / CONFLIST).exists() != before
    assert [(name.startswith(".netplane."), what) for name, what in seen[-2:]] == [(True, "MODIFY"), (True, "DELETE")]
    assert not any(name.endswith((".conf", ".conflist", ".json")) and what == "MODIFY" for name, what in seen)


# --- what is written into the launcher ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        LauncherSettings(),
        LauncherSettings(python=Path("/usr/bin/python3")),
        LauncherSettings(Path("/" + "s" * 106), Path("/" + "p" * 254), Path("/" + "f" * 254)),
    ],
)
def test_what_was_written_is_read_back_and_nothing_else_changes(compiled_launcher, settings):
    original = compiled_launcher.read_bytes()
    made = patched(original, settings)
    assert settings_of(made) == settings
    assert patched(made, LauncherSettings()) == original
    assert len(made) == len(original)


def test_as_it_is_compiled_it_has_the_defaults(compiled_launcher):
    assert settings_of(compiled_launcher.read_bytes()) == LauncherSettings()


@pytest.mark.parametrize("path", ["relative", '/with"quote', "/with\\", "/with\nline", "/ü", "", "/" + "x" * 300])
@pytest.mark.parametrize("name", ["socket", "spool", "python"])
def test_a_path_the_launcher_cannot_hold_is_refused(compiled_launcher, name, path):
    with pytest.raises(InputError, match=f"{name}: "):
        patched(compiled_launcher.read_bytes(), replace(LauncherSettings(), **{name: Path(path)}))


@pytest.mark.parametrize("content", [b"", b"\x7fELF", MARKER, MARKER * 2, MARKER + bytes(100)])
def test_what_is_no_launcher_is_refused(content):
    with pytest.raises(NetplaneError):
        settings_of(content)
    with pytest.raises(NetplaneError):
        patched(content, LauncherSettings())


# --- compiling ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("compiler", "said"), [("no-such-compiler", "install gcc, or set CC"), ("false", "refused")])
def test_a_compiler_that_is_missing_or_refuses_is_said(tmp_path, monkeypatch, compiler, said):
    from cni.launcher.build import CannotCompile, build

    monkeypatch.setenv("CC", compiler)
    with pytest.raises(CannotCompile, match=said):
        build(tmp_path / "netplane")
    assert [*tmp_path.iterdir()] == []


def test_the_compiler_has_nothing_to_warn_of(tmp_path, monkeypatch):
    from cni.launcher.build import build

    monkeypatch.setenv("CC", "cc -Werror -Wshadow -Wstrict-prototypes -Wvla -Wpointer-arith")
    assert build(tmp_path / "netplane").stat().st_mode & 0o777 == 0o755


def test_equal_source_gives_equal_bytes(tmp_path, compiled_launcher):
    from cni.launcher.build import build

    assert build(tmp_path / "other").read_bytes() == compiled_launcher.read_bytes()


def test_building_imports_nothing_but_the_standard_library():
    script = "import runpy, sys; runpy.run_path(sys.argv[1]); assert not {'netplane', 'cni'} & set(sys.modules)"
    source = Path(__file__).parents[2] / "cni" / "launcher" / "build.py"
    subprocess.run((sys.executable, "-I", "-S", "-c", script, str(source)), check=True, timeout=SECONDS)
