"""The options of `backend` that are about iptables."""

from __future__ import annotations

import pytest
from command_line import ON_N1, netplane

from netplane.backends.registry import BACKENDS
from netplane.kernel import command
from netplane.kernel.netns import Namespace

pytestmark = pytest.mark.kernel

JSON = ("--output", "json")
# Not there means: the rest of the file is about nothing.
every_iptables = pytest.mark.parametrize("backend", [name for name in BACKENDS if name == "iptables"])


@pytest.fixture
def namespace(tmp_path, monkeypatch):
    monkeypatch.setenv("XTABLES_LOCKFILE", str(tmp_path / "xtables.lock"))
    with Namespace() as namespace:
        yield namespace


def iptables(namespace: Namespace, *words: str, script: str = "") -> str:
    return namespace.run(lambda: command.run(*words, stdin=script, mechanism="test", doing=" ".join(words)))


def mark(namespace: Namespace, variant: str) -> None:
    iptables(namespace, f"iptables-{variant}", "-t", "nat", "-N", "NETPLANE")


def test_an_unknown_variant_is_a_wrong_option(namespace):
    done = netplane("backend", "clean", "nftables", "--iptables-variant", "ebtables", namespace=namespace)
    assert done.code == 2
    assert "'auto', 'legacy', 'nf_tables'" in done.err


def test_rules_of_ours_in_both_variants_are_cleaned_one_by_one(namespace):
    mark(namespace, "nft")
    mark(namespace, "legacy")
    both = netplane("backend", "clean", "nftables", namespace=namespace)
    assert both.code == 5
    assert "both variants hold chains of a Service proxy (legacy: ip nat; nf_tables: ip nat)" in both.error
    for variant in ("legacy", "nf_tables"):
        words = ("backend", "clean", "nftables", "--iptables-variant", variant)
        assert netplane(*words, "--dry-run", namespace=namespace).out == "- ip nat chain NETPLANE\n"
        assert netplane(*words, namespace=namespace).out == "made 0, swept 1\n"
    assert netplane("backend", "clean", "nftables", namespace=namespace).out == "made 0, swept 0\n"


def test_there_is_nothing_to_verify_in_nftables(namespace):
    done = netplane("backend", "diff", "nftables", *ON_N1, "--verify", namespace=namespace)
    assert done.code == 4
    assert "python-iptables sees only the legacy variant of iptables; there is nothing of iptables here" in done.error


@every_iptables
def test_what_was_applied_is_seen_by_another_reader_too_and_what_was_changed_by_hand(backend, namespace):
    legacy = ("--iptables-variant", "legacy")
    assert netplane("backend", "apply", backend, *ON_N1, *legacy, namespace=namespace).code == 0
    words = ("backend", "diff", backend, *ON_N1, "--verify")
    assert netplane(*words, namespace=namespace).out == "nothing to do\n"
    iptables(namespace, "iptables-legacy", "-t", "nat", "-A", "KUBE-MARK-MASQ", "-j", "RETURN")
    done = netplane(*words, namespace=namespace)
    assert done.code == 1
    assert "~ ip nat chain KUBE-MARK-MASQ (1 rule)" in done.out.splitlines()
    assert "! ip nat chain KUBE-MARK-MASQ is seen with 2 rules, not 1" in done.out.splitlines()
    assert netplane(*words, *JSON, namespace=namespace).json[-1]["mechanism"] == "python-iptables"


@every_iptables
@pytest.mark.parametrize("variant", ["legacy", "nf_tables"])
def test_what_a_backend_needs_is_tried_with_the_variant(backend, variant, namespace):
    done = netplane("backend", "check", backend, "--iptables-variant", variant, namespace=namespace)
    assert (done.code, "MISSING" in done.out) == (0, False)
