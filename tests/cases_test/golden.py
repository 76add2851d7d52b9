"""The texts that belong to a case: the plan of its node, and that plan as every backend spells it.

`scripts/golden [CASE...]` writes them; test_corpus.py compares them. Whoever writes them reads the difference.
"""

from __future__ import annotations

import sys
from pathlib import Path

from netplane.backends.registry import BACKENDS
from netplane.errors import InputError
from netplane.lab.cases import Case, find_cases, load_case
from netplane.plan.text import plan_text

CASES = Path(__file__).parent.parent / "cases"


def golden_texts(case: Case) -> dict[str, str]:
    """The texts by file name."""
    plan = case.plans()[case.settings.node]
    spelled = {f"{name}.txt": backend.text(backend.compile(plan).program) for name, backend in BACKENDS.items()}
    return {"plan.txt": plan_text(plan), **spelled}


def write(folder: Path) -> list[str]:
    """Write the texts of one case; the names of the files that changed."""
    changed = []
    for name, text in golden_texts(load_case(folder)).items():
        path = folder / name
        if not path.is_file() or path.read_text() != text:
            path.write_text(text)
            changed.append(name)
    return changed


def main(words: list[str]) -> int:
    """Write the texts of the named cases, by folder name or path, or of all; say which changed."""
    named = [path if (path := Path(word)).is_dir() else CASES / word for word in words]
    try:
        for folder in find_cases(named or [CASES]):
            if changed := write(folder):
                print(f"{folder.name}: {', '.join(changed)}")
    except InputError as error:
        print(f"golden: {error}", file=sys.stderr)
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
