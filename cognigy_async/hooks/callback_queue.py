"""One callback and its queue: in order for each dialog, bounded, with a timeout and retries.

An event has its place in the queue of a callback before its update is sent. It keeps it until the
callback took it, or until it went to the dead letters.
"""

from __future__ import annotations

import math
import random
from collections import deque
from contextvars import Context
from logging import ERROR, INFO
from typing import TYPE_CHECKING, Literal, TypedDict

import anyio
import anyio.lowlevel

from .._utils.concurrency import is_failure
from .._utils.logging import log
from ..errors import CallbackError, ConfigurationError
from ..models.events import (
    Callback,
    DeadLetter,
    DeadLetterHandler,
    DeliveryReceipt,
    UpdateEvent,
    UpdateWatch,
)
from .invocation import Invoker

if TYPE_CHECKING:
    from .registry import CallbackRegistry

CLOSED = "the client was closed before the event's turn"


class Delivery:
    """One event on its way to one callback."""

    __slots__ = ("attempts", "context", "event", "receipt")

    def __init__(
        self, event: UpdateEvent, context: Context, receipt: DeliveryReceipt | None
    ) -> None:
        self.event = event
        self.context = context
        self.receipt = receipt
        self.attempts = 0


class HookOptions(TypedDict, total=False):
    """How a callback is called.

    Keys:
        timeout: seconds for one call; 10.
        retries: further calls after one that fails; 3.
        concurrency: calls at a time, for different dialogs, threads at a time; 16.
        max_queue: events that have a place at a time; 10,000.
        overflow: with a full queue, ``"wait"`` (the default) delays the sending of updates, and
            ``"dead_letter"`` hands the events over to the dead-letter handler.
        on_dead_letter: called with a `DeadLetter` for what could not be delivered.
    """

    timeout: float
    retries: int
    concurrency: int
    max_queue: int
    overflow: Literal["wait", "dead_letter"]
    on_dead_letter: DeadLetterHandler | None


class CallbackQueue:
    """One registered callback with its queue.

    Args:
        owner: runs the tasks that deliver.
        callback: an async function, or a plain one, which runs in a worker thread.
        failures: whether it takes the failed updates, or those that were applied.
        The others: see `HookOptions`.

    Raises:
        ConfigurationError: a number out of its range.
        TypeError: something that cannot be called.
    """

    def __init__(
        self,
        owner: CallbackRegistry,
        callback: Callback,
        *,
        failures: bool,
        timeout: float = 10.0,
        retries: int = 3,
        concurrency: int = 16,
        max_queue: int = 10_000,
        overflow: Literal["wait", "dead_letter"] = "wait",
        on_dead_letter: DeadLetterHandler | None = None,
    ) -> None:
        if not callable(callback):
            raise TypeError(f"a callback must be callable, not {type(callback).__name__}")
        if on_dead_letter is not None and not callable(on_dead_letter):
            raise TypeError("on_dead_letter must be callable")
        if not (timeout > 0 and math.isfinite(timeout)):
            raise ConfigurationError(f"timeout={timeout!r}: must be a positive number of seconds")
        if retries < 0 or concurrency < 1 or max_queue < 1:
            raise ConfigurationError(
                "retries must be at least 0, concurrency and max_queue at least 1"
            )
        if overflow not in ("wait", "dead_letter"):
            raise ConfigurationError(f'overflow={overflow!r}: must be "wait" or "dead_letter"')
        self.failures = failures
        self.waits = overflow == "wait"
        self._callback = callback
        self._handler = on_dead_letter
        self._retries = retries
        self._concurrency = concurrency
        self.max_queue = max_queue
        self.name = getattr(callback, "__qualname__", type(callback).__name__)
        self._owner = owner
        self._metrics = owner.metrics
        self._invoker = Invoker(self.name, owner, timeout, most_hanging=2 * concurrency)
        self._by_dialog: dict[str, deque[Delivery]] = {}
        self._ready: deque[str] = deque()
        self._running = 0
        self._queued = 0
        self.taken = 0
        """Places that are reserved, or have an event."""
        self._dead: deque[tuple[Delivery, DeadLetter]] = deque()
        self.open: set[Delivery] = set()
        """What is neither delivered nor buried."""
        self._dead_lettering = False

    def __repr__(self) -> str:
        return (
            f"<Hook {self.name} {self._queued} queued, {self._running} running, "
            f"{self.taken - self._queued} reserved>"
        )

    @property
    def full(self) -> bool:
        """Whether every place is taken."""
        return self.taken >= self.max_queue

    @property
    def free_slots(self) -> int:
        """How many places are free."""
        return max(0, self.max_queue - self.taken)

    def reserve(self) -> None:
        """Take a place for the event of an update that is about to be sent."""
        self.taken += 1

    def release(self) -> None:
        """Give the place back: its event is published, or there will be none."""
        self.taken -= 1

    def publish(
        self,
        event: UpdateEvent,
        context: Context,
        *,
        from_callback: bool,
        watch: UpdateWatch | None,
        index: int,
    ) -> None:
        """Queue an event; `exempt` ones find a place in a full queue."""
        receipt = None if watch is None else _receipt_of(watch, index, self.name)
        delivery = Delivery(event, context, receipt)
        self.open.add(delivery)
        if self._queued >= self.max_queue and not self.waits and not from_callback:
            self._dead_letter(delivery, CallbackError(f"the queue of {self.name} is full"))
            return
        if not self._owner.open:
            self._dead_letter(delivery, CallbackError(CLOSED))
            return
        self._queued += 1
        self.taken += 1
        queue = self._by_dialog.get(event.dialog_id)
        if queue is None:
            self._by_dialog[event.dialog_id] = deque((delivery,))
            self._ready.append(event.dialog_id)
            self._pump()
        else:
            queue.append(delivery)

    def _pump(self) -> None:
        while self._owner.open and self._running < self._concurrency and self._ready:
            dialog_id = self._ready.popleft()
            delivery = self._by_dialog[dialog_id][0]
            self._running += 1
            # The task is made inside the context of the caller of `update`, and so inherits it.
            delivery.context.run(self._owner.spawn, self._deliver, dialog_id, delivery)

    async def _deliver(self, dialog_id: str, delivery: Delivery) -> None:
        failure: BaseException | None = None
        try:
            # On trio tasks of one round run in any order: the caller of `update` wakes first.
            await anyio.lowlevel.checkpoint()
            delivery.attempts += 1
            await self._invoker.call(self._callback, delivery.event)
        except BaseException as error:
            if not is_failure(error):
                raise
            failure = error
        finally:
            self._running -= 1
        metrics = self._metrics
        if failure is None:
            metrics.events_delivered += 1
            if delivery.receipt is not None:
                _tell(delivery.receipt, None, delivery.attempts)
            self._advance(dialog_id)
            self._over(delivery)
            return
        metrics.events_failed += 1
        kind = type(failure).__name__
        log(
            INFO,
            "callback %s failed with %s for dialog %r (attempt %d)",
            self.name,
            kind,
            dialog_id,
            delivery.attempts,
            callback=self.name,
            dialog_id=dialog_id,
            update_id=delivery.event.update_id,
            attempt=delivery.attempts,
            error=kind,
        )
        if delivery.attempts > self._retries:
            undelivered = CallbackError(f"the callback {self.name} failed with {kind}")
            undelivered.__cause__ = failure
            self._advance(dialog_id)
            self._dead_letter(delivery, undelivered)
            return
        self._pump()
        await anyio.sleep(_backoff(delivery.attempts))
        self._ready.append(dialog_id)
        self._pump()

    def _advance(self, dialog_id: str) -> None:
        """The head of a dialog's queue is done with: the next one follows."""
        queue = self._by_dialog[dialog_id]
        queue.popleft()
        if queue:
            self._ready.append(dialog_id)
        else:
            del self._by_dialog[dialog_id]
        was_full = self.full
        self._queued -= 1
        self.taken -= 1
        self._pump()
        if was_full:
            self._owner.on_free_slot()

    def _over(self, delivery: Delivery) -> None:
        """An event was delivered, or buried for good."""
        self.open.discard(delivery)
        self._owner.over(delivery)

    def _dead_letter(self, delivery: Delivery, error: CallbackError) -> None:
        self._metrics.events_dropped += 1
        if delivery.receipt is not None:
            _tell(delivery.receipt, error, delivery.attempts)
        event = delivery.event
        log(
            ERROR,
            "event of update %s of dialog %r was not delivered: %s",
            event.update_id,
            event.dialog_id,
            error,
            callback=self.name,
            dialog_id=event.dialog_id,
            update_id=event.update_id,
            attempts=delivery.attempts,
        )
        # Where the handler is slower than the events fail, the newest is lost rather than memory.
        if self._handler is None or len(self._dead) >= self.max_queue:
            self._over(delivery)
            return
        self._dead.append((delivery, DeadLetter(event, error, delivery.attempts)))
        if not self._dead_lettering and self._owner.open:
            self._dead_lettering = True
            delivery.context.run(self._owner.spawn, self.dead_letter_all)

    async def dead_letter_all(self) -> None:
        """Hand what could not be delivered to the dead-letter handler."""
        handler = self._handler
        try:
            while handler is not None and self._dead:
                delivery, letter = self._dead[0]
                try:
                    await self._invoker.call(handler, letter, unlimited=True)
                except BaseException as error:
                    if not is_failure(error):
                        raise
                    # The exception's text is the handler's own and may hold values.
                    log(
                        ERROR,
                        "the dead-letter handler of %s failed with %s for dialog %r",
                        self.name,
                        type(error).__name__,
                        letter.event.dialog_id,
                        callback=self.name,
                        dialog_id=letter.event.dialog_id,
                    )
                self._dead.popleft()
                self._over(delivery)
        finally:
            self._dead_lettering = False

    def end(self) -> None:
        """Nothing is delivered any more: what waits goes to the dead letters; see `bury_all`."""
        rest = [delivery for queue in self._by_dialog.values() for delivery in queue]
        self._by_dialog.clear()
        self._ready.clear()
        self.taken -= self._queued
        self._queued = 0
        for delivery in rest:
            self._dead_letter(delivery, CallbackError(CLOSED))


def _receipt_of(watch: UpdateWatch, index: int, callback: str) -> DeliveryReceipt | None:
    """Ask what looks on at an update what it wants to hear of a delivery."""
    try:
        return watch.published(index, callback)
    except Exception as error:
        _complain(watch, error)
        return None


def _tell(receipt: DeliveryReceipt, error: CallbackError | None, calls: int) -> None:
    try:
        receipt(error, calls)
    except Exception as problem:
        _complain(receipt, problem)


def _complain(of: object, error: Exception) -> None:
    # The text of the exception is another's own and may hold values.
    kind = type(of).__name__
    log(ERROR, "what looks on at deliveries, a %s, failed with %s", kind, type(error).__name__)


def _backoff(attempts: int) -> float:
    return min(10.0, 0.25 * 2.0 ** (attempts - 1)) + random.uniform(0, 0.25)
