"""Summary of a journal, read while its job runs or afterwards."""

from __future__ import annotations

import json
import os
import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cognigy_async._utils.database_lock import is_locked

from .journal import read_totals
from .reading import open_to_read, parse_object
from .schema import Totals


@dataclass(frozen=True, slots=True)
class RunSummary:
    """One run. Times are seconds of the epoch; `ended` is None if it was cut off or still runs."""

    began: float
    latest: float
    elapsed: float
    requests: int
    ended: str | None


@dataclass(frozen=True, slots=True)
class JournalSummary:
    """The state of a job.

    Attributes:
        owner: Process that works on the job now; None if there is none.
        source, size: Input and its size in bytes; None if unknown.
        read: Bytes of the input read so far, at least. The rows in them may not be done.
        total: Number of rows of the job, an estimate unless `counted` is True; None if unknown.
        counted: True if `total` is exact.
        options: Options of the job.
    """

    path: Path
    job_id: str
    owner: dict[str, Any] | None
    source: str
    size: int | None
    read: int
    options: dict[str, Any]
    totals: Totals
    runs: tuple[RunSummary, ...]
    total: int | None
    counted: bool

    @property
    def left(self) -> int | None:
        """Number of rows that are not done; None if unknown."""
        return None if self.total is None else max(0, self.total - self.totals.completed)

    def record(self) -> dict[str, Any]:
        """Return the object that `bulk status --json` prints."""
        totals = self.totals
        unchanged = {"unchanged": totals.unchanged} if "baseline" in self.options else {}
        return {
            "job": self.job_id,
            "running": self.owner is not None,
            "owner": self.owner,
            "input": self.source,
            "succeeded": totals.succeeded,
            "failed": totals.failed,
            "ambiguous": totals.ambiguous,
            **unchanged,
            "left": self.left,
            "requests": totals.requests,
            "retries": sum(totals.retries.values()),
            "retries_by_reason": dict(totals.retries),
            "elapsed": round(totals.elapsed, 3),
            "runs": len(self.runs),
            "ended": self.runs[-1].ended if self.runs else None,
            "options": self.options,
        }


def read_summary(journal: str | os.PathLike[str]) -> JournalSummary:
    """Read the summary of a journal without changing it.

    Raises:
        JournalRefusedError: The journal does not exist or is damaged.
    """
    path = Path(journal)
    is_running = is_locked(path)
    with open_to_read(path) as connection:
        return summarize(path, connection, is_running=is_running)


def summarize(path: Path, connection: sqlite3.Connection, *, is_running: bool) -> JournalSummary:
    """Return the summary of an open journal."""
    meta = dict(connection.execute("SELECT key, value FROM meta"))
    source = parse_object(meta.get("input", "{}"))
    size = source.get("size")
    if not isinstance(size, int | None):
        raise ValueError("the size of its input is not a number")
    total, counted = json.loads(meta.get("total", "[null, false]"))
    if not isinstance(total, int | None):
        raise ValueError("the number of its rows is not a number")
    runs = connection.execute(
        "SELECT began, latest, elapsed, requests, ended FROM runs ORDER BY run"
    )
    (read,) = connection.execute("SELECT coalesce(max(offset), 0) FROM marks").fetchone()
    return JournalSummary(
        path,
        meta["job"],
        parse_object(meta.get("owner", "{}")) if is_running else None,
        str(source.get("name", "?")),
        size,
        read,
        parse_object(meta.get("options", "{}")),
        read_totals(connection),
        tuple(RunSummary(*run) for run in runs),
        total,
        counted is True,
    )
