"""Apply a failure: let the dialog wait, pause it or the tenant, or give up.

`RetryPolicy.next_wait` in `retry` computes the wait.
"""

from __future__ import annotations

import math
import random
from logging import INFO, WARNING
from typing import TYPE_CHECKING

from .._utils.logging import log
from ..retry import OUTAGE_KINDS, ResponseKind
from .work_item import READ

if TYPE_CHECKING:
    from .context import Context
    from .dialog_queue import DialogQueue
    from .protocol import RetryLater
    from .scheduler import Scheduler
    from .work_item import WorkItem

SHORTEST_MOMENT = 0.1
"""Seconds. A nearer moment is as good as passed: the tenant backs off as if none was named."""


class Backoff:
    """Decides after a failure whether an item waits for a retry or is given up."""

    def __init__(self, context: Context, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._policy = context.config.retry
        self._clock = context.clock
        self._metrics = context.metrics
        self._adaptive = context.quota.adaptive if context.quota is not None else None

    def failed(self, queue: DialogQueue, failure: RetryLater, began: float) -> bool:
        """Make a queue wait after its head failed. Return False if the head must be given up."""
        scheduler = self._scheduler
        item, kind, error = queue.first, failure.response_kind, failure.error
        retry_state = item.retry_state
        assert retry_state is not None
        if error.retry_after is None:
            error.retry_after = failure.reset_after
        now = self._clock()
        if item.live or kind not in OUTAGE_KINDS:
            retry_state.elapsed += now - began
        wait = item.options.policy.next_wait(retry_state, kind, error, live=item.live, now=now)
        self._throttle(item, failure, began, now, wait)
        if wait is None or item.abandoned:
            return False
        if error.retry_after is not None and scheduler.is_impatient(item, now):
            return False
        if scheduler.may_repeat(queue, kind):
            scheduler.wait(queue, now + wait)
        elif item.live:
            return False
        else:
            probe_at = scheduler.wait_for_server(queue, now)
            if probe_at != math.inf:
                # Report the time of the next probe: nothing is repeated before it.
                wait = max(0.0, probe_at - now)
        self.count(kind.value, item, wait)
        return True

    def _throttle(
        self, item: WorkItem, failure: RetryLater, began: float, now: float, wait: float | None
    ) -> None:
        """Apply Retry-After to the dialog or to the tenant."""
        seconds = failure.error.retry_after
        scheduler = self._scheduler
        if failure.dialog_only:
            if seconds is None:
                seconds = wait if wait is not None else self._policy.backoff(1, failure.error, now)
            scheduler.throttle_dialog(item.dialog_id, now, began, seconds)
            return
        throttled = failure.response_kind is ResponseKind.THROTTLED
        if throttled or (failure.response_kind is ResponseKind.UNAVAILABLE and seconds is not None):
            seconds = seconds or 0.0
            failures = scheduler.tenant.repeats(began)
            if seconds < SHORTEST_MOMENT:
                failures = scheduler.tenant.consecutive_429s + 1
            if failures:
                seconds = max(seconds, self._policy.backoff(failures, failure.error, now))
            scheduler.throttle_tenant(now, began, seconds, random.random())
            if self._adaptive is not None and throttled:
                self._adaptive.on_throttled(now, began, seconds)
            log(WARNING, "tenant throttled for %.1f s", seconds, seconds=seconds, scope="tenant")

    def count(self, reason: str, item: WorkItem, wait: float) -> None:
        """Count and log a retry that follows in `wait` seconds."""
        self._metrics.retries[reason] += 1
        watch = item.options.watch
        if watch is not None:
            watch.retrying(item.index, reason, wait)
        operation = "read" if item.kind is READ else f"update {item.update_id}"
        log(
            INFO,
            "retry %s of dialog %r in %.2f s after attempt %d: %s",
            operation,
            item.dialog_id,
            wait,
            item.attempts,
            reason,
            dialog_id=item.dialog_id,
            update_id=item.update_id,
            attempt=item.attempts,
            reason=reason,
            seconds=wait,
        )
