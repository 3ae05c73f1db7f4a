"""Summary of a journal, read while its job runs or afterwards."""

from __future__ import annotations

import json
import os
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .journal import connect_read_only, read_totals, refuse_unreadable
from .lock import lock_owner
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
        read: Bytes of the input read so far, at least.
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

    def record(self) -> dict[str, Any]:
        """Return the object that `bulk status --json` prints."""
        totals = self.totals
        return {
            "job": self.job_id,
            "running": self.owner is not None,
            "owner": self.owner,
            "input": self.source,
            "succeeded": totals.succeeded,
            "failed": totals.failed,
            "ambiguous": totals.ambiguous,
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
    with closing(connect_read_only(path)) as connection, refuse_unreadable(path):
        return _summary(path, connection)


def _summary(path: Path, connection: sqlite3.Connection) -> JournalSummary:
    meta = dict(connection.execute("SELECT key, value FROM meta"))
    source = json.loads(meta.get("input", "{}"))
    runs = connection.execute(
        "SELECT began, latest, elapsed, requests, ended FROM runs ORDER BY run"
    )
    (read,) = connection.execute("SELECT coalesce(max(offset), 0) FROM marks").fetchone()
    return JournalSummary(
        path,
        meta["job"],
        lock_owner(path),
        source.get("name", "?"),
        source.get("size"),
        read,
        json.loads(meta.get("options", "{}")),
        read_totals(connection),
        tuple(RunSummary(*run) for run in runs),
    )
