"""The backend is changed while the agent runs: what is asked first, what is counted, and what a failure leaves."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from ipaddress import ip_address
from itertools import permutations

import pytest
from node_of_agent import NODES, SECONDS, Kernel, service

from netplane.agent.control import Refusal, ask
from netplane.agent.network import Answers, Look, PodNetwork
from netplane.agent.pace import Reach
from netplane.agent.switch import Connections, compare, established
from netplane.agent.work import AgentOptions, NotSwitched, Work
from netplane.backends.backend import Backend, Compiled
from netplane.backends.nftables import NFTABLES
from netplane.backends.registry import BACKENDS
from netplane.errors import RequirementError
from netplane.kernel.conntrack import Connection, Status, Tuple
from netplane.kernel.host import Host, HostOptions
from netplane.kernel.netns import Namespace
from netplane.model.address import Family
from netplane.model.service import ServiceId
from netplane.plan.settings import Settings
from netplane.programs.nftables import Field, Part, SetSpec

TCP, UDP, SCTP = 6, 17, 132
ESTABLISHED, FIN_WAIT, TIME_WAIT, CLOSED = 3, 4, 7, 8
DNAT, SNAT = Status.DESTINATION_TRANSLATED, Status.SOURCE_TRANSLATED


# --- counting -------------------------------------------------------------------------------------------------------


def connection(
    port: int = 40000,
    server: str = "10.244.1.5",
    *,
    protocol: int = TCP,
    status: Status = DNAT | Status.ASSURED,
    state: int | None = ESTABLISHED,
    zone: int = 0,
) -> Connection:
    """From a pod at 10.244.1.9 to 10.96.0.1:80, answered by `server`."""
    client, frontend = ip_address("10.244.1.9"), ip_address("10.96.0.1")
    original, reply = Tuple(client, port, frontend, 80), Tuple(ip_address(server), 8080, client, port)
    return Connection(protocol, original, reply, status, state, zone=zone)


@pytest.mark.parametrize(
    ("found", "counts"),
    [
        (connection(), True),
        (connection(status=SNAT), True),
        (connection(status=Status.ASSURED), False),
        (connection(state=2), False),  # a handshake
        (connection(state=FIN_WAIT), False),
        (connection(state=TIME_WAIT), False),
        (connection(protocol=SCTP, state=None), True),
        (connection(protocol=SCTP, state=None, status=DNAT), False),
        (connection(protocol=UDP, state=None), False),
    ],
)
def test_which_connections_count(found, counts):
    assert bool(established([found])) is counts


@pytest.mark.parametrize(
    ("now", "fate"),
    [
        ([connection()], Connections(kept=1)),
        ([connection(), connection(40001), connection(40000, "10.244.1.6", protocol=SCTP)], Connections(kept=1)),
        ([], Connections(broken=1)),
        ([connection(40001)], Connections(broken=1)),
        ([connection(zone=1)], Connections(broken=1)),
        ([connection(server="10.244.1.6")], Connections(broken=1)),
        ([connection(status=Status.ASSURED)], Connections(broken=1)),
        ([connection(state=FIN_WAIT)], Connections(ended=1)),
        ([connection(state=CLOSED)], Connections(ended=1)),
    ],
)
def test_what_became_of_a_connection(now, fate):
    assert compare(established([connection()]), now) == fate


# --- what a failure leaves ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Stumbling:
    """A backend whose program the kernel refuses half-way: a set is made, and then its elements are too long."""

    name: str = "stumbling"
    needs: tuple = ()
    deviations: tuple = ()

    def compile(self, plan, since=None) -> Compiled:
        compiled = NFTABLES.compile(plan)
        program = compiled.program.nftables
        four = program.structure[Family.IPV4]
        sets = {**four.sets, "short": SetSpec("short", "{ type ipv4_addr; }", key=(Field.ADDRESS4,))}
        too_long = Part(elements={(Family.IPV4, "short"): {bytes(16): None}})
        broken = replace(
            program,
            structure={**program.structure, Family.IPV4: replace(four, sets=sets)},
            parts={**program.parts, ServiceId("shop", "broken"): too_long},
        )
        return Compiled(plan, replace(compiled.program, nftables=broken))

    def text(self, program) -> str:
        return NFTABLES.text(program)


@dataclass(frozen=True)
class Worker:
    work: Work
    kernel: Kernel
    namespace: Namespace

    def switch(self, to: Backend):
        return self.namespace.run(lambda: self.work.switch(to))


def satisfied(_: Backend) -> None:
    """Nothing is missing."""


@pytest.fixture
def worker(tmp_path, request) -> Iterator[Worker]:
    """The agent's worker on node n1 with Service web, after its first round."""
    require = getattr(request, "param", satisfied)
    (tmp_path / "nodes.yaml").write_text(NODES)
    (tmp_path / "web.yaml").write_text(service("web", 1, "10.244.1.5@n1"))
    options = AgentOptions("n1", tmp_path, NFTABLES, Settings(), require)
    with (
        Namespace() as namespace,
        Kernel(namespace) as kernel,
        namespace.run(Host) as host,
        namespace.run(lambda: PodNetwork("n1", None, HostOptions(run_directory=tmp_path / "run"))) as network,
    ):
        work = Work(options, host, network)
        namespace.run(lambda: work.round(None, Reach.EVERYTHING, Look.CHANGES, Answers()))
        yield Worker(work, kernel, namespace)


@pytest.mark.kernel
class TestFailure:
    def test_half_a_switch_is_taken_back(self, worker):
        before = worker.kernel.nft("list", "ruleset")
        with pytest.raises(NotSwitched, match=r"stumbling: .*short.*nftables stays, whole, as before") as refused:
            worker.switch(Stumbling())
        assert refused.value.restored
        assert refused.value.exit_code == 5
        assert worker.kernel.nft("list", "ruleset") == before
        assert worker.work.backend is NFTABLES
        done = worker.namespace.run(lambda: worker.work.round(frozenset(), Reach.KERNEL, Look.CHANGES, Answers()))
        assert not done.summary.changed

    def test_if_neither_can_serve_it_says_so(self, worker):
        worker.kernel.nft("delete table ip6 netplane; add table ip6 netplane { chain theirs { accept; }; }")
        with pytest.raises(NotSwitched, match=r"nftables stays, and is not whole: .*is not ours") as refused:
            worker.switch(Stumbling())
        assert not refused.value.restored

    def missing(_: Backend) -> None:
        raise RequirementError("the program ipfw is not installed")

    @pytest.mark.parametrize("worker", [missing], indirect=True, ids=["missing"])
    def test_what_the_host_lacks_is_said_before_anything_is_touched(self, worker):
        before = worker.kernel.rules()
        with pytest.raises(NotSwitched, match="ipfw is not installed; nftables stays, nothing was changed") as refused:
            worker.switch(Stumbling())
        assert refused.value.exit_code == 4
        assert worker.kernel.rules() == before


# --- the agent ------------------------------------------------------------------------------------------------------


@pytest.fixture
def web(node):
    node.write("web", service("web", 1, "10.244.1.5@n1"))
    return node


def switch(node, to: str) -> dict:
    return ask(node.run_dir, {"ask": "backend", "backend": to}, SECONDS)


def command(node, *words: str) -> subprocess.CompletedProcess[str]:
    whole = (sys.executable, "-m", "netplane", *words)
    return node.namespace.run(
        lambda: subprocess.run(whole, capture_output=True, text=True, check=False, timeout=SECONDS)
    )


every_backend = pytest.mark.parametrize("backend", sorted(BACKENDS))
every_switch = pytest.mark.parametrize(("was", "to"), [*permutations(sorted(BACKENDS), 2)])


@pytest.mark.kernel
class TestAgent:
    @every_backend
    def test_a_switch_to_what_runs_does_nothing_and_says_so(self, web, backend):
        with web.agent("--backend", backend) as agent:
            agent.next("ready")
            before = web.kernel.rules()
            done = command(web, "agent", "backend", backend, "--run-dir", str(web.run_dir))
            assert (done.returncode, done.stdout) == (0, f"{backend} runs already; nothing was changed\n")
            assert web.kernel.rules() == before
            assert ask(web.run_dir, {"ask": "status"}, SECONDS)["switch"] is None

    @every_switch
    def test_after_a_switch_everything_is_of_the_new_backend(self, web, was, to):
        with web.agent("--backend", was) as agent:
            agent.next("ready")
            assert switch(web, to) == {
                "from": was,
                "to": to,
                "changed": True,
                "connections": {"kept": 0, "broken": 0, "ended": 0},
            }
            said = agent.next("backend switched")
            assert (said["from"], said["to"]) == (was, to)
            assert said["note"] == f"--backend {to} makes it last; a restart goes back to {was}"
            found = ask(web.run_dir, {"ask": "status"}, SECONDS)
            assert found["backend"] == {"configured": was, "running": to}
            assert found["switch"]["to"] == to
            words = ("--from", str(web.folder), "--node", "n1")
            assert command(web, "backend", "diff", to, *words).stdout == "nothing to do\n"
            web.write("web", service("web", 1, "10.244.1.6@n1"))
            agent.next("reconciled")
            assert command(web, "backend", "diff", to, *words).stdout == "nothing to do\n"
            assert switch(web, was)["changed"]
            assert "note" not in agent.next("backend switched")
            assert command(web, "backend", "diff", was, *words).stdout == "nothing to do\n"

    @every_switch
    def test_a_restart_goes_back_to_what_it_was_started_with(self, web, was, to):
        for _ in range(2):
            with web.agent("--backend", was) as agent:
                assert agent.next("ready")["backend"] == was
                assert command(web, "backend", "diff", was, "--from", str(web.folder), "--node", "n1").returncode == 0
                switch(web, to)
                assert agent.end() == 0

    @every_switch
    def test_while_something_was_never_read_well_nothing_is_switched(self, web, was, to):
        web.write("bad", "apiVersion: v1\nkind: [Service\n")
        with web.agent("--backend", was) as agent:
            agent.next("ready")
            before = web.kernel.rules()
            with pytest.raises(Refusal, match=r"nothing may be swept .* stays, nothing was changed") as refused:
                switch(web, to)
            assert refused.value.exit_code == 3
            assert web.kernel.rules() == before
            assert agent.next("backend not switched")["level"] == "ERROR"
            web.remove("bad")
            agent.next("problem solved")
            assert switch(web, to)["changed"]

    def test_a_backend_there_is_not_is_a_wrong_usage(self, web):
        with web.agent() as agent:
            agent.next("ready")
            assert command(web, "agent", "backend", "ipfw", "--run-dir", str(web.run_dir)).returncode == 2
            with pytest.raises(Refusal, match="'ipfw'"):
                switch(web, "ipfw")
