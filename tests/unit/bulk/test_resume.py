"""Opening a job: what must agree with the runs before, and the size of the canary."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from cognigy_async import ConfigurationError, Limits, RuntimeApi
from cognigy_async._utils.database_lock import is_locked
from cognigy_async.bulk import InputError, JobOptions, JournalRefusedError, read_summary
from cognigy_async.bulk.resume import OpenedJob, open_job

from ._journals import main_file_only
from ._rows import GOOD, written


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    return written(tmp_path / "rows.jsonl", *[GOOD] * 150, b'{"dialog_id": "other"}')


def opened(
    rows: Path,
    *,
    force: bool = False,
    circumstances: dict[str, Any] | None = None,
    **options: Any,
) -> OpenedJob:
    return open_job(
        rows,
        rows.with_name("journal"),
        JobOptions(**options),
        circumstances or {"server": "http://localhost"},
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
    assert not is_locked(tmp_path / "journal")


def test_all_differences_are_named_and_can_be_forced(rows: Path) -> None:
    opened(rows, on_failure="stop").close()
    message = (
        "with other options: coalesce: false before, true now; "
        'on_failure: "stop" before, "continue" now. Give'
    )
    with pytest.raises(JournalRefusedError, match=message):
        opened(rows, coalesce=True)
    opened(rows, coalesce=True, force=True).close()
    opened(rows, coalesce=True).close()


def test_what_does_not_change_what_is_applied_may_change(rows: Path) -> None:
    given: dict[str, Any] = {"server": "http://localhost"}
    for number, limit in enumerate((5, None, 7)):
        circumstances = given | {"max_in_flight": 32 - number, "rate": f"{number + 1}/60"}
        opened(rows, circumstances=circumstances, limit=limit).close()
        options = read_summary(rows.with_name("journal")).options
        assert (options["limit"], options["max_in_flight"]) == (limit, 32 - number)
    with pytest.raises(JournalRefusedError, match=r'server: "http://localhost" before, "http://o'):
        opened(rows, circumstances={"server": "http://other"})


@pytest.mark.parametrize("force", [False, True])
def test_a_journal_without_its_wal_needs_force(rows: Path, force: bool) -> None:
    main_file_only(rows.with_name("journal"))
    if not force:
        with pytest.raises(JournalRefusedError, match="lacks its newest records"):
            opened(rows)
    else:
        job = opened(rows, force=True)
        job.close()
        opened(rows).close()


def test_an_input_that_does_not_exist_leaves_no_journal(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be opened: there is no such file"):
        opened(tmp_path / "none")
    assert list(tmp_path.iterdir()) == []
