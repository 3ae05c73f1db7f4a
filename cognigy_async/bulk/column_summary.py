"""Summary of the columns of a table, as a dry run reports it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from pydantic_core import to_json

from cognigy_async import StateUpdate

from .input.cells import AMOUNT_FORM
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
LOOKS = {
    "commas": (
        r"-?[0-9]{1,3}(?:,[0-9]{3})+",
        "numbers with a decimal comma, or with commas that group thousands",
        "If the commas are decimal, add --type {field}=number --decimal ,; if they group "
        "thousands, remove them in the spreadsheet.",
    ),
    "decimal_comma": (
        r"-?(?:[0-9]+|[0-9]{1,3}(?:\.[0-9]{3})+),[0-9]+",
        "numbers with a decimal comma",
        "If they are numbers, add --type {field}=number --decimal ,",
    ),
    "dots": (
        r"-?[0-9]{1,3}(?:\.[0-9]{3})+",
        "numbers whose dots group thousands, as in 1.200",
        "If they do, add --type {field}=integer --decimal ,; if the dots are decimal, "
        "--type {field}=number.",
    ),
    "typed_dots": (
        r"(?!)",  # Only of numbers in a column of this type.
        "numbers whose dots group thousands, as in 1.200",
        "If they do, add --decimal ,; if the dots are decimal, nothing needs to change.",
    ),
    "amounts": (
        AMOUNT_FORM,
        "numbers with a currency, a percent sign or a minus at the end",
        "If they are numbers, save them without the sign, and add --type {field}=number.",
    ),
    "words": (
        r"(?i:ja|nein|yes|no|wahr|falsch|true|false)",
        "booleans, such as yes, nein or TRUE",
        "They are used as texts. For booleans, add --type {field}=boolean; for texts, --type "
        "{field}=text.",
    ),
    "dates": (
        r"[0-9]{1,2}[./][0-9]{1,2}[./](?:[0-9]{4}|[0-9]{2})(?: [0-9]{1,2}:[0-9]{2}(?::[0-9]{2})?)?",
        "dates",
        "They are used as texts. If that is right, add --type {field}=text; for dates like "
        "2024-12-31, change their format in the spreadsheet.",
    ),
}
"""Values that may stand for others: their form, what they look like, and what to do."""
ALIKE: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(LOOKS, ("integer", "number")),
    "words": ("boolean",),
    "dates": (),
}
"""Types of the values that such values may be among."""
LOOK = re.compile("|".join(f"(?P<{name}>{form})" for name, (form, *_) in LOOKS.items())).fullmatch


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
        looks: First lines of values that look like others, for the notes, by what they look like.
    """

    name: str
    field: str
    types: dict[str, int]
    first_lines: dict[str, int]
    examples: tuple[str, ...]
    decimal_comma: int | None
    looks: dict[str, int]

    @property
    def type(self) -> str:
        """Type of the column: the types of its cells, by commas; "" if all are empty."""
        return ", ".join(_merged(self.types))

    def record(self) -> dict[str, Any]:
        """Return the object that `bulk run --dry-run --json` prints."""
        record = {**asdict(self), "type": self.type, "examples": list(self.examples)}
        del record["looks"]
        return record

    def notes(self) -> Iterator[str]:
        """Yield remarks for the user."""
        types = _merged(self.types)
        if len(types) > 1:
            first = sorted(self.first_lines.items(), key=_line)
            places = [
                f"{kind} from line {line:,} ({self.types[kind]:,} of its cells)"
                for kind, line in first
            ]
            note = f"The column {self.name!r} has values of several types: {', '.join(places)}."
            if not self.looks:
                advice = ", ".join(f"--type {self.field}={kind}" for kind in types)
                note += f" Correct the cells, or give it one type: {advice}."
            yield note
        for look, line in self.looks.items():
            _, what, remedy = LOOKS[look]
            yield (
                f"The column {self.name!r} has values that look like {what}, from line {line:,} "
                f"on. {remedy.format(field=self.field)}"
            )


def _line(item: tuple[str, int]) -> int:
    return item[1]


def _merged(types: dict[str, int]) -> list[str]:
    """Return the types of a column; an integer is a number too."""
    return [kind for kind in types if not (kind == "integer" and "number" in types)]


class _Column:
    """Counts the types of the values of one column."""

    __slots__ = ("examples", "first_lines", "looks", "types")

    def __init__(self) -> None:
        self.types: dict[str, int] = {}
        self.first_lines: dict[str, int] = {}
        self.examples: list[str] = []
        self.looks: dict[str, list[int]] = {}
        """Lines by what their texts look like: the first line, and the number of lines."""

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
        if kind == "text" and not is_typed and (match := LOOK(value.strip())) is not None:
            look = self.looks.setdefault(str(match.lastgroup), [line, 0])
            look[1] += 1

    def report(self, name: str, field: str, *, has_dots: bool, is_typed: bool) -> ColumnReport:
        """Return the column. Notes name only what at least half of the texts look like.

        At least half of all cells must be such texts, or have a type that they may stand for.

        Args:
            has_dots: All its numbers have dots that may group thousands.
            is_typed: It was given a type.
        """
        texts, cells = self.types.get("text", 0), sum(self.types.values())
        looks = {}
        for look, (line, count) in self.looks.items():
            alike = count + sum(self.types.get(kind, 0) for kind in ALIKE[look])
            if 2 * count >= texts and 2 * alike >= cells:
                looks[look] = line
        if has_dots and self.types.get("number"):
            looks.setdefault("typed_dots" if is_typed else "dots", self.first_lines["number"])
        commas = [self.looks[look][0] for look in ("commas", "decimal_comma") if look in self.looks]
        return ColumnReport(
            name,
            field,
            self.types,
            self.first_lines,
            tuple(self.examples),
            min(commas, default=None),
            looks,
        )


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
        return tuple(
            self._columns.get(field, empty).report(
                name,
                field,
                has_dots=columns.dot_groups.get(field, False),
                is_typed=field in self._typed,
            )
            for name, field in zip(columns.header, columns.names, strict=True)
        )
