"""The machine of a benchmark: its cores, its memory, and what is installed on it."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

STATM = Path("/proc/self/statm")


@dataclass(frozen=True)
class Cores:
    """One for the server and another one for the client."""

    server: int
    client: int

    @classmethod
    def found(cls) -> Cores | None:
        """None where there are no two, or the system does not let a process choose."""
        if sys.platform != "linux":
            return None
        available = sorted(os.sched_getaffinity(0))
        return cls(available[0], available[-1]) if len(available) > 1 else None


@contextmanager
def pinned_to(core: int | None) -> Iterator[None]:
    """Keep this process on a core meanwhile; None leaves it where it is."""
    if core is None or sys.platform != "linux":
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def resident_bytes() -> int | None:
    """What this process has in memory; None where the system does not tell."""
    try:
        pages = int(STATM.read_bytes().split()[1])
    except OSError:
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")


def versions(*packages: str) -> dict[str, str]:
    """Of Python and of packages; those that are not installed are left out."""
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def machine() -> dict[str, Any]:
    """What numbers depend on."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return {
        "system": platform.platform(),
        "architecture": platform.machine(),
        "cores": os.cpu_count(),
        "load": None if load is None else round(load, 2),
    }
