"""Decide when the next request may go, and to which dialog.

Nothing here awaits, reads a clock or talks to the network: the caller passes `now`. The only effect
outside is on the waker.
"""

from __future__ import annotations

import math
from logging import ERROR
from typing import TYPE_CHECKING

from .._utils.logging import log
from ..ratelimit.pauses import DialogPauses, TenantPause
from ..retry import RETRYABLE_KINDS, ResponseKind, RetryBudget
from .coalescing import joins
from .dialog_queue import DialogQueue, QueueState
from .outage import Outage
from .ready_queues import Deadlines, ReadyQueues
from .work_item import READ

if TYPE_CHECKING:
    from ..errors import CognigyError
    from .context import Context
    from .work_item import WorkItem


SPARE_REPEATS = 10
"""Repeats that are allowed beyond one for each worker and the share of first attempts."""

FALLBACK_BACKOFF = 5.0
"""Seconds between probes where the wait strategy fails."""

READ_AHEAD = 4
"""Ready lanes for each worker beyond which a stream takes no further input."""


class Scheduler:
    """The lanes, pauses, outage, limits, deadlines and lingering of one client.

    Attributes:
        lanes: the dialogs that have something to do.
        tenant, dialogs: pauses that the server named.
        budget: of repeats.
        outage: bulk work that waits for the server.
        serial: of the last entry that was accepted.
        quiet: nothing went wrong lately, so that `first_attempt` and `heard` need not be called.
        stopped: no request is made any more.
    """

    def __init__(self, context: Context) -> None:
        config = context.config
        self.queues = queues = ReadyQueues()
        self._urgent, self._live, self._bulk = queues.urgent, queues.live, queues.bulk
        self.tenant = TenantPause(config.max_in_flight)
        self.dialogs = DialogPauses()
        self.budget = RetryBudget(config.retry.budget, config.max_in_flight + SPARE_REPEATS)
        self.outage: Outage[DialogQueue] = Outage(config.max_in_flight, self._probe_backoff)
        self._deadlines = Deadlines()
        self._linger = Linger(self.queues, config.linger) if config.linger else None
        self._policy = config.retry
        self._limiter = context.quota.hot_path if context.quota is not None else None
        self._quota = context.quota
        self._hooks = context.hooks
        self._waker = context.waker
        self._read_ahead = READ_AHEAD * config.max_in_flight
        self._quota_opens = math.inf
        self._now = 0.0
        self.reads: set[DialogQueue] = set()
        self.serial = 0
        self.quiet = True
        self.stopped = False

    def stop(self) -> None:
        """Let no request go any more."""
        self.stopped = True

    # Work comes in and goes out.

    def accept(self, item: WorkItem, now: float) -> None:
        """Queue an entry at the end of its dialog's lane; a read has a lane of its own."""
        self.serial = item.serial
        item.accepted_at = now
        if item.kind is READ:
            queue = DialogQueue(item.dialog_id)
            self.reads.add(queue)
            self.queues.accept(item, queue)
        else:
            self.queues.accept(item)
            if self._linger is not None:
                self._linger.accepted(item)
        deadline = item.options.deadline
        if deadline is not None:
            self._deadlines.add(item)
            self._waker.wake_at(deadline)
        self._waker.wake()

    def finish(self, queue: DialogQueue) -> None:
        """Take out the head of a lane, which has its outcome; the lane goes on or is forgotten."""
        if not self.quiet:
            self._leave(queue)
        if self.reads:
            self.reads.discard(queue)
        self.queues.finish(queue)

    def pause(self, queue: DialogQueue, error: CognigyError) -> None:
        """Take out the head of a lane, which failed, and hold back what follows until `resume`."""
        self._leave(queue)
        queue.remove(queue.first)
        self.queues.pause(queue, error)

    def remove(self, item: WorkItem) -> None:
        """Take out an entry that was not sent; its lane goes on without it."""
        queue = item.queue
        assert queue is not None
        if item is queue.head:
            self._leave(queue)
        self.queues.remove(item)
        if item.kind is READ:
            self.reads.discard(queue)

    def resume(self, queue: DialogQueue) -> None:
        """Let a paused lane go on."""
        self.queues.resume(queue)
        self._waker.wake()

    def _leave(self, queue: DialogQueue) -> None:
        """The head of a lane is settled: it neither waits for the server nor probes."""
        waits = queue.until == math.inf and queue.state is QueueState.WAITING
        if waits or queue is self.outage.probe:
            self.outage.discard(queue)
            self._watch_outage()

    # What a worker does next.

    def next_queue(self, now: float, *, limited: bool = True) -> DialogQueue | None:
        """A lane whose head may be sent now, in flight from here on; None for nothing yet.

        Args:
            limited: without it, whatever the rate limit says: no request is made of it.
        """
        if self.stopped:
            return None
        tenant, queues, outage = self.tenant, self.queues, self.outage
        if tenant.active:
            next_slot_at = tenant.next_slot_at(now)
            if next_slot_at > now:
                self._waker.wake_at(next_slot_at)
                return None
        hooks, limiter = self._hooks, self._limiter
        # With a full queue of events only those go on that have their place, or need none.
        reserved_only = hooks.has_callbacks and hooks.full
        bulk = not outage.blocks
        next_bulk_slot_at = 0.0
        if limiter is not None and limited:
            live = bool(self._live or self._urgent)
            next_slot_at = limiter.next_slot_at(now, live)
            if next_slot_at > now:
                self._wait_for_quota(next_slot_at)
                return None
            next_bulk_slot_at = limiter.next_bulk_slot_at(now)
            if next_bulk_slot_at > now and not (live and queues.bulk_is_due):
                bulk = False
        while True:
            queue = queues.take(bulk=bulk, reserved_only=reserved_only)
            if queue is None:
                if next_bulk_slot_at > now:
                    self._wait_for_quota(next_bulk_slot_at)
                return None
            until = self.dialogs.until(queue.dialog_id) if self.dialogs.any else 0.0
            if self._linger is not None and queue is not outage.probe:
                until = max(until, self._linger.until(queue))
            if until <= now:
                break
            if queue is outage.probe:
                self.wait_for_server(queue, now)
                # The pause of the dialog is as long for the next one, as far as is known.
                self._waker.wake_at(until)
            else:
                self.wait(queue, until)
        if tenant.active:
            tenant.start(now)
        if self._live or self._bulk or self._urgent:
            self._waker.wake()
        return queue

    def impatient(self, now: float) -> DialogQueue | None:
        """A live lane whose head does not wait for the tenant's pause, in flight from here on."""
        if not self.tenant.active or self.tenant.next_slot_at(now) <= now:
            return None
        queue = self.queues.take_live()
        if queue is None:
            return None
        item = queue.first
        if not item.live or self.tenant.remaining(now) <= item.options.policy.max_retry_after:
            self.queues.ready(queue, first=True)
            return None
        return queue

    def _wait_for_quota(self, until: float) -> None:
        """Have a worker woken then; nobody holds anything meanwhile."""
        self._quota_opens = until
        self._waker.wake_at(until)

    def first_attempt(self, now: float) -> None:
        """A request that repeats nothing is about to be sent; not needed while `quiet`."""
        outage = self.outage
        if not outage.lasts:
            self.budget.first_attempt()
            if outage.waiting:
                self._release(now)
            self._check_quiet()

    def heard(self, response_kind: ResponseKind, began: float) -> None:
        """An answer to a request sent at `began` may end an outage; not needed while `quiet`."""
        if self.tenant.consecutive_429s and response_kind is not ResponseKind.THROTTLED:
            self.tenant.succeeded(began)
        if self.outage.lasts and response_kind not in RETRYABLE_KINDS:
            self.outage.succeeded()
            self._watch_outage()
            self._waker.wake()
        self._check_quiet()

    def _check_quiet(self) -> None:
        outage = self.outage
        troubled = outage.lasts or outage.waiting or self.tenant.consecutive_429s
        self.quiet = not troubled and self.budget.full

    def throttle_tenant(self, now: float, sent: float, wait: float, offset: float) -> None:
        """The server wants no request for `wait` seconds; it answered so to one sent at `sent`."""
        self.quiet = False
        self.tenant.throttle(now, sent, wait, offset)

    def throttle_dialog(self, dialog_id: str, now: float, wait: float) -> None:
        """The server wants no request for this dialog for `wait` seconds."""
        self.dialogs.throttle(dialog_id, now, now + wait)

    def go_on(self, queue: DialogQueue) -> None:
        """The next request of the head follows at once; a probe is not held back by the outage."""
        self.queues.ready(queue, first=True, urgent=queue is self.outage.probe)

    # Waiting.

    def wait(self, queue: DialogQueue, until: float) -> None:
        """Let a lane wait until a moment."""
        self.queues.wait(queue, until)
        self._waker.wake_at(until)

    def wait_for_server(self, queue: DialogQueue, now: float) -> float:
        """Let a lane wait until it is its turn to probe; the moment of the next probe, if known."""
        self.queues.wait(queue, math.inf)
        self.quiet = False
        self._now = now
        self.outage.add(queue, now)
        self._watch_outage()
        return self.outage.next_slot_at()

    def may_repeat(self, queue: DialogQueue, response_kind: ResponseKind) -> bool:
        """Take the budget of a repeat; a probe never has any: what stops it, the next one goes."""
        if queue is self.outage.probe:
            return False
        if response_kind not in RETRYABLE_KINDS:
            return True
        self.quiet = False
        return self.budget.take()

    def _watch_outage(self) -> None:
        self._waker.wake_at(self.outage.next_slot_at())

    def _probe_backoff(self, failures: int) -> float:
        try:
            return self._policy.backoff(failures, None, self._now)
        except Exception as error:
            # The strategy is the user's own, and the outage is everybody's.
            log(ERROR, "the wait strategy failed with %s", type(error).__name__)
            return FALLBACK_BACKOFF

    # Time.

    def advance(self, now: float) -> None:
        """Make ready what may go on now."""
        ready = self.queues.due(now) + self._release(now)
        if self.tenant.active and self.tenant.next_slot_at(now) <= now:
            ready += 1
        if self._quota_opens <= now:
            self._quota_opens = math.inf
            ready += 1
        if ready:
            self._waker.wake()

    def overdue(self, now: float) -> list[WorkItem]:
        """The entries whose deadline has come, which are forgotten here."""
        return self._deadlines.due(now)

    def next_event_at(self, now: float) -> float:
        """The moment at which `advance` or `overdue` will find something, infinite for none."""
        tenant = self.tenant
        next_slot_at = tenant.next_slot_at(now) if tenant.active else now
        return min(
            self.queues.next_due(),
            self.outage.next_slot_at(),
            next_slot_at if next_slot_at > now else math.inf,
            self._quota_opens,
            self._deadlines.next(),
        )

    def _release(self, now: float) -> int:
        """Let go those that wait for the server, as the budget or the next probe allows."""
        outage = self.outage
        self._now = now
        # Those that wait for the server have their places; a fresh one could not be sent without.
        if outage.wants_another and now >= outage.next_slot_at() and not self._hooks.full:
            fresh = self.queues.promote_bulk()
            if fresh is not None:
                outage.probe_with(fresh, now)
                return 1
        count = 0
        while (queue := outage.release(now, self.budget)) is not None:
            self.queues.ready(queue, urgent=True)
            count += 1
        self._watch_outage()
        return count

    # What others ask.

    def earliest(self, dialog_id: str, now: float) -> float:
        """The moment before which nothing is sent to a dialog, as far as is known."""
        next_slot_at = self.tenant.next_slot_at(now) if self.tenant.active else now
        until = self.dialogs.until(dialog_id) if self.dialogs.any else now
        free = self._quota.next_slot_at(now, True) if self._quota is not None else now
        if free == math.inf:
            # An answer makes room, and nobody knows when.
            free = now
        return max(now, next_slot_at, until, free)

    def hungry(self, *, live: bool) -> bool:
        """Whether more input of that class would find workers soon."""
        queues = self.queues
        waiting = queues.waiting_before_bulk() if live else queues.waiting()
        return waiting < self._read_ahead

    def end_linger(self, *, for_good: bool = False) -> None:
        """Nothing that was accepted until now waits for more; for good: nor what comes."""
        if self._linger is not None:
            self._linger.end(self.serial)
            if for_good:
                self._linger = None
            self._waker.wake()


class Linger:
    """Says how long a lane waits, counted from the acceptance of its head.

    It does not wait for what cannot come: once something stands behind that may not share the
    request, or where its deadline would pass, it goes at its turn.
    """

    def __init__(self, queues: ReadyQueues, seconds: float) -> None:
        self._queues = queues
        self._seconds = seconds
        self._ended = -1

    def until(self, queue: DialogQueue) -> float:
        """The moment until which a lane waits; one in the past for not at all."""
        head = queue.first
        if not head.coalesces or head.sent_at is not None or head.serial <= self._ended:
            return 0.0
        if queue.behind and not all(joins(head, item) for item in queue.behind):
            return 0.0
        until = head.accepted_at + self._seconds
        deadline = head.options.deadline
        return until if deadline is None or until < deadline else 0.0

    def accepted(self, item: WorkItem) -> None:
        """An entry came to the end of its lane: it may be what ends the waiting."""
        queue = item.queue
        assert queue is not None
        if item is not queue.head and not joins(queue.first, item):
            self._wake(queue)

    def end(self, serial: int) -> None:
        """Nothing that was accepted up to this serial number waits any more."""
        self._ended = serial
        for queue in self._queues:
            self._wake(queue)

    def _wake(self, queue: DialogQueue) -> None:
        """Whoever takes the lane looks again whether it has to wait for something else."""
        unsent = queue.state is QueueState.WAITING and queue.first.sent_at is None
        if unsent and queue.until != math.inf:
            self._queues.ready(queue)
