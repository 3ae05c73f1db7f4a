"""One piece of work that is waited for from several event loops, and outlives whoever wanted it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field

import anyio
import sniffio


class LoopHandle:
    """The running event loop, to be reached from any thread.

    Raises:
        sniffio.AsyncLibraryNotFoundError: made outside an event loop.
    """

    __slots__ = ("_call_soon", "_native")

    def __init__(self) -> None:
        if sniffio.current_async_library() == "trio":
            # Installed where it runs, and nowhere else imported.
            import trio

            token = trio.lowlevel.current_trio_token()
            self._native: object = token
            self._call_soon: Callable[[Callable[[], object]], object] = token.run_sync_soon
        else:
            loop = asyncio.get_running_loop()
            self._native = loop
            self._call_soon = loop.call_soon_threadsafe

    def has_dropped_its_tasks(self) -> bool:
        """Whether the loop was closed over tasks that were not at their end.

        A trio run never is: it sees all of its tasks to their end.
        """
        return isinstance(self._native, asyncio.AbstractEventLoop) and self._native.is_closed()

    def is_same(self, other: LoopHandle) -> bool:
        """Whether both are the same run of the same loop."""
        return self._native is other._native

    def call_soon(self, callback: Callable[[], object]) -> bool:
        """Call `callback`, which must not raise, in the loop; False when the loop is over."""
        try:
            self._call_soon(callback)
        except RuntimeError:  # asyncio: the loop is closed; trio: RunFinishedError
            return False
        return True


def event_of(future: Future[None]) -> anyio.Event:
    """An event for the running loop, which is set once the future is done, in whatever thread."""
    event, here = anyio.Event(), LoopHandle()
    future.add_done_callback(lambda _: here.call_soon(event.set))
    return event


@dataclass(slots=True, eq=False, repr=False)
class Refresh:
    """One refresh of a token, in a task of its own. What changes it holds the provider's lock.

    Attributes:
        lease: the moment by which its task is heard of again, on the provider's clock.
        home: the loop of its task.
        scope: what its task runs in; cancelled when the flight is abandoned.
        task: what is kept of it, once it runs.
        over: done when there is a token or an error; cancelled when the flight is abandoned, since
            its loop ended or stands still, or the provider was closed.
        gone: done when its task has ended.
        waiting: how many wait for it.
    """

    lease: float
    home: LoopHandle = field(default_factory=LoopHandle)
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    task: object = None
    over: Future[None] = field(default_factory=Future)
    gone: Future[None] = field(default_factory=Future)
    waiting: int = 0


class SupersededError(Exception):
    """The flight was abandoned: nobody waits for it any more."""
