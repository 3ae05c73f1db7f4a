"""Records of a sheet of Excel. Its memory is bounded: see `workbook`."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

from cognigy_async import Fault

from ..errors import InputError
from . import row as row_limits
from .cells import CellParser, ParsedRow, without_point
from .columns import UNNAMED, Columns, Findings, Record, without_cleared
from .row import NOT_JSON, PlacedFault, TextRow, too_long
from .table_options import TableOptions
from .workbook import SheetFacts, UnusableError, as_input_error, open_parts

BATCH = 1 << 14
"""Most cells to yield together."""
OLD_OR_LOCKED = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"


def excel_records(
    file: BinaryIO, name: str, options: TableOptions, findings: Findings
) -> Iterator[list[Record]]:
    """Yield the records of a sheet with a header. An empty cell assigns nothing.

    Rows of empty cells are passed over, before the header too. Dates and times become texts as
    ISO 8601 has them, and numbers without a fraction integers.

    Args:
        findings: Gets remarks for the user, the columns and the number of rows.

    Raises:
        InputError: The workbook cannot be read or needs too much memory, its columns cannot be
            used, or python-calamine is missing.
    """
    try:
        import python_calamine as calamine
    except ImportError as error:
        raise InputError(
            f"{name} is an Excel workbook, which needs an extra: pip install 'cognigy-async[excel]'"
        ) from error
    if file.read(len(OLD_OR_LOCKED)) == OLD_OR_LOCKED:
        raise as_input_error(
            name,
            UnusableError("it has a password, or is an old .xls; save it as .xlsx without one"),
        )
    try:
        parts, sheet_name, facts = open_parts(file, options.sheet)
    except UnusableError as error:
        raise as_input_error(name, error) from error
    with parts:
        try:
            with calamine.CalamineWorkbook.from_filelike(parts) as workbook:
                sheet = workbook.get_sheet_by_name(sheet_name)
        except (calamine.CalamineError, OSError, ValueError) as error:
            raise as_input_error(name, UnusableError(str(error))) from error
    findings.records = max(0, facts.rows - 1)
    if facts.hidden:
        findings.notes.append(
            f"The sheet has hidden rows, such as row {facts.first_hidden}. They are read as well."
        )
    yield from _Sheet(sheet, facts, name, options, findings).records()


class _Sheet:
    """Makes records of the rows of a sheet."""

    def __init__(
        self, sheet: Any, facts: SheetFacts, name: str, options: TableOptions, findings: Findings
    ) -> None:
        self._rows: Iterator[list[Any]] = iter(sheet.iter_rows())
        self._first_column = sheet.start[1] + 1 if sheet.start is not None else 1
        self._facts = facts
        self._name = name
        self._options = options
        self._findings = findings

    def records(self) -> Iterator[list[Record]]:
        """Yield the records."""
        lines = self._lines()
        header = next(lines, None)
        if header is None:
            return
        line, cells, _ = header
        width = len(cells)
        names = [str(without_point(cell)) for cell in cells]
        columns = self._findings.columns = Columns(
            without_cleared(names), self._name, self._options
        )
        used = len(columns.names)
        parser = CellParser(columns, self._options)
        merged = _MergedRows(self._facts, line, self._first_column, width)
        batch = max(1, BATCH // width)
        records: list[Record] = []
        for line, cells, problems in lines:
            fault = (
                columns.fault_of_header(list(map(str, cells)), f"{self._name}: row {line}")
                if columns.id_in_header in cells
                else None
            )
            if fault is None and line in merged:
                problem = "has a cell that is merged with a row above"
                fault = Fault("row", problem, "unmerge the cells: each row needs its own values")
            if fault is None and any(cell != "" for cell in cells[used:]):
                fault = UNNAMED
            if sum(len(cell) for cell in cells if isinstance(cell, str)) > row_limits.LONGEST_ROW:
                content = TextRow(b"a row that is too long to keep")
                records.append((line, content, too_long()))
            else:
                row = ExcelRow(parser, cells[:used], problems, fault)
                records.append((line, row, None))
            if len(records) >= batch:
                yield records
                records = []
        yield records

    def _lines(self) -> Iterator[tuple[int, list[Any], Mapping[int, str]]]:
        """Yield the number, the cells and the problems of each row with content."""
        problems = self._facts.problems
        for line, cells in enumerate(self._rows, 1):
            found = problems.get(line)
            if found is not None:
                moved = self._first_column - 1
                yield line, cells, {column - moved: text for column, text in found.items()}
            elif any(not isinstance(cell, str) or cell.strip() for cell in cells):
                yield line, cells, {}


class _MergedRows:
    """The rows after a header that have a part of a cell merged with a row above."""

    def __init__(self, facts: SheetFacts, header: int, first: int, width: int) -> None:
        self._begins: list[int] = []
        self._ends: list[int] = []
        for begin, end, left, right in sorted(facts.merged):
            if left >= first + width or right < first or end <= header:
                continue
            if self._ends and begin < self._ends[-1]:
                self._ends[-1] = max(self._ends[-1], end)
            else:
                self._begins.append(max(begin, header))
                self._ends.append(end)

    def __contains__(self, line: int) -> bool:
        at = bisect_right(self._begins, line - 1) - 1
        return at >= 0 and line <= self._ends[at]


@dataclass(frozen=True, slots=True)
class ExcelRow(ParsedRow):
    """A row of a sheet."""

    problems: Mapping[int, str]
    fault: Fault | None
    """Fault of the row as a whole."""

    def read(self) -> tuple[dict[str, Any], Sequence[Fault]]:
        """Return the fields of the row with the texts of its faulty cells, and its faults."""
        fields, faults = self.parser.fields_of_objects(self.cells, self.problems)
        if self.fault is not None:
            faults.append(self.fault)
        if faults:
            fields[NOT_JSON] = {
                fault.path: str(self.cells[fault.column - 1])
                if isinstance(fault, PlacedFault)
                else fault.problem
                for fault in faults
            }
        return fields, faults
