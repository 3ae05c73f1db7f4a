"""How the one task that waits for an update is woken."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any, Protocol

import anyio
import sniffio


class Waited(Protocol):
    """What one task waits for."""

    waiter: Any


class Waiters(Protocol):
    """Wakes the one task that waits for something, at a quarter of the price of an event."""

    def wait(self, waited: Waited, /) -> Awaitable[object]:
        """Wait for `notify`, which comes later than this; one task does, once."""
        ...

    def notify(self, waited: Waited, /) -> None:
        """Wake it, if it still waits."""
        ...


class _FutureWaiters:
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


class _EventWaiters:
    def wait(self, waited: Waited, /) -> Awaitable[object]:
        waited.waiter = event = anyio.Event()
        return event.wait()

    def notify(self, waited: Waited, /) -> None:
        waited.waiter.set()


def waiters_for_this_loop() -> Waiters:
    """What wakes tasks of the running event loop."""
    is_asyncio = sniffio.current_async_library() == "asyncio"
    return _FutureWaiters() if is_asyncio else _EventWaiters()
