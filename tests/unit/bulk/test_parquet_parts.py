"""Tables with many columns of texts are read in parts, and their rows are the same."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from cognigy_async.bulk import InputError
from cognigy_async.bulk.input import parquet as parquet_input
from cognigy_async.bulk.input import parquet_parts
from cognigy_async.bulk.input.parquet_parts import leaves_by_column

from ._rows import rows_of

arrow: Any = pytest.importorskip("pyarrow")
parquet: Any = pytest.importorskip("pyarrow.parquet")

ROWS = 2500


def wide(path: Path, columns: int = 12, **options: Any) -> Path:
    """Write a table with columns of texts, a struct, lists and a category."""
    chance = random.Random(1)
    texts = {
        f"session.t{number}": [
            None if chance.random() < 0.1 else f"{chance.random()}" for _ in range(ROWS)
        ]
        for number in range(columns)
    }
    values = {
        "dialog_id": [f"d-{number}" for number in range(ROWS)],
        **texts,
        "user": [{"a": f"{number}", "b": number} for number in range(ROWS)],
        "session.tags": [[f"{number}"] * (number % 3) for number in range(ROWS)],
        "session.kind": arrow.array([f"k{n // 700}" for n in range(ROWS)]).dictionary_encode(),
        "_note": ["passed over"] * ROWS,
    }
    parquet.write_table(arrow.table(values), path, **options)
    return path


def updates_of(path: Path) -> list[Any]:
    rows = rows_of(path)
    assert [row.line for row in rows] == list(range(1, len(rows) + 1))
    return [row.source for row in rows]


@pytest.mark.parametrize("memory", [1 << 19, 3 << 17])
@pytest.mark.parametrize(
    "options", [{}, {"use_dictionary": False}, {"row_group_size": 900}], ids=str
)
def test_rows_of_a_table_in_parts_are_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, memory: int, options: dict[str, Any]
) -> None:
    path = wide(tmp_path / "rows.parquet", **options)
    expected = updates_of(path)
    assert len(expected) == ROWS
    parts: list[int] = []
    divide = parquet_parts.parts_of

    def divide_and_note(costs: Any, most: int) -> list[list[str]]:
        found = divide(costs, most)
        parts.append(len(found))
        return found

    monkeypatch.setattr(parquet_input, "MOST_MEMORY", memory)
    monkeypatch.setattr(parquet_input, "parts_of", divide_and_note)
    assert updates_of(path) == expected
    assert min(parts) > 1


@pytest.mark.parametrize(
    ("module", "limit", "message"),
    [
        (
            parquet_input,
            "MOST_MEMORY",
            "the rows after row 0 may take 0 MiB to read in column dialog_id, and the limit is 0",
        ),
        (
            parquet_parts,
            "MOST_PARTS",
            "the rows after row 0 may take 1 MiB to read, in too many columns",
        ),
        (
            parquet_parts,
            "MOST_IN_MEMORY",
            "the rows after row 0 have 0 MiB in a few of them, and the limit is 0 MiB",
        ),
        (
            parquet_parts,
            "MOST_ON_DISK",
            "the rows after row 0 take more than 0 MiB in temporary files",
        ),
    ],
)
def test_a_table_that_takes_too_much_in_parts_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: Any, limit: str, message: str
) -> None:
    path = wide(tmp_path / "rows.parquet")
    monkeypatch.setattr(parquet_input, "MOST_MEMORY", 1 << 20)
    monkeypatch.setattr(module, limit, 1 << 16 if limit == "MOST_MEMORY" else 1)
    with pytest.raises(InputError, match=message):
        rows_of(path)


def test_columns_that_their_names_leave_open_are_not_read_in_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    columns = {"dialog_id": ["d"], "session": [{"a": "x"}], "session.b": ["y"]}
    path = tmp_path / "rows.parquet"
    parquet.write_table(arrow.table(columns), path)
    (row,) = rows_of(path)
    assert row.update is not None
    assert row.update.session == {"a": "x", "b": "y"}
    monkeypatch.setattr(parquet_input, "MOST_MEMORY", 1 << 8)
    with pytest.raises(InputError, match="may take 0 MiB to read, and the limit is 0 MiB"):
        rows_of(path)


def test_leaves_belong_to_the_column_that_their_path_names() -> None:
    paths = {0: "dialog_id", 2: "session.a", 3: "user.a.b", 4: "user.c"}
    found = leaves_by_column(paths, ["dialog_id", "session.a", "user"])
    assert found == {"dialog_id": [0], "session.a": [2], "user": [3, 4]}
    assert leaves_by_column(paths, ["dialog_id", "session.a", "user", "user.c"]) == {}
