"""`AsyncStateClient`: the public API."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterable, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial, wraps
from secrets import token_hex
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, Self, Unpack

from .._utils.arguments import validate_timeout, validate_type
from .._utils.waker import Waker
from ..api.runtime import RuntimeApi
from ..engine.work_item import PROFILE_PREFIX, Kind, SendOptions, WorkItem
from ..errors import ClientClosedError, ClientUsageError, DialogPausedError, QueueFullError
from ..hooks.observers import Observer
from ..hooks.registry import CallbackRegistry, Register
from ..metrics import Metrics
from ..models.conversion import Encode
from ..models.limits import Limits
from ..models.profile import profile_body
from ..models.results import CloseReport, Decide, DialogState, UpdateResult
from ..models.update import StateUpdate, UpdateInput
from ..ratelimit.limiter import QuotaState, RateLimits, create_limiter
from ..retry import RetryPolicy
from .admission import Admission
from .config import ClientConfig, Priority, SendArguments, SubmitArguments
from .lifecycle import NOT_OPEN, Lifecycle
from .pending import SHARED_WAITERS, HandleWaiters, PendingUpdate, single_task_waiters
from .stream import UpdateStream

if TYPE_CHECKING:
    from pydantic import BaseModel

    from ..api.base import StateApi
    from ..api.endpoint import Endpoint
    from ..audit.sinks import AuditSink
    from ..audit.trail import AuditTrail
    from ..auth.provider import TokenProvider
    from ..hooks.outbox import Outbox
    from ..transports.base import Transport


Arguments = ParamSpec("Arguments")


def _explains_missing_auth(init: Callable[Arguments, None]) -> Callable[Arguments, None]:
    """Let a missing `auth` raise the message of an invalid `auth`, which says what to pass."""

    @wraps(init)
    def with_auth(*args: Arguments.args, **arguments: Arguments.kwargs) -> None:
        arguments.setdefault("auth", None)
        init(*args, **arguments)

    return with_auth


class AsyncStateClient:
    """Writes the state of dialogs, from any number of tasks of one event loop.

    Use one client for the life of the process. Updates of one dialog are sent in the order of their
    calls, one request at a time; different dialogs are served concurrently. All times are seconds.

    Args:
        base_url: URL of the API without its path, for example ``"https://api.cognigy.ai"``.
        auth: Source of credentials. Several clients may share one source.
        api: API of the server: `RuntimeApi()`, the default, or `SessionsApi()`.
        max_in_flight: Maximum number of concurrent requests, reads included.
        max_pending: Maximum number of accepted updates without an outcome. At the maximum,
            `update` waits.
        rate_limit: Maximum number of requests per time window, without token requests: a
            `RateLimit`, a sequence of limits that all hold, or ``"auto"`` to learn the limit from
            response headers and 429 responses. See ``docs/quota.md``.
            Shared SaaS allows each calling address 1,000 requests in 5 minutes (docs.cognigy.com,
            "Quotas and Limits").
        retry: Rules for the retries of failed requests; `RetryPolicy()` by default.
        limits: Limits for variables and sizes; the limits of `api` by default. On App, use
            `Limits.cognigy_app()`.
        variables: Model of the session variables. The client refuses updates with other names or
            types. Short for `Limits(variables=...)`; see ``docs/values.md``.
        encode: ``"json"`` converts values as pydantic's JSON mode does; see `StateUpdate`.
        coalesce: Merge waiting updates of one dialog into one request if the resulting state is
            the same; see ``docs/coalescing.md``.
        linger: Seconds that the oldest waiting update of a dialog waits for more updates to
            coalesce with. `flush` and `aclose` end the wait.
        on_failure: ``"pause"`` holds back the later updates of a dialog after a failed update,
            until you call `resume`.
        timeout: Seconds for one request.
        audit: One or more sinks that get a record of each finished update, for example
            `JsonLinesAudit(path)`.
        transport: HTTP library, `HttpxTransport()` by default. The client closes the transport.
        allow_insecure: Accept an ``http://`` base URL whose host is not this machine.
        endpoint: `Endpoint` of the flow, for `inject` and `notify`.
        outbox: Records each update durably before it is sent, and its outcome before the update
            completes. A failure to do so raises `OutboxError`.

    Raises:
        ConfigurationError: An argument is invalid.

    Example::

        async with AsyncStateClient(url, auth=ApiKey(key)) as client:
            await client.update("d-1", session={"cart_total": 149.99})
    """

    @_explains_missing_auth
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
        variables: type[BaseModel] | None = None,
        encode: Encode | None = None,
        coalesce: bool = False,
        linger: float = 0.0,
        on_failure: Literal["continue", "pause"] = "continue",
        timeout: float = 15.0,
        audit: AuditSink | Sequence[AuditSink] | None = None,
        transport: Transport | None = None,
        allow_insecure: bool = False,
        endpoint: Endpoint | None = None,
        outbox: Outbox | None = None,
    ) -> None:
        api = api if api is not None else RuntimeApi()
        rules: Limits = limits if limits is not None else getattr(api, "limits", Limits())
        if variables is not None:
            rules = replace(validate_type("limits", rules, Limits), variables=variables)
        self._config = config = ClientConfig(
            base_url=base_url,
            auth=auth,
            api=api,
            max_in_flight=max_in_flight,
            max_pending=max_pending,
            rate_limit=rate_limit,
            retry=retry or RetryPolicy(),
            limits=rules,
            encode=encode,
            coalesce=coalesce,
            linger=linger,
            on_failure=on_failure,
            timeout=timeout,
            audit=audit,
            transport=transport,
            allow_insecure=allow_insecure,
            endpoint=endpoint,
            outbox=outbox,
        )
        quota = create_limiter(rate_limit, config.retry.longest_pause(live=True))
        self.metrics = Metrics(quota, outbox)
        """Counts and latencies; `metrics.snapshot()` returns a frozen copy."""
        waker = Waker()
        self._hooks = CallbackRegistry(self.metrics, waker)
        self._audit: AuditTrail | None = None
        if audit is not None:
            from ..audit.trail import AuditTrail

            self._audit = AuditTrail(audit, self.metrics)
        self._lifecycle = Lifecycle(config, self.metrics, self._hooks, quota, self._audit, waker)
        self._waiters = SHARED_WAITERS
        self._handle_waiters = HandleWaiters(self._hooks)
        self._new_update = partial(StateUpdate.from_values, config.limits)
        if encode is not None:
            self._new_update = partial(StateUpdate.from_converted_values, encode, config.limits)
        self._check_update = api.check

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._config.base_url} {self._lifecycle} {self.metrics!r}>"

    @property
    def base_url(self) -> str:
        """URL of the API, without a trailing slash."""
        return self._config.base_url

    @property
    def api(self) -> StateApi:
        """API of the server."""
        return self._config.api

    @property
    def endpoint(self) -> Endpoint | None:
        """Receiver of `inject` and `notify`."""
        return self._config.endpoint

    @property
    def limits(self) -> Limits:
        """Limits against which the client validates updates."""
        return self._config.limits

    @property
    def on_failure(self) -> Literal["continue", "pause"]:
        """Effect of a failed update on its dialog."""
        return self._config.on_failure

    @property
    def is_open(self) -> bool:
        """True while updates are accepted: from ``async with`` until `aclose` starts."""
        admission = self._lifecycle.admission
        return admission is not None and admission.is_open

    @property
    def close_report(self) -> CloseReport | None:
        """Result of `aclose`; None until the client has closed."""
        return self._lifecycle.report

    @property
    def on_state_updated(self) -> Register:
        """Decorator for callbacks of applied updates; see `Register`."""
        return Register(self._hooks, failures=False)

    @property
    def on_update_failed(self) -> Register:
        """Decorator for callbacks of updates that were sent and failed; see `Register`."""
        return Register(self._hooks, failures=True)

    def add_observer(self, observer: Observer) -> None:
        """Notify `observer` of every update accepted from now on, for example for tracing."""
        self._hooks.add_observer(observer)

    # Lifecycle.

    async def __aenter__(self) -> Self:
        await self._lifecycle.open()
        self._waiters = single_task_waiters()
        return self

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        await self._lifecycle.exit(drain=error is None)

    async def aclose(self, *, drain: bool = True, timeout: float = 30.0) -> CloseReport:
        """Stop accepting, complete all updates, deliver all events, close the connections.

        If `aclose` is cancelled, the client sends no further request, and requests in flight
        complete within `timeout`.

        Args:
            drain: True sends the updates that are waiting. False only completes requests in flight.
            timeout: Maximum seconds for the whole close. After that time, updates in flight end as
                ambiguous, the report returns unsent updates, and undelivered events become dead
                letters.

        Raises:
            ClientUsageError: A callback of this client called `aclose`, which waits for callbacks.
        """
        return await self._lifecycle.close(drain=drain, timeout=validate_timeout(timeout))

    async def flush(self) -> None:
        """Wait until all updates accepted so far are complete and their events are delivered.

        `flush` waits at most 5 s for audit sinks, and does not wait for updates of paused dialogs.

        Raises:
            ClientUsageError: A callback of this client called `flush`, which waits for callbacks.
        """
        if self._hooks.inside_callback():
            raise ClientUsageError(
                "flush() would wait for the callback that calls it; call it outside of callbacks"
            )
        await self._lifecycle.require_open_engine().flush()
        await self._hooks.wait_delivered()
        if self._audit is not None:
            await self._audit.flush()

    def paused_dialogs(self) -> Mapping[str, DialogPausedError]:
        """Return an error per dialog that waits for `resume`; its `__cause__` is the failure."""
        engine = self._lifecycle.engine
        return engine.completion.paused() if engine is not None else {}

    def resume(self, dialog_id: str | None = None) -> None:
        """Resume one paused dialog, or all of them; ignore a dialog that is not paused."""
        self._lifecycle.require_open_engine().completion.resume(dialog_id)

    def quota_state(self) -> QuotaState:
        """Return the requests that still count against the rate limits, as JSON.

        Save the result before a restart, and pass it to `restore_quota` after the restart. The
        result has no requests of limits that are shared through a file: the file keeps them.
        """
        return self._lifecycle.require_open_engine().save_quota()

    def restore_quota(self, state: QuotaState) -> None:
        """Count the requests in a result of `quota_state` that the previous process saved.

        Raises:
            ConfigurationError: `state` is not a result of `quota_state`.
        """
        self._lifecycle.require_open_engine().restore_quota(state)

    # Updates.

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
        inject: Mapping[str, Any] | None = None,
        notify: Mapping[str, Any] | None = None,
        retry: RetryPolicy | None = None,
        timeout: float | None = None,
        deadline: float | None = None,
        coalesce: bool | None = None,
        priority: Priority = "live",
        metadata: Mapping[str, str] | None = None,
    ) -> UpdateResult:
        """Assign variables of one dialog, optionally with a transition, and wait for the result.

        If the caller is cancelled before the client has sent the update, the client never sends
        it. If the caller is cancelled later, the request completes and is not retried.

        Args:
            dialog_id, session, user, next_step, if_match, update_id, user_id, profile_id, metadata,
                inject, notify: See `StateUpdate`.
            retry, timeout, coalesce: Replace the arguments of the client for this update.
            deadline: Seconds from now. After them, the client sends no request of this update.
                Time in queues and between retries counts. A request in flight completes, and its
                result is the result of the update.
            priority: ``"bulk"`` lets live work go first, and waits while the server is unavailable.

        Returns:
            UpdateResult: The update was applied.

        Raises:
            UpdateValidationError: The input is invalid; nothing was sent.
            UnsupportedByApiError: The API does not support an argument; nothing was sent.
            UpdateError: The update failed; each subclass stands for one reason.
            DeadlineExceededError: The deadline passed, or is known to be too early.
            DialogPausedError: The dialog is paused after a failure.
            SharedQuotaError: The update has priority ``"bulk"``, and the file of a shared limit
                cannot be used.
            AuditError: A strict audit sink does not accept records; nothing was sent.
            OutboxError: The outbox cannot record the update; nothing was sent.
            ClientUsageError: The client is closed, or belongs to another event loop.

        Example::

            result = await client.update("d-1", session={"visits": 3}, timeout=5.0)
            print(result.status, result.etag)
        """
        update = self._new_update(
            dialog_id,
            session,
            user,
            next_step,
            if_match,
            update_id,
            user_id,
            profile_id,
            metadata,
            inject,
            notify,
        )
        if inject is None and notify is None:
            self._check_update(update)
        else:
            self._config.check(update)
        if deadline is not None:
            deadline = self._lifecycle.deadline_after(deadline)
        options = self._config.send_options(retry, timeout, deadline, priority, coalesce)
        admission = self._lifecycle.admission
        if admission is None:
            raise ClientClosedError(NOT_OPEN)
        admission.check_open()
        if not admission.try_acquire_slot():
            await admission.acquire_slot(dialog_id, options.deadline)
        item = admission.enqueue(update, options, self._waiters)
        # Thousands of calls of `update` may wait at a time. To save memory, release objects that
        # the call does not need any more, and do not create the coroutine of `_wait`.
        del update, session, user
        try:
            await self._waiters.wait(item)
        except BaseException:
            self._lifecycle.require_engine().cancel(item)
            raise
        if item.error is not None:
            raise item.error
        assert item.result is not None
        return item.result

    async def submit(
        self, update: UpdateInput, **arguments: Unpack[SubmitArguments]
    ) -> PendingUpdate:
        """Accept an update and return its handle. Wait first if no pending slot is free.

        The client logs a failure that nobody awaits; see `PendingUpdate`.

        Args:
            update: A `StateUpdate`, or a mapping of its arguments.
            retry, timeout, deadline, coalesce, priority: See `update`.
            watch: See `spi.UpdateWatch`.

        Raises:
            UpdateValidationError: The input is invalid; nothing was accepted.
            DeadlineExceededError, AuditError: See `update`.
            ClientUsageError: The client is closed, or belongs to another event loop.

        Example::

            pending = await client.submit({"dialog_id": "d-1", "session": {"visits": 3}})
        """
        valid = self._config.parse(update)
        options = self._send_options("submit", SubmitArguments, **arguments)
        admission = self._lifecycle.check_open()
        await admission.acquire_slot(valid.dialog_id, options.deadline)
        return self._enqueue(admission, valid, options)

    def submit_nowait(
        self, update: UpdateInput, **arguments: Unpack[SubmitArguments]
    ) -> PendingUpdate:
        """Accept an update without waiting, and return its handle. Takes the arguments of `submit`.

        Raises:
            QueueFullError: The client holds `max_pending` updates without an outcome.
            CognigyError: See `submit`.
        """
        valid = self._config.parse(update)
        options = self._send_options("submit_nowait", SubmitArguments, **arguments)
        admission = self._lifecycle.check_open()
        if not admission.try_acquire_slot():
            raise QueueFullError(self._config.max_pending)
        return self._enqueue(admission, valid, options)

    def update_many(
        self,
        updates: Iterable[UpdateInput] | AsyncIterable[UpdateInput],
        **arguments: Unpack[SubmitArguments],
    ) -> UpdateStream:
        """Send many updates, and iterate over their outcomes, one for each input.

        The client sends updates of one dialog in the order of the input, and updates of different
        dialogs concurrently. By default the updates are bulk work: calls of `update` go first, and
        bulk updates wait while the server is unavailable. Bulk updates spread the last tenth of
        each rate-limit window over time, so that a call of `update` does not wait long for it.

        Args:
            updates: An iterable or asynchronous iterable of `StateUpdate` or mappings of its
                arguments.
            retry, timeout, coalesce: Replace the arguments of the client for these updates.
            deadline: Seconds from now for all updates together; see `update`. A late update becomes
                an outcome with a `DeadlineExceededError`.
            priority: ``"live"`` gives each update the priority of a call of `update`.
            watch: See `spi.UpdateWatch`.

        Raises:
            TypeError: `updates` cannot be iterated.
            SharedQuotaError: The file of a shared limit cannot be used. Iterating raises this
                error, after the outcomes.
            ClientUsageError: The client is not open. Iterating raises this error; with a
                `deadline`, the call of `update_many` raises it.

        Example::

            async with client.update_many(rows) as outcomes:
                async for outcome in outcomes:
                    print(outcome.index, outcome.error or "applied")
        """
        arguments.setdefault("priority", "bulk")
        options = self._send_options("update_many", SubmitArguments, **arguments)
        return UpdateStream(self._config, self._lifecycle, updates, options)

    # Messages.

    async def inject(
        self,
        dialog_id: str,
        *,
        text: str | None = None,
        data: Mapping[str, Any] | None = None,
        user_id: str | None = None,
        update_id: str | None = None,
        metadata: Mapping[str, str] | None = None,
        **arguments: Unpack[SendArguments],
    ) -> UpdateResult:
        """Send text and data to the flow as user input, after all updates accepted before.

        Variables alone do not make a flow act; a message does. The client sends
        ``POST {EndpointURL}/inject/{URLToken}`` (docs.cognigy.com, "Inject and Notify"), in order
        with the updates of the dialog. The client does not repeat a message that the flow may have
        got. Callbacks, observers and audit get it like an update.

        Args:
            dialog_id: Id of the session.
            text: Text of the user input.
            data: Data of the input, an object.
            user_id: User of the session; by default that of `SessionsApi`.
            update_id, metadata: See `StateUpdate`.
            retry, timeout, deadline, priority: See `update`.

        Raises:
            UpdateValidationError: The input is invalid; nothing was sent.
            UnsupportedByApiError: The client has no `Endpoint`; nothing was sent.
            AmbiguousUpdateError: The message was sent, and the flow may or may not have got it.
            CognigyError: See `update`.

        Example::

            await client.inject("s-1", text="document ready", data={"pages": 3}, user_id="u-1")
        """
        return await self.update(
            dialog_id,
            inject={"text": text, "data": data},
            user_id=user_id,
            update_id=update_id,
            metadata=metadata,
            **arguments,
        )

    async def notify(
        self,
        dialog_id: str,
        *,
        text: str | None = None,
        data: Mapping[str, Any] | None = None,
        attachments: Sequence[Mapping[str, Any]] | None = None,
        user_id: str | None = None,
        update_id: str | None = None,
        metadata: Mapping[str, str] | None = None,
        **arguments: Unpack[SendArguments],
    ) -> UpdateResult:
        """Send text, data and attachments to the user, without the flow; see `inject`.

        Args:
            attachments: Objects with ``name``, ``url``, ``type`` and ``caption``.

        Example::

            await client.notify("s-1", text="Your order was shipped.", user_id="u-1")
        """
        return await self.update(
            dialog_id,
            notify={"text": text, "data": data, "attachments": attachments},
            user_id=user_id,
            update_id=update_id,
            metadata=metadata,
            **arguments,
        )

    # Other operations.

    async def get_state(self, dialog_id: str, **arguments: Unpack[SendArguments]) -> DialogState:
        """Read the state of a dialog without waiting for updates of the dialog.

        Args:
            dialog_id: Id of the dialog.
            retry, timeout, deadline, priority: See `update`.

        Raises:
            UpdateValidationError: `dialog_id` is invalid.
            UnsupportedByApiError: The API cannot read states.
            UpdateError: The state could not be read.
            ClientUsageError: The client is closed, or belongs to another event loop.
        """
        self._config.api.check_use("get_state")
        dialog_id, _ = self._config.validate_dialog_id(dialog_id)
        options = self._send_options("get_state", SendArguments, **arguments)
        admission = self._lifecycle.check_open()
        item = admission.enqueue_operation(Kind.READ, dialog_id, options, self._waiters)
        await self._wait(item)
        assert item.reading is not None
        assert item.reading.state is not None
        return item.reading.state

    async def modify(
        self,
        dialog_id: str,
        fn: Decide,
        *,
        metadata: Mapping[str, str] | None = None,
        **arguments: Unpack[SendArguments],
    ) -> UpdateResult | None:
        """Read the state, call `fn` with it, and write the result if the state is unchanged.

        If the state changed, `modify` starts over. Concurrent `modify` calls for one dialog lose
        no update, even from several processes. `modify` needs the etags of the runtime API; see
        ``docs/ordering.md``.

        Args:
            dialog_id: Id of the dialog.
            fn: Plain function. The client calls it in the event loop with the `DialogState`,
                possibly several times. `fn` returns a mapping with `session`, `user` or
                `next_step`, or None to write nothing.
            metadata: See `StateUpdate`.
            retry, timeout, deadline, priority: See `update`.

        Returns:
            UpdateResult: The write was applied. None: `fn` returned None, and nothing was written.

        Raises:
            UnsupportedByApiError: The API has no versions.
            TypeError: `fn` is not a plain function.
            Exception: `fn` raised it, or the write failed; see `update`.

        Example::

            def count_visit(state: DialogState) -> Mapping[str, Any]:
                return {"session": {"visits": state.session.get("visits", 0) + 1}}

            await client.modify("d-1", count_visit)
        """
        given: Any = fn
        if not callable(given) or inspect.iscoroutinefunction(given):
            raise TypeError("modify takes a plain function of the dialog's state, not an async one")
        self._config.api.check_use("modify")
        dialog_id, metadata = self._config.validate_dialog_id(dialog_id, metadata)
        options = self._send_options("modify", SendArguments, **arguments)
        admission = self._lifecycle.check_open()
        await admission.acquire_slot(dialog_id, options.deadline)
        item = admission.enqueue_operation(
            Kind.MODIFY, dialog_id, options, self._waiters, decide=fn, metadata=metadata
        )
        await self._wait(item)
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
        """Reset the context of a session, after all updates of the session accepted before.

        The client does not retry a reset that got no response: a second reset may erase what the
        flow has written since the first. The client sends
        ``POST /new/v2.0/sessions/{id}/context/reset`` (docs.cognigy.com, API reference).

        Args:
            dialog_id: Id of the session.
            user_id: Owner of the session.
            flow_reference_id: Id (UUID) of the flow whose context the server resets. The vendor's
                reference requires it and `entrypoint`. The client omits what is not given.
            entrypoint: Id of the project or snapshot of that flow; the reference types it as a
                UUID. It is sent as ``entrypoint``, as the official JavaScript client does, where
                the reference has ``entryPoint``.
            retry, timeout: Replace the arguments of the client.

        Raises:
            UnsupportedByApiError: The API has no resets.
            UpdateError: The reset failed; see `update`.
        """
        flow = (flow_reference_id, entrypoint)
        return await self._reset(dialog_id, "context", user_id, flow, retry, timeout)

    async def reset_state(
        self,
        dialog_id: str,
        *,
        user_id: str | None = None,
        retry: RetryPolicy | None = None,
        timeout: float | None = None,
    ) -> UpdateResult:
        """Reset the state of a session's flow to the default. Takes the same as `reset_context`."""
        return await self._reset(dialog_id, "state", user_id, (), retry, timeout)

    async def create_profile(
        self,
        project_id: str,
        *,
        profile: Mapping[str, Any] | None = None,
        active: bool | None = None,
        contact_ids: Iterable[str] | None = None,
        **arguments: Unpack[SendArguments],
    ) -> UpdateResult:
        """Create a contact profile. Its id is ``result.body["_id"]``.

        The client does not retry a creation that got no response: there could be two profiles. The
        client sends ``POST /new/v2.0/profiles`` (docs.cognigy.com, API reference).

        Args:
            project_id: Id of the project, of 24 characters.
            profile: Fields by name. Names and values follow `Limits`, as those of `user` do.
            active: Whether the profile is active. By default the server decides.
            contact_ids: Ids of the users that the profile belongs to.
            retry, timeout, deadline, priority: See `update`.

        Returns:
            UpdateResult: The profile was created. Its `dialog_id` begins with ``profiles/new-``.

        Raises:
            UpdateValidationError: An argument is invalid; nothing was sent.
            UnsupportedByApiError: The API has no profiles.
            AmbiguousUpdateError: The profile may have been created.
            UpdateError: The creation failed; see `update`.

        Example::

            created = await client.create_profile(project_id, contact_ids=["user-7c1e"])
            profile_id = created.body["_id"]
        """
        members = {
            "project_id": project_id,
            "profile": profile,
            "active": active,
            "contact_ids": contact_ids,
        }
        return await self._write_profile("create_profile", None, members, **arguments)

    async def update_profile(
        self,
        profile_id: str,
        *,
        profile: Mapping[str, Any] | None = None,
        active: bool | None = None,
        contact_ids: Iterable[str] | None = None,
        **arguments: Unpack[SendArguments],
    ) -> UpdateResult:
        """Assign fields of a contact profile, after all calls for the profile accepted before.

        The client repeats the call after a lost response, because it assigns. Order holds among the
        calls of `update_profile`. The user variables of an `update` keep their place among the
        updates of the session instead. The client sends ``PATCH /new/v2.0/profiles/{id}``
        (docs.cognigy.com, API reference).

        Args:
            profile_id: Id of the profile, of 24 characters.
            profile: Fields by name; see `create_profile`. The client expects that other fields
                keep their values; the vendor does not document it.
            active: Whether the profile is active.
            contact_ids: Ids of all users that the profile belongs to.
            retry, timeout, deadline, priority: See `update`.

        Returns:
            UpdateResult: The fields were assigned. Its `dialog_id` is ``profiles/{profile_id}``.

        Raises:
            UpdateValidationError: An argument is invalid; nothing was sent.
            UnsupportedByApiError: The API has no profiles.
            UpdateError: The call failed; see `update`.
        """
        members = {"profile": profile, "active": active, "contact_ids": contact_ids}
        return await self._write_profile("update_profile", profile_id, members, **arguments)

    # Steps that several methods share.

    async def _reset(
        self,
        dialog_id: str,
        target: Literal["context", "state"],
        user_id: str | None,
        flow: tuple[str | None, ...],
        retry: RetryPolicy | None,
        timeout: float | None,
    ) -> UpdateResult:
        config = self._config
        dialog_id, _ = config.validate_dialog_id(dialog_id)
        request = config.api.reset(config.base_url, dialog_id, target, user_id, *flow)
        options = config.send_options(retry, timeout)
        admission = self._lifecycle.check_open()
        await admission.acquire_slot(dialog_id)
        item = admission.enqueue_operation(
            Kind.RESET, dialog_id, options, self._waiters, requests=[request]
        )
        await self._wait(item)
        assert item.result is not None
        return item.result

    async def _write_profile(
        self,
        method: str,
        profile_id: str | None,
        members: Mapping[str, Any],
        **arguments: Unpack[SendArguments],
    ) -> UpdateResult:
        config = self._config
        body = profile_body(config.limits, config.encode, members)
        request = config.api.write_profile(config.base_url, profile_id, body)
        options = self._send_options(method, SendArguments, **arguments)
        admission = self._lifecycle.check_open()
        # Creations do not wait for each other.
        name = profile_id if profile_id is not None else f"new-{token_hex(8)}"
        dialog_id = f"{PROFILE_PREFIX}{name}"
        await admission.acquire_slot(dialog_id, options.deadline)
        kind = Kind.CREATION if profile_id is None else Kind.PROFILE
        item = admission.enqueue_operation(
            kind, dialog_id, options, self._waiters, requests=[request]
        )
        await self._wait(item)
        assert item.result is not None
        return item.result

    def _send_options(
        self, method: str, allowed: type[SendArguments], **arguments: Unpack[SubmitArguments]
    ) -> SendOptions:
        for name in arguments.keys() - allowed.__annotations__.keys():
            raise TypeError(f"{method}() got an unexpected keyword argument {name!r}")
        deadline = arguments.get("deadline")
        if deadline is not None:
            arguments["deadline"] = self._lifecycle.deadline_after(deadline)
        return self._config.send_options(**arguments)

    def _enqueue(
        self, admission: Admission, update: StateUpdate, options: SendOptions
    ) -> PendingUpdate:
        item = admission.enqueue(update, options, self._handle_waiters, waits_when_paused=True)
        return PendingUpdate(item, self._lifecycle.require_engine(), admission)

    async def _wait(self, item: WorkItem) -> None:
        """Wait for the outcome and raise its error; if cancelled, cancel the item."""
        try:
            await self._waiters.wait(item)
        except BaseException:
            self._lifecycle.require_engine().cancel(item)
            raise
        if item.error is not None:
            raise item.error
