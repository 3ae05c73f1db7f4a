"""Rows of CSV and Parquet, as the fields that a line of JSON would have.

A column is `dialog_id`, `next_step`, `update_id`, `if_match`, a variable like
`session.cart_total`, or begins with `_` and is passed over.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, BinaryIO

from pydantic_core import from_json

from cognigy_async import Fault

from .errors import InputError
from .rows import PlacedFault, Source

Record = tuple[int, Source, Fault | None]
"""Line, what was read, and what is wrong with it already."""

TEXTS = frozenset({"dialog_id", "if_match", "next_step", "profile_id", "update_id", "user_id"})
CONTEXTS = ("session", "user")
BATCH = 1024
PIECE = 1 << 16
"""Bytes of a column of Parquet."""
LONGEST_CELL = 1 << 20
"""Characters. More than one variable may take is told by the limits, not by the reader."""


class _Columns:
    """What the columns of a table mean.

    Raises:
        InputError: with every column that means nothing.
    """

    def __init__(self, names: Sequence[str], name: str, texts: Collection[str]) -> None:
        self.names = tuple(text.strip() for text in names)
        faults = [
            f"column {number}, {text!r}, is no part of an update"
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
                "variables like session.cart_total; those that begin with _ are passed over. They "
                "are separated by commas."
            )

    def fields(self, cells: Sequence[Any]) -> dict[str, Any]:
        """The fields of one row; what is None is left out."""
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


def csv_records(
    blocks: Iterator[tuple[int, list[bytes]]], name: str, texts: Collection[str]
) -> Iterator[list[Record]]:
    """The rows of a CSV file with a header line (RFC 4180, commas, UTF-8).

    A cell is JSON where it parses as JSON, else text; those of a column in `texts` are always text.
    An empty cell assigns nothing.

    Raises:
        InputError: the header makes no sense.
    """
    # It holds for the whole process, so it is never made smaller.
    csv.field_size_limit(max(csv.field_size_limit(), LONGEST_CELL))
    lines = _Lines(blocks)
    reader = csv.reader(lines, strict=True)
    columns: _Columns | None = None
    typed: tuple[bool, ...] = ()
    rows: list[Record] = []
    while True:
        lines.taken.clear()
        fault: Fault | None = None
        cells: list[str] = []
        try:
            cells = next(reader)
        except StopIteration:
            break
        except csv.Error as error:
            # A quote that is not closed takes the lines that follow with it.
            reach = f" up to line {lines.line - 1}" if len(lines.taken) > 1 else ""
            problem = f"is not CSV{reach}: {error}"
            fault = Fault("row", problem, "quote the cells as RFC 4180 says")
        began = lines.line - len(lines.taken)
        if not cells and fault is None:
            continue
        if columns is None:
            fault = fault or _fault_of_cells(cells, cells)
            if fault is not None:
                raise InputError(
                    f"{name}: the header, line {began}, {fault.problem}; {fault.remedy}"
                )
            columns = _Columns(cells, name, texts)
            typed = tuple(text not in TEXTS and text not in texts for text in columns.names)
            continue
        raw = b"\n".join(lines.taken)
        if fault is None:
            fault = _fault_of_cells(cells, columns.names)
        if fault is not None:
            rows.append((began, raw, fault))
        else:
            rows.append((began, columns.fields(list(map(_typed, cells, typed))), None))
        if len(rows) >= BATCH or lines.at_end_of_block:
            yield rows
            rows = []
    yield rows


class _Lines:
    """Feeds lines to the reader of CSV, and remembers those of the row at hand."""

    def __init__(self, blocks: Iterator[tuple[int, list[bytes]]]) -> None:
        self._blocks = blocks
        self._block: Iterator[bytes] = iter(())
        self._left = 0
        self.line = 1
        """The number of the next line."""
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


def _typed(cell: str, typed: bool) -> Any:
    if not cell:
        return None
    if not typed:
        return cell
    try:
        return from_json(cell, allow_inf_nan=False)
    except ValueError:
        return cell


def parquet_records(
    file: BinaryIO, name: str, note: Callable[[str], None]
) -> Iterator[list[Record]]:
    """The rows of a Parquet file; a null assigns nothing. A column may also be a struct.

    Raises:
        InputError: it is no Parquet file, its columns make no sense, or pyarrow is not installed.
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
        # A group of rows may be the whole file: its columns are read in pieces.
        opened = parquet.ParquetFile(file, buffer_size=PIECE, pre_buffer=False)
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
