"""Rows of a job: chunks, repeated ids, and sets that do not fit in memory."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow
import pytest
import zstandard
from pyarrow import parquet

from cognigy_async import Limits, RuntimeApi, SessionsApi
from cognigy_async.bulk import InputError, JobOptions
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


def lines_of(count: int) -> list[bytes]:
    """Return rows of several blocks, of ten dialogs in turn, that compress badly."""
    return [
        b'{"dialog_id": "d%d", "session": {"text": "%s"}}'
        % (n % 10, hashlib.sha512(b"%d" % n).hexdigest().encode())
        for n in range(count)
    ]


@pytest.mark.parametrize(
    ("count", "options", "total"),
    [
        (20_000, {}, 20_000),
        (500, {}, 500),
        (20_000, {"limit": 15_000}, 15_000),
        (20_000, {"limit": 30_000}, 20_000),
        (20_000, {"only_dialogs": ["d3", "d5"]}, 4_000),
        (20_000, {"only_dialogs": ["d3"], "limit": 100}, 100),
        (20_000, {"only_dialogs": ["nobody"]}, 0),
    ],
)
def test_the_rows_to_expect_are_estimated_until_they_are_read(
    tmp_path: Path, count: int, options: dict[str, Any], total: int
) -> None:
    path = written(tmp_path / "rows.jsonl", *lines_of(count))
    reader = RowReader(open_input(path), JobOptions(**options), Limits())
    assert reader.total() == (None, False)
    last = False
    while not last:
        last = reader.next_chunk().last
        expected, is_exact = reader.total()
        assert expected == pytest.approx(total, rel=0 if is_exact else 0.2)
    assert is_exact
    assert expected == reader.count == total
    reader.close()


@pytest.mark.parametrize("end", [b"\n", b"", b"\n\n"])
@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_the_rows_of_a_small_file_are_counted_at_once(
    tmp_path: Path, end: bytes, compress: Callable[[bytes], bytes]
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(compress(b"\n".join([GOOD] * 300) + end))
    reader = RowReader(open_input(path), JobOptions(), Limits())
    assert len(reader.next_chunk().rows) < 300
    assert reader.total() == (300, True)
    reader.close()


def test_rows_before_a_fault_of_the_input_are_read(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl.zst"
    path.write_bytes(zstandard.compress(b"\n".join(lines_of(20_000)))[:-8])
    records = 0
    with closing(open_input(path)) as plain, pytest.raises(InputError, match="cut off"):
        for block in plain:
            records += len(block)
    reader = RowReader(open_input(path), JobOptions(), Limits())
    rows = 0
    with pytest.raises(InputError, match="cut off"):
        while True:
            rows += len(reader.next_chunk().rows)
    assert rows == records > 19_000
    assert reader.total()[1] is False
    reader.close()


def test_the_rows_to_expect_of_a_compressed_file_and_of_a_pipe(tmp_path: Path) -> None:
    content = b"\n".join(lines_of(20_000))
    (tmp_path / "rows.jsonl.gz").write_bytes(gzip.compress(content))
    reader = RowReader(open_input(tmp_path / "rows.jsonl.gz"), JobOptions(), Limits())
    for _ in range(40):
        assert not reader.next_chunk().last
    assert reader.total() == (pytest.approx(20_000, rel=0.3), False)
    reader.close()
    os.mkfifo(tmp_path / "pipe")
    pipe = os.open(tmp_path / "pipe", os.O_RDWR)
    for limit in (None, 100):
        os.write(pipe, GOOD + b"\n")
        reader = RowReader(open_input(tmp_path / "pipe"), JobOptions(limit=limit), Limits())
        assert (len(reader.next_chunk().rows), reader.total()) == (1, (limit, False))
        reader.close()
    os.close(pipe)


def test_parquet_tells_its_rows(tmp_path: Path) -> None:
    table = pyarrow.table({"dialog_id": ["d"] * 30_000, "session.n": list(range(30_000))})
    parquet.write_table(table, tmp_path / "rows.parquet")
    reader = RowReader(open_input(tmp_path / "rows.parquet"), JobOptions(), Limits())
    reader.next_chunk()
    assert reader.total() == (30_000, True)
    reader.close()


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
