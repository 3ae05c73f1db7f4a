"""An engine with all of its parts, over a scripted wire and without a client."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio

from cognigy_async import ApiKey, AsyncStateClient
from cognigy_async._utils.waker import Waker
from cognigy_async.engine.capacity import PendingLimit
from cognigy_async.engine.context import Context
from cognigy_async.engine.engine import Engine
from cognigy_async.engine.protocol import UpdateProtocol
from cognigy_async.engine.work_item import WorkItem
from cognigy_async.hooks.registry import CallbackRegistry
from cognigy_async.metrics import Metrics
from tests.simulation.world import BASE_URL, KEY, Wire


def engine_over(wire: Wire, **options: Any) -> Engine:
    """Return an engine that is not running yet, with the clock of the running event loop."""
    return Engine(context_over(wire, **options))


def context_over(wire: Wire, **options: Any) -> Context:
    """Return the parts of an engine with a configuration made of the arguments of a client."""
    client = AsyncStateClient(BASE_URL, **{"auth": ApiKey(KEY)} | options)
    config = client._config
    metrics, waker = Metrics(), Waker()
    return Context(
        config=config,
        protocol=UpdateProtocol(config.api, config.base_url, config.limits),
        transport=wire,
        quota=None,
        audit=None,
        outbox=config.outbox,
        metrics=metrics,
        hooks=CallbackRegistry(metrics, waker),
        pending_limit=PendingLimit(config.max_pending),
        waker=waker,
        clock=anyio.current_time,
    )


@asynccontextmanager
async def running(engine: Engine) -> AsyncIterator[None]:
    """Run an engine, and close it at the end."""
    started, stop, cut = anyio.Event(), anyio.Event(), anyio.CancelScope()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(engine.run, started, stop, cut)
        await started.wait()
        try:
            yield
        finally:
            stop.set()
    engine.close()


def accept(engine: Engine, *items: WorkItem) -> None:
    """Accept items as the admission does."""
    for each in items:
        assert engine.pending_limit.try_acquire()
        engine.scheduler.accept(each, engine.clock())
