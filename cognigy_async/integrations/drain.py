"""The lifetime of a client in an application: open while it serves, drained at shutdown."""

from __future__ import annotations

import logging
import math
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio

from cognigy_async import AsyncStateClient, ConfigurationError

logger = logging.getLogger("cognigy_async")

DRAIN_TIMEOUT = 8.0
"""Seconds. Docker and others allow at least 10 between SIGTERM and SIGKILL."""


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
    client: AsyncStateClient, drain_timeout: float
) -> AsyncGenerator[AsyncStateClient]:
    """Open the client; on exit send accepted updates and deliver events within `drain_timeout`.

    After an exception or a cancellation, the client sends no further request, but requests in
    flight may complete within `drain_timeout`. The client logs unsent updates by `update_id` and
    `dialog_id`.
    """
    async with client:
        drain = False
        try:
            yield client
            drain = True
        finally:
            with anyio.CancelScope(shield=not drain):
                report = await client.aclose(drain=drain, timeout=drain_timeout)
                logger.info("client closed: %r", report)
