"""What a failed request leads to: a wait, a pause of the dialog or the tenant, or the end."""

from __future__ import annotations

import math
import random
from logging import INFO, WARNING
from typing import TYPE_CHECKING

from .._utils.logging import log
from ..retry import OUTAGE, Verdict
from .work_item import Kind

if TYPE_CHECKING:
    from .context import Context
    from .dialog_queue import Lane
    from .protocol import Backoff as RetryLater
    from .scheduler import Scheduler
    from .work_item import Entry


class Backoff:
    """Turns a failure into a wait until a moment, or into giving up."""

    def __init__(self, context: Context, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._policy = context.config.retry
        self._clock = context.clock
        self._metrics = context.metrics
        self._learned = context.quota.learned if context.quota is not None else None

    def failed(self, lane: Lane, failure: RetryLater, began: float) -> bool:
        """The head of a lane failed: make the lane wait and return true, or let it be given up."""
        scheduler = self._scheduler
        entry, verdict, error = lane.first, failure.verdict, failure.error
        trouble = entry.trouble
        assert trouble is not None
        now = self._clock()
        if entry.live or verdict not in OUTAGE:
            trouble.spent += now - began
        wait = entry.terms.policy.next_wait(trouble, verdict, error, live=entry.live, now=now)
        self._throttle(entry, failure, began, now, wait)
        if wait is None or entry.abandoned:
            return False
        if scheduler.may_repeat(lane, verdict):
            scheduler.wait(lane, now + wait)
        elif entry.live:
            return False
        else:
            probe = scheduler.wait_for_server(lane, now)
            if probe != math.inf:
                # Until then nothing is repeated, whatever its own backoff is.
                wait = max(0.0, probe - now)
        self.count(verdict.value, entry, wait)
        return True

    def _throttle(
        self, entry: Entry, failure: RetryLater, began: float, now: float, wait: float | None
    ) -> None:
        """Pause whom the server wants to hear nothing from: a dialog, or the tenant."""
        named = failure.error.retry_after
        scheduler = self._scheduler
        if failure.dialog_only:
            if named is None:
                named = wait if wait is not None else self._policy.backoff(1, failure.error, now)
            scheduler.throttle_dialog(entry.dialog_id, now, named)
        elif failure.verdict is Verdict.THROTTLED or (
            failure.verdict is Verdict.UNAVAILABLE and named is not None
        ):
            if named is None:
                named = self._policy.backoff(scheduler.tenant.strikes + 1, failure.error, now)
            scheduler.throttle_tenant(now, began, named, random.random())
            if self._learned is not None and failure.verdict is Verdict.THROTTLED:
                self._learned.throttled(now, began, named)
            log(WARNING, "tenant throttled for %.1f s", named, seconds=named, scope="tenant")

    def count(self, reason: str, entry: Entry, wait: float) -> None:
        """Put a repeat into metrics and log."""
        self._metrics.retries[reason] += 1
        watch = entry.terms.watch
        if watch is not None:
            watch.retrying(entry.index, reason, wait)
        what = "a read" if entry.kind is Kind.READ else f"update {entry.update_id}"
        log(
            INFO,
            "retry of %s of dialog %r in %.2f s: %s",
            what,
            entry.dialog_id,
            wait,
            reason,
            dialog_id=entry.dialog_id,
            update_id=entry.update_id,
            attempt=entry.attempts,
            reason=reason,
            seconds=wait,
        )
