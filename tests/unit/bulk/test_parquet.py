"""Parquet: values as people see them, cells that cannot be read, columns that are passed over."""

from __future__ import annotations

import decimal
import json
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import pytest

from cognigy_async.bulk import InputError
from cognigy_async.bulk.input.parquet import MOST_MEMORY
from cognigy_async.bulk.input.row import Row, dead_letter
from cognigy_async.bulk.journal.schema import Failure

from ._rows import GOOD, dry, rows_of, written

arrow: Any = pytest.importorskip("pyarrow")
parquet: Any = pytest.importorskip("pyarrow.parquet")

FAILURE = Failure("X", "m", None)


def table(folder: Path, columns: dict[str, Any], **options: Any) -> Path:
    path = folder / "rows.parquet"
    parquet.write_table(arrow.table(columns), path, **options)
    return path


def session_of(row: Row) -> dict[str, Any]:
    assert row.update is not None, row.error
    return row.update.session


def column(values: Any) -> dict[str, Any]:
    return {"dialog_id": [f"d-{n}" for n in range(len(values))], "session.a": values}


def broken_text() -> Any:
    """Return two texts, of which the first is not UTF-8."""
    offsets = arrow.py_buffer(b"\0\0\0\0\2\0\0\0\4\0\0\0")
    return arrow.Array.from_buffers(
        arrow.string(), 2, [None, offsets, arrow.py_buffer(b"\xff\xfeok")]
    )


def test_rows_are_those_of_the_table(tmp_path: Path) -> None:
    columns = {
        "dialog_id": ["d-1", "d-2", None],
        "session.n": [1, None, 3],
        "user": [{"name": "Zoë", "age": None}, {"name": None, "age": 3}, None],
        "next_step": [None, "go", None],
    }
    rows = rows_of(table(tmp_path, columns))
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
    letter = json.loads(dead_letter(3, rows[2].source, FAILURE))
    error = {"type": "X", "message": "m", "status": None, "line": 3, "crc32": ANY}
    assert letter == {"session": {"n": 3}, "_error": error}


def test_a_file_that_is_not_parquet_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read as Parquet"):
        rows_of(written(tmp_path / "rows.parquet", GOOD))


@pytest.mark.parametrize("at", range(0, 4000, 80))
def test_a_file_that_is_cut_off_or_damaged_is_refused(tmp_path: Path, at: int) -> None:
    path = table(tmp_path, column([f"text {n}" for n in range(300)]), compression="none")
    content = path.read_bytes()
    assert len(content) > 4080
    path.write_bytes(content[: at + 40])
    with pytest.raises(InputError, match="cannot be read as Parquet"):
        rows_of(path)
    path.write_bytes(content[:at] + b"\xfe\xdc\xba\x98" * 10 + content[at + 40 :])
    with suppress(InputError):
        assert len(rows_of(path)) == 300


@pytest.mark.parametrize(
    "numbers",
    [
        [149.99, 0.1, 1e-45, 3.4028235e38, -0.0, 16777216.0, 1.1754944e-38, 123456.79],
        [0.3333, 65500.0, 6e-08, -2.5],
    ],
    ids=["single", "half"],
)
def test_a_short_float_is_the_number_that_people_see(tmp_path: Path, numbers: list[float]) -> None:
    kind = arrow.float32() if len(numbers) > 4 else arrow.float16()
    if len(numbers) > 4:
        inner = arrow.array(numbers, kind)
    else:
        inner = arrow.array(numbers, arrow.float64()).cast(kind)
    columns = {
        "dialog_id": ["d"] * len(numbers),
        "session.a": inner,
        "session.b": arrow.ListArray.from_arrays(list(range(len(numbers) + 1)), inner),
        "session.c": arrow.StructArray.from_arrays([inner], ["d"]),
        "user": arrow.StructArray.from_arrays([inner], ["d"]),
    }
    rows = rows_of(table(tmp_path, columns))
    found = [row.update.payload() for row in rows if row.update is not None]
    assert [part["session"]["a"] for part in found] == numbers
    assert [part["session"]["b"] for part in found] == [[number] for number in numbers]
    assert [part["session"]["c"] for part in found] == [{"d": number} for number in numbers]
    assert [part["user"] for part in found] == [{"d": number} for number in numbers]


def test_a_decimal_is_a_number_where_one_has_its_digits(tmp_path: Path) -> None:
    texts = ["149.90", "0.10", "-12345678901.25", "0.00"]
    decimals = arrow.array(list(map(decimal.Decimal, texts)), arrow.decimal128(38, 2))
    rows = rows_of(table(tmp_path, column(decimals)))
    assert [session_of(row)["a"] for row in rows] == [149.9, 0.1, -12345678901.25, 0.0]
    whole = arrow.array([decimal.Decimal(7), decimal.Decimal(2**53)], arrow.decimal128(38, 0))
    first, second = rows_of(table(tmp_path, column(whole)))
    assert repr(session_of(first)["a"]) == "7"
    assert "beyond 9007199254740991" in str(second.error)


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        (arrow.array([b"ab"]), "bytes is not a type"),
        (arrow.array([b"ab"], arrow.binary(2)), "bytes is not a type"),
        (arrow.array([1], arrow.timestamp("us")), "datetime is not a type"),
        (arrow.array([1], arrow.timestamp("s", "Europe/Berlin")), "datetime is not a type"),
        (arrow.array([1], arrow.date32()), "date is not a type"),
        (arrow.array([1], arrow.time32("ms")), "time is not a type"),
        (arrow.array([float("nan")]), "NaN and infinity are not JSON"),
        (arrow.array([[float("inf")]]), "NaN and infinity are not JSON"),
        (arrow.array([decimal.Decimal("0.12345678901234567890")]), "Decimal is not a type"),
        (arrow.array([[("k", 1)]], arrow.map_(arrow.string(), arrow.int8())), "Map is not"),
        (
            arrow.array([[[("k", 1)]]], arrow.list_(arrow.map_(arrow.string(), arrow.int8()))),
            "Map is",
        ),
        (arrow.array([1700000000000000001], arrow.timestamp("ns")), "Python cannot hold"),
        (arrow.array([253402300800000000], arrow.timestamp("us")), "Python cannot hold"),
        (arrow.array([10**7], arrow.date32()), "Python cannot hold"),
        (arrow.array([[1700000000000000001]], arrow.list_(arrow.time64("ns"))), "Python cannot"),
        (broken_text()[:1], "is not UTF-8"),
    ],
    ids=str,
)
def test_a_value_without_json_is_refused_and_its_dead_letter_too(
    tmp_path: Path, values: Any, problem: str
) -> None:
    columns = {**column(values), "session.b": [1] * len(values)}
    path = table(tmp_path, columns)
    found, faults = dry(path)
    assert (found.rows, len(faults)) == (1, 1)
    assert faults[0].path.startswith("session.a")
    assert faults[0].column == 2
    assert problem in faults[0].problem
    (row,) = rows_of(path)
    letter = dead_letter(1, row.source, FAILURE)
    fields = json.loads(letter, parse_constant=lambda name: pytest.fail(name))
    assert (fields["dialog_id"], fields["session"]) == ("d-0", {"b": 1})
    assert list(fields["_not_json"]) == ["session.a"]
    (again,) = rows_of(written(tmp_path / "dead.jsonl", letter.rstrip()))
    assert again.update is None


@pytest.mark.parametrize(
    ("values", "text"),
    [
        (arrow.array([1], arrow.timestamp("ns")), "1970-01-01 00:00:00.000000001"),
        (arrow.array([253402300800], arrow.timestamp("s")), "10000-01-01 00:00:00"),
        (arrow.array([1], arrow.time64("ns")), "00:00:00.000000001"),
    ],
    ids=str,
)
def test_the_dead_letter_has_a_time_that_python_cannot_hold(
    tmp_path: Path, values: Any, text: str
) -> None:
    (row,) = rows_of(table(tmp_path, column(values)))
    letter = json.loads(dead_letter(1, row.source, FAILURE))
    assert letter["_not_json"]["session.a"].startswith(text)


def test_a_bad_cell_ends_its_own_row_only(tmp_path: Path) -> None:
    columns = column(broken_text())
    columns["session.b"] = arrow.array([1, 1700000000000000001], arrow.timestamp("ns"))
    columns["session.c"] = [1, 2]
    del columns["session.b"]
    first, second = rows_of(table(tmp_path, columns))
    assert first.error is not None
    assert session_of(second) == {"a": "ok", "c": 2}


def test_ids_are_texts(tmp_path: Path) -> None:
    ids = [b"d-1", "dé".encode(), b"\xff\xfe", b"\0\1\2"]
    columns = {"dialog_id": arrow.array(ids), "session.a": [1, 2, 3, 4], "next_step": [b"go"] * 4}
    rows = rows_of(table(tmp_path, columns))
    assert [row.dialog_id for row in rows] == ["d-1", "dé", None, None]
    assert rows[0].update is not None
    assert rows[0].update.next_step == "go"
    for row in rows[2:]:
        assert "is binary, and not the text of an id" in str(row.error)
        fields = json.loads(dead_letter(row.line, row.source, FAILURE))
        assert "dialog_id" not in fields
        assert fields["_not_json"] == {"dialog_id": repr(ids[row.line - 1])}


@pytest.mark.skipif(not hasattr(arrow, "uuid"), reason="this pyarrow has no type for UUIDs")
def test_a_uuid_is_its_text(tmp_path: Path) -> None:
    number = uuid.UUID(int=5)
    ids = arrow.array([number.bytes], arrow.uuid())
    (row,) = rows_of(table(tmp_path, {"dialog_id": ids, "session.a": [1]}))
    assert row.dialog_id == str(number)


def test_columns_that_are_passed_over_are_not_read(tmp_path: Path) -> None:
    columns = {
        "_first": arrow.array([1700000000000000001, 2], arrow.timestamp("ns")),
        **column([1, 2]),
        "_until": arrow.array([253402300800000000, 1], arrow.timestamp("us")),
        "_text": broken_text(),
        "_struct": [{"x": 1}, None],
        "session.b": [3, 4],
    }
    rows = rows_of(table(tmp_path, columns))
    assert [session_of(row) for row in rows] == [{"a": 1, "b": 3}, {"a": 2, "b": 4}]


def test_the_index_of_a_data_frame_is_passed_over(tmp_path: Path) -> None:
    (row,) = rows_of(table(tmp_path, {**column([1]), "__index_level_0__": [7]}))
    assert session_of(row) == {"a": 1}


def test_a_variable_given_by_two_columns_is_a_fault(tmp_path: Path) -> None:
    columns = {**column([1, None]), "session": [{"a": 1, "b": 2}, {"a": None, "b": 2}]}
    first, second = rows_of(table(tmp_path, columns))
    assert "session.a: is given twice" in str(first.error)
    assert session_of(second) == {"b": 2}
    letter = dead_letter(1, first.source, FAILURE)
    (again,) = rows_of(written(tmp_path / "dead.jsonl", letter.rstrip()))
    assert again.update is None


@pytest.mark.parametrize("compression", ["none", "snappy", "gzip", "brotli", "lz4", "zstd"])
@pytest.mark.parametrize("version", ["1.0", "2.0"])
def test_large_texts_are_read_row_by_row(tmp_path: Path, compression: str, version: str) -> None:
    texts = ["x" * 100_000, "y"] * 300
    path = table(tmp_path, column(texts), compression=compression, data_page_version=version)
    rows = rows_of(path)
    assert [len(session_of(row)["a"]) for row in rows] == [100_000, 1] * 300


@pytest.mark.parametrize("encoding", ["PLAIN", "DELTA_BYTE_ARRAY", "DELTA_LENGTH_BYTE_ARRAY"])
def test_each_encoding_of_texts_is_read(tmp_path: Path, encoding: str) -> None:
    texts = [f"text {n}" * (1 + n % 7) for n in range(5000)]
    path = table(
        tmp_path,
        column(texts),
        use_dictionary=False,
        column_encoding={"dialog_id": "PLAIN", "session.a": encoding},
        row_group_size=2000,
    )
    assert [session_of(row)["a"] for row in rows_of(path)] == texts


def test_a_row_that_is_too_long_is_a_fault(tmp_path: Path) -> None:
    columns = column([1, 2, 3])
    columns |= {f"session.v{n}": ["y", "x" * 900_000, "z"] for n in range(4)}
    rows = rows_of(table(tmp_path, columns))
    assert [row.error is None for row in rows] == [True, False, True]
    assert "is longer than" in str(rows[1].error)


BOMBS = {
    "a page of long texts": ({"values": ["x" * 400_000] * 400}, {"use_dictionary": False}),
    "a long list": ({"values": [[0] * 10_000_000]}, {}),
    "a list of long texts": ({"values": [["x" * 1000] * 200_000]}, {}),
    "a list of texts": (
        {"values": [["x" * 1000] * 200_000]},
        {
            "use_dictionary": False,
            "column_encoding": {"dialog_id": "PLAIN", "session.a.list.element": "DELTA_BYTE_ARRAY"},
        },
    ),
    "a long text": (
        {"values": ["x" * 50_000_000] * 3},
        {"dictionary_pagesize_limit": 1 << 26},
    ),
}


@pytest.mark.parametrize("kind", BOMBS)
def test_a_row_group_that_takes_too_much_memory_is_refused(tmp_path: Path, kind: str) -> None:
    values, options = BOMBS[kind]
    path = table(tmp_path, column(values["values"]), compression="zstd", **options)
    assert path.stat().st_size < 100_000
    message = (
        rf"rows after row 0 may take [\d,]+ MiB to read in column session.a, "
        rf"and the limit is {MOST_MEMORY >> 20} MiB"
    )
    with pytest.raises(InputError, match=message):
        rows_of(path)


def test_a_footer_that_takes_too_much_memory_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "rows.parquet"
    content = arrow.table({"dialog_id": [f"d-{n}" for n in range(100)], "session.a": [1] * 100})
    parquet.write_table(content, path, row_group_size=1)
    assert len(rows_of(path)) == 100
    monkeypatch.setattr("cognigy_async.bulk.input.parquet.MOST_FOOTER", 4096)
    with pytest.raises(
        InputError, match=r"rows.parquet has a footer of [\d,]+ KiB, and the limit is 4 KiB"
    ):
        rows_of(path)
    parquet.write_table(content, path)
    assert len(rows_of(path)) == 100
    monkeypatch.setattr("cognigy_async.bulk.input.parquet.MOST_COLUMNS", 3)
    parquet.write_table(
        arrow.table({"dialog_id": ["d"], "session.a": [[[{"b": 1, "c": 2}]]]}), path
    )
    assert len(rows_of(path)) == 1
    parquet.write_table(
        arrow.table({"dialog_id": ["d"], "session.a": [{"b": 1, "c": 2, "d": 3}]}), path
    )
    with pytest.raises(InputError, match=r"rows.parquet has 4 columns, and the limit is 3; "):
        rows_of(path)


def test_a_long_text_in_each_row_is_read_in_few_rows(tmp_path: Path) -> None:
    path = table(tmp_path, column(["x" * 500_000] * 200), compression="zstd")
    assert path.stat().st_size < 10_000
    rows = rows_of(path)
    assert sum(row.update is not None for row in rows) == 200
