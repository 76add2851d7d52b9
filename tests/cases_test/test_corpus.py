"""The corpus in tests/cases, without packets: it is complete, means what its rows say, and the code agrees with it.

`packets.txt` is written from kube-proxy's truth table, so that table (`rows.py`), the oracle and the texts check each
other. Real packets over the same folders are sent by tests/lab.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from golden import CASES, golden_texts
from rows import ROWS, examples, tags

from netplane.backends.registry import BACKENDS
from netplane.kernel.command import run
from netplane.kernel.netns import Namespace
from netplane.lab.cases import Case, find_cases, load_case
from netplane.lab.outcome import named, say
from netplane.lab.strangers import FOREIGN_FILE
from netplane.model.address import Family, Protocol

FOLDERS = find_cases([CASES])
every_case = pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)

read = cache(load_case)


@pytest.fixture(scope="module")
def empty_kernel() -> Iterator[Namespace]:
    with Namespace() as namespace:
        yield namespace


@every_case
def test_the_oracle_answers_what_packets_txt_says(folder: Path) -> None:
    case = read(folder)
    oracles = case.oracles()
    wrong = []
    for line in case.lines:
        decision = oracles.decide(line.probe)
        answer = named(decision.outcome, line.probe.protocol, case.topology)
        if answer != line.expected:
            said = say(answer, case.topology)
            wrong.append(f"{folder.name}:{line.number}: {line.text}\n  the oracle: {said} ({decision.reason})")
    assert not wrong, "\n".join(wrong)


@every_case
def test_the_texts_are_what_the_code_gives(folder: Path) -> None:
    for name, text in golden_texts(read(folder)).items():
        assert (folder / name).read_text() == text, f"if that is right: scripts/golden {folder.name}"


@every_case
def test_a_case_has_all_it_must_have_and_nothing_else(folder: Path) -> None:
    must = {"cluster.yaml", "packets.txt", "plan.txt", *(f"{name}.txt" for name in BACKENDS)}
    found = {path.name for path in folder.iterdir()}
    assert must <= found
    assert all(name == FOREIGN_FILE or name.endswith((".yaml", ".json")) for name in found - must)


@every_case
def test_a_case_says_in_one_sentence_what_it_is_about(folder: Path) -> None:
    comment = [line for line in _until_manifest(folder) if line.startswith("# ")]
    assert comment
    assert comment[-1].endswith((".", "!"))


@every_case
def test_the_manifests_of_a_case_have_no_problems(folder: Path) -> None:
    assert read(folder).problems == ()


@every_case
def test_every_line_is_allowed_by_one_of_the_rows_it_names(folder: Path) -> None:
    case = read(folder)
    rows = tags(folder)
    for line in case.lines:
        about = rows[line.number]
        allowed = any(ROWS[number].allows(case, line) for number in about)
        assert allowed or not about, f"{folder.name}:{line.number}: {line.text}: not as row {about} has it"


@every_case
@pytest.mark.kernel
def test_the_kernel_takes_the_rules(folder: Path, empty_kernel: Namespace) -> None:
    script = (folder / "nftables.txt").read_text()
    empty_kernel.run(
        lambda: run("nft", "--check", "-f", "-", stdin=script, mechanism="nftables", doing=f"check {folder.name}")
    )


@pytest.mark.parametrize("family", Family)
@pytest.mark.parametrize("row", ROWS)
def test_every_row_of_the_truth_table_has_cases(row: int, family: Family) -> None:
    wanted = {Protocol.TCP, Protocol.UDP} if row != 21 else {None}
    seen = {line.probe.protocol for number, line, _ in _examples() if number == row and line.probe.family is family}
    assert wanted <= seen, ROWS[row].about


@pytest.mark.parametrize("row", ROWS)
def test_every_row_is_in_at_least_one_case_on_its_own(row: int) -> None:
    """Lines that name several rows may be about any of them."""
    assert any(number == row and alone for number, _, alone in _examples()), ROWS[row].about


def test_there_are_cases_of_each_kind_of_sender_and_protocol() -> None:
    kinds = {(type(line.probe.sender), line.probe.protocol) for folder in FOLDERS for line in read(folder).lines}
    assert len(kinds) == 3 * 4


def _until_manifest(folder: Path) -> Iterator[str]:
    for line in (folder / "cluster.yaml").read_text().splitlines():
        if line.startswith("apiVersion"):
            return
        yield line


@cache
def _examples() -> list[tuple[int, object, bool]]:
    found = []
    for folder in FOLDERS:
        case: Case = read(folder)
        rows = tags(folder)
        found += [(number, line, len(rows[line.number]) == 1) for number, line in examples(case)]
    return found
