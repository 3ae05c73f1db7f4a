"""`AsyncStateClient`: the façade."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

from .._utils.arguments import validate_timeout
from .._utils.waker import Waker
from ..api.runtime import RuntimeApi
from ..engine.work_item import ASSIGN, STRICT, Kind, SendOptions, WorkItem
from ..errors import ClientUsageError, DialogPausedError, QueueFullError
from ..hooks.observers import Observer
from ..hooks.registry import CallbackRegistry, Register
from ..metrics import Metrics
from ..models.identifiers import NO_METADATA
from ..models.limits import Limits
from ..models.results import CloseReport, Decide, DialogState, UpdateResult
from ..models.update import Row, StateUpdate
from ..ratelimit.limiter import QuotaState, RateLimits, create_limiter
from ..retry import RetryPolicy
from .admission import Admission, kind_of
from .config import ClientConfig, Priority
from .lifecycle import Lifecycle
from .pending import PendingUpdate
from .stream import UpdateStream

if TYPE_CHECKING:
    from ..api.base import StateApi
    from ..audit.sinks import AuditSink
    from ..audit.trail import AuditTrail
    from ..auth.provider import TokenProvider
    from ..models.events import UpdateWatch
    from ..models.http import Request
    from ..transports.base import Transport


class AsyncStateClient:
    """Writes dialog state, from many tasks at once.

    Use it as ``async with AsyncStateClient(...) as client``, one for the life of the process. All
    times are seconds.

    Args:
        base_url: where the API is, without its path; a trailing slash is fine.
        auth: where the credentials come from; several clients may share one.
        api: which API of the server; `RuntimeApi()` by default.
        max_in_flight: requests at a time, reads included.
        max_pending: updates accepted and unsettled at a time; then `update` waits its turn.
        rate_limit: requests in a window of time, all kinds but for tokens; one `RateLimit`, several
            that hold at once, or ``"auto"``, which learns from the server's headers and its 429s.
        retry: when failed updates are sent again; `RetryPolicy()` by default.
        limits: what an update may carry; the API's own by default.
        coalesce: send updates that wait for the same dialog as one request where the state cannot
            tell; see ``docs/coalescing.md``.
        linger: how long a dialog waits for more to coalesce, counted from its oldest update; ended
            by `flush` and `aclose`.
        on_failure: ``"pause"`` holds back what follows a failed update of a dialog until `resume`.
        timeout: for one request.
        audit: where a record of each settled update goes, for example `JsonLinesAudit(path)`.
        transport: how requests are sent; the client closes it. `HttpxTransport()` by default.
        allow_insecure: take a base URL with ``http://`` whose host is not this machine.

    Raises:
        ConfigurationError: an argument that cannot work.
    """

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
        api = api if api is not None else RuntimeApi()
        self._config = config = ClientConfig(
            base_url=base_url,
            auth=auth,
            api=api,
            max_in_flight=max_in_flight,
            max_pending=max_pending,
            rate_limit=rate_limit,
            retry=retry or RetryPolicy(),
            limits=limits if limits is not None else getattr(api, "limits", Limits()),
            coalesce=coalesce,
            linger=linger,
            on_failure=on_failure,
            timeout=timeout,
            audit=audit,
            transport=transport,
            allow_insecure=allow_insecure,
        )
        quota = create_limiter(rate_limit)
        self.metrics = Metrics(quota)
        """Counts and latencies; `metrics.snapshot()` is a frozen copy."""
        waker = Waker()
        self._hooks = CallbackRegistry(self.metrics, waker)
        self.on_state_updated = Register(self._hooks, failures=False)
        """Registers a callback for the updates that were applied; see `Register`."""
        self.on_update_failed = Register(self._hooks, failures=True)
        """Registers a callback for the updates that were sent and failed."""
        self._audit: AuditTrail | None = None
        if audit is not None:
            from ..audit.trail import AuditTrail

            self._audit = AuditTrail(audit, self.metrics)
        self._lifecycle = Lifecycle(config, self.metrics, self._hooks, quota, self._audit, waker)
        self._check = api.check

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._config.base_url} {self._lifecycle} {self.metrics!r}>"

    @property
    def base_url(self) -> str:
        """Where the API is, without a slash at its end."""
        return self._config.base_url

    @property
    def api(self) -> StateApi:
        """Which API of the server is used."""
        return self._config.api

    @property
    def limits(self) -> Limits:
        """What updates are checked against."""
        return self._config.limits

    @property
    def on_failure(self) -> Literal["continue", "pause"]:
        """What follows a failed update of a dialog: the argument."""
        return self._config.on_failure

    def add_observer(self, observer: Observer) -> None:
        """Let `observer` see each update and its requests from now on, as tracing does."""
        self._hooks.observers += (observer,)

    async def flush(self) -> None:
        """Wait until everything accepted before has settled and callbacks have had their events.

        Updates held by paused dialogs are not waited for, and audit sinks at most five seconds.

        Raises:
            ClientUsageError: called from inside a callback, which it would wait for.
        """
        if self._hooks.called_us():
            raise ClientUsageError("flush() would wait for the callback that calls it")
        self._lifecycle.check_open()
        await self._lifecycle.opened().flush()
        await self._hooks.drained()
        if self._audit is not None:
            await self._audit.flush()

    def paused_dialogs(self) -> Mapping[str, DialogPausedError]:
        """The dialogs that wait for `resume`, each with its failure as `__cause__`."""
        engine = self._lifecycle.engine
        return engine.completion.paused() if engine is not None else {}

    def resume(self, dialog_id: str | None = None) -> None:
        """Let one paused dialog go on, or all of them; nothing for one that is not paused."""
        self._lifecycle.check_open()
        self._lifecycle.opened().completion.resume(dialog_id)

    def quota_state(self) -> QuotaState:
        """The requests that still count, as JSON: what a process that restarts must not forget.

        Nothing is in it of limits that are shared by a file, which is read again anyway.
        """
        self._lifecycle.check_open()
        return self._lifecycle.opened().save_quota()

    def restore_quota(self, state: QuotaState) -> None:
        """Count what `quota_state` told, perhaps in another process before this one.

        Raises:
            ConfigurationError: it is something else.
        """
        self._lifecycle.check_open()
        self._lifecycle.opened().restore_quota(state)

    @property
    def is_open(self) -> bool:
        """Whether it takes updates: from its opening to the beginning of its close."""
        return self._lifecycle.accepting

    @property
    def close_report(self) -> CloseReport | None:
        """What `aclose` returned, None before."""
        return self._lifecycle.report

    async def __aenter__(self) -> Self:
        await self._lifecycle.open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._lifecycle.leave(drain=error is None)

    async def aclose(self, *, drain: bool = True, timeout: float = 30.0) -> CloseReport:
        """Stop accepting, settle everything, deliver the events, close the connections.

        Args:
            drain: send what was accepted; otherwise only what is in flight ends.
            timeout: seconds for all of it. What is in flight then is cut off and ambiguous, what
                was not sent is returned, and events not delivered go to the dead letters.

        Raises:
            ClientUsageError: called from inside a callback, which it would wait for.
        """
        return await self._lifecycle.close(drain=drain, timeout=validate_timeout(timeout))

    async def update(
        self,
        dialog_id: str,
        *,
        session: Mapping[str, Any] | None = None,
        user: Mapping[str, Any] | None = None,
        next_step: str | None = None,
        if_match: str | None = None,
        update_id: str | None = None,
        user_id: str | None = None,
        profile_id: str | None = None,
        retry: RetryPolicy | None = None,
        timeout: float | None = None,
        deadline: float | None = None,
        coalesce: bool | None = None,
        priority: Priority = "live",
        metadata: Mapping[str, str] | None = None,
    ) -> UpdateResult:
        """Assign variables of one dialog, perhaps move it, and wait until that is done.

        Cancelled before it is sent, the update is never sent. Cancelled after, its request
        completes, and is not repeated.

        Args:
            dialog_id, session, user, next_step, if_match, update_id, user_id, profile_id, metadata:
                see `StateUpdate`.
            retry, timeout, coalesce: instead of the client's own.
            deadline: seconds from this call after which nothing of it is sent, waits of all kinds
                included. A request under way then ends and counts, and is not followed by another.
            priority: ``"bulk"`` gives way to live work, and waits for a server that is away.

        Raises:
            UpdateValidationError: bad input, or (`UnsupportedByApiError`) something that the API
                does not have; nothing was sent.
            UpdateError: it was not carried out; the subclasses say why.
            DeadlineExceededError: the deadline passed, or cannot be met as far as is known.
            DialogPausedError: the dialog is paused after a failure.
            AuditError: a strict audit sink takes no records; nothing was sent.
            ClientUsageError: the client is closed, or used in another event loop.
        """
        config = self._config
        update = StateUpdate.from_values(
            config.limits,
            dialog_id,
            session,
            user,
            next_step,
            if_match,
            update_id,
            user_id,
            profile_id,
            metadata,
        )
        self._check(update)
        moment = None if deadline is None else self._lifecycle.moment(deadline)
        options = config.options(retry, timeout, moment, priority, coalesce)
        admission = self._lifecycle.check_open()
        waiters = admission.waiters
        kind = ASSIGN if update._if_match is None else STRICT
        item = admission.admit(kind, dialog_id, update, options, waiters)
        if item is None:
            await admission.acquire_slot(options.deadline, dialog_id)
            item = admission.begin(kind, dialog_id, update, options, waiters)
        # Thousands may wait here at a time: they hold no more than they need.
        del update, session, user
        try:
            await waiters.wait(item)
        except BaseException:
            self._lifecycle.opened().cancel(item)
            raise
        if item.error is not None:
            raise item.error
        assert item.result is not None
        return item.result

    async def submit(
        self,
        update: StateUpdate | Mapping[str, Any],
        *,
        retry: RetryPolicy | None = None,
        timeout: float | None = None,
        watch: UpdateWatch | None = None,
        deadline: float | None = None,
        coalesce: bool | None = None,
        priority: Priority = "live",
    ) -> PendingUpdate:
        """Accept an update, waiting for room, and return a handle on it.

        Args:
            update: a `StateUpdate`, or a mapping of its arguments.
            retry, timeout, deadline, coalesce, priority: as for `update`.
            watch: looks on while it is under way; see `UpdateWatch`.

        Raises:
            UpdateValidationError: bad input; nothing was accepted.
            DeadlineExceededError, AuditError: as for `update`.
            ClientUsageError: the client is closed, or used in another event loop.
        """
        valid = self._config.parse(update)
        options = self._config.options(
            retry, timeout, self._moment(deadline), priority, coalesce, watch
        )
        admission = self._lifecycle.check_open()
        if not admission.try_acquire_slot():
            await admission.acquire_slot(options.deadline, valid.dialog_id)
        return self._hand_out(admission, valid, options)

    def submit_nowait(
        self,
        update: StateUpdate | Mapping[str, Any],
        *,
        retry: RetryPolicy | None = None,
        timeout: float | None = None,
        watch: UpdateWatch | None = None,
        deadline: float | None = None,
        coalesce: bool | None = None,
        priority: Priority = "live",
    ) -> PendingUpdate:
        """The same without waiting.

        Raises:
            QueueFullError: `max_pending` updates are accepted and unsettled.
            UpdateValidationError, DeadlineExceededError, AuditError, ClientUsageError: as for
                `submit`.
        """
        valid = self._config.parse(update)
        options = self._config.options(
            retry, timeout, self._moment(deadline), priority, coalesce, watch
        )
        admission = self._lifecycle.check_open()
        if not admission.try_acquire_slot():
            raise QueueFullError(self._config.max_pending)
        return self._hand_out(admission, valid, options)

    def update_many(
        self,
        updates: Iterable[Row] | AsyncIterable[Row],
        *,
        retry: RetryPolicy | None = None,
        timeout: float | None = None,
        watch: UpdateWatch | None = None,
        deadline: float | None = None,
        coalesce: bool | None = None,
        priority: Priority = "bulk",
    ) -> UpdateStream:
        """Carry out many updates; iterate over the outcomes, one for each input.

        Updates of one dialog are sent in the order of the input, those of different dialogs side by
        side. This is bulk work: it gives way to `update`, and waits for a server that is away.
        It leaves the last tenth of each window of a rate limit to be used bit by bit, so that
        `update` finds a place in it soon.

        Args:
            updates: `StateUpdate`s, or mappings of its arguments; an iterable or an async iterable.
            retry, timeout, coalesce: instead of the client's own.
            deadline: seconds from this call for all of them, as for `update`; what comes too late
                becomes an outcome with a `DeadlineExceededError`.
            watch: looks on while they are under way; see `UpdateWatch`.
            priority: ``"live"`` makes it like as many `update` calls.

        Raises:
            TypeError: the input cannot be iterated.
            ClientUsageError: while iterating, when the client is not open; at once with a deadline.
        """
        return UpdateStream(
            self._config,
            self._lifecycle,
            updates,
            options=self._config.options(
                retry, timeout, self._moment(deadline), priority, coalesce, watch
            ),
        )

    async def get_state(
        self,
        dialog_id: str,
        *,
        retry: RetryPolicy | None = None,
        timeout: float | None = None,
        deadline: float | None = None,
        priority: Priority = "live",
    ) -> DialogState:
        """Read the state of a dialog. It does not queue behind the dialog's writes.

        Args:
            retry, timeout, deadline, priority: as for `update`.

        Raises:
            UpdateValidationError: no dialog id. UnsupportedByApiError: this API reads no states.
            UpdateError: it could not be read.
            ClientUsageError: the client is closed, or used in another event loop.
        """
        self._config.api.check_use("get_state")
        dialog_id, _ = self._config.check_dialog_id(dialog_id)
        options = self._config.options(retry, timeout, self._moment(deadline), priority)
        item = await self._carry_out(self._lifecycle.check_open(), Kind.READ, dialog_id, options)
        assert item.state is not None
        return item.state

    async def modify(
        self,
        dialog_id: str,
        fn: Decide,
        *,
        retry: RetryPolicy | None = None,
        timeout: float | None = None,
        deadline: float | None = None,
        priority: Priority = "live",
        metadata: Mapping[str, str] | None = None,
    ) -> UpdateResult | None:
        """Read the state, let `fn` decide what to write, and write it if nothing changed meanwhile.

        Otherwise start over. Two `modify` of one dialog never lose an update, wherever they run.

        Args:
            fn: called with the `DialogState`, perhaps several times, in the event loop; returns a
                mapping with `session`, `user` or `next_step`, or None for no write.
            retry, timeout, deadline, priority, metadata: as for `update`.

        Raises:
            UnsupportedByApiError: this API has no versions.
            Exception: whatever `fn` raises, and what `update` raises.
        """
        given: Any = fn
        if not callable(given) or inspect.iscoroutinefunction(given):
            raise TypeError("modify takes a plain function of the dialog's state, not an async one")
        self._config.api.check_use("modify")
        dialog_id, metadata = self._config.check_dialog_id(dialog_id, metadata)
        options = self._config.options(retry, timeout, self._moment(deadline), priority)
        admission = self._lifecycle.check_open()
        if not admission.try_acquire_slot():
            await admission.acquire_slot(options.deadline, dialog_id)
        item = await self._carry_out(
            admission, Kind.MODIFY, dialog_id, options, decide=fn, metadata=metadata
        )
        return item.result

    async def reset_context(
        self,
        dialog_id: str,
        *,
        user_id: str | None = None,
        flow_reference_id: str | None = None,
        entrypoint: str | None = None,
        retry: RetryPolicy | None = None,
        timeout: float | None = None,
    ) -> UpdateResult:
        """Put the context of a session back to its beginning, after what was accepted before.

        A reset that was sent and not answered is not repeated: it may wipe out what the flow has
        written since.

        Args:
            user_id: as for `update`.
            flow_reference_id, entrypoint: the ids of the flow whose context it is, and of the
                project or snapshot that it is in; sent where given, and the server may insist.
            retry, timeout: instead of the client's own.

        Raises:
            UnsupportedByApiError: this API has no resets. Otherwise what `update` raises.
        """
        dialog_id, _ = self._config.check_dialog_id(dialog_id)
        request = self._config.api.reset(
            self._config.base_url, dialog_id, "context", user_id, flow_reference_id, entrypoint
        )
        return await self._reset(dialog_id, request, retry, timeout)

    async def reset_state(
        self,
        dialog_id: str,
        *,
        user_id: str | None = None,
        retry: RetryPolicy | None = None,
        timeout: float | None = None,
    ) -> UpdateResult:
        """Put the state of a session's flow back to its default; see `reset_context`."""
        dialog_id, _ = self._config.check_dialog_id(dialog_id)
        request = self._config.api.reset(self._config.base_url, dialog_id, "state", user_id)
        return await self._reset(dialog_id, request, retry, timeout)

    async def _reset(
        self,
        dialog_id: str,
        request: Request,
        retry: RetryPolicy | None,
        timeout: float | None,
    ) -> UpdateResult:
        options = self._config.options(retry, timeout)
        admission = self._lifecycle.check_open()
        if not admission.try_acquire_slot():
            await admission.acquire_slot(None, dialog_id)
        item = await self._carry_out(admission, Kind.RESET, dialog_id, options, requests=[request])
        assert item.result is not None
        return item.result

    async def _carry_out(
        self,
        admission: Admission,
        kind: Kind,
        dialog_id: str,
        options: SendOptions,
        *,
        decide: Decide | None = None,
        metadata: Mapping[str, str] = NO_METADATA,
        requests: list[Request] | None = None,
    ) -> WorkItem:
        """Accept all but an update and wait for its outcome; cancelled, it is given up."""
        waiters = admission.waiters
        item = admission.begin(
            kind,
            dialog_id,
            None,
            options,
            waiters,
            decide=decide,
            requests=requests,
            metadata=metadata,
        )
        try:
            await waiters.wait(item)
        except BaseException:
            self._lifecycle.opened().cancel(item)
            raise
        if item.error is not None:
            raise item.error
        return item

    def _hand_out(
        self, admission: Admission, update: StateUpdate, options: SendOptions
    ) -> PendingUpdate:
        """Accept an update that has its place, and give a handle on it."""
        pending = PendingUpdate(self._lifecycle)
        pending.bind(
            admission.begin(
                kind_of(update), update.dialog_id, update, options, pending, waits_when_paused=True
            )
        )
        return pending

    def _moment(self, deadline: float | None) -> float | None:
        return None if deadline is None else self._lifecycle.moment(deadline)
