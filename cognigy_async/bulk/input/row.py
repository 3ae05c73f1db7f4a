"""One row of an input: a valid update or a list of faults, and its dead letter if it fails.

A dry run and a run parse rows alike, so that both name the same faults.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

from pydantic_core import from_json, to_json

from cognigy_async import Fault, Limits, StateUpdate, UpdateValidationError

from ..journal.schema import Failure

Source: TypeAlias = bytes | dict[str, Any]
"""A line as it was read, or the fields of a row of a table."""

JSON_COLUMN = re.compile(r" at line 1 column (\d+)$")
JSON_DECODER = json.JSONDecoder()
JSON_SPACE = re.compile(r"[ \t\r\n]*")


@dataclass(slots=True, eq=False)
class Row:
    """One row of a job.

    Attributes:
        line: Number of its first line in the input, from 1; in Parquet the number of the row.
        source: Content of the row as it was read.
        update: Update of the row; None if the row is not valid.
        error: Faults of the row; None if the row is valid.
        dialog_id: Dialog of the row; None if the row names no dialog.
        duplicate_of: Earlier line with the same update and `update_id`; None if there is none.
        ordinal: Number of the row among the rows of the job, from 1.
        sent_with: First line of the rows that were merged into one request with this row.
        completed_at: Epoch seconds of the row's outcome; known only if the client has callbacks.
    """

    line: int
    source: Source
    update: StateUpdate | None
    error: UpdateValidationError | None
    dialog_id: str | None
    duplicate_of: int | None = None
    ordinal: int = 0
    sent_with: int | None = None
    completed_at: float | None = None

    @property
    def not_repeatable(self) -> bool:
        """Return whether sending the row twice could apply it twice."""
        update = self.update
        return update is not None and not (update.next_step is None and update.if_match is None)

    def reject(self, error: UpdateValidationError) -> None:
        """Make the row invalid."""
        self.update, self.error = None, error


@dataclass(frozen=True, slots=True)
class RowFault:
    """A fault of a row: its place, the problem and the remedy.

    `column` counts characters of a line of JSON, or cells of a table, from 1.
    """

    line: int
    column: int
    path: str
    problem: str
    remedy: str

    def __str__(self) -> str:
        where = f"line {self.line}, column {self.column}"
        return f"{where}: {self.path}: {self.problem}; {self.remedy}"


@dataclass(frozen=True, slots=True)
class PlacedFault(Fault):
    """A fault whose column is already known."""

    column: int


def parse_row(
    line: int, source: Source, limits: Limits, default_id: str | None, fault: Fault | None = None
) -> Row:
    """Return the row of a record.

    Args:
        default_id: The `update_id` of a row that has none.
        fault: Fault that the reader has already found.
    """
    if fault is not None:
        return _invalid(line, source, fault)
    fields: Any = source
    if isinstance(source, bytes):
        try:
            fields = from_json(source, allow_inf_nan=False)
        except ValueError as error:
            return _invalid(line, source, _json_fault(source, error))
        if type(fields) is not dict:
            kind = "an array" if type(fields) is list else "a single value"
            remedy = 'write an object: {"dialog_id": ..., "session": ...}'
            return _invalid(line, source, Fault("row", f"is {kind}", remedy))
    dialog_id = fields.get("dialog_id")
    try:
        for name in fields:
            if name[:1] == "_":
                fields = {name: value for name, value in fields.items() if name[:1] != "_"}
                break
        if default_id is not None and fields.get("update_id") is None:
            fields = {**fields, "update_id": default_id}
        update = StateUpdate.from_fields(limits, fields)
    except UpdateValidationError as error:
        return Row(line, source, None, error, dialog_id if isinstance(dialog_id, str) else None)
    return Row(line, source, update, None, update.dialog_id)


def _invalid(line: int, source: Source, fault: Fault) -> Row:
    return Row(line, source, None, UpdateValidationError((fault,)), None)


def _json_fault(source: bytes, error: ValueError) -> Fault:
    try:
        source.decode()
    except UnicodeDecodeError as broken:
        problem = f"is not UTF-8: byte {broken.start + 1} is 0x{source[broken.start]:02x}"
        return PlacedFault("row", problem, "save the file as UTF-8", broken.start + 1)
    text = str(error)
    found = JSON_COLUMN.search(text)
    problem = f"is not JSON: {JSON_COLUMN.sub('', text)}"
    remedy = "write one object on one line"
    return PlacedFault("row", problem, remedy, int(found[1]) if found else 1)


def faults_of(row: Row) -> list[RowFault]:
    """Return all faults of a row with their columns."""
    if row.error is None:
        return []
    return [
        RowFault(row.line, _column(row.source, fault), fault.path, fault.problem, fault.remedy)
        for fault in row.error.faults
    ]


def _column(source: Source, fault: Fault) -> int:
    if isinstance(fault, PlacedFault):
        return fault.column
    if isinstance(source, bytes):
        return column_of(source, fault.path)
    path = fault.path
    for number, name in enumerate(source.get("_columns", ()), 1):
        if path == name or path.startswith((f"{name}.", f"{name}[")):
            return number
    return 1


def column_of(line: bytes, path: str) -> int:
    """Follow a path into a line of JSON as far as it exists; return its column, from 1.

    Args:
        path: As in `Fault.path`: ``session.cart.items[3]``.
    """
    text = line.decode(errors="replace")
    try:
        return _position(text, _skip_space(text, 0), path) + 1
    except (ValueError, IndexError, RecursionError):
        return 1


def _position(text: str, at: int, path: str) -> int:
    """Return the position of `path` within the value that begins at `at`."""
    if not path or text[at] not in "{[":
        return at
    wanted = path.removeprefix(".")
    here, index = _skip_space(text, at + 1), 0
    while text[here] not in "}]":
        begun, name = here, f"[{index}]"
        if text[at] == "{":
            name, end = JSON_DECODER.raw_decode(text, here)
            here = _skip_space(text, _skip_space(text, end) + 1)
        rest = wanted.removeprefix(name)
        if wanted.startswith(name) and (not rest or rest[0] in ".["):
            return _position(text, here, rest) if rest else begun
        here = _skip_space(text, JSON_DECODER.raw_decode(text, here)[1])
        if text[here] != ",":
            break
        here, index = _skip_space(text, here + 1), index + 1
    return at


def _skip_space(text: str, at: int) -> int:
    space = JSON_SPACE.match(text, at)
    return space.end() if space else at


def dead_letter(line: int, source: Source, failure: Failure) -> bytes:
    """Return a line of JSON with which a job can run a failed row again.

    JSON cannot hold some values: numbers become null, bytes become base64, others become text.
    """
    fields: Any
    if isinstance(source, bytes):
        try:
            fields = from_json(source, allow_inf_nan=False)
        except ValueError:
            fields = None
        if not isinstance(fields, dict):
            fields = {"_raw": source.decode(errors="backslashreplace").rstrip("\r\n")}
    else:
        fields = {name: value for name, value in source.items() if name != "_columns"}
    fields["_error"] = {**asdict(failure), "line": line}
    return to_json(fields, fallback=str, inf_nan_mode="null", bytes_mode="base64") + b"\n"
