"""Cost of reading a row group, from the headers of its pages."""

from __future__ import annotations

import random
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from cognigy_async.bulk import InputError
from cognigy_async.bulk.input.parquet_pages import (
    MOST_ROWS,
    ROOM,
    ReadingCost,
    reading_cost,
    row_groups_of,
)

from ._rows import rows_of

arrow: Any = pytest.importorskip("pyarrow")
parquet: Any = pytest.importorskip("pyarrow.parquet")


def costs(path: Path) -> list[ReadingCost]:
    schema = parquet.ParquetFile(path).schema
    columns = {number: schema.column(number) for number in range(len(schema))}
    with path.open("rb") as file:
        groups = row_groups_of(file)
        file.seek(3)
        found = [reading_cost(file, group, columns) for group in groups]
        assert file.tell() == 3
    return found


def cost(path: Path, values: Any, **options: Any) -> ReadingCost:
    parquet.write_table(arrow.table({"a": values}), path, **options)
    [found] = costs(path)
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


def test_each_row_group_has_a_cost(tmp_path: Path) -> None:
    table = arrow.table({"a": ["x" * 100] * 10 + ["y" * 5000] * 20})
    parquet.write_table(table, tmp_path / "p", row_group_size=10)
    first, second, third = costs(tmp_path / "p")
    assert first.memory < second.memory == third.memory
    parquet.write_table(table.slice(0, 0), tmp_path / "p")
    assert all(found.memory < 1000 for found in costs(tmp_path / "p"))


@pytest.mark.parametrize(
    "broken",
    [b"\x19" * 60, b"\0" * 60, b"\x15" + b"\xff" * 59, b"\x1c" * 60, b"\x19\xf5" + b"\xff" * 9],
    ids=["lists", "empty", "number", "structs", "long list"],
)
def test_a_header_that_is_damaged_is_refused(tmp_path: Path, broken: bytes) -> None:
    path = tmp_path / "p"
    parquet.write_table(arrow.table({"a": ["x"] * 100}), path)
    column = parquet.ParquetFile(path).schema.column(0)
    content = path.read_bytes()
    size = int.from_bytes(content[-8:-4], "little")
    path.write_bytes(content[:4] + broken + content[4 + len(broken) :])
    with path.open("rb") as file:
        [group] = row_groups_of(file)
        with pytest.raises(ValueError, match=r"header|footer"):
            reading_cost(file, group, {0: column})
    path.write_bytes(content[: -size - 8] + broken.ljust(size, b"\0") + content[-8:])
    with path.open("rb") as file, pytest.raises(ValueError, match=r"header|footer"):
        reading_cost(file, row_groups_of(file)[0], {0: column})


def test_a_footer_that_contradicts_itself_does_not_end_the_process(tmp_path: Path) -> None:
    path = tmp_path / "p"
    values = [["x", "y"], None, []] * 20
    parquet.write_table(arrow.table({"dialog_id": ["d"] * 60, "session.a": values}), path)
    content = path.read_bytes()
    size = int.from_bytes(content[-8:-4], "little")
    begin = len(content) - 8 - size
    optional, required = b"\x25\x02", b"\x25\x00"
    places = [at for at in range(begin, len(content)) if content[at : at + 2] == optional]
    # Each of these ends a process that asks pyarrow for the columns of the row group.
    assert len(places) == 2
    for at in places:
        path.write_bytes(content[:at] + required + content[at + 2 :])
        with suppress(InputError):
            rows_of(path, format="parquet")
