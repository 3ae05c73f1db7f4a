"""Rows of a journal as values."""

from __future__ import annotations

import sqlite3
from contextlib import closing

from cognigy_async import BadRequestError
from cognigy_async.bulk import InputError
from cognigy_async.bulk.journal.schema import (
    COLUMNS,
    SCHEMA,
    Failure,
    Totals,
    differences,
    invalid_rows,
)


def test_all_columns_have_a_condition() -> None:
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.executescript(SCHEMA)
        assert list(differences(connection)) == list(invalid_rows(connection)) == []
        for table, conditions in COLUMNS.items():
            found = connection.execute(f"PRAGMA table_info({table})").fetchall()
            names = " ".join(conditions.values()).split()
            assert sorted(names) == sorted(column[1] for column in found)
        tables = "SELECT count(*) FROM sqlite_master WHERE type = 'table'"
        assert connection.execute(tables).fetchone() == (len(COLUMNS),)


def test_a_failure_is_described_by_its_error() -> None:
    assert Failure.of(InputError("text")) == Failure("InputError", "text", None)
    failure = Failure.of(BadRequestError("text", status=400))
    assert (failure.type, failure.status) == ("BadRequestError", 400)
    assert "text" in failure.message


def test_completed_rows_are_those_with_an_outcome() -> None:
    assert Totals(succeeded=1, failed=2, ambiguous=4).completed == 7
