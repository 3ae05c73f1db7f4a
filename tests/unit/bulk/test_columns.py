"""Columns of a table: other names, and what is wrong with them."""

from __future__ import annotations

from pathlib import Path

import pytest

from cognigy_async.bulk import InputError, TableOptions

from ._rows import dry, rows_of, written

HEADER = "Kundennr.;Name = X;Umsatz;Bemerkung;Notiz"
MAP = {
    "Kundennr.": "dialog_id",
    "Name = X": "session.name",
    "Umsatz": "user.umsatz",
    "Bemerkung": "_",
    "Notiz": "_",
}


def test_columns_are_renamed_or_passed_over(tmp_path: Path) -> None:
    path = written(
        tmp_path / "rows.csv",
        HEADER.encode(),
        "K-1;Zoë;5;x;\udcff".encode(errors="surrogateescape"),
    )
    (row,) = rows_of(path, table=TableOptions(columns=MAP))
    assert row.update is not None
    assert row.update.fields() == {
        "dialog_id": "K-1",
        "session": {"name": "Zoë"},
        "user": {"umsatz": 5},
    }


def test_a_fault_names_the_field_and_the_place_in_the_table(tmp_path: Path) -> None:
    path = written(tmp_path / "rows.csv", HEADER.encode(), b"K-1;A;NULL;;")
    _, faults = dry(path, TableOptions(columns=MAP))
    assert [(fault.line, fault.column, fault.path) for fault in faults] == [(2, 3, "user.umsatz")]


@pytest.mark.parametrize(
    ("header", "table", "message"),
    [
        ("Name,dialog_id", {}, "not fields of an update: 'Name'.*--map 'Customer=dialog_id'"),
        ("dialog_id,a", {"columns": {"b": "session.b", "a": "_"}}, "no column 'b' to map"),
        ("Id,a", {"columns": {"a": "session.a", "Id": "_"}}, "there is no column 'dialog_id'"),
        (
            "dialog_id,a,b",
            {"columns": {"a": "session.x", "b": "session.x"}},
            "column 'session.x' is there twice",
        ),
        (
            "dialog_id,a",
            {"columns": {"a": "session.a"}, "types": {"a": "text"}},
            "there is no column 'a' after --map: its name is 'session.a'",
        ),
        ("dialog_id,session.a", {"types": {"user.b": "text"}}, "there is no column 'user.b'\\. "),
        (
            "Kunden-Nr,a",
            {"columns": {"kunden-nr.": "dialog_id", "a": "session.price"}},
            r"no column 'kunden-nr\.' to map \(did you mean 'Kunden-Nr'\?\)",
        ),
        (
            "dialog_id,a",
            {"columns": {"a": "session.price"}, "types": {"session.prize": "number"}},
            r"no column 'session\.prize' \(did you mean 'session\.price'\?\)",
        ),
    ],
)
def test_columns_that_cannot_be_used_are_named(
    tmp_path: Path, header: str, table: dict[str, dict[str, str]], message: str
) -> None:
    path = written(tmp_path / "rows.csv", header.encode(), b"1,2")
    with pytest.raises(InputError, match=message):
        rows_of(path, table=TableOptions(**table))  # type: ignore[arg-type]


def test_a_renamed_header_is_found_among_the_rows(tmp_path: Path) -> None:
    header = HEADER.encode()
    path = written(tmp_path / "rows.csv", header, b"K-1;A;1;;", header, b"K-2;A;1;;")
    found, faults = dry(path, TableOptions(columns=MAP))
    assert (found.rows, found.dialogs) == (3, 2)
    assert [(fault.line, fault.problem) for fault in faults] == [(3, "repeats the header")]
    path = written(tmp_path / "moved.csv", header, b"Name = X;Kundennr.;Umsatz;Notiz;Bemerkung")
    with pytest.raises(InputError, match="line 2 is a header of other columns"):
        rows_of(path, table=TableOptions(columns=MAP))


def test_columns_of_parquet_are_renamed_or_passed_over(tmp_path: Path) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "rows.parquet"
    columns = {
        "customer": ["d-1"],
        "price": [149.99],
        "attributes": [{"a": 1, "b": None}],
        "bought_at": arrow.array([0], arrow.timestamp("ns")),
        "_session": [3],
    }
    parquet.write_table(arrow.table(columns), path)
    names = {
        "customer": "dialog_id",
        "price": "session.price",
        "attributes": "user",
        "bought_at": "_",
        "_session": "session.number",
    }
    (row,) = rows_of(path, table=TableOptions(columns=names))
    assert row.update is not None
    assert row.update.fields() == {
        "dialog_id": "d-1",
        "session": {"price": 149.99, "number": 3},
        "user": {"a": 1},
    }
