"""What a failed request leads to: a wait, a pause of the dialog or the tenant, or the end.

Synchronous; the dispatcher calls it after a request and does what it says.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from logging import ERROR, INFO, WARNING
from typing import TYPE_CHECKING

from .entries import Entry, Kind
from .lane import Lane, LaneState
from .lanes import Lanes
from .logs import log
from .pacing import DialogPauses, Outage, RepeatBudget, TenantPause
from .retry import OUTAGE, REPEATED, RetryPolicy, Verdict

if TYPE_CHECKING:
    from .course import Backoff
    from .learned import Learned
    from .metrics import Metrics

SPARE_REPEATS = 10
"""Repeats that are allowed beyond one for each worker and the share of first attempts."""

FALLBACK_BACKOFF = 5.0
"""Seconds between probes where the wait strategy fails."""


class Recovery:
    """The pauses, the repeat budget and the outage of one client.

    Args:
        lanes: where waiting is done.
        policy: the client's own; what one update is given decides about that update only.
        max_in_flight: requests at a time.
        clock: seconds, monotonic.
        no_places: whether updates not yet sent would find no place for their events.
        learned: told of each 429 of the tenant; None where the limit is known or there is none.
    """

    def __init__(
        self,
        lanes: Lanes,
        policy: RetryPolicy,
        max_in_flight: int,
        clock: Callable[[], float],
        metrics: Metrics,
        no_places: Callable[[], bool],
        learned: Learned | None,
    ) -> None:
        self._lanes = lanes
        self._policy = policy
        self._clock = clock
        self._metrics = metrics
        self._no_places = no_places
        self._learned = learned
        self.tenant = TenantPause(max_in_flight)
        self.dialogs = DialogPauses()
        self._budget = RepeatBudget(policy.budget, max_in_flight + SPARE_REPEATS)
        self.outage: Outage[Lane] = Outage(max_in_flight, self._probe_backoff)

    def first_attempt(self, now: float) -> None:
        """A request that repeats nothing is about to be sent."""
        if not self.outage.lasts:
            self._budget.first_attempt()
            if self.outage.waiting:
                self.release(now)

    def heard(self, verdict: Verdict, began: float) -> bool:
        """An answer to a request that was sent at `began`; whether it ended an outage."""
        if self.tenant.strikes and verdict is not Verdict.THROTTLED:
            self.tenant.succeeded(began)
        if not self.outage.lasts or verdict in REPEATED:
            return False
        self.outage.succeeded()
        return True

    def failed(self, lane: Lane, failure: Backoff, began: float) -> bool:
        """The head of a lane failed: make the lane wait and return true, or let it be given up."""
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
        # Everybody waits for the probe: whatever stops it, the next one takes its turn.
        probes = lane is self.outage.probe
        if not probes and (verdict not in REPEATED or self._budget.take()):
            self._lanes.wait(lane, now + wait)
        elif entry.live:
            return False
        else:
            self.wait_for_server(lane, now)
            probe = self.outage.opens()
            if probe != math.inf:
                # Until then nothing is repeated, whatever its own backoff is.
                wait = max(0.0, probe - now)
        self.count(verdict.value, entry, wait)
        return True

    def wait_for_server(self, lane: Lane, now: float) -> None:
        """Let a lane wait until it is its turn to probe."""
        self._lanes.wait(lane, math.inf)
        self.outage.add(lane, now)

    def _throttle(
        self, entry: Entry, failure: Backoff, began: float, now: float, wait: float | None
    ) -> None:
        """Pause whom the server wants to hear nothing from: a dialog, or the tenant."""
        named = failure.error.retry_after
        if failure.dialog_only:
            if named is None:
                named = wait if wait is not None else self._policy.backoff(1, failure.error, now)
            self.dialogs.throttle(entry.dialog_id, now, now + named)
        elif failure.verdict is Verdict.THROTTLED or (
            failure.verdict is Verdict.UNAVAILABLE and named is not None
        ):
            if named is None:
                named = self._policy.backoff(self.tenant.strikes + 1, failure.error, now)
            self.tenant.throttle(now, began, named, random.random())
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

    # Time.

    def due(self, now: float) -> int:
        """Make ready what may go on now; how many lanes."""
        return self._lanes.due(now) + self.release(now)

    def release(self, now: float) -> int:
        """Let go those that wait for the server, as the budget or the next probe allows."""
        outage = self.outage
        # Those that wait for the server have their places; a fresh one could not be sent without.
        if outage.wants_another and now >= outage.opens() and not self._no_places():
            fresh = self._lanes.promote_bulk()
            if fresh is not None:
                outage.probe_with(fresh, now)
                return 1
        count = 0
        while (lane := outage.release(now, self._budget)) is not None:
            self._lanes.ready(lane, urgent=True)
            count += 1
        return count

    def next_due(self) -> float:
        """The moment at which `due` will find something, infinite where there is none."""
        return min(self._lanes.next_due(), self.outage.opens())

    def leave(self, lane: Lane) -> None:
        """The head of a lane is settled: it neither waits for the server nor probes."""
        waits = lane.until == math.inf and lane.state is LaneState.WAITING
        if waits or lane is self.outage.probe:
            self.outage.discard(lane)

    def _probe_backoff(self, failures: int) -> float:
        try:
            return self._policy.backoff(failures, None, self._clock())
        except Exception as error:
            # The strategy is the user's own, and the outage is everybody's.
            log(ERROR, "the wait strategy failed with %s", type(error).__name__)
            return FALLBACK_BACKOFF
