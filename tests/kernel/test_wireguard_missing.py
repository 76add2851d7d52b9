"""What a host may lack for WireGuard is said by name."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import mount_namespaces
import pytest
import wireguard_attempt
from wireguard_attempt import attempt

from netplane.errors import RequirementError
from netplane.kernel import command, wireguard_go, wireguard_netlink
from netplane.kernel.netlink import GENERIC, NetlinkSocket
from netplane.kernel.netns import Namespace
from netplane.kernel.wireguard_mechanism import Served

pytestmark = pytest.mark.kernel


@pytest.fixture
def no_kernel():
    with NetlinkSocket(GENERIC, "wireguard") as generic:
        if wireguard_netlink.family(generic):
            pytest.skip("this kernel has WireGuard")


@pytest.fixture
def no_programs(tmp_path, monkeypatch):
    monkeypatch.setattr(command, "_PATH", str(tmp_path))


def test_neither_the_kernel_nor_a_process(no_kernel, no_programs, tmp_path):
    words = "this host lacks WireGuard in the kernel .* and also wireguard-go, unshare, mount, sh .*apt install"
    with Namespace() as namespace, pytest.raises(RequirementError, match=words):
        namespace.run(lambda: attempt(tmp_path, Served.AUTO))


def test_not_the_kernel_where_nothing_else_is_wished(no_kernel, tmp_path):
    with Namespace() as namespace, pytest.raises(RequirementError, match=r"lacks WireGuard in the kernel .*modprobe"):
        namespace.run(lambda: attempt(tmp_path, Served.KERNEL))


@pytest.fixture
def has_wireguard_go():
    mount_namespaces.needed()
    if lacks := wireguard_go.missing():
        pytest.skip(f"missing: {lacks}")


def said(tmp_path, *enter):
    words = ("unshare", "--net", *enter, sys.executable, wireguard_attempt.__file__, str(tmp_path))
    there = {"PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.run(words, check=True, capture_output=True, text=True, env=os.environ | there).stdout


def test_no_tun(has_wireguard_go, tmp_path):
    hide = ("unshare", "--mount", "sh", "-c", 'mount -t tmpfs none /dev/net && exec "$@"', "sh")
    assert "lacks /dev/net/tun (No such file or directory; modprobe tun" in said(tmp_path, *hide)


def test_no_mount_namespaces(has_wireguard_go, tmp_path):
    without = ("setpriv", "--bounding-set", "-sys_admin", "--inh-caps", "-sys_admin")
    words = said(tmp_path, *without)
    assert "needs a mount namespace of its own, which is refused here: unshare:" in words
    assert [path.name for path in (tmp_path / "run").rglob("*") if path.is_file()] == []
