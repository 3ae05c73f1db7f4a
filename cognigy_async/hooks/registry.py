"""All callbacks and observers of a client; the options of a callback are in `options`."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import Context
from typing import TypeVar, Unpack, overload

import anyio

from .._utils.waker import Waker
from ..metrics import Metrics
from ..models.events import Callback, UpdateEvent, UpdateWatch
from .callback_queue import CallbackQueue, DeliveryTasks
from .invocation import current_call
from .observers import Observer
from .options import CallbackOptions, HookOptions

CallbackT = TypeVar("CallbackT", bound=Callback)

DEAD_LETTER_TIMEOUT = 1.0
"""Total seconds for all dead-letter handlers when a client closes."""


class CallbackRegistry:
    """All callbacks and observers of one client."""

    def __init__(self, metrics: Metrics, waker: Waker) -> None:
        self._waker = waker
        self._tasks = DeliveryTasks(metrics, waker)
        self._queues: tuple[CallbackQueue, ...] = ()
        # Queues that delay the sending of updates when they are full.
        self._blocking: tuple[CallbackQueue, ...] = ()
        self.has_callbacks = False
        self.observers: tuple[Observer, ...] = ()

    def __repr__(self) -> str:
        return f"<CallbackRegistry {list(self._queues)}>"

    def add(self, callback: Callback, options: CallbackOptions, *, failures: bool) -> None:
        """Register a callback, before the client is opened or while it is open."""
        queue = CallbackQueue(self._tasks, callback, options, failures=failures)
        self._queues += (queue,)
        self.has_callbacks = True
        if queue.waits:
            self._blocking += (queue,)

    def add_observer(self, observer: Observer) -> None:
        """Notify `observer` of every update accepted from now on."""
        self.observers += (observer,)

    @property
    def has_failure_callbacks(self) -> bool:
        """True if a callback gets the updates that failed."""
        return any(queue.failures for queue in self._queues)

    def inside_callback(self) -> bool:
        """Return True in a running callback of this client, or in a task that it started."""
        call = current_call.get()
        return call is not None and call.active and call.owner is self._tasks

    # Slots and events.

    @property
    def full(self) -> bool:
        """True if sending has to wait for a callback."""
        for queue in self._blocking:  # noqa: SIM110 (a generator costs more on the hot path)
            if queue.used >= queue.max_queue:
                return True
        return False

    def free_slots(self, limit: int) -> int:
        """Return the number of events that fit in every queue, at most `limit`."""
        free = (queue.max_queue - queue.used for queue in self._blocking)
        return max(0, min(free, default=limit))

    def reserve(self) -> tuple[CallbackQueue, ...]:
        """Reserve a slot for the event of one update, and return the queues for `publish`."""
        for queue in self._blocking:
            queue.used += 1
        return self._blocking

    def publish(
        self,
        event: UpdateEvent | None,
        context: Context,
        reserved: tuple[CallbackQueue, ...],
        *,
        from_callback: bool,
        watch: UpdateWatch | None,
        index: int,
    ) -> None:
        """Release the reserved slots of an update and queue its event, if there is one."""
        was_full = bool(reserved) and self.full
        for queue in reserved:
            queue.used -= 1
        if event is not None:
            failed = event.error is not None
            for queue in self._queues:
                if queue.failures is failed:
                    queue.publish(
                        event, context, from_callback=from_callback, watch=watch, index=index
                    )
        if was_full and not self.full:
            self._waker.wake()

    # Lifecycle.

    async def run(self, stop: anyio.Event, started: anyio.Event) -> None:
        """Deliver events until `stop` is set, then turn the remaining ones into dead letters."""
        try:
            await self._tasks.run(stop, started)
        finally:
            for queue in self._queues:
                queue.stop()
            self._tasks.tracker.close()

    @property
    def busy(self) -> bool:
        """True if `wait_delivered` would wait."""
        return not self._tasks.tracker.closed and self._tasks.unfinished > 0

    async def wait_delivered(self) -> None:
        """Wait until the events published so far are delivered or are dead letters."""
        await self._tasks.tracker.wait(self._tasks.published, self._tasks.unfinished)

    async def dead_letter_rest(self) -> None:
        """Call the dead-letter handlers with the events left after `run`, within a second."""
        with anyio.move_on_after(DEAD_LETTER_TIMEOUT, shield=True):
            for queue in self._queues:
                await queue.handle_dead_letters()


class Register:
    """Registers callbacks, as a function or as a decorator, with or without options.

    A callback is an async function, or a plain function, which runs in a worker thread. The client
    calls a callback in the background with an `UpdateEvent`, in order for each dialog. A callback
    that fails or hangs does not fail the update. See `HookOptions` for the options.

    Example::

        @client.on_state_updated(retries=5)
        async def sync_crm(event: UpdateEvent) -> None:
            await crm.save(event.dialog_id, event.payload)
    """

    def __init__(self, hooks: CallbackRegistry, *, failures: bool) -> None:
        self._hooks = hooks
        self._failures = failures

    @overload
    def __call__(self, callback: CallbackT, /, **options: Unpack[HookOptions]) -> CallbackT: ...

    @overload
    def __call__(
        self, callback: None = None, /, **options: Unpack[HookOptions]
    ) -> Callable[[CallbackT], CallbackT]: ...

    def __call__(
        self, callback: CallbackT | None = None, /, **options: Unpack[HookOptions]
    ) -> CallbackT | Callable[[CallbackT], CallbackT]:
        """Register a callback and return it; without a callback, return a decorator.

        Raises:
            ConfigurationError: An option is out of range.
            TypeError: The callback or the dead-letter handler cannot be called with one argument.
        """

        def register(function: CallbackT) -> CallbackT:
            self._hooks.add(function, CallbackOptions(**options), failures=self._failures)
            return function

        return register if callback is None else register(callback)
