"""Who takes over from kube-proxy removes its nftables tables, after its own rules serve and never before."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from netplane.kernel import command
from netplane.kernel.host import Host
from netplane.kernel.netns import Namespace
from netplane.kernel.nftables import NftablesDriver
from netplane.model.address import Family
from netplane.programs.nftables import Chain, NftablesProgram, Structure
from netplane.programs.program import Program

pytestmark = pytest.mark.kernel

KUBE_PROXY = """
table ip kube-proxy { comment "rules for kube-proxy"; chain services { }; }
table ip6 kube-proxy { comment "rules for kube-proxy"; chain services { }; }
"""
SERVES = Program(nftables=NftablesProgram({Family.IPV4: Structure({"services": Chain("services", ("accept",))})}))


@pytest.fixture
def node() -> Iterator[Namespace]:
    with Namespace() as made:
        yield made


def nft(node: Namespace, *words: str, script: str = "") -> str:
    return node.run(lambda: command.run("nft", *words, stdin=script, mechanism="nftables", doing="test"))


def apply(node: Namespace, program: Program, *, sweep: bool = True) -> int:
    def applied() -> int:
        with Host() as host:
            return host.apply(program, reread=True, sweep=sweep).swept

    return node.run(applied)


def tables(node: Namespace) -> set[str]:
    return set(nft(node, "list", "tables").splitlines())


def test_its_tables_go_when_we_serve(node: Namespace) -> None:
    nft(node, "-f", "-", script=KUBE_PROXY)
    assert apply(node, SERVES) == 2
    assert tables(node) == {"table ip netplane"}


def test_its_tables_stay_while_we_know_too_little_to_sweep(node: Namespace) -> None:
    nft(node, "-f", "-", script=KUBE_PROXY)
    apply(node, SERVES, sweep=False)
    assert tables(node) == {"table ip netplane", "table ip kube-proxy", "table ip6 kube-proxy"}


def test_cleaning_is_not_taking_over(node: Namespace) -> None:
    nft(node, "-f", "-", script=KUBE_PROXY)
    assert apply(node, Program()) == 0
    assert tables(node) == {"table ip kube-proxy", "table ip6 kube-proxy"}


def test_a_table_of_that_name_without_its_comment_is_somebody_elses(node: Namespace) -> None:
    nft(node, "-f", "-", script='table ip kube-proxy { comment "mine"; }; table ip6 kube-proxy { };')
    assert apply(node, SERVES) == 0
    assert tables(node) == {"table ip netplane", "table ip kube-proxy", "table ip6 kube-proxy"}


def test_it_is_said_before_it_is_done(node: Namespace) -> None:
    nft(node, "-f", "-", script=KUBE_PROXY)

    def lines() -> list[str]:
        with Host() as host:
            return [line for pending in host.pending(SERVES) for line in pending.lines()]

    assert "- delete table ip kube-proxy (kube-proxy's own)" in node.run(lines)
    assert len(tables(node)) == 2


def test_a_table_that_went_meanwhile_is_no_failure(node: Namespace) -> None:
    def swept() -> tuple[Family, ...]:
        with NftablesDriver() as driver:
            driver.sweep_kube_proxy(tuple(Family))
            return driver.kube_proxy()

    assert node.run(swept) == ()
