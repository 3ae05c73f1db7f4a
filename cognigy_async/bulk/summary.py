"""What a journal says, read while a job runs or afterwards."""

from __future__ import annotations

import json
import os
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .lock import owner_of
from .records import Totals, connect_to_read, reading, totals_of


@dataclass(frozen=True, slots=True)
class RunRecord:
    """One run. Times are seconds of the epoch; `ended` is None where it was cut off, or goes on."""

    began: float
    latest: float
    elapsed: float
    requests: int
    ended: str | None


@dataclass(frozen=True, slots=True)
class JournalSummary:
    """What a journal says.

    Attributes:
        owner: the process that works on it now; None where none does.
        source, size: the input and its bytes. read: bytes of it that were read, at least.
        options: that the job was given.
    """

    path: Path
    job_id: str
    owner: dict[str, Any] | None
    source: str
    size: int | None
    read: int
    options: dict[str, Any]
    totals: Totals
    runs: tuple[RunRecord, ...]

    def record(self) -> dict[str, Any]:
        """As `bulk status --json` prints it."""
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
            "retries_by_reason": totals.retries,
            "elapsed": round(totals.elapsed, 3),
            "runs": len(self.runs),
            "ended": self.runs[-1].ended if self.runs else None,
            "options": self.options,
        }


def read_summary(journal: str | os.PathLike[str]) -> JournalSummary:
    """What a journal says; nothing is changed.

    Raises:
        JournalRefusedError: there is none, or it is damaged.
    """
    path = Path(journal)
    with closing(connect_to_read(path)) as connection, reading(path):
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
        owner_of(path),
        source.get("name", "?"),
        source.get("size"),
        read,
        json.loads(meta.get("options", "{}")),
        totals_of(connection),
        tuple(RunRecord(*run) for run in runs),
    )
