"""Summaries of journals."""

from __future__ import annotations

import os
from pathlib import Path

from cognigy_async.bulk import read_summary
from cognigy_async.bulk.journal.journal import Batch, Journal


def test_a_summary_tells_of_a_job_that_runs(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    with Journal(path) as journal:
        meta = {
            "input": '{"name": "rows", "size": 9}',
            "options": '{"limit": 5}',
            "total": "[40, true]",
        }
        journal.begin_run(meta, same_input=False)
        journal.write(Batch(run=(1, 0.0, 2.0, 2.0, 3, '{"fault": 1}', "complete")))
        owner = read_summary(path).owner
        assert owner is not None
        assert owner["pid"] == os.getpid()
    summary = read_summary(str(path))
    assert summary.record() == {
        "job": summary.job_id,
        "running": False,
        "owner": None,
        "input": "rows",
        "succeeded": 0,
        "failed": 0,
        "ambiguous": 0,
        "left": 40,
        "requests": 3,
        "retries": 1,
        "retries_by_reason": {"fault": 1},
        "elapsed": 2.0,
        "runs": 1,
        "ended": "complete",
        "options": {"limit": 5},
    }
