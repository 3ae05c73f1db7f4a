"""Events, and a registry that runs for the length of a block."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import copy_context
from typing import Any

import anyio

from cognigy_async import Metrics, ServerError, UpdateEvent
from cognigy_async._utils.waker import Waker
from cognigy_async.hooks.registry import CallbackRegistry


class CountingWaker(Waker):
    """Counts the times that it is asked to wake a worker."""

    __slots__ = ("woken",)

    def __init__(self) -> None:
        super().__init__()
        self.woken = 0

    def wake(self) -> None:
        self.woken += 1


def registry() -> tuple[CallbackRegistry, Metrics, CountingWaker]:
    metrics, waker = Metrics(None), CountingWaker()
    return CallbackRegistry(metrics, waker), metrics, waker


@asynccontextmanager
async def running(hooks: CallbackRegistry) -> AsyncIterator[None]:
    async with anyio.create_task_group() as tasks:
        stop, started = anyio.Event(), anyio.Event()
        tasks.start_soon(hooks.run, stop, started)
        await started.wait()
        yield
        stop.set()


def event(dialog_id: str = "d", number: int = 0, *, failed: bool = False) -> UpdateEvent:
    error = ServerError("failed") if failed else None
    return UpdateEvent(dialog_id, f"u-{number}", None, None, error)


def publish(hooks: CallbackRegistry, of: UpdateEvent, **changes: Any) -> None:
    """Reserve and publish, as a sent update does."""
    reserved = hooks.reserve()
    how: dict[str, Any] = {"from_callback": False, "watch": None, "index": -1}
    hooks.publish(of, copy_context(), reserved, **how | changes)
