"""One callback and its bounded queue: call it in order per dialog, with timeout and retries.

An update reserves a slot in the queue of each callback before it is sent. Its event keeps the slot
until the callback has succeeded or the event is a dead letter.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context
from dataclasses import dataclass
from logging import ERROR, INFO
from typing import Any

import anyio
import anyio.lowlevel
from anyio.abc import TaskGroup

from .._utils.concurrency import CompletionTracker, is_failure
from .._utils.logging import log
from .._utils.waker import Waker
from ..errors import CLOSED, STOPPED, CallbackError
from ..metrics import Metrics
from ..models.events import (
    Callback,
    DeadLetter,
    DeliveryReceipt,
    UpdateEvent,
    UpdateWatch,
)
from .invocation import Invoker
from .options import CallbackOptions, validate_callback


@dataclass(slots=True, eq=False)
class Delivery:
    """One event that must be delivered to one callback.

    Attributes:
        failure: last exception of the callback, None before the first.
    """

    event: UpdateEvent
    serial: int
    context: Context
    receipt: DeliveryReceipt | None
    attempts: int = 0
    failure: BaseException | None = None


class DeliveryTasks:
    """The tasks that deliver the events of one client; new ones can start while `running`.

    Attributes:
        published: serial of the last delivery.
        unfinished: number of deliveries that neither succeeded nor are dead letters.
        ended_by: reason in messages why no more deliveries run, `CLOSED` or `STOPPED`.
    """

    def __init__(self, metrics: Metrics, waker: Waker) -> None:
        self.metrics = metrics
        self.waker = waker
        self.running = False
        self.ended_by = CLOSED
        self.tracker = CompletionTracker()
        self.published = self.unfinished = 0
        self._tasks: TaskGroup | None = None

    async def run(self, stop: anyio.Event, started: anyio.Event) -> None:
        """Run deliveries until `stop` is set, then cancel those still running."""
        try:
            async with anyio.create_task_group() as self._tasks:
                self.running = True
                started.set()
                await stop.wait()
                self._tasks.cancel_scope.cancel()
        finally:
            self.running = False
            self.ended_by = CLOSED if stop.is_set() else STOPPED

    def spawn(
        self, context: Context, function: Callable[..., Coroutine[Any, Any, None]], *args: Any
    ) -> None:
        """Start a task in `context`, the context variables of the caller of `update`."""
        assert self._tasks is not None
        context.run(self._tasks.start_soon, function, *args)


class CallbackQueue:
    """The events that wait for one callback.

    Args:
        tasks: Shared by the queues of one client.
        failures: True for events of failed updates, False for those of applied updates.

    Attributes:
        used: Number of slots that are reserved or hold an event.

    Raises:
        TypeError: The callback cannot be called with an event.
    """

    def __init__(
        self, tasks: DeliveryTasks, callback: Callback, options: CallbackOptions, *, failures: bool
    ) -> None:
        self.name = validate_callback("a callback", callback, "the event")
        self.failures = failures
        self.waits = options.overflow == "wait"
        self.max_queue = options.max_queue
        self.used = 0
        self._tasks = tasks
        self._callback = callback
        self._options = options
        self._invoker = Invoker(
            self.name, tasks, options.timeout, 2 * options.concurrency, tasks.metrics
        )
        self._by_dialog: dict[str, deque[Delivery]] = {}
        self._ready_dialogs: deque[str] = deque()
        self._queued = 0
        self._running = 0
        self._dead_letters: deque[tuple[Delivery, DeadLetter]] = deque()
        self._handler_running = False

    def __repr__(self) -> str:
        return (
            f"<CallbackQueue {self.name} queued={self._queued} running={self._running} "
            f"reserved={self.used - self._queued}>"
        )

    def publish(
        self,
        event: UpdateEvent,
        context: Context,
        *,
        from_callback: bool,
        watch: UpdateWatch | None,
        index: int,
    ) -> None:
        """Queue an event. With overflow ``"dead_letter"``, a full queue rejects it."""
        receipt = None if watch is None else _request_receipt(watch, index, self.name)
        tasks = self._tasks
        tasks.published += 1
        tasks.unfinished += 1
        delivery = Delivery(event, tasks.published, context, receipt)
        if self._queued >= self.max_queue and not self.waits and not from_callback:
            self._dead_letter(delivery, CallbackError(f"the queue of {self.name} is full"))
            return
        if not tasks.running:
            self._dead_letter(delivery, CallbackError(self._ended()))
            return
        self._queued += 1
        self.used += 1
        queue = self._by_dialog.get(event.dialog_id)
        if queue is None:
            self._by_dialog[event.dialog_id] = deque((delivery,))
            self._ready_dialogs.append(event.dialog_id)
            self._start_deliveries()
        else:
            queue.append(delivery)

    def _start_deliveries(self) -> None:
        """Deliver the first events of dialogs that are ready, up to the concurrency limit."""
        tasks = self._tasks
        while self._ready_dialogs and self._running < self._options.concurrency and tasks.running:
            dialog_id = self._ready_dialogs.popleft()
            delivery = self._by_dialog[dialog_id][0]
            self._running += 1
            tasks.spawn(delivery.context, self._deliver, dialog_id, delivery)

    async def _deliver(self, dialog_id: str, delivery: Delivery) -> None:
        failure: BaseException | None = None
        try:
            # Let the caller of `update` run first: trio runs ready tasks in any order.
            await anyio.lowlevel.checkpoint()
            delivery.attempts += 1
            await self._invoker.call(self._callback, delivery.event)
        except BaseException as error:
            if not is_failure(error):
                raise
            failure = error
        finally:
            self._running -= 1
        metrics = self._tasks.metrics
        if failure is None:
            metrics.events_delivered += 1
            _send_receipt(delivery, None)
            self._advance(dialog_id)
            self._mark_finished(delivery)
            return
        metrics.events_failed += 1
        delivery.failure = failure
        if delivery.attempts > self._options.retries:
            self._log_failure(delivery, failure, None)
            reason = type(failure).__name__
            undelivered = CallbackError(f"the callback {self.name} failed with {reason}")
            undelivered.__cause__ = failure
            self._advance(dialog_id)
            self._dead_letter(delivery, undelivered)
            return
        seconds = _backoff(delivery.attempts)
        self._log_failure(delivery, failure, seconds)
        self._start_deliveries()
        await anyio.sleep(seconds)
        self._ready_dialogs.append(dialog_id)
        self._start_deliveries()

    def _advance(self, dialog_id: str) -> None:
        """Remove the first event of a dialog, release its slot, and make the next event ready."""
        queue = self._by_dialog[dialog_id]
        queue.popleft()
        if queue:
            self._ready_dialogs.append(dialog_id)
        else:
            del self._by_dialog[dialog_id]
        was_full = self.used >= self.max_queue
        self._queued -= 1
        self.used -= 1
        self._start_deliveries()
        if was_full:
            self._tasks.waker.wake()

    def _mark_finished(self, delivery: Delivery) -> None:
        tasks = self._tasks
        tasks.unfinished -= 1
        if tasks.tracker.waits:
            tasks.tracker.mark_done(delivery.serial)

    # Dead letters.

    def _dead_letter(self, delivery: Delivery, error: CallbackError) -> None:
        self._tasks.metrics.events_dropped += 1
        _send_receipt(delivery, error)
        event = delivery.event
        message = "event of update %s of dialog %r was not delivered: %s"
        self._log(ERROR, delivery, message, event.update_id, event.dialog_id, error)
        # If the handler is slower than events fail, drop the newest ones to bound the memory.
        if self._options.on_dead_letter is None or len(self._dead_letters) >= self.max_queue:
            self._mark_finished(delivery)
            return
        self._dead_letters.append((delivery, DeadLetter(event, error, delivery.attempts)))
        if not self._handler_running and self._tasks.running:
            self._handler_running = True
            self._tasks.spawn(delivery.context, self.handle_dead_letters)

    async def handle_dead_letters(self) -> None:
        """Call the dead-letter handler with each dead letter in turn."""
        handler = self._options.on_dead_letter
        try:
            while handler is not None and self._dead_letters:
                delivery, letter = self._dead_letters[0]
                try:
                    await self._invoker.call(handler, letter, unlimited=True)
                except BaseException as error:
                    if not is_failure(error):
                        raise
                    # The text of the exception may contain values, so the line names its class.
                    message = "dead-letter handler of %s failed with %s for dialog %r"
                    arguments = (self.name, type(error).__name__, letter.event.dialog_id)
                    self._log(ERROR, delivery, message, *arguments)
                self._dead_letters.popleft()
                self._mark_finished(delivery)
        finally:
            self._handler_running = False

    def _log_failure(
        self, delivery: Delivery, failure: BaseException, seconds: float | None
    ) -> None:
        """Log a failed call; `seconds` is the wait before the next call, None after the last."""
        # The text of the exception may contain values, so the line names its class.
        reason = type(failure).__name__
        following = "that was the last call" if seconds is None else f"next call in {seconds:.1f} s"
        event, calls = delivery.event, self._options.retries + 1
        message = "callback %s failed with %s for update %s of dialog %r (call %d of %d); %s"
        arguments = (self.name, reason, event.update_id, event.dialog_id, delivery.attempts, calls)
        fields = {"error": reason} if seconds is None else {"error": reason, "seconds": seconds}
        self._log(INFO, delivery, message, *arguments, following, **fields)

    def _log(
        self, level: int, delivery: Delivery, message: str, *arguments: object, **fields: object
    ) -> None:
        event = delivery.event
        fields |= {"dialog_id": event.dialog_id, "update_id": event.update_id}
        log(level, message, *arguments, callback=self.name, attempt=delivery.attempts, **fields)

    def stop(self) -> None:
        """Turn all queued events into dead letters; call after the tasks have ended."""
        rest = [delivery for queue in self._by_dialog.values() for delivery in queue]
        self._by_dialog.clear()
        self._ready_dialogs.clear()
        self.used -= self._queued
        self._queued = 0
        for delivery in rest:
            failure, reason = delivery.failure, self._ended()
            if failure is not None:
                reason += f"; the callback {self.name} had failed with {type(failure).__name__}"
            undelivered = CallbackError(reason)
            undelivered.__cause__ = failure
            self._dead_letter(delivery, undelivered)

    def _ended(self) -> str:
        return f"{self._tasks.ended_by} before the event was delivered"


def _request_receipt(watch: UpdateWatch, index: int, callback: str) -> DeliveryReceipt | None:
    try:
        return watch.published(index, callback)
    except Exception as error:
        _log_observer_failure(watch, error)
        return None


def _send_receipt(delivery: Delivery, error: CallbackError | None) -> None:
    if delivery.receipt is not None:
        try:
            delivery.receipt(error, delivery.attempts)
        except Exception as problem:
            _log_observer_failure(delivery.receipt, problem)


def _log_observer_failure(observer: object, error: Exception) -> None:
    # The text of the exception may contain values, so the line names its class only.
    log(ERROR, "delivery observer %s raised %s", type(observer).__name__, type(error).__name__)


def _backoff(attempts: int) -> float:
    """Return the seconds before the next call: exponential with jitter, at most 10.25."""
    # Bounded, because a float overflows at the 1,025th attempt.
    return min(10.0, 0.25 * 2.0 ** min(attempts - 1, 10)) + random.uniform(0, 0.25)
