"""examples/netplane.service: systemd understands it, and what it leaves the agent is enough."""

from __future__ import annotations

import configparser
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import mount_namespaces
import pytest
from cni_node import Container, ip, network
from pod_agent import SECONDS, PodAgent

from cni.doctor import Place
from netplane.kernel.links import Links

UNIT = Path(__file__).parent.parent.parent / "examples" / "netplane.service"
PORTS = {"portMappings": [{"HostPort": 8080, "ContainerPort": 80, "Protocol": "udp", "HostIP": ""}]}
LIMITS = {"bandwidth": {"IngressRate": 10**7, "IngressBurst": 2**32 - 1, "EgressRate": 10**7, "EgressBurst": 2**32 - 1}}

# What the unit's ProtectSystem=strict does: all is read-only but API file systems and the folders that are named.
READ_ONLY = 'mount --bind "$0" "$0" && mount -o remount,bind,ro / && exec "$@"'


def unit() -> configparser.SectionProxy:
    found = configparser.ConfigParser(strict=False, interpolation=None, delimiters=("=",), comment_prefixes=("#",))
    found.optionxform = str
    found.read(UNIT)
    return found["Service"]


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is not installed")
def test_systemd_understands_every_line(tmp_path):
    copy = tmp_path / UNIT.name
    copy.write_text(UNIT.read_text().replace("/usr/local/bin/netplane", sys.executable))
    words = ["systemd-analyze", "verify", "--man=no", str(copy)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=SECONDS)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_folders_are_those_of_the_code():
    here, service = Place(), unit()
    assert Path("/run", service["RuntimeDirectory"]) == here.run_dir
    assert Path("/var/lib", service["StateDirectory"]) == here.state_dir
    assert (service["RuntimeDirectoryMode"], service["StateDirectoryMode"]) == ("0700", "0700")


@pytest.fixture
def agent(tmp_path) -> Iterator[PodAgent]:
    """An agent with the unit's privileges, on a file system that is as the unit has it."""
    mount_namespaces.needed()
    names = unit()["CapabilityBoundingSet"].split()
    kept = ",".join(f"+{name.removeprefix('CAP_').lower()}" for name in names)
    within = ("unshare", "--mount", "--propagation", "slave", "sh", "-c", READ_ONLY, str(tmp_path))
    with PodAgent(tmp_path, within=(*within, "setpriv", f"--bounding-set=-all,{kept}", "--no-new-privs")) as made:
        made.start()
        yield made


@pytest.mark.kernel
@pytest.mark.parametrize("mode", ["bridge", "routed"])
def test_an_agent_with_no_more_than_that_does_everything(agent, mode):
    config = network(mode, runtimeConfig=PORTS | LIMITS, sysctl={"net.core.somaxconn": "500"}, ipam={})
    with Container("c1") as container:
        code, result = agent.ask("ADD", config, "c1", container.namespace.path)
        assert code == 0, result
        assert agent.ask("CHECK", config | {"prevResult": result}, "c1", container.namespace.path) == (0, None)
        link = next(each["name"] for each in result["interfaces"] if each["name"].startswith("np"))
        ip(agent.namespace, "link", "del", link)
        until_mended(agent, link)
        assert agent.ask("CHECK", config | {"prevResult": result}, "c1", container.namespace.path) == (0, None)
        assert agent.ask("DEL", config | {"synchronousDelete": True}, "c1") == (0, None)
        assert container.links() == {"lo"}
    assert agent.status()["problems"] == []


def until_mended(agent: PodAgent, link: str) -> None:
    """Wait until the agent has made a link again: it hears of its end."""

    def within() -> None:
        with Links() as kernel:
            kernel.wait_ready([link], SECONDS)

    agent.namespace.run(within)
