"""Records of CSV and Parquet, with the fields that a line of JSON would have.

A column is named `dialog_id`, `next_step`, `update_id`, `if_match`, or like a variable:
`session.cart_total`. A column that begins with `_` is ignored.
"""

from __future__ import annotations

import csv
from collections.abc import Collection, Iterator, Sequence
from typing import Any, BinaryIO, TypeAlias

from pydantic_core import from_json

from cognigy_async import Fault

from ..errors import InputError
from .row import PlacedFault, Source

LineBlocks: TypeAlias = Iterator[tuple[int, list[bytes]]]
"""Blocks of whole lines without newlines, and the number of each block's first line."""

Record: TypeAlias = tuple[int, Source, Fault | None]
"""Line number, content, and a fault that the reader has already found."""

TEXTS = frozenset({"dialog_id", "if_match", "next_step", "profile_id", "update_id", "user_id"})
CONTEXTS = ("session", "user")
BATCH = 1024
"""Most records to yield together."""
PARQUET_BUFFER = 1 << 16
"""Bytes to buffer for each column."""
LONGEST_CELL = 1 << 20
"""Characters, more than a variable may have: the limits of updates refuse a longer one."""


class _Columns:
    """The header of a table.

    Raises:
        InputError: Some columns are unknown, doubled or missing; all of them are named.
    """

    def __init__(self, names: Sequence[str], name: str, texts: Collection[str]) -> None:
        self.names = tuple(text.strip() for text in names)
        faults = [
            f"column {number}, {text!r}, is not a field of an update"
            for number, text in enumerate(self.names, 1)
            if text not in TEXTS
            and text not in CONTEXTS
            and not text.startswith(("_", "session.", "user."))
        ]
        faults += [f"there is no column {text!r}" for text in texts if text not in self.names]
        faults += [
            f"column {text!r} is there twice"
            for text in sorted(set(self.names))
            if self.names.count(text) > 1
        ]
        if "dialog_id" not in self.names:
            faults.append("there is no column 'dialog_id'")
        if faults:
            raise InputError(
                f"{name}: {'; '.join(faults)}. Columns are dialog_id, next_step, update_id, and "
                "variables like session.cart_total; those that begin with _ are ignored. They are "
                "separated by commas."
            )

    def fields(self, cells: Sequence[Any]) -> dict[str, Any]:
        """Return the fields of one row without those that are None."""
        fields: dict[str, Any] = {"_columns": self.names}
        for name, value in zip(self.names, cells, strict=True):
            if value is None:
                continue
            context, dot, variable = name.partition(".")
            if dot and context in CONTEXTS:
                fields.setdefault(context, {})[variable] = value
            elif name in CONTEXTS and isinstance(value, dict):
                given = {key: inner for key, inner in value.items() if inner is not None}
                fields[name] = {**fields.get(name, {}), **given}
            else:
                fields[name] = value
        return fields


def csv_records(blocks: LineBlocks, name: str, texts: Collection[str]) -> Iterator[list[Record]]:
    """Yield the records of a CSV file with a header line (RFC 4180, commas, UTF-8).

    Parse each cell as JSON. A cell that is not JSON is text, and so is any cell of `texts` columns.
    An empty cell assigns nothing.

    Raises:
        InputError: The header cannot be used.
    """
    # This limit applies to the whole process, so never lower it.
    csv.field_size_limit(max(csv.field_size_limit(), LONGEST_CELL))
    lines = _Lines(blocks)
    rows = _parsed(lines)
    header = next(rows, None)
    if header is None:
        return
    line, names, parsing_fault = header
    fault = parsing_fault or _fault_of_cells(names, names)
    if fault is not None:
        raise InputError(f"{name}: the header, line {line}, {fault.problem}; {fault.remedy}")
    columns = _Columns(names, name, texts)
    is_json = [text not in TEXTS and text not in texts for text in columns.names]
    records: list[Record] = []
    for line, cells, parsing_fault in rows:
        fault = parsing_fault or _fault_of_cells(cells, columns.names)
        if fault is None:
            records.append((line, columns.fields(list(map(_value, cells, is_json))), None))
        else:
            records.append((line, b"\n".join(lines.taken), fault))
        if len(records) >= BATCH or lines.at_end_of_block:
            yield records
            records = []
    yield records


def _parsed(lines: _Lines) -> Iterator[tuple[int, list[str], Fault | None]]:
    """Yield the first line, the cells and the fault of each row that is not empty."""
    reader = csv.reader(lines, strict=True)
    while True:
        lines.taken.clear()
        fault: Fault | None = None
        cells: list[str] = []
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            # An unclosed quote consumes the lines that follow.
            reach = f" up to line {lines.line - 1}" if len(lines.taken) > 1 else ""
            problem = f"is not CSV{reach}: {error}"
            fault = Fault("row", problem, "quote the cells as RFC 4180 says")
        if cells or fault is not None:
            yield lines.line - len(lines.taken), cells, fault


class _Lines:
    """The lines given to the CSV parser; remembers those of the current row."""

    def __init__(self, blocks: LineBlocks) -> None:
        self._blocks = blocks
        self._block: Iterator[bytes] = iter(())
        self._left = 0
        self.line = 1
        """Number of the next line."""
        self.taken: list[bytes] = []

    @property
    def at_end_of_block(self) -> bool:
        return self._left == 0

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        while not self._left:
            _, lines = next(self._blocks)
            self._block, self._left = iter(lines), len(lines)
        self._left -= 1
        line = next(self._block)
        self.line += 1
        self.taken.append(line)
        return line.decode(errors="surrogateescape") + "\n"


def _fault_of_cells(cells: list[str], names: Sequence[str]) -> Fault | None:
    if len(cells) != len(names):
        problem = f"has {len(cells)} cells, and the header has {len(names)}"
        return Fault("row", problem, "quote cells that hold commas or newlines")
    for number, (name, cell) in enumerate(zip(names, cells, strict=True), 1):
        if not cell.isascii():
            try:
                cell.encode()
            except UnicodeEncodeError:
                return PlacedFault(name, "is not UTF-8", "save the file as UTF-8", number)
    return None


def _value(cell: str, is_json: bool) -> Any:
    if not cell:
        return None
    if not is_json:
        return cell
    try:
        return from_json(cell, allow_inf_nan=False)
    except ValueError:
        return cell


def parquet_records(file: BinaryIO, name: str) -> Iterator[list[Record]]:
    """Yield the records of a Parquet file. A null assigns nothing; a column may be a struct.

    Raises:
        InputError: The file is not Parquet, its columns cannot be used, or pyarrow is missing.
    """
    try:
        import pyarrow as arrow
        from pyarrow import parquet
    except ImportError as error:
        raise InputError(
            f"{name} is Parquet, which needs an extra: pip install 'cognigy-async[parquet]'"
        ) from error
    line = 0
    try:
        # Read columns in pieces, because one row group may hold the whole file.
        opened = parquet.ParquetFile(file, buffer_size=PARQUET_BUFFER, pre_buffer=False)
        columns = _Columns(opened.schema_arrow.names, name, ())
        for batch in opened.iter_batches(batch_size=BATCH, use_threads=False):
            cells = [column.to_pylist() for column in batch.columns]
            rows: list[Record] = []
            for values in zip(*cells, strict=True):
                line += 1
                rows.append((line, columns.fields(values), None))
            yield rows
    except (arrow.ArrowException, OSError) as error:
        raise InputError(f"{name} cannot be read as Parquet after row {line}: {error}") from error
