"""Tasks that outlive the call that needed them, and other dealings with the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import Context
from typing import Any, Protocol

import anyio
import sniffio
from anyio.abc import TaskGroup

__all__ = [
    "TaskOwner",
    "Waited",
    "Wakes",
    "cancellation_requested",
    "forks",
    "home_of_this_task",
    "is_failure",
    "monotonic_clock",
    "start_on_its_own",
    "task_to_keep",
    "to_the_end",
    "wakes_of_this_loop",
]


_forks = 0


def _count_fork() -> None:
    global _forks
    _forks += 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_count_fork)


def forks() -> int:
    """How many forks lie between the first process and this one; asking for a pid costs more."""
    return _forks


class TaskOwner:
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


class _OwnTask(asyncio.Task[None]):
    """One that nobody can be blamed for leaving behind, because nobody was given it."""

    def __del__(self) -> None:
        if self.done():
            super().__del__()
            return
        # A loop that is closed early drops its tasks. Of this one nobody needs to be told, neither
        # that it did not end nor that it did not begin.
        with contextlib.suppress(ValueError):  # its coroutine is being closed already
            self.get_coro().close()


def start_on_its_own(main: Callable[[], Coroutine[Any, Any, None]], name: str) -> None:
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
        _OwnTask(main(), loop=loop, name=name, context=Context())
    else:
        import trio

        trio.lowlevel.spawn_system_task(main, name=name, context=Context())


def task_to_keep() -> object:
    """The present task on asyncio, which may know its tasks by weak references only.

    Not earlier: until its first step the loop has it, and drops it when it is closed.
    """
    return asyncio.current_task() if sniffio.current_async_library() == "asyncio" else None


async def to_the_end(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
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


class Waited(Protocol):
    """What one task waits for."""

    waiter: Any


class Wakes(Protocol):
    """Wakes the one task that waits for something, at a quarter of the price of an event."""

    def wait(self, waited: Waited, /) -> Awaitable[object]:
        """Wait for `notify`, which comes later than this; one task does, once."""
        ...

    def notify(self, waited: Waited, /) -> None:
        """Wake it, if it still waits."""
        ...


class _WakesByFuture:
    """On asyncio, whose tasks wait for a plain future of their loop with the least ado."""

    def __init__(self) -> None:
        self._future = asyncio.get_running_loop().create_future

    def wait(self, waited: Waited, /) -> Awaitable[object]:
        waited.waiter = future = self._future()
        return future

    def notify(self, waited: Waited, /) -> None:
        future = waited.waiter
        if not future.done():
            future.set_result(None)


class _WakesByEvent:
    def wait(self, waited: Waited, /) -> Awaitable[object]:
        waited.waiter = event = anyio.Event()
        return event.wait()

    def notify(self, waited: Waited, /) -> None:
        waited.waiter.set()


def wakes_of_this_loop() -> Wakes:
    """What wakes tasks of the running event loop."""
    is_asyncio = sniffio.current_async_library() == "asyncio"
    return _WakesByFuture() if is_asyncio else _WakesByEvent()


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


def home_of_this_task() -> Callable[[], Any]:
    """A function that tells which event loop runs it, and raises RuntimeError where none does."""
    if sniffio.current_async_library() == "asyncio":
        return asyncio.get_running_loop
    import trio

    return trio.lowlevel.current_trio_token
