"""What this process has of the machine, on Linux."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

STATUS, DESCRIPTORS = Path("/proc/self/status"), Path("/proc/self/fd")

measured = pytest.mark.skipif(not STATUS.exists(), reason="/proc tells what a process has")


def descriptors() -> int:
    """Count the open files and sockets."""
    return len(list(DESCRIPTORS.iterdir()))


def memory() -> int:
    """Return the resident bytes."""
    found = re.search(r"^VmRSS:\s*(\d+) kB$", STATUS.read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) << 10
