"""`scripts/bench`: see docs/performance.md."""

from __future__ import annotations

import argparse
import os
import sys
import time
from itertools import chain
from pathlib import Path

from bench import report
from bench.cni_tables import attach_tables
from bench.measure import measure
from bench.network_tables import network_tables
from bench.results import FULL, PARTS, QUICK
from bench.tables import tables
from bench.ways import WAYS

_SERVICES, _CONTAINERS, _NETWORK = "scripts/bench", "scripts/bench --only cni", "scripts/bench --only network"
_END = "<!-- end of the last run -->\n"
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
    sections = {
        _SERVICES: tables(results),
        _CONTAINERS: attach_tables(results.attach) if results.attach else [],
        _NETWORK: network_tables(results.network) if results.network else [],
    }
    made = list(chain.from_iterable(sections.values()))
    print(report.text(results, made), end="")
    if given.json:
        given.json.write_text(report.as_json(results, made))
    for section, shown in sections.items() if given.record else ():
        if shown:
            _record(section, report.text(results, shown))
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
    if given.record and (given.only not in (None, ["cni"], ["network"]) or given.backend or given.quick):
        words.error("--record is for a whole run, --only cni or --only network")
    return given


def _record(section: str, tables: str) -> None:
    """Put tables between the section's mark and the next end."""
    before, begin, rest = _PAGE.read_text().partition(f"<!-- last run of {section} -->\n")
    _, end, after = rest.partition(_END)
    _PAGE.write_text(f"{before}{begin}\n{tables}\n{end}{after}")


if __name__ == "__main__":
    sys.exit(main())
