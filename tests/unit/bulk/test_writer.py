"""The writer of a journal: batches, waiting for the disk, failures."""

from __future__ import annotations

import io
import json
import sqlite3
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import pytest

from cognigy_async import NoResponseError, StateUpdate, UpdateResult
from cognigy_async.bulk import JournalError
from cognigy_async.bulk.faulty_rows import FaultyRows
from cognigy_async.bulk.input.columns import Findings
from cognigy_async.bulk.input.fingerprint import Mark
from cognigy_async.bulk.input.row import Row
from cognigy_async.bulk.journal.journal import Batch, Journal
from cognigy_async.bulk.journal.writer import JournalWriter


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with Journal(tmp_path / "journal") as journal:
        journal.begin_run({"input": "{}"}, same_input=False)
        yield journal


def row(line: int) -> Row:
    source = json.dumps({"dialog_id": "d", "session": {"n": line}}).encode()
    return Row(line, source, StateUpdate("d", session={"n": line}), None, "d")


def client() -> Any:
    return SimpleNamespace(metrics=SimpleNamespace(requests=0, retries=Counter(), quota=()))


RESULT = UpdateResult("d", "u", 200, None, 2, 3.0, 4.0, b"")


async def test_a_run_with_its_rows(journal: Journal) -> None:
    letters = io.BytesIO()
    used = client()
    writer = JournalWriter(journal, letters, used)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(writer.commits.run)
        writer.applied(row(1), RESULT)
        writer.failed(row(2), NoResponseError("no answer", dialog_id="d"))
        used.metrics.requests = 3
        used.metrics.retries["fault"] += 1
        writer.close("complete")
    assert writer.commits.failure is None
    totals = journal.totals()
    assert (totals.succeeded, totals.failed, totals.requests) == (1, 1, 3)
    assert totals.retries == {"fault": 1}
    assert journal.meta("pass") == "2"
    (letter,) = map(json.loads, letters.getvalue().splitlines())
    assert letter["_error"]["type"] == "NoResponseError"


async def test_dead_letters_of_earlier_runs_stay_until_the_input_was_read(
    journal: Journal, tmp_path: Path
) -> None:
    letters = io.BytesIO(b"earlier")
    for has_read, content in ((False, b"earlier"), (True, b"letter")):
        faulty = FaultyRows(tmp_path / "faulty.csv", Findings())
        writer = JournalWriter(journal, letters, client(), faulty)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(writer.commits.run)
            if has_read:
                writer.read([Mark(1, "x", last=True)], [b"letter"], (1, True))
            writer.close("stopped")
        assert letters.getvalue() == content


async def test_what_must_not_be_sent_twice_is_on_disk_before_it_is_sent(journal: Journal) -> None:
    writer = JournalWriter(journal, io.BytesIO(), client())
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(writer.commits.run)
        await writer.sending(row(1), '"7"')
        assert [send.etag for send in journal.earlier_runs().sends] == ['"7"']
        await writer.sending_together([row(2), row(3)], "key")
        assert journal.earlier_runs().groups == {2: "key", 3: "key"}
        writer.rejected(row(1))
        writer.close(None)
    assert journal.earlier_runs().sends == []


async def test_what_was_noted_is_written_when_the_writer_is_cancelled(journal: Journal) -> None:
    writer = JournalWriter(journal, io.BytesIO(), client())
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(writer.commits.run)
        await writer.sending(row(1), None)
        writer.applied(row(1), RESULT)
        tasks.cancel_scope.cancel()
    assert journal.last_line() == 1


async def test_a_failure_ends_the_writer_and_all_that_wait_for_it(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: Journal, batch: Batch) -> None:
        if batch.sends:
            raise sqlite3.OperationalError("disk is full")

    writer = JournalWriter(journal, io.BytesIO(), client())
    fill = Journal._fill
    monkeypatch.setattr(Journal, "_fill", full)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(writer.commits.run)
        for _ in range(2):
            with pytest.raises(JournalError, match="disk is full"):
                await writer.sending(row(1), None)
    assert writer.commits.failure is not None
    monkeypatch.setattr(Journal, "_fill", fill)
    await writer.record_failure("the reason")
    (found,) = journal._connection.execute("SELECT ended FROM runs").fetchone()
    assert found == "the reason"
