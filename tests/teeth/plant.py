"""Plants one fault into the code of a process: the module is compiled from a text in which one piece is another.

No file is changed and no bytecode is kept, so any number of faults can be tried at once in one checkout.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType

from teeth.fault import Fault

VARIABLE = "NETPLANE_FAULT"
"""Holds the fault of a run as JSON."""
EVIDENCE = "NETPLANE_FAULT_EVIDENCE"
"""Names a file that is made when a process of the run has loaded the spoiled module."""


def from_environment() -> None:
    """Plant the fault in `NETPLANE_FAULT`, if there is one."""
    if text := os.environ.get(VARIABLE):
        sys.meta_path.insert(0, _Planter(Fault(**json.loads(text))))


def environment(fault: Fault) -> dict[str, str]:
    """What plants the fault into the processes of a run."""
    return {VARIABLE: json.dumps(asdict(fault))}


class _Planter(MetaPathFinder):
    """Finds one module, and loads it spoiled."""

    def __init__(self, fault: Fault) -> None:
        self._fault = fault

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != self._fault.module:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.origin is not None:
            spec.loader = _Spoiled(fullname, spec.origin, self._fault)
        return spec


class _Spoiled(SourceFileLoader):
    def __init__(self, fullname: str, path: str, fault: Fault) -> None:
        super().__init__(fullname, path)
        self._fault = fault

    def get_code(self, fullname: str) -> CodeType:
        path = self.get_filename(fullname)
        text = self._fault.spoil(self.get_data(path).decode())
        if evidence := os.environ.get(EVIDENCE):
            Path(evidence).touch()
        return self.source_to_code(text.encode(), path)
