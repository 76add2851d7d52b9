"""What a rack router, another bird, hears from agents: Pod ranges, and addresses of Services where they are served."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest
from network_site import Site, pod
from node_of_agent import service

PATH = os.environ.get("PATH", "") + ":/usr/sbin"
BIRD = shutil.which("bird", path=PATH)
pytestmark = pytest.mark.skipif(BIRD is None, reason="needs bird")

SETTINGS = (
    "{mode: bgp, cluster-ranges: [10.244.0.0/16, 'fd00:10:244::/48'],"
    " bgp: {as: 64512, advertise-external-ips: true,"
    " peers: [{address: 192.0.2.1, as: 64601}, {address: '2001:db8:2::1', as: 64601}]}}"
)
ROUTER = """
router id 192.0.2.1;
protocol device {}
protocol static default4 { ipv4; route 0.0.0.0/0 via 192.0.2.254; route 203.0.113.0/24 via 192.0.2.254; }
protocol bgp nodes4 {
  local 192.0.2.1 as 64601; neighbor range 192.0.2.0/24 as 64512; dynamic name "four"; passive; direct;
  ipv4 { import all; export all; add paths off; };
}
protocol bgp nodes6 {
  local 2001:db8:2::1 as 64601; neighbor range 2001:db8:2::/64 as 64512; dynamic name "six"; passive; direct;
  ipv6 { import all; export all; };
}
"""


class Router:
    """bird in the namespace of the wire, at 192.0.2.1 and 2001:db8:2::1."""

    def __init__(self, site: Site, folder) -> None:
        self._site, self._folder = site, folder
        (folder / "router.conf").write_text(ROUTER)
        words = (BIRD, "-f", "-c", str(folder / "router.conf"), "-s", str(folder / "router.ctl"))
        self._process = site.wire.run(lambda: subprocess.Popen((*words, "-P", str(folder / "router.pid"))))
        site.wait((folder / "router.ctl").exists, "the router's bird")

    def routes(self) -> set[tuple[str, str]]:
        """Network and next hop of all that it heard."""
        words = ("birdc", "-s", str(self._folder / "router.ctl"), "show", "route")
        done = subprocess.run(words, capture_output=True, text=True, check=False, env={**os.environ, "PATH": PATH})
        found, to = set(), ""
        for line in done.stdout.splitlines():
            to = line.split()[0] if line[:1].strip() and "/" in line.split()[0] else to
            if line.strip().startswith("via ") and "192.0.2.254" not in line:
                found.add((to, line.split()[1]))
        return found

    def end(self) -> None:
        self._process.terminate()
        self._process.wait()


@pytest.fixture
def site(tmp_path):
    with Site(tmp_path, 2) as made:
        made.outside()
        yield made


@pytest.fixture
def router(site, tmp_path):
    made = Router(site, tmp_path)
    yield made
    made.end()


def ranges() -> set[tuple[str, str]]:
    four = {(f"10.244.{number}.0/24", f"192.0.2.{10 + number}") for number in (1, 2)}
    return four | {(f"fd00:10:244:{number}::/64", f"2001:db8:2::{10 + number}") for number in (1, 2)}


def test_a_router_sees_exactly_the_pod_ranges_and_nothing_of_its_own_comes_in(site, router):
    site.start(SETTINGS)
    site.wait(lambda: router.routes() == ranges(), "the ranges at the router")
    for family in (4, 6):
        site.wait_reaches(1, 2, family)
    bird = site.ip(1, "route", "show", "proto", "bird") + site.ip(1, "-6", "route", "show", "proto", "bird")
    assert {line.split()[0] for line in bird.splitlines()} == {"10.244.2.0/24", "fd00:10:244:2::/64"}


def test_an_external_address_with_policy_local_is_announced_where_an_endpoint_is(site, router):
    def web(number: int) -> str:
        return service(
            "web", 10, f"{pod(number)}@n{number}", externalIPs=["198.51.100.7"], externalTrafficPolicy="Local"
        )

    site.write("web", web(2))
    site.start(SETTINGS)
    site.wait(lambda: router.routes() == ranges() | {("198.51.100.7/32", "192.0.2.12")}, "node 2 alone")
    site.write("web", web(1))
    site.wait(lambda: router.routes() == ranges() | {("198.51.100.7/32", "192.0.2.11")}, "node 1 alone")
    site.remove("web")
    site.wait(lambda: router.routes() == ranges(), "nobody")


def test_an_external_address_with_policy_cluster_is_announced_by_all(site, router):
    site.write("web", service("web", 10, f"{pod(2)}@n2", externalIPs=["198.51.100.7"]))
    site.start(SETTINGS)
    both = {("198.51.100.7/32", f"192.0.2.{10 + number}") for number in (1, 2)}
    site.wait(lambda: router.routes() == ranges() | both, "both nodes")
