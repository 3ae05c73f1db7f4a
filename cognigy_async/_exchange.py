"""One refresh over the wire: the requests that are made until the token endpoint gives a token."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

import anyio
from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception,
    stop_after_attempt,
    wait_random_exponential,
)

from ._oauth import Grant, TokenEndpoint
from .errors import AuthenticationError, NoResponseError, NotSentError
from .logs import log
from .transports import Response, Transport

__all__ = ["GRACE", "Exchange"]

ATTEMPTS = 3
BACKOFF = wait_random_exponential(multiplier=0.25, max=5)
LONGEST_PAUSE = 30.0
"""Seconds; a `Retry-After` above it ends the exchange."""
GRACE = 1.0
"""Seconds that a transport may take beyond its timeout."""


class Exchange:
    """Asks for a token, again where that can help: after a network fault, a 429 or a 5xx.

    Args:
        timeout: seconds for one request.
        clock: monotonic seconds.
        before: called before each step with the seconds it may take; what it raises ends all.
    """

    def __init__(
        self,
        endpoint: TokenEndpoint,
        transport: Transport,
        *,
        timeout: float,
        clock: Callable[[], float],
        before: Callable[[float], None],
    ) -> None:
        self._endpoint = endpoint
        self._transport = transport
        self._timeout = timeout
        self._clock = clock
        self._before = before
        self._attempts = 0

    async def run(self) -> Grant:
        """The token.

        Raises:
            AuthenticationError: there is none; what the transport raised beyond its protocol is
                raised as it is.
        """
        retrying = AsyncRetrying(
            sleep=self._pause,
            stop=stop_after_attempt(ATTEMPTS),
            wait=_pause_after,
            retry=retry_if_exception(_is_worth_repeating),
            reraise=True,
        )
        grant: Grant = await retrying(self._attempt)
        return grant

    async def _attempt(self) -> Grant:
        self._before(self._timeout + GRACE)
        self._attempts += 1
        asked_at = self._clock()
        try:
            response = await self._send()
            return self._endpoint.grant(response, asked_at, time.time())
        except AuthenticationError as error:
            error.attempts = self._attempts
            raise
        except (NotSentError, NoResponseError) as error:
            said = "could not be reached" if isinstance(error, NotSentError) else "did not answer"
            facts: dict[str, Any] = {"transient": True, "attempts": self._attempts}
            raise self._endpoint.failure(said, cause=error, **facts)  # noqa: B904 (it has the cause)

    async def _send(self) -> Response:
        # The transport keeps the time itself; the scope is for one that does not.
        with anyio.move_on_after(self._timeout + GRACE):
            return await self._transport.send(self._endpoint.request, timeout=self._timeout)
        raise NoResponseError("the transport did not end in time", timed_out=True)

    async def _pause(self, seconds: float) -> None:
        self._before(seconds)
        facts = {"attempt": self._attempts, "wait": seconds}
        log(logging.INFO, "the token request is repeated in %.3g s", seconds, **facts)
        await anyio.sleep(seconds)


def _is_worth_repeating(error: BaseException) -> bool:
    return (
        isinstance(error, AuthenticationError)
        and error.transient
        and (error.retry_after or 0.0) <= LONGEST_PAUSE
    )


def _pause_after(state: RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome else None
    return max(BACKOFF(state), getattr(error, "retry_after", None) or 0.0)
