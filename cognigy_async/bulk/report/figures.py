"""Figures of a report, read from a journal."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from pathlib import Path

from cognigy_async._utils.database_lock import is_locked

from ..journal.reading import open_to_read
from ..journal.schema import Status
from ..journal.summary import JournalSummary, summarize

POINTS = 120
"""Time steps in the chart of throughput."""
BINS = 40
MOST_DIALOGS = 15
PERCENTILES = (50, 90, 95, 99)

LATENCY = "settled - sent"


@dataclass(frozen=True, slots=True)
class ReportFigures:
    """Figures of a report, in seconds; times of `throughput` and `pauses` count from the start.

    Attributes:
        step: Length of a step of `throughput`.
        throughput: Rows completed per second, by time.
        pauses: Start and end of each period in which the server refused requests.
        latencies: Lower bound and number of rows of each bin.
        percentiles: Latencies by percentage; 100 is the longest.
        slowest: Dialogs with their longest latency.
        failed: Dialogs with the type of their errors and the number of rows.
    """

    summary: JournalSummary
    step: float
    throughput: tuple[tuple[float, float], ...]
    pauses: tuple[tuple[float, float], ...]
    latencies: tuple[tuple[float, int], ...]
    percentiles: dict[int, float]
    slowest: tuple[tuple[str, float], ...]
    failed: tuple[tuple[str, str, int], ...]


def read_figures(path: Path) -> ReportFigures:
    """Read the figures of a journal.

    Raises:
        JournalRefusedError: The journal does not exist or is damaged.
    """
    is_running = is_locked(path)
    with open_to_read(path) as connection:
        began, ended = connection.execute(
            "SELECT min(coalesce(queued, settled)), max(settled) FROM outcomes"
        ).fetchone()
        began = began or 0.0
        step = max(0.001, ((ended or began) - began) / POINTS)
        return ReportFigures(
            summarize(path, connection, is_running=is_running),
            step,
            tuple(_throughput(connection, began, step)),
            tuple(_pauses(connection, began)),
            tuple(_latencies(connection)),
            _percentiles(connection),
            tuple(
                connection.execute(
                    f"SELECT dialog, max({LATENCY}) AS longest FROM outcomes WHERE sent IS NOT NULL"
                    " GROUP BY dialog ORDER BY longest DESC, dialog LIMIT ?",
                    (MOST_DIALOGS,),
                )
            ),
            tuple(
                connection.execute(
                    "SELECT coalesce(dialog, ''), type, count(*) AS rows FROM outcomes"
                    " JOIN failures USING (line) WHERE status IN (?, ?)"
                    " GROUP BY dialog, type ORDER BY rows DESC, dialog LIMIT ?",
                    (Status.FAILED, Status.AMBIGUOUS, MOST_DIALOGS),
                )
            ),
        )


def _throughput(
    connection: sqlite3.Connection, began: float, step: float
) -> list[tuple[float, float]]:
    counts = dict(
        connection.execute(
            "SELECT CAST((settled - ?) / ? AS INTEGER), count(*) FROM outcomes GROUP BY 1",
            (began, step),
        ).fetchall()
    )
    last = max(counts, default=-1)
    return [(number * step, counts.get(number, 0) / step) for number in range(last + 1)]


def _pauses(connection: sqlite3.Connection, began: float) -> list[tuple[float, float]]:
    found = connection.execute(
        "SELECT at - ?, at - ? + seconds FROM events WHERE what = 'throttled' AND seconds > 0"
        " ORDER BY 1",
        (began, began),
    )
    pauses: list[tuple[float, float]] = []
    for start, end in found:
        if pauses and start <= pauses[-1][1]:
            pauses[-1] = (pauses[-1][0], max(end, pauses[-1][1]))
        else:
            pauses.append((start, end))
    return pauses


def _latencies(connection: sqlite3.Connection) -> list[tuple[float, int]]:
    (longest,) = connection.execute(
        f"SELECT max({LATENCY}) FROM outcomes WHERE sent IS NOT NULL"
    ).fetchone()
    if not longest:
        return []
    width = longest / BINS
    counts = dict(
        connection.execute(
            f"SELECT min(CAST(({LATENCY}) / ? AS INTEGER), ?), count(*) FROM outcomes"
            " WHERE sent IS NOT NULL GROUP BY 1",
            (width, BINS - 1),
        ).fetchall()
    )
    return [(number * width, counts.get(number, 0)) for number in range(BINS)]


def _percentiles(connection: sqlite3.Connection) -> dict[int, float]:
    (count,) = connection.execute("SELECT count(sent) FROM outcomes").fetchone()
    if not count:
        return {}
    found = {}
    for percent in (*PERCENTILES, 100):
        rank = max(0, -(-percent * count // 100) - 1)
        (found[percent],) = connection.execute(
            f"SELECT {LATENCY} FROM outcomes WHERE sent IS NOT NULL ORDER BY 1 LIMIT 1 OFFSET ?",
            (rank,),
        ).fetchone()
    return found
