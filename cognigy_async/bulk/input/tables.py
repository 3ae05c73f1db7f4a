"""Records of CSV."""

from __future__ import annotations

import csv
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from cognigy_async import Fault

from ..errors import InputError
from . import row as row_limits
from .cells import CellParser, ParsedRow, fault_of_encoding, is_broken
from .columns import UNNAMED, Columns, Findings, Record, stripped, without_cleared
from .row import TextRow, too_long
from .table_options import TableOptions


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
BATCH = 1024
"""Most records to yield together."""
DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
"""Delimiters that a header may have, the first of them preferred."""
NO_CONTENT = b' \t\r\n,;|"'
QUOTE_AFTER_SPACE = re.compile(r'\s+"').match
HINT = re.compile(r'"?sep=(.)"?[\r\n]*').fullmatch
"""A first line that tells Excel the delimiter."""


def csv_records(
    blocks: Iterator[LineBlock], name: str, options: TableOptions, findings: Findings
) -> Iterator[list[Record]]:
    """Yield the records of a CSV file with a header line (RFC 4180, in UTF-8).

    Parse each cell as the type of its column, or as JSON. A cell that is not JSON is text. An empty
    cell assigns nothing. Rows of empty cells are passed over.

    Args:
        findings: Gets remarks for the user and the columns.

    Raises:
        InputError: The header cannot be used, or another header follows.
    """
    # This limit applies to the whole process, so never lower it.
    csv.field_size_limit(max(csv.field_size_limit(), row_limits.LONGEST_ROW))
    lines = _Lines(blocks)
    delimiter = _delimiter_of(lines, name, options, findings)
    rows = _parsed(lines, delimiter)
    header = next(rows, None)
    if header is None:
        return
    line, names, fault = header
    for number, text in enumerate(names, 1):
        if fault is None and not text.isprintable() and is_broken(text):
            fault = fault_of_encoding("header", options.encoding, number)
    if fault is not None:
        raise InputError(f"{name}: the header, line {line}, {fault.problem}; {fault.remedy}")
    width = len(names)
    findings.header = lines.hint + b"\n".join(lines.taken)
    columns = findings.columns = Columns(without_cleared(names), name, options)
    used = len(columns.names)
    id_in_header = columns.id_in_header.encode()
    parser = CellParser(columns, options)
    records: list[Record] = []
    try:
        for line, cells, parsing_fault in rows:
            fault = parsing_fault
            if fault is None and id_in_header in lines.taken[0]:
                fault = columns.fault_of_header(cells, f"{name}: line {line}")
            if fault is None and not "".join(cells).strip("- "):
                fault = Fault("row", "is a line of dashes", "remove it")
            if fault is None and len(cells) != width:
                problem = f"has {len(cells)} cells, and the header has {width}"
                what = DELIMITERS.get(delimiter, repr(delimiter))
                remedy = f"quote cells that hold {what} or newlines"
                if any(map(QUOTE_AFTER_SPACE, cells)):
                    remedy = (
                        "remove the space before the quote: a quote counts only at the beginning "
                        "of a cell"
                    )
                fault = Fault("row", problem, remedy)
            if fault is None and any(map(str.strip, cells[used:])):
                fault = UNNAMED
            del cells[used:]
            taken = b"\n".join(lines.taken)
            row = None if lines.row == line else lines.row
            if fault is None:
                records.append((line, CsvRow(parser, cells, taken, row), None))
            else:
                records.append((line, TextRow(taken, row), fault))
            if len(records) >= BATCH or lines.at_end_of_block:
                yield records
                records = []
    except InputError:
        # Use the rows before the place where reading failed.
        yield records
        raise
    yield records


def _delimiter_of(lines: _Lines, name: str, options: TableOptions, findings: Findings) -> str:
    """Return the delimiter that was given or that the header has. Skip a line that tells it.

    Raises:
        InputError: The first line tells another delimiter than the one that was given.
    """
    given = options.delimiter
    head = lines.peek_record()
    if (hint := HINT(head)) is not None:
        if given not in (None, hint[1]):
            raise InputError(f"{name} begins with sep={hint[1]}, so leave --delimiter out")
        lines.skip_hint()
        given = hint[1]
        head = lines.peek_record()
    if given is not None:
        return given
    ids = {column for column, field in options.columns.items() if field == "dialog_id"}
    found = _sniffed(head, ids or {"dialog_id"})
    if found != ",":
        findings.notes.append(f"The columns are separated by {DELIMITERS[found]}.")
    return found


def _sniffed(header: str, ids: Collection[str]) -> str:
    """Return the delimiter by which a header has a column of dialog ids, and most columns."""

    def rank(delimiter: str) -> tuple[bool, int]:
        try:
            rows = csv.reader([header], delimiter=delimiter)
            names = {stripped(cell) for row in rows for cell in row}
        except csv.Error:
            return False, 0
        return not names.isdisjoint(ids), len(names)

    return max(DELIMITERS, key=rank)


class _RowTooLongError(csv.Error):
    """A row that takes more memory than a row may take."""


def _parsed(lines: _Lines, delimiter: str) -> Iterator[tuple[int, list[str], Fault | None]]:
    """Yield the first line, the cells and the fault of each row that has content."""
    reader = csv.reader(lines, strict=True, delimiter=delimiter)
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
        self.row = 0
        """Number of the current row as a spreadsheet program counts."""
        self.taken: list[bytes] = []
        self.hint = b""

    @property
    def at_end_of_block(self) -> bool:
        return self._left == 0

    def peek_record(self) -> str:
        """Return the first lines, up to the end of a record with content, without taking them.

        A record ends with a line after which each quote is closed. Lines without content before it
        are passed over. A record that is too long is returned in part.
        """
        kept: list[LineBlock] = []
        head: list[bytes] = []
        quotes = size = 0
        has_content = is_whole = False
        rest = LineBlock(self.line, self._block.lines[-self._left :], self._block.quotes)
        for block in chain([rest] if self._left else [], self._blocks):
            kept.append(block)
            for line in block.lines:
                head.append(line)
                quotes += line.count(b'"')
                size += len(line) + 1
                has_content = has_content or bool(line.strip(NO_CONTENT))
                is_whole = block.quotes is not None or size > row_limits.LONGEST_ROW
                if quotes % 2 == 0:
                    is_whole = is_whole or has_content
                    if not has_content:
                        head.clear()
                        size = 0
                if is_whole:
                    break
            if is_whole:
                break
            if not head:
                kept.clear()
                self.line = block.first + len(block.lines)
        self._blocks = chain(kept, self._blocks)
        self._left = 0
        return b"\n".join(head).decode(errors="surrogateescape")

    def skip_hint(self) -> None:
        """Pass over a line that tells the delimiter, and keep it."""
        self.hint = self._next()[0] + b"\n"

    def begin_row(self) -> None:
        """Forget the lines of the last row."""
        self.taken.clear()
        # The lines that `peek_record` passed over are rows as well.
        self.row = self.line if self.row == 0 else self.row + 1
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
class CsvRow(ParsedRow):
    """A row of CSV."""

    text: bytes
    number: int | None

    def read(self) -> tuple[dict[str, Any], Sequence[Fault]]:
        """Return the fields of the row, without its faulty cells, and its faults."""
        return self.parser.fields(self.cells)

    def faulty(self) -> dict[str, Any]:
        """Return the text of the row, to be corrected with the header."""
        return TextRow(self.text).faulty()
