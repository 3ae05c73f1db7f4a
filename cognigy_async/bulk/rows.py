"""One row of an input: from what was read to an update, or to all that is wrong with it.

The dry run and the run go through here alike, so that both name the same rows.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic_core import from_json, to_json

from cognigy_async import CognigyError, Fault, Limits, StateUpdate, UpdateValidationError

from .locate import column_of

Source = bytes | dict[str, Any]
"""A line as it was read, or the fields of a row of a table."""

AT = re.compile(r" at line 1 column (\d+)$")


@dataclass(slots=True, eq=False)
class Row:
    """One row.

    Attributes:
        line: where it begins in the input, from 1; in Parquet the number of the row.
        source: as it was read.
        update: what it asks for, None where it is not valid.
        error: what is wrong with it, None where nothing is.
        dialog_id: the dialog it names, as far as it names one.
        repeats: the line that holds the same update with the same `update_id` already.
        ordinal: its number among the rows of the job, from 1.
        leader: the first line of those that were sent as one request with it.
        settled: when it had its outcome, in seconds of the epoch; known where callbacks are.
    """

    line: int
    source: Source
    update: StateUpdate | None
    error: UpdateValidationError | None
    dialog_id: str | None
    repeats: int | None = None
    ordinal: int = 0
    leader: int | None = None
    settled: float | None = None

    @property
    def is_delicate(self) -> bool:
        """Whether it must not be repeated blindly."""
        update = self.update
        return update is not None and not (update.next_step is None and update.if_match is None)


@dataclass(frozen=True, slots=True)
class RowFault:
    """One thing that is wrong with a row: where, what, and what to do about it.

    `column` counts characters of a line of JSON, cells of a table; both from 1.
    """

    line: int
    column: int
    path: str
    problem: str
    remedy: str

    def __str__(self) -> str:
        where = f"line {self.line}, column {self.column}"
        return f"{where}: {self.path}: {self.problem}; {self.remedy}"


def parse_row(
    line: int,
    source: Source,
    limits: Limits,
    key: Callable[[int], str] | None,
    fault: Fault | None = None,
) -> Row:
    """A row from what was read.

    Args:
        key: makes the `update_id` of a row that has none; None leaves it without.
        fault: what the reader found wrong with it already.
    """
    if fault is not None:
        return Row(line, source, None, UpdateValidationError((fault,)), None)
    fields: Any
    if isinstance(source, bytes):
        try:
            fields = from_json(source, allow_inf_nan=False)
        except ValueError as error:
            return Row(line, source, None, UpdateValidationError((_no_json(source, error),)), None)
        if type(fields) is not dict:
            kind = "an array" if type(fields) is list else "a single value"
            told = Fault("row", f"is {kind}", 'write an object: {"dialog_id": ..., "session": ...}')
            return Row(line, source, None, UpdateValidationError((told,)), None)
    else:
        fields = source
    named = fields.get("dialog_id")
    try:
        for name in fields:
            if name[:1] == "_":
                fields = {name: value for name, value in fields.items() if name[:1] != "_"}
                break
        if key is not None and fields.get("update_id") is None:
            fields = {**fields, "update_id": key(line)}
        update = StateUpdate.from_fields(limits, fields)
    except UpdateValidationError as error:
        return Row(line, source, None, error, named if isinstance(named, str) else None)
    return Row(line, source, update, None, update.dialog_id)


def _no_json(source: bytes, error: ValueError) -> Fault:
    try:
        source.decode()
    except UnicodeDecodeError as broken:
        problem = f"is not UTF-8: byte {broken.start + 1} is 0x{source[broken.start]:02x}"
        return PlacedFault("row", problem, "save the file as UTF-8", broken.start + 1)
    told = str(error)
    found = AT.search(told)
    problem = f"is not JSON: {AT.sub('', told)}"
    remedy = "write one object on one line"
    return PlacedFault("row", problem, remedy, int(found[1]) if found else 1)


@dataclass(frozen=True, slots=True)
class PlacedFault(Fault):
    """A fault that knows its column."""

    column: int


def faults_of(row: Row) -> list[RowFault]:
    """Everything that is wrong with a row."""
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


def dead_letter(line: int, source: Source, error: Mapping[str, Any]) -> bytes:
    """A row that was not applied, as a line that runs again as it is.

    What JSON does not have becomes null where it is no number, base64 where it is bytes, else text.
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
    fields["_error"] = {**error, "line": line}
    return to_json(fields, fallback=str, inf_nan_mode="null", bytes_mode="base64") + b"\n"


def error_record(error: CognigyError) -> dict[str, Any]:
    """What a dead letter tells of an error."""
    return {
        "type": type(error).__name__,
        "message": str(error),
        "status": getattr(error, "status", None),
    }
