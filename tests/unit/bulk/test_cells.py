"""Types of cells: what fits, and what is a fault of its row."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cognigy_async.bulk import TableOptions
from cognigy_async.bulk.input.row import dead_letter
from cognigy_async.bulk.input.table_options import ColumnType
from cognigy_async.bulk.journal.schema import Failure

from ._rows import dry, rows_of, written

FITS: list[tuple[ColumnType, str, str, Any]] = [
    ("text", ".", "01234", "01234"),
    ("text", ".", " true ", " true "),
    ("text", ".", "NULL", "NULL"),
    ("integer", ".", "42", 42),
    ("integer", ".", " -042 ", -42),
    ("integer", ".", "+7", 7),
    ("integer", ",", "1.234.567", 1234567),
    ("integer", ",", "1234", 1234),
    ("number", ".", "149.99", 149.99),
    ("number", ".", "149", 149),
    ("number", ".", ".5", 0.5),
    ("number", ".", "1e3", 1000.0),
    ("number", ",", "149,99", 149.99),
    ("number", ",", "1.234,5", 1234.5),
    ("number", ",", "-1.234.567,89", -1234567.89),
    ("number", ",", "1.234", 1234),
    ("number", ",", "1234,50", 1234.5),
    ("number", ",", "1,5E+3", 1500.0),
    ("boolean", ".", "TRUE", True),
    ("boolean", ".", "Falsch", False),
    ("boolean", ".", "ja", True),
    ("boolean", ".", "0", False),
    ("boolean", ".", "t", True),
    ("json", ".", '{"a": [1, null]}', {"a": [1, None]}),
    ("json", ".", '"x"', "x"),
    ("json", ".", "12", 12),
]
UNFIT: list[tuple[ColumnType, str, str, str]] = [
    ("integer", ".", "1.5", "is not an integer"),
    ("integer", ".", "1e3", "is not an integer"),
    ("integer", ".", "1_000", "is not an integer"),
    ("integer", ".", "٣", "is not an integer"),
    ("integer", ",", "1,5", "is not an integer with dots for thousands"),
    ("integer", ",", "1.23", "is not an integer with dots for thousands"),
    ("integer", ".", "9" * 5000, "is not an integer of at most 400 characters"),
    ("integer", ".", "9" * 20, "the integer is beyond"),
    ("number", ".", "149,99", "is not a number"),
    ("number", ".", "1,234.50", "is not a number"),
    ("number", ".", "1e999", "is not a number that a 64-bit float holds"),
    ("number", ",", "1,5e400", "is not a number that a 64-bit float holds"),
    ("number", ".", "1.500e400", "is not a number that a 64-bit float holds"),
    ("number", ".", "1" * 401, "is not a number of at most 400 characters"),
    ("number", ".", "149.99 €", "is not a number: it has a currency sign, a percent sign"),
    ("number", ",", "1.234,50\N{NO-BREAK SPACE}€", "is not a number with a decimal comma: it has"),
    ("integer", ",", "15%", "is not an integer with dots for thousands: it has a currency sign"),
    ("number", ".", "x", "is not a number"),
    ("number", ",", "149.99", "is not a number with a decimal comma"),
    ("number", ",", "12.34,5", "is not a number with a decimal comma"),
    ("number", ",", "1.234.56", "is not a number with a decimal comma"),
    ("number", ".", "#WERT!", "is #WERT!, which stands for no value"),
    ("number", ".", "NaN", "is NaN, which stands for no value"),
    ("boolean", ".", "2", "is not a boolean"),
    ("boolean", ".", "maybe", "is not a boolean"),
    ("json", ".", "{'a': 1}", "is not JSON"),
    ("json", ".", "text", "is not JSON"),
    ("json", ".", '{"a": 1, "a": 2}', "is given twice"),
    ("json", ".", '{"$numberLong": "5"}', "is extended JSON of MongoDB"),
]


def table_of(kind: ColumnType, decimal: str) -> TableOptions:
    types: dict[str, ColumnType] = {"session.a": kind}
    if decimal == ",":
        types["session.b"] = "number"
        return TableOptions(types=types, decimal=",", delimiter=";")
    return TableOptions(types=types, delimiter=";")


def written_cell(path: Path, cell: str) -> Path:
    quoted = '"' + cell.replace('"', '""') + '"'
    return written(path, b"dialog_id;session.b;session.a", f"d-1;5;{quoted}".encode())


@pytest.mark.parametrize(("kind", "decimal", "cell", "value"), FITS)
def test_a_cell_becomes_a_value_of_its_type(
    tmp_path: Path, kind: ColumnType, decimal: str, cell: str, value: Any
) -> None:
    path = written_cell(tmp_path / "rows.csv", cell)
    (row,) = rows_of(path, table=table_of(kind, decimal))
    assert row.update is not None
    found = row.update.session["a"]
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(("kind", "decimal", "cell", "problem"), UNFIT)
def test_a_cell_that_does_not_fit_is_a_fault_of_its_row(
    tmp_path: Path, kind: ColumnType, decimal: str, cell: str, problem: str
) -> None:
    path = written_cell(tmp_path / "rows.csv", cell)
    found, faults = dry(path, table_of(kind, decimal))
    assert (found.rows, found.faulty) == (1, 1)
    (fault,) = faults
    assert (fault.line, fault.column) == (2, 3)
    assert fault.path.startswith("session.a")
    assert fault.problem.startswith(problem)


def test_an_empty_cell_of_a_type_assigns_nothing(tmp_path: Path) -> None:
    path = written(tmp_path / "rows.csv", b"dialog_id,session.a,session.b", b"d-1,,2")
    (row,) = rows_of(path, table=TableOptions(types={"session.a": "number"}))
    assert row.update is not None
    assert row.update.session == {"b": 2}


def test_the_fault_of_a_cell_does_not_have_its_value(tmp_path: Path) -> None:
    path = written_cell(tmp_path / "rows.csv", "canary-8c1f")
    kinds: list[ColumnType] = ["integer", "number", "boolean", "json"]
    for kind in kinds:
        _, faults = dry(path, table_of(kind, "."))
        assert len(faults) == 1
        assert "canary" not in str(faults[0])


@pytest.mark.parametrize(
    ("kind", "decimal", "cell", "remedy"),
    [
        ("number", ".", "1.234,50", "add --decimal ,"),
        ("integer", ".", "1.200", "add --decimal ,"),
        ("number", ",", "149.99", "if its dot is decimal, leave --decimal out"),
        ("number", ".", "1e400", "correct it, or read the column as text: --type session.a=text"),
        ("number", ".", "1.500e400", "correct it, or read the column as text: --type session.a="),
        ("number", ",", "1e400", "correct it, or read the column as text: --type session.a=text"),
        ("integer", ".", "1e3", "correct it, or read the column as text: --type session.a=text"),
        ("integer", ",", "1e3", "correct it, or read the column as text: --type session.a=text"),
        ("integer", ".", "9" * 500, "correct it, or read the column as text: --type session.a="),
        ("number", ",", "x", "correct it, or read the column as text: --type session.a=text"),
        ("number", ".", "#WERT!", "correct its formula in the spreadsheet, or leave the cell emp"),
        ("number", ".", "#N/A", "correct its formula in the spreadsheet, or leave the cell empty"),
        ("number", ".", "NULL", "leave the cell empty, or add --type session.a=text if it is"),
    ],
)
def test_a_fault_names_the_remedy_that_fits(
    tmp_path: Path, kind: ColumnType, decimal: Any, cell: str, remedy: str
) -> None:
    path = written(tmp_path / "rows.csv", b"dialog_id;session.a;session.b", f"d-1;{cell};".encode())
    table = TableOptions(types={"session.a": kind, "session.b": "number"}, decimal=decimal)
    _, (fault,) = dry(path, table)
    assert remedy in fault.remedy


def test_a_dead_letter_has_the_typed_value_and_runs_again(tmp_path: Path) -> None:
    path = written(tmp_path / "rows.csv", b"dialog_id;session.a", b"d-1;1.234,5", b"d-2;x")
    table = TableOptions(types={"session.a": "number"}, decimal=",")
    good, bad = rows_of(path, table=table)
    letters = [
        dead_letter(row.line, row.source, Failure("X", "m", None)).rstrip() for row in (good, bad)
    ]
    again, refused = rows_of(written(tmp_path / "dead.jsonl", *letters))
    assert again.update is not None
    assert again.update.session == {"a": 1234.5}
    assert refused.update is None
    assert json.loads(letters[1])["_raw"] == "d-2;x"
