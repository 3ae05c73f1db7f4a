"""Time that passes only when nobody has anything to do, on asyncio as on trio.

A test in virtual time never waits: as soon as every task waits for a timer, the clock jumps to the
next one. An hour of backoff costs microseconds, and runs the same way each time.

For trio that is `trio.testing.MockClock(autojump_threshold=0)`. `VirtualClockLoop` is the same for
asyncio. `backend_options` gives either of them to anyio, and `run` runs a function with it::

    def test_patience() -> None:
        run(anyio.sleep, 3600, backend="asyncio")

What both clocks have in common:

- The clock starts at 0.0. `anyio.current_time`, `asyncio.get_running_loop().time` and
  `trio.current_time` tell virtual seconds; `time.monotonic` goes on telling real ones.
- Sockets that are ready and wake-ups from other threads go before a jump, but what is under way
  elsewhere does not hold the clock: while a worker thread, another process or a server works, a
  task that waits for it *with a timeout* sees the timeout expire at once. Tests of threads and
  sockets with timeouts belong in real time.
- With no timer at all the clock stands still, and a wake-up from outside is waited for.
"""

from __future__ import annotations

import asyncio
import math
import selectors
import time
from collections.abc import Awaitable, Callable, Mapping
from contextvars import Context
from typing import TYPE_CHECKING, Any, Literal, TypeVar, TypeVarTuple

import anyio

if TYPE_CHECKING:
    from _typeshed import FileDescriptorLike

__all__ = ["Backend", "DeadlockError", "VirtualClockLoop", "backend_options", "run"]

Backend = Literal["asyncio", "trio"]
T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class DeadlockError(RuntimeError):
    """Every task waits for another one: no timer is set, and nothing outside could wake them."""


class VirtualClockLoop(asyncio.SelectorEventLoop):
    """An asyncio event loop whose clock jumps to the next timer when nothing is ready.

    Args:
        deadlock_after: real seconds without any event after which `DeadlockError` is raised, when
            neither a timer is set nor a file descriptor watched. Until then a worker thread may
            still wake the loop.

    The error leaves through `run_until_complete`, and names the tasks that wait.
    """

    def __init__(self, *, deadlock_after: float = 10.0) -> None:
        self._now = 0.0
        self._deadlock_after = deadlock_after
        super().__init__(_JumpingSelector(self))

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self._now

    def jump(self, seconds: float) -> None:
        """Let time pass; timers that are due by then fire at the next turn of the loop.

        Raises:
            ValueError: for a negative number; time does not go backwards.
        """
        if seconds < 0:
            raise ValueError(f"time does not go backwards: jump({seconds})")
        self._now += seconds
        # A timer fires when it lies before now plus this. Far from zero, nanoseconds are lost in
        # rounding and a timer that is due now would never fire.
        self._clock_resolution = max(1e-9, 2 * math.ulp(self._now))

    def call_at(
        self,
        when: float,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        """As in any loop, except that ``sleep(math.inf)`` sets no timer: it would make time run."""
        if when == math.inf:
            return asyncio.TimerHandle(when, callback, args, self, context)
        return super().call_at(when, callback, *args, context=context)

    def _deadlock(self) -> DeadlockError:
        tasks = sorted(asyncio.all_tasks(self), key=lambda task: task.get_name())
        waiting = "".join(f"\n  {task!r}" for task in tasks)
        return DeadlockError(
            f"nothing happened for {self._deadlock_after:g} real seconds, no timer is set and no "
            f"file descriptor is watched; {len(tasks)} tasks wait:{waiting}"
        )


class _JumpingSelector(selectors.BaseSelector):
    """The machine's selector, except that it jumps where that one would sleep.

    The event loop calls `select` with the time to its next timer exactly when it has nothing to
    run, so this is the one place that has to know of virtual time.
    """

    def __init__(self, loop: VirtualClockLoop) -> None:
        self._loop = loop
        self._real = selectors.DefaultSelector()

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            return self._wait_for_the_outside()
        events = self._real.select(0)
        if not events and timeout > 0:
            self._loop.jump(timeout)
        return events

    def _wait_for_the_outside(self) -> list[tuple[selectors.SelectorKey, int]]:
        # One descriptor is the loop's own, by which other threads wake it.
        if len(self._real.get_map()) > 1:
            return self._real.select(None)
        patience = time.monotonic() + self._loop._deadlock_after
        while (left := patience - time.monotonic()) > 0:
            # A signal, too, ends a wait with no events.
            if events := self._real.select(left):
                return events
        raise self._loop._deadlock()

    def register(
        self, fileobj: FileDescriptorLike, events: int, data: Any = None
    ) -> selectors.SelectorKey:
        return self._real.register(fileobj, events, data)

    def unregister(self, fileobj: FileDescriptorLike) -> selectors.SelectorKey:
        return self._real.unregister(fileobj)

    def modify(
        self, fileobj: FileDescriptorLike, events: int, data: Any = None
    ) -> selectors.SelectorKey:
        return self._real.modify(fileobj, events, data)

    def get_map(self) -> Mapping[FileDescriptorLike, selectors.SelectorKey]:
        return self._real.get_map()

    def get_key(self, fileobj: FileDescriptorLike) -> selectors.SelectorKey:
        return self._real.get_key(fileobj)

    def close(self) -> None:
        self._real.close()


def backend_options(backend: Backend) -> dict[str, Any]:
    """Options that make an anyio backend run in virtual time; a new clock at each call."""
    if backend == "asyncio":
        return {"loop_factory": VirtualClockLoop}
    from trio.testing import MockClock

    return {"clock": MockClock(autojump_threshold=0)}


def run(function: Callable[[*Ts], Awaitable[T]], *args: *Ts, backend: Backend = "asyncio") -> T:
    """`anyio.run` in virtual time."""
    options = backend_options(backend)
    if backend == "asyncio":
        return anyio.run(function, *args, backend_options=options)
    import trio

    # Not every anyio passes options on to trio.
    return trio.run(function, *args, **options)
