"""Faults of the host, the sources and the daemon."""

from teeth.fault import CHURN, Fault, agent

_ROUNDS = "tests/agent/test_reconcile.py"
_HOST = "netplane.kernel.host"

NODE = {
    "sweep before make": Fault(
        _HOST,
        """\
        for each in pending:
            before = len(failed)
""",
        """\
        for each in reversed(pending if sweep else []):
            each.sweep()
        for each in pending:
            before = len(failed)
""",
        CHURN,
    ),
    "memory is believed after a failure": Fault(
        _HOST,
        "        except BaseException:\n            self._forget()\n            raise",
        "        except BaseException:\n            raise",
        (f"{_ROUNDS}::test_a_round_that_failed_is_followed_by_one_that_reads_the_kernel_even_if_nobody_asks_it_to",),
    ),
    "sweep though the source is incomplete": Fault(
        "netplane.agent.work",
        "whole=whole, sweep=self.loaded.complete)",
        "whole=whole, sweep=True)",
        agent("after_a_restart_with_a_broken_file_nothing_is_swept_until_it_is_corrected"),
    ),
    "a broken file means that its objects are gone": Fault(
        "netplane.sources.manifests",
        "if key not in decoded.objects and (decoded.unknown or key in decoded.refused)",
        "if key not in decoded.objects and key in decoded.refused",
        agent("a_broken_file_leaves_the_kernel_as_it_is_until_it_is_corrected"),
    ),
    "a file renamed into place is not seen": Fault(
        "netplane.sources.watch",
        "            self._held.pop(path, None)\n            found.add(path)",
        "            self._held.pop(path, None)\n            found.update([path] if mask & _flags.CLOSE_WRITE else [])",
        agent("a_manifest_renamed_into_place_changes_the_kernel_and_one_line_says_so"),
    ),
    "the kernel is never compared as a whole": Fault(
        "netplane.agent.pace",
        "bool(self._failures) or now >= self._last_whole + self._limits.at_most",
        "bool(self._failures)",
        ("tests/agent/test_pace.py",),
    ),
    "stale UDP flows are not removed": Fault(
        "netplane.agent.reconcile",
        "return self.flows.follow(plan) if sweep else Cleaned()",
        "return Cleaned()",
        ("tests/lab/test_stale_udp.py",),
    ),
    "stale flows that came while nobody looked are not removed": Fault(
        "netplane.agent.flows",
        "stale.everywhere() if suspects is None else suspects",
        "[] if suspects is None else suspects",
        ("tests/agent/test_flows.py",),
    ),
    "what others do to our rules is not heard": Fault(
        "netplane.agent.loop",
        "if by := self._events.read(self._work.reconciler.program):",
        "if by := False and self._events.read(self._work.reconciler.program):",
        agent("what_somebody_does_to_our_rules_is_repaired_at_once_and_named", "drift"),
    ),
    "a second agent is let in": Fault(
        "netplane.agent.lock",
        "fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)",
        "fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)",
        ("tests/agent/test_lock.py",),
    ),
}
