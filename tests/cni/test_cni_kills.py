"""A thousand containers come and go while agent and launchers are killed at any moment. Nothing may be left.

NETPLANE_CNI_CONTAINERS and NETPLANE_CNI_SEED choose another run; what failed names its seed.
"""

from __future__ import annotations

import os
import random
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from cni_node import Container, ip
from pod_agent import PodAgent

from cni import store
from netplane.kernel import command
from netplane.kernel.conntrack import read as connections

pytestmark = pytest.mark.kernel

CONTAINERS = int(os.environ.get("NETPLANE_CNI_CONTAINERS", "1000"))
SEED = int(os.environ.get("NETPLANE_CNI_SEED", "4"))
SECONDS = 60.0
ADDRESSES = 253
"""Of 10.88.1.0/24, without network, gateway and broadcast."""


@pytest.fixture
def agent(tmp_path) -> Iterator[PodAgent]:
    with PodAgent(tmp_path) as made:
        yield made


class Lives:
    """What happens to one container after another."""

    def __init__(self, agent: PodAgent, mode: str) -> None:
        self.agent, self.mode = agent, mode
        self.ended = threading.Event()
        self.problems: list[str] = []
        self.added = 0

    def config(self, number: int) -> dict:
        ports = [{"HostPort": 1024 + number, "ContainerPort": 80, "Protocol": ("tcp", "udp")[number % 2], "HostIP": ""}]
        bandwidth = {"IngressRate": 10**7, "IngressBurst": 2**32 - 1, "EgressRate": 0, "EgressBurst": 0}
        return {
            "cniVersion": "1.0.0",
            "name": "pods",
            "type": "netplane",
            "mode": self.mode,
            "ipam": {"nodeRanges": True},
            "runtimeConfig": {"portMappings": ports} | ({"bandwidth": bandwidth} if number % 10 == 0 else {}),
        }

    def one(self, number: int) -> None:
        """From its first ADD to its last DEL, if there is one."""
        chance = random.Random(f"{SEED}-{number}")
        with Container(f"c{number}") as container:
            if chance.random() < 0.1:
                self._killed(number, container, chance)
            else:
                self._add(number, container, chance)
            if chance.random() < 0.05:
                return  # a runtime that died: nobody asks for DEL
            self._del(number, container.namespace.path if chance.random() < 0.7 else "", chance)
            if chance.random() < 0.3:
                self._del(number, "", chance)

    def _add(self, number: int, container: Container, chance: random.Random) -> None:
        """As a runtime does it: "try again later" is followed by DEL, and by another ADD when somebody serves."""
        while True:
            code, said = self.agent.ask("ADD", self.config(number), container.name, container.namespace.path)
            if not code:
                self.added += 1
                return
            if said["code"] != 11:
                self.problems.append(f"ADD {number}: {said}")
                return
            self._del(number, container.namespace.path, chance)
            assert self.agent.serving.wait(SECONDS)

    def _killed(self, number: int, container: Container, chance: random.Random) -> None:
        process = self.agent.spawn("ADD", self.config(number), container.name, container.namespace.path)
        try:
            process.wait(chance.random() * 0.004)
        except subprocess.TimeoutExpired:
            process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()

    def _del(self, number: int, netns: object, chance: random.Random) -> None:
        """DEL never fails, whether an agent is there or not."""
        code, said = self.agent.ask("DEL", self.config(number), f"c{number}", str(netns))
        if code:
            self.problems.append(f"DEL {number}: {said}")

    def killer(self) -> None:
        """Kills the agent again and again, and starts it."""
        chance = random.Random(SEED)
        while not self.ended.wait(0.2 + chance.random()):
            self.agent.kill()
            if chance.random() < 0.3:
                self.ended.wait(chance.random() * 0.3)  # for a while there is none
            self.agent.start()


@pytest.mark.parametrize("mode", ["bridge", "routed"])
def test_random_kills_leave_nothing(agent, mode):
    agent.start()
    lives = Lives(agent, mode)
    killer = threading.Thread(target=lives.killer)
    killer.start()
    try:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lives.one, range(CONTAINERS // 2)))
    finally:
        lives.ended.set()
        killer.join()
    assert lives.problems == [], f"seed {SEED}"
    assert lives.added > CONTAINERS // 4
    wait(agent, lambda: not any(agent.status()[each] for each in ("attachments", "pending", "problems")))
    assert nothing_left(agent) == [], f"seed {SEED}"
    _all_addresses_are_free(agent, lives)


def wait(agent: PodAgent, holds) -> None:
    deadline = time.monotonic() + SECONDS
    while not holds():
        assert time.monotonic() < deadline, (agent.status(), store.read(agent.state_dir / "cni"), agent.said()[-3000:])
        agent.status()


def nothing_left(agent: PodAgent) -> list[str]:
    """What of containers is still on the node."""
    links = [each["ifname"] for each in ip(agent.namespace, "link", "show")]
    left = [f"link {each}" for each in links if each not in ("lo", "cni0")]
    left += [f"route {each}" for v in "46" for each in ip(agent.namespace, f"-{v}", "route", "show", "proto", "97")]
    said = agent.namespace.run(lambda: command.run("nft", "list", "ruleset", mechanism="nftables", doing="test"))
    left += [line.strip() for line in said.splitlines() if "elements" in line]
    left += [str(each) for each in agent.namespace.run(connections)]
    left += [str(each) for each in store.read(agent.state_dir / "cni")]
    return left + [f"spool {each}" for each in agent.spool.glob("*.del")]


def _all_addresses_are_free(agent: PodAgent, lives: Lives) -> None:
    """The whole range can be given away, each address once."""
    config = lives.config(0) | {"runtimeConfig": {}}
    containers = [Container(f"all{number}") for number in range(ADDRESSES)]
    try:
        with ThreadPoolExecutor(8) as pool:
            path = [each.namespace.path for each in containers]
            names = [each.name for each in containers]
            answers = list(pool.map(lambda name, path: agent.ask("ADD", config, name, path), names, path))
            assert [said for code, said in answers if code] == []
            assert len({each["address"] for _, said in answers for each in said["ips"]}) == 2 * ADDRESSES
            list(pool.map(lambda name: agent.ask("DEL", config, name), names))
    finally:
        for each in containers:
            each.close()
    wait(agent, lambda: not agent.status()["attachments"] and not agent.status()["pending"])
    assert nothing_left(agent) == []
