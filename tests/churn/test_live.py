"""The live agent under random changes, accidents and a storm of new connections, on every backend.

`NETPLANE_CHURN_STEPS=5000` makes it long, `NETPLANE_CHURN_SEED=7` another one or the same again.
"""

from __future__ import annotations

import os

import pytest
from churn.live import Churn

from netplane.backends.registry import BACKENDS

pytestmark = [pytest.mark.lab, pytest.mark.kernel]

STEPS = int(os.environ.get("NETPLANE_CHURN_STEPS", "100"))
SEED = int(os.environ.get("NETPLANE_CHURN_SEED", "1"))
RATE = float(os.environ.get("NETPLANE_CHURN_RATE", "600"))


@pytest.mark.parametrize("backend", sorted(BACKENDS))
def test_whatever_changes_the_kernel_follows_and_no_connection_suffers(backend, tmp_path, monkeypatch):
    monkeypatch.setenv("XTABLES_LOCKFILE", str(tmp_path / "xtables.lock"))  # the usual one is of the whole host
    with Churn(SEED, BACKENDS[backend], tmp_path / "manifests", tmp_path / "run", RATE) as churn:
        churn.steps(STEPS)
        report = churn.finish()
    print(f"\n{backend}, seed {SEED}: {report}")
    assert report.steps >= STEPS
    assert report.storm["broken"] == 0
    assert report.storm["ended"]["served"] > 10 * report.batches
