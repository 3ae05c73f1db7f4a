"""What a failed request leads to: a wait, a pause of the dialog or the tenant, or the end."""

from __future__ import annotations

import math
import random
from logging import INFO, WARNING
from typing import TYPE_CHECKING

from .._utils.logging import log
from ..retry import OUTAGE_KINDS, ResponseKind
from .work_item import Kind

if TYPE_CHECKING:
    from .context import Context
    from .dialog_queue import DialogQueue
    from .protocol import Backoff as RetryLater
    from .scheduler import Scheduler
    from .work_item import WorkItem


class Backoff:
    """Turns a failure into a wait until a moment, or into giving up."""

    def __init__(self, context: Context, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._policy = context.config.retry
        self._clock = context.clock
        self._metrics = context.metrics
        self._adaptive = context.quota.adaptive if context.quota is not None else None

    def failed(self, queue: DialogQueue, failure: RetryLater, began: float) -> bool:
        """The head of a lane failed: make the lane wait and return true, or let it be given up."""
        scheduler = self._scheduler
        item, response_kind, error = queue.first, failure.response_kind, failure.error
        retry_state = item.retry_state
        assert retry_state is not None
        now = self._clock()
        if item.live or response_kind not in OUTAGE_KINDS:
            retry_state.elapsed += now - began
        wait = item.options.policy.next_wait(
            retry_state, response_kind, error, live=item.live, now=now
        )
        self._throttle(item, failure, began, now, wait)
        if wait is None or item.abandoned:
            return False
        if scheduler.may_repeat(queue, response_kind):
            scheduler.wait(queue, now + wait)
        elif item.live:
            return False
        else:
            probe = scheduler.wait_for_server(queue, now)
            if probe != math.inf:
                # Until then nothing is repeated, whatever its own backoff is.
                wait = max(0.0, probe - now)
        self.count(response_kind.value, item, wait)
        return True

    def _throttle(
        self, item: WorkItem, failure: RetryLater, began: float, now: float, wait: float | None
    ) -> None:
        """Pause whom the server wants to hear nothing from: a dialog, or the tenant."""
        named = failure.error.retry_after
        scheduler = self._scheduler
        if failure.dialog_only:
            if named is None:
                named = wait if wait is not None else self._policy.backoff(1, failure.error, now)
            scheduler.throttle_dialog(item.dialog_id, now, named)
        elif failure.response_kind is ResponseKind.THROTTLED or (
            failure.response_kind is ResponseKind.UNAVAILABLE and named is not None
        ):
            if named is None:
                named = self._policy.backoff(
                    scheduler.tenant.consecutive_429s + 1, failure.error, now
                )
            scheduler.throttle_tenant(now, began, named, random.random())
            if self._adaptive is not None and failure.response_kind is ResponseKind.THROTTLED:
                self._adaptive.on_throttled(now, began, named)
            log(WARNING, "tenant throttled for %.1f s", named, seconds=named, scope="tenant")

    def count(self, reason: str, item: WorkItem, wait: float) -> None:
        """Put a repeat into metrics and log."""
        self._metrics.retries[reason] += 1
        watch = item.options.watch
        if watch is not None:
            watch.retrying(item.index, reason, wait)
        what = "a read" if item.kind is Kind.READ else f"update {item.update_id}"
        log(
            INFO,
            "retry of %s of dialog %r in %.2f s: %s",
            what,
            item.dialog_id,
            wait,
            reason,
            dialog_id=item.dialog_id,
            update_id=item.update_id,
            attempt=item.attempts,
            reason=reason,
            seconds=wait,
        )
