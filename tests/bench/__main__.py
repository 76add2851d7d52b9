"""`scripts/bench`: see docs/performance.md."""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

from bench import report
from bench.measure import measure
from bench.results import FULL, PARTS, QUICK
from bench.tables import tables
from bench.ways import WAYS

_BEGIN, _END = "<!-- last run of scripts/bench -->\n", "<!-- end of the last run -->\n"
_PAGE = Path(__file__).parents[2] / "docs" / "performance.md"


def main() -> int:
    """Measure, print the tables. Exit code 0, whatever they say."""
    given = _words()
    if os.geteuid() != 0:
        print("bench: network namespaces need root: run it with sudo", file=sys.stderr)
        return 4
    started = time.monotonic()

    def say(what: str) -> None:
        print(f"bench: {time.monotonic() - started:4.0f} s  {what}", file=sys.stderr, flush=True)

    parts = tuple(part for part in PARTS if part in (given.only or PARTS))
    ways = tuple(way for way in WAYS if str(way) in (given.backend or map(str, WAYS)))
    results = measure(QUICK if given.quick else FULL, say, parts, ways)
    say("done")
    made = tables(results)
    text = report.text(results, made)
    print(text, end="")
    if given.json:
        given.json.write_text(report.as_json(results, made))
    if given.record:
        _record(text)
    return 0


def _words() -> argparse.Namespace:
    words = argparse.ArgumentParser(
        "scripts/bench", description="Measure netplane next to the layouts kube-proxy uses."
    )
    words.add_argument("--quick", action="store_true", help="smaller clusters and fewer samples: about a minute")
    words.add_argument("--only", action="append", choices=PARTS, help="only this part; may be given again")
    words.add_argument(
        "--backend", action="append", choices=[*map(str, WAYS)], help="only this one; may be given again"
    )
    words.add_argument("--json", type=Path, metavar="FILE", help="write every sample and the tables to FILE")
    words.add_argument("--record", action="store_true", help=f"put the tables into docs/{_PAGE.name}")
    given = words.parse_args()
    if given.record and (given.only or given.backend or given.quick):
        words.error("--record is for a whole run")
    return given


def _record(tables: str) -> None:
    before, rest = _PAGE.read_text().split(_BEGIN)
    after = rest.split(_END)[1]
    _PAGE.write_text(f"{before}{_BEGIN}\n{tables}\n{_END}{after}")


if __name__ == "__main__":
    sys.exit(main())
