"""The side of a client that is not about updates: made, opened, looked after, closed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Self

from .admission import Admission
from .api.runtime import RuntimeApi
from .checks import (
    checked_base_url,
    checked_count,
    checked_seconds,
    checked_timeout,
    checked_type,
)
from .course import Course
from .engine import Engine
from .errors import ClientUsageError, ConfigurationError, DialogPausedError
from .hooks import Hooks, Register
from .life import Life
from .limiters import RateLimits, quota_of
from .limits import Limits
from .metrics import Metrics
from .models import CloseReport
from .observing import Observer
from .quota import QuotaState
from .retry import RetryPolicy
from .room import Room
from .wakes import Wakes, wakes_of_this_loop

if TYPE_CHECKING:
    from .api import StateApi
    from .audit import AuditSink
    from .audit.trail import AuditTrail
    from .credentials import TokenProvider
    from .transports import Transport


class Upkeep:
    """What `AsyncStateClient` is made of, and how it is looked after; see there."""

    def __init__(
        self,
        base_url: str,
        *,
        auth: TokenProvider,
        api: StateApi | None = None,
        max_in_flight: int = 32,
        max_pending: int = 10_000,
        rate_limit: RateLimits = None,
        retry: RetryPolicy | None = None,
        limits: Limits | None = None,
        coalesce: bool = False,
        linger: float = 0.0,
        on_failure: Literal["continue", "pause"] = "continue",
        timeout: float = 15.0,
        audit: AuditSink | Sequence[AuditSink] | None = None,
        transport: Transport | None = None,
        allow_insecure: bool = False,
    ) -> None:
        if on_failure not in ("continue", "pause"):
            raise ConfigurationError(f'on_failure={on_failure!r}: must be "continue" or "pause"')
        if transport is not None and not hasattr(transport, "send"):
            raise ConfigurationError("transport must have a method send, as HttpxTransport() has")
        if api is not None and not hasattr(api, "writes"):
            raise ConfigurationError("api must be a StateApi, such as RuntimeApi()")
        if not hasattr(auth, "get_token"):
            raise ConfigurationError(
                "auth must be a token provider: OAuthTokenProvider(OAuthConfig(...)) or ApiKey(...)"
            )
        self._base_url = checked_base_url(base_url, allow_insecure=allow_insecure)
        self._auth = auth
        self._api: StateApi = api if api is not None else RuntimeApi()
        self._max_in_flight = checked_count("max_in_flight", max_in_flight)
        self._max_pending = checked_count("max_pending", max_pending)
        self._quota = quota_of(rate_limit)
        self._policy = checked_type("retry", retry or RetryPolicy(), RetryPolicy)
        self._limits = checked_type("limits", limits or self._api.limits, Limits)
        self._linger = checked_seconds("linger", linger, least=0.0)
        self._on_failure: Literal["continue", "pause"] = on_failure
        self._transport = transport
        self.metrics = Metrics()
        """Counts and latencies; `metrics.snapshot()` is a frozen copy."""
        self._hooks = Hooks(self.metrics, self._wake)
        self._room = Room(self._max_pending)
        self.on_state_updated = Register(self._hooks, failures=False)
        """Registers a callback for the updates that were applied; see `Register`."""
        self.on_update_failed = Register(self._hooks, failures=True)
        """Registers a callback for the updates that were sent and failed."""
        self._audit: AuditTrail | None = None
        if audit is not None:
            from .audit.trail import AuditTrail

            self._audit = AuditTrail(audit, self.metrics)
        self._life = Life(self._hooks, self._room, self.metrics, self._audit)
        self._admission = Admission(
            self._life,
            self._room,
            self._hooks,
            self._api,
            self._limits,
            on_failure,
            self._policy,
            timeout,
            self._audit,
            coalesce=coalesce,
        )
        self._wakes: Wakes

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._base_url} {self._life} {self.metrics!r}>"

    @property
    def base_url(self) -> str:
        """Where the API is, without a slash at its end."""
        return self._base_url

    @property
    def api(self) -> StateApi:
        """Which API of the server is used."""
        return self._api

    @property
    def limits(self) -> Limits:
        """What updates are checked against."""
        return self._limits

    @property
    def on_failure(self) -> Literal["continue", "pause"]:
        """What follows a failed update of a dialog: the argument."""
        return self._on_failure

    def add_observer(self, observer: Observer) -> None:
        """Let `observer` see each update and its requests from now on, as tracing does."""
        self._admission.observers += (observer,)

    async def flush(self) -> None:
        """Wait until everything accepted before has settled and callbacks have had their events.

        Updates held by paused dialogs are not waited for, and audit sinks at most five seconds.

        Raises:
            ClientUsageError: called from inside a callback, which it would wait for.
        """
        if self._hooks.called_us():
            raise ClientUsageError("flush() would wait for the callback that calls it")
        self._life.check_open()
        await self._life.engine.flush()
        await self._hooks.drained()
        if self._audit is not None:
            await self._audit.flush()

    def paused_dialogs(self) -> Mapping[str, DialogPausedError]:
        """The dialogs that wait for `resume`, each with its failure as `__cause__`."""
        return self._life.engine.settlement.paused() if self._life.was_opened else {}

    def resume(self, dialog_id: str | None = None) -> None:
        """Let one paused dialog go on, or all of them; nothing for one that is not paused."""
        self._life.check_open()
        self._life.engine.settlement.resume(dialog_id)
        self._life.engine.wake()

    def quota_state(self) -> QuotaState:
        """The requests that still count, as JSON: what a process that restarts must not forget.

        Nothing is in it of limits that are shared by a file, which is read again anyway.
        """
        self._life.check_open()
        return self._life.engine.save_quota()

    def restore_quota(self, state: QuotaState) -> None:
        """Count what `quota_state` told, perhaps in another process before this one.

        Raises:
            ConfigurationError: it is something else.
        """
        self._life.check_open()
        self._life.engine.restore_quota(state)

    @property
    def is_open(self) -> bool:
        """Whether it takes updates: from its opening to the beginning of its close."""
        return self._life.accepting

    @property
    def close_report(self) -> CloseReport | None:
        """What `aclose` returned, None before."""
        return self._life.report

    async def __aenter__(self) -> Self:
        if self._transport is None:
            from .transports.httpx import HttpxTransport

            self._transport = HttpxTransport()
        self._wakes = wakes_of_this_loop()
        await self._life.open(self._engine, self._transport)
        return self

    def _engine(self) -> Engine:
        assert self._transport is not None
        return Engine(
            course=Course(self._api, self._base_url, self._limits),
            auth=self._auth,
            transport=self._transport,
            policy=self._policy,
            max_in_flight=self._max_in_flight,
            on_failure=self._on_failure,
            metrics=self.metrics,
            hooks=self._hooks,
            room=self._room,
            linger=self._linger,
            quota=self._quota,
        )

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._life.leave(drain=error is None)

    async def aclose(self, *, drain: bool = True, timeout: float = 30.0) -> CloseReport:
        """Stop accepting, settle everything, deliver the events, close the connections.

        Args:
            drain: send what was accepted; otherwise only what is in flight ends.
            timeout: seconds for all of it. What is in flight then is cut off and ambiguous, what
                was not sent is returned, and events not delivered go to the dead letters.

        Raises:
            ClientUsageError: called from inside a callback, which it would wait for.
        """
        return await self._life.close(drain=drain, timeout=checked_timeout(timeout))

    def _wake(self) -> None:
        """A callback has room again."""
        if self._life.was_opened:
            self._life.engine.wake()
