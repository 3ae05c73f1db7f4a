"""One row of an input: a valid update or a list of faults, and its dead letter if it fails.

A dry run and a run parse rows alike, so that both name the same faults.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, BinaryIO, TypeAlias
from zlib import crc32

from pydantic_core import to_json

from cognigy_async import Fault, Limits, StateUpdate, UpdateValidationError

from ..journal.schema import Failure
from .json_values import (
    Columns,
    begins_of,
    encode,
    extended_json,
    is_json,
    member_given_twice,
    parse_json,
    parse_with_bytes,
)
from .table_options import CONTEXTS


class TableRow(ABC):
    """A row of a table, whose cells are read when it is used: their values may take much memory."""

    __slots__ = ()

    number: int | None = None
    """Number of the row as a spreadsheet program counts, if its line has another number."""

    @property
    def dialog_id(self) -> str | None:
        """Return the dialog of a row with faults, if it is known."""
        return None

    @abstractmethod
    def read(self) -> tuple[dict[str, Any], Sequence[Fault]]:
        """Return what a dead letter of the row has, and its faults.

        Without faults, these are the fields of an update and columns that are passed over.
        """

    def faulty(self) -> dict[str, Any]:
        """Return what a dead letter has of the row if the row is not valid."""
        return self.read()[0]


@dataclass(frozen=True, slots=True)
class TextRow(TableRow):
    """The text of a row that cannot be read. Its dead letter cannot be applied."""

    text: bytes
    number: int | None = None

    def read(self) -> tuple[dict[str, Any], Sequence[Fault]]:
        """Return the text."""
        return {RAW: self.text.decode(errors="backslashreplace").rstrip("\r\n")}, ()


Source: TypeAlias = bytes | TableRow
"""A line of JSON as it was read, or a row of a table."""

NOT_UTF_8 = "save the file as UTF-8"
TOO_LONG = "is longer than"
IN_PART = (NOT_UTF_8, TOO_LONG)
"""Parts of the messages of faults whose rows a dead letter cannot keep unchanged."""

RAW = "_raw"
RAW_BEGIN = b'{"_raw":"'
"""Member of a dead letter with the text of a row that could not be read."""
NOT_JSON = "_not_json"
"""Member of a dead letter with the values that JSON cannot hold, as texts by their paths."""
NOT_KEPT = Fault(
    NOT_JSON,
    "has values that this dead letter could not keep",
    f"write those of {NOT_JSON} into the row, and remove {NOT_JSON}",
)
NOT_READ = Fault(
    RAW, "is a row that could not be read", "correct it in the input, or write its fields beside it"
)
EXPIRES_AT = "expires_at"
"""Member of a row with the time at which its session ends."""
YEAR_ONE = datetime.min.replace(tzinfo=UTC).timestamp()
"""Seconds of the epoch. An offset from UTC may lead to a time before it, which no message can show.

Some programs write the first moment of year 1, in their time zone, if there is no time."""
ERROR = "_error"
CHECKSUM = "crc32"
"""Member of the error of a dead letter, by which a row that the user changed is known."""

LONGEST_ROW = 5 << 19
"""Bytes of a line of JSON or of a row of CSV. A row that may be sent has less than 2 MiB."""
LONGEST_LETTER = 1 << 25
"""More than the bytes of the longest dead letter, in which each byte of a row may be escaped."""
LONGEST_PATH = 200
"""Characters of a path that messages show."""

JSON_COLUMN = re.compile(r" at line 1 column (\d+)$")


@dataclass(slots=True, eq=False)
class Row:
    """One row of a job.

    Attributes:
        line: Number of its first line in the input, from 1; in Parquet the number of the row.
        source: Content of the row as a line of JSON; text that could not be read as it was.
        update: Update of the row; None if the row is not valid.
        error: Faults of the row; None if the row is valid.
        dialog_id: Dialog of the row; None if the row names no dialog.
        duplicate_of: Earlier line with the same update and `update_id`; None if there is none.
        ordinal: Number of the row among the rows of the job, from 1.
        sent_with: First line of the rows that were merged into one request with this row.
        completed_at: Epoch seconds of the row's outcome; known only if the client has callbacks.
        number: Number of the row as a spreadsheet program counts, if it is not `line`.
        expires_at: Seconds of the epoch at which the session ends; None if the row does not tell.
        unchanged: True if the row would change nothing, so that it is not sent.
        has_own_id: True if the row names its `update_id`.
    """

    line: int
    source: bytes
    update: StateUpdate | None
    error: UpdateValidationError | None
    dialog_id: str | None
    duplicate_of: int | None = None
    ordinal: int = 0
    sent_with: int | None = None
    completed_at: float | None = None
    number: int | None = None
    expires_at: float | None = None
    unchanged: bool = False
    has_own_id: bool = False

    @property
    def not_repeatable(self) -> bool:
        """Return whether sending the row twice could apply it twice."""
        update = self.update
        return update is not None and not (update.repeatable and update.if_match is None)

    @property
    def may_move(self) -> bool:
        """Return whether the row makes the flow act, which may then change any variable."""
        update = self.update
        if update is None or not self.not_repeatable:
            return False
        return update.next_step is not None or update.if_match is None

    def reject(self, error: UpdateValidationError) -> None:
        """Make the row invalid."""
        self.update, self.error = None, error


@dataclass(frozen=True, slots=True)
class RowFault:
    """A fault of a row: its place, the problem and the remedy.

    Attributes:
        column: Number of the character of a line of JSON, or of the cell of a table, from 1.
        title: Name of the column in the table; None if it is `path`, or there is none.
        row: Number of the row as a spreadsheet program counts; None if it is `line`.
        dialog_id: Dialog of the row; None if it is not known.
    """

    line: int
    column: int
    path: str
    problem: str
    remedy: str
    title: str | None = None
    row: int | None = None
    dialog_id: str | None = None

    def __str__(self) -> str:
        known = {"column": self.title, "row": self.row, "dialog": self.dialog_id}
        more = ", ".join(f"{name} {value!r}" for name, value in known.items() if value is not None)
        text = f"line {self.line}, column {self.column}: {self.path}: {self.problem}; {self.remedy}"
        return f"{text} ({more})" if more else text


@dataclass(frozen=True, slots=True)
class PlacedFault(Fault):
    """A fault whose column is already known."""

    column: int


def given_twice(path: str, column: int | None = None) -> Fault:
    """Return the fault of a part of an update that a row gives twice."""
    return _fault_at(path, column, "is given twice", "keep one of the two")


def extended(path: str, column: int | None = None) -> Fault:
    """Return the fault of a value that is extended JSON of MongoDB."""
    remedy = "write the plain value, as $toString and $toDouble make it"
    return _fault_at(path, column, "is extended JSON of MongoDB, not a value", remedy)


def _fault_at(path: str, column: int | None, problem: str, remedy: str) -> Fault:
    path = path if path.isprintable() else ascii(path)
    path = path if len(path) <= LONGEST_PATH else f"{path[: LONGEST_PATH - 3]}..."
    if column is None:
        return Fault(path, problem, remedy)
    return PlacedFault(path, problem, remedy, column)


def too_long(reach: str = "") -> Fault:
    """Return the fault of a row that has more than `LONGEST_ROW` bytes.

    Args:
        reach: Lines that the row takes, for the message.
    """
    return Fault("row", f"{TOO_LONG} {LONGEST_ROW:,} bytes{reach}", "shorten it")


def parse_row(
    line: int, source: Source, limits: Limits, default_id: str | None, fault: Fault | None = None
) -> Row:
    """Return the row of a record.

    Args:
        default_id: The `update_id` of a row that has none.
        fault: Fault that the reader has already found.
    """
    fields, found = _read(source)
    number = source.number if isinstance(source, TableRow) else None
    dialog_id = fields.get("dialog_id")
    used = fields
    expires_at = None
    try:
        if fault is not None or found:
            dialog_id = source.dialog_id if isinstance(source, TableRow) else None
            faults = tuple(found) if fault is None else (fault,)
            raise UpdateValidationError(faults, dialog_id=dialog_id)
        for name in fields:
            if name[:1] == "_":
                used = {name: value for name, value in fields.items() if name[:1] != "_"}
                if NOT_JSON in fields and ERROR in fields:
                    raise UpdateValidationError((NOT_KEPT,))
                if RAW in fields and not used:
                    raise UpdateValidationError((NOT_READ,))
                break
        has_own_id = fields.get("update_id") is not None
        if default_id is not None and not has_own_id:
            used = {**used, "update_id": default_id}
        if EXPIRES_AT in used:
            used = dict(used)
            expires_at = _take_expiry(limits, used)
        update = StateUpdate.from_fields(limits, used)
    except UpdateValidationError as error:
        dialog_id = dialog_id if isinstance(dialog_id, str) else None
        # The traceback would keep the values of the row in memory.
        error = error.with_traceback(None)
        return Row(line, line_of_faulty(source), None, error, dialog_id, number=number)
    if isinstance(source, TableRow):
        # A valid row has values of JSON only. Do not keep them: as text they take less memory.
        source = to_json(fields)
    row = Row(line, source, update, None, update.dialog_id, number=number, expires_at=expires_at)
    row.has_own_id = has_own_id
    return row


def _take_expiry(limits: Limits, fields: dict[str, Any]) -> float | None:
    """Remove the end of the session from a row, and return it in seconds of the epoch.

    Raises:
        UpdateValidationError: It is not valid. The other faults of the row are named as well.
    """
    text = fields.pop(EXPIRES_AT)
    if text is None:
        return None
    problem = "is not a text with a time of ISO 8601"
    with suppress(AttributeError, TypeError, ValueError):
        moment = datetime.fromisoformat(text.strip())
        if moment.tzinfo is not None:
            return max(moment.timestamp(), YEAR_ONE)
        problem = "has no offset from UTC"
    faults = [Fault(EXPIRES_AT, problem, "write it with its offset, like 2030-12-31T18:00:00Z")]
    try:
        StateUpdate.from_fields(limits, fields)
    except UpdateValidationError as error:
        faults[:0] = error.faults
    raise UpdateValidationError(tuple(faults))


def _read(source: Source) -> tuple[dict[str, Any], Sequence[Fault]]:
    """Return what a dead letter of a row has, and its faults. See `TableRow.read`."""
    if isinstance(source, TableRow):
        return source.read()
    text: bytes | str = source
    try:
        fields = parse_json(source)
    except ValueError as error:
        text = source.decode(errors="surrogateescape")
        fields = parse_with_bytes(text)
        if fields is None:
            return TextRow(source).read()[0], (_json_fault(source, error),)
    if type(fields) is dict:
        twice = member_given_twice(text, fields, passes_over=True)
        if twice is None:
            if b'"$' in source:
                used = {name: value for name, value in fields.items() if name[:1] != "_"}
                path = extended_json(used)
                return fields, () if path is None else (extended(path[1:]),)
            return fields, ()
        fault = given_twice(twice[1:])
    else:
        kind = "an array" if type(fields) is list else "a single value"
        fault = Fault("row", f"is {kind}", 'write an object: {"dialog_id": ..., "session": ...}')
    return TextRow(source).read()[0], (fault,)


def _json_fault(source: bytes, error: ValueError) -> Fault:
    try:
        source.decode()
    except UnicodeDecodeError as broken:
        problem = f"is not UTF-8: byte {broken.start + 1} is 0x{source[broken.start]:02x}"
        return PlacedFault("row", problem, NOT_UTF_8, broken.start + 1)
    if source.startswith(b"\xef\xbb\xbf"):
        problem = "begins with a byte-order mark, as in joined files"
        return PlacedFault("row", problem, "remove the mark", 1)
    if (column := source.find(b"\r", 0, -1) + 1) > 0:
        problem = "has a carriage return without a newline"
        return PlacedFault("row", problem, "end each line with a newline", column)
    text = str(error)
    found = JSON_COLUMN.search(text)
    problem = f"is not JSON: {JSON_COLUMN.sub('', text)}"
    remedy = "write one object on one line"
    return PlacedFault("row", problem, remedy, int(found[1]) if found else 1)


def faults_of(row: Row, names: Sequence[str] = (), titles: Sequence[str] = ()) -> list[RowFault]:
    """Return all faults of a row with their columns.

    Args:
        names, titles: Fields of the columns of a table, and their names in the table.
    """
    if row.error is None:
        return []
    numbers = {name: number for number, name in reversed([*enumerate(names, 1)])}
    columns = Columns(row.source)
    found = []
    for fault in row.error.faults:
        if isinstance(fault, PlacedFault):
            column = fault.column
        elif numbers:
            given = (numbers[name] for name in begins_of(fault.path) if name in numbers)
            column = min(given, default=1)
        else:
            column = columns.of(fault.path)
        text = (fault.path, fault.problem, fault.remedy)
        title = titles[column - 1] if numbers and fault.path != "row" else None
        title = None if title == fault.path else title
        found.append(RowFault(row.line, column, *text, title, row.number, row.dialog_id))
    return found


def dead_letter(line: int, source: Source, failure: Failure) -> bytes:
    """Return a line of JSON with which a job can run a failed row again.

    It has the same dialog and the same values, or the row is refused again.
    """
    # As in the run in which the row failed, of which only the name of the error is known.
    if isinstance(source, TableRow) and failure.type == UpdateValidationError.__name__:
        fields = source.faulty()
    else:
        fields, _ = _read(source)
    part = _json_part(fields)
    part.pop(ERROR, None)
    error = {**asdict(failure), "line": line, CHECKSUM: crc32(encode(part))}
    return encode({**part, ERROR: error}) + b"\n"


def are_dead_letters(file: BinaryIO) -> bool:
    """Return whether a file holds nothing but dead letters as jobs wrote them.

    The last one may be cut off, and the JSON may be written in another way.
    """
    found = 0
    while line := file.readline(LONGEST_LETTER):
        # A file that grew before its data was written ends in zeros after a power failure.
        line = line.rstrip(b"\0")
        try:
            fields = parse_json(line)
        except ValueError:
            is_end = not line.endswith(b"\n") and not file.read(1)
            return is_end and (not line or (found > 0 and line.startswith(b"{")))
        error = fields.pop(ERROR, None) if isinstance(fields, dict) else None
        if not isinstance(error, dict) or error.get(CHECKSUM) != crc32(encode(_json_part(fields))):
            return False
        found += 1
    return True


def line_of_faulty(source: Source) -> bytes:
    """Return the content of a row that is not valid, as `Row.source` has it."""
    return source if isinstance(source, bytes) else encode(_json_part(source.faulty()))


def _json_part(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return fields with the values that JSON cannot hold as texts in `NOT_JSON`."""
    part: dict[str, Any] = {}
    texts: dict[str, str] = {}
    for name, value in fields.items():
        if is_json(value):
            part[name] = value
        elif name[:1] == "_":
            part[name] = _text_of(value)
        elif name in CONTEXTS and isinstance(value, dict):
            part[name] = {key: inner for key, inner in value.items() if is_json(inner)}
            others = ((key, inner) for key, inner in value.items() if key not in part[name])
            texts.update((f"{name}.{key}", _text_of(inner)) for key, inner in others)
        else:
            texts[name] = _text_of(value)
    if texts:
        part[NOT_JSON] = texts
    return part


def _text_of(value: object) -> str:
    try:
        return repr(value)
    except RecursionError:
        return "nested too deeply"
