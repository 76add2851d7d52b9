"""What probing promises: see netplane/kernel/probe.py."""

import ctypes
import os

import pytest

from netplane.errors import RequirementError
from netplane.kernel import command, probe
from netplane.kernel.netns import Namespace


def without_privileges() -> None:
    """Drop every capability of the calling thread for good."""
    header, nothing = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    assert ctypes.CDLL(None, use_errno=True).capset(header, nothing) == 0


def test_missing_programs_are_named_in_the_order_given():
    assert probe.missing_programs(("no-such-b", "sh", "no-such-a")) == ("no-such-b", "no-such-a")
    assert probe.missing_programs(("sh",)) == ()


def test_root_is_who_has_user_id_zero(monkeypatch):
    assert probe.is_root() is (os.geteuid() == 0)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert not probe.is_root()


@pytest.mark.kernel
def test_a_ruleset_the_kernel_takes_is_no_news():
    assert probe.try_ruleset('add table ip t { comment "x"; }\nadd chain ip t c\nadd rule ip t c accept') is None


@pytest.mark.kernel
@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("add rule ip t c accept", "No such file or directory"),
        ("add table ip t\nadd chain ip t c\nadd rule ip t c frobnicate", "syntax error"),
    ],
)
def test_a_ruleset_that_is_refused_gives_one_line_with_the_reason(script, said):
    answer = probe.try_ruleset(script)
    assert answer is not None
    assert said in answer
    assert "\n" not in answer
    assert "^" not in answer


@pytest.mark.kernel
def test_trying_a_ruleset_leaves_the_calling_namespace_alone():
    def listed() -> str:
        return command.run("nft", "list", "ruleset", mechanism="test", doing="list")

    def inside() -> str:
        assert probe.try_ruleset("add table ip tried") is None
        return listed()

    with Namespace() as namespace:
        assert namespace.run(inside) == ""


@pytest.mark.kernel
def test_who_may_make_namespaces_can_and_who_may_not_cannot():
    def powerless() -> bool:
        without_privileges()
        with pytest.raises(RequirementError, match="run as root"):
            probe.try_ruleset("add table ip t")
        return probe.can_make_namespace()

    assert probe.can_make_namespace()
    with Namespace() as namespace:
        assert namespace.run(powerless) is False
