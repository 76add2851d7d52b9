"""What the iptables mechanism does not do, and says in one line: two variants, locks, strangers, things that lack."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import mount_namespaces
import pytest
from iptables_node import SHOP, Node, Service, changed, hashed, program

from netplane.errors import KernelError, NetplaneError, OwnershipError, RequirementError
from netplane.kernel import iptables_lock, probe
from netplane.kernel.host import Host, HostOptions
from netplane.kernel.iptables import IptablesDriver
from netplane.kernel.iptables_variants import Variant
from netplane.model.address import Family
from netplane.programs.iptables import TABLES, Frame
from netplane.programs.program import Program

pytestmark = pytest.mark.kernel

DOCKER = "*nat\n:DOCKER - [0:0]\n-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER\nCOMMIT\n"
FIREWALL = "*filter\n-A INPUT -p tcp -m tcp --dport 22 -j ACCEPT\nCOMMIT\n"
HINT = "*mangle\n:KUBE-IPTABLES-HINT - [0:0]\nCOMMIT\n"
SERVICES = "*nat\n:KUBE-SERVICES - [0:0]\nCOMMIT\n"


def apply(node: Node, want: Program, wish: str = "auto") -> None:
    with node.run(lambda: Host(HostOptions(wish))) as host:
        node.run(lambda: host.apply(want, reread=True))


def refused(
    node: Node, want: Program, kind: type[NetplaneError], wish: str = "auto", tables: tuple[str, ...] = TABLES
) -> str:
    """What was said; and that nothing was changed in these tables."""
    before = everything(node, tables)
    with pytest.raises(kind) as caught:
        apply(node, want, wish)
    assert everything(node, tables) == before
    assert "\n" not in str(caught.value)
    return str(caught.value)


def everything(node: Node, tables: tuple[str, ...] = TABLES) -> list[list[str]]:
    """All rules of both variants."""
    return [
        [line for line in node.saved(family, table, variant=variant) if line.startswith(("-A", ":KUBE", ":NETPLANE"))]
        for variant in Variant
        for family in Family
        for table in tables
    ]


def used(node: Node, wish: str = "auto") -> Variant:
    with node.run(lambda: IptablesDriver(wish)) as driver:
        return node.run(driver.decide)


# --- which variant ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("script", [DOCKER, FIREWALL, HINT, SERVICES])
def test_the_variant_that_is_in_use_is_used(node, script):
    node.restore(script)
    assert used(node) is node.variant
    apply(node, SHOP)
    assert node.ours()


@pytest.mark.parametrize(
    ("mine", "others"),
    [(HINT, FIREWALL), (HINT, DOCKER), (SERVICES, HINT), (SERVICES, DOCKER), (HINT, HINT + FIREWALL)],
)
def test_chains_of_services_say_more_than_those_of_the_kubelet_and_these_more_than_rules(node, mine, others):
    node.restore(mine)
    node.restore(others, variant=node.variant.other)
    if mine == HINT and HINT in others:
        with pytest.raises(OwnershipError):
            used(node)
    else:
        assert used(node) is node.variant


def test_an_empty_namespace_gets_what_iptables_means_here(nf_tables):
    said = subprocess.run(["/usr/sbin/iptables", "-V"], capture_output=True, text=True, check=True).stdout
    assert used(nf_tables) is (Variant.NF_TABLES if "nf_tables" in said else Variant.LEGACY)
    for variant in Variant:
        assert used(nf_tables, variant.value) is variant


def test_built_in_chains_without_rules_decide_nothing(legacy):
    legacy.iptables("-L", variant=Variant.NF_TABLES)
    legacy.iptables("-P", "FORWARD", "DROP", variant=Variant.NF_TABLES)
    legacy.restore(DOCKER)
    assert used(legacy) is Variant.LEGACY


def test_tables_that_are_nfts_own_are_nobodys_iptables(legacy):
    script = "table ip filter { chain input { type filter hook input priority 0; accept; }; }"
    legacy.run(lambda: subprocess.run(["/usr/sbin/nft", script], check=True))
    legacy.restore(DOCKER)
    assert used(legacy) is Variant.LEGACY


def test_where_both_hold_rules_and_nothing_decides_somebody_must_choose(node):
    node.restore(DOCKER)
    node.restore(FIREWALL, variant=node.variant.other, family=Family.IPV6)
    said = refused(node, SHOP, OwnershipError)
    assert "both variants hold rules" in said
    assert "ip nat" in said
    assert "ip6 filter" in said
    assert "--iptables-variant" in said
    apply(node, SHOP, node.variant.value)
    assert node.ours()
    assert used(node) is node.variant


def test_where_both_hold_chains_of_services_nothing_is_done(node):
    for variant in Variant:
        node.restore(SERVICES, variant=variant)
    for wish in ("auto", "legacy", "nf_tables"):
        said = refused(node, SHOP, OwnershipError, wish)
        assert "both variants hold chains of a Service proxy" in said
        assert "legacy: ip nat; nf_tables: ip nat" in said
        assert "netplane backend clean iptables --iptables-variant" in said


def test_the_other_variant_must_not_hold_chains_of_services(node):
    apply(node, SHOP, node.variant.value)
    said = refused(node, SHOP, OwnershipError, node.variant.other.value)
    assert f"the {node.variant.value} variant holds chains of a Service proxy (ip filter, ip nat, ip6" in said
    apply(node, Program(), node.variant.value)
    apply(node, SHOP, node.variant.other.value)
    assert used(node) is node.variant.other


def test_what_is_marked_in_both_variants_is_cleaned_one_by_one(node):
    for variant in Variant:
        node.restore("*nat\n:NETPLANE - [0:0]\n:KUBE-SERVICES - [0:0]\nCOMMIT\n", variant=variant)
    assert "both variants hold chains" in refused(node, Program(), OwnershipError)
    apply(node, Program(), node.variant.value)
    assert node.ours() == []
    apply(node, Program())
    assert ":NETPLANE - [0:0]" not in node.saved(Family.IPV4, "nat", variant=node.variant.other)


# --- strangers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", Family)
@pytest.mark.parametrize(("table", "chain"), [("filter", "KUBE-FORWARD"), ("nat", "KUBE-SERVICES")])
def test_a_chain_of_our_name_that_a_stranger_wrote_stops_everything(node, family, table, chain):
    node.restore(f"*{table}\n:{chain} - [0:0]\n-A {chain} -j LOG --log-prefix mine\nCOMMIT\n", family=family)
    said = refused(node, SHOP, OwnershipError)
    assert f"{'ip' if family is Family.IPV4 else 'ip6'} {table} chain {chain} is not ours" in said
    assert f"-A {chain} -j LOG --log-prefix mine" in said
    node.iptables("-t", table, "-N", "NETPLANE", family=family)  # what the message says, if it is ours all the same
    apply(node, SHOP)
    assert "LOG" not in "".join(node.ours())


def test_an_empty_chain_of_our_name_is_taken(node):
    node.restore("*nat\n:KUBE-MARK-MASQ - [0:0]\nCOMMIT\n")
    apply(node, SHOP)
    assert node.ours()


# --- the lock ---------------------------------------------------------------------------------------------------------


@contextmanager
def locked() -> Iterator[int]:
    """Another process holds the lock; its number."""
    script = (
        "import fcntl, sys; f = open(sys.argv[1], 'a'); fcntl.flock(f, fcntl.LOCK_EX)\n"
        "print(flush=True); sys.stdin.read()"
    )
    words = [sys.executable, "-c", script, str(iptables_lock.lock_file())]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"\n"
        yield holder.pid
        assert holder.stdin is not None
        holder.stdin.close()


def test_a_lock_that_somebody_keeps_is_named_with_who_has_it(legacy):
    with legacy.run(lambda: Host(HostOptions("legacy"))) as host:
        with locked() as pid:
            with pytest.raises(KernelError) as caught:
                legacy.run(lambda: host.apply(SHOP, reread=True))
            said = str(caught.value)
            name = Path(f"/proc/{pid}/comm").read_text().strip()
            assert f"for 5 s: {iptables_lock.lock_file()} is held by {pid} ({name})" in said
            assert legacy.ours() == []
        legacy.run(lambda: host.apply(SHOP, reread=False))
    assert legacy.ours()


def test_nf_tables_needs_no_lock(nf_tables):
    with locked():
        apply(nf_tables, SHOP, "nf_tables")
    assert nf_tables.ours()


def test_a_lock_file_that_somebody_left_behind_is_no_lock(legacy):
    iptables_lock.lock_file().write_text("4711\n")
    apply(legacy, SHOP, "legacy")
    assert iptables_lock.held().endswith("is held by a process that cannot be seen from here")


def test_who_only_waits_for_the_lock_does_not_hold_it(lock_of_its_own):
    with iptables_lock.lock_file().open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        waiting = [sys.executable, "-c", "import fcntl, sys; fcntl.flock(open(sys.argv[1], 'a'), fcntl.LOCK_EX)"]
        with subprocess.Popen([*waiting, str(iptables_lock.lock_file())]) as waiter:
            while f"-> FLOCK  ADVISORY  WRITE {waiter.pid} " not in Path("/proc/locks").read_text():
                assert waiter.poll() is None
            assert f"is held by {os.getpid()} (" in iptables_lock.held()
            assert str(waiter.pid) not in iptables_lock.held()
            fcntl.flock(file, fcntl.LOCK_UN)


# --- what lacks -------------------------------------------------------------------------------------------------------


@pytest.fixture
def without_recent(tmp_path, monkeypatch) -> None:
    """An iptables that was built without the match recent."""
    folder = tmp_path / "xtables"
    folder.mkdir()
    for path in next(Path("/usr/lib").glob("*/xtables/libxt_recent.so")).parent.iterdir():
        if path.name != "libxt_recent.so":
            (folder / path.name).symlink_to(path)
    monkeypatch.setenv("XTABLES_LIBDIR", str(folder))


def test_a_match_that_iptables_lacks_is_named_with_the_rule(node, without_recent, monkeypatch):
    said = refused(node, SHOP, KernelError, node.variant.value, tables=("nat", "mangle"))  # filter goes before
    assert "this iptables has no match 'recent'" in said
    sep = hashed("SEP", 2004)
    assert f"-A {hashed('SVC', 2)} -m recent --rcheck --seconds 10800 --reap --name {sep}" in said
    assert "restore ip nat, line " in said
    monkeypatch.delenv("XTABLES_LIBDIR")
    apply(node, SHOP, node.variant.value)
    assert node.ours()


def test_a_failed_change_leaves_what_was_there_serving(node, without_recent):
    plain = program(None, Service(1, (1, 2)))
    with node.run(lambda: Host(HostOptions(node.variant.value))) as host:
        node.run(lambda: host.apply(plain, reread=True))
        before = everything(node)
        with pytest.raises(KernelError):
            node.run(lambda: host.apply(changed(plain, Service(2, (4,), affinity=True)), reread=False))
        assert everything(node) == before
        assert not node.run(lambda: host.apply(plain, reread=False)).changed


def test_a_rule_the_kernel_refuses_is_named(node):
    """REJECT is only for the table filter; iptables knows the word, and the kernel refuses it elsewhere."""
    frames = dict(SHOP.iptables.frames)
    key = (Family.IPV4, "nat")
    frames[key] = Frame({**frames[key].chains, "KUBE-NODEPORTS": ("-p tcp -j REJECT",)}, frames[key].jumps)
    want = Program(iptables=replace(SHOP.iptables, frames=frames))
    said = refused(node, want, KernelError, node.variant.value, tables=("nat", "mangle"))
    if node.variant is Variant.NF_TABLES:
        assert "-A KUBE-NODEPORTS -p tcp -j REJECT: RULE_APPEND failed (Invalid argument)" in said
        assert "does this kernel have REJECT?" in said
    else:
        assert "restore ip nat, line " in said
        assert ": COMMIT: " in said


def test_what_a_backend_needs_of_iptables_is_tried_in_both_families(node, without_recent):
    fine = "# iptables-restore --noflush\n*nat\n:KUBE-TRY - [0:0]\n-A KUBE-TRY -j MARK --set-xmark 0x1/0x1\nCOMMIT\n"
    recent = fine.replace("# iptables", "# ip6tables").replace("-j MARK", "-m recent --set -j MARK")
    assert node.run(lambda: probe.try_restore(fine, node.variant.value)) is None
    said = node.run(lambda: probe.try_restore(fine + recent, node.variant.value))
    assert said is not None
    assert "restore ip6 nat, line 4: -A KUBE-TRY -m recent" in said
    assert "this iptables has no match 'recent'" in said
    assert node.ours() == []


WITHOUT = """
mount --make-rprivate /
for each in /usr/sbin/xtables-nft-multi /usr/sbin/xtables-legacy-multi; do mount --bind /dev/null $each; done
exec "$@"
"""


def without_iptables(node: Node, script: str) -> subprocess.CompletedProcess[str]:
    """Run Python in this namespace on a host whose iptables was never installed."""
    mount_namespaces.needed()
    path = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
    words = ["unshare", "--mount", "sh", "-c", WITHOUT, "sh", sys.executable, "-c", path + textwrap.dedent(script)]
    return node.run(lambda: subprocess.run(words, capture_output=True, text=True, check=False))


ATTEMPT = """
from iptables_node import SHOP, program
from netplane.errors import NetplaneError
from netplane.kernel.host import Host, HostOptions
from netplane.programs.program import Program
with Host(HostOptions()) as host:
    try:
        print(host.apply({want}, reread=True).changed)
    except NetplaneError as error:
        print(type(error).__name__, error)
"""


def test_where_iptables_is_not_installed_and_nothing_is_wanted_of_it_all_is_well(node):
    done = without_iptables(node, ATTEMPT.format(want="Program()"))
    assert (done.stdout, done.stderr) == ("False\n", "")


def test_where_iptables_is_not_installed_a_backend_that_needs_it_is_told(node):
    done = without_iptables(node, ATTEMPT.format(want="SHOP"))
    assert done.stdout == (
        f"{RequirementError.__name__} iptables: the program 'iptables' is missing; "
        "install it (Debian: apt install iptables)\n"
    )


def test_where_iptables_was_removed_but_not_our_rules_it_is_missed(node):
    apply(node, SHOP, node.variant.value)
    done = without_iptables(node, ATTEMPT.format(want="Program()"))
    name = "iptables-nft-save" if node.variant is Variant.NF_TABLES else "iptables-legacy-save"
    assert done.stdout == (
        f"RequirementError iptables: the program '{name}' is missing, for the {node.variant.value} variant that this "
        "node uses; install it (Debian: apt install iptables)\n"
    )
