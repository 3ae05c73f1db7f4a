"""Parts of a client for unit tests: a configuration, and an admission without an engine."""

from __future__ import annotations

from typing import Any

from cognigy_async import ApiKey, Limits, Metrics, RetryPolicy, RuntimeApi
from cognigy_async._utils.waker import Waker
from cognigy_async.client.admission import Admission
from cognigy_async.client.config import ClientConfig
from cognigy_async.engine.capacity import PendingLimit
from cognigy_async.engine.context import Context
from cognigy_async.engine.protocol import UpdateProtocol
from cognigy_async.engine.scheduler import Scheduler
from cognigy_async.engine.work_item import WorkItem
from cognigy_async.hooks.registry import CallbackRegistry


class NullTransport:
    """Answers every request with 200; notes that it was closed."""

    def __init__(self) -> None:
        self.closed = 0

    async def send(self, request: Any, *, timeout: float) -> Any:
        from cognigy_async import Response

        return Response(200, {}, b"{}")

    async def aclose(self) -> None:
        self.closed += 1


def config(**changes: Any) -> ClientConfig:
    arguments: dict[str, Any] = {
        "base_url": "https://api.example",
        "auth": ApiKey("key"),
        "api": RuntimeApi(),
        "max_in_flight": 2,
        "max_pending": 10,
        "rate_limit": None,
        "retry": RetryPolicy(),
        "limits": Limits(),
        "coalesce": False,
        "linger": 0.0,
        "on_failure": "continue",
        "timeout": 15.0,
        "audit": None,
        "transport": NullTransport(),
        "allow_insecure": False,
    }
    return ClientConfig(**arguments | changes)


class Entrance:
    """An admission with its scheduler and no workers; its clock stands still at `now`."""

    def __init__(self, *, slots: int = 10, audit: Any = None, **changes: Any) -> None:
        self.now = 0.0
        self.metrics, waker = Metrics(None), Waker()
        self.hooks = CallbackRegistry(self.metrics, waker)
        self.pending_limit = PendingLimit(slots)
        made = config(**changes)
        context = Context(
            config=made,
            protocol=UpdateProtocol(made.api, made.base_url, made.limits),
            transport=NullTransport(),
            quota=None,
            audit=audit,
            outbox=None,
            metrics=self.metrics,
            hooks=self.hooks,
            pending_limit=self.pending_limit,
            waker=waker,
            clock=lambda: self.now,
        )
        self.scheduler = Scheduler(context)
        self.admission = Admission(context, self.scheduler)
        self.admission.open()

    @property
    def items(self) -> list[WorkItem]:
        """The accepted items, in order."""
        queues = [*self.scheduler.queues, *self.scheduler.reads]
        items = [item for queue in queues for item in queue.work_items]
        return sorted(items, key=lambda item: item.serial)
