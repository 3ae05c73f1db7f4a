"""Columns in a dry run: types, examples, and what looks wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from cognigy_async.bulk import TableOptions

from ._rows import GOOD, dry, written


def table_of(path: Path, *cells: str) -> Path:
    rows = [f"d-{n};{cell}".encode() for n, cell in enumerate(cells)]
    return written(path, b"dialog_id;session.a", *rows)


@pytest.mark.parametrize(
    ("cells", "kind"),
    [
        (["1", "2"], "integer"),
        (["1", "2.5", ""], "number"),
        (["2.5", "1"], "number"),
        (["true", "false"], "boolean"),
        (["x", "y"], "text"),
        (["[1]", '"{""a"": 1}"'], "json"),
        (["", ""], ""),
        (["1", "x", "2.5"], "text, number"),
    ],
)
def test_a_column_has_the_types_of_its_cells(tmp_path: Path, cells: list[str], kind: str) -> None:
    found, _ = dry(table_of(tmp_path / "rows.csv", *cells))
    assert [(column.field, column.type) for column in found.columns][1] == ("session.a", kind)


def test_a_column_with_several_types_is_noted_with_its_lines(tmp_path: Path) -> None:
    found, _ = dry(table_of(tmp_path / "rows.csv", "10115", "80331", "01067", "20095", "04109"))
    _, note = found.notes
    assert note == (
        "The column 'session.a' has values of several types: integer from line 2 (3 of its cells), "
        "text from line 4 (2 of its cells). Correct the cells, or give it one type: "
        "--type session.a=integer, --type session.a=text."
    )
    table = TableOptions(types={"session.a": "text"})
    found, _ = dry(table_of(tmp_path / "typed.csv", "10115", "01067"), table)
    assert len(found.notes) == 1


@pytest.mark.parametrize("cell", ["1,5", "-1.234,50", "12.345.678,9"])
def test_a_decimal_comma_is_noted(tmp_path: Path, cell: str) -> None:
    path = table_of(tmp_path / "rows.csv", "x", cell, "2,5")
    note = dry(path)[0].notes[-1]
    assert "look like numbers with a decimal comma, from line 3 on" in note
    assert "--type session.a=number --decimal ," in note
    assert len(dry(path, TableOptions(types={"session.a": "text"}))[0].notes) == 1


@pytest.mark.parametrize("cell", ["1,", "a, b", "1,2,3", "12.34,5", "01067", "2024-12-31", "0.125"])
def test_other_texts_are_not_noted(tmp_path: Path, cell: str) -> None:
    assert len(dry(table_of(tmp_path / "rows.csv", cell))[0].notes) == 1


@pytest.mark.parametrize(
    ("cells", "what", "advice"),
    [
        (["5000", "5,000"], "or with commas that group thousands, from line 3", "=number --dec"),
        (["1.200", "3.000"], "dots group thousands, as in 1.200, from line 2", "=integer --dec"),
        (["1.200.000", "5"], "dots group thousands, as in 1.200, from line 2", "=integer --dec"),
        (["12,5 %", "1.234,50 €"], "with a currency, a percent sign", "without the sign"),
        (["5", "1.234,50-"], "a minus at the end, from line 3", "without the sign"),
        (["$1,000.00"], "with a currency", "without the sign"),
        (["Ja", "nein "], "booleans, such as yes, nein or TRUE, from line 2", "=boolean"),
        (["31.12.2024", "1/2/24 13:05"], "dates, from line 2", "are used as texts"),
    ],
)
def test_values_that_may_stand_for_others_are_noted(
    tmp_path: Path, cells: list[str], what: str, advice: str
) -> None:
    path = table_of(tmp_path / "rows.csv", *cells)
    note = dry(path)[0].notes[-1]
    assert "The column 'session.a' has values that look like " in note
    assert what in note
    assert advice in note
    assert len(dry(path, TableOptions(types={"session.a": "text"}))[0].notes) == 1


def test_several_types_are_noted_whatever_their_values_look_like(tmp_path: Path) -> None:
    prices = [str(n) for n in range(30)]
    _, several, looks = dry(table_of(tmp_path / "rows.csv", *prices, "ja", "1,5"))[0].notes
    assert several == (
        "The column 'session.a' has values of several types: integer from line 2 (30 of its "
        "cells), text from line 32 (2 of its cells)."
    )
    assert "look like numbers with a decimal comma, from line 33 on" in looks
    cells = ["007", "1e5", "TRUE", "true", "3"]
    _, several = dry(table_of(tmp_path / "four.csv", *cells))[0].notes
    assert (
        "text from line 2 (2 of its cells), number from line 3 (1 of its cells), boolean from "
        "line 5 (1 of its cells), integer from line 6 (1 of its cells). Correct the cells, or "
        in several
    )


def test_texts_that_look_like_booleans_among_booleans_are_noted(tmp_path: Path) -> None:
    cells = ["true", "true", "false", "TRUE"]
    _, several, looks = dry(table_of(tmp_path / "rows.csv", *cells))[0].notes
    assert "boolean from line 2 (3 of its cells), text from line 5 (1 of its cells)." in several
    assert "look like booleans, such as yes, nein or TRUE, from line 5 on" in looks


def test_dots_in_a_column_of_numbers_are_noted(tmp_path: Path) -> None:
    numbers = TableOptions(types={"session.a": "number"})
    path = table_of(tmp_path / "rows.csv", "5", "1.000", "2.500")
    _, note = dry(path, numbers)[0].notes
    assert note == (
        "The column 'session.a' has values that look like numbers whose dots group thousands, as "
        "in 1.200, from line 3 on. If they do, add --decimal ,; if the dots are decimal, nothing "
        "needs to change."
    )
    german = TableOptions(types={"session.a": "number"}, decimal=",")
    assert len(dry(path, german)[0].notes) == 1
    assert len(dry(table_of(tmp_path / "b.csv", "1.000", "2.5"), numbers)[0].notes) == 1


def test_a_few_texts_among_others_are_not_noted(tmp_path: Path) -> None:
    assert len(dry(table_of(tmp_path / "a.csv", "ja", "x", "y"))[0].notes) == 1
    assert len(dry(table_of(tmp_path / "b.csv", "1.200", "12.5"))[0].notes) == 1


def test_examples_are_few_and_short(tmp_path: Path) -> None:
    cells = ["a", "a", "b", "x" * 1000, "c", "d"]
    found, _ = dry(table_of(tmp_path / "rows.csv", *cells))
    assert found.columns[1].examples == ("a", "b", "x" * 30 + "...")


def test_the_names_of_variables_in_cells_take_no_memory(tmp_path: Path) -> None:
    rows = [f'd-{n},"{{""v{n}"": {n}}}"'.encode() for n in range(50)]
    found, _ = dry(written(tmp_path / "rows.csv", b"dialog_id,session", *rows))
    assert [(column.field, column.type) for column in found.columns] == [
        ("dialog_id", "text"),
        ("session", "json"),
    ]


def test_lines_of_json_have_no_columns(tmp_path: Path) -> None:
    assert dry(written(tmp_path / "rows.jsonl", GOOD))[0].columns == ()


def test_the_time_at_the_quota_of_the_shared_hosts_is_always_told(tmp_path: Path) -> None:
    found, _ = dry(written(tmp_path / "rows.jsonl", *[GOOD] * 5000))
    assert found.seconds is None
    assert found.saas_seconds == pytest.approx(1507.5)
