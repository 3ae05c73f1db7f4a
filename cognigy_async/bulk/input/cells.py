"""Values of the cells of CSV and of workbooks."""

from __future__ import annotations

import datetime
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic_core import from_json, to_jsonable_python

from cognigy_async import Fault

from .columns import Columns
from .json_values import extended_json, member_given_twice, parse_json
from .row import NOT_UTF_8, PlacedFault, TableRow, extended, given_twice
from .table_options import CONTEXTS, TEXTS, ColumnType, TableOptions

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

LONGEST_ID = 10**15
"""Excel keeps 15 digits of a number, so an id of more digits was rounded."""

NUMBER, SIGN = r"[+-]?[0-9][0-9.,]*", r"(?:[€$£%]|EUR|USD|GBP|CHF)"
AMOUNT_FORM = rf"{SIGN}\s?{NUMBER}|{NUMBER}\s?{SIGN}|{NUMBER}-"
AMOUNT = re.compile(AMOUNT_FORM).fullmatch
"""A number with a sign that no type reads."""

EXPONENT = r"([eE][+-]?[0-9]{1,3})?"
NUMBERS = {
    ".": re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)" + EXPONENT).fullmatch,
    ",": re.compile(r"[+-]?([0-9]+|[0-9]{1,3}(\.[0-9]{3})+)(,[0-9]*)?" + EXPONENT).fullmatch,
}
"""Numbers by their decimal separator."""
INTEGERS = {
    ".": re.compile(r"[+-]?[0-9]+").fullmatch,
    ",": re.compile(r"[+-]?([0-9]+|[0-9]{1,3}(\.[0-9]{3})+)").fullmatch,
}
DOT_GROUPS = re.compile(r"-?[1-9][0-9]{0,2}\.[0-9]{3}").fullmatch
"""A number of JSON whose dot may group thousands."""
MOST_DIGITS = 400
"""Characters of a number; a float has at most 309 digits before its point."""
BOOLEANS = {
    **dict.fromkeys(("true", "t", "yes", "1", "wahr", "ja"), True),
    **dict.fromkeys(("false", "f", "no", "0", "falsch", "nein"), False),
}

_NOTHING = object()


class CellParser:
    """Reads the cells of the rows of one table."""

    def __init__(self, columns: Columns, options: TableOptions) -> None:
        self.columns = columns
        self._types: Mapping[str, ColumnType] = options.types
        self._decimal = options.decimal
        self._encoding = options.encoding

    def fields(self, cells: Sequence[str]) -> tuple[dict[str, Any], list[Fault]]:
        """Return the fields of a row of CSV, without its faulty cells, and its faults."""
        columns = enumerate(zip(self.columns.names, cells, strict=True), 1)
        return self._fields(
            [self._value(name, cell, number) if cell else None for number, (name, cell) in columns]
        )

    def fields_of_objects(
        self, cells: Sequence[Any], problems: Mapping[int, str]
    ) -> tuple[dict[str, Any], list[Fault]]:
        """Return the fields of a row of a workbook, without its faulty cells, and its faults.

        Args:
            cells: Texts, numbers, booleans and times; "" is an empty cell.
            problems: Problems of cells by their numbers from 1.
        """
        values: list[Any] = []
        for number, (name, cell) in enumerate(zip(self.columns.names, cells, strict=True), 1):
            value = None
            if number in problems and name[:1] != "_":
                remedy = "correct or empty the cell in the spreadsheet, and save it there"
                value = PlacedFault(name, problems[number], remedy, number)
            elif cell != "":
                value = self.value(name, cell, number)
            values.append(value)
        return self._fields(values)

    def _fields(self, values: list[Any]) -> tuple[dict[str, Any], list[Fault]]:
        faults = [value for value in values if isinstance(value, Fault)]
        if faults:
            values = [None if isinstance(value, Fault) else value for value in values]
        fields, fault = self.columns.fields(values)
        return fields, faults if fault is None else [*faults, fault]

    def _value(self, name: str, cell: str, number: int) -> Any:
        if name[:1] == "_":
            return cell.encode(errors="surrogateescape").decode(errors="replace")
        if not cell.isascii() and is_broken(cell):
            return fault_of_encoding(name, self._encoding, number)
        kind = self._types.get(name)
        if kind == "text":
            return cell
        text = cell.strip()
        if (fault := _fault_of_text(name, text, number)) is not None:
            return fault
        if name in TEXTS:
            if name == "dialog_id" and ROUNDED(text):
                return _rounded(name, number)
            return cell
        if kind is not None:
            return self._converted(name, kind, text, number)
        value = _parsed_cell(cell)
        if isinstance(value, dict | list):
            return self._checked(name, cell, value, number)
        if type(value) is float:
            self._note_dots(name, text)
        return value

    def _note_dots(self, name: str, text: str) -> None:
        """Note whether the dots of a column may group thousands, from one of its numbers."""
        groups = self.columns.dot_groups
        groups[name] = groups.get(name, True) and DOT_GROUPS(text) is not None

    def value(self, name: str, cell: Any, number: int) -> Any:
        """Return the value of a cell with the field `name` and this number, or its fault."""
        kind = self._types.get(name)
        if isinstance(cell, str):
            if name in TEXTS or name in CONTEXTS or name[:1] == "_" or kind is not None:
                return self._value(name, cell, number)
            return cell if (fault := _fault_of_text(name, cell.strip(), number)) is None else fault
        cell = without_point(cell)
        is_number = isinstance(cell, int | float) and not isinstance(cell, bool)
        if not isinstance(cell, int | float):
            cell = _text_of_time(cell)
        if name in TEXTS or kind == "text":
            if name == "dialog_id" and is_number and abs(cell) >= LONGEST_ID and kind is None:
                return _rounded(name, number)
            return _to_text(cell)
        fits = {
            "integer": is_number and isinstance(cell, int),
            "number": is_number,
            "boolean": cell in (0, 1),
            "json": True,
            None: True,
        }
        if not fits[kind]:
            assert kind is not None
            return self._unfit(name, kind, "", number)
        return bool(cell) if kind == "boolean" else cell

    def _converted(self, name: str, kind: ColumnType, text: str, number: int) -> Any:
        """Return the value of a cell in a column with a type."""
        value: Any = _NOTHING
        if kind == "json":
            try:
                value = parse_json(text)
            except ValueError:
                value = _NOTHING
            if isinstance(value, dict | list):
                return self._checked(name, text, value, number)
        elif kind == "boolean":
            value = BOOLEANS.get(text.lower(), _NOTHING)
        elif len(text) <= MOST_DIGITS:
            patterns = INTEGERS if kind == "integer" else NUMBERS
            plain = text.replace(".", "").replace(",", ".") if self._decimal == "," else text
            if patterns[self._decimal](text):
                is_integer = INTEGERS["."](plain) is not None
                value = int(plain) if is_integer else float(plain)
                if not math.isfinite(value):
                    value = _NOTHING
                elif self._decimal == "." and not is_integer:
                    self._note_dots(name, text)
        return self._unfit(name, kind, text, number) if value is _NOTHING else value

    def _unfit(self, name: str, kind: ColumnType, text: str, number: int) -> Fault:
        article = "an" if kind == "integer" else "a"
        what = "JSON" if kind == "json" else f"{article} {kind}"
        is_number = kind in ("integer", "number")
        # A number of a workbook comes without a text.
        if text and is_number and self._decimal == ",":
            what += " with a decimal comma" if kind == "number" else " with dots for thousands"
        remedy = f"correct it, or read the column as text: --type {name}=text"
        patterns, other = INTEGERS if kind == "integer" else NUMBERS, ",."[self._decimal == ","]
        if is_number and patterns[self._decimal](text):
            is_long = len(text) > MOST_DIGITS
            held = (
                f"of at most {MOST_DIGITS} characters" if is_long else "that a 64-bit float holds"
            )
            what = f"{article} {kind} {held}"
        elif is_number and AMOUNT(text):
            what += ": it has a currency sign, a percent sign or a minus at the end"
            remedy = f"format the column as a plain number and save it again, or {remedy}"
        elif is_number and ("," in text or "." in text) and NUMBERS[other](text):
            remedy = "if its comma is decimal, or its dots group thousands, add --decimal ,"
            if self._decimal == ",":
                remedy = "if its dot is decimal, leave --decimal out; else correct it"
        return PlacedFault(name, f"is not {what}", remedy, number)

    def _checked(self, name: str, cell: str, value: Any, number: int) -> Any:
        """Return an object or a list, or its fault."""
        twice = member_given_twice(cell, value)
        if twice is not None:
            return given_twice(f"{name}{twice}", number)
        if '"$' in cell and (path := extended_json(value)) is not None:
            return extended(f"{name}{path}", number)
        return value


@dataclass(frozen=True, slots=True)
class ParsedRow(TableRow):
    """A row whose cells a parser reads."""

    parser: CellParser
    cells: Sequence[Any]

    @property
    def dialog_id(self) -> str | None:
        """Return the dialog of a row with faults, if its cell is valid."""
        columns = self.parser.columns
        number = columns.names.index("dialog_id") + 1
        value = self.parser.value("dialog_id", self.cells[number - 1], number)
        return value if isinstance(value, str) and value.isprintable() and value else None


def is_broken(text: str) -> bool:
    """Return whether a text has bytes that are none of its encoding."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def fault_of_encoding(name: str, encoding: str | None, number: int) -> Fault:
    """Return the fault of a cell whose bytes are no text in the encoding of the input."""
    remedy = f"{NOT_UTF_8}, or name its encoding, as in --encoding cp1252"
    return PlacedFault(name, f"is not {encoding or 'UTF-8'}", remedy, number)


def _fault_of_text(name: str, text: str, number: int) -> Fault | None:
    if text in NO_VALUE or (text[:1] in "#ES" and ERROR_VALUE(text)):
        problem = f"is {text}, which stands for no value"
        remedy = f"leave the cell empty, or add --type {name}=text if it is a text"
        if text[:1] == "#" or ERROR_VALUE(text):
            remedy = "correct its formula in the spreadsheet, or leave the cell empty"
        return PlacedFault(name, problem, remedy, number)
    if text[:2] == '="' and FORMULA(text):
        remedy = f"write the text of the formula, or add --type {name}=text"
        return PlacedFault(name, "is a formula of a spreadsheet", remedy, number)
    return None


def _rounded(name: str, number: int) -> Fault:
    problem = "was rounded by a spreadsheet, or written as a number"
    remedy = "take the id from its source, with all its digits, and save it as text"
    return PlacedFault(name, problem, remedy, number)


def without_point(cell: Any) -> Any:
    """Return a number without a fraction as an integer; spreadsheets have floats only."""
    if isinstance(cell, float) and cell.is_integer() and abs(cell) < 1 << 53:
        return int(cell)
    return cell


def _to_text(value: Any) -> str:
    """Return the text of a number or a boolean, or of a time as ISO 8601 has it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if isinstance(value, str) else repr(value)


def _text_of_time(value: Any) -> str:
    """Return a time as ISO 8601 has it. Spreadsheets keep milliseconds, with errors below."""
    if isinstance(value, datetime.datetime) and value.microsecond % 1000:
        value += datetime.timedelta(microseconds=round(value.microsecond, -3) - value.microsecond)
    text: str = to_jsonable_python(value)
    return text


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
