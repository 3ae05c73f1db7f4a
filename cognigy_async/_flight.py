"""One piece of work that is waited for from several event loops, and outlives whoever does it."""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Callable, Coroutine
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import anyio
import sniffio

from .errors import AuthenticationError

__all__ = [
    "Flight",
    "LoopHandle",
    "Stage",
    "SupersededError",
    "Waker",
    "background",
    "only_here",
]


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


class Waker:
    """An event that is waited for in the loop in which it was made, and set from anywhere.

    Raises:
        sniffio.AsyncLibraryNotFoundError: made outside an event loop.
    """

    __slots__ = ("_event", "_loop")

    def __init__(self) -> None:
        self._event = anyio.Event()
        self._loop = LoopHandle()

    def wake(self) -> None:
        """From any thread, any number of times; a loop that is over has nobody left to wake."""
        self._loop.call_soon(self._event.set)

    async def wait(self) -> None:
        """Return once `wake` was called."""
        await self._event.wait()


class Stage(enum.Enum):
    """Where a flight stands.

    OFFERED → LED: a task begins to lead, which it may do only while the flight is the provider's.
    OFFERED → ABANDONED: the task that was to lead never started, or the provider was closed.
    LED → ARRIVED, FAILED: what came of it is shared by all who wait.
    LED → ABANDONED: the leader was cancelled or is overdue, or the provider was closed; those who
    wait begin a new flight.

    Nothing leaves ARRIVED, FAILED or ABANDONED: who wakes late must find what it waited for.
    Nothing goes from LED to OFFERED: a request may be under way until its leader says that it is
    not.
    """

    OFFERED = enum.auto()
    LED = enum.auto()
    ARRIVED = enum.auto()
    FAILED = enum.auto()
    ABANDONED = enum.auto()


@dataclass(slots=True, eq=False, repr=False)
class Flight:
    """One refresh of a token, led by one task. What changes it holds the provider's lock.

    Attributes:
        lease: the moment by which its leader is heard of again, on the provider's clock.
        home: the loop of its leader.
        error: why it failed.
        waiters: who wants to be woken when it is over.
    """

    lease: float
    stage: Stage = Stage.OFFERED
    home: LoopHandle | None = None
    error: AuthenticationError | None = None
    waiters: set[Waker] = field(default_factory=set)

    @property
    def under_way(self) -> bool:
        """Whether it is still worth waiting for."""
        return self.stage in (Stage.OFFERED, Stage.LED)

    def has_lost_its_leader(self, now: float) -> bool:
        """Whether it certainly makes no request any more, nor will."""
        if self.stage is Stage.OFFERED:
            # The task that was to lead was cancelled before it ran. If it starts after all, it
            # finds that the flight is not the provider's any more.
            return now >= self.lease
        return self.home is not None and self.home.has_dropped_its_tasks()


class SupersededError(Exception):
    """The leader's flight is no longer the provider's: nobody waits for it any more."""


Spawn: TypeAlias = Callable[[Callable[[], Coroutine[Any, Any, None]]], object]

background: ContextVar[Spawn | None] = ContextVar("cognigy_async.background", default=None)
"""How to start a task that outlives its caller, set by a client in its own tasks.

It is called with a function that takes nothing and never raises an `Exception`; where it cannot
start a task it raises, and the caller does the work. See `only_here`.
"""


def only_here(spawn: Spawn) -> Spawn:
    """`spawn`, except that it raises RuntimeError when another loop than the present one runs.

    A context is copied into worker threads, and these may run loops of their own.
    """
    home = LoopHandle()

    def checked(job: Callable[[], Coroutine[Any, Any, None]]) -> object:
        if not home.is_same(LoopHandle()):
            raise RuntimeError("another event loop is running")
        return spawn(job)

    return checked
