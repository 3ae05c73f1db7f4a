"""Where the credentials of a request come from: an API key, or OAuth 2.0 client credentials.

A refresh of `OAuthTokenProvider` is a *flight*: one at a time, in a task of the provider's own,
shared by all who wait. Its state changes in short synchronous sections under a lock, so that
callers may come from any thread and any event loop; the request itself is awaited outside of them.
"""

from __future__ import annotations

import copy
import logging
import math
import os
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import anyio

from .._utils.concurrency import current_asyncio_task, is_failure, spawn_detached
from .._utils.logging import log
from ..errors import AuthenticationError, ClientClosedError, ClientUsageError, ConfigurationError
from ..transports.base import Transport
from .provider import AccessToken, ApiKey, TokenProvider, TokenStatistics
from .refresh import LoopHandle, Refresh, SupersededError, event_of
from .token_endpoint import Grant, OAuthConfig, TokenEndpoint
from .token_request import GRACE, exchange

__all__ = [
    "AccessToken",
    "ApiKey",
    "OAuthConfig",
    "OAuthTokenProvider",
    "TokenProvider",
]

# Seconds.
LONGEST_HOLD = 300.0  # after a failure, a Retry-After is believed up to this
SLACK = 1.0  # what a refresh may be late, and how often one who waits looks after it
FAREWELL = 3.0  # what a refresh that is cancelled may take to end


@dataclass(frozen=True, slots=True)
class _Held:
    """A token and its times on the provider's clock."""

    access: AccessToken
    refresh_at: float
    expires_at: float

    @classmethod
    def of(cls, grant: Grant) -> _Held:
        expires_at = grant.asked_at + grant.lifetime
        access = AccessToken("Authorization", f"Bearer {grant.token}")
        return cls(access, refresh_at=expires_at - grant.margin, expires_at=expires_at)


class OAuthTokenProvider:
    """Tokens by OAuth 2.0 client credentials, refreshed before they expire.

    One token request is under way at a time, whoever asks and whoever is cancelled; all who wait
    for it share its token or its failure. It runs in a task of its own, which ends by itself, with
    `aclose` or with the event loop, and which has no context variables of any caller. While the old
    token is valid, it serves, and a failed refresh does not take it away. May be used from several
    event loops and threads, unless it is given a transport, which binds it to the loop in which it
    first refreshes.

    Args:
        config: what to ask for, and where.
        transport: used for all token requests and never closed here; by default each refresh opens
            an `HttpxTransport` of its own.
        timeout: seconds for one token request; a refresh makes up to three.
        clock: monotonic seconds.

    Raises:
        ConfigurationError: the timeout is not a positive number.
    """

    def __init__(
        self,
        config: OAuthConfig,
        *,
        transport: Transport | None = None,
        timeout: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not 0 < timeout < math.inf:
            raise ConfigurationError(
                f"OAuthTokenProvider(timeout={timeout!r}): must be positive seconds"
            )
        self._endpoint = TokenEndpoint(config)
        self._transport = transport
        self._timeout = timeout
        self._clock = clock
        # Reentrant, because the garbage collector may close the tasks of a dropped event loop while
        # this thread is inside a section; the sections stand that.
        self._lock = threading.RLock()
        self._held: _Held | None = None
        self._flight: Refresh | None = None  # the last one, be it over or not
        self._held_off: tuple[float, AuthenticationError] | None = None
        self._bound_to: LoopHandle | None = None
        self._closed = False
        self._refreshes = 0
        self._failures = 0
        _providers.add(self)

    async def get_token(self) -> AccessToken:
        """A token that is valid as far as is known; at once while it is, inside the margin too.

        Raises:
            AuthenticationError: there is none to be had; `transient` tells whether later may help.
            ClientClosedError: the provider is closed.
            ClientUsageError: its transport belongs to another event loop.
        """
        held = self._held
        if held is not None and self._clock() < held.refresh_at:
            return held.access
        while True:
            serve, flight, is_new = self._decide()
            if is_new and flight is not None:
                self._start(flight)
            if serve is not None:
                return serve
            assert flight is not None
            await self._wait_for(flight)
            if flight.over.cancelled():
                continue
            # A token that came is given to all who waited, even one that was long on its way and
            # has expired since; only where it was refused meanwhile is another one asked for.
            held = self._held
            error = flight.over.exception()
            if held is not None and (error is None or self._clock() < held.expires_at):
                return held.access
            if isinstance(error, AuthenticationError):
                raise _again(error) from error.__cause__

    def invalidate(self, token: AccessToken) -> None:
        """The server refused this token: ask for another one, unless that has been done already."""
        with self._lock:
            if self._held is not None and self._held.access is token:
                self._held = None

    async def aclose(self) -> None:
        """Give no more tokens; who waits for one gets a `ClientClosedError`.

        A refresh under way is cancelled, and its end awaited for some seconds. What it opened it
        closes itself. A given transport stays open.
        """
        with self._lock:
            self._closed = True
            self._held = None
            flight = self._flight
            if flight is not None:
                self._abandon(flight)
        if flight is not None and not flight.home.has_dropped_its_tasks():
            with anyio.move_on_after(FAREWELL):
                await event_of(flight.gone).wait()

    @property
    def token_refreshes(self) -> int:
        """How many tokens were received."""
        return self._refreshes

    def statistics(self) -> TokenStatistics:
        """What it has done and is doing."""
        with self._lock:
            flight = self._under_way()
            left = None if self._held is None else self._held.expires_at - self._clock()
            return TokenStatistics(
                refreshes=self._refreshes,
                failures=self._failures,
                refreshing=flight is not None,
                waiting=0 if flight is None else flight.waiting,
                expires_in=left if left is not None and left > 0 else None,
            )

    def __repr__(self) -> str:
        doing = "closed" if self._closed else "refreshing" if self._under_way() else "idle"
        left = self.statistics().expires_in
        told = "no valid token" if left is None else f"a token for {left:.0f} s"
        return f"<OAuthTokenProvider {self._endpoint.place} {doing}, {told}>"

    def _under_way(self) -> Refresh | None:
        flight = self._flight
        return None if flight is None or flight.over.done() else flight

    def _decide(self) -> tuple[AccessToken | None, Refresh | None, bool]:
        """The token that serves meanwhile, the flight to wait for, and whether to start it."""
        with self._lock:
            if self._closed:
                raise ClientClosedError("the token provider is closed; make a new one")
            now = self._clock()
            held = self._held
            if held is not None and now < held.refresh_at:
                return held.access, None, False
            serve = held.access if held is not None and now < held.expires_at else None
            flight = self._under_way()
            if flight is not None and flight.home.has_dropped_its_tasks():
                self._abandon(flight)
                flight = None
            if flight is not None:
                return serve, flight, False
            if serve is None and self._held_off is not None and now < self._held_off[0]:
                until, error = self._held_off
                raise _again(error, retry_after=until - now) from error.__cause__
            if not self._may_refresh_here():
                if serve is not None:
                    return serve, None, False
                raise ClientUsageError(
                    "this token provider was given a transport and belongs to the event loop that "
                    "used it first; give each loop its own provider, or leave the transport out"
                )
            # On asyncio a task may be cancelled before it begins, and then says nothing.
            self._flight = flight = Refresh(lease=now + SLACK)
            return serve, flight, True

    def _may_refresh_here(self) -> bool:
        if self._transport is None:
            return True
        here, bound_to = LoopHandle(), self._bound_to
        if bound_to is None or not (bound_to.is_same(here) or bound_to.call_soon(_nothing)):
            self._bound_to = bound_to = here  # the first loop, or the next one when that is over
        return bound_to.is_same(here)

    def _start(self, flight: Refresh) -> None:
        try:
            spawn_detached(partial(self._carry_out, flight), "token refresh")
        except BaseException:
            self._abandon(flight)
            flight.gone.set_result(None)
            raise

    async def _wait_for(self, flight: Refresh) -> None:
        """Until the flight is over, or is not to be expected any more."""
        over = event_of(flight.over)
        with self._lock:
            flight.waiting += 1
        try:
            while not flight.over.done():
                late = self._clock() >= flight.lease
                with anyio.move_on_after(SLACK):
                    await over.wait()
                # Overdue before and after a wait: where this very loop was blocked, the refresh has
                # had its turn in between.
                overdue = late and self._clock() >= flight.lease
                if overdue or flight.home.has_dropped_its_tasks():
                    self._abandon(flight)
        finally:
            with self._lock:
                flight.waiting -= 1

    async def _carry_out(self, flight: Refresh) -> None:
        """Refresh and tell those who wait; raises nothing but cancellation."""
        flight.task = current_asyncio_task()
        try:
            with flight.scope:
                self._settle(flight, _Held.of(await self._ask(flight)))
        except AuthenticationError as error:
            self._fail(flight, error)
        except BaseException as error:
            # The request is over by now: what was awaited has ended.
            if not is_failure(error):
                self._abandon(flight)
                raise
            self._fail(flight, self._endpoint.failure("could not be asked", cause=error))
        finally:
            flight.gone.set_result(None)

    async def _ask(self, flight: Refresh) -> Grant:
        self._extend(flight, self._timeout)
        transport = self._transport
        if transport is None:
            # Costly to import, and not needed with a transport of one's own.
            from ..transports.httpx import HttpxTransport

            transport = HttpxTransport()
        try:
            return await exchange(
                self._endpoint, transport, self._timeout, self._clock, partial(self._extend, flight)
            )
        finally:
            # Before anybody is told, so that who has its token leaves no task behind.
            if transport is not self._transport:
                await _close(transport)

    def _extend(self, flight: Refresh, seconds: float) -> None:
        """Tell those who wait how long the next step takes.

        Raises:
            SupersededError: they did not wait for it.
        """
        with self._lock:
            if flight.over.done():
                raise SupersededError
            flight.lease = self._clock() + seconds + SLACK

    # What became of a flight is noted if it is not known yet; `over` comes last, because who waits
    # looks at the token without the lock.

    def _settle(self, flight: Refresh, held: _Held) -> None:
        with self._lock:
            if not flight.over.done():
                self._held = held
                self._held_off = None
                self._refreshes += 1
                flight.over.set_result(None)

    def _fail(self, flight: Refresh, error: AuthenticationError) -> None:
        with self._lock:
            if flight.over.done():
                return
            self._failures += 1
            self._put_off(error)
            flight.over.set_exception(error)
        facts = {"status": error.status, "attempts": error.attempts}
        log(logging.WARNING, "token refresh failed: %s", error, **facts)

    def _abandon(self, flight: Refresh) -> None:
        with self._lock:
            if flight.over.done() or not flight.over.cancel():
                return
        flight.home.call_soon(flight.scope.cancel)

    def _put_off(self, error: AuthenticationError) -> None:
        """After a failure: when to ask again, while the old token serves and when it does not."""
        now = self._clock()
        asked = min(error.retry_after or 0.0, LONGEST_HOLD)
        if asked:
            self._held_off = (now + asked, error)
        if self._held is not None:
            delay = min(30.0, max(0.25, (self._held.expires_at - now) / 4))
            later = min(now + max(asked, delay), self._held.expires_at)
            self._held = replace(self._held, refresh_at=later)

    def _forget_the_parent(self) -> None:
        """In a forked child: threads that are gone may hold the lock, and carry a flight out."""
        self._lock = threading.RLock()
        self._flight = None
        self._bound_to = None


async def _close(transport: Transport) -> None:
    try:
        with anyio.move_on_after(GRACE, shield=True):
            await transport.aclose()
    except Exception as error:
        # The token is there, or the failure is known: this changes neither.
        log(logging.DEBUG, "closing the token transport failed: %s", type(error).__name__)


def _again(error: AuthenticationError, **facts: Any) -> AuthenticationError:
    """A copy for one who waits: an object that many tasks raise would gather their tracebacks."""
    fresh = copy.copy(error)
    for name, value in facts.items():
        setattr(fresh, name, value)
    return fresh


def _nothing() -> None:
    pass


_providers: weakref.WeakSet[OAuthTokenProvider] = weakref.WeakSet()


def _forget_the_parent() -> None:
    for provider in _providers:
        provider._forget_the_parent()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_the_parent)
