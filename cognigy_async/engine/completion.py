"""Complete items: outcomes, paused dialogs, `flush`, and the items left when a client closes.

Only `flush` waits; all else is synchronous. Each outcome updates queues, pending limit, metrics,
callbacks and audit together.
"""

from __future__ import annotations

from contextvars import copy_context
from logging import DEBUG, INFO, WARNING
from typing import TYPE_CHECKING

from .._utils.concurrency import CompletionTracker
from .._utils.logging import is_enabled, log
from ..audit.completed_update import CompletedUpdate
from ..errors import (
    CLOSED,
    AmbiguousUpdateError,
    ClientClosedError,
    CognigyError,
    DialogPausedError,
    OutboxError,
    SharedQuotaError,
    UpdateError,
    UpdateWithdrawnError,
)
from ..models.events import UpdateEvent
from ..models.variables import encode
from .coalescing import outcomes
from .dialog_queue import PAUSED, DialogQueue
from .protocol import Settled
from .work_item import CREATION, READ, RESOLVE, Kind, WorkItem

if TYPE_CHECKING:
    from ..models.update import StateUpdate
    from .context import Context
    from .scheduler import Scheduler


FAILURES = (UpdateError, OutboxError)
"""Errors of an update that pause its dialog, if the client pauses dialogs."""


class Completion:
    """Completes items.

    Attributes:
        unsent: updates that were not sent before the client closed.
    """

    def __init__(self, context: Context, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._queues = scheduler.queues
        self._protocol = context.protocol
        self._pauses_dialogs = context.config.pauses_dialogs
        self._metrics = context.metrics
        self._hooks = context.hooks
        self._pending_limit = context.pending_limit
        self._clock = context.clock
        self._audit = context.audit
        # Tracks the heads of the queues: what stands behind a head completes after it.
        self._flushes = CompletionTracker()
        self.unsent: list[StateUpdate] = []

    # Outcomes.

    def last_error(self, item: WorkItem) -> UpdateError:
        """Return the final error of an item that will not be sent again."""
        retry_state = item.retry_state
        last = retry_state.last_error if retry_state is not None else None
        if last is None:
            last = UpdateError("The update was given up before it was complete")
        return self._protocol.final(item, last)

    def give_up(self, queue: DialogQueue) -> None:
        """Complete the head of a queue with its last error."""
        item = queue.first
        if item.kind is RESOLVE and self._scheduler.stopped:
            self.complete(queue, Settled(error=_unresolved(item, CLOSED)))
        else:
            self.complete(queue, Settled(error=self.last_error(item)))

    def expire(self, queue: DialogQueue) -> None:
        """Complete the head of a queue after its deadline."""
        self.complete(queue, Settled(error=self._protocol.expired(queue.first)))

    def refuse(self, queue: DialogQueue, error: SharedQuotaError) -> None:
        """Complete the head of a bulk queue, which may not be sent, or not again."""
        failure: CognigyError = error
        if queue.first.attempts:
            last = self.last_error(queue.first)
            if isinstance(last, AmbiguousUpdateError):
                error.__cause__, last.__cause__ = last.__cause__, error
                failure = last
            else:
                error.__cause__ = last
        self.complete(queue, Settled(error=failure))

    def complete(self, queue: DialogQueue, done: Settled) -> None:
        """Complete the head of a queue; the queue continues, pauses or is dropped."""
        item = queue.head
        assert item is not None
        if item.record is not None and item.record.settle(done):
            # An outbox records the outcome first, and then calls this again.
            return
        error = done.error
        # No other item is in the queue of a creation.
        pauses = self._pauses_dialogs and item.kind is not READ and item.kind is not CREATION
        if pauses and isinstance(error, FAILURES) and not self._scheduler.stopped:
            self._pause(queue, error)
        else:
            self._scheduler.finish(queue)
        if self._flushes.waits and item.kind is not READ:
            self._head_left(queue, item)
        if item.group is None:
            self._finish(item, done)
            return
        failure: Exception | None = None
        for member, own in outcomes(item, done):
            try:
                self._finish(member, own)
            except Exception as problem:
                # Continue, so that the other members get their outcomes; raise the failure later.
                failure = failure or problem
        if failure is not None:
            raise failure

    def complete_unsent(self, item: WorkItem, error: CognigyError) -> None:
        """Complete an item that was not sent; its queue continues without it."""
        queue = item.queue
        assert queue is not None
        if item.record is not None:
            item.record.withdraw()
        was_head = item is queue.head and queue.state is not PAUSED
        self._scheduler.remove(item)
        if self._flushes.waits and was_head and item.kind is not READ:
            self._head_left(queue, item)
        self._finish(item, Settled(error=error))

    def _finish(self, item: WorkItem, done: Settled) -> None:
        """Record an outcome; notify observers, the caller, callbacks and audit, in this order."""
        item.completed = True
        item.result, item.error = done.result, done.error
        metrics = self._metrics
        if item.observations is not None:
            item.observations.settled(done.error, item.attempts)
        if item.kind is READ:
            assert item.reading is not None
            item.reading.state = done.state
            metrics.reads += done.state is not None
            item.sink.notify(item)
            return
        metrics.pending -= 1
        self._pending_limit.release()
        result = done.result
        if result is not None:
            metrics.applied += 1
            metrics.latency.record(result.latency)
            metrics.queued.record(result.queued)
        elif done.error is not None:
            self._count_failure(done.error)
            if isinstance(done.error, UpdateError) and item.sent_at is not None:
                done.error.latency = self._clock() - item.sent_at
                done.error.queued = item.sent_at - item.accepted_at
        item.sink.notify(item)
        if result is None or is_enabled(DEBUG):
            _log(item)
        if self._hooks.has_callbacks:
            self._publish(item)
        if self._audit is not None:
            self._audit.record(_completed_update(item, self._audit.wall_clock(), self._clock()))

    def _count_failure(self, error: BaseException) -> None:
        if isinstance(error, AmbiguousUpdateError):
            self._metrics.ambiguous += 1
        elif isinstance(error, UpdateWithdrawnError):
            self._metrics.withdrawn += 1
        elif not isinstance(error, ClientClosedError):
            self._metrics.failed += 1

    def _publish(self, item: WorkItem) -> None:
        event = None
        error = item.error if isinstance(item.error, UpdateError) else None
        if item.result is not None or error is not None:
            event = UpdateEvent(
                item.dialog_id,
                item.update_id,
                item.update,
                item.result,
                error,
                dict(item.metadata),
            )
        # The item has no context if the first callback was registered after its acceptance.
        context = item.context if item.context is not None else copy_context()
        self._hooks.publish(
            event,
            context,
            item.reserved,
            from_callback=item.from_callback,
            watch=item.options.watch,
            index=item.index,
        )
        item.reserved = ()

    # Paused dialogs.

    def _pause(self, queue: DialogQueue, error: CognigyError) -> None:
        refused = self._scheduler.pause(queue, error)
        self._metrics.paused += 1
        message = "dialog %r is paused after a failed update"
        log(WARNING, message, queue.dialog_id, dialog_id=queue.dialog_id)
        for item in refused:
            self.complete_unsent(item, pause_error(queue))

    def paused(self) -> dict[str, DialogPausedError]:
        """Return the paused dialogs, each with its failure as `__cause__`."""
        paused = self._queues.paused
        return {dialog_id: pause_error(queue) for dialog_id, queue in paused.items()}

    def resume(self, dialog_id: str | None) -> None:
        """Resume one paused dialog, or all of them."""
        paused = self._queues.paused
        for queue in list(paused.values()) if dialog_id is None else [paused.get(dialog_id)]:
            if queue is not None:
                self._scheduler.resume(queue)
                self._metrics.paused -= 1
                if queue.head is not None:
                    self._flushes.mark_open(queue.head.serial)

    # Waiting for all, and closing.

    @property
    def busy(self) -> bool:
        """Return whether `flush` would wait."""
        return self._queues.active > 0

    async def flush(self) -> None:
        """Wait until all items accepted so far are complete, except those of paused dialogs."""
        await self._flushes.wait(self._scheduler.serial, self._queues.active)

    def _head_left(self, queue: DialogQueue, item: WorkItem) -> None:
        """Let flushes wait for the new head of a queue, if any, in place of a completed one."""
        if queue.head is not None and queue.state is not PAUSED:
            self._flushes.mark_open(queue.head.serial)
        self._flushes.mark_done(item.serial)

    def close(self, reason: str) -> None:
        """Complete all remaining items without sending them; `reason` is for messages."""
        self._scheduler.stop()
        self._pending_limit.close()
        scheduler = self._scheduler
        left = [item for queue in (*self._queues, *scheduler.reads) for item in queue.work_items]
        for item in sorted(left, key=lambda item: item.serial):
            queue = item.queue
            if queue is None:
                # The item is already complete: its group was given up.
                continue
            head = queue.first
            if head.kind is RESOLVE and (item is head or item in head.members):
                self.complete(queue, Settled(error=_unresolved(item, reason)))
                continue
            if item.kind is RESOLVE:
                self.complete_unsent(item, _unresolved(item, reason))
                continue
            if item.sent_at is not None and head.attempts:
                self.give_up(queue)
                continue
            if item in head.members:
                self.unsent.extend(member.update for member in head.members if member.update)
                closed = ClientClosedError(f"{reason} before these updates were sent")
                self.complete(queue, Settled(error=closed))
                for member in head.members:
                    _log_unsent(member, reason)
                continue
            if item.update is not None:
                self.unsent.append(item.update)
            message = f"{reason} before update {item.update_id!r} was sent"
            self.complete_unsent(item, ClientClosedError(message))
            _log_unsent(item, reason)


def _unresolved(item: WorkItem, reason: str) -> ClientClosedError:
    return ClientClosedError(f"{reason} before the state decided about update {item.update_id!r}")


def _log_unsent(item: WorkItem, reason: str) -> None:
    # Do not log the updates of a stream: its reader gets their outcomes.
    if item.kind is not READ and item.index < 0:
        log(
            WARNING,
            "update %s of dialog %r was not sent: %s",
            item.update_id,
            item.dialog_id,
            reason,
            dialog_id=item.dialog_id,
            update_id=item.update_id,
        )


def _log(item: WorkItem) -> None:
    fields = {"dialog_id": item.dialog_id, "update_id": item.update_id}
    if item.result is not None:
        fields |= {"attempts": str(item.attempts), "status": str(item.result.status)}
        log(DEBUG, "applied %s", item.result, **fields)
    elif isinstance(item.error, UpdateError):
        kind = type(item.error).__name__
        fields |= {"attempts": str(item.attempts), "status": str(item.error.status)}
        fields |= {"error": kind}
        # A caller that waits gets the error itself; somebody has to look at an unknown outcome.
        is_known = not isinstance(item.error, AmbiguousUpdateError)
        level = INFO if is_known and not item.abandoned else WARNING
        log(level, "update failed: %s: %s", kind, item.error, **fields)


def pause_error(queue: DialogQueue) -> DialogPausedError:
    """Return the error for a caller that writes to a paused dialog."""
    error = DialogPausedError(queue.dialog_id, queue.size)
    error.__cause__ = queue.remember().paused_by
    return error


def _completed_update(item: WorkItem, timestamp: float, completed_at: float) -> CompletedUpdate:
    """Return a copy of the data of a completed item that the audit needs."""
    update, result = item.update, item.result
    payload = None
    if update is not None:
        payload = update._body if update._message is None else encode(update.payload())
    elif item.requests and item.kind in (Kind.PROFILE, CREATION):
        payload = item.requests[0].content
    status = etag = trace_id = None
    latency = 0.0
    if result is not None:
        status, latency, etag = result.status, result.latency, result.etag
        if item.headers:
            trace_id = item.headers.get("x-trace-id") or item.headers.get("x-request-id")
    return CompletedUpdate(
        timestamp,
        completed_at,
        item.accepted_at,
        item.sent_at,
        item.update_id,
        item.dialog_id,
        item.metadata,
        payload,
        item.attempts,
        item.part,
        item.error,
        status,
        latency,
        etag,
        trace_id,
        item.requests[-1] if trace_id and item.requests else None,
        result if etag is None else None,
    )
