"""Options of tables: what is refused, and what a journal keeps of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cognigy_async import ConfigurationError
from cognigy_async.bulk import InputError, JobOptions, TableOptions

from ._rows import GOOD, dry, written


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"delimiter": ";;"}, "delimiter=';;': must be one character, or comma, semicolon"),
        ({"delimiter": '"'}, "must be one character"),
        ({"delimiter": ""}, "must be one character"),
        ({"encoding": "cp12"}, "encoding='cp12': Python has no encoding of this name"),
        ({"encoding": "rot13"}, "Python has no encoding"),
        ({"encoding": "base64"}, "Python has no encoding"),
        ({"encoding": "undefined"}, "Python has no encoding"),
        ({"encoding": "a\0b"}, "Python has no encoding"),
        ({"columns": {"Price": "price"}}, "column 'Price' cannot be mapped to 'price': name a"),
        (
            {"types": {"session.a": "float"}},
            "the type of 'session.a' cannot be 'float'",
        ),
        ({"types": {"dialog_id": "integer"}}, "dialog_id is always a text"),
        ({"types": {"session": "text"}}, "session is always an object"),
        ({"decimal": ";"}, "decimal=';': must be a dot or a comma"),
        ({"decimal": ","}, "add --type session.price=number"),
        ({"decimal": ",", "types": {"session.a": "text"}}, "add --type session.price=number"),
    ],
)
def test_what_cannot_work_is_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        TableOptions(**wrong)
    assert message in str(caught.value)


def test_a_text_column_has_no_other_type() -> None:
    table = TableOptions(types={"session.a": "number"})
    with pytest.raises(ConfigurationError, match="cannot be a text column and of the type number"):
        JobOptions(text_columns=["session.a"], table=table)


def test_names_of_delimiters_and_encodings_are_those_of_python() -> None:
    named = TableOptions(delimiter="tab", encoding="Latin-1")
    assert (named.delimiter, named.encoding) == ("\t", "iso8859-1")
    assert named == TableOptions(delimiter="\\t", encoding="latin1")
    assert hash(named) == hash(TableOptions(delimiter="\t", encoding="latin1"))


def test_a_journal_keeps_what_was_given() -> None:
    table = TableOptions(
        delimiter=";",
        columns={"b": "session.b", "a": "dialog_id"},
        types={"session.b": "number"},
        decimal=",",
    )
    record = JobOptions(table=table).record()
    assert {name: record[name] for name in record.keys() - JobOptions().record().keys()} == {
        "delimiter": ";",
        "map": {"a": "dialog_id", "b": "session.b"},
        "type": {"session.b": "number"},
        "decimal": ",",
    }


@pytest.mark.parametrize(
    ("name", "table", "message"),
    [
        (
            "rows.jsonl",
            {"delimiter": ";"},
            "JSON Lines, and --delimiter is only for CSV files; omit it",
        ),
        (
            "rows.jsonl",
            {"columns": {"a": "session.b"}},
            "JSON Lines, and --map is only for CSV, Excel and Parquet",
        ),
        (
            "rows.jsonl",
            {"types": {"session.a": "text"}},
            "--text-column are only for CSV files and Excel",
        ),
        ("rows.csv", {"sheet": "A"}, "is CSV, and --sheet is only for Excel workbooks"),
        ("rows.parquet", {"encoding": "cp1252"}, "is Parquet, and --encoding is only for CSV and"),
        ("rows.xlsx", {"delimiter": ";"}, "an Excel workbook, and --delimiter is only for CSV"),
    ],
)
def test_an_option_without_use_is_refused(
    tmp_path: Path, name: str, table: dict[str, Any], message: str
) -> None:
    path = written(tmp_path / name, GOOD)
    with pytest.raises(InputError, match=message):
        dry(path, TableOptions(**table))
