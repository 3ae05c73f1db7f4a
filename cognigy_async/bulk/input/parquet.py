"""Records of Parquet, in bounded memory. A cell that cannot be read is a fault of its row."""

from __future__ import annotations

import math
import struct
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, BinaryIO, TypeAlias

from cognigy_async import Fault

from ..errors import InputError
from . import row as row_limits
from .columns import Columns, Findings, Record
from .parquet_pages import (
    COLUMN_BUFFER,
    PER_OBJECT,
    ROOM,
    Struct,
    footer_size,
    reading_cost,
    row_groups_of,
)
from .parquet_parts import (
    TooLargeError,
    batches_of_parts,
    leaves_by_column,
    parts_of,
    prefixes,
)
from .row import PlacedFault, TableRow, TextRow, too_long
from .table_options import CONTEXTS, TEXTS, TableOptions

MOST_MEMORY = 80 << 20
"""Bytes that the pages and rows of a row group may take, as estimated."""

MOST_FOOTER = 4 << 20
"""Bytes of the footer, about 100 for each column of each row group. Reading it takes much more."""
MOST_COLUMNS = 5000
"""Columns of a file, those inside of structs and lists included. Each takes memory by itself."""

Convert: TypeAlias = Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class UnusableCell:
    """A cell without a value for an update: its fault, and its content as text."""

    problem: str
    remedy: str
    content: str

    def __repr__(self) -> str:
        return self.content


def validate_footer(file: BinaryIO, name: str) -> None:
    """Raise `InputError` if reading the footer of a file would take too much memory."""
    if (size := footer_size(file)) > MOST_FOOTER:
        raise InputError(
            f"{name} has a footer of {size >> 10:,} KiB, and the limit is "
            f"{MOST_FOOTER >> 10:,} KiB: it has too many columns or row groups. Write the file "
            "again with larger row groups, or with only the columns that an update needs"
        )


def parquet_records(
    file: BinaryIO, name: str, options: TableOptions, findings: Findings
) -> Iterator[list[Record]]:
    """Yield the records of a Parquet file. A null assigns nothing; a column may be a struct.

    Columns that begin with `_` are not read.

    Args:
        findings: Gets the columns.

    Raises:
        InputError: The file is not Parquet, its columns cannot be used, it needs too much memory,
            or pyarrow is missing.
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
        opened = parquet.ParquetFile(file, buffer_size=COLUMN_BUFFER, pre_buffer=False)
        if len(opened.schema) > MOST_COLUMNS:
            raise InputError(
                f"{name} has {len(opened.schema):,} columns, and the limit is {MOST_COLUMNS:,}; "
                "write the file again with only the columns that an update needs"
            )
        findings.columns = Columns(opened.schema_arrow.names, name, options)
        table = _Table(findings.columns, opened.schema_arrow)
        names = frozenset(table.names)
        columns = {
            number: column
            for number in range(len(opened.schema))
            if not names.isdisjoint(prefixes((column := opened.schema.column(number)).path))
        }
        for group, row_group in enumerate(row_groups_of(file)):
            for batch in _batches(opened, group, row_group, columns, table.names, file):
                for records in table.records(batch, line + 1):
                    line += len(records)
                    yield records
    except TooLargeError as error:
        raise InputError(
            f"{name}: the rows after row {line} {error}. Only the rows up to there were used. "
            "Write the file again with smaller row groups and pages, or with fewer columns."
        ) from error
    except (arrow.ArrowException, OSError, ValueError, OverflowError) as error:
        raise InputError(f"{name} cannot be read as Parquet after row {line}: {error}") from error


def _batches(
    opened: Any,
    group: int,
    row_group: Struct,
    columns: Mapping[int, Any],
    names: Sequence[str],
    file: BinaryIO,
) -> Iterator[Any]:
    """Return the batches of a row group.

    Args:
        opened: The file as a `pyarrow.parquet.ParquetFile`.
        columns: Columns of its schema that are read, by number.
        names: Names of the columns to read.
    """
    cost = reading_cost(file, row_group, columns)
    parts = [list(names)]
    if cost.memory > MOST_MEMORY:
        leaves = leaves_by_column({n: column.path for n, column in columns.items()}, names)
        if not leaves:
            needed, most = cost.memory >> 20, MOST_MEMORY >> 20
            raise TooLargeError(f"may take {needed:,} MiB to read, and the limit is {most} MiB")
        memory = {
            name: reading_cost(file, row_group, {n: columns[n] for n in numbers}).memory
            for name, numbers in leaves.items()
        }
        parts = parts_of(memory, MOST_MEMORY)

    def read(some: Sequence[str]) -> Iterator[Any]:
        batches: Iterator[Any] = opened.iter_batches(
            batch_size=max(1, cost.rows // len(parts)),
            row_groups=[group],
            columns=some,
            use_threads=False,
        )
        return batches

    return read(names) if len(parts) == 1 else batches_of_parts(parts, read)


class _Table:
    """Makes records of the batches of a Parquet file.

    Args:
        schema: The schema of the file as a `pyarrow.Schema`.

    Attributes:
        names: Names of the columns to read.
    """

    def __init__(self, columns: Columns, schema: Any) -> None:
        self.columns = columns
        fields = dict(zip(schema.names, columns.names, strict=True))
        self.names = [name for name, field in fields.items() if field[:1] != "_"]
        self._conversions = {
            name: _conversion(fields[name], schema.field(name).type) for name in self.names
        }
        self._order = schema.names

    def records(self, batch: Any, line: int) -> Iterator[list[Record]]:
        """Yield the records of a batch, whose first row has the number `line`."""
        step = batch.num_rows if _weight(batch.to_struct_array()) <= ROOM else 1
        for start in range(0, batch.num_rows, step):
            yield self._records(batch.slice(start, step), line + start)

    def _records(self, rows: Any, line: int) -> list[Record]:
        if rows.num_rows == 1 and _weight(rows.to_struct_array()) > row_limits.LONGEST_ROW:
            content = TextRow(b"a row that is too long to keep")
            return [(line, content, too_long())]
        cells = {
            name: _cells(column, self._conversions[name])
            for name, column in zip(rows.schema.names, rows.columns, strict=True)
        }
        passed_over = [None] * rows.num_rows
        values = zip(*(cells.get(name, passed_over) for name in self._order), strict=True)
        return [
            (number, ParquetRow(self.columns, row), None) for number, row in enumerate(values, line)
        ]


@dataclass(frozen=True, slots=True)
class ParquetRow(TableRow):
    """A row of Parquet."""

    table: Columns
    values: tuple[Any, ...]

    def read(self) -> tuple[dict[str, Any], Sequence[Fault]]:
        """Return the fields of the row, and its faults."""
        values = self.values
        fields, fault = self.table.fields(values)
        if fault is not None:
            text = repr(fields).encode(errors="backslashreplace")
            return TextRow(text).read()[0], (fault,)
        if UnusableCell not in map(type, values):
            return fields, ()
        return fields, [
            PlacedFault(self.table.names[number - 1], cell.problem, cell.remedy, number)
            for number, cell in enumerate(values, 1)
            if type(cell) is UnusableCell
        ]


def _weight(array: Any) -> int:
    """Return about how many bytes an array takes as objects of Python."""
    from pyarrow import types

    size: int = PER_OBJECT * len(array)
    kind = array.type
    if types.is_dictionary(kind):
        return _weight(array.dictionary_decode())
    if types.is_struct(kind):
        return size + sum(map(_weight, array.flatten()))
    if types.is_map(kind):
        first, end = array.offsets[0].as_py(), array.offsets[-1].as_py()
        entries = (part.slice(first, end - first) for part in (array.keys, array.items))
        return size + sum(map(_weight, entries))
    if types.is_nested(kind):
        return size + _weight(array.flatten())
    return size + int(array.nbytes)


def _cells(column: Any, convert: Convert | None) -> list[Any]:
    """Return the cells of a column, which are values of JSON where there is one."""
    try:
        cells: list[Any] = column.to_pylist()
    except Exception:
        # pyarrow raises many types of errors. Find the cells that it cannot read.
        cells = list(map(_cell, column))
    if convert is None:
        return cells
    return [cell if cell is None or type(cell) is UnusableCell else convert(cell) for cell in cells]


def _cell(scalar: Any) -> Any:
    try:
        return scalar.as_py()
    except UnicodeDecodeError:
        content = repr(bytes(scalar.as_buffer())) if hasattr(scalar, "as_buffer") else "no UTF-8"
        return UnusableCell("is not UTF-8", "write the column as UTF-8", content)
    except Exception:
        problem = f"is a {scalar.type} that Python cannot hold"
        return UnusableCell(problem, "write the column as text", _as_text(scalar))


def _as_text(scalar: Any) -> str:
    """Return the text that pyarrow has for a value, or else the name of its type."""
    with suppress(Exception):
        return str(scalar.cast("string").as_py())
    return str(scalar.type)


def _conversion(name: str, kind: Any) -> Convert | None:
    """Return the function that makes values of JSON of the cells of a column."""
    inner = _to_json(kind)
    if name in TEXTS:
        return _id_text
    if name not in CONTEXTS:
        return inner

    def without_nulls(cell: Any) -> Any:
        value = cell if inner is None else inner(cell)
        if not isinstance(value, dict):
            return value
        return {name: member for name, member in value.items() if member is not None}

    return without_nulls


def _to_json(kind: Any) -> Convert | None:
    """Return the function that makes values of JSON of values of an Arrow type.

    Return None if they are values of JSON already, or have no counterpart in it.
    """
    from pyarrow import types

    if types.is_float16(kind):
        return _float16
    if types.is_float32(kind):
        return _float32
    if types.is_decimal(kind):
        return _number
    if types.is_map(kind):
        return Map
    if types.is_dictionary(kind):
        return _to_json(kind.value_type)
    if types.is_struct(kind):
        members = {field.name: convert for field in kind if (convert := _to_json(field.type))}
        return _of_members(members) if members else None
    if types.is_nested(kind) and hasattr(kind, "value_type"):
        convert = _to_json(kind.value_type)
        return None if convert is None else _of_items(convert)
    return None


class Map:
    """Entries of a map, which is refused: its keys may be anything, and be there twice."""

    def __init__(self, entries: list[tuple[Any, Any]]) -> None:
        self._entries = entries

    def __repr__(self) -> str:
        return repr(self._entries)


def _of_members(conversions: dict[str, Convert]) -> Convert:
    def convert(members: dict[str, Any]) -> dict[str, Any]:
        return {
            name: value if value is None or name not in conversions else conversions[name](value)
            for name, value in members.items()
        }

    return convert


def _of_items(convert_item: Convert) -> Convert:
    def convert(items: list[Any]) -> list[Any]:
        return [None if item is None else convert_item(item) for item in items]

    return convert


def _float16(number: Any) -> float:
    return _shortest(float(number), "e")


def _float32(number: float) -> float:
    return _shortest(number, "f")


def _shortest(number: float, code: str) -> float:
    """Return the number with the fewest digits that is the same number in a shorter format.

    Args:
        code: The format, as in the module struct.
    """
    if not math.isfinite(number):
        return number
    packed = struct.pack(code, number)
    for digits in range(1, 9):
        short = float(f"{number:.{digits}g}")
        with suppress(OverflowError):
            if struct.pack(code, short) == packed:
                return short
    return float(f"{number:.9g}")


def _number(number: Decimal) -> Any:
    """Return a decimal as an integer or a float, or as it is if a float has fewer digits."""
    if number.as_tuple().exponent == 0:
        return int(number)
    value = float(number)
    return value if Decimal(repr(value)) == number else number


def _id_text(cell: Any) -> Any:
    """Return an id as text. Old writers do not mark text as such."""
    if isinstance(cell, uuid.UUID):
        return str(cell)
    if not isinstance(cell, bytes):
        return cell
    text = cell.decode(errors="replace")
    if text.isprintable() and text.encode() == cell:
        return text
    return UnusableCell(
        "is binary, and not the text of an id", "write the column as text", repr(cell)
    )
