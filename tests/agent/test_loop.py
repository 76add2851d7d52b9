"""The agent as a process: it follows the manifests, says what it does, survives its end and keeps its hands off."""

import os
import re
import signal
import time

import pytest
from node_of_agent import NODES, service

from netplane.errors import InputError, KernelError, OwnershipError
from netplane.kernel import command

pytestmark = pytest.mark.kernel

BROKEN = "apiVersion: v1\nkind: [Service\n"
LINE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z (INFO|WARNING|ERROR) [a-z]")


@pytest.fixture
def web(node):
    """A node with Service web: 10.96.0.1 and one endpoint, 10.244.1.5."""
    node.write("web", service("web", 1, "10.244.1.5@n1"))
    return node


# --- it follows the manifests ---------------------------------------------------------------------------------------


def test_when_it_says_ready_the_kernel_has_everything(web):
    with web.agent() as agent:
        assert agent.told_ready() == b"1"
        assert web.kernel.endpoints() == {"10.244.1.5"}
        line = agent.next("ready")
    assert (line["level"], line["node"], line["backend"], line["services"]) == ("INFO", "n1", "nftables", 1)
    assert line["made"] > 0
    assert line["swept"] == 0


def test_a_manifest_renamed_into_place_changes_the_kernel_and_one_line_says_so(web):
    with web.agent() as agent:
        agent.next("ready")
        web.write("web", service("web", 1, "10.244.1.5@n1", "10.244.2.6@n2"))
        web.kernel.wait(lambda: web.kernel.endpoints() == {"10.244.1.5", "10.244.2.6"})
        line = agent.next("reconciled")
        assert line["services"] == 1
        assert line["made"] > 0
        web.write("web", service("web", 1, "10.244.2.6@n2"))
        web.kernel.wait(lambda: web.kernel.endpoints() == {"10.244.2.6"})
        assert agent.next("reconciled")["swept"] > 0
        assert agent.end() == 0
    assert agent.count("reconciled") == 2


def test_services_come_and_go_with_their_files(web):
    with web.agent() as agent:
        agent.next("ready")
        web.write("api", service("api", 2, "10.244.1.7@n1"))
        web.kernel.wait(
            lambda: web.kernel.cluster_ips() == {"10.96.0.1", "fd00:10:96::1", "10.96.0.2", "fd00:10:96::2"}
        )
        web.remove("web")
        web.kernel.wait(lambda: web.kernel.cluster_ips() == {"10.96.0.2", "fd00:10:96::2"})
        assert web.kernel.endpoints() == {"10.244.1.7"}


def test_nothing_is_said_or_changed_when_nothing_changed(web):
    with web.agent("--at-least", "0.001", "--at-most", "0.05") as agent:
        agent.next("ready")
        before = web.kernel.rules()
        os.utime(web.folder / "web.yaml")
        web.write("web", (web.folder / "web.yaml").read_text())
        agent.process.send_signal(signal.SIGHUP)
        assert agent.is_quiet(0.4)  # eight rounds that compare everything
        assert web.kernel.rules() == before
        web.write("web", service("web", 1, "10.244.1.6@n1"))
        agent.next("reconciled")


def test_many_changes_at_once_make_few_rounds(web):
    with web.agent("--at-least", "0.5") as agent:
        agent.next("ready")
        for last in range(2, 32):
            web.write(f"s{last}", service(f"s{last}", last, "10.244.1.5@n1"))
        web.kernel.wait(lambda: len(web.kernel.cluster_ips()) == 2 * 31)
        assert agent.end() == 0
    assert agent.count("reconciled") <= 3
    assert sum(line["services"] for line in agent.said if line["message"] == "reconciled") == 30


def test_sighup_reads_what_inotify_cannot_see(web, tmp_path):
    outside = tmp_path / "outside.yaml"
    outside.write_text(service("api", 2, "10.244.1.7@n1"))
    (web.folder / "api.yaml").symlink_to(outside)
    with web.agent() as agent:
        agent.next("ready")
        outside.write_text(service("api", 2, "10.244.1.8@n1"))
        assert agent.is_quiet(0.3)
        agent.process.send_signal(signal.SIGHUP)
        web.kernel.wait(lambda: web.kernel.endpoints() == {"10.244.1.5", "10.244.1.8"})


# --- broken manifests -----------------------------------------------------------------------------------------------


def test_a_broken_file_leaves_the_kernel_as_it_is_until_it_is_corrected(web):
    with web.agent() as agent:
        agent.next("ready")
        before = web.kernel.rules()
        web.write("web", BROKEN)
        stays, broken = agent.next("problem"), agent.next("problem")
        assert stays["level"] == broken["level"] == "WARNING"
        assert stays["what"].startswith("web.yaml: EndpointSlice shop/web-v4 and 2 more: stays in use")
        assert broken["what"].startswith("web.yaml#1: line 3: is not YAML")
        assert agent.is_quiet(0.2)
        assert web.kernel.rules() == before
        web.write("web", service("web", 1, "10.244.1.6@n1"))
        assert [agent.next("problem solved")["what"] for _ in range(2)] == [stays["what"], broken["what"]]
        web.kernel.wait(lambda: web.kernel.endpoints() == {"10.244.1.6"})
        assert agent.end() == 0
    assert (agent.count("problem"), agent.count("problem solved"), agent.count("reconciled")) == (2, 2, 1)


def test_a_broken_file_does_not_stop_the_others(web):
    with web.agent() as agent:
        agent.next("ready")
        web.write("web", BROKEN)
        web.write("api", service("api", 2, "10.244.1.7@n1"))
        web.kernel.wait(lambda: web.kernel.endpoints() == {"10.244.1.5", "10.244.1.7"})


def test_a_node_that_vanishes_keeps_everything_and_its_return_is_seen_at_once(web):
    with web.agent() as agent:
        agent.next("ready")
        before = web.kernel.rules()
        web.write("nodes", "# nobody\n")
        failed = agent.next("cannot reconcile; the last good state stays and is tried again")
        assert failed["level"] == "ERROR"
        assert "Node n1" in failed["why"]
        assert web.kernel.rules() == before
        web.write("nodes", NODES)
        assert agent.next("recovered")["from"] == failed["why"]
        assert web.kernel.rules() == before


def test_a_correction_is_not_kept_waiting_by_the_failures_before_it(web):
    with web.agent("--at-most", "3600") as agent:
        agent.next("ready")
        web.write("nodes", "# nobody\n")
        agent.next("cannot reconcile; the last good state stays and is tried again")
        assert agent.is_quiet(1.7)  # retries after 0.5 and 1 s have failed, the next is 2 s after the last
        started = time.monotonic()
        web.write("nodes", NODES)
        agent.next("recovered")
        assert time.monotonic() - started < 1


def test_the_folder_may_go_and_come_back(web):
    with web.agent() as agent:
        agent.next("ready")
        before = web.kernel.rules()
        moved = web.folder.rename(web.folder.with_name("elsewhere"))
        assert "its objects stay in use" in agent.next("problem")["what"]
        assert web.kernel.rules() == before
        moved.rename(web.folder)
        agent.next("problem solved")
        web.write("web", service("web", 1, "10.244.1.6@n1"))
        web.kernel.wait(lambda: web.kernel.endpoints() == {"10.244.1.6"})


# --- its end and its return -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_it_ends_when_asked_and_the_data_path_stays(web, number):
    with web.agent() as agent:
        agent.next("ready")
        before = web.kernel.rules()
        started = time.monotonic()
        assert agent.end(number) == 0
        assert time.monotonic() - started < 2
    assert agent.said[-1]["signal"] == number.name
    assert web.kernel.rules() == before


def test_a_restart_after_kill_changes_nothing(web):
    with web.agent() as agent:
        agent.next("ready")
        before = web.kernel.rules()
        assert agent.end(signal.SIGKILL) == -signal.SIGKILL
    with web.agent() as agent:
        line = agent.next("ready")
    assert (line["made"], line["swept"]) == (0, 0)
    assert web.kernel.rules() == before


def test_a_restart_applies_what_was_changed_meanwhile(web):
    web.write("api", service("api", 2, "10.244.1.7@n1"))
    with web.agent() as agent:
        agent.next("ready")
    web.remove("api")
    web.write("web", service("web", 1, "10.244.1.6@n1"))
    with web.agent() as agent:
        line = agent.next("ready")
        assert web.kernel.endpoints() == {"10.244.1.6"}
    assert line["made"] > 0
    assert line["swept"] > 0


def test_after_a_restart_with_a_broken_file_nothing_is_swept_until_it_is_corrected(web):
    """Decision 0011: what the file once meant is unknown."""
    web.write("api", service("api", 2, "10.244.1.7@n1"))
    with web.agent() as agent:
        agent.next("ready")
    web.write("web", BROKEN)
    web.write("api", service("api", 2, "10.244.1.8@n1"))
    with web.agent("--at-most", "0.1") as agent:
        line = agent.next("ready")
        assert line["made"] > 0
        assert line["swept"] == 0
        assert web.kernel.endpoints() == {"10.244.1.5", "10.244.1.7", "10.244.1.8"}
        problems = [each["what"] for each in agent.said if each["message"] == "problem"]
        assert problems[0] == "web.yaml: file: was never read well; until it is corrected or deleted nothing is swept"
        assert problems[1].startswith("web.yaml#1: line 3: is not YAML")
        assert agent.is_quiet(0.3)
        web.write("web", service("web", 1, "10.244.1.6@n1"))
        web.kernel.wait(lambda: web.kernel.endpoints() == {"10.244.1.6", "10.244.1.8"})


def test_after_a_restart_deleting_the_broken_file_sweeps_what_it_meant(web):
    web.write("api", service("api", 2, "10.244.1.7@n1"))
    with web.agent() as agent:
        agent.next("ready")
    web.write("web", BROKEN)
    with web.agent() as agent:
        agent.next("ready")
        assert web.kernel.endpoints() == {"10.244.1.5", "10.244.1.7"}
        web.remove("web")
        web.kernel.wait(lambda: web.kernel.endpoints() == {"10.244.1.7"})


# --- others on the same host ----------------------------------------------------------------------------------------


def test_what_somebody_removes_is_repaired_at_the_next_comparison(web):
    with web.agent("--at-most", "0.3") as agent:
        agent.next("ready")
        web.kernel.nft("delete", "table", "ip", "netplane")
        web.kernel.wait(lambda: web.kernel.endpoints() == {"10.244.1.5"})
        assert agent.next("reconciled")["services"] == 0


def test_tables_of_others_are_left_alone(web):
    web.kernel.nft("add table inet netplane { chain ours { accept; }; }; add table ip other { chain c { drop; }; }")
    before = (
        web.kernel.nft("-a", "list", "table", "inet", "netplane"),
        web.kernel.nft("-a", "list", "table", "ip", "other"),
    )
    with web.agent() as agent:
        agent.next("ready")
    after = (
        web.kernel.nft("-a", "list", "table", "inet", "netplane"),
        web.kernel.nft("-a", "list", "table", "ip", "other"),
    )
    assert after == before


def test_a_foreign_table_of_our_name_met_on_the_way_is_an_error_once_and_recovered_from(web):
    with web.agent("--at-most", "0.1") as agent:
        agent.next("ready")
        web.kernel.nft("delete table ip netplane; add table ip netplane { chain theirs { accept; }; }")
        failed = agent.next("cannot reconcile; the last good state stays and is tried again")
        assert "is not ours" in failed["why"]
        assert agent.is_quiet(0.3)
        assert "theirs" in web.kernel.nft("list", "table", "ip", "netplane")
        web.kernel.nft("delete", "table", "ip", "netplane")
        agent.next("recovered")
        assert web.kernel.endpoints() == {"10.244.1.5"}


# --- what it says, and to whom --------------------------------------------------------------------------------------


def test_text_lines_have_a_time_a_level_a_phrase_and_fields(web):
    with web.agent("--log", "text") as agent:
        assert agent.told_ready() == b"1"
        agent.process.terminate()
        assert agent.process.wait(10) == 0
    assert all(LINE.match(line) for line in agent.raw)
    assert "INFO ready services=1 made=" in agent.raw[0]


def test_a_systemd_that_does_not_listen_does_not_end_it(web, tmp_path):
    with web.agent(environment={"NOTIFY_SOCKET": str(tmp_path / "nobody")}) as agent:
        agent.next("ready")
        assert str(tmp_path / "nobody") in agent.next("cannot tell systemd")["why"]
        web.write("web", service("web", 1, "10.244.1.6@n1"))
        web.kernel.wait(lambda: web.kernel.endpoints() == {"10.244.1.6"})


# --- starts that cannot work: one line, the documented exit code, nothing applied ------------------------------------


def refused(node, *options, folder=None):
    """The exit code and the one line of an agent that ends by itself, having changed nothing."""
    before = node.kernel.rules()
    done = node.run_agent(*options, folder=folder)
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert node.kernel.rules() == before
    return done.returncode, done.stderr


def test_a_foreign_table_of_our_name_ends_the_start(web):
    web.kernel.nft("add table ip6 netplane { chain theirs { accept; }; }")
    code, line = refused(web)
    assert code == OwnershipError.exit_code == KernelError.exit_code == 5
    assert "table ip6 netplane is not ours" in line
    assert "nft delete table ip6 netplane" in line


def test_an_unknown_node_ends_the_start(web):
    code, line = refused(web, "--node", "n7")
    assert code == InputError.exit_code == 3
    assert "Node n7: not found (Nodes there are: n1)" in line


def test_a_folder_that_does_not_exist_ends_the_start(web, tmp_path):
    code, line = refused(web, folder=tmp_path / "nowhere")
    assert code == 3
    assert "nowhere: does not exist" in line


def test_a_folder_without_manifests_ends_the_start(web, tmp_path):
    (tmp_path / "empty").mkdir()
    code, line = refused(web, folder=tmp_path / "empty")
    assert code == 3
    assert "holds no manifest" in line


@pytest.mark.parametrize("options", [("--local", "eth0"), ("--node-ports", "1.2.3.4/99"), ("--service-ranges", "")])
def test_settings_that_mean_nothing_end_the_start(web, options):
    code, line = refused(web, *options)
    assert code == 3
    assert options[0].removeprefix("--") in line


@pytest.mark.parametrize(("variant", "save"), [("legacy", "iptables-legacy-save"), ("nf_tables", "iptables-nft-save")])
def test_whose_rules_iptables_writes_is_an_option(web, variant, save, monkeypatch, tmp_path):
    monkeypatch.setenv("XTABLES_LOCKFILE", str(tmp_path / "lock"))
    with web.agent("--backend", "iptables", "--iptables-variant", variant) as agent:
        agent.next("ready")

        def saved(program: str) -> str:
            return web.namespace.run(lambda: command.run(program, "-t", "nat", mechanism="iptables", doing="test"))

        for program in ("iptables-legacy-save", "iptables-nft-save"):
            assert ("-j KUBE-SEP-" in saved(program)) == (program == save)
