"""Cost of reading a row group, from the headers of its pages."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from cognigy_async.bulk.input.parquet_pages import MOST_ROWS, ROOM, ReadingCost, reading_cost

arrow: Any = pytest.importorskip("pyarrow")
parquet: Any = pytest.importorskip("pyarrow.parquet")


def cost(path: Path, values: Any, **options: Any) -> ReadingCost:
    parquet.write_table(arrow.table({"a": values}), path, **options)
    with path.open("rb") as file:
        file.seek(3)
        opened = parquet.ParquetFile(path)
        found = reading_cost(file, opened, 0, range(opened.metadata.num_columns))
        assert file.tell() == 3
    return found


@pytest.mark.parametrize("version", ["1.0", "2.0"])
@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_texts_of_usual_length_are_read_many_at_a_time(
    tmp_path: Path, version: str, compression: str
) -> None:
    texts = [f"{random.random()} {n}" for n in range(100_000)]
    found = cost(tmp_path / "p", texts, data_page_version=version, compression=compression)
    assert found.rows == MOST_ROWS
    assert found.memory < 10_000_000


@pytest.mark.parametrize("size", [1000, 100_000, 1_000_000])
def test_a_long_text_of_a_dictionary_counts_in_each_row(tmp_path: Path, size: int) -> None:
    found = cost(tmp_path / "p", ["x" * size, "y"] * 50)
    assert found.rows == min(MOST_ROWS, ROOM // (size + 84 + 1), ROOM // size)
    assert size < found.memory < 5 * size + 1_000_000


def test_few_values_of_a_page_bound_the_rows(tmp_path: Path) -> None:
    texts = ["x" * 90_000] * 40
    options = {"use_dictionary": False, "data_page_size": 1 << 16, "write_batch_size": 4}
    found = cost(tmp_path / "p", texts, compression="zstd", **options)
    assert found.rows == 4
    assert 360_000 <= found.memory < 2_000_000


def test_widths_count_also_for_nulls(tmp_path: Path) -> None:
    found = cost(tmp_path / "p", arrow.array([None] * 20, arrow.binary(1_000_000)))
    assert found.rows == 4


@pytest.mark.parametrize("size", [10, 1000])
def test_each_item_of_lists_counts(tmp_path: Path, size: int) -> None:
    found = cost(tmp_path / "p", [["x" * size] * 50] * 2000)
    assert found.memory > 100_000 * size
    assert found.rows == min(MOST_ROWS, ROOM // (50 * (size + 20) + 1))


def test_a_row_group_without_rows_costs_nothing(tmp_path: Path) -> None:
    parquet.write_table(arrow.table({"a": ["x"]}).slice(0, 0), tmp_path / "p")
    with (tmp_path / "p").open("rb") as file:
        opened = parquet.ParquetFile(file)
        for group in range(opened.metadata.num_row_groups):
            assert reading_cost(file, opened, group, [0]).memory < 1000


def test_a_header_that_is_damaged_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "p"
    parquet.write_table(arrow.table({"a": ["x"] * 100}), path)
    opened = parquet.ParquetFile(path)
    content = path.read_bytes()
    for broken in (b"\x19" * 60, b"\0" * 60, b"\x15" + b"\xff" * 59, b"\x1c" * 60):
        path.write_bytes(content[:4] + broken + content[64:])
        with path.open("rb") as file, pytest.raises((ValueError, RecursionError)):
            reading_cost(file, opened, 0, [0])
