"""Parts of a client for unit tests: a configuration, and an admission without an engine."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from cognigy_async import ApiKey, Limits, Metrics, RetryPolicy, RuntimeApi
from cognigy_async._utils.waker import Waker
from cognigy_async.client.admission import Admission
from cognigy_async.client.config import ClientConfig
from cognigy_async.engine.capacity import PendingLimit
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


class FakeScheduler:
    """Keeps the accepted items."""

    def __init__(self) -> None:
        self.items: list[WorkItem] = []
        self.queues: dict[str, Any] = {}
        self.earliest_at = 0.0

    def accept(self, item: WorkItem, now: float) -> None:
        self.items.append(item)

    def earliest(self, dialog_id: str, now: float) -> float:
        return max(now, self.earliest_at)


class Entrance:
    """An admission and the parts around it; its clock stands still at `now`."""

    def __init__(self, *, slots: int = 10, audit: Any = None, **changes: Any) -> None:
        self.now = 0.0
        self.metrics = Metrics(None)
        self.hooks = CallbackRegistry(self.metrics, Waker())
        self.scheduler = FakeScheduler()
        self.pending_limit = PendingLimit(slots)
        context: Any = SimpleNamespace(
            config=config(**changes),
            pending_limit=self.pending_limit,
            hooks=self.hooks,
            metrics=self.metrics,
            clock=lambda: self.now,
            audit=audit,
        )
        scheduler: Any = self.scheduler
        self.admission = Admission(context, scheduler)
        self.admission.open()
