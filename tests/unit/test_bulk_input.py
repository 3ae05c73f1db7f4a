"""What a job reads: lines, tables, compression, faults with their places, repeats, changes."""

from __future__ import annotations

import gzip
import io
import json
import math
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from cognigy_async import Limits, RuntimeApi
from cognigy_async.bulk import DryRun, InputError, JobOptions, RowFault, dry_run
from cognigy_async.bulk.fingerprint import HashedFile, Mark
from cognigy_async.bulk.intake import Intake, Selection
from cognigy_async.bulk.locate import column_of
from cognigy_async.bulk.pipes import PipeReader
from cognigy_async.bulk.readers import open_input
from cognigy_async.bulk.rows import Row, dead_letter
from cognigy_async.bulk.seen import MOST_IN_MEMORY, Distinct

GOOD = b'{"dialog_id": "d", "session": {"n": 1}}'


def rows_of(path: Path | str, **options: Any) -> list[Row]:
    reader = open_input(path, **options)
    intake = Intake(reader, Limits(), Selection())
    try:
        return list(intake.rows())
    finally:
        intake.close()


def written(path: Path, *lines: bytes, end: bytes = b"\n") -> Path:
    path.write_bytes(b"\n".join(lines) + end)
    return path


def dry(path: Path, **options: Any) -> tuple[DryRun, list[RowFault]]:
    faults: list[RowFault] = []
    found = dry_run(path, JobOptions(**options), api=RuntimeApi(), on_fault=faults.append)
    return found, faults


@pytest.mark.parametrize(
    ("line", "column", "path"),
    [
        (b"this is no JSON", 2, "row"),
        (b'{"dialog_id": "x", "session": {"n": 1}', 38, "row"),
        (b'["dialog_id"]', 1, "row"),
        (b'"x"', 1, "row"),
        (b'{"session": {"n": 1}}', 1, "dialog_id"),
        (b'{"dialog_id": "", "session": {"n": 1}}', 2, "dialog_id"),
        (b'{"dialog_id": "x", "session": {"_cognigy_n": 1}}', 32, "session._cognigy_n"),
        (b'{"dialog_id": "x", "session": {"a-b": 1}}', 32, "session.a-b"),
        (b'{"dialog_id": "x", "session": {"n": 9007199254740992}}', 32, "session.n"),
        (b'{"dialog_id": "x", "session": {"a": [1, [[[[2]]]]]}}', 43, "session.a[1][0][0]"),
        (b'{"dialog_id": "x"}', 1, "update"),
        (b'{"dialog_id": "x", "session": {"n": "\xff"}}', 38, "row"),
        (b'{"dialog_id": "x", "session": {"n": NaN}}', 37, "row"),
        (b'{"dialog_id": "x", "sesion": {"n": 1}}', 20, "sesion"),
    ],
)
def test_a_fault_has_line_column_and_path(
    tmp_path: Path, line: bytes, column: int, path: str
) -> None:
    found, faults = dry(written(tmp_path / "rows.jsonl", GOOD, line, GOOD))
    assert (found.rows, found.faulty) == (3, 1)
    assert [(fault.line, fault.column, fault.path) for fault in faults] == [(2, column, path)]


def test_all_faults_of_all_rows_are_told(tmp_path: Path) -> None:
    bad = b'{"dialog_id": 5, "session": {"a-b": 1, "c": null}, "next_step": ""}'
    found, faults = dry(written(tmp_path / "rows.jsonl", bad, GOOD, bad))
    assert (found.faulty, found.faults) == (2, 8)
    paths = ["dialog_id", "next_step", "session.a-b", "session.c"]
    assert [(fault.line, fault.path) for fault in faults] == [
        (line, path) for line in (1, 3) for path in paths
    ]


def test_the_column_is_that_of_the_innermost_part_that_is_there() -> None:
    line = b'{"a": {"b.c": [10, {"d": "\\"}"}]}, "b": 1}'
    assert column_of(line, "a.b.c[1].d") == line.index(b'"d"') + 1
    assert column_of(line, "b") == line.index(b'"b":') + 1
    assert column_of(line, "a.missing") == line.index(b'{"b.c"') + 1
    assert column_of(b"not json", "a") == 1


def test_a_message_holds_no_value(tmp_path: Path) -> None:
    canary = b"canary-8c1f"
    lines = [
        b'{"dialog_id": "x", "session": {"n": "' + canary + b'"',
        b'{"dialog_id": "x", "session": {"a-b": "' + canary + b'"}}',
        b'{"dialog_id": "x", "session": {"n": "\xff' + canary + b'"}}',
        canary,
    ]
    _, faults = dry(written(tmp_path / "rows.jsonl", *lines))
    assert len(faults) == 4
    assert canary.decode() not in " ".join(map(str, faults))


@pytest.mark.parametrize("how", ["plain", "gzip", "zstd", "zstd-frames"])
def test_compression_is_known_by_the_first_bytes(tmp_path: Path, how: str) -> None:
    content = b"".join(
        json.dumps({"dialog_id": f"d-{n}", "session": {"n": n}}).encode() + b"\n"
        for n in range(5000)
    )
    path = tmp_path / "rows"
    if how == "gzip":
        path.write_bytes(gzip.compress(content))
    elif how == "plain":
        path.write_bytes(content)
    else:
        zstandard = pytest.importorskip("zstandard")
        parts = [content] if how == "zstd" else [content[:100_000], content[100_000:]]
        path.write_bytes(b"".join(zstandard.compress(part) for part in parts))
    rows = rows_of(path)
    assert [row.line for row in rows] == list(range(1, 5001))
    assert all(row.update is not None and row.update.session["n"] == row.line - 1 for row in rows)


@pytest.mark.parametrize("how", ["gzip", "zstd", "zstd-frames"])
def test_a_compressed_file_that_is_cut_off_gives_what_it_has_and_says_so(
    tmp_path: Path, how: str
) -> None:
    content = b"\n".join(b'{"dialog_id": "d%d", "next_step": "go"}' % n for n in range(20_000))
    path = tmp_path / "rows"
    if how == "gzip":
        packed = gzip.compress(content)
    else:
        zstandard = pytest.importorskip("zstandard")
        parts = [content] if how == "zstd" else [content[:400_000], content[400_000:]]
        packed = b"".join(zstandard.compress(part) for part in parts)
    path.write_bytes(packed[:-1000])
    reader = open_input(path)
    intake = Intake(reader, Limits(), Selection())
    seen = 0
    with pytest.raises(InputError, match=r"was cut off: .* ends early, at about line \d+"):
        for _ in intake.rows():
            seen += 1
    assert seen > 0
    intake.close()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere select() is what there is")
def test_a_pipe_is_read_where_a_thousand_other_files_are_open() -> None:
    import resource

    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(before[1], 4096), before[1]))
    with ExitStack() as stack:
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, before)
        while (number := os.open(os.devnull, os.O_RDONLY)) < 1024:
            stack.callback(os.close, number)
        stack.callback(os.close, number)
        ours, theirs = os.pipe()
        stack.callback(os.close, ours)
        reader = PipeReader(os.fdopen(ours, "rb", closefd=False))
        os.write(theirs, b"row")
        os.close(theirs)
        assert [reader.read(10), reader.read(10)] == [b"row", b""]
        reader.stop()


@pytest.mark.real_time
@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes here")
def test_closing_ends_a_read_that_waits_for_a_pipe(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    pipe = os.open(path, os.O_RDWR)
    try:
        os.write(pipe, GOOD + b"\n")
        intake = Intake(open_input(path), Limits(), Selection())
        assert len(intake.next_chunk().rows) == 1
        with ThreadPoolExecutor() as threads:
            waiting = threads.submit(intake.next_chunk)
            with pytest.raises(TimeoutError):
                waiting.result(timeout=0.2)
            intake.close()
            assert waiting.result(timeout=30).rows == []
    finally:
        os.close(pipe)


@pytest.mark.real_time
@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes here")
@pytest.mark.parametrize("limit", [None, 2])
def test_rows_of_a_slow_pipe_are_not_kept_back(tmp_path: Path, limit: int | None) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    # With both ends open nobody waits for the other.
    pipe = os.open(path, os.O_RDWR)
    try:
        reader = open_input(path)
        intake = Intake(reader, Limits(), Selection(limit))
        for line in (1, 2):
            os.write(pipe, GOOD + b"\n")
            assert [row.line for row in intake.next_chunk().rows] == [line]
        if limit is None:
            os.close(pipe)
            pipe = -1
        chunk = intake.next_chunk()
        assert (chunk.rows, chunk.last) == ([], True)
        intake.close()
    finally:
        if pipe >= 0:
            os.close(pipe)


def test_a_byte_order_mark_and_a_missing_newline_are_told(tmp_path: Path) -> None:
    path = written(tmp_path / "rows.jsonl", b"\xef\xbb\xbf" + GOOD, b"", GOOD, end=b"")
    found, faults = dry(path)
    assert (found.rows, faults) == (2, [])
    assert "byte-order mark" in found.notes[0]
    assert "last line, 3, has no newline" in found.notes[1]


def test_utf_16_is_refused_with_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(GOOD.decode().encode("utf-16"))
    with pytest.raises(InputError, match="UTF-16; save it as UTF-8"):
        rows_of(path)


def test_an_empty_file_has_no_rows_and_says_so(tmp_path: Path) -> None:
    found, faults = dry(written(tmp_path / "rows.jsonl", end=b""))
    assert (found.rows, found.requests, faults) == (0, 0, [])
    assert found.notes == ("The input has no rows.",)


def test_rows_of_no_other_dialog_are_not_called_none(tmp_path: Path) -> None:
    found, _ = dry(written(tmp_path / "rows", GOOD), only_dialogs=("other", "d-2"))
    assert found.notes == ("The input has no rows of 'd-2', 'other'.",)


def test_only_rows_that_a_job_holds_together_share_a_request(tmp_path: Path) -> None:
    line = '{"dialog_id": "d%d", "session": {"v%d": 1}}'
    near = [(line % (n % 10, n)).encode() for n in range(1000)]
    far = [(line % (n % 6000, n)).encode() for n in range(12_000)]
    assert dry(written(tmp_path / "near", *near), coalesce=True)[0].requests == 10
    assert dry(written(tmp_path / "far", *far), coalesce=True)[0].requests == 12_000


def test_a_line_without_end_is_no_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cognigy_async.bulk.lines.LONGEST_LINE", 1000)
    path = written(tmp_path / "rows.jsonl", GOOD, b"x" * 300_000)
    with pytest.raises(InputError, match="line 2 is longer than 1,000 bytes"):
        rows_of(path)


# Tables.

CSV = """dialog_id,session.cart_total,session.zip,user.tags,next_step,update_id,_note
d-1,149.99,01234,"[1, 2]",pay,u-1,x

d-2,,00001,"a, ""b""
c",,,
d-3,true,null,{},7,8,
"""


def test_csv_cells_are_json_where_they_parse_and_empty_ones_assign_nothing(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("\ufeff" + CSV, encoding="utf-8")
    rows = rows_of(path, text_columns=("session.zip",))
    assert [row.line for row in rows] == [2, 4, 6]
    updates = [row.update for row in rows]
    assert all(updates)
    told = [update.fields() for update in updates if update]
    assert told[0] == {
        "dialog_id": "d-1",
        "session": {"cart_total": 149.99, "zip": "01234"},
        "user": {"tags": [1, 2]},
        "next_step": "pay",
        "update_id": "u-1",
    }
    assert told[1] == {
        "dialog_id": "d-2",
        "session": {"zip": "00001"},
        "user": {"tags": 'a, "b"\nc'},
    }
    assert told[2]["session"] == {"cart_total": True, "zip": "null"}
    assert (told[2]["next_step"], told[2]["update_id"]) == ("7", "8")


def test_faults_of_csv_have_the_column_of_the_table(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(b"dialog_id,session.a,session.b-c\nd,1,2\nd,1\nd,9007199254740993,\nd,\xff,\n")
    found, faults = dry(path)
    assert (found.rows, found.faulty) == (4, 4)
    assert [(fault.line, fault.column, fault.path) for fault in faults] == [
        (2, 3, "session.b-c"),
        (3, 1, "row"),
        (4, 2, "session.a"),
        (5, 2, "session.a"),
    ]


@pytest.mark.parametrize(
    ("header", "texts", "said"),
    [
        ("id,session.a", (), "column 1, 'id', is no part of an update; .*no column 'dialog_id'"),
        ("dialog_id;session.a", (), "no column 'dialog_id'.*separated by commas"),
        ("dialog_id,session.a,session.a", (), "column 'session.a' is there twice"),
        ("dialog_id,session.a", ("session.b",), "no column 'session.b'"),
    ],
)
def test_a_header_that_makes_no_sense(
    tmp_path: Path, header: str, texts: tuple[str, ...], said: str
) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(f"{header}\nd,1\n")
    with pytest.raises(InputError, match=said):
        rows_of(path, text_columns=texts)


def test_parquet_rows_are_those_of_the_table(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    table = arrow.table(
        {
            "dialog_id": ["d-1", "d-2", None],
            "session.n": [1, None, 3],
            "user": [{"name": "Zoë", "age": None}, {"name": None, "age": 3}, None],
            "next_step": [None, "go", None],
        }
    )
    path = tmp_path / "rows.parquet"
    parquet.write_table(table, path)
    rows = rows_of(path)
    assert [row.line for row in rows] == [1, 2, 3]
    assert rows[0].update is not None
    assert rows[0].update.fields() == {
        "dialog_id": "d-1",
        "session": {"n": 1},
        "user": {"name": "Zoë"},
    }
    assert rows[1].update is not None
    assert rows[1].update.fields() == {"dialog_id": "d-2", "user": {"age": 3}, "next_step": "go"}
    assert rows[2].error is not None
    letter = json.loads(dead_letter(3, rows[2].source, {"type": "X"}))
    assert letter == {"session": {"n": 3}, "_error": {"type": "X", "line": 3}}


def test_a_dead_letter_of_a_table_is_json_whatever_its_cells_are() -> None:
    cells = {"when": date(2024, 2, 3), "bytes": b"\xff\xfe", "number": math.nan, "most": math.inf}
    letter = dead_letter(3, {"dialog_id": "d", "session": cells}, {"type": "X"})
    told = json.loads(letter, parse_constant=lambda name: pytest.fail(name))
    assert told["session"] == {
        "when": "2024-02-03",
        "bytes": "__4=",
        "number": None,
        "most": None,
    }


def test_a_cell_of_csv_may_be_as_long_as_a_variable(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(f"dialog_id,session.a\nd-1,{'x' * 400_000}\n")
    (row,) = rows_of(path)
    assert row.error is None
    assert row.update is not None
    assert len(row.update.payload()["session"]["a"]) == 400_000


def test_a_quote_that_is_not_closed_is_told_with_the_lines_that_it_takes(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text('dialog_id,session.a\nd-1,1\nd-2,"a\nd-3,3\nd-4,4\n')
    found, faults = dry(path)
    assert (found.rows, found.faulty) == (2, 1)
    assert faults[0].line == 3
    assert "is not CSV up to line 5: " in faults[0].problem


def test_a_header_that_is_not_utf_8_is_told(tmp_path: Path) -> None:
    path = written(tmp_path / "rows.csv", b"dialog_id,session.na\xefve", b"d-1,1")
    told = "the header, line 1, is not UTF-8; save the file as UTF-8"
    with pytest.raises(InputError, match=told):
        rows_of(path)


def test_what_is_no_parquet_is_told(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    with pytest.raises(InputError, match="cannot be read as Parquet"):
        rows_of(written(tmp_path / "rows.parquet", GOOD))


# Repeated update_ids.


def test_an_update_id_twice_is_a_fault_unless_the_update_is_the_same(tmp_path: Path) -> None:
    one = b'{"dialog_id": "d", "session": {"n": 1}, "update_id": "u"}'
    same = b'{"update_id": "u", "session": {"n": 1}, "dialog_id": "d", "_x": 1}'
    other = b'{"dialog_id": "d", "session": {"n": 2}, "update_id": "u"}'
    rows = rows_of(written(tmp_path / "rows.jsonl", one, same, other))
    assert [row.repeats for row in rows] == [None, 1, None]
    assert rows[2].error is not None
    assert "is that of line 1 too, which is another update" in str(rows[2].error)


def test_distinct_texts_are_counted_beyond_what_memory_holds() -> None:
    distinct = Distinct()
    count = 2 * MOST_IN_MEMORY + 17
    for number in range(count):
        distinct.add(str(number))
    for number in range(0, count, 3):
        distinct.add(str(number))
    assert distinct.count() == count


# Dead letters.


def test_a_dead_letter_runs_again_as_it_is(tmp_path: Path) -> None:
    row = b'{"dialog_id": "d", "session": {"n": 1.0}, "_error": {"type": "old"}, "_note": [1]}'
    letter = dead_letter(7, row, {"type": "BadRequestError", "message": "m", "status": 400})
    assert json.loads(letter) == {
        "dialog_id": "d",
        "session": {"n": 1.0},
        "_note": [1],
        "_error": {"type": "BadRequestError", "message": "m", "status": 400, "line": 7},
    }
    (again,) = rows_of(written(tmp_path / "dead.jsonl", letter.rstrip()))
    assert again.update is not None
    assert again.update.session == {"n": 1.0}


def test_a_line_that_does_not_parse_is_kept_as_it_is() -> None:
    assert json.loads(dead_letter(3, b"no \xff JSON\r", {"type": "X"}))["_raw"] == "no \\xff JSON"
    assert json.loads(dead_letter(3, b"[1]", {"type": "X"}))["_raw"] == "[1]"


# Identity.


class Opener:
    """Files that are closed at the end of a test."""

    def __init__(self, path: Path, stack: ExitStack) -> None:
        self._path = path
        self._stack = stack

    def __call__(self, data: bytes, known: list[Mark] | None = None) -> HashedFile:
        self._path.write_bytes(data)
        return HashedFile(self._stack.enter_context(self._path.open("rb")), "rows", known or [])


@pytest.fixture
def hashed(tmp_path: Path) -> Iterator[Opener]:
    with ExitStack() as stack:
        yield Opener(tmp_path / "rows", stack)


def drain(file: HashedFile) -> bytes:
    return b"".join(iter(lambda: file.read(1000), b""))


@pytest.mark.parametrize("size", [0, 1, 4096, 4097, 3_000_000])
def test_the_same_input_has_the_same_marks(hashed: Opener, size: int) -> None:
    data = bytes(index * 31 % 251 for index in range(size))
    first = hashed(data)
    assert drain(first) == data
    assert first.marks[-1].last
    again = hashed(data, first.marks)
    assert drain(again) == data
    assert again.marks == first.marks


@pytest.mark.parametrize("at", [0, 5000, 2_999_999])
def test_nothing_of_a_stretch_that_differs_is_used(hashed: Opener, at: int) -> None:
    data = bytearray(index * 31 % 251 for index in range(3_000_000))
    first = hashed(bytes(data))
    drain(first)
    data[at] ^= 1
    again = hashed(bytes(data), first.marks)
    used = b""
    with pytest.raises(InputError, match="not the input that this job began with"):
        while piece := again.read(1000):
            used += piece
    assert len(used) <= at


@pytest.mark.parametrize("much", [1, 4096, 5000, 700_000])
def test_whatever_was_read_of_a_file_is_before_a_mark(hashed: Opener, much: int) -> None:
    first = hashed(b"x" * 3_000_000)
    read = 0
    while read < much:
        read += len(first.read(1000))
        assert first.marks[-1].offset >= read


def test_a_file_that_was_read_to_its_end_is_before_the_last_mark(hashed: Opener) -> None:
    first = hashed(b"x" * 5000)
    assert [first.read(4096), first.read(904)] == [b"x" * 4096, b"x" * 904]
    assert first.marks[-1].last


@pytest.mark.parametrize("change", [-1, 1])
def test_an_input_that_is_shorter_or_longer_differs(hashed: Opener, change: int) -> None:
    data = b"x" * 10_000
    first = hashed(data)
    drain(first)
    again = hashed(data[:change] if change < 0 else data + b"y", first.marks)
    with pytest.raises(InputError, match="not the input"):
        drain(again)


def test_a_file_that_changes_while_it_is_read_is_not_used_further(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes((GOOD + b"\n") * 100_000)
    reader = open_input(path)
    blocks = iter(reader)
    next(blocks)
    with path.open("ab") as file:
        file.write(GOOD)
    with pytest.raises(InputError, match="changed while it was being read: its size went from"):
        list(blocks)
    reader.close()


def test_standard_input_that_is_closed_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(InputError, match="standard input is closed"):
        rows_of("-")


def test_standard_input_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path / "rows", GOOD, GOOD)
    with path.open("rb") as file:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(file))
        rows = rows_of("-")
    assert len(rows) == 2


def test_a_file_that_is_standard_input_is_looked_at_as_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path / "rows", GOOD, GOOD)
    with path.open("rb") as file:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(file))
        reader = open_input("-")
        list(reader)
        assert reader.changed() is None
        with path.open("ab") as other:
            other.write(GOOD)
        assert "its size went from" in str(reader.changed())
