"""Columns of a table, and the records of CSV.

A column is named `dialog_id`, `next_step`, `update_id`, `if_match`, or like a variable:
`session.cart_total`. A column that begins with `_` is passed over.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, TypeAlias

from pydantic_core import from_json

from cognigy_async import Fault

from ..errors import InputError
from . import row as row_limits
from .json_values import extended_json, member_given_twice, parse_json
from .row import (
    CONTEXTS,
    PlacedFault,
    Source,
    TableRow,
    TextRow,
    extended,
    given_twice,
    too_long,
)

Record: TypeAlias = tuple[int, Source, Fault | None]
"""Line number, content, and a fault that the reader has already found."""


@dataclass(frozen=True, slots=True)
class LineBlock:
    """Consecutive lines without newlines.

    Attributes:
        first: Number of the first line, from 1.
        lines: The lines.
        quotes: For the beginning of one line that is too long, the number of all quotes in it.
    """

    first: int
    lines: list[bytes]
    quotes: int | None = None


KEPT = 1000
"""Bytes kept of a line or a row that is too long."""
TEXTS = frozenset({"dialog_id", "if_match", "next_step", "profile_id", "update_id", "user_id"})
BATCH = 1024
"""Most records to yield together."""
MOST_COLUMNS = 1 << 14
"""As many as a sheet of Excel may have."""
FAULTS_SHOWN = 10
ZERO_WIDTH = "\u200b\u200c\u200d\u2060\ufeff"

NO_VALUE = frozenset(
    (
        # As pandas reads them.
        *("#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN"),
        *("<NA>", "N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null"),
        # Of databases, data frames and spreadsheets.
        *("Null", "(null)", "\\N", "NaT", "undefined", "[object Object]"),
        *("Infinity", "-Infinity", "infinity", "-infinity", "Inf", "-Inf", "inf", "-inf"),
    )
)
"""Texts that programs write where a cell has no value."""

ERROR_VALUE = re.compile(
    # The first line has those of Excel in many languages, such as #REF!, #¡VALOR! and #NOM?
    r"#[¡¿]?[^\Wa-z\d_]+(/0)?[!?]|#(NV|N/D|N/DISP|GETTING_DATA)"
    r"|#{2,}|Err:\d{3}|System\.\w+\[\]"
).fullmatch
"""Texts in place of a value of a spreadsheet, of a column that is too narrow, and of PowerShell."""

FORMULA = re.compile(r'=".*"', re.DOTALL).fullmatch
"""A text as a formula, such as ="0123": programs write it so that a spreadsheet keeps the text."""

ROUNDED = re.compile(r"\d([.,]\d+)?[Ee]\+\d\d+|\d+[.,]0+").fullmatch
"""An id that a program took for a number, such as 4.91512E+12, by which many ids become the same,
or 17.0."""

CAPITALS = frozenset({"TRUE", "FALSE", "True", "False"})
"""Booleans as Excel and pandas write them, which are texts."""

SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "bars"}


class Columns:
    """The columns of a table.

    Args:
        name: Name of the input, for messages.
        texts: Columns that have to exist.

    Raises:
        InputError: Some columns are unknown, doubled or missing; they are named.
    """

    def __init__(self, names: Sequence[str], name: str, texts: Collection[str]) -> None:
        self.names = tuple(map(stripped, names))
        if (other := _other_separator(self.names)) is not None:
            raise InputError(f"{name}: {other}")
        faults = [
            f"column {number}, {text!r}, is not a field of an update"
            if text
            else f"column {number} has no name"
            for number, text in enumerate(self.names, 1)
            if not _is_column(text)
        ]
        faults += [f"there is no column {text!r}" for text in texts if text not in self.names]
        faults += [
            f"column {text!r} is there twice"
            for text, number in Counter(self.names).items()
            if number > 1 and text[:1] not in ("", "_")
        ]
        if len(faults) > FAULTS_SHOWN:
            faults[FAULTS_SHOWN:] = [f"{len(faults) - FAULTS_SHOWN} more columns have faults"]
        if "dialog_id" not in self.names:
            faults.append("there is no column 'dialog_id'")
        if len(self.names) > MOST_COLUMNS:
            faults = [f"there are {len(self.names):,} columns, more than {MOST_COLUMNS:,}"]
        if faults:
            raise InputError(
                f"{name}: {'; '.join(faults)}. Columns are dialog_id, next_step, update_id, and "
                "variables like session.cart_total; those that begin with _ are passed over. They "
                "are separated by commas."
            )
        self._places = [_place(text) for text in self.names]

    def fields(self, values: Sequence[Any]) -> tuple[dict[str, Any], Fault | None]:
        """Return the fields of a row from its values that are not None, and its fault."""
        fields: dict[str, Any] = {}
        fault: Fault | None = None
        for (name, variable), value in zip(self._places, values, strict=True):
            if value is None:
                continue
            if variable is None and not (name in CONTEXTS and isinstance(value, dict)):
                fields[name] = value
                continue
            context = fields.setdefault(name, {})
            if not isinstance(context, dict):
                # The row is refused for this value of the column `session` or `user`.
                continue
            given = value if variable is None else {variable: value}
            if context and (twice := context.keys() & given.keys()):
                fault = given_twice(f"{name}.{min(twice)}")
            context.update(given)
        return fields, fault


def _other_separator(names: tuple[str, ...]) -> str | None:
    """Describe a header whose columns are not separated by commas, as far as it shows."""
    if names[0].startswith("sep="):
        return "its first line, sep=, is a hint for Excel; remove this line"
    for separator, plural in SEPARATORS.items():
        if len(names) == 1 and "dialog_id" in map(stripped, names[0].split(separator)):
            return f"its columns are separated by {plural}; separate them by commas"
    return None


def _is_column(name: str) -> bool:
    return name in TEXTS or name in CONTEXTS or name.startswith(("_", "session.", "user."))


def _place(name: str) -> tuple[str, str | None]:
    """Return a field, or a context and its variable."""
    context, dot, variable = name.partition(".")
    return (context, variable) if dot and context in CONTEXTS else (name, None)


def stripped(name: str) -> str:
    """Return a name without white space and zero-width characters around it."""
    return name.strip().strip(ZERO_WIDTH).strip()


def csv_records(
    blocks: Iterator[LineBlock], name: str, texts: Collection[str], note: Callable[[str], None]
) -> Iterator[list[Record]]:
    """Yield the records of a CSV file with a header line (RFC 4180, commas, UTF-8).

    Parse each cell as JSON. A cell that is not JSON is text, and so is any cell of `texts` columns.
    An empty cell assigns nothing. Rows of empty cells are passed over.

    Args:
        note: Takes remarks for the user.

    Raises:
        InputError: The header cannot be used, or another header follows.
    """
    # This limit applies to the whole process, so never lower it.
    csv.field_size_limit(max(csv.field_size_limit(), row_limits.LONGEST_ROW))
    lines = _Lines(blocks)
    rows = _parsed(lines)
    header = next(rows, None)
    if header is None:
        return
    line, names, fault = header
    for number, text in enumerate(names, 1):
        fault = fault or _fault_of_encoding("header", text, number)
    if fault is not None:
        raise InputError(f"{name}: the header, line {line}, {fault.problem}; {fault.remedy}")
    width = len(names)
    while len(names) > 1 and not stripped(names[-1]):
        # Excel keeps columns at the end that were cleared.
        names.pop()
    columns = Columns(names, name, texts)
    parser = CellParser(columns, texts, note)
    records: list[Record] = []
    try:
        for line, cells, parsing_fault in rows:
            fault = parsing_fault
            if fault is None and b"dialog_id" in lines.taken[0]:
                fault = _fault_of_second_header(columns.names, cells, f"{name}: line {line}")
            if fault is None and not "".join(cells).strip("- "):
                fault = Fault("row", "is a line of dashes", "remove it")
            if fault is None and len(cells) != width:
                problem = f"has {len(cells)} cells, and the header has {width}"
                fault = Fault("row", problem, "quote cells that hold commas or newlines")
            if fault is None and any(map(str.strip, cells[len(names) :])):
                problem = "has a cell in a column without a name"
                fault = Fault("row", problem, "name the column, or empty the cell")
            del cells[len(names) :]
            taken = b"\n".join(lines.taken)
            if fault is None:
                records.append((line, CsvRow(parser, cells, taken), None))
            else:
                records.append((line, TextRow(taken), fault))
            if len(records) >= BATCH or lines.at_end_of_block:
                yield records
                records = []
    except InputError:
        # Use the rows before the place where reading failed.
        yield records
        raise
    yield records


def _fault_of_second_header(names: tuple[str, ...], cells: list[str], where: str) -> Fault | None:
    """Return the fault of a row that repeats the header, as in files that were joined.

    Raises:
        InputError: The row is a header of other columns.
    """
    texts = tuple(map(stripped, cells))
    moved = [text for text, name in zip_longest(texts, names) if text and text != name]
    if moved and "dialog_id" in texts and all(_is_column(text) for text in texts if text):
        raise InputError(
            f"{where} is a header of other columns, and the rows after it cannot be used. The rows "
            "before it have been used. Give each table as a file of its own."
        )
    at = names.index("dialog_id")
    if texts[at : at + 1] != ("dialog_id",):
        return None
    return Fault("row", "repeats the header", "remove it")


class _RowTooLongError(csv.Error):
    """A row that takes more memory than a row may take."""


def _parsed(lines: _Lines) -> Iterator[tuple[int, list[str], Fault | None]]:
    """Yield the first line, the cells and the fault of each row that has content."""
    reader = csv.reader(lines, strict=True)
    while True:
        lines.begin_row()
        fault: Fault | None = None
        cells: list[str] = []
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            # An unclosed quote consumes the lines that follow.
            last = lines.line - 1
            reach = f" up to line {last}" if last > lines.first else ""
            if isinstance(error, _RowTooLongError):
                fault = too_long(reach)
            elif any(b"\r" in line[:-1] for line in lines.taken):
                problem = f"has a carriage return{reach} without a newline"
                fault = Fault("row", problem, "end each line with a newline, or quote the cell")
            else:
                problem = f"is not CSV{reach}: {error}"
                fault = Fault("row", problem, "quote the cells as RFC 4180 says")
        if fault is not None or "".join(cells).strip():
            yield lines.first, cells, fault


class _Lines:
    """The lines given to the CSV parser; remembers those of the current row."""

    def __init__(self, blocks: Iterator[LineBlock]) -> None:
        self._blocks = blocks
        self._block = LineBlock(1, [])
        self._left = 0
        self._size = 0
        self.line = 1
        """Number of the next line."""
        self.first = 1
        """Number of the first line of the current row."""
        self.taken: list[bytes] = []

    @property
    def at_end_of_block(self) -> bool:
        return self._left == 0

    def begin_row(self) -> None:
        """Forget the lines of the last row."""
        self.taken.clear()
        self.first = self.line
        self._size = 0

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line, quotes = self._next()
        self._size += len(line) + 1
        if quotes is not None or self._size > row_limits.LONGEST_ROW:
            self._skip_row(line.count(b'"') if quotes is None else quotes)
            raise _RowTooLongError
        self.taken.append(line)
        return line.decode(errors="surrogateescape") + "\n"

    def _next(self) -> tuple[bytes, int | None]:
        """Return a line and, if it is the beginning of one that is too long, its quotes."""
        while not self._left:
            self._block = next(self._blocks)
            self._left = len(self._block.lines)
        line = self._block.lines[-self._left]
        self._left -= 1
        self.line += 1
        return line, self._block.quotes

    def _skip_row(self, quotes: int) -> None:
        """Pass over the rest of a row whose last line has this number of quotes."""
        quotes += sum(line.count(b'"') for line in self.taken)
        self.taken[:] = [b"\n".join(self.taken)[:KEPT]]
        # Each quote of a row is closed, so a newline after an odd number of them is in a cell.
        while quotes % 2:
            try:
                line, of_long_line = self._next()
            except StopIteration:
                return
            quotes += line.count(b'"') if of_long_line is None else of_long_line


@dataclass(frozen=True, slots=True)
class CsvRow(TableRow):
    """A row of CSV."""

    parser: CellParser
    cells: list[str]
    text: bytes

    @property
    def columns(self) -> tuple[str, ...]:
        """Return the names of all columns."""
        return self.parser.columns.names

    def read(self) -> tuple[dict[str, Any], Fault | None]:
        """Return the fields of the row, or its text and its first fault."""
        fields, fault = self.parser.fields(self.cells)
        return (fields, None) if fault is None else (TextRow(self.text).read()[0], fault)


class CellParser:
    """Reads the cells of the rows of one CSV file."""

    def __init__(
        self, columns: Columns, texts: Collection[str], note: Callable[[str], None]
    ) -> None:
        self.columns = columns
        self._texts = frozenset(texts)
        self._note = note
        self._has_noted = False

    def fields(self, cells: list[str]) -> tuple[dict[str, Any], Fault | None]:
        """Return the fields of a row, or its first fault."""
        values: list[Any] = []
        for number, (name, cell) in enumerate(zip(self.columns.names, cells, strict=True), 1):
            value = self._value(name, cell, number) if cell else None
            if isinstance(value, Fault):
                return {}, value
            values.append(value)
        return self.columns.fields(values)

    def _value(self, name: str, cell: str, number: int) -> Any:
        if name[:1] == "_":
            return cell.encode(errors="surrogateescape").decode(errors="replace")
        if not cell.isascii() and (fault := _fault_of_encoding(name, cell, number)) is not None:
            return fault
        if name in self._texts:
            return cell
        text = cell.strip()
        if text in NO_VALUE or (text[:1] in "#ES" and ERROR_VALUE(text)):
            problem = f"is {text}, which stands for no value"
            remedy = "leave the cell empty, or add --text-column if it is a text"
            return PlacedFault(name, problem, remedy, number)
        if text[:2] == '="' and FORMULA(text):
            remedy = "write the text of the formula, or add --text-column"
            return PlacedFault(name, "is a formula of a spreadsheet", remedy, number)
        if name in TEXTS:
            if name == "dialog_id" and ROUNDED(text):
                problem = "was rounded by a spreadsheet, or written as a number"
                return PlacedFault(name, problem, "save ids as text, or add --text-column", number)
            return cell
        value = _parsed_cell(cell)
        if text in CAPITALS and not self._has_noted:
            self._has_noted = True
            self._note(
                f"{text} in a cell of CSV, as in the column {name!r}, was used as a text. For a "
                "boolean write true or false; if it is a text, add --text-column."
            )
        if isinstance(value, dict | list):
            twice = member_given_twice(cell, value)
            if twice is not None:
                return given_twice(f"{name}{twice}", number)
            if '"$' in cell and (path := extended_json(value)) is not None:
                return extended(f"{name}{path}", number)
        return value


def _fault_of_encoding(name: str, cell: str, number: int) -> Fault | None:
    try:
        cell.encode()
    except UnicodeEncodeError:
        return PlacedFault(name, "is not UTF-8", "save the file as UTF-8", number)
    return None


def _parsed_cell(cell: str) -> Any:
    try:
        return from_json(cell, allow_inf_nan=False)
    except ValueError:
        if cell.lstrip()[:1] not in ("{", "[", '"'):
            return cell
    try:
        return parse_json(cell)
    except ValueError:
        return cell
