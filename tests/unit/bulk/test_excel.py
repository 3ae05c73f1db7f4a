"""Rows of Excel workbooks: values as people see them, and what no row may lose."""

from __future__ import annotations

import datetime
import json
import sys
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import pytest

from cognigy_async.bulk import InputError, TableOptions
from cognigy_async.bulk.input.row import dead_letter
from cognigy_async.bulk.input.table_options import ColumnType
from cognigy_async.bulk.journal.schema import Failure

from ._rows import dry, row_reader, rows_of, written
from ._sheets import raw_workbook, sheet_of, text_cell, workbook

HEADER = ("dialog_id", "session.a", "session.b")


def sessions_of(path: Path, **table: Any) -> list[Any]:
    rows = rows_of(path, table=TableOptions(**table))
    return [row.update.session if row.update is not None else row.error for row in rows]


def test_cells_are_values_of_their_types(tmp_path: Path) -> None:
    day = datetime.date(2024, 5, 6)
    rows = [
        ("d-1", 149.99, 17),
        ("d-2", True, "0123"),
        ("d-3", day, datetime.datetime(2024, 5, 6, 12, 30, 15)),
        ("d-4", datetime.time(12, 30), datetime.timedelta(hours=26)),
        ("d-5", "[1, 2]", "true"),
        ("d-6", None, 1e20),
    ]
    path = workbook(tmp_path / "rows.xlsx", HEADER, *rows)
    assert sessions_of(path) == [
        {"a": 149.99, "b": 17},
        {"a": True, "b": "0123"},
        {"a": "2024-05-06", "b": "2024-05-06T12:30:15"},
        {"a": "12:30:00", "b": "P1DT2H"},
        {"a": "[1, 2]", "b": "true"},
        {"b": 1e20},
    ]
    number = sessions_of(path)[0]["b"]
    assert type(number) is int


def test_ids_that_are_numbers_have_no_point(tmp_path: Path) -> None:
    rows = [(17, 1, None), (491512345678, 2, None), (4915123456789012, 3, None), (17.5, 4, None)]
    path = workbook(tmp_path / "rows.xlsx", HEADER, *rows)
    found, faults = dry(path)
    assert (found.rows, found.dialogs) == (4, 3)
    assert [(fault.line, fault.path) for fault in faults] == [(4, "dialog_id")]
    assert "rounded by a spreadsheet" in faults[0].problem
    ids = [row.dialog_id for row in rows_of(path) if row.update is not None]
    assert ids == ["17", "491512345678", "17.5"]


@pytest.mark.parametrize(
    ("kind", "cell", "value"),
    [
        ("text", 17, "17"),
        ("text", 17.5, "17.5"),
        ("text", True, "true"),
        ("text", datetime.date(2024, 5, 6), "2024-05-06"),
        ("text", "NULL", "NULL"),
        ("integer", 17, 17),
        ("integer", "1.017", 1017),
        ("integer", 17.5, None),
        ("integer", True, None),
        ("number", 17.5, 17.5),
        ("number", "1.017,5", 1017.5),
        ("number", datetime.date(2024, 5, 6), None),
        ("boolean", True, True),
        ("boolean", 0, False),
        ("boolean", 2, None),
        ("boolean", "WAHR", True),
        ("json", '{"a": 1}', {"a": 1}),
        ("json", 17, 17),
        ("json", "{a}", None),
    ],
)
def test_a_cell_becomes_a_value_of_its_type(
    tmp_path: Path, kind: ColumnType, cell: Any, value: Any
) -> None:
    path = workbook(tmp_path / "rows.xlsx", HEADER, ("d-1", cell, 1))
    types = {"session.a": kind, "session.b": "number"}
    (row,) = rows_of(path, table=TableOptions(types=types, decimal=","))  # type: ignore[arg-type]
    if value is None:
        assert row.error is not None
        assert [fault.path for fault in row.error.faults] == ["session.a"]
        if not isinstance(cell, str):
            assert row.error.faults[0].problem in (f"is not a {kind}", f"is not an {kind}")
    else:
        assert row.update is not None
        found = row.update.session["a"]
        assert (found, type(found)) == (value, type(value))


def error_cell(sheet: Any) -> None:
    sheet["B2"] = "#N/A"
    sheet["B2"].data_type = "e"


def test_errors_and_formulas_without_a_value_are_faults(tmp_path: Path) -> None:
    rows = [("d-1", None, 1), ("d-2", "=1+1", 2), ("d-3", "#WERT!", 3), ("d-4", 1, 4)]
    path = workbook(tmp_path / "rows.xlsx", HEADER, *rows, change=error_cell)
    found, faults = dry(path)
    assert (found.rows, found.faulty) == (4, 3)
    assert [(fault.line, fault.column, fault.path, fault.problem) for fault in faults] == [
        (2, 2, "session.a", "is #N/A, which stands for no value"),
        (3, 2, "session.a", "is a formula whose value was not saved"),
        (4, 2, "session.a", "is #WERT!, which stands for no value"),
    ]


def test_a_formula_with_an_empty_text_is_an_empty_cell(tmp_path: Path) -> None:
    row = f'<row>{text_cell("d-1")}<c t="str"><f>IF(1,&quot;&quot;)</f><v></v></c></row>'
    path = raw_workbook(tmp_path / "rows.xlsx", sheet_of(row, f"<row>{text_cell('d-2')}</row>"))
    _, faults = dry(path)
    assert [(fault.line, fault.path) for fault in faults] == [(2, "update"), (3, "update")]


def test_rows_have_the_numbers_of_the_spreadsheet(tmp_path: Path) -> None:
    empty: tuple[Any, ...] = (None, None, None, None)
    rows = [empty, empty, (None, *HEADER), (None, "d-1", 1, 2), (None, "", " ", None)]
    path = workbook(tmp_path / "rows.xlsx", *rows, (None, "d-2", 3, "NULL"))
    found, faults = dry(path)
    assert (found.rows, found.dialogs) == (2, 1)
    assert [(fault.line, fault.column) for fault in faults] == [(6, 3)]


def hide_and_merge(sheet: Any) -> None:
    sheet.row_dimensions[3].hidden = True
    sheet.merge_cells("B4:B5")
    sheet.merge_cells("D4:D9")


def test_hidden_rows_are_read_and_merged_cells_are_faults(tmp_path: Path) -> None:
    rows = [(f"d-{n}", n, n) for n in range(5)]
    path = workbook(tmp_path / "rows.xlsx", HEADER, *rows, change=hide_and_merge)
    found, faults = dry(path)
    assert found.notes == ("The sheet has hidden rows, such as row 3. They are read as well.",)
    assert found.rows == 5
    assert [(fault.line, fault.problem) for fault in faults] == [
        (5, "has a cell that is merged with a row above")
    ]


def test_a_sheet_is_chosen_by_its_name(tmp_path: Path) -> None:
    def add(sheet: Any) -> None:
        other = sheet.parent.create_sheet("März")
        other.append(HEADER)
        other.append(("d-9", 9, 9))
        hidden = sheet.parent.create_sheet("Codes")
        hidden.sheet_state = "hidden"

    path = workbook(tmp_path / "rows.xlsx", HEADER, ("d-1", 1, 1), change=add)
    with pytest.raises(InputError, match=r"several sheets; .* --sheet: 'Daten', 'März'"):
        rows_of(path)
    with pytest.raises(InputError, match="no sheet 'Mai'; its sheets are 'Daten', 'März'"):
        rows_of(path, table=TableOptions(sheet="Mai"))
    assert sessions_of(path, sheet="März") == [{"a": 9, "b": 9}]
    assert rows_of(path, table=TableOptions(sheet="Codes")) == []


def test_columns_are_renamed_and_cleared_ones_passed_over(tmp_path: Path) -> None:
    path = workbook(
        tmp_path / "rows.xlsx",
        ("Nr", 2024, "Notiz", " ", None),
        ("d-1", 5, datetime.timedelta(1), None, None),
        ("d-2", 6, None, None, "x"),
    )
    columns = {"Nr": "dialog_id", "2024": "session.umsatz", "Notiz": "_"}
    first, second = sessions_of(path, columns=columns)
    assert first == {"umsatz": 5}
    assert "column without a name" in str(second)


def test_a_repeated_header_is_a_fault(tmp_path: Path) -> None:
    path = workbook(tmp_path / "rows.xlsx", HEADER, ("d-1", 1, 1), HEADER, ("d-2", 2, 2))
    _, faults = dry(path)
    assert [(fault.line, fault.problem) for fault in faults] == [(3, "repeats the header")]


def test_a_dead_letter_runs_again(tmp_path: Path) -> None:
    rows = [("d-1", datetime.date(2024, 5, 6), 17), ("d-2", "NULL", "a,b")]
    path = workbook(tmp_path / "rows.xlsx", HEADER, *rows)
    failure = Failure("X", "m", None)
    letters = [dead_letter(row.line, row.source, failure).rstrip() for row in rows_of(path)]
    again, refused = rows_of(written(tmp_path / "dead.jsonl", *letters))
    assert again.update is not None
    assert again.update.session == {"a": "2024-05-06", "b": 17}
    assert refused.update is None
    assert json.loads(letters[1]) == {
        "dialog_id": "d-2",
        "session": {"b": "a,b"},
        "_not_json": {"session.a": "NULL"},
        "_error": {"type": "X", "message": "m", "status": None, "line": 3, "crc32": ANY},
    }


def test_a_row_that_is_too_long_is_a_fault(tmp_path: Path) -> None:
    names = [f"session.v{n}" for n in range(90)]
    rows = [("d-1", *["x" * 32_000] * 90), ("d-2", *["x"] * 90)]
    path = workbook(tmp_path / "rows.xlsx", ("dialog_id", *names), *rows)
    _, faults = dry(path)
    assert [(fault.line, fault.problem) for fault in faults] == [
        (2, "is longer than 2,621,440 bytes")
    ]


def test_the_number_of_rows_is_known_from_the_first_chunk_on(tmp_path: Path) -> None:
    rows = [(f"d-{n}", n, n) for n in range(500)]
    reader = row_reader(workbook(tmp_path / "rows.xlsx", HEADER, *rows))
    reader.next_chunk()
    assert reader.total() == (500, True)
    reader.close()


def test_a_missing_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = workbook(tmp_path / "rows.xlsx", HEADER)
    monkeypatch.setitem(sys.modules, "python_calamine", None)
    with pytest.raises(InputError, match=r"needs an extra: pip install 'cognigy-async\[excel\]'"):
        rows_of(path)


def test_a_workbook_of_another_name_needs_the_format(tmp_path: Path) -> None:
    path = workbook(tmp_path / "rows", HEADER, ("d-1", 1, 1))
    with pytest.raises(InputError, match=r"is a workbook; .* add --format excel"):
        rows_of(path)
    assert len(rows_of(path, format="excel")) == 1


def test_the_dead_letter_of_a_faulty_row_is_refused_until_it_is_corrected(tmp_path: Path) -> None:
    def change(sheet: Any) -> None:
        sheet["B3"].value = "#VALUE!"
        sheet["B3"].data_type = "e"
        sheet.merge_cells("C3:C4")

    rows = [("d-1", 1.5, "x"), ("d-2", 2, "y"), ("d-3", 3, None)]
    path = workbook(tmp_path / "rows.xlsx", HEADER, *rows, change=change)
    found = rows_of(path)
    assert [row.dialog_id for row in found] == ["d-1", "d-2", "d-3"]
    letters = [dead_letter(row.line, row.source, Failure("X", "m", None)) for row in found[1:]]
    kept = [json.loads(letter) for letter in letters]
    assert [letter["session"] for letter in kept] == [{"b": "y"}, {"a": 3}]
    assert [list(letter["_not_json"]) for letter in kept] == [["session.a"], ["row"]]
    again = rows_of(written(tmp_path / "dead.jsonl", *(letter.rstrip() for letter in letters)))
    assert [row.update for row in again] == [None, None]
    for letter in kept:
        del letter["_not_json"]
    corrected = [json.dumps(letter).encode() for letter in kept]
    assert all(row.update for row in rows_of(written(tmp_path / "dead.jsonl", *corrected)))
