"""`bulk run` killed at two hundred random moments, each time resumed: minutes, not seconds.

After each kill, a copy of the main file of the journal alone is used for a job. It is refused,
unless the killed job had sent nothing.
"""

from __future__ import annotations

import itertools
import random
import time
from collections import Counter

import pytest

from cognigy_async.bulk import JournalRefusedError, read_summary
from cognigy_async.emulator import Emulator, Faults
from tests.integration.test_bulk_crash import Jobs, api, emulator, honours_keys, jobs

__all__ = ["api", "emulator", "honours_keys", "jobs"]

ROWS, DIALOGS, KILLS = 6000, 300, 50

DROPPING = {"drop_before": 0.03, "drop_after": 0.03}


def use_copy(jobs: Jobs, emulator: Emulator, name: str, options: list[str]) -> str:
    """Use a copy of the main file as the journal of a job, and return what became of it."""
    journal, copy = jobs.folder / "job", jobs.folder / name
    if not journal.exists() or not journal.stat().st_size:
        assert not emulator.dialogs
        return "made no journal"
    copy.write_bytes(journal.read_bytes())
    try:
        summary = read_summary(copy)
    except JournalRefusedError:
        status, _, err = jobs.finish(*options, "--journal", name)
        assert status == 2
        assert "lacks its newest records: its last run was cut off" in err
        return "refused"
    # The job was killed before it could send anything.
    assert summary.totals.requests == 0
    assert not emulator.dialogs
    return "not begun"


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
    copies: Counter[str] = Counter()
    while kills < KILLS:
        process = jobs.start(*options)
        time.sleep(chance.uniform(0.0, 0.7))
        if process.is_over:
            break
        process.kill()
        kills += 1
        copies[use_copy(jobs, emulator, f"copy-{kills}", options)] += 1
    print(f"{kills} kills, {dict(copies)}")
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
    # The keys name the job: no copy became another one.
    assert len({str(key).rpartition("-")[0] for key in keys} - {"merged"}) == 1
    assert sorted(path.name for path in jobs.folder.glob("job*")) == ["job"] + [
        "job.dead.jsonl"
    ] * (status == 1)
