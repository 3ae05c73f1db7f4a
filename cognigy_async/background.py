"""Tasks that outlive the call that needed them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import Context
from typing import Any

import anyio
import sniffio
from anyio.abc import TaskGroup


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
