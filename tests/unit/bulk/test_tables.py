"""CSV and Parquet."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cognigy_async.bulk import InputError
from cognigy_async.bulk.input.row import dead_letter
from cognigy_async.bulk.journal.schema import Failure

from ._rows import GOOD, dry, rows_of, written

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
    found = [update.fields() for update in updates if update]
    assert found[0] == {
        "dialog_id": "d-1",
        "session": {"cart_total": 149.99, "zip": "01234"},
        "user": {"tags": [1, 2]},
        "next_step": "pay",
        "update_id": "u-1",
    }
    assert found[1] == {
        "dialog_id": "d-2",
        "session": {"zip": "00001"},
        "user": {"tags": 'a, "b"\nc'},
    }
    assert found[2]["session"] == {"cart_total": True, "zip": "null"}
    assert (found[2]["next_step"], found[2]["update_id"]) == ("7", "8")


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
    ("header", "texts", "message"),
    [
        (
            "id,session.a",
            (),
            "column 1, 'id', is not a field of an update; .*no column 'dialog_id'",
        ),
        ("dialog_id;session.a", (), "no column 'dialog_id'.*separated by commas"),
        ("dialog_id,session.a,session.a", (), "column 'session.a' is there twice"),
        ("dialog_id,session.a", ("session.b",), "no column 'session.b'"),
    ],
)
def test_a_header_that_cannot_be_used_is_refused(
    tmp_path: Path, header: str, texts: tuple[str, ...], message: str
) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(f"{header}\nd,1\n")
    with pytest.raises(InputError, match=message):
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
    letter = json.loads(dead_letter(3, rows[2].source, Failure("X", "m", None)))
    error = {"type": "X", "message": "m", "status": None, "line": 3}
    assert letter == {"session": {"n": 3}, "_error": error}


def test_a_cell_of_csv_may_be_as_long_as_a_variable(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(f"dialog_id,session.a\nd-1,{'x' * 400_000}\n")
    (row,) = rows_of(path)
    assert row.error is None
    assert row.update is not None
    assert len(row.update.payload()["session"]["a"]) == 400_000


def test_an_unclosed_quote_is_reported_with_the_lines_it_consumes(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text('dialog_id,session.a\nd-1,1\nd-2,"a\nd-3,3\nd-4,4\n')
    found, faults = dry(path)
    assert (found.rows, found.faulty) == (2, 1)
    assert faults[0].line == 3
    assert "is not CSV up to line 5: " in faults[0].problem


def test_a_header_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "rows.csv", b"dialog_id,session.na\xefve", b"d-1,1")
    message = "the header, line 1, is not UTF-8; save the file as UTF-8"
    with pytest.raises(InputError, match=message):
        rows_of(path)


def test_a_file_that_is_not_parquet_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    with pytest.raises(InputError, match="cannot be read as Parquet"):
        rows_of(written(tmp_path / "rows.parquet", GOOD))
