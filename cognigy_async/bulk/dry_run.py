"""Dry run of a job: report all faults of its input and estimate its requests. Nothing is sent."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
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

from .baseline import Baseline
from .baseline_filter import BaselineFilter
from .column_summary import ColumnReport, ColumnSummary
from .input.reader import open_input
from .input.row import Row, RowFault, faults_of
from .input.row_reader import RowReader, SpilledSet
from .late_rows import HELD, SAAS_QUOTA, LateRowCounter, LateRows
from .options import JobOptions
from .run import MOST_HELD

HAS_DIGIT = re.compile(r"\d").search


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
        saas_seconds: Time that they take at 1,000 requests in 5 minutes, the quota of shared SaaS.
        columns: Columns of a table; none for JSON Lines.
        notes: Remarks for the user about the input.
        late: Valid rows that cannot be sent before their sessions end, if the job begins now; None
            if there are none.
        unchanged: Rows that would change nothing, as the baseline says; None without a baseline.
        saved_requests: Requests that the job needs less because of its baseline, if each row is
            applied; None without a baseline.
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
    late: LateRows | None
    unchanged: int | None = None
    saved_requests: int | None = None

    def record(self) -> dict[str, Any]:
        """Return the object that `bulk run --dry-run --json` prints."""
        record = asdict(self)
        del record["notes"]
        if self.unchanged is None:
            del record["unchanged"], record["saved_requests"]
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
        JournalRefusedError: The baseline cannot be used.
    """
    table = options.table_with_texts
    reader = open_input(source, format=options.format, table=table)
    rows = RowReader(reader, options, limits if limits is not None else api.limits, api)
    summary = ColumnSummary(table)
    ends_at = None if options.session_ttl is None else time.time() + options.session_ttl
    late = LateRowCounter(rate_limit, ends_at, coalesce=options.coalesce)
    check = _Check(rows, on_fault, summary, api, endpoint)
    all_rows, changes = (_RequestCount(options, limits, api) for _ in range(2))
    unchanged = 0
    try:
        with _opened_baseline(options, api) as baseline:
            for row, update in check.valid_rows():
                requests = count_requests(api, update)
                all_rows.add(update, len(row.source), requests)
                if baseline is None:
                    late.add(row, requests)
                elif baseline.foresee(row):
                    assert row.update is not None
                    requests = count_requests(api, row.update)
                    changes.add(row.update, len(row.source), requests)
                    late.add(row, requests)
                else:
                    unchanged += 1
        dialogs = check.dialogs.count()
    finally:
        rows.close()
        check.dialogs.close()
    requests = total = all_rows.count()
    if options.baseline is not None:
        requests = changes.count()
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
        late=late.result(),
        unchanged=None if options.baseline is None else unchanged,
        saved_requests=None if options.baseline is None else total - requests,
    )


@contextmanager
def _opened_baseline(options: JobOptions, api: StateApi) -> Iterator[BaselineFilter | None]:
    """Yield a filter with a scratch copy of the baseline; None without a baseline."""
    if options.baseline is None:
        yield None
        return
    baseline = Baseline.scratch(Path(options.baseline))
    try:
        yield BaselineFilter(
            baseline,
            options,
            keeps_other_variables=api.keeps_other_variables,
            user_id=getattr(api, "user_id", None),
        )
    finally:
        baseline.close()


class _RequestCount:
    """Counts the requests of updates. With `coalesce`, those that a job holds together share some.

    See `DryRun.requests`.
    """

    def __init__(self, options: JobOptions, limits: Limits | None, api: StateApi) -> None:
        self._coalesce = options.coalesce
        self._limits = limits
        self._api = api
        self._held: list[StateUpdate] = []
        self._size = 0
        self._requests = 0

    def add(self, update: StateUpdate, size: int, requests: int) -> None:
        """Add an update, whose row has `size` bytes, and that takes so many requests alone."""
        if not self._coalesce:
            self._requests += requests
            return
        self._held.append(update)
        self._size += size
        if len(self._held) == HELD or self._size > MOST_HELD:
            self.count()

    def count(self) -> int:
        """Return the number of requests for the updates so far."""
        if self._held:
            planned = plan(self._held, coalesce=True, limits=self._limits, api=self._api)
            self._requests += planned.requests
            self._held, self._size = [], 0
        return self._requests


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

    def valid_rows(self) -> Iterator[tuple[Row, StateUpdate]]:
        """Yield the rows that a job without a baseline would send, and their updates."""
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
                    yield row, row.update
