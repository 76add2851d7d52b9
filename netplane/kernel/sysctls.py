"""Kernel parameters under /proc/sys, as the calling thread's network namespace sees them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from netplane.errors import KernelError, RequirementError

_ROOT = Path("/proc/sys")


def exists(name: str) -> bool:
    """Whether this kernel has a parameter."""
    return (_ROOT / name).exists()


def read(name: str) -> str:
    """The value of a parameter, e.g. `net/ipv4/ip_forward`. RequirementError if this kernel does not have it."""
    try:
        return (_ROOT / name).read_text().strip()
    except FileNotFoundError as error:
        raise _missing(name) from error
    except OSError as error:
        raise KernelError(mechanism="sysctls", doing=f"read {name}", said=str(error.strerror)) from error


def write(values: Mapping[str, str | int]) -> None:
    """Set parameters, in order. RequirementError if this kernel does not have one, KernelError if it refuses."""
    for name, value in values.items():
        try:
            _put(f"{_ROOT}/{name}", str(value).encode())
        except FileNotFoundError as error:
            raise _missing(name) from error
        except OSError as error:
            raise KernelError(mechanism="sysctls", doing=f"write {name}={value}", said=str(error.strerror)) from error


def _put(path: str, value: bytes) -> None:
    """Without a text file's layers, which take four times as long: containers get some of these each."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, value)
    finally:
        os.close(fd)


def _missing(name: str) -> RequirementError:
    return RequirementError(f"the kernel parameter {name.replace('/', '.')} does not exist here")
