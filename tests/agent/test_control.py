"""The socket of the running agent: what it says, and that nobody who connects can hold the agent up."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from contextlib import ExitStack
from datetime import UTC, datetime

import pytest
from node_of_agent import NODES, SECONDS, service

from netplane.agent.control import QUESTION_BYTES, ask
from netplane.agent.lock import SOCKET
from netplane.backends.registry import BACKENDS
from netplane.errors import KernelError, NetplaneError

pytestmark = pytest.mark.kernel

NOBODY = ("setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups")


@pytest.fixture
def web(node):
    """A node with Service web: 10.96.0.1 and one endpoint, 10.244.1.5."""
    node.write("web", service("web", 1, "10.244.1.5@n1"))
    return node


def status(node) -> dict:
    return ask(node.run_dir, {"ask": "status"}, SECONDS)


def netplane(node, *words, before=()) -> subprocess.CompletedProcess[str]:
    """`netplane agent WORDS`, where the agent runs."""
    whole = (*before, sys.executable, "-m", "netplane", "agent", *words, "--run-dir", str(node.run_dir))
    return node.namespace.run(
        lambda: subprocess.run(whole, capture_output=True, text=True, check=False, timeout=SECONDS)
    )


def connected(node) -> socket.socket:
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    place = os.open(node.run_dir, os.O_DIRECTORY)
    try:
        made.connect(f"/proc/self/fd/{place}/{SOCKET}")
    finally:
        os.close(place)
    made.settimeout(SECONDS)
    return made


# --- what it says ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", sorted(BACKENDS))
def test_a_healthy_agent_says_what_it_did(web, backend):
    started = datetime.now(UTC)
    with web.agent("--backend", backend) as agent:
        ready = agent.next("ready")
        found = status(web)
        assert agent.process.pid == found["pid"]
    assert found["state"] == "healthy"
    assert found["node"] == "n1"
    assert found["backend"] == {"configured": backend, "running": backend}
    assert found["source"] == {"path": str(web.folder), "complete": True}
    assert (found["services"], found["frontends"]) == (1, 2)
    assert found["lastChange"]["made"] == ready["made"] > 0
    assert found["lastRound"] == found["lastChange"] == found["lastCompare"]
    assert found["failure"] is found["working"] is found["switch"] is None
    assert found["drift"] == {"times": 0, "last": []}
    assert found["problems"] == {"count": 0, "first": []}
    assert found["memoryBytes"] > 1 << 20
    assert found["conntrack"]["limit"] > 0
    for name in ("since", "now", "next"):
        assert found[name].endswith("Z")
        assert abs((datetime.fromisoformat(found[name]) - started).total_seconds()) < 60


def test_numbers_follow_the_manifests(web):
    with web.agent() as agent:
        agent.next("ready")
        web.write("api", service("api", 2, "10.244.1.7@n1"))
        assert agent.next("reconciled")["services"] == 1
        found = status(web)
        assert (found["services"], found["frontends"]) == (2, 4)
        assert found["lastChange"]["at"] > found["lastCompare"]["at"]
        web.remove("web")
        agent.next("reconciled")
        assert (status(web)["services"], status(web)["frontends"]) == (1, 2)


def test_a_failing_agent_says_why_since_when_and_when_it_tries_again(web):
    with web.agent() as agent:
        agent.next("ready")
        web.write("nodes", "# nobody\n")
        failed = agent.next("cannot reconcile; the last good state stays and is tried again")
        found = status(web)
        assert found["state"] == "failing"
        assert found["failure"]["why"] == failed["why"]
        assert found["failure"]["times"] >= 1
        assert found["failure"]["since"] <= found["failure"]["last"] < found["failure"]["next"]
        done = netplane(web, "status")
        assert done.returncode == 1
        assert f"failing: {failed['why']}" in done.stdout
        web.write("nodes", NODES)
        agent.next("recovered")
        assert status(web)["state"] == "healthy"


def test_problems_and_an_incomplete_source_are_told(web):
    web.write("bad", "apiVersion: v1\nkind: [Service\n")
    with web.agent() as agent:
        agent.next("ready")
        found = status(web)
        assert found["state"] == "healthy"
        assert not found["source"]["complete"]
        assert found["problems"]["count"] == 2
        assert {each["where"] for each in found["problems"]["first"]} == {"bad.yaml", "bad.yaml#1"}
        web.remove("bad")
        agent.next("problem solved")
        assert status(web)["source"]["complete"]


def test_the_command_prints_text_or_json_and_exits_0(web):
    with web.agent() as agent:
        agent.next("ready")
        text = netplane(web, "status")
        value = netplane(web, "status", "--output", "json")
    assert (text.returncode, text.stderr) == (value.returncode, value.stderr) == (0, "")
    assert text.stdout.startswith("state         healthy\n")
    assert json.loads(value.stdout)["state"] == "healthy"


@pytest.mark.parametrize("left", ["no directory", "empty directory", "stale socket"])
@pytest.mark.parametrize("words", [("status",), ("backend", "nftables")], ids=lambda words: words[0])
def test_without_an_agent_one_line_says_so(web, left, words):
    if left == "empty directory":
        web.run_dir.mkdir(mode=0o700)
    if left == "stale socket":
        with web.agent() as agent:
            agent.next("ready")
            agent.end(signal.SIGKILL)
    done = netplane(web, *words)
    assert done.returncode == KernelError.exit_code == 5
    assert done.stdout == ""
    assert done.stderr == (
        f"netplane: agent: ask {web.run_dir}/{SOCKET}: "
        "no agent runs here; start one with: netplane agent run --from DIR --node NODE\n"
    )
    assert web.run_dir.exists() is (left != "no directory")


# --- who may ask ----------------------------------------------------------------------------------------------------


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="setpriv (util-linux) is missing")
def test_nobody_is_told_nothing(web):
    if subprocess.run([*NOBODY, sys.executable, "-c", "import netplane"], capture_output=True, check=False).returncode:
        pytest.skip("this user may not read the checkout")
    with web.agent() as agent:
        agent.next("ready")
        done = netplane(web, "status", before=NOBODY)
        assert done.returncode == 4
        assert "run as root" in done.stderr
        assert len(done.stderr.splitlines()) == 1


def test_who_gets_hold_of_the_socket_all_the_same_is_sent_away(web):
    """The mode of a file is one wall; that the kernel says who asks is the other."""
    with web.agent() as agent:
        agent.next("ready")
        place = os.open(web.run_dir, os.O_PATH)
        try:
            (web.run_dir / SOCKET).chmod(0o666)
            script = (
                "import os, socket, sys\n"
                "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
                "asking = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)\n"
                "asking.connect(sys.argv[1])\n"
                "try:\n"
                '    asking.sendall(b\'{"ask": "status"}\\n\'); print(asking.recv(100))\n'
                "except OSError: print(b'')\n"
            )
            web.run_dir.chmod(0o755)
            path = f"/proc/self/fd/{place}/{SOCKET}"
            done = subprocess.run(
                (sys.executable, "-c", script, path), pass_fds=(place,), capture_output=True, text=True, check=False
            )
        finally:
            os.close(place)
        assert done.stdout == "b''\n", done
        assert agent.next("somebody who may not asked the agent")["user"] == 65534


# --- hostile and stuck clients --------------------------------------------------------------------------------------


def still_works(node, agent, last) -> None:
    """The agent answers, and applies a change."""
    assert status(node)["state"] == "healthy"
    node.write(f"more-{last}", service(f"more-{last}", last, "10.244.1.5@n1"))
    node.kernel.wait(lambda: f"10.96.0.{last}" in node.kernel.cluster_ips())
    assert agent.process.poll() is None


@pytest.mark.parametrize(
    "garbage",
    [
        b"\n",
        b"GET / HTTP/1.1\n",
        b"\xff\xfe\x00\n",
        b"[" * 4000 + b"\n",
        b'{"ask": {"ask": "status"}}\n',
        b'{"ask": "backend", "backend": 7}\n',
        b'{"ask": "backend", "backend": "ipfw"}\n',
        b"null\n",
    ],
    ids=lambda garbage: repr(garbage[:12]),
)
def test_a_question_that_makes_no_sense_gets_an_error(web, garbage):
    with web.agent() as agent:
        agent.next("ready")
        with connected(web) as client:
            client.sendall(garbage)
            said = json.loads(client.makefile().read())
            assert said["error"]
            assert said["exitCode"] == 3
        still_works(web, agent, 2)


def test_a_line_that_never_ends_is_cut_off(web):
    with web.agent() as agent:
        agent.next("ready")
        with connected(web) as client, pytest.raises(OSError, match=r"Broken pipe|reset"):
            client.sendall(b"x" * 1000 * QUESTION_BYTES)
        still_works(web, agent, 2)


def test_a_client_that_says_nothing_is_sent_away_after_a_while(web):
    with web.agent() as agent:
        agent.next("ready")
        with connected(web) as client:
            still_works(web, agent, 2)
            assert closed(client)


def test_clients_that_take_no_answer_hold_up_nobody(web):
    with web.agent() as agent, ExitStack() as stack:
        agent.next("ready")
        for _ in range(50):
            client = stack.enter_context(connected(web))
            client.sendall(b'{"ask": "status"}\n')
        still_works(web, agent, 2)


def test_a_hundred_clients_at_once(web):
    with web.agent() as agent, ExitStack() as stack:
        agent.next("ready")
        silent = [stack.enter_context(connected(web)) for _ in range(100)]
        asking = [stack.enter_context(connected(web)) for _ in range(100)]
        for client in asking:
            client.sendall(b'{"ask": "status"}\n')
        for client in asking:
            assert json.loads(client.makefile().readline())["answer"]["state"] == "healthy"
        still_works(web, agent, 2)
        assert all(closed(client) for client in silent)


def test_more_clients_than_anybody_needs_are_sent_away_and_the_rest_is_served(web):
    with web.agent() as agent, ExitStack() as stack:
        agent.next("ready")
        clients = [stack.enter_context(connected(web)) for _ in range(400)]
        assert all(closed(client) for client in clients)
        still_works(web, agent, 2)


def closed(client: socket.socket) -> bool:
    """Whether the agent closes the connection in time."""
    try:
        return client.recv(1) == b""
    except ConnectionResetError:
        return True


def test_clients_at_the_end_do_not_keep_it_from_ending(web):
    with web.agent() as agent, ExitStack() as stack:
        agent.next("ready")
        stack.enter_context(connected(web))
        stack.enter_context(connected(web)).sendall(b'{"ask"')
        assert agent.end() == 0
    assert "Traceback" not in "".join(agent.raw)


def test_what_comes_from_no_agent_is_an_error(tmp_path):
    (tmp_path / "run").mkdir(mode=0o700)
    script = (
        "import socket, sys\n"
        "made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM); made.bind(sys.argv[1]); made.listen()\n"
        "print('listening', flush=True)\n"
        "client = made.accept()[0]; client.recv(100); client.sendall(b'hello\\n')\n"
    )
    path = os.path.relpath(tmp_path / "run" / SOCKET)
    with subprocess.Popen((sys.executable, "-c", script, path), stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout.readline() == "listening\n"
        with pytest.raises(NetplaneError, match="what came back is no answer: 'hello'"):
            ask(tmp_path / "run", {"ask": "status"}, SECONDS)
