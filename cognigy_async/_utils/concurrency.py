"""Background tasks, cancellation and clocks, the same on asyncio and trio."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import time
from collections.abc import Callable, Coroutine, Hashable, Iterable
from contextvars import Context
from typing import Any, Generic, TypeVar

import anyio
import sniffio
from anyio.abc import TaskGroup

# Event loops and clocks.


class _ForkCounter:
    """Counts the forks between the first process and this one; `os.getpid` costs more."""

    count = 0

    def add(self) -> None:
        self.count += 1


fork_counter = _ForkCounter()

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
            self._group.start_soon(shielded)

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
            await group.__aexit__(None, None, None)


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


Item = TypeVar("Item", bound=Hashable)


class CompletionTracker(Generic[Item]):
    """Lets tasks wait until each item of a set is marked as done."""

    def __init__(self) -> None:
        self.waiters: list[tuple[set[Item], anyio.Event]] = []
        """For each waiter: the items that are not done yet, and its event."""
        self.closed = False

    async def wait(self, items: Iterable[Item]) -> None:
        """Wait until `mark_done` was called with each of these items, or until `close`."""
        missing = set(items)
        if not missing or self.closed:
            return
        waiter = (missing, anyio.Event())
        self.waiters.append(waiter)
        try:
            await waiter[1].wait()
        finally:
            self.waiters.remove(waiter)

    def mark_done(self, item: Item) -> None:
        """Mark an item as done; wake the waiters that waited only for this item."""
        for missing, event in self.waiters:
            missing.discard(item)
            if not missing:
                event.set()

    def close(self) -> None:
        """Wake all waiters; later calls of `wait` return at once."""
        self.closed = True
        for _, event in self.waiters:
            event.set()
