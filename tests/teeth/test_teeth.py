"""The planted faults can still be planted, and being caught means what it says. `scripts/test --teeth` tries all."""

import pytest
from teeth.fault import Fault
from teeth.faults import FAULTS
from teeth.trial import attempt, failing_without_fault

SAMPLE = ("other family leaks into the pool", "nftables: refusing drops")


@pytest.mark.parametrize("name", FAULTS)
def test_the_right_code_is_there_once_and_the_wrong_code_is_python(name):
    fault = FAULTS[name]
    assert fault.line > 0
    compile(fault.spoil(fault.path.read_text()), str(fault.path), "exec")
    assert fault.suspects


def test_faults_are_different():
    assert len({(fault.module, fault.old, fault.new) for fault in FAULTS.values()}) == len(FAULTS) >= 20


@pytest.mark.parametrize("name", SAMPLE)
def test_a_fault_is_caught_by_a_test_that_passes_without_it(name):
    tried = attempt(name, FAULTS[name])
    assert tried.trouble == ""
    assert tried.caught_by.startswith("tests/")
    assert failing_without_fault([tried.caught_by], 1) == []


# --- what is no proof -------------------------------------------------------------------------------------------------

_MODULE, _TESTS = "netplane.plan.health", ("tests/plan/test_health.py",)


ACCIDENTS = {
    "the code is not there": (Fault(_MODULE, "no such code", "", _TESTS), "cannot be planted"),
    "the module is not there": (Fault("netplane.plan.gone", "", "", _TESTS), "cannot be planted"),
    "the code cannot be imported": (Fault(_MODULE, "def answer(", "1 / 0\n\n\ndef answer(", _TESTS), "collection"),
    "the code cannot run": (Fault(_MODULE, "    body = {", "    body = healthy / 0 or {", _TESTS), "ended otherwise"),
    "nothing is wrong": (Fault(_MODULE, "def answer(", "def answer (", _TESTS), "no test failed"),
    "nobody runs it": (Fault(_MODULE, "def answer(", "def answer (", ("tests/model",)), "never load that code"),
    "no such test": (Fault(_MODULE, "def answer(", "def answer (", ("tests/plan/test_gone.py",)), "never load"),
}


@pytest.mark.parametrize("accident", ACCIDENTS)
def test_an_accident_catches_nothing(accident):
    fault, why = ACCIDENTS[accident]
    tried = attempt(accident, fault)
    assert tried.caught_by == ""
    assert why in tried.trouble


def test_a_test_that_fails_anyway_is_no_proof(tmp_path):
    test = tmp_path / "test_wrong.py"
    test.write_text("def test_it():\n    assert False\n")
    assert len(failing_without_fault([f"{test}::test_it"], 1)) == 1
