"""`OAuthTokenProvider`: OAuth 2.0 client credentials; decides when a token is refreshed.

One `Refresh` runs at a time. Callers may be in any thread and any event loop: state changes in
short synchronous sections under a lock, and requests are awaited outside of it.
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
from dataclasses import replace
from functools import partial

import anyio

from .._utils.concurrency import is_failure, spawn_detached
from .._utils.logging import log
from ..errors import AuthenticationError, ClientClosedError, ClientUsageError, ConfigurationError
from ..transports.base import Transport
from .provider import AccessToken, TokenStatistics
from .refresh import EventLoopRef, Refresh, event_of
from .token_endpoint import IssuedToken, OAuthConfig, OAuthEndpoint

# Seconds.
MAX_COOLDOWN = 300.0  # longest Retry-After that is kept after a failed refresh
CLOSE_TIMEOUT = 3.0  # how long `aclose` waits for a cancelled refresh


class OAuthTokenProvider:
    """Gets access tokens by OAuth 2.0 client credentials and refreshes them before they expire.

    At most one token request runs at a time, even if callers are cancelled. All waiting callers
    share the token or the error of that request. The request runs in a separate task, without the
    context variables of any caller. Clients use a valid token during a refresh, and after a refresh
    that failed.

    Several clients, event loops and threads may share a provider. A provider with a `transport`
    belongs to the event loop of its first refresh.

    Example: `AsyncStateClient(base_url, auth=OAuthTokenProvider(OAuthConfig(...)))`

    Args:
        config: the endpoint and the credentials.
        transport: sends all token requests. The provider does not close the transport. By default
            each refresh opens an `HttpxTransport`.
        timeout: seconds for one token request; a refresh makes up to three.
        clock: returns monotonic seconds.

    Raises:
        ConfigurationError: `timeout` is not a positive number.
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
        self._endpoint = OAuthEndpoint(config)
        self._refresh_margin = config.refresh_margin
        self._transport = transport
        self._timeout = timeout
        self._clock = clock
        # Reentrant: the garbage collector may close tasks of a dropped event loop while this thread
        # holds the lock.
        self._lock = threading.RLock()
        self._token: IssuedToken | None = None
        self._refresh: Refresh | None = None  # the latest refresh, running or ended
        self._cooldown: tuple[float, AuthenticationError] | None = None
        # When the refreshes of a valid token began to fail, and whether that may pass; once logged.
        self._logged_failure: tuple[float, bool] | None = None
        self._bound_loop: EventLoopRef | None = None
        self._closed = False
        self._refreshes = 0
        self._failures = 0
        _providers.add(self)

    async def get_token(self) -> AccessToken:
        """Return a token that is valid as far as the provider knows. Refresh it if necessary.

        While the current token is valid, this returns at once, even if a refresh is due.

        Raises:
            AuthenticationError: the provider got no token. `transient` says whether retrying may
                help.
            ClientClosedError: the provider is closed.
            ClientUsageError: the transport belongs to another event loop.
        """
        token = self._token
        if token is not None and self._clock() < token.refresh_at:
            return token.access
        while True:
            current = self._token_or_refresh()
            if isinstance(current, AccessToken):
                return current
            await current.wait()
            if current.outcome.cancelled():
                continue
            # Return a new token even if it expired while it was requested. Request another one only
            # if it was invalidated in between.
            error = current.outcome.exception()
            token = self._token
            if token is not None and (error is None or self._clock() < token.expires_at):
                return token.access
            if isinstance(error, AuthenticationError):
                raise _copy_of(error) from error.__cause__

    def invalidate(self, token: AccessToken) -> None:
        """Discard a token that the server refused, unless a newer token has replaced it."""
        with self._lock:
            if self._token is not None and self._token.access is token:
                self._token = None

    async def aclose(self) -> None:
        """Close the provider. Waiting callers get a `ClientClosedError`.

        `aclose` cancels a running refresh and waits up to 3 s for its end. It does not close the
        `transport` that you passed.
        """
        with self._lock:
            self._closed = True
            self._token = None
            refresh = self._refresh
            if refresh is not None:
                refresh.abandon()
        if refresh is not None and not refresh.loop.is_closed():
            with anyio.move_on_after(CLOSE_TIMEOUT):
                await event_of(refresh.ended).wait()

    @property
    def token_refreshes(self) -> int:
        """Number of tokens received."""
        return self._refreshes

    def statistics(self) -> TokenStatistics:
        """Return the totals and the current state."""
        with self._lock:
            refresh = self._running()
            left = None if self._token is None else self._token.expires_at - self._clock()
            return TokenStatistics(
                refreshes=self._refreshes,
                failures=self._failures,
                refreshing=refresh is not None,
                waiting=0 if refresh is None else refresh.waiting,
                expires_in=left if left is not None and left > 0 else None,
            )

    def __repr__(self) -> str:
        state = "closed" if self._closed else "refreshing" if self._running() else "idle"
        left = self.statistics().expires_in
        validity = "no valid token" if left is None else f"token valid for {left:.0f} s"
        return f"<OAuthTokenProvider {self._endpoint.url} {state}, {validity}>"

    def _running(self) -> Refresh | None:
        refresh = self._refresh
        return None if refresh is None or refresh.outcome.done() else refresh

    def _token_or_refresh(self) -> AccessToken | Refresh:
        """Return a valid token or the refresh to wait for. Start a refresh if one is due."""
        with self._lock:
            if self._closed:
                raise ClientClosedError("the token provider is closed; create a new one")
            now = self._clock()
            token = self._token
            if token is not None and now < token.refresh_at:
                return token.access
            valid = token.access if token is not None and now < token.expires_at else None
            refresh = self._running()
            if refresh is not None and refresh.loop.is_closed():
                refresh.abandon()
                refresh = None
            if refresh is None:
                if valid is None and self._cooldown is not None and now < self._cooldown[0]:
                    until, error = self._cooldown
                    raise _copy_of(error, retry_after=until - now) from error.__cause__
                if self._may_refresh_here():
                    refresh = self._start_refresh()
            if valid is not None:
                return valid
            if refresh is None:
                raise ClientUsageError(
                    "this token provider has a transport and belongs to the event loop that used "
                    "it first; give each event loop its own provider, or omit transport"
                )
            return refresh

    def _may_refresh_here(self) -> bool:
        """Return whether the running loop may use the transport. Bind the transport if free."""
        if self._transport is None:
            return True
        here, bound = EventLoopRef(), self._bound_loop
        if bound is None or not (bound.is_same(here) or bound.call_soon(_do_nothing)):
            self._bound_loop = bound = here  # the first loop, or the next after its end
        return bound.is_same(here)

    def _start_refresh(self) -> Refresh:
        refresh = Refresh(self._endpoint, self._transport, self._timeout, self._clock, self._lock)
        self._refresh = refresh
        try:
            spawn_detached(partial(self._run, refresh), "token refresh")
        except BaseException:
            refresh.abandon()
            refresh.ended.set_result(None)
            raise
        return refresh

    async def _run(self, refresh: Refresh) -> None:
        """Carry out a refresh. Raise only cancellation."""
        try:
            with refresh.scope:
                self._succeed(refresh, await refresh.request_token())
        except AuthenticationError as error:
            self._fail(refresh, error)
        except BaseException as error:
            # The request has ended at this point, as it was awaited.
            if not is_failure(error):
                refresh.abandon()
                raise
            self._fail(refresh, self._endpoint.error("could not be called", cause=error))
        finally:
            refresh.ended.set_result(None)

    # An abandoned refresh changes nothing. The outcome is set last, because waiters read the token
    # without the lock.

    def _succeed(self, refresh: Refresh, token: IssuedToken) -> None:
        with self._lock:
            if refresh.outcome.done():
                return
            # A short-lived token must still be used for half of its life.
            margin = min(self._refresh_margin, token.lifetime / 2)
            self._token = replace(token, refresh_at=token.expires_at - margin)
            self._cooldown = None
            self._refreshes += 1
            failure, self._logged_failure = self._logged_failure, None
            refresh.outcome.set_result(None)
        if failure is not None:
            seconds = self._clock() - failure[0]
            log(logging.WARNING, "token refresh works again after %.1f s", seconds, seconds=seconds)

    def _fail(self, refresh: Refresh, error: AuthenticationError) -> None:
        with self._lock:
            if refresh.outcome.done():
                return
            self._failures += 1
            now = self._clock()
            has_token = self._token is not None and now < self._token.expires_at
            failure = self._logged_failure
            # Without a valid token, callers get the error, and a client logs that it has no token.
            is_new = has_token and (failure is None or failure[1] != error.transient)
            if is_new:
                self._logged_failure = (now if failure is None else failure[0], error.transient)
            self._delay_next_refresh(error)
            refresh.outcome.set_exception(error)
        message = "token request failed: %s"
        if has_token:
            message = "token refresh failed, and the old token stays in use: %s"
        fields = {"status": error.status, "attempts": error.attempts}
        log(logging.WARNING if is_new else logging.INFO, message, error, **fields)

    def _delay_next_refresh(self, error: AuthenticationError) -> None:
        """Delay the next refresh by Retry-After; keep using a valid token for a while."""
        now = self._clock()
        retry_after = min(error.retry_after or 0.0, MAX_COOLDOWN)
        if retry_after:
            self._cooldown = (now + retry_after, error)
        if self._token is not None:
            expires_at = self._token.expires_at
            delay = min(30.0, max(0.25, (expires_at - now) / 4))
            refresh_at = min(now + max(retry_after, delay), expires_at)
            self._token = replace(self._token, refresh_at=refresh_at)

    def _reset_after_fork(self) -> None:
        """Replace the lock and drop the refresh, which threads of the parent process may hold."""
        self._lock = threading.RLock()
        self._refresh = None
        self._bound_loop = None


def _copy_of(error: AuthenticationError, retry_after: float | None = None) -> AuthenticationError:
    """Return a copy for one caller. An error raised in many tasks would collect tracebacks."""
    fresh = copy.copy(error)
    if retry_after is not None:
        fresh.retry_after = retry_after
    return fresh


def _do_nothing() -> None:
    pass


_providers: weakref.WeakSet[OAuthTokenProvider] = weakref.WeakSet()


def _reset_all_after_fork() -> None:
    for provider in _providers:
        provider._reset_after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset_all_after_fork)
