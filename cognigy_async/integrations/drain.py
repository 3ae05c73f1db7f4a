"""The lifetime of a client in an application: open while it serves, drained at shutdown."""

from __future__ import annotations

import inspect
import logging
import math
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeAlias

import anyio

from cognigy_async import AsyncStateClient, CloseReport, ConfigurationError

logger = logging.getLogger("cognigy_async")

DRAIN_TIMEOUT = 8.0
"""Seconds. Docker and others allow at least 10 between SIGTERM and SIGKILL."""

ON_CLOSED_TIMEOUT = 2.0
"""Maximum seconds for `on_closed`."""

OnClosed: TypeAlias = Callable[[CloseReport], Awaitable[object] | object]
"""An async or a plain function, called in the event loop with the report of a closed client."""


def validate_drain_timeout(seconds: float) -> float:
    """Return the timeout if it is valid; raise now and not at the shutdown.

    Raises:
        ConfigurationError: The timeout is not a positive, finite number of seconds.
    """
    if not (seconds > 0 and math.isfinite(seconds)):
        raise ConfigurationError(f"drain_timeout={seconds!r}: must be a positive number of seconds")
    return seconds


@asynccontextmanager
async def open_client(
    client: AsyncStateClient, drain_timeout: float, on_closed: OnClosed | None
) -> AsyncGenerator[AsyncStateClient]:
    """Open the client; on exit send accepted updates and deliver events within `drain_timeout`.

    After an exception or a cancellation, the client sends no further request, but requests in
    flight may complete within `drain_timeout`. The client logs unsent updates by `update_id` and
    `dialog_id`. Then `on_closed` gets the report, also after a cancellation.

    Raises:
        TimeoutError: `on_closed` took more than `ON_CLOSED_TIMEOUT` seconds.
        Exception: Raised by `on_closed`.
    """
    async with client:
        drain = False
        try:
            yield client
            drain = True
        finally:
            try:
                with anyio.CancelScope(shield=not drain):
                    await client.aclose(drain=drain, timeout=drain_timeout)
            finally:
                report = client.close_report
                logger.info("client closed: %r", report)
                if on_closed is not None and report is not None:
                    with anyio.fail_after(ON_CLOSED_TIMEOUT, shield=True):
                        result = on_closed(report)
                        if inspect.isawaitable(result):
                            await result
