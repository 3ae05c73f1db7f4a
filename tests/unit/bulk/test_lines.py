"""Lines of an input: too long ones, and marks that are no content."""

from __future__ import annotations

from pathlib import Path

import pytest

from cognigy_async.bulk.input import row

from ._rows import GOOD, dry, rows_of, written

LONG = b'{"dialog_id": "x", "session": {"a": "' + b"x" * 3_000_000 + b'"}}'
"""Longer than a row may be, and than a block."""


@pytest.mark.parametrize("end", [b"\n", b""], ids=["newline", "end"])
@pytest.mark.parametrize("before", [0, 1, 100_000])
def test_a_line_that_is_too_long_is_a_fault(tmp_path: Path, before: int, end: bytes) -> None:
    path = written(tmp_path / "rows.jsonl", *[b" "] * before, GOOD, LONG, GOOD, LONG, end=end)
    found, faults = dry(path)
    assert (found.rows, found.faulty) == (4, 2)
    assert [fault.line for fault in faults] == [before + 2, before + 4]
    assert faults[0].problem == f"is longer than {row.LONGEST_ROW:,} bytes"


def test_a_first_line_that_is_too_long_is_a_fault(tmp_path: Path) -> None:
    found, faults = dry(written(tmp_path / "rows.jsonl", LONG, GOOD))
    assert (found.rows, [fault.line for fault in faults]) == (2, [1])


def test_the_beginning_of_a_long_line_is_no_row(tmp_path: Path) -> None:
    path = written(tmp_path / "rows.jsonl", GOOD, GOOD + b" " * 3_000_000 + b"x")
    row = rows_of(path)[1]
    assert row.error is not None
    assert row.source.startswith(b'{"_raw":"{')
    assert len(row.source) < 3000


def test_a_long_line_may_end_with_a_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row, "LONGEST_ROW", 1000)
    good = b'{"dialog_id": "d", "next_step": "s"}'
    for size in range(4090 - len(good), 4100 - len(good)):
        rows = rows_of(written(tmp_path / f"{size}.jsonl", good, b"x" * size, good, good))
        assert [row.line for row in rows if row.error is None] == [1, 3, 4]
        assert len(rows) == 4


def test_the_end_mark_of_dos_is_no_content(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(b"dialog_id,session.a\r\nd-1,1\r\n\x1a")
    assert len(rows_of(path)) == 1
    path.write_bytes(b"dialog_id,session.a\r\nd-1,1\x1a")
    (row,) = rows_of(path)
    assert row.update is not None
    assert row.update.session == {"a": 1}
