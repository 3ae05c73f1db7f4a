"""One refresh over the wire: the requests that are made until the token endpoint gives a token."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from typing import Any

import anyio

from .._utils.logging import log
from ..errors import AuthenticationError, NoResponseError, NotSentError
from ..transports.base import Response, Transport
from .token_endpoint import Grant, TokenEndpoint

ATTEMPTS = 3
BACKOFF = 0.25
"""Seconds at most before the first repeat; twice as many before the next."""
LONGEST_PAUSE = 30.0
"""Seconds; a `Retry-After` above it ends the exchange."""
GRACE = 1.0
"""Seconds that a transport may take beyond its timeout."""


async def exchange(
    endpoint: TokenEndpoint,
    transport: Transport,
    timeout: float,
    clock: Callable[[], float],
    before: Callable[[float], None],
) -> Grant:
    """Ask for a token, again where that can help: after a network fault, a 429 or a 5xx.

    Args:
        timeout: seconds for one request.
        clock: monotonic seconds.
        before: called before each step with the seconds it may take; what it raises ends all.

    Raises:
        AuthenticationError: there is none; what the transport raised beyond its protocol is raised
            as it is.
    """
    failure: AuthenticationError | None = None
    for attempt in range(1, ATTEMPTS + 1):
        if failure is not None:
            seconds = max(random.uniform(0, BACKOFF * 2 ** (attempt - 2)), failure.retry_after or 0)
            before(seconds)
            facts: dict[str, Any] = {"attempt": attempt - 1, "wait": seconds}
            log(logging.INFO, "the token request is repeated in %.3g s", seconds, **facts)
            await anyio.sleep(seconds)
        before(timeout + GRACE)
        asked_at = clock()
        try:
            return endpoint.grant(await _send(endpoint, transport, timeout), asked_at, time.time())
        except AuthenticationError as error:
            error.attempts = attempt
            if not error.transient or (error.retry_after or 0.0) > LONGEST_PAUSE:
                raise
            failure = error
        except (NotSentError, NoResponseError) as error:
            said = "could not be reached" if isinstance(error, NotSentError) else "did not answer"
            facts = {"transient": True, "attempts": attempt}
            failure = endpoint.failure(said, cause=error, **facts)
    assert failure is not None
    raise failure


async def _send(endpoint: TokenEndpoint, transport: Transport, timeout: float) -> Response:
    # The transport keeps the time itself; the scope is for one that does not.
    with anyio.move_on_after(timeout + GRACE):
        return await transport.send(endpoint.request, timeout=timeout)
    raise NoResponseError("the transport did not end in time", timed_out=True)
