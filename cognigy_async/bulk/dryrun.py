"""The dry run: everything that is wrong with an input, and what it would take. Nothing is sent."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice, repeat
from pathlib import Path
from typing import Any

from cognigy_async import Limits, RateLimit, StateApi, StateUpdate, plan

from .intake import Intake
from .options import JobOptions
from .readers import open_input
from .rows import RowFault, faults_of
from .seen import Distinct

HELD = 5000
"""Updates that a job holds at a time, half of the client's `max_pending`: more than those never
wait for the same dialog together."""


@dataclass(frozen=True, slots=True)
class DryRun:
    """What a dry run found.

    Attributes:
        rows: of the job. faulty: those of them that are not valid. faults: what is wrong with them.
        dialogs: different ones, of the valid rows.
        requests: that carry the valid rows, without repeats; with `coalesce` about as many as a job
            sends whose rows wait for the quota.
        seconds: that those take under the quota; None where no quota was given.
        notes: what a user should know of the input.
    """

    rows: int
    faulty: int
    faults: int
    dialogs: int
    requests: int
    seconds: float | None
    notes: tuple[str, ...]

    def record(self) -> dict[str, Any]:
        """As `bulk run --dry-run --json` prints it."""
        return {name: value for name, value in asdict(self).items() if name != "notes"}


def dry_run(
    source: str | Path,
    options: JobOptions,
    *,
    api: StateApi,
    limits: Limits | None = None,
    rate_limit: RateLimit | Sequence[RateLimit] | None = None,
    on_fault: Callable[[RowFault], object],
) -> DryRun:
    """Read an input the way a job does.

    Args:
        rate_limit: under which the time is told.
        on_fault: called with each fault of each row, in order.

    Raises:
        InputError: it cannot be read.
    """
    reader = open_input(source, format=options.format, text_columns=tuple(options.text_columns))
    checked = limits if limits is not None else api.limits
    intake = Intake(reader, checked, options.selection, api=api)
    count = _Count(intake, on_fault)
    try:
        if options.coalesce:
            requests = _coalesced(count.updates(), limits, api)
        else:
            requests = sum(count.requests(update, api) for update in count.updates())
    finally:
        intake.close()
    notes = list(reader.notes)
    if not intake.count:
        notes.append(options.selection.told_of_nothing)
    return DryRun(
        rows=intake.count,
        faulty=count.faulty,
        faults=count.faults,
        dialogs=count.dialogs.count(),
        requests=requests,
        seconds=_seconds(requests, rate_limit),
        notes=tuple(notes),
    )


def _coalesced(updates: Iterator[StateUpdate], limits: Limits | None, api: StateApi) -> int:
    """How many requests carry updates that wait together."""
    requests = 0
    while held := list(islice(updates, HELD)):
        requests += plan(held, coalesce=True, limits=limits, api=api).requests
    return requests


def _seconds(requests: int, rate_limit: RateLimit | Sequence[RateLimit] | None) -> float | None:
    """How long so many requests take."""
    if not rate_limit:
        return None
    # A plan of the rows themselves would keep the name of each dialog.
    one = StateUpdate("-", next_step="-")
    return plan(repeat(one, requests), rate_limit=rate_limit).seconds


class _Count:
    def __init__(self, intake: Intake, on_fault: Callable[[RowFault], object]) -> None:
        self._intake = intake
        self._on_fault = on_fault
        self.faulty = 0
        self.faults = 0
        self.dialogs = Distinct()

    def updates(self) -> Iterator[StateUpdate]:
        """The valid ones that would be sent."""
        for row in self._intake.rows():
            if row.error is not None:
                found = faults_of(row)
                self.faulty += 1
                self.faults += len(found)
                for fault in found:
                    self._on_fault(fault)
            elif row.update is not None:
                self.dialogs.add(row.update.dialog_id)
                if row.repeats is None:
                    yield row.update

    @staticmethod
    def requests(update: StateUpdate, api: StateApi) -> int:
        """How many one of them takes."""
        return len(api.writes("", update, "-"))
