"""Tables of a journal, and their rows as values.

A journal holds lines, dialogs, times, outcomes and errors, but no value of a variable.
"""

from __future__ import annotations

import enum
import functools
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field

from cognigy_async import CognigyError

APPLICATION_ID = 0x636F676A
"""Application id of the SQLite file, which marks it as a journal."""
SCHEMA_VERSION = 1
"""User version of the SQLite file."""

# A new column also needs `Journal._fill`, `JournalWriter` and a new `SCHEMA_VERSION`.
SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE marks (offset INTEGER, last INTEGER, digest TEXT, PRIMARY KEY (offset, last));
CREATE TABLE outcomes (
    line INTEGER PRIMARY KEY, dialog TEXT, status INTEGER NOT NULL, pass INTEGER NOT NULL,
    queued REAL, sent REAL, settled REAL NOT NULL, attempts INTEGER NOT NULL, refers INTEGER);
CREATE TABLE failures (line INTEGER PRIMARY KEY, type TEXT, message TEXT, http INTEGER);
CREATE TABLE sends (
    line INTEGER PRIMARY KEY, dialog TEXT, at REAL NOT NULL, etag TEXT, open INTEGER NOT NULL,
    carrier TEXT);
CREATE TABLE events (
    line INTEGER, dialog TEXT, at REAL NOT NULL, what TEXT NOT NULL, seconds REAL NOT NULL);
CREATE TABLE runs (
    run INTEGER PRIMARY KEY, began REAL NOT NULL, latest REAL NOT NULL, elapsed REAL NOT NULL,
    requests INTEGER NOT NULL, retries TEXT NOT NULL, ended TEXT);
"""

TEXT = "typeof({0}) = 'text'"
TEXT_OR_NULL = "typeof({0}) IN ('text', 'null')"
INTEGER = "typeof({0}) = 'integer'"
COUNT = f"{INTEGER} AND {{0}} BETWEEN 0 AND 1e15"
COUNT_OR_NULL = f"({{0}} IS NULL OR {COUNT})"
NUMBER = f"{INTEGER} AND {{0}} BETWEEN 1 AND 1e15"
FLAG = f"{INTEGER} AND {{0}} IN (0, 1)"
STATUS = f"{INTEGER} AND {{0}} BETWEEN 1 AND 4"
# Python has no dates for much earlier or later times.
TIME = "{0} BETWEEN -1e9 AND 1e11"
TIME_OR_NULL = f"({{0}} IS NULL OR {TIME})"

COLUMNS = {
    "meta": {TEXT: "key value"},
    "marks": {COUNT: "offset", FLAG: "last", TEXT: "digest"},
    "outcomes": {
        NUMBER: "line pass",
        TEXT_OR_NULL: "dialog",
        STATUS: "status",
        TIME: "settled",
        TIME_OR_NULL: "queued sent",
        COUNT: "attempts",
        COUNT_OR_NULL: "refers",
    },
    "failures": {NUMBER: "line", TEXT_OR_NULL: "type message", COUNT_OR_NULL: "http"},
    "sends": {NUMBER: "line", TEXT_OR_NULL: "dialog etag carrier", TIME: "at", FLAG: "open"},
    "events": {COUNT: "line", TEXT_OR_NULL: "dialog", TIME: "at seconds", TEXT: "what"},
    "runs": {
        NUMBER: "run",
        TIME: "began latest elapsed",
        COUNT: "requests",
        TEXT: "retries",
        TEXT_OR_NULL: "ended",
    },
}
"""Conditions of the columns of each table. A column of SQLite takes values of any type."""

HOOK = "hook "
"""Prefix of the text of a callback event. Other events are waits; their text is the reason."""


IS_UNCHANGED = "({0}.status = 1 AND {0}.attempts = 0)"
"""Condition of a row of a table of outcomes that was not sent, because it would have changed
nothing. Versions without baselines take it for an applied row."""


class Status(enum.IntEnum):
    """Outcome of a completed row."""

    SUCCEEDED = 1
    FAILED = 2
    AMBIGUOUS = 3
    REPEATED = 4
    """The row repeats the update and the `update_id` of line `refers`."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Error of a row that was not applied: type, message and HTTP status."""

    type: str
    message: str
    status: int | None

    @classmethod
    def of(cls, error: CognigyError) -> Failure:
        """Return the failure that an error describes."""
        return cls(type(error).__name__, str(error), getattr(error, "status", None))


@dataclass(frozen=True, slots=True)
class CompletedRow:
    """A row completed by an earlier run.

    Attributes:
        this_pass: True if the run that completed it belongs to the current pass.
        failure: Error of the row; None if it was applied.
    """

    dialog_id: str | None
    this_pass: bool
    failure: Failure | None


@dataclass(frozen=True, slots=True)
class OpenSend:
    """A row without an outcome that an earlier run sent and that must not be sent twice."""

    line: int
    dialog_id: str
    etag: str | None


@dataclass(slots=True)
class Totals:
    """Counts of all runs of a job.

    Attributes:
        unchanged: Rows that were not sent, because they would have changed nothing.
        retries: Retries by reason.
        elapsed: Seconds for which the job ran.
    """

    succeeded: int = 0
    failed: int = 0
    ambiguous: int = 0
    unchanged: int = 0
    requests: int = 0
    retries: Counter[str] = field(default_factory=Counter)
    elapsed: float = 0.0

    @property
    def completed(self) -> int:
        """Number of completed rows."""
        return self.succeeded + self.failed + self.ambiguous + self.unchanged


@dataclass(frozen=True, slots=True)
class EarlierRuns:
    """State left by earlier runs.

    Attributes:
        sends: Rows that may have been applied.
        groups: Idempotency keys of requests, by the line of each merged row without an outcome.
        quota: Saved state of the quota; None if there is none.
        began: Seconds of the epoch at which the first run began; None if there was none.
    """

    totals: Totals
    sends: list[OpenSend]
    groups: dict[int, str]
    quota: str | None
    began: float | None


def differences(connection: sqlite3.Connection) -> Iterator[str]:
    """Yield how the tables of a database differ from those of a journal."""
    found, expected = objects_of(connection), expected_objects(SCHEMA)
    for kind, name in sorted(expected.keys() | found.keys()):
        if (kind, name) not in expected:
            yield f"it has the {kind} {name!r}, which no journal has"
        elif found.get((kind, name)) != expected[kind, name]:
            yield f"it has no {kind} {name} like that of a journal"


@functools.cache
def expected_objects(schema: str) -> dict[tuple[str, str], str]:
    """Return the statements of the objects that a schema creates, by kind and name."""
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.executescript(schema)
        return objects_of(connection)


def objects_of(connection: sqlite3.Connection) -> dict[tuple[str, str], str]:
    """Return the statements of the objects of a database, by kind and name."""
    rows = connection.execute("SELECT type, name, coalesce(sql, '') FROM sqlite_master")
    return {(kind, name): " ".join(sql.split()) for kind, name, sql in rows}


def invalid_rows(connection: sqlite3.Connection) -> Iterator[str]:
    """Yield the tables that have a row which no job writes."""
    for table, columns in COLUMNS.items():
        conditions = [
            condition.format(column)
            for condition, names in columns.items()
            for column in names.split()
        ]
        query = f"SELECT EXISTS (SELECT 1 FROM {table} WHERE ({' AND '.join(conditions)}) IS NOT 1)"
        if connection.execute(query).fetchone()[0]:
            yield f"its table {table} has inconsistent rows"
