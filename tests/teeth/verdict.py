"""A pytest plugin (`-p teeth.verdict`) that says how a run ended: one JSON object in the file NETPLANE_VERDICT names.

A fault is caught by a test that says "this is not so": an AssertionError, or a `raises` that saw nothing raised.
Whatever else ends a test (an import that fails, a fault that cannot even run) is an accident and catches nothing.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

_first: dict[str, str] = {}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    report = yield
    if report.failed and not _first and call.excinfo is not None:
        said = call.excinfo.errisinstance((AssertionError, pytest.fail.Exception)) and call.when == "call"
        _first.update(test=item.nodeid, how="said so" if said else f"{call.when}: {call.excinfo.exconly()}"[:300])
    return report


def pytest_collectreport(report: pytest.CollectReport) -> None:
    if report.failed and not _first:
        _first.update(test=report.nodeid, how=f"collection: {report.longreprtext[-300:]}")


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    result = {**_first, "tests": session.testscollected, "exit": int(exitstatus)}
    Path(os.environ["NETPLANE_VERDICT"]).write_text(json.dumps(result))
