"""Fencing: a worker that was cut off from the cluster sends no more requests.

Temporal gives an activity to another worker when its heartbeats stop. The first worker may only be
frozen, or asleep. So each request is checked against a deadline that follows from the last
heartbeat which the cluster confirmed, on a clock that goes on while the machine sleeps.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from contextvars import ContextVar
from datetime import timedelta
from typing import Any

import anyio
from temporalio import activity
from temporalio.client import AsyncActivityCancelledError
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError, RPCStatusCode

from cognigy_async import (
    NotSentError,
    Observation,
    Observer,
    Operation,
    Request,
    Response,
    Transport,
)

from .dialog_writer import HEARTBEAT_TIMEOUT

logger = logging.getLogger("cognigy_async")

FENCE = 0.7
"""Share of the heartbeat timeout after which the worker itself stops sending."""

BEATS = 5
"""Number of heartbeats in one timeout."""

GONE = (RPCStatusCode.NOT_FOUND, RPCStatusCode.INVALID_ARGUMENT)


def _sleepless_clock() -> Callable[[], float]:
    # On Linux, the monotonic clock stands still while the machine sleeps; elsewhere it does not.
    number = getattr(time, "CLOCK_BOOTTIME", getattr(time, "CLOCK_MONOTONIC", None))
    return time.monotonic if number is None else lambda: time.clock_gettime(number)


clock = _sleepless_clock()
"""Seconds that go on while the machine sleeps."""


class Fence:
    """The right of one activity to send requests.

    Attributes:
        refused: number of requests that were not sent because the right had ended.
        is_lost: True if the cluster has given the activity to another worker, or cancelled it.
    """

    def __init__(self) -> None:
        self.deadline = float("-inf")
        self.refused = 0
        self.is_lost = False

    def extend(self, sent_at: float, timeout: float) -> None:
        """Extend the right after a heartbeat, sent at `sent_at`, that the cluster confirmed."""
        self.deadline = sent_at + FENCE * timeout

    def lose(self) -> None:
        """End the right for good."""
        self.deadline = float("-inf")
        self.is_lost = True


_current: ContextVar[Fence | None] = ContextVar("current", default=None)
"""The fence of the running activity."""

_about_to_send: ContextVar[Fence | None] = ContextVar("about_to_send", default=None)
"""The fence of the request that the running task sends next; the earliest of several."""


class FenceObserver:
    """Knows to which activity a request of the client belongs."""

    def accepted(self, operation: Operation, dialog_id: str, update_id: str) -> Observation | None:
        """Remember the fence of the activity that makes this call."""
        fence = _current.get()
        return None if fence is None else _FencedOperation(fence)


class _FencedOperation:
    def __init__(self, fence: Fence) -> None:
        self._fence = fence

    def request_starts(self, request: Request, attempt: int) -> None:
        """Remember the fence for the transport, which the same task calls next."""
        other = _about_to_send.get()
        if other is None or self._fence.deadline < other.deadline:
            _about_to_send.set(self._fence)

    def request_ends(
        self, request: Request, response: Response | None, error: BaseException | None
    ) -> None:
        """Do nothing."""

    def settled(self, error: BaseException | None, attempts: int) -> None:
        """Do nothing."""


class FencedTransport:
    """A transport that checks the fence right before each request of an activity."""

    def __init__(self, inner: Transport) -> None:
        self._inner = inner

    async def send(self, request: Request, *, timeout: float) -> Response:
        """Send a request; see `Transport`.

        Raises:
            NotSentError: The worker has lost its connection to the cluster.
        """
        fence = _about_to_send.get()
        if fence is not None:
            _about_to_send.set(None)
            if clock() >= fence.deadline:
                fence.refused += 1
                raise NotSentError("The worker has lost its connection to the Temporal cluster")
        return await self._inner.send(request, timeout=timeout)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._inner.aclose()


observer: Observer = FenceObserver()


@asynccontextmanager
async def fenced(
    details: Callable[[], Sequence[Any]] = tuple, on_cancel: Callable[[], None] | None = None
) -> AsyncIterator[Fence]:
    """Send heartbeats, with `details`, while the body of an activity runs.

    Requests of updates that the body submits are checked against the returned fence. If the cluster
    has given the activity to another worker, the body is cancelled. If the workflow cancels the
    activity, `on_cancel` is called to end the body; without it, the body is cancelled.

    Raises:
        ApplicationError: The cluster has given the activity to another worker.
    """
    info = activity.info()
    timeout = (info.heartbeat_timeout or HEARTBEAT_TIMEOUT).total_seconds()
    handle = activity.client().get_async_activity_handle(task_token=info.task_token)
    fence = Fence()

    async def beat(content: Sequence[Any]) -> None:
        """Send one heartbeat. If the cluster does not answer, the right runs out."""
        sent_at = clock()
        try:
            await handle.heartbeat(*content, rpc_timeout=timedelta(seconds=timeout / 2))
        except AsyncActivityCancelledError:
            if on_cancel is None:
                fence.lose()
            else:
                fence.extend(sent_at, timeout)
                on_cancel()
        except RPCError as error:
            if error.status in GONE:
                fence.lose()
            else:
                logger.warning("heartbeat of %s failed: %s", info.activity_type, error.status.name)
        else:
            fence.extend(sent_at, timeout)

    async def keep_beating() -> None:
        while not fence.is_lost:
            await anyio.sleep(timeout / BEATS)
            content = details()
            # The SDK has a timer of its own, which needs a heartbeat too.
            activity.heartbeat(*content)
            await beat(content)
        tasks.cancel_scope.cancel()

    await beat(details())
    token = _current.set(fence)
    try:
        if not fence.is_lost:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(keep_beating)
                yield fence
                tasks.cancel_scope.cancel()
    finally:
        _current.reset(token)
    if fence.is_lost:
        raise ApplicationError("another worker has taken over", type="Fenced")
