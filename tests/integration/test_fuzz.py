"""A few tries of each target of `tests.fuzz`; whole runs are those of its docstring."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.fuzz.files import FORMATS
from tests.fuzz.wire import KINDS

from .commands import ROOT, command_environment

pytestmark = [pytest.mark.real_time, pytest.mark.timeout(120)]

TRIES = 30


@pytest.mark.quick("answers-uvloop-aiohttp", "rows-csv.bz2", "settings")
@pytest.mark.parametrize(
    "target",
    [
        *[("answers", "--over", kind) for kind in KINDS],
        *[("rows", "--over", kind) for kind in FORMATS],
        ("journals",),
        ("outboxes",),
        ("audit",),
        ("settings",),
    ],
    ids=lambda target: "-".join(part for part in target if part != "--over"),
)
def test_only_own_errors_bounded_memory_and_no_hang(target: tuple[str, ...]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz", *target, "--tries", str(TRIES)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=command_environment(),
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    counts = [int(line.split()[0]) for line in done.stdout.splitlines()]
    assert sum(counts) == TRIES
