"""What the iptables mechanism promises, on the real kernel in both variants: see netplane/kernel/iptables.py."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from iptables_node import MARK, SHOP, Node, Service, changed, hashed, of_us, program

from netplane.errors import KernelError
from netplane.kernel.host import Host, HostOptions
from netplane.kernel.iptables_facts import IptablesFacts
from netplane.kernel.iptables_variants import Variant
from netplane.model.address import Family
from netplane.programs.iptables_text import program_script, scripts
from netplane.programs.nftables import NftablesProgram
from netplane.programs.program import Program

pytestmark = pytest.mark.kernel

NOTHING = Program()

# Rules as a container engine, firewalld, the kubelet and an administrator leave them, with counters.
OTHERS = """
*mangle
:KUBE-IPTABLES-HINT - [0:0]
:KUBE-KUBELET-CANARY - [0:0]
COMMIT
*filter
:INPUT ACCEPT [7:420]
:FORWARD DROP [5:300]
:DOCKER - [0:0]
:DOCKER-USER - [0:0]
:IN_public - [0:0]
:KUBE-FIREWALL - [0:0]
[11:660] -A INPUT -j KUBE-FIREWALL
[3:180] -A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
[1:60] -A INPUT -j IN_public
[2:120] -A FORWARD -j DOCKER-USER
[9:540] -A FORWARD -o docker0 -j DOCKER
[4:240] -A DOCKER -p tcp -m tcp --dport 80 -j ACCEPT
[6:360] -A DOCKER-USER -j RETURN
[8:480] -A IN_public -p tcp -m tcp --dport 22 -m comment --comment "a -j KUBE-SERVICES comment" -j ACCEPT
[1:60] -A KUBE-FIREWALL -m mark --mark 0x8000/0x8000 -j DROP
COMMIT
*nat
:DOCKER - [0:0]
[2:120] -A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
[3:180] -A POSTROUTING -m comment --comment "KUBE-POSTROUTING" -j MASQUERADE
[4:240] -A DOCKER -j RETURN
COMMIT
"""


def load_others(node: Node) -> None:
    for family in Family:
        node.restore(OTHERS, "-c", family=family)


@pytest.fixture
def host(node) -> Iterator[Host]:
    with node.run(lambda: Host(HostOptions(node.variant.value))) as host:
        yield host


def apply(node: Node, host: Host, want: Program, *, reread: bool = True, sweep: bool = True):
    return node.run(lambda: host.apply(want, reread=reread, sweep=sweep))


def lines(node: Node, host: Host, want: Program) -> list[str]:
    return node.run(lambda: [line for each in host.pending(want) for line in each.lines()])


def expected(want: Program) -> dict:
    """What iptables-save prints in a namespace of its own into which the script of the program was loaded."""
    from netplane.kernel.netns import Namespace

    with Namespace() as namespace:
        fresh = Node(namespace, Variant.NF_TABLES)
        for family, script in scripts(program_script(want.iptables)).items():
            fresh.restore(script, family=family)
        return fresh.whole()


# --- applying ---------------------------------------------------------------------------------------------------------


def test_the_kernel_has_exactly_the_program_and_a_second_apply_does_nothing(node, host):
    done = apply(node, host, SHOP)
    assert done.made > 0
    assert done.swept == 0
    assert node.whole() == expected(SHOP)
    assert not apply(node, host, SHOP).changed
    assert not apply(node, host, SHOP, reread=False).changed
    assert lines(node, host, SHOP) == []
    assert node.whole() == expected(SHOP)


def test_a_process_without_memory_finds_nothing_to_do(node, host):
    apply(node, host, SHOP)
    with node.run(lambda: Host(HostOptions(node.variant.value))) as other:
        assert lines(node, other, SHOP) == []
        assert not apply(node, other, SHOP).changed


def test_what_is_shown_is_what_is_done(node, host):
    shown = lines(node, host, SHOP)
    assert node.ours() == []
    done = apply(node, host, SHOP)
    assert len(shown) == done.made
    assert f"+ ip nat chain {hashed('SVC', 1)} (3 rules)" in shown
    assert "+ ip6 nat jump PREROUTING -> KUBE-SERVICES" in shown


def test_a_change_of_one_service_writes_its_chains_and_removes_the_old_ones(node, host):
    apply(node, host, SHOP)
    other = changed(SHOP, Service(1, (1, 7)))
    done = apply(node, host, other, reread=False)
    assert (done.made, done.swept) == (4, 4)  # in each family the Service's chain and a new endpoint; two are gone
    assert node.whole() == expected(other)
    assert not apply(node, host, other).changed


def test_counters_of_chains_that_do_not_change_go_on(node, host):
    apply(node, host, SHOP)
    chain = hashed("SEP", 2004)
    rules = [line for line in node.saved(Family.IPV4, "nat") if line.startswith(f"-A {chain} ")]
    node.restore("\n".join(("*nat", f":{chain} - [0:0]", *(f"[5:300] {rule}" for rule in rules), "COMMIT\n")), "-c")
    apply(node, host, changed(SHOP, Service(1, (1, 7))), reread=False)
    counted = [line for line in node.saved(Family.IPV4, "nat", "-c") if f"-A {chain} " in line]
    assert counted == [f"[5:300] {rule}" for rule in rules]


def test_without_sweep_nothing_goes_and_the_next_apply_with_it_removes_what_is_left(node, host):
    apply(node, host, SHOP)
    less = changed(SHOP, gone=(1,))
    done = apply(node, host, less, sweep=False)
    assert done.swept == 0
    assert f":{hashed('SVC', 1)} - [0:0]" in node.saved(Family.IPV4, "nat")
    assert apply(node, host, less).swept == 8
    assert node.whole() == expected(less)


def test_many_chains_into_an_empty_namespace_and_away_again(node, host):
    many = program({number: Service(number, (1, 2)) for number in range(1, 200)})
    apply(node, host, many)
    assert not node.run(host.disturbed)
    assert not apply(node, host, many).changed
    assert node.whole() == expected(many)
    apply(node, host, SHOP)
    assert node.whole() == expected(SHOP)
    apply(node, host, many)
    apply(node, host, NOTHING)
    assert node.ours() == []


def test_every_table_changes_in_one_transaction(nf_tables):
    """Were the old chains removed and the new ones made by two, packets between them would find neither."""
    with nf_tables.run(lambda: Host(HostOptions("nf_tables"))) as host, nf_tables.run(IptablesFacts) as facts:
        apply(nf_tables, host, SHOP)
        before = facts.generation()
        apply(nf_tables, host, program(None, *(Service(number, (9,)) for number in range(4, 200))))
        assert facts.generation() - before == 2  # nat of each family; filter is the same


# --- cleaning up ------------------------------------------------------------------------------------------------------


def test_cleaning_up_leaves_nothing_of_ours_and_all_of_others(node, host):
    load_others(node)
    before = node.others()
    assert apply(node, host, SHOP).made
    assert node.ours()
    assert node.others() == before
    apply(node, host, changed(SHOP, Service(1, (8,)), gone=(2,)), reread=False)
    apply(node, host, NOTHING)
    assert node.ours() == []
    assert node.others() == before
    assert not apply(node, host, NOTHING).changed


def test_our_jumps_come_first_and_stay_where_others_put_theirs_before(node, host):
    load_others(node)
    apply(node, host, SHOP)
    rules = [line for line in node.saved(Family.IPV4, "filter") if line.startswith("-A FORWARD")]
    assert [of_us(line) for line in rules] == [True, True, False, False]
    node.iptables("-I", "FORWARD", "-j", "DOCKER-USER")
    assert not apply(node, host, SHOP).changed


def test_a_chain_that_somebody_elses_rule_leads_to_stays_and_is_named(node, host):
    apply(node, host, SHOP)
    service = hashed("SVC", 1)
    node.restore(f"*nat\n:MINE - [0:0]\n-A MINE -j {service}\nCOMMIT\n")
    less = changed(SHOP, gone=(1,))
    needed = {service, "KUBE-MARK-MASQ", *(hashed("SEP", 1000 + each) for each in (1, 2, 3))}
    said = f"= ip nat chain {service} stays: chain MINE refers to it"
    assert said in lines(node, host, less)
    apply(node, host, less)
    with node.run(lambda: Host(HostOptions(node.variant.value))) as other:
        shown = lines(node, other, less)
    assert said in shown
    assert all(line.startswith("= ") for line in shown)
    assert not apply(node, host, less).changed
    apply(node, host, NOTHING)
    left = {line[1:].split()[0] for line in node.ours() if line.startswith(":")}
    assert left == needed
    assert f"-A KUBE-MARK-MASQ {MARK}" in node.ours()
    assert f"-A MINE -j {service}" in node.saved(Family.IPV4, "nat")
    node.iptables("-t", "nat", "-F", "MINE")


def test_a_change_meets_a_rule_of_somebody_else_that_came_meanwhile(node, host):
    apply(node, host, SHOP)
    node.restore(f"*nat\n:MINE - [0:0]\n-A MINE -j {hashed('SVC', 1)}\nCOMMIT\n")
    less = changed(SHOP, gone=(1,))
    with pytest.raises(KernelError):
        apply(node, host, less, reread=False)
    apply(node, host, less, reread=False)
    assert f":{hashed('SVC', 1)} - [0:0]" in node.saved(Family.IPV4, "nat")
    assert f":{hashed('SVC', 1)} - [0:0]" not in node.saved(Family.IPV6, "nat")


# --- drift ------------------------------------------------------------------------------------------------------------

SERVICE = hashed("SVC", 1)
DRIFT = {
    "a chain is flushed": (("-F", SERVICE), f"~ ip nat chain {SERVICE} (3 rules)"),
    "a rule is deleted": (("-D", SERVICE, "3"), f"~ ip nat chain {SERVICE} (3 rules)"),
    "a rule is inserted": (("-I", SERVICE, "-j", "RETURN"), f"~ ip nat chain {SERVICE} (3 rules)"),
    "a rule logs": (("-I", "KUBE-SERVICES", "-j", "LOG"), "~ ip nat chain KUBE-SERVICES (3 rules)"),
    "a rule is replaced": (("-R", "KUBE-MARK-MASQ", "1", "-j", "MARK", "--set-mark", "0x1"),
                           "~ ip nat chain KUBE-MARK-MASQ (1 rule)"),
    "a jump is deleted": (("-D", "OUTPUT", "1"), "+ ip nat jump OUTPUT -> KUBE-SERVICES"),
    "a jump is there twice": (("-A", "OUTPUT", "-j", "KUBE-SERVICES"), "- ip nat jump OUTPUT -> KUBE-SERVICES"),
    "all is flushed": (("-F",), "+ ip nat jump OUTPUT -> KUBE-SERVICES"),
    "a chain of ours appears": (("-N", hashed("SVC", 99)), f"- ip nat chain {hashed('SVC', 99)}"),
    "the marker is removed": (("-X", "NETPLANE"), "+ ip nat chain NETPLANE (0 rules)"),
}  # fmt: skip


@pytest.mark.parametrize("what", DRIFT)
def test_drift_is_noticed_named_and_repaired(node, host, what):
    words, said = DRIFT[what]
    apply(node, host, SHOP)
    assert not node.run(host.disturbed)
    node.iptables("-t", "nat", *words)
    assert node.run(lambda: any(each.disturbed() for each in host._mechanisms)) or what == "a rule is replaced"
    done = apply(node, host, SHOP)
    assert said in done.drift["iptables"].named
    assert done.drift["iptables"].count == done.made + done.swept
    assert node.whole() == expected(SHOP)
    assert not apply(node, host, SHOP).drift


def test_a_change_of_what_is_wanted_is_no_drift(node, host):
    apply(node, host, SHOP)
    node.iptables("-t", "nat", "-F", SERVICE)
    done = apply(node, host, changed(SHOP, Service(3, (5,))))
    assert done.drift["iptables"].named == (f"~ ip nat chain {SERVICE} (3 rules)",)
    assert done.made > 1


def test_at_most_twenty_are_named(node, host):
    want = program({number: Service(number, ()) for number in range(1, 31)})
    apply(node, host, want)
    for number in range(1, 31):
        node.iptables("-t", "nat", "-A", hashed("SVC", number), "-j", "RETURN")
    drift = apply(node, host, want).drift["iptables"]
    assert (drift.count, len(drift.named)) == (30, 20)


def test_what_others_did_just_before_our_own_change_is_not_taken_for_ours(node, host):
    apply(node, host, SHOP)
    want = changed(SHOP, Service(3, (5,)))
    node.iptables("-t", "nat", "-A", SERVICE, "-j", "RETURN")
    apply(node, host, want, reread=False)
    assert node.run(lambda: any(each.disturbed() for each in host._mechanisms))
    assert f"~ ip nat chain {SERVICE} (3 rules)" in apply(node, host, want).drift["iptables"].named


def test_nothing_is_disturbed_by_what_we_do_ourselves(node, host):
    apply(node, host, SHOP)
    mark = node.run(host.mark)
    for number in range(4, 9):
        apply(node, host, changed(SHOP, Service(number, (1,))), reread=False)
        assert not node.run(lambda: any(each.disturbed() for each in host._mechanisms))
    assert node.run(host.mark) == mark
    node.iptables("-N", "MINE")
    assert node.run(host.mark) != mark


def test_only_of_the_legacy_variant_the_kernel_tells_nobody(node, host):
    apply(node, host, SHOP)
    assert host.told is (node.variant is Variant.NF_TABLES)


# --- taking over ------------------------------------------------------------------------------------------------------

KUBE_PROXY = """
*mangle
:KUBE-PROXY-CANARY - [0:0]
COMMIT
*filter
:KUBE-PROXY-CANARY - [0:0]
:KUBE-SERVICES - [0:0]
:KUBE-EXTERNAL-SERVICES - [0:0]
:KUBE-FIREWALL - [0:0]
:KUBE-NODEPORTS - [0:0]
-A KUBE-EXTERNAL-SERVICES -m addrtype --dst-type LOCAL -p tcp -m tcp --dport 30001 -j DROP
-A KUBE-FIREWALL -m comment --comment "block incoming localnet connections" -j RETURN
-A KUBE-NODEPORTS -m comment --comment "health check node port" -p tcp -m tcp --dport 30000 -j ACCEPT
-I INPUT -j KUBE-FIREWALL
-I INPUT -m conntrack --ctstate NEW -j KUBE-EXTERNAL-SERVICES
-I INPUT -j KUBE-NODEPORTS
-I OUTPUT -m conntrack --ctstate NEW -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
COMMIT
*nat
:KUBE-PROXY-CANARY - [0:0]
:KUBE-SERVICES - [0:0]
:KUBE-POSTROUTING - [0:0]
:KUBE-MARK-MASQ - [0:0]
:{fw} - [0:0]
:{svc} - [0:0]
:{sep} - [0:0]
-A KUBE-SERVICES -p tcp -m tcp --dport 80 -m comment --comment "kube-proxy's own" -j {svc}
-A KUBE-SERVICES -p tcp -m tcp --dport 81 -j {fw}
-A KUBE-MARK-MASQ -j MARK --or-mark 0x4000
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MARK --xor-mark 0x4000
-A KUBE-POSTROUTING -j MASQUERADE --random-fully
-A {fw} -m comment --comment "other traffic to ns/svc will be dropped by KUBE-PROXY-FIREWALL"
-A {svc} -j {sep}
-A {sep} -p tcp -m tcp -j DNAT --to-destination {to}
-I PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-I OUTPUT -j KUBE-SERVICES
COMMIT
"""


def load_kube_proxy(node: Node) -> None:
    for family in Family:
        to = "10.9.9.9:80" if family is Family.IPV4 else "[fd00:9::9]:80"
        names = {"fw": hashed("FW", 1), "svc": hashed("SVC", 1), "sep": hashed("SEP", 777)}
        node.restore(KUBE_PROXY.format(to=to, **names), family=family)


def test_a_node_is_taken_over_from_kube_proxy(node, host):
    load_kube_proxy(node)
    apply(node, host, SHOP)
    others = [line for line in node.saved(Family.IPV4, "filter") if line.startswith("-A") and not of_us(line)]
    assert others == [
        "-A INPUT -j KUBE-FIREWALL",
        '-A KUBE-FIREWALL -m comment --comment "block incoming localnet connections" -j RETURN',
    ]
    assert {*node.ours()} == {line for rows in expected(SHOP).values() for line in rows if of_us(line)}
    assert not apply(node, host, SHOP).changed


def test_a_jump_of_kube_proxy_that_is_right_is_kept(node, host):
    load_kube_proxy(node)
    shown = lines(node, host, SHOP)
    assert "+ ip nat jump PREROUTING -> KUBE-SERVICES" not in shown
    assert "+ ip nat jump OUTPUT -> KUBE-SERVICES" in shown
    assert "- ip nat jump OUTPUT -> KUBE-SERVICES" in shown
    assert "- ip mangle chain KUBE-PROXY-CANARY" in shown


def test_taking_over_is_one_transaction_for_each_table(nf_tables):
    load_kube_proxy(nf_tables)
    with nf_tables.run(lambda: Host(HostOptions())) as host, nf_tables.run(IptablesFacts) as facts:
        before = facts.generation()
        many = program({number: Service(number, (1, 2)) for number in range(1, 200)})
        apply(nf_tables, host, many)
        late = 2 * 2  # jumps of filter FORWARD and nat POSTROUTING, which did not exist
        assert facts.generation() - before <= 6 + late
        assert not nf_tables.run(host.disturbed)
        assert not apply(nf_tables, host, many).changed


def test_rules_of_kube_proxy_stay_while_nobody_serves_in_its_place(node, host):
    load_kube_proxy(node)
    before = node.whole()
    assert not apply(node, host, NOTHING).changed
    assert node.whole() == before


def test_another_backend_that_serves_removes_them_when_it_does(node, host, nftables_program):
    load_kube_proxy(node)
    apply(node, host, nftables_program)
    assert node.ours() == []
    assert "-A INPUT -j KUBE-FIREWALL" in node.saved(Family.IPV4, "filter")


def test_leaving_for_another_backend_and_coming_back(node, host, nftables_program):
    apply(node, host, SHOP)
    apply(node, host, nftables_program)
    assert node.ours() == []
    apply(node, host, SHOP)
    assert node.whole() == expected(SHOP)
    apply(node, host, NOTHING)
    assert node.ours() == []


@pytest.fixture
def nftables_program() -> Program:
    from netplane.programs.nftables import Chain, Structure

    return Program(nftables=NftablesProgram({Family.IPV4: Structure({"a": Chain("a", ("accept",))}, {})}))


# --- interruptions ----------------------------------------------------------------------------------------------------


def restoring() -> Iterator[tuple[int, Path]]:
    """The children of this process that read a script of iptables."""
    for task in Path("/proc/self/task").iterdir():
        try:
            children = (task / "children").read_text().split()
        except OSError:
            continue
        for child in children:
            script = Path(f"/proc/{child}/fd/0")
            try:
                if "memfd:netplane" in str(script.readlink()) and "xtables" in str(
                    Path(f"/proc/{child}/exe").readlink()
                ):
                    yield int(child), script
            except OSError:
                continue


def kill_when_read(share: float, done: threading.Event) -> bool:
    """Kill the restore that has read this share of its script. False if it was done before."""
    while not done.is_set():
        for child, script in restoring():
            try:
                size = script.stat().st_size
                at = int(Path(f"/proc/{child}/fdinfo/0").read_text().split("pos:")[1].split()[0])
            except (OSError, IndexError):
                continue
            if size and at >= share * size:
                os.kill(child, signal.SIGKILL)
                return True
    return False


@pytest.mark.parametrize("share", [0.0, 0.02, 0.3, 0.7, 1.0])
def test_a_restore_that_is_killed_leaves_no_table_in_between_and_the_next_apply_converges(node, host, share):
    old = program({number: Service(number, (1,)) for number in range(1, 300)})
    new = program({number: Service(number, (2, 3)) for number in range(150, 500)})
    apply(node, host, old)
    before, after = expected(old), expected(new)
    done = threading.Event()
    failed: list[Exception] = []

    def work() -> None:
        try:
            apply(node, host, new, reread=False)
        except KernelError as error:
            failed.append(error)
        finally:
            done.set()

    thread = threading.Thread(target=work)
    thread.start()
    kill_when_read(share, done)
    thread.join()
    now = node.whole()
    assert all(table in (before[key], after[key]) for key, table in now.items())
    if failed:
        assert "killed by signal 9" in str(failed[0])
    apply(node, host, new, reread=False)
    assert node.whole() == after


def test_the_process_killed_at_any_instant_is_followed_by_one_that_converges(node, tmp_path):
    """The whole process this time, and whatever it started."""
    old = program({number: Service(number, (1,)) for number in range(1, 100)})
    script = textwrap.dedent(
        f"""
        import os, sys
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from iptables_node import Service, program
        from netplane.kernel.host import Host, HostOptions
        with Host(HostOptions({node.variant.value!r})) as host:
            for turn in range(1000):
                services = dict((number, Service(number, (turn % 7,))) for number in range(1, 100))
                host.apply(program(services), reread=False)
                print(turn, flush=True)
        """
    )
    for turns in (1, 2, 5):
        process = node.run(
            lambda: subprocess.Popen(
                [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, start_new_session=True
            )
        )
        with process:
            for _ in range(turns):
                assert process.stdout is not None
                assert process.stdout.readline()
            os.killpg(process.pid, signal.SIGKILL)
    with node.run(lambda: Host(HostOptions(node.variant.value))) as host:
        apply(node, host, old)
        assert node.whole() == expected(old)
        apply(node, host, NOTHING)
        assert node.ours() == []


# --- cost -------------------------------------------------------------------------------------------------------------


def test_nothing_is_started_where_there_is_nothing_to_do(node, host, monkeypatch):
    with node.run(lambda: Host(HostOptions())) as auto:
        monkeypatch.setattr(subprocess, "Popen", None)
        monkeypatch.setattr(subprocess, "run", None)
        for each in (host, auto):
            assert not apply(node, each, NOTHING).changed
            assert not node.run(each.disturbed)


def test_only_legacy_tables_that_are_there_are_looked_at(legacy):
    """The kernel makes a legacy table, with hooks that every packet passes, as soon as it is asked for it."""
    with legacy.run(lambda: Host(HostOptions())) as host:
        apply(legacy, host, NOTHING)
        lines(legacy, host, NOTHING)
    assert legacy.run(lambda: Path("/proc/thread-self/net/ip_tables_names").read_text()) == ""
    nothing = legacy.run(lambda: subprocess.run(["/usr/sbin/nft", "list", "tables"], capture_output=True, check=True))
    assert nothing.stdout == b""


def test_memory_does_not_grow_with_the_script(legacy):
    """The text of 20 000 endpoints is 5 MB; it is never in this process as a whole."""
    measured = textwrap.dedent(
        f"""
        import sys
        from pathlib import Path
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from iptables_node import Service, program
        from netplane.kernel.host import Host, HostOptions
        from netplane.programs.iptables_text import chain_rules
        peak = lambda: int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) * 1024
        want = program(dict((number, Service(number, tuple(range(1, 201)))) for number in range(1, 100)))
        size = sum(len(line) for part in want.iptables.parts.values() for chains in part.chains().values()
                   for name, rules in chains.items() for line in chain_rules(name, rules))
        with Host(HostOptions("legacy")) as host:
            host.apply(program(None, Service(1, (1,))), reread=True)
            before = peak()
            host.apply(want, reread=True)
            written = peak() - before
            host.apply(want, reread=True)
            print(size, written, peak() - before)
        """
    )
    done = legacy.run(
        lambda: subprocess.run([sys.executable, "-c", measured], capture_output=True, text=True, check=True)
    )
    size, written, read = map(int, done.stdout.split())
    assert size > 10 << 20
    assert written < size
    assert read < size


def test_everything_that_was_opened_is_closed(node):
    def cycle() -> None:
        with node.run(lambda: Host(HostOptions(node.variant.value))) as host:
            apply(node, host, SHOP)
            apply(node, host, NOTHING)

    cycle()
    gc.collect()
    before = len([*Path("/proc/self/fd").iterdir()])
    for _ in range(5):
        cycle()
    assert len([*Path("/proc/self/fd").iterdir()]) == before
