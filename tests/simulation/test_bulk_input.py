"""Jobs over inputs of all kinds: nothing is changed on the way, and no more is held than fits."""

from __future__ import annotations

import decimal
import gzip
import json
import sqlite3
from pathlib import Path
from typing import Any

import anyio
import pytest

from cognigy_async.bulk import BulkJob, JobResult, JournalError
from cognigy_async.bulk.journal.journal import Batch, Journal
from tests.simulation.world import Wire, client_of, status


async def run(wire: Wire, rows: Path, **options: Any) -> JobResult:
    async with client_of(wire, **options) as client:
        return await BulkJob(rows, dead_letters=rows.with_suffix(".dead")).run(client)


def large_rows(path: Path, number: int, size: int, name: str = "a") -> Path:
    path.write_text(
        "".join(
            json.dumps({"dialog_id": f"d-{n}", "session": {name: "x" * size, "seq": n}}) + "\n"
            for n in range(number)
        )
    )
    return path


async def test_a_job_holds_a_bounded_number_of_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cognigy_async.bulk.run.MOST_HELD", 10_000)
    wire = Wire(takes=1.0)
    result = await run(wire, large_rows(tmp_path / "large.jsonl", 40, 2000))
    assert (result.inputs, result.succeeded) == (40, 40)
    assert [sent.seq for sent in wire.sent] == list(range(40))
    # Five of 2,050 bytes are more than 10,000 bytes.
    assert wire.peak == 5
    wire = Wire(takes=1.0)
    await run(wire, large_rows(tmp_path / "small.jsonl", 400, 20))
    assert wire.peak == 32


async def test_a_row_larger_than_all_that_is_held_is_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cognigy_async.bulk.run.MOST_HELD", 10)
    result = await run(Wire(takes=1.0), large_rows(tmp_path / "rows.jsonl", 5, 100))
    assert result.succeeded == 5


async def test_a_job_that_waits_for_room_can_be_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cognigy_async.bulk.run.MOST_HELD", 10)
    wire = Wire(takes=10.0)
    rows = large_rows(tmp_path / "rows.jsonl", 5, 100)
    results: list[JobResult] = []
    async with client_of(wire) as client, anyio.create_task_group() as tasks:
        job = BulkJob(rows)

        async def go() -> None:
            results.append(await job.run(client))

        tasks.start_soon(go)
        while not wire.sent:  # noqa: ASYNC110 - the wire has no event for it
            await anyio.sleep(0.1)
        await anyio.sleep(1.0)
        job.stop()
    [result] = results
    assert (result.ended, result.succeeded, len(wire.sent)) == ("interrupted", 1, 1)
    assert (await run(Wire(), rows)).succeeded == 5


async def test_reading_waits_for_the_dead_letters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cognigy_async.bulk.run.MOST_UNWRITTEN", 10_000)
    monkeypatch.setattr("cognigy_async.bulk.input.row_reader.MAX_BYTES", 5_000)
    written: list[int] = []
    fill = Journal._fill

    def count(journal: Journal, batch: Batch) -> None:
        written.append(sum(map(len, batch.dead_letters)))
        fill(journal, batch)

    monkeypatch.setattr(Journal, "_fill", count)
    rows = large_rows(tmp_path / "rows.jsonl", 200, 1000, name="no-name")
    result = await run(Wire(), rows)
    assert (result.inputs, result.failed) == (200, 200)
    assert len(rows.with_suffix(".dead").read_text().splitlines()) == 200
    assert max(written) < 30_000
    # The next run reads them from the journal and the input.
    written.clear()
    assert (await run(Wire(), rows)).failed == 200
    assert len(rows.with_suffix(".dead").read_text().splitlines()) == 200
    assert max(written) < 30_000


async def test_dead_letters_that_cannot_be_written_stop_the_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cognigy_async.bulk.run.MOST_UNWRITTEN", 1000)

    def full(journal: Journal, batch: Batch) -> None:
        if batch.outcomes:
            raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(Journal, "_fill", full)
    result = await run(Wire(), large_rows(tmp_path / "rows.jsonl", 2000, 1000, name="no-name"))
    assert isinstance(result.fault, JournalError)
    assert result.ended == "stopped"


async def test_dead_letters_of_a_table_have_the_same_dialogs_and_values(tmp_path: Path) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    columns = {
        "dialog_id": [b"d-0", b"d-1", b"d-2", b"\xff\xfe", b"d-4"],
        "session.total": arrow.array(map(decimal.Decimal, ["149.90", "0.10", "1.25", "2", "3"])),
        "session.rate": arrow.array([149.99, 0.1, 2.5, 3.5, 4.5], arrow.float32()),
        "session.when": arrow.array([None, 1, None, None, None], arrow.timestamp("us")),
        "session.data": [None, None, b"\x00\x01", None, b"text"],
        "session.list": [[1, None], None, None, None, None],
        "next_step": ["go", None, None, None, None],
    }
    table = tmp_path / "rows.parquet"
    parquet.write_table(arrow.table(columns), table)
    wire = Wire(answer=status(400, message="no"))
    result = await run(wire, table)
    assert (result.inputs, result.failed, len(wire.sent)) == (5, 5, 1)
    [refused] = wire.sent
    letters = table.with_suffix(".dead")
    for number in range(2):
        again = tmp_path / f"again-{number}.jsonl"
        again.write_bytes(letters.read_bytes())
        wire = Wire(answer=status(400, message="no"))
        result = await run(wire, again)
        assert (result.inputs, result.failed) == (5, 5)
        assert [(sent.dialog_id, sent.body) for sent in wire.sent] == [("d-0", refused.body)]
        assert letters.read_text().splitlines() != []
        letters = again.with_suffix(".dead")
    assert refused.body == {
        "session": {"total": 149.9, "rate": 149.99, "list": [1, None]},
        "transition": {"nextStep": "go"},
    }


async def test_a_compressed_input_that_was_cut_off_is_used_up_to_there(tmp_path: Path) -> None:
    rows = large_rows(tmp_path / "rows.jsonl", 3000, 20)
    packed = tmp_path / "rows.jsonl.gz"
    packed.write_bytes(gzip.compress(rows.read_bytes())[:-2000])
    wire = Wire()
    result = await run(wire, packed)
    assert "was cut off" in str(result.reason)
    assert 0 < result.succeeded == result.inputs < 3000
    assert [sent.seq for sent in wire.sent] == list(range(result.succeeded))
