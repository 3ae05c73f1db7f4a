"""Memory of a job is bounded, whatever its input expands to."""

from __future__ import annotations

import bz2
import functools
import gzip
import json
import lzma
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.unit.bulk._sheets import MAIN, raw_workbook, sheet_of, text_cell

from .commands import ROOT, command_environment

pytestmark = [
    pytest.mark.real_time,
    pytest.mark.skipif(sys.platform != "linux", reason="the peak of memory is read from /proc"),
]

MORE = 150_000_000
"""Bytes that a job may take above a job of one row in the same format."""

ROW = b'{"dialog_id": "d-1", "session": {"a": 1}}\n'
HEADER = b"dialog_id,session.a\n"
MIB = 1 << 20


def result_of(path: Path) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.integration.input_reader", str(path)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=command_environment(),
        timeout=55,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def zstd(content: bytes) -> bytes:
    zstandard = pytest.importorskip("zstandard")
    packed: bytes = zstandard.compress(content)
    return packed


COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "bz2": bz2.compress,
    "gz": gzip.compress,
    "xz": functools.partial(lzma.compress, preset=1),
    "zst": zstd,
}


def long_row(kind: str) -> bytes:
    """Return a few bytes of members that expand to a row, one of 300 MB, and a row."""
    compress = COMPRESS[kind]
    inside = compress(b"x" * 10 * MIB) * 30
    begin, end = b'{"dialog_id": "d-2", "session": {"a": "', b'"}}\n'
    return compress(ROW + begin) + inside + compress(end + ROW)


def large_window() -> bytes:
    zstandard = pytest.importorskip("zstandard")
    parameters = zstandard.ZstdCompressionParameters(window_log=30, enable_ldm=True)
    frame = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    content: bytes = frame.compress(ROW)
    for _ in range(30):
        content += frame.compress(ROW * 250_000)
    return content + bytes(frame.flush())


def rows(number: int, inside: bytes, begin: bytes = b"", end: bytes = b"") -> bytes:
    return b"".join(
        b'{"dialog_id": "d-%d", "session": {' % n + inside + b"}}\n" for n in range(number)
    )


def columns(number: int, *cells: bytes) -> bytes:
    header = b"dialog_id" + b"".join(b",session.v%d" % n for n in range(number)) + b"\n"
    return header + b"".join(b"d-1" + (b"," + cell) * number + b"\n" for cell in cells)


TEXTS: dict[str, tuple[str, Callable[[], bytes], tuple[int, int, int]]] = {
    "a long row of JSON, bzip2": ("jsonl", lambda: long_row("bz2"), (3, 2, 1)),
    "a long row of JSON, gzip": ("jsonl", lambda: long_row("gz"), (3, 2, 1)),
    "a long row of JSON, xz": ("jsonl", lambda: long_row("xz"), (3, 2, 1)),
    "a long row of JSON, zstd": ("jsonl", lambda: long_row("zst"), (3, 2, 1)),
    "empty lines": ("jsonl", lambda: zstd(ROW) + zstd(b"\n" * 24 * MIB) + zstd(ROW), (2, 2, 0)),
    "a large window": ("jsonl", large_window, (0, 0, 0)),
    "large rows": (
        "jsonl",
        lambda: zstd(rows(300, b'"a": "' + b"x" * 400_000 + b'"')),
        (300, 300, 0),
    ),
    "large rows with a fault": (
        "jsonl",
        lambda: zstd(rows(60, b'"a-b": "' + b"x" * 2_000_000 + b'"')),
        (60, 0, 60),
    ),
    "rows of empty lists": (
        "jsonl",
        lambda: zstd(rows(3, b'"a": [' + b"[]," * 820_000 + b"[]]")),
        (3, 0, 3),
    ),
    "a row of 400 long cells": ("csv", lambda: zstd(columns(400, b"x" * MIB, b"1")), (2, 1, 1)),
    "a row of 400 quoted cells": (
        "csv",
        lambda: zstd(columns(400, b'"' + (b"x" * 999 + b"\n") * 1000 + b'"', b"1")),
        (2, 1, 1),
    ),
    "cells of empty lists": (
        "csv",
        lambda: zstd(HEADER + (b'd-1,"[' + b"[]," * 820_000 + b'[]]"\n') * 3),
        (3, 0, 3),
    ),
    "a row of commas": ("csv", lambda: zstd(HEADER + b"," * 2_500_000 + b"1\nd-1,1\n"), (2, 1, 1)),
    "a quote that is not closed": (
        "csv",
        lambda: zstd(HEADER + b'd-1,"x\n' + b"d-2,2\n" * 3_000_000),
        (1, 0, 1),
    ),
}


@functools.cache
def peak_of_one_row(kind: str, folder: Path) -> int:
    path = folder / f"one.{kind}"
    if kind == "parquet":
        arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        parquet.write_table(arrow.table({"dialog_id": ["d-1"], "session.a": [1]}), path)
    elif kind == "xlsx":
        raw_workbook(path, sheet_of(f"<row>{text_cell('d-1')}<c><v>1</v></c></row>"))
    else:
        path.write_bytes(zstd(ROW if kind == "jsonl" else HEADER + b"d-1,1\n"))
    found = result_of(path)
    assert found["succeeded"] == 1
    peak: int = found["peak"]
    return peak


@pytest.mark.quick("*, zstd", "a large window", "a quote *")
@pytest.mark.parametrize("name", TEXTS)
def test_what_a_text_expands_to_is_bounded(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, name: str
) -> None:
    kind, content, counts = TEXTS[name]
    path = tmp_path / f"rows.{kind}.zst"
    path.write_bytes(content())
    assert path.stat().st_size < 100_000 or "gzip" in name
    found = result_of(path)
    assert (found["inputs"], found["succeeded"], found["failed"]) == counts
    assert (found["reason"] is None) == (counts != (0, 0, 0))
    assert found["peak"] < peak_of_one_row(kind, tmp_path_factory.getbasetemp()) + MORE


TABLES: dict[str, tuple[Callable[[], list[Any]], dict[str, Any], tuple[int, int]]] = {
    "a long text of a dictionary": (lambda: ["x" * MIB] * 250, {}, (250, 0)),
    "a text of a dictionary": (lambda: ["x" * 400_000] * 250, {}, (250, 250)),
    "a page of long texts": (lambda: ["x" * MIB] * 250, {"use_dictionary": False}, (0, 0)),
    "texts with the same beginning": (
        lambda: ["x" * MIB] * 250,
        {
            "use_dictionary": False,
            "column_encoding": {"dialog_id": "PLAIN", "session.a": "DELTA_BYTE_ARRAY"},
        },
        (250, 0),
    ),
    "binary": (lambda: [b"x" * MIB] * 250, {}, (250, 0)),
    "a list of zeros": (lambda: [[0] * 30_000_000], {}, (0, 0)),
    "a shorter list of zeros": (lambda: [[0] * 4_000_000], {}, (1, 0)),
    "a list of long texts": (lambda: [["x" * 1000] * 1_000_000], {}, (0, 0)),
    "a struct": (lambda: [{"x": "y" * MIB}] * 250, {}, (250, 0)),
    "lists of lists": (lambda: [[[]] * 1_500_000] * 2, {}, (2, 0)),
}


@pytest.mark.quick("a text *", "a shorter *")
@pytest.mark.parametrize("name", TABLES)
def test_what_a_table_expands_to_is_bounded(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, name: str
) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    values, options, (inputs, succeeded) = TABLES[name]
    made = values()
    path = tmp_path / "rows.parquet"
    table = arrow.table({"dialog_id": [f"d-{n}" for n in range(len(made))], "session.a": made})
    parquet.write_table(table, path, compression="zstd", **options)
    assert path.stat().st_size < 100_000
    found = result_of(path)
    assert (found["inputs"], found["succeeded"]) == (inputs, succeeded)
    assert (found["reason"] is None) == bool(inputs)
    assert found["peak"] < peak_of_one_row("parquet", tmp_path_factory.getbasetemp()) + MORE


LONG = "x" * 32_000
NUMBERS = "<row><c><v>1</v></c></row>"
BOMBS = {
    "a far cell": (sheet_of('<row r="1048576"><c r="XFD1048576"><v>1</v></c></row>'), ()),
    "many cells": (sheet_of(*[NUMBERS] * 1_200_000), ()),
    "a text that many cells share": (
        sheet_of(*['<row><c t="s"><v>0</v></c></row>'] * 40_000),
        (LONG,),
    ),
    "many shared texts": (sheet_of(), (LONG,) * 10_000),
    "a long text": (sheet_of(f"<row>{text_cell('x' * 300_000_000)}</row>"), ()),
}


@pytest.mark.quick("a far cell", "a text *")
@pytest.mark.parametrize("name", BOMBS)
def test_what_a_workbook_expands_to_is_bounded(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, name: str
) -> None:
    sheet, texts = BOMBS[name]
    items = "".join(f"<si><t>{text}</t></si>" for text in texts)
    parts = {"xl/sharedStrings.xml": f'<sst xmlns="{MAIN}">{items}</sst>'.encode()}
    path = raw_workbook(tmp_path / "rows.xlsx", sheet, parts)
    assert path.stat().st_size < 5_000_000
    found = result_of(path)
    assert (found["inputs"], "MiB" in found["reason"]) == (0, True)
    assert found["peak"] < peak_of_one_row("xlsx", tmp_path_factory.getbasetemp()) + MORE


@pytest.mark.quick("1000")
@pytest.mark.parametrize("number", [1_000, 6_000])
def test_a_large_workbook_is_read(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, number: int
) -> None:
    """6,000 rows are just below the limit."""
    row = f"<row>{text_cell('d-1')}" + text_cell("x" * 100) * 60 + "</row>"
    names = "".join(text_cell(f"session.v{n}") for n in range(60))
    sheet = sheet_of(*[row] * number).replace(text_cell("session.a").encode(), names.encode(), 1)
    path = raw_workbook(tmp_path / "rows.xlsx", sheet)
    found = result_of(path)
    assert (found["inputs"], found["succeeded"], found["reason"]) == (number, number, None)
    assert found["peak"] < peak_of_one_row("xlsx", tmp_path_factory.getbasetemp()) + MORE


def test_columns_of_long_texts_are_bounded(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "rows.parquet"
    columns = {f"session.v{n}": ["x" * MIB] * 5 for n in range(18)}
    parquet.write_table(arrow.table({"dialog_id": ["d-1"] * 5, **columns}), path)
    found = result_of(path)
    assert (found["inputs"], found["failed"]) == (5, 5)
    assert found["peak"] < peak_of_one_row("parquet", tmp_path_factory.getbasetemp()) + MORE


@pytest.mark.quick("5000")
@pytest.mark.parametrize("number", [5_000, 30_000])
def test_a_table_of_many_columns_of_texts_is_read(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, number: int
) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "rows.parquet"
    texts = arrow.array([f"{n:040}" for n in range(number)])
    columns = {f"session.v{n}": texts for n in range(50)}
    ids = [f"d-{n}" for n in range(len(texts))]
    parquet.write_table(arrow.table({"dialog_id": ids, **columns}), path)
    found = result_of(path)
    assert (found["inputs"], found["succeeded"], found["reason"]) == (number, number, None)
    assert found["peak"] < peak_of_one_row("parquet", tmp_path_factory.getbasetemp()) + MORE
