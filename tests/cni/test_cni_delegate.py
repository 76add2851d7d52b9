"""Other plugins, run as a runtime runs them: scripts that misbehave in every way, and Debian's own."""

import json
import logging
import os
import sys
import time
from ipaddress import ip_address, ip_interface, ip_network
from pathlib import Path

import pytest

from cni import delegate
from cni.failure import Code, Failure
from cni.request import Command, Invocation
from cni.result import Dns, ResultAddress, Route

DEBIAN = Path("/usr/lib/cni")
CONFIG = {"cniVersion": "1.0.0", "name": "pods", "type": "netplane", "ipam": {"type": "plugin"}}
GOOD = '{"cniVersion": "1.0.0", "ips": [{"address": "10.1.2.3/24", "gateway": "10.1.2.1"}]}'


@pytest.fixture
def plugin(tmp_path):
    """Writes the body of a shell script as the plugin `plugin`, which notes its commands in `calls`."""

    def write(body, name="plugin", mode=0o755, head="#!/bin/sh"):
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f'{head}\necho "$CNI_COMMAND" >> {tmp_path}/calls\n{body}\n')
        path.chmod(mode)

    return write


def run(tmp_path, command=Command.ADD, kind="plugin", config=CONFIG, seconds=60.0, **more):
    given = {"container": "c1", "netns": "/run/netns/x", "ifname": "eth0", "path": (str(tmp_path / "bin"),)} | more
    return delegate.run(kind, command, Invocation(Command.ADD, **given), config, seconds)


def failed(tmp_path, command=Command.DEL, **more):
    with pytest.raises(Failure) as failure:
        run(tmp_path, command, **more)
    return failure.value


def calls(tmp_path):
    return (tmp_path / "calls").read_text().split() if (tmp_path / "calls").exists() else []


def test_it_gets_our_environment_with_its_command_and_the_whole_configuration(plugin, tmp_path):
    plugin(f"env > {tmp_path}/env; cat > {tmp_path}/stdin; ls -l /proc/self/fd > {tmp_path}/fds; pwd > {tmp_path}/cwd")
    config = CONFIG | {"prevResult": {"ips": []}, "own": ["ü", 1.5, None]}
    with (tmp_path / "secret").open("w") as secret:
        os.set_inheritable(secret.fileno(), True)
        assert (
            run(tmp_path, Command.CHECK, config=config, arguments={"IgnoreUnknown": "1", "K8S_POD_NAME": "w"}) is None
        )
    environment = dict(line.split("=", 1) for line in (tmp_path / "env").read_text().splitlines())
    assert {name: value for name, value in environment.items() if name.startswith("CNI_")} == {
        "CNI_COMMAND": "CHECK",
        "CNI_CONTAINERID": "c1",
        "CNI_NETNS": "/run/netns/x",
        "CNI_IFNAME": "eth0",
        "CNI_ARGS": "IgnoreUnknown=1;K8S_POD_NAME=w",
        "CNI_PATH": str(tmp_path / "bin"),
    }
    of_the_shell = {"PWD", "OLDPWD", "SHLVL", "_"}
    assert {name for name in environment if not name.startswith("CNI_")} - of_the_shell == {"PATH"}
    assert json.loads((tmp_path / "stdin").read_text()) == config
    assert "secret" not in (tmp_path / "fds").read_text()
    assert (tmp_path / "cwd").read_text() == "/\n"


def test_the_result_of_an_add_is_decoded(plugin, tmp_path):
    plugin(f"cat > /dev/null; echo '{GOOD}'")
    result = run(tmp_path)
    assert result.addresses == (ResultAddress(ip_interface("10.1.2.3/24"), ip_address("10.1.2.1")),)


def test_a_result_without_version_has_the_configurations(plugin, tmp_path):
    plugin("""echo '{"ips": [{"version": "4", "address": "10.1.2.3/24"}]}'""")
    for version in ("0.4.0", "1.0.0"):
        assert run(tmp_path, config=CONFIG | {"cniVersion": version}).addresses[0].address == ip_interface(
            "10.1.2.3/24"
        )
    plugin("""echo '{"ip4": {"ip": "10.1.2.3/24"}}'""")
    without = {key: value for key, value in CONFIG.items() if key != "cniVersion"}
    assert run(tmp_path, config=without).addresses[0].address == ip_interface("10.1.2.3/24")


@pytest.mark.parametrize("command", [Command.DEL, Command.CHECK, Command.GC, Command.STATUS])
def test_what_others_than_add_print_is_not_looked_at(plugin, tmp_path, command):
    plugin("echo nonsense")
    assert run(tmp_path, command) is None
    assert calls(tmp_path) == [command.value]


def test_a_plugin_that_does_not_read_its_input_is_fine(plugin, tmp_path):
    plugin("exit 0")
    assert run(tmp_path, Command.DEL, config=CONFIG | {"large": "x" * 1_000_000}) is None


@pytest.mark.parametrize("code", [1, 7, 11, 50, 101, 999, 150, 4242])
def test_its_error_is_passed_through_with_its_own_code(plugin, tmp_path, code):
    plugin(f"""echo '{{"cniVersion": "1.0.0", "code": {code}, "msg": "no luck", "details": "none at all"}}'; exit 1""")
    failure = failed(tmp_path)
    assert (failure.code, failure.msg, failure.details) == (code, "no luck", "none at all")
    assert isinstance(failure.code, int)
    assert str(code) in repr(failure.code)
    assert failure.value("1.0.0")["code"] == code


@pytest.mark.parametrize(
    ("body", "msg", "details"),
    [
        ("echo oops >&2; exit 3", "plugin plugin failed (exit code 3)", "oops"),
        ("echo half; echo oops >&2; exit 3", "plugin plugin failed (exit code 3)", "half oops"),
        ("exit 1", "plugin plugin failed (exit code 1)", "it gave no error message"),
        ("kill -9 $$", "plugin plugin failed (killed by signal 9)", "it gave no error message"),
        ("echo '[1]'; exit 1", "plugin plugin failed (exit code 1)", "[1]"),
        ("""echo '{"code": "7"}'; exit 1""", "plugin plugin failed (exit code 1)", '{"code": "7"}'),
        ("""echo '{"msg": "old", "code": 0}'; exit 1""", "old", ""),
        ("printf '\\377\\033[2J' >&2; exit 1", "plugin plugin failed (exit code 1)", r"\xff\x1b[2J"),
    ],
)
def test_what_is_no_error_of_the_specification_is_999_with_what_it_said(plugin, tmp_path, body, msg, details):
    plugin(body)
    failure = failed(tmp_path)
    assert (failure.code, failure.msg, failure.details) == (Code.INTERNAL, msg, details)


@pytest.mark.parametrize(
    "body",
    [
        """echo '{"code": 7, "msg": "bad"}'; [ $CNI_COMMAND = DEL ]""",
        "echo nonsense",
        "true",
        """echo '{"cniVersion": "1.0.0", "ips": [{"address": "x"}]}'""",
        """echo '{"code": 7, "msg": "bad"}'; exit 1""",
    ],
    ids=["error", "no JSON", "no answer", "no result", "DEL fails, too"],
)
def test_add_that_failed_is_taken_back_by_del(plugin, tmp_path, body):
    plugin(body)
    failure = failed(tmp_path, Command.ADD)
    assert calls(tmp_path) == ["ADD", "DEL"]
    assert failure.code in (7, Code.DECODING_FAILURE)


def test_an_answer_that_is_no_json_says_what_came(plugin, tmp_path):
    plugin("echo 'Usage: plugin'")
    failure = failed(tmp_path, Command.ADD)
    assert (failure.code, failure.msg) == (Code.DECODING_FAILURE, "plugin plugin did not answer with JSON")
    assert "Usage: plugin" in failure.details


def gone(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_one_that_does_not_answer_is_killed_with_what_it_started(plugin, tmp_path):
    plugin(f"sleep 1000 & echo $! > {tmp_path}/child; echo $$ > {tmp_path}/own; wait")
    failure = failed(tmp_path, seconds=0.5)
    assert failure.code is Code.TRY_AGAIN_LATER
    assert failure.msg == "plugin plugin did not answer DEL within 0.5 s and was killed"
    end = time.monotonic() + 10
    pids = [int((tmp_path / name).read_text()) for name in ("own", "child")]
    while not all(map(gone, pids)) and time.monotonic() < end:
        os.sched_yield()
    assert all(map(gone, pids))
    assert not Path(f"/proc/{pids[0]}").exists(), "and it is reaped"


def test_an_add_that_took_too_long_is_taken_back(plugin, tmp_path):
    plugin("[ $CNI_COMMAND = DEL ] || exec sleep 1000")
    assert failed(tmp_path, Command.ADD, seconds=0.5).code is Code.TRY_AGAIN_LATER
    assert calls(tmp_path) == ["ADD", "DEL"]


def test_one_whose_child_left_the_group_and_keeps_the_pipes_does_not_hold_us(plugin, tmp_path):
    plugin(f"setsid sleep 1000 & echo $! > {tmp_path}/child; sleep 1000")
    failed(tmp_path, seconds=0.5)
    os.kill(int((tmp_path / "child").read_text()), 9)


def test_what_it_says_on_standard_error_is_logged(plugin, tmp_path, caplog):
    plugin("echo 'a word' >&2")
    with caplog.at_level(logging.INFO, "netplane.cni"):
        run(tmp_path, Command.DEL)
    (record,) = caplog.records
    assert (record.plugin, record.command, record.said) == ("plugin", "DEL", "a word")


@pytest.mark.parametrize("kind", ["", ".", "..", "../bin/plugin", "/bin/true", "a\\b", "a\0b"])
def test_a_path_is_no_name_of_a_plugin(plugin, tmp_path, kind):
    plugin("exit 0")
    failure = failed(tmp_path, kind=kind)
    assert (failure.code, "is not the name of a plugin" in failure.msg) == (Code.INVALID_CONFIG, True)


def test_it_is_the_first_in_the_path_that_can_be_run(plugin, tmp_path, monkeypatch):
    plugin(f"echo bin >> {tmp_path}/which")
    for folder, make in {
        "a": lambda path: path.mkdir(),
        "b": lambda path: path.symlink_to("/nowhere"),
        "c": lambda path: path.write_text("#!/bin/sh\n"),
        "d": lambda path: path.symlink_to(tmp_path / "bin" / "plugin"),
    }.items():
        (tmp_path / folder).mkdir()
        make(tmp_path / folder / "plugin")
    monkeypatch.chdir(tmp_path)
    folders = ("", ".", "bin", *(str(tmp_path / each) for each in ("none", "a", "b", "c", "d", "bin")))
    run(tmp_path, Command.DEL, path=folders)
    assert (tmp_path / "which").read_text() == "bin\n"
    for command, code in ((Command.ADD, Code.INVALID_CONFIG), (Command.STATUS, Code.NOT_AVAILABLE)):
        failure = failed(tmp_path, command, path=folders[:7])
        assert failure.code is code
        assert failure.msg.startswith('failed to find plugin "plugin" in path [')
    assert failed(tmp_path, path=()).msg == 'failed to find plugin "plugin" in path [nothing]'


def test_one_that_cannot_be_started_says_so(plugin, tmp_path):
    plugin("", head="#!/no/such/interpreter")
    assert (failed(tmp_path).code, failed(tmp_path).details) == (Code.INTERNAL, "No such file or directory")
    (tmp_path / "bin" / "plugin").write_bytes(b"\x7fELF nonsense")
    assert failed(tmp_path).details == "Exec format error"


def test_one_that_is_being_written_is_try_again_later(tmp_path):
    (tmp_path / "bin").mkdir()
    target = tmp_path / "bin" / "plugin"
    target.write_bytes(Path(sys.executable).resolve().read_bytes())
    target.chmod(0o755)
    with target.open("r+b"):
        assert failed(tmp_path).code is Code.TRY_AGAIN_LATER


def test_an_environment_with_a_nul_is_refused(plugin, tmp_path):
    plugin("exit 0")
    assert failed(tmp_path, netns="/run/\0").code is Code.INVALID_ENVIRONMENT


def debian(name):
    missing = not (DEBIAN / name).exists()
    return pytest.mark.skipif(missing, reason=f"{DEBIAN / name} is missing (containernetworking-plugins)")


@debian("host-local")
def test_the_real_host_local(tmp_path):
    ranges = [[{"subnet": "10.1.2.0/30"}], [{"subnet": "fd00:1::/64"}]]
    ipam = {"type": "host-local", "dataDir": str(tmp_path), "ranges": ranges, "routes": [{"dst": "0.0.0.0/0"}]}
    config = CONFIG | {"ipam": ipam}
    here = {"kind": "host-local", "config": config, "path": (str(DEBIAN),)}
    result = run(tmp_path, **here)
    assert [str(each.address) for each in result.addresses] == ["10.1.2.2/30", "fd00:1::2/64"]
    assert [str(each.gateway) for each in result.addresses] == ["10.1.2.1", "fd00:1::1"]
    assert result.routes == (Route(ip_network("0.0.0.0/0")),)
    assert run(tmp_path, Command.CHECK, **here) is None

    again = failed(tmp_path, Command.CHECK, **here, container="c2")
    assert (again.code, again.msg) == (Code.INTERNAL, "host-local: Failed to find address added by container c2")
    full = failed(tmp_path, Command.ADD, **here, container="c2")
    assert "no IP addresses available in range set: 10.1.2.1-10.1.2.2" in str(full)

    for _ in range(2):
        assert run(tmp_path, Command.DEL, **here, netns="") is None
    assert not (tmp_path / "pods" / "10.1.2.2").exists()


@debian("static")
def test_the_real_static(tmp_path):
    ipam = {"type": "static", "addresses": [{"address": "10.9.0.7/24", "gateway": "10.9.0.1"}]}
    ipam["dns"] = {"nameservers": ["10.9.0.53"]}
    result = run(tmp_path, kind="static", config=CONFIG | {"ipam": ipam}, path=(str(DEBIAN),))
    assert result.addresses == (ResultAddress(ip_interface("10.9.0.7/24"), ip_address("10.9.0.1")),)
    assert result.dns == Dns(nameservers=("10.9.0.53",))


@debian("host-local")
def test_a_plugin_too_old_for_a_command_says_so_itself(tmp_path):
    config = CONFIG | {"cniVersion": "9.9.9", "ipam": {"type": "host-local"}}
    failure = failed(tmp_path, kind="host-local", config=config, path=(str(DEBIAN),))
    assert (failure.code, failure.msg) == (Code.INCOMPATIBLE_VERSION, "incompatible CNI versions")


def test_a_plugin_that_never_stops_talking_is_ended(plugin, tmp_path):
    """The agent has the node's memory: one that gushes must not take it."""
    plugin("exec cat /dev/zero")
    assert "more than 4 MiB" in str(failed(tmp_path, Command.ADD))
    plugin("head -c 100000000 /dev/zero >&2; echo so >&2; exit 1")
    assert len(failed(tmp_path).details) < 1 << 17


def test_a_large_configuration_is_handed_over_whole_and_a_deaf_plugin_is_none(plugin, tmp_path):
    config = CONFIG | {"own": "x" * 1_000_000}
    plugin(f"cat > {tmp_path}/stdin")
    run(tmp_path, Command.CHECK, config=config)
    assert json.loads((tmp_path / "stdin").read_text()) == config
    plugin("exec < /dev/null")
    run(tmp_path, Command.CHECK, config=config)
