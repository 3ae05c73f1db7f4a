"""What a run counts, and what that means for going on. Pure: no IO, no clock."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from cognigy_async import CognigyError

from .options import SETTLED_BEFORE_RATE, JobOptions

FIRST_FAILURE = "a row was not applied, and on_failure is stop"

Ended = Literal["complete", "stopped", "interrupted"]


@dataclass(frozen=True, slots=True)
class JobResult:
    """What a job came to, all of its runs together.

    Attributes:
        inputs: rows that belong to the job, as far as the input was read.
        succeeded, failed, ambiguous: rows that are done, by outcome.
        pending: rows that are not done: held back behind a failure, or the job did not get there.
        skipped: rows that were done before this run.
        requests: sent to the API. retries: those of them that repeated one that failed.
        retries_by_reason: as in `Metrics.retries`.
        elapsed: seconds.
        quota_utilisation: the share of the quota that was used, of this run; None without quota.
        ended: ``"complete"``, ``"stopped"`` by itself, or ``"interrupted"`` from outside.
        reason: why it stopped.
        fault: what it could not get over: an `InputError`, a `JournalError`, an
            `AuthenticationError`, a `ClientClosedError`; None where there was no such thing.
        notes: what a user should know of the input, and of events that were left to callbacks.
    """

    inputs: int
    succeeded: int
    failed: int
    ambiguous: int
    pending: int
    skipped: int
    requests: int
    retries: int
    retries_by_reason: dict[str, int]
    elapsed: float
    quota_utilisation: float | None
    ended: Ended
    reason: str | None
    fault: CognigyError | None
    notes: tuple[str, ...]

    @property
    def at_limit(self) -> bool:
        """Whether it stopped for more failures than its options allow, and would so again."""
        return self.ended == "stopped" and self.fault is None and self.reason != FIRST_FAILURE

    @property
    def ok(self) -> bool:
        """Whether every row was applied."""
        return self.ended == "complete" and self.succeeded == self.inputs

    def record(self) -> dict[str, Any]:
        """As `bulk run --json` prints it."""
        return {
            "inputs": self.inputs,
            "succeeded": self.succeeded,
            "failed": self.failed,
            "ambiguous": self.ambiguous,
            "skipped": self.skipped,
            "pending": self.pending,
            "requests": self.requests,
            "retries": self.retries,
            "elapsed": round(self.elapsed, 3),
            "quota_utilisation": self.quota_utilisation,
            "ended": self.ended,
        }


class Ledger:
    """Counts the rows of a run, and says when there are too many failures.

    Args:
        canary: how many rows come first; 0 for none.
        done, failed: rows of earlier runs.
    """

    def __init__(self, options: JobOptions, canary: int, done: int, failed: int) -> None:
        self._options = options
        self.canary = canary
        self.canary_done = 0
        self.canary_failed = 0
        self.done = done
        self.failed = failed
        self._failed_before = failed
        self.held = 0
        """Rows that were held back behind a failure of their dialog."""

    @property
    def canary_is_done(self) -> bool:
        """Whether the rows that come first are done."""
        return self.canary_done >= self.canary

    def passed_over(self, done: Iterable[int], failed: Iterable[int]) -> None:
        """Ordinals of rows that were done before; they are in `done` already."""
        if self.canary:
            self.canary_done += sum(ordinal <= self.canary for ordinal in done)
            self.canary_failed += sum(ordinal <= self.canary for ordinal in failed)

    def settled(self, ordinal: int, *, ok: bool) -> None:
        """A row is done."""
        self.done += 1
        self.failed += not ok
        if ordinal <= self.canary:
            self.canary_done += 1
            self.canary_failed += not ok

    def hold(self, ordinal: int) -> None:
        """A row is held back; the canary does not wait for it."""
        self.held += 1
        self.canary_done += ordinal <= self.canary

    def verdict(self) -> str | None:
        """Why the job has to stop; None where it may go on.

        Limits are of all runs. A failure that stopped an earlier run does not stop this one.
        """
        options = self._options
        if options.on_failure == "stop" and self.failed > self._failed_before:
            return FIRST_FAILURE
        if options.max_failures is not None and self.failed > options.max_failures:
            most = options.max_failures
            return f"of the rows {_rows(self.failed)} not applied, more than max_failures={most}"
        if self.canary:
            if not self.canary_is_done:
                return None
            allowed = options.rate or 0.0
            if self.canary_failed > allowed * self.canary_done:
                return (
                    f"of the {self.canary_done} rows that came first, the canary, "
                    f"{_rows(self.canary_failed)} not applied, more than "
                    f"max_failure_rate={allowed:g}"
                )
        if options.rate is None:
            return None
        if self.done >= SETTLED_BEFORE_RATE and self.failed > options.rate * self.done:
            return (
                f"of {self.done} rows {_rows(self.failed)} not applied, more than "
                f"max_failure_rate={options.rate:g}"
            )
        return None


def _rows(number: int) -> str:
    return "1 was" if number == 1 else f"{number} were"
