"""The client's life inside an application: open while it serves, drained when it shuts down."""

from __future__ import annotations

import logging
import math
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio

from cognigy_async import AsyncStateClient, ConfigurationError

logger = logging.getLogger("cognigy_async")

DRAIN_TIMEOUT = 8.0
"""Seconds; what Docker and others leave between SIGTERM and SIGKILL is 10 or more."""


def checked_drain_timeout(seconds: float) -> float:
    """The number itself: when the application shuts down it is too late to refuse it.

    Raises:
        ConfigurationError: not a positive, finite number of seconds.
    """
    if not (seconds > 0 and math.isfinite(seconds)):
        raise ConfigurationError(f"drain_timeout={seconds!r}: must be a positive number of seconds")
    return seconds


@asynccontextmanager
async def open_client(
    client: AsyncStateClient, drain_timeout: float
) -> AsyncGenerator[AsyncStateClient]:
    """Open the client; at the end send what was accepted and deliver the events, within a deadline.

    An application that ends by an exception or a cancellation sends nothing more, but gives what is
    in flight the same time. What was not sent is logged by `update_id` and `dialog_id`.
    """
    async with client:
        drain = False
        try:
            yield client
            drain = True
        finally:
            with anyio.CancelScope(shield=not drain):
                report = await client.aclose(drain=drain, timeout=drain_timeout)
                logger.info("the client is closed: %r", report)
