"""Summary of the columns of a table, as a dry run reports it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from pydantic_core import to_json

from cognigy_async import StateUpdate

from .input.columns import Columns
from .input.table_options import CONTEXTS, TEXTS, ColumnType, TableOptions

MOST_EXAMPLES = 3
LONGEST_EXAMPLE = 30
"""Characters of an example."""

TYPE_OF: dict[type, ColumnType] = {
    bool: "boolean",
    dict: "json",
    float: "number",
    int: "integer",
    list: "json",
    str: "text",
}
DECIMAL_COMMA = re.compile(r"-?([0-9]+|[0-9]{1,3}(\.[0-9]{3})+),[0-9]+").fullmatch


@dataclass(frozen=True, slots=True)
class ColumnReport:
    """A column of a table.

    Attributes:
        name: Name in the table.
        field: Field of an update; a name that begins with ``_`` is passed over.
        types: Number of cells by their types: text, integer, number, boolean, json.
        first_lines: First line of each of these types.
        examples: Some values, as texts, cut off.
        decimal_comma: First line with a text that looks like a number with a decimal comma.
    """

    name: str
    field: str
    types: dict[str, int]
    first_lines: dict[str, int]
    examples: tuple[str, ...]
    decimal_comma: int | None

    @property
    def type(self) -> str:
        """Type of the column: the types of its cells, by commas; "" if all are empty."""
        return ", ".join(_merged(self.types))

    def record(self) -> dict[str, Any]:
        """Return the object that `bulk run --dry-run --json` prints."""
        return {**asdict(self), "type": self.type, "examples": list(self.examples)}

    def notes(self) -> Iterator[str]:
        """Yield remarks for the user."""
        types = _merged(self.types)
        if len(types) > 1:
            first = sorted(self.first_lines.items(), key=_line)
            places = [
                f"{kind} from line {line:,} ({self.types[kind]:,} of its cells)"
                for kind, line in first
            ]
            advice = ", ".join(f"--type {self.field}={kind}" for kind in types)
            yield (
                f"The column {self.name!r} has values of several types: {', '.join(places)}. "
                f"Correct the cells, or give it one type: {advice}."
            )
        if self.decimal_comma is not None:
            yield (
                f"The column {self.name!r} has texts that look like numbers with a decimal comma, "
                f"from line {self.decimal_comma:,} on. If they are numbers, add "
                f"--type {self.field}=number --decimal ,"
            )


def _line(item: tuple[str, int]) -> int:
    return item[1]


def _merged(types: dict[str, int]) -> list[str]:
    """Return the types of a column; an integer is a number too."""
    return [kind for kind in types if not (kind == "integer" and "number" in types)]


class _Column:
    """Counts the types of the values of one column."""

    __slots__ = ("decimal_comma", "examples", "first_lines", "types")

    def __init__(self) -> None:
        self.types: dict[str, int] = {}
        self.first_lines: dict[str, int] = {}
        self.examples: list[str] = []
        self.decimal_comma: int | None = None

    def add(self, value: Any, line: int, *, is_typed: bool) -> None:
        kind = TYPE_OF[type(value)]
        if kind not in self.types:
            self.types[kind] = 0
            self.first_lines[kind] = line
        self.types[kind] += 1
        if len(self.examples) < MOST_EXAMPLES:
            text = value if kind == "text" else to_json(value).decode()
            text = text if len(text) <= LONGEST_EXAMPLE else f"{text[:LONGEST_EXAMPLE]}..."
            if text not in self.examples:
                self.examples.append(text)
        if kind == "text" and self.decimal_comma is None and not is_typed and DECIMAL_COMMA(value):
            self.decimal_comma = line


class ColumnSummary:
    """Collects the types and some values of the columns of valid rows."""

    def __init__(self, options: TableOptions) -> None:
        self._columns: dict[str, _Column] = {}
        self._typed = frozenset(options.types)

    def add(self, line: int, update: StateUpdate, columns: tuple[str, ...]) -> None:
        """Add the values of a row of a table with these columns."""
        if not self._columns:
            self._columns = {field: _Column() for field in columns}
        for name, value in update.fields().items():
            self._add(name, value, line)
            if name in CONTEXTS:
                for variable, inner in value.items():
                    self._add(f"{name}.{variable}", inner, line)

    def _add(self, field: str, value: Any, line: int) -> None:
        column = self._columns.get(field)
        if column is not None:
            column.add(value, line, is_typed=field in TEXTS or field in self._typed)

    def reports(self, columns: Columns) -> tuple[ColumnReport, ...]:
        """Return the columns of a table in their order."""
        empty = _Column()
        reports = []
        for name, field in zip(columns.header, columns.names, strict=True):
            found = self._columns.get(field, empty)
            reports.append(
                ColumnReport(
                    name,
                    field,
                    found.types,
                    found.first_lines,
                    tuple(found.examples),
                    found.decimal_comma,
                )
            )
        return tuple(reports)
