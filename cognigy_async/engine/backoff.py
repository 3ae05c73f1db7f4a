"""Apply a failure: let the dialog wait, pause it or the tenant, or give up.

`RetryPolicy.next_wait` in `retry` computes the wait.
"""

from __future__ import annotations

import math
import random
from logging import INFO
from typing import TYPE_CHECKING

from .._utils.logging import log
from ..errors import AuthenticationError
from ..retry import OUTAGE_KINDS, ResponseKind
from .work_item import READ, WRITE, Action

if TYPE_CHECKING:
    from ..retry import RetryState
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
        self._protocol = context.protocol
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
        is_outage = kind in OUTAGE_KINDS and not item.live
        if is_outage:
            self._judge(item, retry_state, began, now)
        if retry_state.is_blamed or not is_outage:
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
        # A missing token is logged as such, and says nothing about the server.
        is_token = isinstance(error, AuthenticationError)
        if kind in OUTAGE_KINDS and error.retry_after is None and not is_token:
            scheduler.server_failed(kind.value, now)
        self.count(kind.value, item, wait)
        return True

    def _judge(self, item: WorkItem, retry_state: RetryState, began: float, now: float) -> None:
        """Decide whether a bulk update is to blame for its failure, or a server that is away.

        The update is to blame if the server served others. If it served none, `may_send` decides
        later. If no update is left that could be served, a read of another dialog shows before
        the next attempt whether the server serves at all.
        """
        if item.action is Action.PROBE:
            # Perhaps only reads fail: the next request is the write itself.
            item.action = WRITE
            return
        retry_state.failed_at = now
        retry_state.is_blamed = self._served_at(item) > began
        if retry_state.is_blamed or self._scheduler.queues.has_fresh_bulk():
            return
        if item.action is WRITE:
            can_probe = not item.to_endpoint and self._protocol.probe_next(item)
            retry_state.is_blamed = retry_state.was_blamed and not can_probe

    def _served_at(self, item: WorkItem) -> float:
        """Return when the service of an item's next request last served a request."""
        scheduler = self._scheduler
        is_message = item.action is WRITE and item.to_endpoint
        return scheduler.endpoint_served_at if is_message else scheduler.served_at

    def may_send(self, item: WorkItem, retry_state: RetryState) -> bool:
        """Count the last failure if the server has served others since then.

        Return False if the item must be given up.
        """
        failed_at = retry_state.failed_at
        if failed_at is None or self._served_at(item) < failed_at:
            return True
        retry_state.was_blamed = True
        if retry_state.is_blamed:
            return True
        retry_state.is_blamed = True
        retry_state.counted_failures += 1
        if item.action is Action.PROBE:
            item.action = WRITE
        return retry_state.counted_failures < item.options.policy.max_attempts

    def _throttle(
        self, item: WorkItem, failure: RetryLater, began: float, now: float, wait: float | None
    ) -> None:
        """Apply Retry-After to the dialog or to the tenant."""
        seconds = failure.error.retry_after
        scheduler = self._scheduler
        if failure.dialog_only:
            if seconds is None:
                seconds = wait if wait is not None else self._policy.backoff(1, failure.error, now)
            scheduler.throttle_dialog(item.requested_dialog_id, now, began, seconds)
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

    def count(self, reason: str, item: WorkItem, wait: float) -> None:
        """Count and log a retry that follows in `wait` seconds."""
        self._metrics.retries[reason] += 1
        watch = item.options.watch
        if watch is not None:
            watch.retrying(item.index, reason, wait, item.part)
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
