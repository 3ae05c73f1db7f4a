"""What a journal holds, and how it is read: its tables, their rows as values, all faults of it.

It knows lines, dialogs, times, outcomes and errors, and never a variable's value.
"""

from __future__ import annotations

import enum
import json
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from .errors import JournalRefusedError

APPLICATION = 0x636F676A
"""Marks a SQLite file as a journal of this library."""
VERSION = 1

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


class Status(enum.IntEnum):
    """What became of a row that is settled."""

    SUCCEEDED = 1
    FAILED = 2
    AMBIGUOUS = 3
    REPEATED = 4
    """The same update with the same `update_id` stands in the line that it refers to."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a row was not applied."""

    type: str
    message: str
    status: int | None


@dataclass(frozen=True, slots=True)
class Settled:
    """A row that is done."""

    status: Status
    dialog_id: str | None
    this_pass: bool
    failure: Failure | None


@dataclass(frozen=True, slots=True)
class OpenSend:
    """A row that must not be repeated blindly, sent before a crash and not settled."""

    line: int
    dialog_id: str
    etag: str | None


@dataclass(slots=True)
class Totals:
    """All runs of a job together.

    Attributes:
        elapsed: seconds in which it ran.
        retries: by reason.
    """

    succeeded: int = 0
    failed: int = 0
    ambiguous: int = 0
    requests: int = 0
    retries: dict[str, int] = field(default_factory=dict)
    elapsed: float = 0.0

    @property
    def settled(self) -> int:
        """Rows that are done."""
        return self.succeeded + self.failed + self.ambiguous


def connect_to_read(path: Path) -> sqlite3.Connection:
    """A connection to a journal that changes nothing, also while a job writes to it.

    Raises:
        JournalRefusedError: there is none, or it is damaged.
    """
    if not path.is_file():
        raise JournalRefusedError(
            f"there is no journal {path}; a run keeps it as FILE.journal, or where --journal says"
        )
    with reading(path):
        connection = sqlite3.connect(_uri(path), isolation_level=None, timeout=10.0, uri=True)
        try:
            connection.execute("PRAGMA query_only = 1")
            (application,) = connection.execute("PRAGMA application_id").fetchone()
            if application != APPLICATION:
                raise JournalRefusedError(f"{path} is no journal of a job")
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            if version != VERSION:
                raise other_version(path, version)
        except BaseException:
            connection.close()
            raise
    return connection


def _uri(path: Path) -> str:
    uri = path.absolute().as_uri()
    if os.access(path.parent, os.W_OK):
        return uri
    # Beside the file SQLite makes others even to read it, unless it hears that nobody writes.
    wal = path.with_name(f"{path.name}-wal")
    return f"{uri}?mode=ro" if wal.exists() else f"{uri}?mode=ro&immutable=1"


def totals_of(connection: sqlite3.Connection) -> Totals:
    """Counts of all runs in a journal."""
    totals = Totals()
    by_status = dict(connection.execute("SELECT status, count(*) FROM outcomes GROUP BY status"))
    if by_status.get(Status.REPEATED):
        repeats = connection.execute(
            "SELECT first.status, count(*) FROM outcomes AS again"
            " LEFT JOIN outcomes AS first ON first.line = again.refers"
            " WHERE again.status = ? GROUP BY first.status",
            (Status.REPEATED,),
        )
        for status, count in repeats:
            by_status[status] = by_status.get(status, 0) + count
    totals.succeeded = by_status.get(Status.SUCCEEDED, 0)
    totals.failed = by_status.get(Status.FAILED, 0)
    totals.ambiguous = by_status.get(Status.AMBIGUOUS, 0)
    for requests, retries, elapsed in connection.execute(
        "SELECT requests, retries, elapsed FROM runs"
    ):
        totals.requests += requests
        totals.elapsed += elapsed
        for reason, count in json.loads(retries).items():
            totals.retries[reason] = totals.retries.get(reason, 0) + count
    return totals


def damaged(path: Path, problem: object) -> JournalRefusedError:
    """What is told of a journal that cannot be made sense of."""
    # A check of SQLite begins with a headline.
    lines = [line for line in str(problem).splitlines() if not line.startswith("***")]
    return JournalRefusedError(
        f"journal {path} is damaged: {(lines or ['it makes no sense'])[0]}. Restore it from a "
        "copy, or move it away and start a new job; rows that were applied are applied again then."
    )


def other_version(path: Path, version: int) -> JournalRefusedError:
    """What is told of a journal whose format this version does not know."""
    return JournalRefusedError(
        f"journal {path} was written by another version of cognigy_async (format {version}, and "
        f"this one has {VERSION}). Go on with that version, or give another --journal for a new "
        "job, which applies all rows again."
    )


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn what SQLite raises while a journal is read into a `JournalRefusedError`."""
    try:
        yield
    except sqlite3.OperationalError as error:
        told = str(error)
        if "locked" in told or "busy" in told:
            raise JournalRefusedError(f"journal {path} is in use by another program") from error
        if "malformed" in told or "no such" in told:
            raise damaged(path, error) from error
        raise JournalRefusedError(
            f"journal {path} cannot be made or written: {told}. Choose a folder that can be "
            "written and has room, with --journal."
        ) from error
    except KeyError as error:
        raise damaged(path, f"it has no {error.args[0]}") from error
    except (sqlite3.DatabaseError, ValueError, TypeError) as error:
        raise damaged(path, error) from error
