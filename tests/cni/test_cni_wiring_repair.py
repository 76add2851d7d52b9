"""CHECK names what differs, repair mends it, and events tell when to look. See cni/link_check.py, link_repair.py."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from wired import SECONDS, Site, answers, attachment

from cni.attachment import Attachment
from cni.config import Bandwidth, Mode
from cni.failure import Code, Failure
from cni.link_news import Told
from netplane.kernel import sysctls
from netplane.kernel.netns import Namespace

pytestmark = pytest.mark.kernel
BOTH = pytest.mark.parametrize("mode", [Mode.BRIDGE, Mode.ROUTED], ids=lambda mode: mode.value)
LIMITS = Bandwidth(10_000_000, 1_000_000, 20_000_000, 1_000_000)


@pytest.fixture
def site() -> Iterator[Site]:
    with Site() as made:
        yield made


def damage(site: Site, inside: Namespace, wanted: Attachment, words: str) -> None:
    """`in: WORDS` of `ip` in the container, `on: WORDS` on the host; LINK and QUEUE are its links."""
    where, _, rest = words.partition(": ")
    names = {"LINK": wanted.link, "QUEUE": "npi" + wanted.link[3:]}
    program, *said = (names.get(word, word) for word in rest.split())
    site.run(inside if where == "in" else site.host, program, *said)


@pytest.mark.parametrize(
    ("mode", "words", "said"),
    [
        (Mode.BRIDGE, "in: ip link delete eth0", "interface eth0: it is not in the container"),
        (Mode.BRIDGE, "in: ip link set eth0 down", "interface eth0: expected up, found down"),
        (
            Mode.BRIDGE,
            "in: ip link set eth0 address 02:00:00:00:00:09",
            "MAC of eth0: expected 0a:58:0a:f4:01:0b, found",
        ),
        (
            Mode.BRIDGE,
            "in: ip address delete 10.244.1.11/24 dev eth0",
            "address of eth0: expected 10.244.1.11/24, found",
        ),
        (
            Mode.BRIDGE,
            "in: ip address delete fd00:244:1::b/64 dev eth0",
            "expected fd00:244:1::b/64, found 10.244.1.11/24",
        ),
        (Mode.BRIDGE, "in: ip route delete default", "route to 0.0.0.0/0 via 10.244.1.1: found none"),
        (Mode.BRIDGE, "in: ip -6 route delete fd00:244:1::/64 dev eth0", "route to fd00:244:1::/64: found none"),
        (Mode.BRIDGE, "in: ip route replace default via 10.244.1.9", "via 10.244.1.1: found via 10.244.1.9"),
        (Mode.BRIDGE, "on: ip link set LINK down", "host link LINK: expected up, found down"),
        (Mode.BRIDGE, "on: ip link set LINK nomaster", "bridge of LINK: expected"),
        (
            Mode.BRIDGE,
            "on: ip link set LINK address 02:00:00:00:00:09",
            "MAC of LINK: expected 0a:59:0a:f4:01:0b, found",
        ),
        (
            Mode.BRIDGE,
            "on: ip link set LINK type bridge_slave hairpin off",
            "hairpin of LINK: expected True, found False",
        ),
        (Mode.BRIDGE, "on: ip link set LINK type bridge_slave isolated on", "isolation of LINK: expected False"),
        (Mode.BRIDGE, "on: ip link delete cni0", "bridge cni0: expected bridge, found nothing"),
        (Mode.BRIDGE, "on: tc qdisc delete dev LINK root", "ingress bandwidth: expected 1250000, found 0"),
        (Mode.BRIDGE, "on: tc qdisc delete dev QUEUE root", "egress bandwidth: expected 2500000, found 0"),
        (
            Mode.BRIDGE,
            "on: tc qdisc delete dev LINK ingress",
            "redirection of egress: expected ingress queue, found none",
        ),
        (Mode.BRIDGE, "on: ip link delete QUEUE", "link QUEUE: it is gone"),
        (Mode.ROUTED, "on: ip route delete 10.244.1.11", "host route to 10.244.1.11: expected LINK, found none"),
        (Mode.ROUTED, "on: ip route delete fd00:244:1::b", "host route to fd00:244:1::b: expected LINK, found none"),
        (Mode.ROUTED, "on: sysctl -w net.ipv4.conf.LINK.rp_filter=0", "rp_filter of LINK: expected 1, found 0"),
        (Mode.ROUTED, "in: ip route delete default", "route to 0.0.0.0/0 via 169.254.1.1: found none"),
    ],
)
def test_check_names_what_differs(site, mode, words, said):
    wanted = attachment(1, mode, bandwidth=LIMITS)
    (one,) = site.attached(wanted)
    site.wiring.check(wanted, one.fd)
    if "sysctl" in words:
        site.host.run(lambda: sysctls.write({f"net/ipv4/conf/{wanted.link}/rp_filter": 0}))
    else:
        damage(site, one, wanted, words)
    with pytest.raises(Failure) as caught:
        site.wiring.check(wanted, one.fd)
    assert caught.value.code is Code.DIFFERS
    assert said.replace("LINK", wanted.link).replace("QUEUE", "npi" + wanted.link[3:]) in str(caught.value)


def test_check_names_a_parameter_that_changed(site):
    wanted = attachment(sysctls=(("net/core/somaxconn", "77"),))
    (one,) = site.attached(wanted)
    site.wiring.check(wanted, one.fd)
    one.run(lambda: sysctls.write({"net/core/somaxconn": 78}))
    with pytest.raises(Failure, match="sysctl net/core/somaxconn: expected 77, found 78"):
        site.wiring.check(wanted, one.fd)


@BOTH
def test_what_others_add_is_fine(site, mode):
    wanted = attachment(1, mode)
    (one,) = site.attached(wanted)
    site.ip(one, "address", "add", "10.250.0.1/24", "dev", "eth0")
    site.ip(one, "route", "add", "10.251.0.0/16", "dev", "eth0")
    site.ip(one, "link", "add", "net1", "type", "bridge")
    site.ip(one, "link", "set", "eth0", "mtu", "1300")
    site.wiring.check(wanted, one.fd)


def test_a_gone_host_link_is_named(site):
    wanted, other = attachment(1), attachment(2)
    (one,) = site.attached(wanted)
    with pytest.raises(Failure, match=f"host link {other.link}: it is gone"):
        site.wiring.check(attachment(1, link=other.link), one.fd)


@pytest.mark.parametrize(
    ("mode", "words", "mended"),
    [
        (Mode.BRIDGE, "on: ip link set LINK down", "LINK: down"),
        (Mode.BRIDGE, "on: ip link set LINK nomaster", "LINK: not in cni0"),
        (Mode.BRIDGE, "on: ip link set LINK mtu 1300", "LINK: its MTU was 1300"),
        (Mode.BRIDGE, "on: ip link set LINK address 02:00:00:00:00:09", "LINK: its MAC"),
        (Mode.BRIDGE, "on: ip link set LINK type bridge_slave hairpin off", "LINK: its port's flags"),
        (Mode.BRIDGE, "on: ip link set LINK group 7", "LINK: its group was 7"),
        (Mode.BRIDGE, "on: ip link set cni0 down", "bridge cni0: up"),
        (Mode.BRIDGE, "on: ip link set cni0 address 02:00:00:00:00:09", "bridge cni0: address 0a:58:0a:f4:01:01"),
        (Mode.BRIDGE, "on: ip address delete 10.244.1.1/24 dev cni0", "bridge cni0: with 10.244.1.1/24"),
        (Mode.BRIDGE, "on: ip link delete cni0", "bridge cni0: made"),
        (Mode.ROUTED, "on: ip link set LINK down", "LINK: down"),
        (Mode.ROUTED, "on: ip route delete 10.244.1.11", "LINK: add the host route"),
        (Mode.ROUTED, "on: ip -6 address flush dev LINK", "LINK: add an address"),
        (Mode.ROUTED, "on: ip link set LINK address 02:00:00:00:00:09", "LINK: its MAC"),
    ],
)
def test_repair_mends_what_somebody_changed_and_says_so(site, mode, words, mended):
    wanted = [attachment(1, mode), attachment(2, mode)]
    one, other = site.attached(*wanted)
    assert site.wiring.repair(wanted) == []
    damage(site, one, wanted[0], words)
    assert any(each.startswith(mended.replace("LINK", wanted[0].link)) for each in site.wiring.repair(wanted))
    assert site.wiring.repair(wanted) == []
    for each, container in zip(wanted, (one, other), strict=True):
        site.wiring.check(each, container.fd)
        for version in (4, 6):
            assert answers(site.host, container, str(each.addresses[version == 6].address.ip))


@pytest.mark.parametrize("name", ["rp_filter", "proxy_arp", "forwarding"])
def test_repair_mends_the_settings_of_a_routed_link(site, name):
    wanted = attachment(1, Mode.ROUTED)
    site.attached(wanted)
    parameter = f"net/ipv4/conf/{wanted.link}/{name}"
    site.host.run(lambda: sysctls.write({parameter: 0}))
    assert site.wiring.repair([wanted]) == [f"{wanted.link}: {name}"]
    assert site.host.run(lambda: sysctls.read(parameter)) == "1"


@pytest.mark.parametrize(("name", "wrong", "right"), [("accept_ra", 2, "0"), ("proxy_ndp", 0, "1")])
def test_repair_mends_the_ipv6_settings_of_a_routed_link(site, name, wrong, right):
    wanted = attachment(1, Mode.ROUTED)
    site.attached(wanted)
    parameter = f"net/ipv6/conf/{wanted.link}/{name}"
    site.host.run(lambda: sysctls.write({parameter: wrong}))
    assert site.wiring.repair([wanted]) == [f"{wanted.link}: accept_ra, proxy_ndp"]
    assert site.host.run(lambda: sysctls.read(parameter)) == right


@BOTH
def test_repair_mends_forwarding(site, mode):
    wanted = attachment(1, mode, (4,))
    site.attached(wanted)
    site.host.run(lambda: sysctls.write({"net/ipv4/ip_forward": 0}))
    assert "IPv4 was not forwarded" in site.wiring.repair([wanted])
    assert site.host.run(lambda: sysctls.read("net/ipv4/ip_forward")) == "1"


def test_what_cannot_be_mended_is_said_and_does_not_stop_the_rest(site):
    wanted = [attachment(1), attachment(2, Mode.ROUTED)]
    site.attached(*wanted)
    site.ip(site.host, "address", "delete", "10.244.1.1/24", "dev", "cni0")
    site.ip(site.host, "address", "add", "10.99.0.1/24", "dev", "cni0")
    site.ip(site.host, "link", "set", wanted[1].link, "mtu", "1300")
    words = site.wiring.repair(wanted)
    assert 'not mended: "cni0" already has an IP address different from 10.244.1.1/24' in " ".join(words)
    assert f"{wanted[1].link}: its MTU was 1300" in words


# --- events -----------------------------------------------------------------------------------------------------------


def told(site: Site, wanted: Told) -> bool:
    """Whether the kernel tells this soon."""
    import select

    seen = Told()
    while select.select([site.wiring.events.fileno()], [], [], SECONDS)[0]:
        more = site.wiring.events.read()
        either = (seen.concerns_us or more.concerns_us, seen.routes_changed or more.routes_changed)
        seen = Told(*either, seen.gone | more.gone)
        if all((not a) or b for a, b in zip(wanted[:2], seen[:2], strict=True)) and wanted.gone <= seen.gone:
            return True
    return False


@BOTH
def test_attaching_tells_nothing(site, mode):
    site.attached(attachment(1, mode))
    site.settled()
    site.wiring.events.read()
    site.attached(attachment(2, mode), attachment(3, mode))
    assert site.wiring.events.read() == Told()


@pytest.mark.parametrize(
    ("mode", "words", "wanted"),
    [
        (Mode.BRIDGE, "on: ip link set LINK down", Told(concerns_us=True)),
        (Mode.BRIDGE, "on: ip link set LINK nomaster", Told(concerns_us=True)),
        (Mode.BRIDGE, "on: ip address delete 10.244.1.1/24 dev cni0", Told(concerns_us=True)),
        (Mode.BRIDGE, "on: ip link set cni0 address 02:00:00:00:00:09", Told(concerns_us=True)),
        (Mode.ROUTED, "on: ip route delete 10.244.1.11", Told(concerns_us=True)),
        (Mode.ROUTED, "on: ip route add 192.0.2.0/24 dev LINK", Told(routes_changed=True)),
        (Mode.BRIDGE, "on: ip link set cni0 mtu 1300", Told(routes_changed=True)),
    ],
)
def test_what_others_change_is_told(site, mode, words, wanted):
    own = attachment(1, mode)
    (one,) = site.attached(own)
    site.wiring.events.read()
    damage(site, one, own, words)
    assert told(site, wanted)


def test_links_that_disappear_are_told_by_name(site):
    wanted = attachment(1, bandwidth=LIMITS)
    site.attached(wanted)
    site.ip(site.host, "link", "delete", wanted.link)
    assert told(site, Told(gone=frozenset({wanted.link})))
    site.wiring.detach([wanted.link])
    assert told(site, Told(gone=frozenset({"npi" + wanted.link[3:]})))
