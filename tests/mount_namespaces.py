"""Whether tests may have a mount namespace."""

from __future__ import annotations

import subprocess
from functools import cache

import pytest


def needed() -> None:
    """Skip the test that asks, naming what is missing, where it may not."""
    if why := why_not():
        pytest.skip(why)


@cache
def why_not() -> str:
    """Why there are none; "" if there are."""
    works = subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode == 0
    return "" if works else "unshare --mount does not work here: in a chroot, / is no mount point"
