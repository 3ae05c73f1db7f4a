"""One piece of work that is waited for from several event loops, and outlives whoever wanted it."""

from __future__ import annotations

import asyncio
import enum
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import anyio
import sniffio

from .errors import AuthenticationError

__all__ = ["Flight", "Latch", "LoopHandle", "Stage", "SupersededError"]


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


class Latch:
    """Opens once, for tasks of any event loop and any thread."""

    __slots__ = ("_lock", "_open", "_watchers")

    def __init__(self) -> None:
        # Reentrant, for the garbage collector: see the provider's.
        self._lock = threading.RLock()
        self._open = False
        self._watchers: dict[anyio.Event, LoopHandle] = {}  # in the order in which they came

    def __len__(self) -> int:
        """How many wait."""
        return len(self._watchers)

    def open(self) -> None:
        """From anywhere, any number of times; a loop that is over has nobody left to wake."""
        with self._lock:
            self._open = True
            watchers = tuple(self._watchers.items())
        for event, loop in watchers:
            loop.call_soon(event.set)

    @contextmanager
    def watched(self) -> Iterator[anyio.Event]:
        """An event for the running loop, which is set once the latch is open.

        Raises:
            sniffio.AsyncLibraryNotFoundError: no event loop is running.
        """
        event, here = anyio.Event(), LoopHandle()
        with self._lock:
            if self._open:
                event.set()
            self._watchers[event] = here
        try:
            yield event
        finally:
            with self._lock:
                del self._watchers[event]


class Stage(enum.Enum):
    """Where a flight stands.

    UNDER_WAY → SETTLED: there is a token or an error, shared by all who wait.
    UNDER_WAY → ABANDONED: its loop ended or stands still, or the provider was closed; those who
    wait begin a new flight.

    Nothing leaves SETTLED or ABANDONED: who wakes late must find what it waited for, and a task
    that stood still must find that it is not waited for any more.
    """

    UNDER_WAY = enum.auto()
    SETTLED = enum.auto()
    ABANDONED = enum.auto()


@dataclass(slots=True, eq=False, repr=False)
class Flight:
    """One refresh of a token, in a task of its own. What changes it holds the provider's lock.

    Attributes:
        lease: the moment by which its task is heard of again, on the provider's clock.
        home: the loop of its task.
        scope: what its task runs in; cancelled when the flight is abandoned.
        task: what is kept of it, once it runs.
        error: why it failed.
        over: opens when it is not under way any more.
        gone: opens when its task has ended.
    """

    lease: float
    stage: Stage = Stage.UNDER_WAY
    home: LoopHandle = field(default_factory=LoopHandle)
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    task: object = None
    error: AuthenticationError | None = None
    over: Latch = field(default_factory=Latch)
    gone: Latch = field(default_factory=Latch)

    @property
    def under_way(self) -> bool:
        """Whether it is still worth waiting for."""
        return self.stage is Stage.UNDER_WAY


class SupersededError(Exception):
    """The flight was abandoned: nobody waits for it any more."""
