"""Background tasks, cancellation and clocks, the same on asyncio and trio."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import time
from bisect import bisect_left
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import Future
from contextvars import Context
from itertools import islice
from operator import attrgetter, length_hint
from queue import SimpleQueue
from typing import Any, TypeAlias, TypeVar

import anyio
import sniffio
from anyio.abc import TaskGroup

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Coroutine[Any, Any, None]])

Event: TypeAlias = asyncio.Event | anyio.Event

# Event loops and clocks.


class _ForkCounter:
    """Counts the forks between the first process and this one; `os.getpid` costs more."""

    count = 0

    def add(self) -> None:
        self.count += 1


fork_counter = _ForkCounter()

FORKED = "this client was opened before the process forked; open one in each process"

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=fork_counter.add)


def monotonic_clock() -> Callable[[], float]:
    """Return the clock of the running event loop, in seconds. A call does not detect the loop.

    The clock of uvloop does not advance while a task runs. uvloop and the standard loops both
    follow `time.monotonic`, which always advances.
    """
    if sniffio.current_async_library() != "asyncio":
        return anyio.current_time
    loop = asyncio.get_running_loop()
    follows_monotonic = (
        type(loop).time is asyncio.BaseEventLoop.time or type(loop).__module__ == "uvloop"
    )
    return time.monotonic if follows_monotonic else loop.time


def event_type() -> Callable[[], Event]:
    """Return the type of event that costs least in the running event loop.

    To wait for one of asyncio's own takes three quarters of the time.
    """
    return asyncio.Event if sniffio.current_async_library() == "asyncio" else anyio.Event


def current_loop_getter() -> Callable[[], Any]:
    """Return a function that identifies the event loop it runs in.

    The function raises RuntimeError when it runs outside an event loop.
    """
    if sniffio.current_async_library() == "asyncio":
        return asyncio.get_running_loop
    import trio

    return trio.lowlevel.current_trio_token


# Cancellation.


def is_failure(error: BaseException) -> bool:
    """Return whether an exception of user code is a failure, not a cancellation of this task.

    On asyncio a `CancelledError` may be a failure: awaiting a cancelled future raises it too.
    """
    if isinstance(error, Exception):
        return True
    if isinstance(error, KeyboardInterrupt | SystemExit | GeneratorExit):
        return False
    if not isinstance(error, anyio.get_cancelled_exc_class()):
        return True
    if sniffio.current_async_library() != "asyncio":
        return False
    task = asyncio.current_task()
    cancelled = anyio.current_effective_deadline() == -math.inf or (task and task.cancelling())
    return not cancelled


async def run_to_completion(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run `main` to its end even if this task is cancelled. `main` must take a bounded time.

    An anyio shield is not enough: asyncio's own `Task.cancel`, as used by `asyncio.timeout`,
    breaks through it.

    Raises:
        BaseException: any exception of `main`, else a cancellation that arrived while it ran.
    """
    if sniffio.current_async_library() != "asyncio":
        with anyio.CancelScope(shield=True):
            await main()
        return
    task = asyncio.create_task(main())
    cancelled = await _until_done(task)
    task.result()
    if cancelled is not None:
        raise cancelled


async def _until_done(task: asyncio.Task[None]) -> asyncio.CancelledError | None:
    """Wait for the end of a task; return the last cancellation that arrived meanwhile."""
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            with anyio.CancelScope(shield=True):
                await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancelled = error
    return cancelled


# Tasks.


def uninterrupted(function: F) -> F:
    """Return a coroutine function that Ctrl-C does not interrupt.

    On trio, Ctrl-C raises in the task that runs at this moment, and reaches the user's program in
    an `ExceptionGroup`. Protected tasks leave the `KeyboardInterrupt` to the main task.
    """
    if sniffio.current_async_library() == "asyncio":
        return function
    import trio

    return trio.lowlevel.enable_ki_protection(function)


class BackgroundTask:
    """One coroutine that runs in the background until it ends by itself.

    On asyncio it has a task of its own, so a fixture may enter a client in one task and leave it
    in another. On trio it runs in a nursery, shielded, because a cancelled nursery must still give
    it the time to end.
    """

    def __init__(self) -> None:
        self._task: asyncio.Task[None] | None = None
        self._group: TaskGroup | None = None

    async def start(self, main: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Start `main`."""

        async def shielded() -> None:
            with anyio.CancelScope(shield=True):
                await main()

        if sniffio.current_async_library() == "asyncio":
            self._task = asyncio.create_task(main(), name="cognigy_async client")
        else:
            self._group = anyio.create_task_group()
            await self._group.__aenter__()
            self._group.start_soon(uninterrupted(shielded))

    async def join(self) -> None:
        """Wait until the coroutine has ended. Raise its exception unless it was cancelled."""
        if self._task is not None:
            task, self._task = self._task, None
            cancelled = await _until_done(task)
            if not task.cancelled():
                task.result()
            if cancelled is not None:
                raise cancelled
        if self._group is not None:
            # No shield around the exit: trio does not allow leaving a nursery inside a later scope.
            group, self._group = self._group, None
            try:
                await group.__aexit__(None, None, None)
            except BaseExceptionGroup as errors:
                # `uninterrupted` does not cover the first and last steps of a task.
                interrupts, others = errors.split(KeyboardInterrupt)
                if interrupts is None or others is not None:
                    raise
                raise KeyboardInterrupt from errors


class _DetachedTask(asyncio.Task[None]):
    """A task without an owner; suppresses "Task was destroyed but it is pending"."""

    def __del__(self) -> None:
        if self.done():
            super().__del__()
            return
        # A loop that closes early drops its tasks. Closing the coroutine also suppresses "was
        # never awaited".
        with contextlib.suppress(ValueError):  # the coroutine is already being closed
            self.get_coro().close()


def spawn_detached(main: Callable[[], Coroutine[Any, Any, None]], name: str) -> None:
    """Run `main` until it ends or the event loop cancels it; it must not raise `Exception`.

    The task has no owner: cancelling the caller does not reach it. It does not inherit the
    caller's context variables, because its spans and log lines concern other callers, too.
    `main` should hold a reference to `current_asyncio_task()` while it runs.

    Raises:
        RuntimeError: the event loop is closing and takes no new tasks.
    """
    if sniffio.current_async_library() == "asyncio":
        # Bypass the loop's task factory: it may start tasks eagerly, inside the caller.
        loop = asyncio.get_running_loop()
        _DetachedTask(main(), loop=loop, name=name, context=Context())
    else:
        import trio

        trio.lowlevel.spawn_system_task(main, name=name, context=Context())


def current_asyncio_task() -> object:
    """Return the current task on asyncio, which keeps only weak references; None on trio."""
    return asyncio.current_task() if sniffio.current_async_library() == "asyncio" else None


class CompletionTracker:
    """Lets tasks wait until all items that are open now are done, whatever is opened later.

    An item has a serial, larger than those of the items before it. The items are only counted, and
    each of them once, however many tasks wait.

    Attributes:
        waits: the waits that are not over, in the order of their serials.
        closed: True after `close`.
    """

    def __init__(self) -> None:
        self.waits: list[_Wait] = []
        self.closed = False
        self._counted = 0

    async def wait(self, serial: int, open_items: int) -> None:
        """Wait until no item up to a serial is open, or until `close`.

        Args:
            serial: Serial of the newest item, open or not.
            open_items: Number of open items.
        """
        if not open_items or self.closed:
            return
        if not self.waits or self.waits[-1].serial < serial:
            self.waits.append(_Wait(serial, open_items - self._counted))
            self._counted = open_items
        wait = self.waits[-1]
        wait.tasks += 1
        try:
            await wait.over.wait()
        finally:
            wait.tasks -= 1
            if not wait.tasks and not wait.over.is_set():
                self._forget(wait)

    def mark_open(self, serial: int) -> None:
        """Count an item that was not open when the waits for its serial began."""
        self._count(serial, 1)

    def mark_done(self, serial: int) -> None:
        """Mark an open item as done; wake the tasks for which it was the last one."""
        self._count(serial, -1)
        while self.waits and not self.waits[0].open_items:
            self.waits.pop(0).over.set()

    def _count(self, serial: int, change: int) -> None:
        # An item counts for the first wait that includes it; the later waits include that wait.
        index = bisect_left(self.waits, serial, key=_serial_of)
        if index < len(self.waits):
            self.waits[index].open_items += change
            self._counted += change

    def _forget(self, wait: _Wait) -> None:
        """Forget a wait whose tasks were cancelled; its items count for the next one."""
        index = bisect_left(self.waits, wait.serial, key=_serial_of)
        del self.waits[index]
        if index < len(self.waits):
            self.waits[index].open_items += wait.open_items
        else:
            self._counted -= wait.open_items

    def close(self) -> None:
        """Wake all waiting tasks; later calls of `wait` return at once."""
        self.closed = True
        waits, self.waits = self.waits, []
        for wait in waits:
            wait.over.set()


class _Wait:
    """A wait of one or more tasks for the items after those of the wait before it."""

    __slots__ = ("open_items", "over", "serial", "tasks")

    def __init__(self, serial: int, open_items: int) -> None:
        self.serial = serial
        self.open_items = open_items
        self.tasks = 0
        self.over = anyio.Event()


_serial_of = attrgetter("serial")


# Threads.

_END: Any = object()


class ItemsOfThread(AsyncIterator[T]):
    """An asynchronous iterator over the items of an iterator that belongs to another thread.

    The thread hands over the items while it is in `serve`.
    """

    def __init__(self, items: Iterator[T]) -> None:
        self._items = items
        self._requests: deque[Future[T]] = deque()
        # The item of the first request, once it is taken.
        self._taken: deque[T] = deque()
        # Lets `serve` look for a request, and at its future.
        self._wakeups: SimpleQueue[None] = SimpleQueue()

    def __length_hint__(self) -> int:
        # A negative number is an error, which says that the length is unknown.
        return length_hint(self._items, -1)

    async def __anext__(self) -> T:
        request: Future[T] = Future()
        self._requests.append(request)
        self._wakeups.put(None)
        item = await asyncio.wrap_future(request)
        if item is _END:
            raise StopAsyncIteration
        return item

    def wake(self, _: Future[Any]) -> None:
        """Let `serve` look whether its future is done."""
        self._wakeups.put(None)

    def serve(self, until: Future[Any]) -> None:
        """Hand over the items that are asked for until a future is done, which calls `wake`.

        An interrupt may come between any two steps. The next call goes on where it came, and
        neither a request nor an item is lost.
        """
        while not until.done():
            if not self._requests:
                self._wakeups.get()
                continue
            request = self._requests[0]
            if request.running() or (not request.done() and request.set_running_or_notify_cancel()):
                try:
                    if not self._taken:
                        # In one step: an interrupt after `next` would lose its item.
                        self._taken.extend(islice(self._items, 1))
                    request.set_result(self._taken[0] if self._taken else _END)
                except Exception as error:
                    request.set_exception(error)
            self._taken.clear()
            self._requests.popleft()
