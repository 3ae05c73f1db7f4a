"""`BulkJob` before it runs, and results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cognigy_async import ConfigurationError
from cognigy_async.bulk import BulkJob, JobResult
from cognigy_async.bulk.stop_conditions import FIRST_FAILURE


def test_files_are_beside_the_input_by_default() -> None:
    job = BulkJob("a/rows.jsonl")
    assert (job.journal, job.dead_letters) == (
        Path("a/rows.jsonl.journal"),
        Path("a/rows.jsonl.dead.jsonl"),
    )
    for source in ("-", "/dev/stdin"):
        job = BulkJob(source)
        assert (job.journal, job.dead_letters) == (Path("stdin.journal"), Path("stdin.dead.jsonl"))
    assert BulkJob("rows", journal="b/j").dead_letters == Path("b/j.dead.jsonl")
    assert job.progress.done == 0


@pytest.mark.parametrize(
    ("files", "names"),
    [
        ({"journal": "rows"}, "the input and the journal"),
        ({"dead_letters": "./rows"}, "the input and the dead letters"),
        ({"journal": "x", "dead_letters": "x"}, "the journal and the dead letters"),
    ],
)
def test_two_names_of_one_file_are_refused(files: dict[str, Any], names: str) -> None:
    with pytest.raises(ConfigurationError, match=f"{names} are one file"):
        BulkJob("rows", **files)


def result(**fields: Any) -> JobResult:
    given: dict[str, Any] = dict.fromkeys(JobResult.__annotations__, 0)
    given |= {"ended": "complete", "reason": None, "fault": None, "elapsed": 1.23456}
    return JobResult(**given | fields)


def test_what_a_result_says() -> None:
    assert result(inputs=2, succeeded=2).ok
    assert not result(inputs=2, succeeded=1).ok
    assert not result(ended="interrupted").ok
    stopped = {"ended": "stopped", "reason": "3 rows were not applied"}
    assert result(**stopped).at_limit
    assert not result(**stopped | {"reason": FIRST_FAILURE}).at_limit
    assert not result(**stopped | {"fault": ConfigurationError("x")}).at_limit
    assert list(result().record()) == [
        *["inputs", "succeeded", "failed", "ambiguous", "skipped", "pending", "requests"],
        *["retries", "elapsed", "quota_utilisation", "ended"],
    ]
    assert result().record()["elapsed"] == 1.235
