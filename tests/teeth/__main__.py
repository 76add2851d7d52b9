"""`python -m teeth [WORD...]`: plant every fault (or those whose name has one of the words) and show what catches it.

Exit code 0 if each is caught by a test that passes without it, else 1.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from teeth.faults import FAULTS
from teeth.trial import Trial, failing_without_fault, trials

_COLUMNS = "{:<70}  {:<44}  {:>5}  {}"


def main(words: Sequence[str]) -> int:
    chosen = {name: fault for name, fault in FAULTS.items() if not words or any(word in name for word in words)}
    workers = os.cpu_count() or 1
    print(_COLUMNS.format("fault", "planted in", "s", "caught by"))
    done: list[Trial] = []
    for trial in trials(chosen, workers):
        done.append(trial)
        caught = f"NOT CAUGHT: {trial.trouble}" if trial.trouble else trial.caught_by.removeprefix("tests/")
        planted = trial.planted_in.removeprefix("netplane/")
        print(_COLUMNS.format(trial.fault, planted, f"{trial.seconds:.1f}", caught), flush=True)
    missed = [trial for trial in done if trial.trouble]
    spurious = failing_without_fault([trial.caught_by for trial in done if not trial.trouble], workers)
    for each in spurious:
        print(f"fails without any fault, too: {each}")
    print(f"{len(done) - len(missed)} of {len(done)} faults caught; ", end="")
    print("without a fault the same tests " + ("FAIL" if spurious else "pass"))
    return 1 if missed or spurious or not done else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
