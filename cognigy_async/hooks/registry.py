"""All callbacks of a client: who gets which event, and the tasks that call them."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any, TypeVar, Unpack, overload

import anyio
from anyio.abc import TaskGroup

from .._utils.concurrency import CompletionTracker
from .._utils.waker import Waker
from ..metrics import Metrics
from ..models.events import Callback, UpdateEvent, UpdateWatch
from .callback_queue import CallbackQueue, Delivery, HookOptions
from .invocation import current_call
from .observers import Observer

CallbackT = TypeVar("CallbackT", bound=Callback)

DEAD_LETTER_TIME = 1.0
"""Seconds that the dead-letter handlers have in all when a client closes."""


class CallbackRegistry:
    """All callbacks of a client, and the tasks that call them."""

    def __init__(self, metrics: Metrics, waker: Waker) -> None:
        self.metrics = metrics
        self._waker = waker
        self._hooks: tuple[CallbackQueue, ...] = ()
        self._waiting: tuple[CallbackQueue, ...] = ()
        self._tasks: TaskGroup | None = None
        self._countdowns: CompletionTracker[Delivery] = CompletionTracker()
        self.open = False
        self.any = False
        """Whether there are callbacks at all."""
        self.observers: tuple[Observer, ...] = ()
        """What sees every update."""

    def __repr__(self) -> str:
        return f"<Hooks {list(self._hooks)}>"

    def add(self, hook: CallbackQueue) -> None:
        """Register; before the client is open or while it is."""
        self._hooks += (hook,)
        self.any = True
        if hook.waits:
            self._waiting += (hook,)

    @property
    def full(self) -> bool:
        """Whether sending has to wait for a callback."""
        for hook in self._waiting:  # noqa: SIM110 (a generator costs more on the hot path)
            if hook.taken >= hook.max_queue:
                return True
        return False

    def free_slots(self, most: int) -> int:
        """How many events have a place now, at most `most`."""
        return min((hook.free_slots for hook in self._waiting), default=most)

    def reserve(self) -> tuple[CallbackQueue, ...]:
        """Places for the event of an update; give them to `publish`."""
        for hook in self._waiting:
            hook.taken += 1
        return self._waiting

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
        """Queue the event of a settled update, if there is one, in the places it reserved."""
        was_full = bool(reserved) and self.full
        for hook in reserved:
            hook.release()
        if event is not None:
            failed = event.error is not None
            for hook in self._hooks:
                if hook.failures is failed:
                    hook.publish(
                        event, context, from_callback=from_callback, watch=watch, index=index
                    )
        if was_full and not self.full:
            self._waker.wake()

    def on_free_slot(self) -> None:
        """A full queue has room again."""
        self._waker.wake()

    def called_us(self) -> bool:
        """Whether this is called by one of these callbacks, directly or not."""
        call = current_call.get()
        return call is not None and call.active and call.owner is self

    def spawn(self, function: Callable[..., Coroutine[Any, Any, None]], *args: Any) -> None:
        """Start a task that delivers."""
        assert self._tasks is not None
        self._tasks.start_soon(function, *args)

    def over(self, delivery: Delivery) -> None:
        """An event was delivered, or buried for good."""
        self._countdowns.mark_done(delivery)

    async def run(self, stop: anyio.Event, started: anyio.Event) -> None:
        """Own the delivering tasks until `stop` is set and they have ended."""
        try:
            async with anyio.create_task_group() as self._tasks:
                self.open = True
                started.set()
                await stop.wait()
                self._tasks.cancel_scope.cancel()
        finally:
            # All that is left is decided here, so that nobody waits for what does not come.
            self.open = False
            for hook in self._hooks:
                hook.end()
            self._countdowns.close()

    @property
    def busy(self) -> bool:
        """Whether there are events that are neither delivered nor buried."""
        return not self._countdowns.closed and any(hook.open for hook in self._hooks)

    async def drained(self) -> None:
        """Wait until the events that there are now are delivered or buried."""
        await self._countdowns.wait(delivery for hook in self._hooks for delivery in hook.open)

    async def dead_letter_rest(self) -> None:
        """After `run`: hand what is left to the dead-letter handlers, within a second."""
        with anyio.move_on_after(DEAD_LETTER_TIME, shield=True):
            for hook in self._hooks:
                await hook.dead_letter_all()


class Register:
    """Registers callbacks: call it with one, or use it as a decorator, with or without options.

    The callback is an async function, or a plain one, which runs in a worker thread. It is called
    with an `UpdateEvent`, in order for each dialog, in the background. One that fails or hangs does
    not fail the update. For the options see `HookOptions`.
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
        """Register a callback, or return what registers one.

        Raises:
            ConfigurationError: an option out of its range.
            TypeError: something that cannot be called.
        """

        def register(function: CallbackT) -> CallbackT:
            self._hooks.add(
                CallbackQueue(self._hooks, function, failures=self._failures, **options)
            )
            return function

        return register if callback is None else register(callback)
