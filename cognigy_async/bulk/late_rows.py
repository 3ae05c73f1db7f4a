"""Estimate which rows of a job cannot be sent before their sessions end."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from cognigy_async import AsyncStateClient, QuotaUse, RateLimit
from cognigy_async.spi import count_requests, seconds_under

from .baseline_filter import BaselineFilter
from .errors import InputError
from .input.reader import open_input
from .input.row import EXPIRES_AT, Row
from .input.row_reader import RowReader
from .options import JobOptions
from .resume import EXPIRES_AT_NAME, OpenedJob

HELD = 5000
"""Number of updates that a job holds at a time: half of the client's `max_pending`. Only these
can be coalesced."""
SAAS_QUOTA = RateLimit(1000, per=300)
"""Quota of shared SaaS for each calling address (docs.cognigy.com, "Quotas and Limits")."""


@dataclass(frozen=True, slots=True)
class LateRows:
    """Rows that cannot be sent before their sessions end, if no request is repeated.

    Attributes:
        rows: Number of these rows.
        ended: Number of those among them whose time had passed when the estimate was made.
        first_line: First line of these rows.
        assumed: True if no rate limit is known, and 1,000 requests in 5 minutes are assumed.
    """

    rows: int
    ended: int
    first_line: int
    assumed: bool

    def __str__(self) -> str:
        quota = "at 1,000 requests in 5 minutes" if self.assumed else "under the rate limit"
        what = "row cannot be sent before its session ends"
        if self.rows > 1:
            what = "rows cannot be sent before their sessions end"
        past = f" The time of {self.ended:,} has passed already." if self.ended else ""
        return (
            f"{self.rows:,} {what}, {quota}; the first is on line {self.first_line:,}.{past} A row "
            "becomes a dead letter when its time has passed. Put rows of sessions that end soon "
            "first, or send fewer rows."
        )


class LateRowCounter:
    """Counts the rows of a job that cannot be sent in time.

    Args:
        rate_limit: Quota of the job; none stands for that of shared SaaS.
        ends_at: Seconds of the epoch at which all sessions end; None if only the rows tell.
    """

    def __init__(
        self,
        rate_limit: RateLimit | Sequence[RateLimit] | None,
        ends_at: float | None,
        *,
        coalesce: bool,
    ) -> None:
        self._quota = rate_limit or SAAS_QUOTA
        self._assumed = not rate_limit
        self._ends_at = math.inf if ends_at is None else ends_at
        self._now = time.time()
        self._waiting: set[str] | None = set() if coalesce else None
        """Dialogs with a row among those that the job holds at the same time."""
        self._held = 0
        self._requests = self._rows = self._ended = self._first_line = 0

    def add(self, row: Row, requests: int) -> None:
        """Count a row that would be sent, and takes so many requests if it shares none."""
        assert row.dialog_id is not None
        total = self._requests + (requests if self._is_alone(row.dialog_id) else 0)
        ends_at = self._ends_at if row.expires_at is None else min(row.expires_at, self._ends_at)
        if ends_at < math.inf:
            wait = seconds_under(self._quota, total) or 0.0
            if self._now + wait >= ends_at:
                self._rows += 1
                self._ended += ends_at <= self._now
                self._first_line = self._first_line or row.line
                return
        self._requests = total

    def _is_alone(self, dialog_id: str) -> bool:
        """Return whether a row shares no request with those before it."""
        if self._waiting is None:
            return True
        if self._held == HELD:
            self._waiting.clear()
            self._held = 0
        self._held += 1
        is_alone = dialog_id not in self._waiting
        self._waiting.add(dialog_id)
        return is_alone

    def result(self) -> LateRows | None:
        """Return what was found; None if all rows can be sent in time."""
        if not self._rows:
            return None
        return LateRows(self._rows, self._ended, self._first_line, self._assumed)


def find_late_rows(
    source: str | Path,
    options: JobOptions,
    opened: OpenedJob,
    client: AsyncStateClient,
    quota: Sequence[QuotaUse],
    changes: BaselineFilter | None,
) -> LateRows | None:
    """Read the input of a job that begins, and return the rows that cannot be sent in time.

    Only for a job whose `OpenedJob.may_have_ends` is True.

    Args:
        changes: With a scratch copy of the baseline; None without a baseline.
    """
    with suppress(InputError):  # The job itself reports it, after the rows before.
        if opened.ends_at is None and not _has_expiry(source, options):
            return None
        limits = [RateLimit(use.n, per=use.per) for use in quota]
        counter = LateRowCounter(limits, opened.ends_at, coalesce=options.coalesce)
        reader = open_input(source, format=options.format, table=options.table_with_texts)
        rows = RowReader(reader, options, client.limits, client.api, opened.journal)
        try:
            for row in rows.rows():
                if row.update is None or row.duplicate_of is not None:
                    continue
                if changes is None or changes.foresee(row):
                    counter.add(row, count_requests(client.api, row.update))
        except InputError:
            pass
        finally:
            rows.close()
        return counter.result()
    return None


def _has_expiry(source: str | Path, options: JobOptions) -> bool:
    """Return whether any row of a file may name the end of its session."""
    reader = open_input(source, format=options.format, table=options.table_with_texts)
    try:
        for block in reader:
            if (columns := reader.findings.columns) is not None:
                return EXPIRES_AT in columns.names
            if any(isinstance(text, bytes) and EXPIRES_AT_NAME in text for _, text, _ in block):
                return True
        return False
    finally:
        reader.close()
