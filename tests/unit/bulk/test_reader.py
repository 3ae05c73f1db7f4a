"""Opening an input and reading its lines, from files, pipes and standard input."""

from __future__ import annotations

import io
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cognigy_async.bulk import InputError
from cognigy_async.bulk.input.reader import open_input

from ._rows import GOOD, dry, row_reader, rows_of, written


@pytest.mark.real_time
@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes here")
def test_closing_ends_a_read_that_waits_for_a_pipe(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    pipe = os.open(path, os.O_RDWR)
    try:
        os.write(pipe, GOOD + b"\n")
        reader = row_reader(path)
        assert len(reader.next_chunk().rows) == 1
        with ThreadPoolExecutor() as threads:
            waiting = threads.submit(reader.next_chunk)
            with pytest.raises(TimeoutError):
                waiting.result(timeout=0.2)
            reader.close()
            assert waiting.result(timeout=30).rows == []
    finally:
        os.close(pipe)


def test_a_byte_order_mark_and_a_missing_newline_are_noted(tmp_path: Path) -> None:
    path = written(tmp_path / "rows.jsonl", b"\xef\xbb\xbf" + GOOD, b"", GOOD, end=b"")
    found, faults = dry(path)
    assert (found.rows, faults) == (2, [])
    assert "byte-order mark" in found.notes[0]
    assert "last line, 3, has no newline" in found.notes[1]


def test_utf_16_with_a_mark_is_read(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes((GOOD.decode() + "\n").encode("utf-16"))
    found, faults = dry(path)
    assert (found.rows, faults) == (1, [])
    assert found.notes == ("The input is UTF-16, as its byte-order mark says.",)


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


def test_standard_input_that_is_closed_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(InputError, match="standard input is closed"):
        rows_of("-")


def test_standard_input_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path / "rows", GOOD, GOOD)
    with path.open("rb") as file:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(file))
        rows = rows_of("-")
    assert len(rows) == 2


def test_a_change_of_a_file_given_as_standard_input_is_noticed(
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
