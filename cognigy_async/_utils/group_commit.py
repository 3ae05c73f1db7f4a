"""Group commit: gather what comes, write it in a thread beside the event loop, wake who waits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, Protocol, TypeVar, TypeVarTuple

import anyio
import anyio.to_thread

T = TypeVar("T")
Ts = TypeVarTuple("Ts")
GroupT = TypeVar("GroupT")
ErrorT = TypeVar("ErrorT", bound=Exception)


class Storage(Protocol[GroupT]):
    """Keeps what was noted until it is written."""

    def take(self) -> GroupT:
        """Return what was noted since the last call, in the event loop."""
        ...

    def write(self, group: GroupT, /) -> None:
        """Write all of it, or nothing, in a worker thread."""
        ...


class GroupCommit(Generic[GroupT, ErrorT]):
    """Writes groups until `close`. One thread at a time runs `Storage.write`.

    Args:
        error: the error with which `Storage.write` fails. It is given to those who wait.
        gathering: seconds for which a group is gathered if nobody waits for it.
        interval: seconds from one group to the next if several waited for the former. So a busy
            program writes larger groups, and a single caller never waits for others.
        ends_on_error: end with the first error, which stays in `failure`. Otherwise the next group
            is tried.
    """

    def __init__(
        self,
        storage: Storage[GroupT],
        error: type[ErrorT],
        *,
        gathering: float,
        interval: float = 0.0,
        ends_on_error: bool = True,
    ) -> None:
        self._storage = storage
        self._error = error
        self._gathering = gathering
        self._interval = interval
        self._ends_on_error = ends_on_error
        self._waiting: list[Callable[[ErrorT | None], None]] = []
        self._urgent = anyio.Event()
        self._limiter = anyio.CapacityLimiter(1)
        self.noted = anyio.Event()
        """Set it to write soon what was noted, if nobody waits for it. Each group has another."""
        self.closing = False
        """True after `close`."""
        self.failure: ErrorT | None = None
        """Error that ended the writing."""

    def when_written(self, waiting: Callable[[ErrorT | None], None]) -> None:
        """Write now what was noted, and then call a function in the event loop.

        The function gets the error if writing failed, and must not raise.
        """
        if self.failure is not None:
            waiting(self.failure)
            return
        self._waiting.append(waiting)
        if not self._urgent.is_set():
            self._urgent.set()
            self.noted.set()

    async def written(self) -> ErrorT | None:
        """Wait until everything noted so far is written. Return the error if that failed."""
        written = anyio.Event()
        errors: list[ErrorT | None] = []

        def wake(error: ErrorT | None) -> None:
            errors.append(error)
            written.set()

        self.when_written(wake)
        await written.wait()
        return errors[0]

    async def run(self) -> None:
        """Write until `close`, or until writing fails for good. Write the rest when cancelled."""
        try:
            while not self.closing and self.failure is None:
                await self.noted.wait()
                with anyio.move_on_after(self._gathering):
                    await self._urgent.wait()
                if not self.closing:
                    began, waited = anyio.current_time(), len(self._waiting)
                    await self.commit()
                    if waited > 1 and self._interval and not self.closing:
                        await anyio.sleep_until(began + self._interval)
        finally:
            if self.failure is None:
                self.close()
                await self.commit()

    def close(self) -> None:
        """Write the last group and end."""
        self.closing = True
        self.noted.set()
        self._urgent.set()

    async def commit(self) -> None:
        """Write one group, also if this task is cancelled meanwhile."""
        group = self._storage.take()
        waiting, self._waiting = self._waiting, []
        if not self.closing:
            self.noted, self._urgent = anyio.Event(), anyio.Event()
        failure: ErrorT | None = None
        try:
            await self.in_thread(self._storage.write, group)
        except self._error as error:
            failure = error
            if self._ends_on_error:
                self.failure = error
                # Wake those that began to wait during the write, because no group follows.
                waiting += self._waiting
                self._waiting = []
        # Any other exception ends the program that owns this, and tells nobody of a success.
        for wake in waiting:
            wake(failure)

    async def in_thread(self, function: Callable[[*Ts], T], *args: *Ts) -> T:
        """Call a function while nothing is written. It ends even if this task is cancelled."""
        return await call_in_thread(self._limiter, function, *args)


async def call_in_thread(
    limiter: anyio.CapacityLimiter, function: Callable[[*Ts], T], *args: *Ts
) -> T:
    """Call a function in a worker thread. It ends even if this task is cancelled."""
    results: list[T] = []
    with anyio.CancelScope(shield=True):
        results.append(await anyio.to_thread.run_sync(function, *args, limiter=limiter))
    return results[0]
