"""Where code runs: in which event loop and process, by which clock, and whether it is to end."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import time
from collections.abc import Awaitable, Callable, Coroutine, Hashable, Iterable
from contextvars import Context
from typing import Any, Generic, TypeVar

import anyio
import sniffio
from anyio.abc import TaskGroup


class _ForkCounter:
    """Counts the forks between the first process and this one; asking for a pid costs more."""

    count = 0

    def add(self) -> None:
        self.count += 1


fork_counter = _ForkCounter()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=fork_counter.add)


def cancellation_requested() -> bool:
    """Whether this task is being cancelled, rather than given a stray `CancelledError`.

    On asyncio whatever awaits a cancelled future raises the same exception.
    """
    if anyio.current_effective_deadline() == -math.inf:
        return True
    if sniffio.current_async_library() != "asyncio":
        return True
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def is_failure(error: BaseException) -> bool:
    """Whether what other people's code raised is its own failure, and not the end of this task."""
    if isinstance(error, Exception):
        return True
    if isinstance(error, KeyboardInterrupt | SystemExit | GeneratorExit):
        return False
    return not (isinstance(error, anyio.get_cancelled_exc_class()) and cancellation_requested())


def monotonic_clock() -> Callable[[], float]:
    """The clock of the running event loop, in seconds, without the detection at each call.

    uvloop's own clock stands still while a task runs, so that a moment would be taken for earlier
    than it is; it and the standard library's loops follow `time.monotonic`.
    """
    if sniffio.current_async_library() != "asyncio":
        return anyio.current_time
    loop = asyncio.get_running_loop()
    follows_monotonic = (
        type(loop).time is asyncio.BaseEventLoop.time or type(loop).__module__ == "uvloop"
    )
    return time.monotonic if follows_monotonic else loop.time


def current_loop_getter() -> Callable[[], Any]:
    """A function that tells which event loop runs it, and raises RuntimeError where none does."""
    if sniffio.current_async_library() == "asyncio":
        return asyncio.get_running_loop
    import trio

    return trio.lowlevel.current_trio_token


class BackgroundTask:
    """Runs one coroutine in the background until it ends by itself.

    On asyncio a task of its own runs it, so that a fixture may enter a client in one task and leave
    it in another. On trio a nursery does; the coroutine is shielded there, because leaving the
    nursery by a cancellation must leave it the time to end.
    """

    def __init__(self) -> None:
        self._task: asyncio.Task[None] | None = None
        self._group: TaskGroup | None = None

    async def start(self, main: Callable[[], Awaitable[None]]) -> None:
        """Begin to run `main`."""

        async def run() -> None:
            await main()

        async def shielded() -> None:
            with anyio.CancelScope(shield=True):
                await main()

        if sniffio.current_async_library() == "asyncio":
            self._task = asyncio.create_task(run(), name="cognigy_async client")
        else:
            self._group = anyio.create_task_group()
            await self._group.__aenter__()
            self._group.start_soon(shielded)

    async def join(self) -> None:
        """Wait until it has ended; raises what it raised, cancellation aside."""
        if self._task is not None:
            task, self._task = self._task, None
            with anyio.CancelScope(shield=True):
                await asyncio.wait([task])
            if not task.cancelled():
                task.result()
        if self._group is not None:
            # A nursery cannot be left inside a scope that was entered after it; what runs in it is
            # shielded itself, and has ended by now.
            group, self._group = self._group, None
            await group.__aexit__(None, None, None)


class _DetachedTask(asyncio.Task[None]):
    """One that nobody can be blamed for leaving behind, because nobody was given it."""

    def __del__(self) -> None:
        if self.done():
            super().__del__()
            return
        # A loop that is closed early drops its tasks. Of this one nobody needs to be told, neither
        # that it did not end nor that it did not begin.
        with contextlib.suppress(ValueError):  # its coroutine is being closed already
            self.get_coro().close()


def spawn_detached(main: Callable[[], Coroutine[Any, Any, None]], name: str) -> None:
    """Run `main`, which raises no `Exception`, until it ends or the event loop cancels it.

    It should keep its `task_to_keep` where that is not lost.

    The task belongs to no caller: the cancellation of whoever called this does not reach it. Nor do
    their context variables, because it works for others as well; its spans would hang below
    a span that may have ended, its log lines would carry somebody's request.

    Raises:
        RuntimeError: the event loop is at its end and takes no task any more.
    """
    if sniffio.current_async_library() == "asyncio":
        # Not by the loop's task factory, which may start tasks at once, within the caller.
        loop = asyncio.get_running_loop()
        _DetachedTask(main(), loop=loop, name=name, context=Context())
    else:
        import trio

        trio.lowlevel.spawn_system_task(main, name=name, context=Context())


def current_asyncio_task() -> object:
    """The present task on asyncio, which may know its tasks by weak references only.

    Not earlier: until its first step the loop has it, and drops it when it is closed.
    """
    return asyncio.current_task() if sniffio.current_async_library() == "asyncio" else None


async def run_to_completion(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run `main`, which takes a bounded time, to its end, whoever is cancelled meanwhile.

    A shield of anyio does not keep off the `Task.cancel` of asyncio, as `asyncio.timeout` uses it.
    """
    if sniffio.current_async_library() != "asyncio":
        with anyio.CancelScope(shield=True):
            await main()
        return
    task = asyncio.create_task(main())
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            with anyio.CancelScope(shield=True):
                await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancelled = error
    # First what it raised, as that is more than a cancellation.
    task.result()
    if cancelled is not None:
        raise cancelled


Item = TypeVar("Item", bound=Hashable)


class CompletionTracker(Generic[Item]):
    """Those who wait, each for a set of items of its own."""

    def __init__(self) -> None:
        self.waiters: list[tuple[set[Item], anyio.Event]] = []
        """For what, and how they are told that nothing of it is left."""
        self.closed = False
        """Nothing will be over any more."""

    async def wait(self, items: Iterable[Item]) -> None:
        """Wait until each of these items was given to `over`."""
        left = set(items)
        if not left or self.closed:
            return
        one = (left, anyio.Event())
        self.waiters.append(one)
        try:
            await one[1].wait()
        finally:
            self.waiters.remove(one)

    def close(self) -> None:
        """Nothing will be over any more: nobody waits."""
        self.closed = True
        for _, event in self.waiters:
            event.set()

    def mark_done(self, item: Item) -> None:
        """Nobody needs to wait for this item any longer."""
        for left, event in self.waiters:
            left.discard(item)
            if not left:
                event.set()
