"""What running a program promises: see netplane/kernel/command.py."""

from pathlib import Path

import pytest

from netplane.errors import KernelError, RequirementError
from netplane.kernel import command
from netplane.kernel.netns import Namespace


def sh(script: str, stdin: str = "") -> str:
    return command.run("sh", "-c", script, stdin=stdin, mechanism="test", doing="run a script")


def test_standard_output_comes_back_and_standard_input_goes_in():
    assert sh("cat; echo done", stdin="one\ntwo\n") == "one\ntwo\ndone\n"


def test_a_missing_program_is_a_missing_requirement_that_says_what_to_install():
    with pytest.raises(RequirementError, match="'no-such-program' is missing; install it"):
        command.run("no-such-program", mechanism="test", doing="nothing")


def test_a_program_that_fails_is_a_kernel_error_with_its_words_on_one_line():
    with pytest.raises(KernelError) as caught:
        sh("echo first >&2; echo '  second\tthird' >&2; exit 3")
    assert str(caught.value) == "test: run a script: first second third"


def test_a_program_that_fails_silently_is_named_by_its_exit_code():
    with pytest.raises(KernelError, match="exit code 3"):
        sh("echo not the reason; exit 3")


def test_control_characters_of_a_program_are_shown_and_not_obeyed():
    with pytest.raises(KernelError) as caught:
        sh(r"printf '\033[2J\342\200\256evil' >&2; exit 1")
    assert caught.value.said == r"\x1b[2J\u202eevil"


def test_words_of_success_on_standard_error_are_no_failure():
    assert sh("echo warning >&2; echo fine") == "fine\n"


def test_our_environment_is_not_passed_on(monkeypatch):
    monkeypatch.setenv("NETPLANE_SECRET", "x")
    shown = command.run("env", mechanism="test", doing="show the environment")
    assert "NETPLANE_SECRET" not in shown
    assert "LC_ALL=C.UTF-8" in shown


def test_programs_are_found_whatever_the_path_of_this_process(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    assert sh("echo found") == "found\n"
    assert command.find("sh") is not None
    assert command.find("no-such-program") is None


@pytest.mark.kernel
def test_a_program_runs_in_the_namespace_of_the_calling_thread():
    def inside() -> tuple[str, int]:
        shown = command.run("stat", "-L", "-c", "%i", "/proc/self/ns/net", mechanism="test", doing="look")
        return shown.strip(), Path("/proc/thread-self/ns/net").stat().st_ino

    with Namespace() as namespace:
        shown, expected = namespace.run(inside)
    assert shown == str(expected)
    assert expected != Path("/proc/thread-self/ns/net").stat().st_ino


# --- much input, much output ----------------------------------------------------------------------------------------


def test_only_what_iptables_is_to_know_of_our_environment_is_passed_on(monkeypatch):
    monkeypatch.setenv("XTABLES_LOCKFILE", "/a/lock")
    monkeypatch.setenv("XTABLES_LIBDIR", "/a/folder")
    shown = command.run("env", mechanism="test", doing="show the environment").splitlines()
    assert {"XTABLES_LOCKFILE=/a/lock", "XTABLES_LIBDIR=/a/folder"} <= {*shown}


def test_a_file_is_fed_from_its_beginning(tmp_path):
    with (tmp_path / "in").open("w+b") as file:
        file.write(b"one\ntwo\n")
        file.flush()
        words = ("sh", "-c", 'test "$(cat)" = "one\ntwo"')
        for _ in range(2):
            command.feed(*words, stdin=file.fileno(), mechanism="test", doing="read")
        with pytest.raises(KernelError, match="test: read: why"):
            command.feed(
                "sh", "-c", "echo out; echo why >&2; exit 1", stdin=file.fileno(), mechanism="test", doing="read"
            )


def test_a_process_that_is_killed_is_said_to_be(tmp_path):
    with (tmp_path / "in").open("w+b") as file, pytest.raises(KernelError, match="killed by signal 9"):
        command.feed("sh", "-c", "kill -9 $$", stdin=file.fileno(), mechanism="test", doing="die")


def test_lines_come_one_by_one_and_a_failure_is_known_at_the_end():
    with command.lines("sh", "-c", "echo one; echo two", mechanism="test", doing="print") as lines:
        assert list(lines) == ["one\n", "two\n"]
    seen = []
    with (
        pytest.raises(KernelError, match="test: print: broken"),
        command.lines("sh", "-c", "echo one; echo broken >&2; exit 3", mechanism="test", doing="print") as lines,
    ):
        seen += lines
    assert seen == ["one\n"]


def test_who_stops_reading_ends_the_process():
    def first() -> str:
        with command.lines("yes", mechanism="test", doing="print for ever") as lines:
            for line in lines:
                raise ValueError(line)
        return ""

    with pytest.raises(ValueError, match="y"):
        first()
