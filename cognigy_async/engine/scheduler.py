"""Decide when the next request may be sent, and for which dialog.

Nothing here awaits, reads a clock or uses the network: the caller passes `now`. The only effect
on other objects is to wake workers.
"""

from __future__ import annotations

import math
from itertools import islice, takewhile
from logging import ERROR
from typing import TYPE_CHECKING

from .._utils.logging import log
from .._utils.purging import PurgeThreshold
from ..ratelimit.pauses import DialogPauses, TenantPause
from ..retry import RETRYABLE_KINDS, THROTTLING_KINDS, ResponseKind, RetryBudget
from .coalescing import joins
from .dialog_queue import DialogQueue, QueueState
from .outage import Outage
from .pause_log import QUOTA, THROTTLED, PauseLog
from .ready_queues import MIN_PURGE_SIZE, Deadlines, ReadyQueues
from .work_item import READ

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..errors import CognigyError, SharedQuotaError
    from .context import Context
    from .work_item import WorkItem


SPARE_RETRIES = 10
"""Retries allowed in addition to one for each worker and to a share of first attempts."""

FALLBACK_BACKOFF = 5.0
"""Seconds between probes if the wait strategy raises."""

READ_AHEAD = 4
"""Number of queues per worker, ready or waiting for an outbox, at which a stream takes no input."""


class Scheduler:
    """Decides when the next request of one client may be sent, and for which dialog.

    Attributes:
        queues: the queues of dialogs with work.
        tenant, dialogs: pauses that the server asked for.
        budget: limits retries.
        outage: bulk work that waits for the server.
        served_at: seconds of the clock when the server last served a write or a probe.
        endpoint_served_at: the same of the endpoint service, which may be away by itself.
        reads: queues of reads; each read has its own queue.
        serial: serial of the last accepted item.
        recording: number of queues that wait for an outbox.
        quiet: True if nothing failed lately; `first_attempt` and `on_response` need not be called.
        stopped: True if no further request is sent.
    """

    def __init__(self, context: Context) -> None:
        config = context.config
        self.queues = queues = ReadyQueues()
        self._urgent, self._live, self._bulk = queues.urgent, queues.live, queues.bulk
        longest_live = config.retry.longest_pause(live=True)
        self.tenant = TenantPause(config.max_in_flight, longest_live)
        self.dialogs = DialogPauses()
        self.budget = RetryBudget(config.retry.budget, config.max_in_flight + SPARE_RETRIES)
        self.outage: Outage[DialogQueue] = Outage(config.max_in_flight, self._probe_backoff)
        self.served_at = self.endpoint_served_at = -math.inf
        self._pause_log = PauseLog(context.waker)
        self._deadlines = Deadlines()
        self._linger = Linger(queues, config.linger) if config.linger else None
        self._policy = config.retry
        self._quota = context.quota
        self._limiter = context.quota.hot_path if context.quota is not None else None
        self._hooks = context.hooks
        self._waker = context.waker
        self._read_ahead = READ_AHEAD * config.max_in_flight
        self._quota_slot_at = math.inf
        self._now = 0.0
        self.reads: set[DialogQueue] = set()
        self.serial = 0
        self.recording = 0
        self.quiet = True
        self.stopped = False

    def stop(self) -> None:
        """Stop sending requests."""
        self.stopped = True

    # Adding and removing items.

    def accept(self, item: WorkItem, now: float) -> None:
        """Add an item at the end of its dialog's queue; a read gets a queue of its own."""
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

    def accept_first(self, items: Sequence[WorkItem], now: float) -> None:
        """Add the items of dead processes for one dialog before its others."""
        for item in items:
            item.accepted_at = now
        self.serial = max(self.serial, items[-1].serial)
        self.queues.accept_first(items)
        self._waker.wake()

    def finish(self, queue: DialogQueue) -> None:
        """Remove the completed head of a queue, and drop the queue if it is empty."""
        if not self.quiet:
            self._leave_outage(queue)
        if self.reads:
            self.reads.discard(queue)
        self.queues.finish(queue)

    def pause(self, queue: DialogQueue, error: CognigyError) -> list[WorkItem]:
        """Remove the failed head of a queue and hold back the rest until `resume`.

        Return the items that do not wait for that, in order.
        """
        self._leave_outage(queue)
        queue.remove(queue.first)
        self.queues.pause(queue, error)
        # What an earlier pause held waits: look only at what came after it.
        history = queue.remember()
        later = takewhile(lambda item: item.serial > history.last_held, queue.newest())
        refused = [item for item in later if not item.waits_when_paused]
        history.last_held = self.serial
        return refused[::-1]

    def remove(self, item: WorkItem) -> None:
        """Remove an item that was not sent; its queue continues without it."""
        queue = item.queue
        assert queue is not None
        if item is queue.head:
            self._leave_outage(queue)
        self.queues.remove(item)
        if item.kind is READ:
            self.reads.discard(queue)

    def resume(self, queue: DialogQueue) -> None:
        """Let a paused queue continue."""
        self.queues.resume(queue)
        self._waker.wake()

    def _leave_outage(self, queue: DialogQueue) -> None:
        """Remove a queue from the outage if it is the probe or waits for the server."""
        waits = queue.until == math.inf and queue.state is QueueState.WAITING
        if waits or queue is self.outage.probe:
            self.outage.discard(queue)
            self._set_probe_alarm()

    # The next request.

    def next_queue(self, now: float, *, limited: bool = True) -> DialogQueue | None:
        """Mark a queue whose head may be sent now as in flight and return it, or return None.

        Args:
            now: seconds of the client's clock, the start of the request.
            limited: respect the rate limit; False if no request is made.
        """
        if self.stopped:
            return None
        tenant, queues, outage = self.tenant, self.queues, self.outage
        bulk = not outage.blocks
        bulk_slot_at = 0.0
        if tenant.active:
            slot_at = tenant.next_slot_at(now, bool(self._live or self._urgent))
            if slot_at > now:
                self._waker.wake_at(slot_at)
                return None
            if tenant.next_slot_at(now, live=False) > now:
                # A live request asks the server before bulk work may.
                bulk = False
        hooks, limiter = self._hooks, self._limiter
        # While a callback queue is full, send only items that have a slot or need none.
        reserved_only = hooks.has_callbacks and hooks.full
        if limiter is not None and limited:
            live = bool(self._live or self._urgent)
            slot_at = limiter.next_slot_at(now, live)
            if slot_at > now:
                self._wait_for_quota(slot_at)
                if slot_at - now >= self._pause_log.threshold:
                    self._pause_log.pause(QUOTA, now, slot_at)
                return None
            bulk_slot_at = limiter.next_bulk_slot_at(now)
            if bulk_slot_at > now and not (
                live and queues.bulk_is_due and self.bulk_refusal() is None
            ):
                bulk = False
        while True:
            queue = queues.take(bulk=bulk, reserved_only=reserved_only)
            if queue is None:
                if bulk_slot_at > now:
                    self._wait_for_quota(bulk_slot_at)
                    if self._bulk and bulk_slot_at - now >= self._pause_log.threshold:
                        self._pause_log.pause(QUOTA, now, bulk_slot_at)
                return None
            until = self._dialog_slot_at(queue, now) if self.dialogs.any else 0.0
            if self._linger is not None and queue is not outage.probe:
                until = max(until, self._linger.until(queue, now))
            if until <= now:
                break
            if queue is outage.probe:
                self.wait_for_server(queue, now)
                # Wake up when this dialog may send: the next probe probably waits as long.
                self._waker.wake_at(until)
            else:
                self.wait(queue, until)
        if self._live or self._bulk or self._urgent:
            self._waker.wake()
        return queue

    def bulk_refusal(self) -> SharedQuotaError | None:
        """Return the error for bulk work while a shared quota cannot be used, else None."""
        return None if self._quota is None else self._quota.bulk_refusal()

    def next_refused(self) -> tuple[DialogQueue, SharedQuotaError] | None:
        """Return a ready bulk queue, now in flight, and the error that its head ends with."""
        error = self.bulk_refusal()
        queue = None if error is None else self.queues.take_bulk()
        return None if error is None or queue is None else (queue, error)

    def next_impatient(self, now: float) -> DialogQueue | None:
        """Return a live queue whose head cannot wait out the tenant's pause, now in flight."""
        tenant = self.tenant
        if not tenant.active or tenant.next_slot_at(now) <= now:
            return None
        for queue in self.queues.first_live():
            if self.is_impatient(queue.first, now):
                self.queues.take_first(queue)
                return queue
        return None

    def is_impatient(self, item: WorkItem, now: float) -> bool:
        """Return whether pauses of the tenant hold an item longer than its policy allows."""
        longest = item.options.policy.max_retry_after
        return item.live and self.tenant.held(item.accepted_at, now) > longest

    def too_long_a_pause(self, queue: DialogQueue, now: float) -> float | None:
        """Return the rest of a dialog's pause in seconds if the head must not wait it out.

        None for no such pause, or if the head asks the server again.
        """
        dialogs, dialog_id, item = self.dialogs, queue.dialog_id, queue.first
        rest = dialogs.until(dialog_id) - now
        policy = item.options.policy
        if rest <= 0 or not item.live:
            return None
        if dialogs.held(dialog_id, item.accepted_at) <= policy.max_retry_after:
            return None
        return rest if dialogs.until(dialog_id, policy.longest_pause(live=True)) > now else None

    def _dialog_slot_at(self, queue: DialogQueue, now: float) -> float:
        """Return when a dialog's pause lets its head be sent or, at once, be refused."""
        if self.too_long_a_pause(queue, now) is not None:
            return now
        item = queue.first
        longest = item.options.policy.longest_pause(live=item.live)
        return self.dialogs.until(queue.dialog_id, longest)

    def _wait_for_quota(self, until: float) -> None:
        """Wake a worker when the rate limit has a slot."""
        self._quota_slot_at = until
        self._waker.wake_at(until)

    def waits_for_quota(self, queue: DialogQueue) -> bool:
        """Return whether only the rate limit is known to hold back a queue."""
        return queue.state is QueueState.READY and self._quota_slot_at < math.inf

    def first_attempt(self, now: float) -> None:
        """Count a first attempt, which feeds the retry budget; not needed while `quiet`."""
        outage = self.outage
        if not outage.lasts:
            self.budget.first_attempt()
            if outage.waiting:
                self._release(now)
            self._update_quiet()

    def on_response(self, response_kind: ResponseKind, began: float, now: float) -> None:
        """Note a response to a request sent at `began`; it may end an outage or a pause.

        Not needed while `quiet`.
        """
        throttled = response_kind in THROTTLING_KINDS
        if self.tenant.consecutive_429s and not throttled and self.tenant.succeeded(began, now):
            self._pause_log.end(THROTTLED, now)
            self._waker.wake()
        if response_kind not in RETRYABLE_KINDS:
            if self._pause_log.is_away:
                self._pause_log.served(now)
            if self.outage.lasts:
                self.outage.succeeded()
                self._set_probe_alarm()
                self._waker.wake()
        self._update_quiet()

    def _update_quiet(self) -> None:
        outage = self.outage
        troubled = outage.lasts or outage.waiting or self.tenant.consecutive_429s
        troubled = troubled or self._pause_log.is_away
        self.quiet = not troubled and self.budget.full

    def throttle_tenant(self, now: float, sent: float, wait: float, offset: float) -> None:
        """Pause all requests for `wait` seconds.

        Args:
            now: when the server answered.
            sent: when the throttled request was sent.
            wait: seconds.
            offset: random number in [0, 1) that shifts the slow start after the pause.
        """
        self.quiet = False
        self.tenant.throttle(now, sent, wait, offset)
        self._pause_log.pause(THROTTLED, now, now + self.tenant.remaining(now))

    def server_failed(self, failure: str, now: float) -> None:
        """Note that an update is repeated because the server is not available."""
        self.quiet = False
        self._pause_log.failed(now, failure)

    def throttle_dialog(self, dialog_id: str, now: float, sent: float, wait: float) -> None:
        """Pause the requests of one dialog for `wait` seconds; see `throttle_tenant`."""
        self.dialogs.throttle(dialog_id, now, sent, wait)

    def send_next(self, queue: DialogQueue) -> None:
        """Make a queue ready for its head's next request, before other queues of its class."""
        # An outage must not hold back a probe that needs several requests.
        self.queues.ready(queue, first=True, urgent=queue is self.outage.probe)

    # Waiting.

    def await_record(self, queue: DialogQueue, *, is_outcome: bool) -> None:
        """Put a queue aside until an outbox has recorded the intent or the outcome of its head."""
        if is_outcome and not self.quiet:
            self._leave_outage(queue)
        queue.set_aside()
        self.recording += 1

    def end_record(self, queue: DialogQueue) -> None:
        """Make a queue ready whose intent was recorded, after those that were recorded before."""
        self.queues.ready(queue, urgent=queue is self.outage.probe)
        self._waker.wake()

    def wake(self) -> None:
        """Wake a worker, because a queue may be ready."""
        self._waker.wake()

    def wait(self, queue: DialogQueue, until: float) -> None:
        """Make a queue wait until a time."""
        self.queues.wait(queue, until)
        self._waker.wake_at(until)

    def wait_for_server(self, queue: DialogQueue, now: float) -> float:
        """Make a queue wait for the server. Return the time of the next probe, inf if unknown."""
        self.queues.wait(queue, math.inf)
        self.quiet = False
        self._now = now
        self.outage.add(queue, now)
        self._set_probe_alarm()
        return self.outage.next_probe_at()

    def may_repeat(self, queue: DialogQueue, response_kind: ResponseKind) -> bool:
        """Take one retry from the budget. Return False if it is empty or the queue is a probe."""
        if queue is self.outage.probe:
            return False
        if response_kind not in RETRYABLE_KINDS:
            return True
        self.quiet = False
        return self.budget.take()

    def _set_probe_alarm(self) -> None:
        self._waker.wake_at(self.outage.next_probe_at())

    def _probe_backoff(self, failures: int) -> float:
        try:
            return self._policy.backoff(failures, None, self._now)
        except Exception as error:
            # The user wrote the strategy; its exception must not break the outage of all dialogs.
            log(ERROR, "the wait strategy raised %s", type(error).__name__)
            return FALLBACK_BACKOFF

    # Time.

    def advance(self, now: float) -> None:
        """Make queues ready whose wait has ended, and wake a worker."""
        ready = self.queues.due(now) + self._release(now)
        if self.tenant.active and self.tenant.next_slot_at(now) <= now:
            ready += 1
        if self._quota_slot_at <= now:
            self._quota_slot_at = math.inf
            ready += 1
        if ready:
            self._waker.wake()
        if self._pause_log.ends_at <= now:
            self._pause_log.check(now, busy=bool(self.queues.active or self.reads))

    def overdue(self, now: float) -> list[WorkItem]:
        """Return and forget the items whose deadline has passed."""
        return self._deadlines.due(now)

    def next_event_at(self, now: float) -> float:
        """Return the time at which `advance` or `overdue` has work; infinity for never."""
        return min(
            self.queues.next_due(),
            self.outage.next_probe_at(),
            self.tenant.next_event_at(now),
            self._quota_slot_at,
            self._pause_log.check_at,
            self._deadlines.next(),
        )

    def _release(self, now: float) -> int:
        """Make queues that wait for the server ready if the budget or a due probe allows it."""
        outage = self.outage
        self._now = now
        # A new probe needs callback slots; queues that wait for the server already have them.
        if outage.wants_another and now >= outage.next_probe_at() and not self._hooks.full:
            fresh = self.queues.promote_bulk()
            if fresh is not None:
                outage.probe_with(fresh, now)
                return 1
        count = 0
        while (queue := outage.release(now, self.budget)) is not None:
            self.queues.ready(queue, urgent=True)
            count += 1
        self._set_probe_alarm()
        return count

    # Methods that the admission and streams call.

    def earliest(self, dialog_id: str, now: float) -> float:
        """Return the earliest moment at which a new update of a dialog may be sent."""
        longest = self._policy.max_retry_after
        slot_at = self.tenant.earliest(now, longest) if self.tenant.active else now
        until = self.dialogs.until(dialog_id) if self.dialogs.any else now
        if until > now:
            asks_at = self.dialogs.until(dialog_id, self._policy.longest_pause(live=True))
            # A live update is refused that would have to wait too long for the end of the pause.
            until = asks_at if asks_at <= now or until - now <= longest else until
        quota_at = self._quota.next_slot_at(now, True) if self._quota is not None else now
        if quota_at == math.inf:
            # Only a response can free a slot, at an unknown time.
            quota_at = now
        return max(now, slot_at, until, quota_at)

    def wants_input(self, *, live: bool) -> bool:
        """Return whether workers would soon send more live (or else bulk) updates."""
        queues = self.queues
        waiting = queues.waiting_before_bulk() if live else queues.waiting()
        return waiting + self.recording < self._read_ahead

    def end_linger(self, *, for_good: bool = False) -> None:
        """End the linger of all accepted items; `for_good` also ends it for later items."""
        if self._linger is not None:
            self._linger.end(self.serial)
            if for_good:
                self._linger = None
            self._waker.wake()


class Linger:
    """Decides how long a queue waits for more updates that could share its next request.

    The time counts from the acceptance of the head. A queue does not wait if a later update
    cannot share the request, or if its deadline would pass.
    """

    def __init__(self, queues: ReadyQueues, seconds: float) -> None:
        self._queues = queues
        self._seconds = seconds
        self._ended_serial = -1
        self._lingering: list[DialogQueue] = []
        """The queues that wait for more updates, and others that did."""
        self._purge_threshold = PurgeThreshold(MIN_PURGE_SIZE)

    def until(self, queue: DialogQueue, now: float) -> float:
        """Return the time until which a queue waits; `now` or less if it does not wait."""
        head = queue.first
        if not head.coalesces or head.sent_at is not None or head.serial <= self._ended_serial:
            return 0.0
        if queue.history is not None and head.serial < queue.history.last_split:
            return 0.0
        until = head.accepted_at + self._seconds
        deadline = head.options.deadline
        if until <= now or (deadline is not None and until >= deadline):
            return 0.0
        self._lingering.append(queue)
        if len(self._lingering) > self._purge_threshold.size:
            self._lingering = list(filter(_may_linger, dict.fromkeys(self._lingering)))
            self._purge_threshold.purged(len(self._lingering))
        return until

    def accepted(self, item: WorkItem) -> None:
        """End the waiting of a queue if its new last item cannot share the request."""
        queue = item.queue
        assert queue is not None
        if item is queue.head:
            return
        if not joins(next(islice(queue.newest(), 1, None)), item):
            queue.remember().last_split = item.serial
            self._make_ready(queue)

    def end(self, serial: int) -> None:
        """End the waiting of all items up to this serial."""
        self._ended_serial = serial
        lingering, self._lingering = self._lingering, []
        for queue in lingering:
            self._make_ready(queue)

    def _make_ready(self, queue: DialogQueue) -> None:
        # The worker that takes the queue checks again whether it must wait for something else.
        if _may_linger(queue):
            self._queues.ready(queue)


def _may_linger(queue: DialogQueue) -> bool:
    """Return whether a queue waits for a time before its first request."""
    unsent = queue.state is QueueState.WAITING and queue.first.sent_at is None
    return unsent and queue.until != math.inf
