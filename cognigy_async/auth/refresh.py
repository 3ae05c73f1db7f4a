"""The execution of one token refresh: its requests, and its waiters in any loop or thread."""

from __future__ import annotations

import asyncio
import logging
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future

import anyio
import sniffio

from .._utils.concurrency import current_asyncio_task
from .._utils.logging import log
from ..errors import AuthenticationError, NoResponseError, NotSentError
from ..models.http import Response
from ..transports.base import Transport
from .token_endpoint import IssuedToken, OAuthEndpoint

ATTEMPTS = 3

# Seconds.
BACKOFF = 0.25  # longest wait before the second attempt, doubled before the third
MAX_RETRY_WAIT = 30.0  # a longer Retry-After ends the refresh
TIMEOUT_GRACE = 1.0  # time that a transport may take beyond its timeout
CHECK_INTERVAL = 1.0  # how often a waiter checks the refresh, and how late a step may be


class SupersededError(Exception):
    """The refresh was abandoned. No caller waits for it any more."""


class EventLoopRef:
    """A reference to the running event loop. Any thread may use it.

    Raises:
        sniffio.AsyncLibraryNotFoundError: no event loop is running.
    """

    __slots__ = ("_call_soon", "_native")

    def __init__(self) -> None:
        if sniffio.current_async_library() == "trio":
            # Imported only here, so that asyncio programs do not load trio.
            import trio

            token = trio.lowlevel.current_trio_token()
            self._native: object = token
            self._call_soon: Callable[[Callable[[], object]], object] = token.run_sync_soon
        else:
            loop = asyncio.get_running_loop()
            self._native = loop
            self._call_soon = loop.call_soon_threadsafe

    def is_closed(self) -> bool:
        """Return whether the loop was closed. Closing it drops its unfinished tasks.

        Always False for trio, which runs all of its tasks to their end.
        """
        return isinstance(self._native, asyncio.AbstractEventLoop) and self._native.is_closed()

    def is_same(self, other: EventLoopRef) -> bool:
        """Return whether both refer to the same run of the same loop."""
        return self._native is other._native

    def call_soon(self, callback: Callable[[], object]) -> bool:
        """Schedule `callback` in the loop; it must not raise. Return False if the loop ended."""
        try:
            self._call_soon(callback)
        except RuntimeError:  # asyncio: the loop is closed; trio: RunFinishedError
            return False
        return True


def event_of(future: Future[None]) -> anyio.Event:
    """Return an event of the running loop that is set when `future` is done, in any thread."""
    event, loop = anyio.Event(), EventLoopRef()
    future.add_done_callback(lambda _: loop.call_soon(event.set))
    return event


class Refresh:
    """One token refresh, shared by all callers that wait for it.

    Its provider runs it in a task of its own. State changes under the provider's lock.

    Args:
        transport: None to open an `HttpxTransport` for this refresh alone.
        timeout: seconds for one token request.
        clock: monotonic seconds.

    Attributes:
        loop: event loop of the task.
        scope: cancel scope of the task, cancelled when the refresh is abandoned.
        outcome: done with a token or an error; cancelled when the refresh is abandoned, because its
            loop ended or is blocked, or the provider was closed.
        ended: done when the task has ended.
        waiting: number of callers that wait.
    """

    def __init__(
        self,
        endpoint: OAuthEndpoint,
        transport: Transport | None,
        timeout: float,
        clock: Callable[[], float],
        lock: threading.RLock,
    ) -> None:
        self._endpoint = endpoint
        self._transport = transport
        self._timeout = timeout
        self._clock = clock
        self._lock = lock
        # Limit the first step too: an asyncio task that is cancelled before its start never runs.
        self._step_ends_at = clock() + CHECK_INTERVAL
        self.loop = EventLoopRef()
        self.scope = anyio.CancelScope()
        self._task: object = None
        self.outcome: Future[None] = Future()
        self.ended: Future[None] = Future()
        self.waiting = 0

    def abandon(self) -> None:
        """Cancel the task and wake the waiters, unless there is an outcome."""
        with self._lock:
            if self.outcome.done() or not self.outcome.cancel():
                return
        self.loop.call_soon(self.scope.cancel)

    async def wait(self) -> None:
        """Wait for the outcome. Abandon the refresh if it is overdue or its loop is closed."""
        event = event_of(self.outcome)
        with self._lock:
            self.waiting += 1
        try:
            while not self.outcome.done():
                overdue = self._clock() >= self._step_ends_at
                with anyio.move_on_after(CHECK_INTERVAL):
                    await event.wait()
                # Abandon only if it was overdue before the wait too: if this loop was blocked, the
                # refresh may have run in the meantime.
                if (overdue and self._clock() >= self._step_ends_at) or self.loop.is_closed():
                    self.abandon()
        finally:
            with self._lock:
                self.waiting -= 1

    async def request_token(self) -> IssuedToken:
        """Return a token, after up to three requests.

        Network failures, 429 and 5xx are retried, never before Retry-After.

        Raises:
            AuthenticationError: the endpoint issued no token.
            SupersededError: the refresh was abandoned.
            Exception: the transport raised an exception that its protocol does not allow.
        """
        # Keep the task, because the event loop of asyncio has only weak references to its tasks.
        self._task = current_asyncio_task()
        self._begin_step(self._timeout)
        if self._transport is not None:
            return await self._request_with_retries(self._transport)
        # Imported late, because httpx is slow to import and a given transport may not need it.
        from ..transports.httpx import HttpxTransport

        transport = HttpxTransport()
        try:
            return await self._request_with_retries(transport)
        finally:
            # Closed before the token is published, so that a caller that exits at once leaves no
            # open connection.
            await _close(transport)

    async def _request_with_retries(self, transport: Transport) -> IssuedToken:
        failure: AuthenticationError | None = None
        for attempt in range(1, ATTEMPTS + 1):
            if failure is not None:
                wait = max(
                    random.uniform(0, BACKOFF * 2 ** (attempt - 2)), failure.retry_after or 0
                )
                self._begin_step(wait)
                message = "token request failed; retrying in %.3g s (attempt %d of %d)"
                fields = {"attempt": attempt - 1, "wait": wait}
                log(logging.INFO, message, wait, attempt, ATTEMPTS, **fields)
                await anyio.sleep(wait)
            self._begin_step(self._timeout + TIMEOUT_GRACE)
            requested_at = self._clock()
            try:
                response = await self._send(transport)
                return self._endpoint.parse(response, requested_at, time.time())
            except AuthenticationError as error:
                error.attempts = attempt
                if not error.transient or (error.retry_after or 0.0) > MAX_RETRY_WAIT:
                    raise
                failure = error
            except (NotSentError, NoResponseError) as error:
                unreachable = isinstance(error, NotSentError)
                problem = "could not be reached" if unreachable else "did not respond"
                failure = self._endpoint.error(
                    problem, cause=error, transient=True, attempts=attempt
                )
        assert failure is not None
        raise failure

    async def _send(self, transport: Transport) -> Response:
        # The scope stops a transport that exceeds its timeout.
        with anyio.move_on_after(self._timeout + TIMEOUT_GRACE):
            return await transport.send(self._endpoint.request, timeout=self._timeout)
        raise NoResponseError("the transport did not return in time", timed_out=True)

    def _begin_step(self, seconds: float) -> None:
        """Set how long the next step may take before waiters abandon the refresh.

        Raises:
            SupersededError: the refresh was abandoned.
        """
        with self._lock:
            if self.outcome.done():
                raise SupersededError
            self._step_ends_at = self._clock() + seconds + CHECK_INTERVAL


async def _close(transport: Transport) -> None:
    """Close a transport within a second. A failure changes no outcome and is only logged."""
    try:
        with anyio.move_on_after(TIMEOUT_GRACE, shield=True):
            await transport.aclose()
    except Exception as error:
        log(logging.DEBUG, "closing the token transport failed: %s", type(error).__name__)
