"""A node with the real containerd and runc, unmodified and with their usual paths, of which nothing is left.

A mount namespace and a process namespace hold everything: /etc, /opt and /var/lib are overlays and /run is empty, all
in memory, so that /run/containerd, /var/lib/cni and the runtime's network namespaces are this node's alone. The first
process ignores its children, which ends the shims that containerd leaves behind; when it is killed the kernel ends all
others, and with them go the mounts. It dies with the thread that serves `namespace`, and so with a test that was
killed. Only cgroups are the machine's: below one of a name of their own, removed at the end, or by the next node if
that did not come to pass.

Plugins and configuration are two folders of the host, bound to /opt/cni/bin and /etc/cni/net.d.
"""

from __future__ import annotations

import errno
import importlib.util
import os
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import mount_namespaces
from containerd_cri import Cri, PodSpec
from containerd_image import NAME, archive, static_busybox

from netplane.closing import Closing
from netplane.kernel.netns import Namespace

SECONDS = 30.0
_PROGRAMS = ("containerd", "containerd-shim-runc-v2", "ctr", "runc", "unshare", "nsenter", "setpriv", "ip")
_SETUP = """\
set -e
mount -t tmpfs -o mode=755 tmpfs "$1"
for each in etc opt var/lib; do
    mkdir -p "$1/$each/up" "$1/$each/work"
    mount -t overlay -o "lowerdir=/$each,upperdir=$1/$each/up,workdir=$1/$each/work" overlay "/$each"
done
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /opt/cni/bin /etc/cni/net.d /etc/containerd
mount --bind "$2" /opt/cni/bin
mount --bind "$3" /etc/cni/net.d
cat > /etc/containerd/config.toml
trap '' CHLD
echo up
exec sleep infinity
"""
# The native snapshotter copies, which is nothing for busybox, and works on every file system. Root without
# CAP_SYS_RESOURCE may not lower an oom_score_adj, and runc then says no more than "can't get final child's PID".
_CONFIG = f"""\
version = 2
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs"]
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{NAME}"
restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "native"
"""


def missing() -> str:
    """What this machine lacks for it: "" if nothing."""
    if os.geteuid() != 0:
        return "not root"
    lacking = [each for each in _PROGRAMS if shutil.which(each) is None]
    if static_busybox() is None:
        lacking.append("busybox-static")
    if importlib.util.find_spec("grpc") is None:
        lacking.append("grpcio")
    if not _cgroup_mounts():
        lacking.append("a mounted cgroup")
    if lacking:
        return f"missing: {', '.join(lacking)}"
    return mount_namespaces.why_not() or _outside_of_a_chroot()


def _outside_of_a_chroot() -> str:
    """Why not: who enters a mount namespace leaves the chroot, and containerd would work on the host's files."""
    words = ["nsenter", "--mount=/proc/self/ns/mnt", "stat", "--format=%d:%i", "/"]
    found = subprocess.run(words, capture_output=True, text=True, check=False).stdout.strip()
    here = Path("/").stat()
    return "" if found == f"{here.st_dev}:{here.st_ino}" else "in a chroot, which nsenter --mount leaves"


def until_nothing(wrong: Callable[[], object], seconds: float = SECONDS) -> None:
    """Wait until nothing is wrong any more, of which nobody tells. Raises AssertionError with what is."""
    deadline = time.monotonic() + seconds
    while found := wrong():
        assert time.monotonic() < deadline, f"after {seconds:g} s still: {found}"
        time.sleep(0.01)


class ContainerdNode(Closing):
    """containerd at work in a network namespace. `folder` is for its files; `plugins` and `net_d` are as on a node."""

    def __init__(self, namespace: Namespace, folder: Path, plugins: Path, net_d: Path) -> None:
        self.namespace = namespace
        self.name = f"netplane-{os.getpid()}-{secrets.token_hex(4)}"
        """What belongs to this node: its cgroups, and its images in containerd's own words."""
        _remove_cgroups_of_the_dead()
        self._log = folder / "containerd.log"
        self._containerd: subprocess.Popen[bytes] | None = None
        (folder / "upper").mkdir(parents=True)
        self._holder = self._hold(folder / "upper", plugins, net_d)
        try:
            self._first = self._await_up()
            self.start()
            self._import_image()
        except BaseException:
            self.close()
            raise

    @property
    def root(self) -> Path:
        """The node's file system, as seen by its processes."""
        return Path(f"/proc/{self._first}/root")

    def start(self) -> None:
        """Start containerd; it serves its socket then."""
        with self._log.open("ab") as log:
            self._containerd = self._popen("containerd", stdout=log, stderr=log)
        self.cri = Cri(str(self.root / "run/containerd/containerd.sock"))

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """End containerd, and nothing else: shims and containers go on."""
        assert self._containerd is not None
        self.cri.close()
        (child,) = _children(self._containerd.pid)
        os.kill(child, number)
        self._containerd.wait(SECONDS)
        self._containerd = None

    def ctr(self, *words: str, stdin: bytes | None = None) -> str:
        """What `ctr` prints, in a containerd namespace of this node's own. Raises AssertionError if it fails."""
        return self.execute("ctr", "--namespace", self.name, *words, stdin=stdin)

    def ctr_run(self, name: str, *words: str) -> str:
        """`ctr run --cni`: what the container prints."""
        return self.ctr("run", "--rm", "--snapshotter", "native", "--cni", NAME, name, *words)

    def spec(self, name: str, **given: object) -> PodSpec:
        """A sandbox whose cgroups are found again."""
        return PodSpec(name, cgroup_parent=f"/{self.name}", **given)  # type: ignore[arg-type]

    def execute(self, *words: str, stdin: bytes | None = None) -> str:
        """What a program prints that is run among the node's processes."""
        process = self._popen(*words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        out, err = process.communicate(stdin or b"", timeout=SECONDS)
        assert process.returncode == 0, f"{words}: {process.returncode}: {err.decode()} {self.log()}"
        return out.decode()

    def netns_left(self) -> list[str]:
        """The network namespaces that containerd has mounted."""
        folder = self.root / "run/netns"
        return sorted(each.name for each in folder.iterdir()) if folder.is_dir() else []

    def log(self) -> str:
        """What containerd, or whatever makes its mounts, said last."""
        return self._log.read_text(errors="replace")[-4000:] if self._log.exists() else ""

    def close(self) -> None:
        """End every process of the node, wait for that, and remove its cgroups."""
        if hasattr(self, "cri"):
            self.cri.close()
        for first in _children(self._holder.pid):
            os.kill(first, signal.SIGKILL)  # the kernel ends all others of its namespace, and only then itself
        for process in (self._holder, self._containerd):
            if process is not None:
                process.wait(SECONDS)
                for pipe in (process.stdin, process.stdout):
                    if pipe is not None:
                        pipe.close()
        until_nothing(lambda: _remove_cgroups(self.name))

    def _hold(self, upper: Path, plugins: Path, net_d: Path) -> subprocess.Popen[bytes]:
        inside = ("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")
        words = ("setpriv", "--pdeathsig", "KILL", *inside, "sh", "-c", _SETUP, "sh", upper, plugins, net_d)
        with self._log.open("ab") as log:
            return self.namespace.run(
                lambda: subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log)
            )

    def _await_up(self) -> int:
        assert self._holder.stdin is not None
        assert self._holder.stdout is not None
        self._holder.stdin.write(_CONFIG.encode())
        self._holder.stdin.close()
        assert self._holder.stdout.readline() == b"up\n", f"the node's mounts could not be made: {self.log()}"
        (first,) = _children(self._holder.pid)
        return first

    def _popen(self, *words: str, **given: object) -> subprocess.Popen[bytes]:
        enter = ("nsenter", "--target", str(self._first), "--mount", "--pid", "--")
        return self.namespace.run(lambda: subprocess.Popen((*enter, *words), **given))  # type: ignore[call-overload]

    def _import_image(self) -> None:
        busybox = static_busybox()
        assert busybox is not None
        image = archive(busybox)
        for namespace in (self.name, "k8s.io"):
            words = ("ctr", "--namespace", namespace, "image", "import", "--snapshotter", "native", "-")
            self.execute(*words, stdin=image)
        until_nothing(lambda: not self.cri.has_image() and "CRI has not noticed the image")


def _children(pid: int) -> list[int]:
    found = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(each) for listed in found for each in listed.read_text().split()]


def _cgroup_mounts() -> list[Path]:
    lines = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return [Path(words[4]) for words in lines if words[words.index("-") + 1].startswith("cgroup")]


def _remove_cgroups(name: str) -> list[Path]:
    """Those that are left, because something is still in them."""
    folders = [mount / name for mount in _cgroup_mounts() if (mount / name).is_dir()]
    for folder in folders:
        for inner in sorted(folder.rglob("*"), reverse=True):
            if inner.is_dir():
                _try_rmdir(inner)
        _try_rmdir(folder)
    return [each for each in folders if each.exists()]


def _remove_cgroups_of_the_dead() -> None:
    names = {each.name for mount in _cgroup_mounts() for each in mount.glob("netplane-*-*")}
    for name in names:
        if not Path("/proc", name.split("-")[1]).exists():
            _remove_cgroups(name)


def _try_rmdir(folder: Path) -> None:
    try:
        folder.rmdir()
    except FileNotFoundError:
        return
    except OSError as error:
        if error.errno != errno.EBUSY:  # a process in it is about to end
            raise
