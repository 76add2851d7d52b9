"""Namespaces on one cable, or with a router between, for tests of what neighbours say to each other."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from ipaddress import ip_address

from netplane.kernel import command, links, sysctls
from netplane.kernel.links import Links, Peer
from netplane.kernel.netns import Namespace

MACS = {"a": "02:6e:70:00:00:0a", "b": "02:6e:70:00:00:0b"}


def ip(namespace: Namespace, *words: str) -> str:
    """What `ip` prints in the namespace."""
    return namespace.run(lambda: command.run("ip", *words, mechanism="test", doing=" ".join(words)))


def cable(one: Namespace, other: Namespace, names: tuple[str, str] = ("eth0", "eth0"), index: int = 10) -> None:
    """A pair of links, up and ready at both ends."""

    def lay() -> None:
        with Links() as kernel:
            kernel.carry_out([links.veth(names[0], index, Peer(names[1], index, other.fd))])

    one.run(lay)
    for namespace, name in ((other, names[1]), (one, names[0])):

        def raise_(name: str = name) -> None:
            with Links() as kernel:
                kernel.carry_out([links.up(index), links.up(links.LOOPBACK)])

        namespace.run(raise_)
    for namespace, name in ((other, names[1]), (one, names[0])):

        def wait(name: str = name) -> None:
            with Links() as kernel:
                kernel.wait_ready([name], 10)

        namespace.run(wait)


def address(namespace: Namespace, *texts: str, index: int = 10) -> None:
    """Give the link addresses, usable at once."""

    def work() -> None:
        with Links() as kernel:
            for text in texts:
                host, length = text.split("/")
                kernel.carry_out([links.address(ip_address(host), int(length), index)])

    namespace.run(work)


@contextmanager
def neighbours() -> Iterator[tuple[Namespace, Namespace]]:
    """Two namespaces on one cable: a (192.0.2.1, 2001:db8::1) and b (.2, ::2), with the MAC addresses of MACS."""
    with ExitStack() as stack:
        made = stack.enter_context(Namespace()), stack.enter_context(Namespace())
        cable(*made)
        for number, namespace in enumerate(made, 1):
            ip(namespace, "link", "set", "eth0", "address", MACS["ab"[number - 1]])
            address(namespace, f"192.0.2.{number}/24", f"2001:db8::{number}/64")
        yield made


@contextmanager
def routed(mtu: int) -> Iterator[tuple[Namespace, Namespace, Namespace]]:
    """a - router - b; the far cable takes packets of `mtu` bytes. b is 198.51.100.2 and 2001:db8:51::2."""
    with ExitStack() as stack:
        a, router, b = (stack.enter_context(Namespace()) for _ in range(3))
        cable(a, router)
        cable(router, b, ("eth1", "eth0"), 11)
        forward = {"net/ipv4/ip_forward": 1, "net/ipv6/conf/all/forwarding": 1}
        router.run(lambda: sysctls.write(forward))
        address(a, "192.0.2.1/24", "2001:db8::1/64")
        address(router, "192.0.2.254/24", "2001:db8::fe/64")
        address(router, "198.51.100.254/24", "2001:db8:51::fe/64", index=11)
        address(b, "198.51.100.2/24", "2001:db8:51::2/64", index=11)
        for namespace, link in ((router, "eth1"), (b, "eth0")):
            ip(namespace, "link", "set", link, "mtu", str(mtu))
        for namespace, four, six in ((a, "192.0.2.254", "2001:db8::fe"), (b, "198.51.100.254", "2001:db8:51::fe")):
            ip(namespace, "route", "add", "default", "via", four)
            ip(namespace, "-6", "route", "add", "default", "via", six)
        yield a, router, b
