"""Rows of a job: chunks, repeated ids, and sets that do not fit in memory."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from cognigy_async import Limits, RuntimeApi, SessionsApi
from cognigy_async.bulk import JobOptions
from cognigy_async.bulk.input.reader import open_input
from cognigy_async.bulk.input.row_reader import MOST_IN_MEMORY, RowReader, SpilledSet
from cognigy_async.bulk.journal.journal import Batch, Journal
from cognigy_async.bulk.journal.schema import Status

from ._rows import GOOD, row_reader, rows_of, written


@pytest.mark.real_time
@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes here")
@pytest.mark.parametrize("limit", [None, 2])
def test_rows_of_a_slow_pipe_are_not_delayed(tmp_path: Path, limit: int | None) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    # With both ends open nobody waits for the other.
    pipe = os.open(path, os.O_RDWR)
    try:
        reader = RowReader(open_input(path), JobOptions(limit=limit), Limits())
        for line in (1, 2):
            os.write(pipe, GOOD + b"\n")
            assert [row.line for row in reader.next_chunk().rows] == [line]
        if limit is None:
            os.close(pipe)
            pipe = -1
        chunk = reader.next_chunk()
        assert (chunk.rows, chunk.last) == ([], True)
        reader.close()
    finally:
        if pipe >= 0:
            os.close(pipe)


def test_an_update_id_twice_is_a_fault_unless_the_update_is_the_same(tmp_path: Path) -> None:
    one = b'{"dialog_id": "d", "session": {"n": 1}, "update_id": "u"}'
    same = b'{"update_id": "u", "session": {"n": 1}, "dialog_id": "d", "_x": 1}'
    other = b'{"dialog_id": "d", "session": {"n": 2}, "update_id": "u"}'
    rows = rows_of(written(tmp_path / "rows.jsonl", one, same, other))
    assert [row.duplicate_of for row in rows] == [None, 1, None]
    assert rows[2].error is not None
    assert "is that of line 1 too, which is another update" in str(rows[2].error)


def test_texts_are_counted_beyond_what_memory_holds() -> None:
    texts = SpilledSet()
    count = 2 * MOST_IN_MEMORY + 17
    for number in range(count):
        texts.add(str(number))
    for number in range(0, count, 3):
        texts.add(str(number))
    assert texts.count() == count
    texts.close()


def test_rows_of_earlier_runs_are_skipped_with_their_dead_letters(tmp_path: Path) -> None:
    lines = [b'{"dialog_id": "d%d", "session": {"n": %d}}' % (n, n) for n in range(1, 7)]
    path = written(tmp_path / "rows.jsonl", *lines)
    with Journal(tmp_path / "journal") as journal:
        batch = Batch(failures=[(2, "BadRequestError", "no", 400)])
        for line, status in ((1, Status.SUCCEEDED), (2, Status.FAILED), (4, Status.SUCCEEDED)):
            batch.outcomes.append((line, f"d{line}", int(status), 1, None, None, 0.0, 1, None))
        journal.write(batch)
        options = JobOptions(limit=5)
        for method in ("next_chunk", "remaining_dead_letters"):
            reader = RowReader(open_input(path), options, Limits(), RuntimeApi(), journal)
            chunk = getattr(reader, method)()
            (letter,) = map(json.loads, chunk.dead_letters)
            assert (letter["session"], letter["_error"]["line"]) == ({"n": 2}, 2)
            if method == "next_chunk":
                assert [row.line for row in chunk.rows] == [3, 5]
                assert [row.ordinal for row in chunk.rows] == [3, 5]
                assert (chunk.skipped, chunk.failed, chunk.paused) == ([1, 2, 4], [2], ["d2"])
                ids = [row.update.update_id for row in chunk.rows if row.update is not None]
                assert ids == [f"{journal.job_id}-{line}" for line in (3, 5)]
            reader.close()


def test_a_row_that_the_api_cannot_carry_is_not_valid(tmp_path: Path) -> None:
    path = written(tmp_path / "rows.jsonl", b'{"dialog_id": "d", "user": {"n": 1}}')
    reader = RowReader(open_input(path), JobOptions(), Limits(), SessionsApi(user_id="u"))
    (row,) = reader.rows()
    reader.close()
    assert row.update is None
    assert row.error is not None


def test_an_update_id_may_repeat_an_update_with_its_members_in_another_order(
    tmp_path: Path,
) -> None:
    rows = rows_of(
        written(
            tmp_path / "rows.jsonl",
            b'{"dialog_id": "d", "session": {"a": 1, "b": {"c": 1, "d": 2}}, "update_id": "u"}',
            b'{"update_id": "u", "session": {"b": {"d": 2, "c": 1}, "a": 1}, "dialog_id": "d"}',
            b'{"dialog_id": "d", "session": {"a": 1, "b": {"c": 2, "d": 1}}, "update_id": "u"}',
        )
    )
    assert [row.duplicate_of for row in rows] == [None, 1, None]
    assert [row.error is None for row in rows] == [True, True, False]


def test_a_chunk_ends_after_some_bytes(tmp_path: Path) -> None:
    line = b'{"dialog_id": "d", "session": {"a": "' + b"x" * 400_000 + b'"}}'
    reader = row_reader(written(tmp_path / "rows.jsonl", *[line] * 7))
    sizes = []
    while not (chunk := reader.next_chunk()).last:
        sizes.append(len(chunk.rows))
    reader.close()
    assert sum(sizes) + len(chunk.rows) == 7
    assert max(sizes) <= 3
