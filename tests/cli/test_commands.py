"""Every command: documented, helpful, and with the exit codes of docs/cli.md."""

from __future__ import annotations

import re
import subprocess
import sys

import click
import pytest
from command_line import ON_N1, ROOT, SHOP, commands, netplane, process

from netplane import errors

pytestmark = pytest.mark.kernel  # every command runs in a namespace of its own

COMMANDS = dict(commands())
NOUNS = sorted({name.split()[0] for name in COMMANDS})
PAGE = (ROOT / "docs" / "cli.md").read_text()

# Besides the sources, words for everything a command takes.
# fmt: off
HOSTILE = (
    "'; drop table", '"', "a\nb", "a\tb", "{}", "$(reboot)", "`id`", "%s%n", "../../etc/passwd", "‮evil", "\x1b[31mred",
    "ä" * 4000, "\udcff", "-", "/dev/null", "a/b/c", "[", "[::1", "1.2.3.4:80", "0", "-1", "٣.٣.٣.٣:80/tcp",
)
# fmt: on


# --- what there is --------------------------------------------------------------------------------------------------


def test_the_page_lists_exactly_the_commands_there_are():
    listed = re.findall(r"^\| `([a-z-]+ [a-z]+)` \|", PAGE, re.MULTILINE)
    assert len(listed) == len(set(listed))
    assert set(listed) == COMMANDS.keys()


def test_the_page_has_the_exit_codes_of_the_errors():
    documented = {int(code): means for code, means in re.findall(r"^\| (\d) \| (\w+)", PAGE, re.MULTILINE)}
    assert documented == {0: "done", 1: "differs", 2: "usage", 3: "input", 4: "requirement", 5: "kernel"}
    assert errors.InputError.exit_code == 3
    assert errors.RequirementError.exit_code == errors.UnsupportedError.exit_code == 4
    assert errors.KernelError.exit_code == errors.OwnershipError.exit_code == 5


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_help_says_what_a_command_does_and_names_its_options(name):
    done = netplane(*name.split(), "--help")
    assert (done.code, done.err) == (0, "")
    assert COMMANDS[name].help
    shown = [each for each in COMMANDS[name].params if isinstance(each, click.Option) and not each.hidden]
    for option in shown:
        assert option.opts[0] in done.out
    for argument in COMMANDS[name].params:
        if isinstance(argument, click.Argument):
            assert argument.make_metavar(click.Context(COMMANDS[name])).strip("[].").upper() in done.out.upper()


@pytest.mark.parametrize("noun", NOUNS)
def test_help_of_a_noun_lists_its_verbs(noun):
    done = netplane(noun, "-h")
    assert done.code == 0
    assert all(verb in done.out for name in COMMANDS for first, verb in [name.split()] if first == noun)


def test_help_lists_the_nouns_and_the_version_is_said():
    assert all(noun in netplane("--help").out for noun in NOUNS)
    assert re.fullmatch(r"netplane, version \d+\.\d+\.\d+\n", netplane("--version").out)


def test_every_command_that_prints_results_prints_json_too():
    silent = {"agent run", "backend render", "lab up", "lab shell", "lab down"}
    for name, command in COMMANDS.items():
        assert any(each.name == "output" for each in command.params) == (name not in silent), name


# --- exit codes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("plan", "show", *ON_N1), 0),
        (("cluster", "diff", SHOP, SHOP), 0),
        (("cluster", "diff", SHOP, f"{SHOP}/00-cluster.yaml"), 1),
        (("plan", "diff", *ON_N1, "--to", SHOP), 0),
        (("plan", "diff", *ON_N1, "--to", f"{SHOP}/00-cluster.yaml"), 1),
        ((), 2),
        (("plan",), 2),
        (("dance",), 2),
        (("plan", "dance"), 2),
        (("plan", "show"), 2),
        (("plan", "show", *ON_N1, "--output", "xml"), 2),
        (("plan", "show", *ON_N1, "--no-such-option"), 2),
        (("backend", "render", "no-such-backend", *ON_N1), 2),
        (("lab", "run", "/no/such/case"), 2),
        (("plan", "show", "--from", "/no/such/folder", "--node", "n1"), 3),
        (("plan", "show", "--from", SHOP, "--node", "n7"), 3),
        (("plan", "show", *ON_N1, "--local", "bridge="), 3),
        (("cluster", "check", "/no/such/folder"), 3),
        (("service", "explain", "nobody", *ON_N1), 3),
    ],
)
def test_exit_codes(words, code):
    done = netplane(*words)
    assert done.code == code, done
    assert done.out if code in (0, 1) else done.err


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "inf", "soon", "1e9"])
@pytest.mark.parametrize("option", ["--at-least", "--at-most"])
def test_seconds_that_are_no_time_to_wait_are_a_wrong_usage(option, seconds):
    done = process("agent", "run", *ON_N1, option, seconds)
    assert done.code == 2
    assert option in done.err


@pytest.mark.parametrize("words", [("plan", "show", *ON_N1, "--local", "eth0"), ("cluster", "show", "/no/such/folder")])
def test_an_error_is_one_line(words):
    assert netplane(*words).error


def test_what_is_wrong_with_objects_goes_to_standard_error_and_the_rest_is_shown(tmp_path):
    (tmp_path / "bad.yaml").write_text(
        "apiVersion: v1\nkind: Service\nmetadata: {name: b}\nspec: {ports: [{port: 0}]}\n"
    )
    for shown in ROOT.joinpath("examples", "shop").glob("*.yaml"):
        (tmp_path / shown.name).symlink_to(shown)
    done = netplane("service", "list", "--from", str(tmp_path), "--node", "n1", "--output", "json")
    assert done.code == 0
    assert {each["name"] for each in done.json} >= {"frontend", "backend"}
    file, problem = done.err.splitlines()
    assert file.startswith("problem: bad.yaml: file: was never read well")
    assert problem.startswith("problem: bad.yaml#1: Service default/b: spec.ports[0].port: ")
    assert netplane("cluster", "check", str(tmp_path)).code == 3


def test_a_reader_that_stops_reading_is_no_error():
    command = f"{sys.executable} -m netplane plan show --from {SHOP} --node n1 | head -1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "0"
    assert done.stderr == ""


# --- hostile words --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("word", HOSTILE, ids=[f"word-{number}" for number in range(len(HOSTILE))])
@pytest.mark.parametrize(
    "words",
    [
        ("cluster", "check", "@"),
        ("plan", "show", "--from", "@", "--node", "n1"),
        ("plan", "show", "--from", SHOP, "--node", "@"),
        ("plan", "show", *ON_N1, "--local", "@"),
        ("plan", "show", *ON_N1, "--local", "pod-range=@"),
        ("plan", "show", *ON_N1, "--node-ports", "@"),
        ("plan", "show", *ON_N1, "--service-ranges", "@"),
        ("plan", "show", *ON_N1, "--proxy-name", "@"),
        ("backend", "render", "nftables", *ON_N1, "--local", "bridge=@"),
        ("service", "explain", *ON_N1, "--", "@"),
        ("packet", "decide", *ON_N1, "--", "@", "10.96.0.10:80/tcp"),
        ("packet", "decide", *ON_N1, "--", "node", "@"),
    ],
    ids=lambda words: " ".join(word for word in words if word not in ON_N1),
)
def test_hostile_words_give_a_line_and_an_exit_code(words, word):
    done = netplane(*(each.replace("@", word) for each in words))  # an exception of ours would come through
    assert done.code in {0, 2, 3}
    assert "\x1b" not in done.err + done.out
    assert "‮" not in done.err + done.out
    if done.code == 3 and not done.out:
        assert len(done.err.splitlines()) == 1 or done.err.startswith("problem: ")
        assert len(done.err) < 1000


def test_planning_does_not_pay_for_scapy_rich_and_asyncio():
    script = f"""import sys, netplane.cli
try: netplane.cli.main(["plan", "show", "--from", {SHOP!r}, "--node", "n1"])
except SystemExit: assert not {{"scapy", "rich", "asyncio"}} & sys.modules.keys()"""
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)
