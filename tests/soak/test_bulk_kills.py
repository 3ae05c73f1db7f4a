"""`bulk run` killed at two hundred random moments, each time resumed: minutes, not seconds."""

from __future__ import annotations

import itertools
import random
import time
from collections import Counter

import pytest

from cognigy_async.emulator import Emulator, Faults
from tests.integration.test_bulk_crash import Jobs, api, emulator, jobs

__all__ = ["api", "emulator", "jobs"]

ROWS, DIALOGS, KILLS = 6000, 300, 50

DROPPING = {"drop_before": 0.03, "drop_after": 0.03}


@pytest.mark.real_time
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("faults", "options", "every"),
    [
        (Faults(latency=0.1), [], 0),
        (Faults(latency=0.1, **DROPPING), [], 0),
        (Faults(latency=0.2, **DROPPING), ["--coalesce", "--max-in-flight", "4"], 0),
        (Faults(latency=0.1), [], 7),
    ],
    ids=["plain", "dropping", "coalescing", "transitions"],
)
def test_all_rows_are_applied_in_order(
    jobs: Jobs,
    emulator: Emulator,
    faults: Faults,
    options: list[str],
    every: int,
) -> None:
    jobs.patience = 1200.0
    jobs.write(ROWS, DIALOGS, every)
    emulator.faults = faults
    seed = time.time_ns()
    print(f"seed {seed}")
    chance = random.Random(seed)
    kills = 0
    while kills < KILLS:
        process = jobs.start(*options)
        time.sleep(chance.uniform(0.0, 0.7))
        if process.is_over:
            break
        process.kill()
        kills += 1
    print(f"{kills} kills")
    status, result, _ = jobs.finish(*options)
    assert result["inputs"] == result["succeeded"] + result["ambiguous"] == ROWS
    assert result["ambiguous"] <= (32 * kills if every else 0)
    assert status == (1 if result["ambiguous"] else 0)
    for number in range(DIALOGS):
        seqs = [entry.seq or 0 for entry in emulator.dialogs[f"d{number}"].history]
        assert all(one < other for one, other in itertools.pairwise(seqs))
        assert every or seqs[-1] == ROWS - DIALOGS + number
    assert emulator.stats.overlapping_writes == emulator.stats.reordered == 0
    assert emulator.stats.reused_keys == 0
    keys = Counter(entry.key for dialog in emulator.dialogs.values() for entry in dialog.history)
    assert set(keys.values()) == {1}
