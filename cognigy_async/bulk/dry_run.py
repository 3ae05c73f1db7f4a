"""Dry run of a job: report all faults of its input and estimate its requests. Nothing is sent."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cognigy_async import (
    Endpoint,
    Limits,
    RateLimit,
    StateApi,
    StateUpdate,
    UpdateValidationError,
    plan,
)
from cognigy_async.spi import check_message, count_requests, seconds_under

from .column_summary import ColumnReport, ColumnSummary
from .input.reader import open_input
from .input.row import Row, RowFault, faults_of
from .input.row_reader import RowReader, SpilledSet
from .options import JobOptions
from .run import MOST_HELD

HELD = 5000
"""Number of updates that a job holds at a time: half of the client's `max_pending`. Only these
can be coalesced."""
HAS_DIGIT = re.compile(r"\d").search
SAAS_QUOTA = RateLimit(1000, per=300)
"""Quota of the shared hosts, as the tutorial says."""


@dataclass(frozen=True, slots=True)
class DryRun:
    """Result of a dry run.

    Attributes:
        rows: Rows of the job.
        faulty: Rows that are not valid.
        faults: Number of faults in all faulty rows.
        dialogs: Number of dialogs of the valid rows.
        requests: Requests for the valid rows without repeats. With `coalesce` it is an estimate,
            for a job whose rows wait for the quota.
        seconds: Time that these requests take under the quota; None without a quota.
        saas_seconds: Time that they take at 1,000 requests in 5 minutes.
        columns: Columns of a table; none for JSON Lines.
        notes: Remarks for the user about the input.
    """

    rows: int
    faulty: int
    faults: int
    dialogs: int
    requests: int
    seconds: float | None
    saas_seconds: float
    columns: tuple[ColumnReport, ...]
    notes: tuple[str, ...]

    def record(self) -> dict[str, Any]:
        """Return the object that `bulk run --dry-run --json` prints."""
        record = asdict(self)
        del record["notes"]
        return {**record, "columns": [column.record() for column in self.columns]}


def dry_run(
    source: str | Path,
    options: JobOptions,
    *,
    api: StateApi,
    limits: Limits | None = None,
    rate_limit: RateLimit | Sequence[RateLimit] | None = None,
    endpoint: Endpoint | None = None,
    on_fault: Callable[[RowFault], object],
) -> DryRun:
    """Read an input as a job does, and send nothing.

    Args:
        rate_limit: Quota for which the time is computed.
        endpoint: As of the client, for rows with a message.
        on_fault: Called with each fault of each row, in order.

    Raises:
        InputError: The input cannot be read.
    """
    table = options.table_with_texts
    reader = open_input(source, format=options.format, table=table)
    rows = RowReader(reader, options, limits if limits is not None else api.limits, api)
    summary = ColumnSummary(table)
    check = _Check(rows, on_fault, summary, api, endpoint)
    try:
        if options.coalesce:
            requests = sum(
                plan(held, coalesce=True, limits=limits, api=api).requests
                for held in _held_together(check.updates())
            )
        else:
            requests = sum(count_requests(api, update) for update, _ in check.updates())
        dialogs = check.dialogs.count()
    finally:
        rows.close()
        check.dialogs.close()
    table_columns = reader.findings.columns
    columns = () if table_columns is None else summary.reports(table_columns)
    notes = [*reader.notes, *(note for column in columns for note in column.notes())]
    notes += check.notes()
    if not rows.count:
        notes.append(rows.none_found)
    return DryRun(
        rows=rows.count,
        faulty=check.faulty,
        faults=check.faults,
        dialogs=dialogs,
        requests=requests,
        seconds=seconds_under(rate_limit, requests),
        saas_seconds=seconds_under(SAAS_QUOTA, requests) or 0.0,
        columns=columns,
        notes=tuple(notes),
    )


def _held_together(updates: Iterator[tuple[StateUpdate, int]]) -> Iterator[list[StateUpdate]]:
    """Yield the updates that a job holds at a time. Each comes with its bytes."""
    held: list[StateUpdate] = []
    size = 0
    for update, taken in updates:
        held.append(update)
        size += taken
        if len(held) == HELD or size > MOST_HELD:
            yield held
            held, size = [], 0
    yield held


class _Check:
    """Counts the faults and the dialogs of some rows."""

    def __init__(
        self,
        rows: RowReader,
        on_fault: Callable[[RowFault], object],
        summary: ColumnSummary,
        api: StateApi,
        endpoint: Endpoint | None,
    ) -> None:
        self._rows = rows
        self._api = api
        self._endpoint = endpoint
        self._on_fault = on_fault
        self._summary = summary
        self.faulty = 0
        self.faults = 0
        self.dialogs = SpilledSet()
        self._without_digit = 0
        self._last: Row | None = None
        """Latest valid row of a table."""

    def notes(self) -> Iterator[str]:
        """Yield a note if only the id of the last row has no digit, as that of a total line."""
        last, count = self._last, self._rows.count
        if last is None or last.ordinal < count or count - self.faulty < 3:
            return
        if self._without_digit == 1 and not HAS_DIGIT(last.dialog_id or ""):
            yield (
                f"The last row, line {last.line:,}, may be a total line: only its dialog id, "
                f"{last.dialog_id!r}, has no digit. If so, delete it, or add --limit {count - 1}"
            )

    def _check_message(self, row: Row) -> None:
        update = row.update
        if update is not None and (update.inject or update.notify):
            try:
                check_message(self._api, self._endpoint, update)
            except UpdateValidationError as error:
                row.reject(error.with_traceback(None))

    def updates(self) -> Iterator[tuple[StateUpdate, int]]:
        """Yield the updates that would be sent, and the bytes of their rows."""
        for row in self._rows.rows():
            self._check_message(row)
            if row.error is not None:
                table = self._rows.columns
                found = faults_of(row, *((table.names, table.header) if table else ()))
                self.faulty += 1
                self.faults += len(found)
                for fault in found:
                    self._on_fault(fault)
            elif row.update is not None:
                self.dialogs.add(row.update.dialog_id)
                if (table := self._rows.columns) is not None:
                    self._summary.add(row.line, row.update, table.names)
                    self._last = row
                    self._without_digit += not HAS_DIGIT(row.update.dialog_id)
                if row.duplicate_of is None:
                    yield row.update, len(row.source)
