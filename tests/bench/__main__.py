"""`scripts/bench`: see docs/performance.md."""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

from bench import report
from bench.measure import FULL, QUICK, measure

_BEGIN, _END = "<!-- last run of scripts/bench -->\n", "<!-- end of the last run -->\n"
_PAGE = Path(__file__).parents[2] / "docs" / "performance.md"


def main() -> int:
    """Measure, print the tables. Exit code 0, whatever they say."""
    words = argparse.ArgumentParser("scripts/bench", description="Measure netplane next to the layout kube-proxy uses.")
    words.add_argument("--quick", action="store_true", help="1k and 5k Services only: less than a minute")
    words.add_argument("--json", type=Path, metavar="FILE", help="write every sample and the tables to FILE")
    words.add_argument("--record", action="store_true", help=f"put the tables into docs/{_PAGE.name}")
    given = words.parse_args()
    if os.geteuid() != 0:
        print("bench: network namespaces need root: run it with sudo", file=sys.stderr)
        return 4
    started = time.monotonic()

    def say(what: str) -> None:
        print(f"bench: {time.monotonic() - started:4.0f} s  {what}", file=sys.stderr, flush=True)

    results = measure(QUICK if given.quick else FULL, say)
    say("done")
    tables = report.text(results)
    print(tables, end="")
    if given.json:
        given.json.write_text(report.as_json(results))
    if given.record:
        _record(tables)
    return 0


def _record(tables: str) -> None:
    before, rest = _PAGE.read_text().split(_BEGIN)
    after = rest.split(_END)[1]
    _PAGE.write_text(f"{before}{_BEGIN}\n{tables}\n{_END}{after}")


if __name__ == "__main__":
    sys.exit(main())
