"""What init systems do to the agent, and what it tells them: SIGHUP at any time, sd_notify(3), its end."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from node_of_agent import NODES, SECONDS, service, words_of

from netplane.agent.control import ask
from netplane.agent.lock import PID_FILE, SOCKET
from netplane.closing import Closing

pytestmark = pytest.mark.kernel

MANY = 1500
"""Services whose first round takes long enough to be asked meanwhile."""


@pytest.fixture
def web(node):
    """A node with Service web: 10.96.0.1 and one endpoint, 10.244.1.5."""
    node.write("web", service("web", 1, "10.244.1.5@n1"))
    return node


@pytest.fixture
def busy(node):
    """A node with so many Services that the agent is not ready at once."""
    for number in range(MANY):
        ip = f"10.97.{number // 250}.{number % 250 + 1}"
        text = service(f"s{number}", 1, "10.244.1.5@n1", clusterIP=ip, clusterIPs=[ip])
        (node.folder / f"s{number}.yaml").write_text(text)
    return node


class Systemd(Closing):
    """Whoever listens at NOTIFY_SOCKET."""

    def __init__(self, path: Path) -> None:
        self.environment = {"NOTIFY_SOCKET": str(path)}
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.settimeout(SECONDS)

    def next(self) -> str:
        return self._socket.recv(4096).decode()

    def until(self, said: str) -> list[str]:
        """Everything up to the first message that begins with `said`."""
        heard = [self.next()]
        while not heard[-1].startswith(said):
            heard.append(self.next())
        return heard

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def systemd(tmp_path) -> Iterator[Systemd]:
    with Systemd(tmp_path / "notify") as made:
        yield made


# --- sd_notify ------------------------------------------------------------------------------------------------------


def test_systemd_hears_of_the_start_of_reloads_of_failures_and_of_the_end(web, systemd):
    with web.agent(environment=systemd.environment) as agent:
        assert systemd.next() == "READY=1"
        assert web.kernel.endpoints() == {"10.244.1.5"}
        assert systemd.next() == "STATUS=nftables: the kernel is up to date"
        agent.process.send_signal(signal.SIGHUP)
        reloading = systemd.next().splitlines()
        assert reloading[0] == "RELOADING=1"
        assert int(reloading[1].removeprefix("MONOTONIC_USEC=")) <= time.monotonic_ns() // 1000
        assert systemd.next() == "READY=1"
        web.write("nodes", "# nobody\n")
        assert systemd.next().startswith("STATUS=nftables: failing: local detection by pod range: Node n1: not found")
        web.write("nodes", NODES)
        assert systemd.next() == "STATUS=nftables: the kernel is up to date"
        assert agent.end() == 0
        assert systemd.next() == "STOPPING=1"


def test_the_watchdog_hears_of_it_as_often_as_it_wants(web, systemd):
    environment = systemd.environment | {"WATCHDOG_USEC": "200000"}
    with web.agent(environment=environment) as agent:
        agent.next("ready")
        for _ in range(5):
            systemd.until("WATCHDOG=1")


@pytest.mark.parametrize("environment", [{"WATCHDOG_USEC": "1000", "WATCHDOG_PID": "1"}, {"WATCHDOG_USEC": "soon"}])
def test_a_watchdog_that_is_not_for_us_hears_nothing(web, systemd, environment):
    with web.agent(environment=systemd.environment | environment) as agent:
        agent.next("ready")
        assert agent.end() == 0
        assert "WATCHDOG=1" not in systemd.until("STOPPING=1")


def test_the_watchdog_is_kept_quiet_during_a_long_start(busy, systemd):
    environment = systemd.environment | {"WATCHDOG_USEC": "100000"}
    with busy.agent(environment=environment) as agent:
        assert systemd.until("READY=1").count("WATCHDOG=1") > 1
        agent.next("ready")


# --- while it starts ------------------------------------------------------------------------------------------------


def appears(path: Path) -> None:
    deadline = time.monotonic() + SECONDS
    while not path.exists():
        assert time.monotonic() < deadline


def test_it_answers_while_it_starts(busy):
    with busy.agent() as agent:
        appears(busy.run_dir / SOCKET)
        found = ask(busy.run_dir, {"ask": "status"}, SECONDS)
        assert found["state"] == "starting"
        assert found["working"]["at"] == "round"
        assert found["services"] == 0
        agent.next("ready")
        assert ask(busy.run_dir, {"ask": "status"}, SECONDS)["services"] == MANY


def test_sighup_does_not_end_it_while_it_starts(busy):
    with busy.agent() as agent:
        appears(busy.run_dir / PID_FILE)
        for _ in range(50):
            agent.process.send_signal(signal.SIGHUP)
        agent.next("ready")
        assert agent.process.poll() is None


def test_sighup_between_its_first_instruction_and_its_handlers_waits(web):
    """The signal is held back before anything that takes time."""
    words = words_of(web.folder, web.run_dir)
    for _ in range(3):
        agent = web.namespace.run(lambda: subprocess.Popen(words, stderr=subprocess.PIPE, text=True))
        with agent:
            status = Path(f"/proc/{agent.pid}/status")
            deadline = time.monotonic() + SECONDS
            while not blocked(status, signal.SIGHUP) and not caught(status, signal.SIGHUP):
                assert time.monotonic() < deadline
            agent.send_signal(signal.SIGHUP)
            assert " ready " in next(line for line in agent.stderr if " ready " in line)
            agent.terminate()
            assert agent.wait(SECONDS) == 0


def blocked(status: Path, number: signal.Signals) -> bool:
    return _in_mask(status, "SigBlk", number)


def caught(status: Path, number: signal.Signals) -> bool:
    return _in_mask(status, "SigCgt", number)


def _in_mask(status: Path, name: str, number: signal.Signals) -> bool:
    mask = next(line for line in status.read_text().splitlines() if line.startswith(name))
    return bool(int(mask.split()[1], 16) >> number - 1 & 1)


def test_sigterm_while_it_starts_ends_it_after_what_it_is_at(busy):
    with busy.agent() as agent:
        appears(busy.run_dir / SOCKET)
        ask(busy.run_dir, {"ask": "status"}, SECONDS)
        assert agent.end() == 0
        assert agent.count("ready") == 0
        assert len(busy.kernel.cluster_ips()) == MANY
    assert [*busy.run_dir.iterdir()] == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_its_end_waits_for_nobody(web, number):
    with web.agent() as agent:
        agent.next("ready")
        for _ in range(3):
            os.kill(agent.process.pid, number)
        assert agent.end(number) == 0
