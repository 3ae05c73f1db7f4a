"""`cognigy-async bulk run --dry-run`: check an input, and say how long its job takes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from rich.cells import cell_len, set_cell_size

from cognigy_async import ConfigurationError, Endpoint, RateLimit, RuntimeApi, StateApi
from cognigy_async.bulk import (
    ColumnReport,
    DryRun,
    JobOptions,
    JournalRefusedError,
    RowFault,
    dry_run,
    read_summary,
)
from cognigy_async.integrations.settings import Settings, name_settings

from .._options import LimitOptions, settings_file
from .._output import (
    counted,
    duration,
    is_verbose,
    note,
    printable,
    say,
    write_json,
    write_result,
)
from .._run import NOT_APPLIED

FAULTS_OF_A_KIND = 3
"""Faults of one kind in one column that a dry run lists, before it only counts them."""
MOST_KINDS = 1000
"""Most kinds of faults that a dry run counts. Others are listed."""
MOST_COLUMNS = 50
"""Most columns that a dry run shows."""
ASSUMED_LATENCY = 0.1
"""Seconds that a request takes, where no earlier run has measured it."""


@dataclass(frozen=True, slots=True)
class Pace:
    """The pace at which a job sends its requests, for an estimate of its time.

    Attributes:
        journal: File with the earlier runs of the job, which may be missing.
        max_in_flight: Most concurrent requests.
    """

    journal: Path
    max_in_flight: int

    def measured(self) -> float | None:
        """Return the requests per second of the earlier runs; None if there are none."""
        if not self.journal.exists():
            return None
        try:
            runs = read_summary(self.journal).runs
        except JournalRefusedError:
            return None
        requests = sum(run.requests for run in runs)
        # A run that had nothing left to send measured nothing.
        elapsed = sum(run.elapsed for run in runs if run.requests)
        return requests / elapsed if requests and elapsed else None


def check(
    file: str,
    options: JobOptions,
    rate_limit: tuple[RateLimit, ...] | None,
    limit_options: LimitOptions,
    env_file: Path | None,
    pace: Pace,
    *,
    as_json: bool,
) -> int:
    """Check an input and print what was found; return the exit status."""
    api: StateApi = RuntimeApi()
    endpoint: Endpoint | None = None
    try:
        arguments = Settings(env_file=settings_file(env_file)).client_arguments()
        api, endpoint = arguments["api"], arguments["endpoint"]
        if rate_limit is None and isinstance(arguments["rate_limit"], tuple):
            rate_limit = arguments["rate_limit"]
    except ConfigurationError as error:
        note(f"Note: these settings do not allow a real run yet. {name_settings(str(error))}")
    kinds = _Faults(say if as_json else write_result)
    limits = limit_options.apply(api.limits)
    found = dry_run(
        file,
        options,
        api=api,
        limits=limits,
        rate_limit=rate_limit,
        endpoint=endpoint,
        on_fault=kinds.add,
    )
    kinds.write_rest()
    for line in found.notes:
        note(f"Note: {line}")
    speed = pace.measured()
    if as_json:
        measured = None if speed is None else found.requests / speed
        write_json({**found.record(), "measured_seconds": measured})
    else:
        for line in _table(found.columns):
            write_result(line)
        rows, dialogs = counted(found.rows, "row"), counted(found.dialogs, "dialog")
        requests, seconds = counted(found.requests, "request"), found.seconds or 0
        quota = f", {duration(seconds)} under the rate limit" if seconds >= 1 else ""
        faults = "no faults"
        if found.faulty:
            faults = f"{counted(found.faulty, 'row')} with {counted(found.faults, 'fault')}"
        saved = ""
        if found.saved_requests is not None:
            saved = f", {found.saved_requests:,} saved by the baseline"
        verdict = "OK" if found.rows and not found.faulty else "Invalid"
        write_result(f"{verdict}: {rows}, {dialogs}, {requests}{saved}{quota}; {faults}")
        if time := _time(found, speed, pace.max_in_flight):
            write_result(f"{time}.")
        if found.late is not None:
            write_result(f"Too late: {found.late}")
    return 0 if found.rows and not found.faulty else NOT_APPLIED


class _Faults:
    """The faults of a dry run, of which the first few of each kind in each column are written.

    With `--verbose`, all are written.
    """

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self._most = math.inf if is_verbose() else FAULTS_OF_A_KIND
        self._kinds: dict[tuple[str, str, str], tuple[RowFault, int]] = {}
        """The first fault and the number of faults of each kind."""

    def add(self, fault: RowFault) -> None:
        """Count a fault, and write it if it is one of the first of its kind."""
        kind = (fault.path, fault.problem, fault.remedy)
        first, count = self._kinds.get(kind, (fault, 0))
        if count or len(self._kinds) < MOST_KINDS:
            self._kinds[kind] = first, count + 1
        if count < self._most:
            self._write(name_settings(str(fault)))

    def write_rest(self) -> None:
        """Write how many faults of each kind were not written."""
        for first, count in self._kinds.values():
            if count > self._most:
                where = first.path if first.title is None else f"the column {first.title!r}"
                self._write(
                    f"{counted(count - FAULTS_OF_A_KIND, 'more fault')} like that of line "
                    f"{first.line} in {where}: {first.problem}; {name_settings(first.remedy)}. "
                    "--verbose lists all of them."
                )


def _time(found: DryRun, speed: float | None, max_in_flight: int) -> str:
    """Describe the time that a job takes: the longer of its waits and of its requests.

    Return "" if there is no more to say than the time under the rate limit, which is printed
    before.

    Args:
        speed: Requests per second that earlier runs measured.
    """
    wait, quota = found.seconds, "under the rate limit"
    if wait is None:
        wait, quota = found.saas_seconds, "at 1,000 requests in 5 minutes"
    if speed is not None:
        seconds = found.requests / speed
        source = f"at the {speed:,.3g} requests/s of earlier runs"
    else:
        # Requests of one dialog follow each other.
        in_flight = max(min(max_in_flight, found.dialogs), 1)
        seconds = found.requests * ASSUMED_LATENCY / in_flight
        source = f"at {duration(ASSUMED_LATENCY)} a request and {in_flight} in flight"
    requests = f"{_about(seconds)} {source}"
    if wait < 1:
        return f"It takes {requests}"
    waits = f"{duration(wait)} {quota}"
    if seconds > wait:
        return f"It takes {requests}, and at least {waits}"
    if speed is not None:
        return f"It takes {waits}, {requests}"
    return f"It takes {waits}" if found.seconds is None else ""


def _about(seconds: float) -> str:
    return "less than a second" if seconds < 1 else f"about {duration(seconds)}"


def _table(columns: Sequence[ColumnReport]) -> Iterator[str]:
    """Yield the lines of a table of columns, their types and some values."""
    if not columns:
        return
    lines = [("column", "field", "type", "examples")]
    for column in columns[:MOST_COLUMNS]:
        is_passed_over = column.field.startswith("_")
        kind = "passed over" if is_passed_over else column.type or "empty"
        lines.append((column.name, column.field, kind, " | ".join(column.examples)))
    lines = [cast("tuple[str, str, str, str]", tuple(map(printable, line))) for line in lines]
    widths = [max(cell_len(line[at]) for line in lines) for at in range(3)]
    for line in lines:
        cells = [set_cell_size(cell, width) for cell, width in zip(line, widths, strict=False)]
        yield "  ".join([*cells, line[3]]).rstrip()
    if len(columns) > MOST_COLUMNS:
        yield f"and {len(columns) - MOST_COLUMNS:,} more columns, which --json has"
