"""Two processes count in one dialog while answers are lost: no count too few, and none too many."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import pytest
from anyio.from_thread import start_blocking_portal

from cognigy_async.emulator import Emulator, Faults, serve
from tests.integration.commands import ROOT, command_environment
from tests.integration.counting_process import DIALOG, KEY

NAMES = ("a", "b")
TIMES = 500
LOST = 0.05


@pytest.mark.real_time
@pytest.mark.timeout(180)
@pytest.mark.thorough
def test_the_count_is_the_successes_and_some_of_the_ambiguous_ones() -> None:
    seed = time.time_ns() // 1000
    emulator = Emulator(api_key=KEY, seed=seed, faults=Faults(drop_after=LOST))
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(serve(emulator)) as url,
    ):
        running = [
            subprocess.Popen(
                [sys.executable, "-m", "tests.integration.counting_process", url, name, str(TIMES)],
                cwd=ROOT,
                env=command_environment(),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for name in NAMES
        ]
        ends = {}
        for name, process in zip(NAMES, running, strict=True):
            out, err = process.communicate(timeout=150)
            assert process.returncode == 0, err
            ends[name] = json.loads(out)
    print(f"seed {seed}: {ends}; {emulator.stats.faults}, {emulator.stats.answers}")
    session = emulator.dialogs[DIALOG].session
    for name in NAMES:
        assert sum(ends[name].values()) == TIMES
        applied = ends[name].get("applied", 0)
        assert applied <= session[name] <= applied + ends[name].get("ambiguous", 0), name
    # What one process wrote, the other one has counted on.
    assert session["all"] == session["a"] + session["b"]
    # Answers were lost, and the processes met.
    assert emulator.stats.faults["drop_after"]
    assert emulator.stats.answers[409]
