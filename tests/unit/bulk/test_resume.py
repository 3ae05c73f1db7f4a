"""Opening a job: what must agree with the runs before, and the size of the canary."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from cognigy_async import ConfigurationError, Limits, RuntimeApi
from cognigy_async.bulk import InputError, JobOptions, JournalRefusedError
from cognigy_async.bulk.resume import OpenedJob, open_job

from ._rows import GOOD, written


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    return written(tmp_path / "rows.jsonl", *[GOOD] * 150, b'{"dialog_id": "other"}')


def opened(rows: Path, *, force: bool = False, **options: Any) -> OpenedJob:
    return open_job(
        rows,
        rows.with_name("journal"),
        JobOptions(**options),
        {"server": "http://localhost"},
        limits=Limits(),
        api=RuntimeApi(),
        force=force,
    )


@pytest.mark.parametrize(
    ("options", "canary"),
    [
        ({}, 0),
        ({"canary": 7}, 7),
        ({"canary": "1%"}, 2),
        ({"canary": "100%", "only_dialogs": ["other"]}, 1),
    ],
)
def test_the_canary_is_a_number_of_rows(rows: Path, options: dict[str, Any], canary: int) -> None:
    job = opened(rows, **options)
    assert (job.canary, job.earlier.totals.completed) == (canary, 0)
    job.close()


def test_a_share_needs_a_file(tmp_path: Path) -> None:
    if not hasattr(os, "mkfifo"):
        pytest.skip("there are no named pipes here")
    os.mkfifo(tmp_path / "pipe")
    pipe = os.open(tmp_path / "pipe", os.O_RDWR)
    try:
        with pytest.raises(ConfigurationError, match="canary: a share needs the number of all"):
            opened(tmp_path / "pipe", canary="1%")
    finally:
        os.close(pipe)
    assert not (tmp_path / "journal.lock").exists()


def test_all_differences_are_named_and_can_be_forced(rows: Path) -> None:
    opened(rows, limit=5).close()
    message = (
        "with other options: coalesce: false before, true now; limit: 5 before, not set now. Give"
    )
    with pytest.raises(JournalRefusedError, match=message):
        opened(rows, coalesce=True)
    opened(rows, coalesce=True, force=True).close()
    opened(rows, coalesce=True).close()


def test_an_input_that_does_not_exist_leaves_no_journal(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be opened: there is no such file"):
        opened(tmp_path / "none")
    assert list(tmp_path.iterdir()) == []
