"""Debian's containerd and runc, unmodified, call the plugins as on a node, and nothing stays behind.

The same with the reference plugins: that proves that what is asked here is what containerd and runc do.
"""

from __future__ import annotations

import signal
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
from containerd_node import missing, until_nothing
from containerd_site import Netplane, Reference, Site

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.lab,
    pytest.mark.skipif(bool(missing()), reason=f"real containerd: {missing()}"),
]

without_reference = pytest.mark.skipif(bool(Reference.missing()), reason=Reference.missing())
MODES = [pytest.param(partial(Netplane, mode), id=mode) for mode in ("bridge", "routed")]
KINDS = [*MODES, pytest.param(Reference, id="reference", marks=without_reference)]
only_netplane = pytest.mark.parametrize("site", MODES, indirect=True)
SANDBOXES = 8
FIRST_PORT = 8080
PORTS_OF_TWO = (("goes", FIRST_PORT), ("stays", FIRST_PORT + 1))
LIMITS = {"kubernetes.io/ingress-bandwidth": "10M", "kubernetes.io/egress-bandwidth": "20M"}


@pytest.fixture(params=KINDS)
def site(request, tmp_path):
    with Site(request.param, tmp_path) as made:
        made.node.ctr_run("first", "hostname")  # what plugins make once, as a bridge, is there from now on
        sandbox = made.node.cri.run(made.node.spec("first", ports=[("TCP", FIRST_PORT - 1, 80, "")]))
        take_away(made, sandbox)
        until_nothing(lambda: what_is_left(made))
        yield made


def what_is_left(site):
    state = site.state()
    return [state[each] for each in ("remembered", "namespaces", "sandboxes") if state[each]]


def until_as_before(site, before):
    until_nothing(lambda: differences(before, site.state()))


def differences(before, after):
    """Lines that are only in one, by what they are about."""
    told = {each: (Counter(before[each]), Counter(after[each])) for each in before if before[each] != after[each]}
    return {
        each: [*(f"- {line}" for line in was - now), *(f"+ {line}" for line in now - was)]
        for each, (was, now) in told.items()
    }


def take_away(site, sandbox):
    site.node.cri.stop(sandbox)
    site.node.cri.remove(sandbox)


def in_parallel(work, each):
    with ThreadPoolExecutor(SANDBOXES) as threads:
        return list(threads.map(work, each))


def test_ctr_run_gives_a_container_an_address_and_a_route(site):
    before = site.state()
    script = "ip -o address show dev eth0 scope global; ip route; ping -c 1 -W 5 192.0.2.1"
    said = site.node.ctr_run("one", "sh", "-c", script)
    assert "default via " in said
    assert "1 packets received" in said
    until_as_before(site, before)


def test_eight_sandboxes_at_once_with_host_ports_and_limits(site):
    before = site.state()
    names = [f"pod-{number}" for number in range(SANDBOXES)]
    specs = [
        site.node.spec(name, ports=[("TCP", FIRST_PORT + number, 80, "")], annotations=LIMITS)
        for number, name in enumerate(names)
    ]
    sandboxes = in_parallel(site.node.cri.run, specs)
    addresses = [site.node.cri.addresses(each) for each in sandboxes]
    assert [len(each) for each in addresses] == [len(site.plugins.versions)] * SANDBOXES
    assert len({address for each in addresses for address in each}) == SANDBOXES * len(site.plugins.versions)
    for version in site.plugins.versions:
        ports = range(FIRST_PORT, FIRST_PORT + SANDBOXES)
        assert in_parallel(lambda port, version=version: site.ask_from_outside(port, version), ports) == names
    assert sum("tbf" in line for line in site.state()["qdiscs"]) >= SANDBOXES
    in_parallel(lambda each: take_away(site, each), sandboxes)
    until_as_before(site, before)


@only_netplane
def test_a_client_of_a_udp_host_port_is_led_to_the_next_sandbox_that_has_it(site):
    before = site.state()
    with site.udp_client(FIRST_PORT) as asking:
        for name in ("goes", "comes"):
            sandbox = site.node.cri.run(site.node.spec(name, ports=[("UDP", FIRST_PORT, 53, "")]))
            with site.udp_server(53) as serving:
                asking.send(b"who is there?")
                _, whom = serving.recvfrom(64)
                serving.sendto(name.encode(), whom)
                assert asking.recv(64).decode() == name
            take_away(site, sandbox)
    until_as_before(site, before)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["ended", "killed"])
def test_sandboxes_survive_containerd_and_are_removed_by_the_next(site, number):
    before = site.state()
    sandbox = site.node.cri.run(site.node.spec("survivor", ports=[("TCP", FIRST_PORT, 80, "")]))
    site.node.stop(number)
    assert site.ask_from_outside(FIRST_PORT) == "survivor"
    site.node.start()
    assert site.ask_from_outside(FIRST_PORT) == "survivor"
    assert site.node.cri.sandboxes() == [sandbox]
    take_away(site, sandbox)
    until_as_before(site, before)


# --- the agent, in the middle of it ---


@only_netplane
def test_containers_do_not_notice_that_the_agent_was_killed(site):
    before = site.state()
    sandbox = site.node.cri.run(site.node.spec("survivor", ports=[("TCP", FIRST_PORT, 80, "")]))
    site.plugins.agent.kill(programs=True)
    assert site.ask_from_outside(FIRST_PORT) == "survivor"
    site.plugins.start_again()
    assert [site.ask_from_outside(FIRST_PORT, version) for version in (4, 6)] == ["survivor", "survivor"]
    take_away(site, sandbox)
    until_as_before(site, before)


@only_netplane
def test_containers_go_while_there_is_no_agent_and_the_next_one_cleans_up(site):
    before = site.state()
    sandboxes = [site.node.cri.run(site.node.spec(name, ports=[("TCP", port, 80, "")])) for name, port in PORTS_OF_TWO]
    site.plugins.agent.kill(programs=True)
    take_away(site, sandboxes[0])
    assert site.node.cri.sandboxes() == sandboxes[1:]
    site.plugins.start_again()
    assert site.ask_from_outside(FIRST_PORT + 1) == "stays"
    take_away(site, sandboxes[1])
    until_as_before(site, before)


@only_netplane
def test_a_sandbox_waits_for_the_agent(site):
    """The runtime hears "try again later", and nothing of the attempt stays."""
    before = site.state()
    site.plugins.agent.kill(programs=True)
    with pytest.raises(Exception, match="netplane"):
        site.node.cri.run(site.node.spec("early"))
    site.plugins.start_again()
    sandbox = site.node.cri.run(site.node.spec("later", ports=[("TCP", FIRST_PORT, 80, "")]))
    assert [site.ask_from_node(address) for address in site.node.cri.addresses(sandbox)] == ["later", "later"]
    take_away(site, sandbox)
    until_as_before(site, before)
