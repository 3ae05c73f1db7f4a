"""Conditions under which a job stops by itself. This module uses no IO and no clock."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, TypeAlias

from .options import JobOptions

Ended: TypeAlias = Literal["complete", "stopped", "interrupted"]

FIRST_FAILURE = "a row was not applied, and on_failure is stop"
MIN_ROWS_FOR_RATE = 100
"""Number of completed rows from which the failure rate is checked, except for the canary."""


class StopConditions:
    """Counts of completed rows, and the limits they must not exceed.

    Args:
        canary: Number of rows to run first; 0 for no canary.
        done, failed: Completed rows of earlier runs.
    """

    def __init__(self, options: JobOptions, canary: int, done: int, failed: int) -> None:
        self._stops_at_failure = options.on_failure == "stop"
        self._max_failures = options.max_failures
        self._rate = options.allowed_rate
        self.canary = canary
        self._canary_done = 0
        self._canary_failed = 0
        self.done = done
        self.failed = failed
        self._failed_before = failed

    @property
    def canary_is_done(self) -> bool:
        """Return whether the canary has no rows left to wait for."""
        return self._canary_done >= self.canary

    def skip(self, done: Iterable[int], failed: Iterable[int]) -> None:
        """Count rows of earlier runs for the canary only; the totals already include them.

        Args:
            done, failed: Ordinals of the completed rows, and of the failed ones among them.
        """
        if self.canary:
            self._canary_done += sum(ordinal <= self.canary for ordinal in done)
            self._canary_failed += sum(ordinal <= self.canary for ordinal in failed)

    def complete(self, ordinal: int, *, ok: bool) -> None:
        """Count a completed row."""
        self.done += 1
        self.failed += not ok
        if ordinal <= self.canary:
            self._canary_done += 1
            self._canary_failed += not ok

    def hold(self, ordinal: int) -> None:
        """Count a row that is left to the next run; the canary does not wait for it."""
        self._canary_done += ordinal <= self.canary

    def reason_to_stop(self) -> str | None:
        """Return why the job must stop, or None.

        Limits apply to all runs together, but a failure of an earlier run does not stop this one.
        """
        if self._stops_at_failure and self.failed > self._failed_before:
            return FIRST_FAILURE
        if self._max_failures is not None and self.failed > self._max_failures:
            rows = "1 row was" if self.failed == 1 else f"{self.failed} rows were"
            return f"{rows} not applied, more than max_failures={self._max_failures}"
        if self.canary:
            if not self.canary_is_done:
                return None
            allowed = self._rate or 0.0
            if self._canary_failed > allowed * self._canary_done:
                return (
                    f"{self._canary_failed} of the first {self._canary_done} rows, the canary, "
                    f"failed, more than max_failure_rate={allowed:g}"
                )
        if self._rate is None:
            return None
        if self.done >= MIN_ROWS_FOR_RATE and self.failed > self._rate * self.done:
            return (
                f"{self.failed} of {self.done} rows failed, more than "
                f"max_failure_rate={self._rate:g}"
            )
        return None
