"""The lifecycle of a client: open the engine, drain it, close it."""

from __future__ import annotations

import warnings
import weakref
from contextlib import suppress
from functools import partial
from logging import ERROR, WARNING
from typing import TYPE_CHECKING

import anyio

from .._utils.arguments import validate_seconds
from .._utils.concurrency import (
    BackgroundTask,
    fork_counter,
    monotonic_clock,
    run_to_completion,
    uninterrupted,
)
from .._utils.logging import log
from ..engine.capacity import PendingLimit
from ..engine.context import Context
from ..engine.engine import Engine
from ..engine.protocol import UpdateProtocol
from ..errors import CLOSED, STOPPED, ClientClosedError, ClientUsageError, OutboxError
from ..hooks.registry import CallbackRegistry
from ..models.results import CloseReport
from .admission import Admission
from .recovery import Recovery

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .._utils.waker import Waker
    from ..audit.trail import AuditTrail
    from ..engine.recorder import Recorder
    from ..hooks.outbox import Outbox
    from ..metrics import Metrics
    from ..models.update import StateUpdate
    from ..ratelimit.limiter import CompositeLimiter
    from ..transports.base import Transport
    from .config import ClientConfig

NOT_OPEN = "the client is not open: use it inside `async with`"

EMPTY_REPORT = CloseReport(0, 0, 0, (), 0)

RECORD_TIMEOUT = 2.0
"""Maximum seconds, after those of the close, for an outbox to record the last outcomes, and as many
to close."""

TRANSPORT_CLOSE_TIMEOUT = 5.0
"""Maximum seconds for the transport to close its connections."""

DIALOGS_NAMED = 5
"""Number of dialogs that the report of a client that was not closed names."""


class _Signals:
    """The events and cancel scopes of one open client."""

    def __init__(self) -> None:
        self.workers_started = anyio.Event()
        self.stop_workers = anyio.Event()
        self.workers_ended = anyio.Event()
        self.stop_callbacks = anyio.Event()
        self.callbacks_ended = anyio.Event()
        self.outbox_closed = anyio.Event()
        self.closed = anyio.Event()
        self.records_scope = anyio.CancelScope(shield=True)
        self.in_flight_scope = anyio.CancelScope()
        self.close_scope = anyio.CancelScope()
        self.drain_scope = anyio.CancelScope()


class Lifecycle:
    """Opens and closes one client. A client can be opened only once.

    Attributes:
        engine, admission: None before the client is open.
        report: Result of the close; None until the client has closed.
    """

    def __init__(
        self,
        config: ClientConfig,
        metrics: Metrics,
        hooks: CallbackRegistry,
        quota: CompositeLimiter | None,
        audit: AuditTrail | None,
        waker: Waker,
    ) -> None:
        self._config = config
        self._metrics = metrics
        self._hooks = hooks
        self._quota = quota
        self._audit = audit
        self._waker = waker
        self._background = BackgroundTask()
        self._transport: Transport | None = None
        self._signals: _Signals | None = None
        self._closing = False
        self._finalizer: weakref.finalize[..., Lifecycle] | None = None
        self.engine: Engine | None = None
        self.admission: Admission | None = None
        self.report: CloseReport | None = None

    def __str__(self) -> str:
        if self.admission is not None and self.admission.is_open:
            return "open"
        return "closed" if self._closing else "not open"

    def check_open(self) -> Admission:
        """Return the admission; raise `ClientUsageError` if it does not accept this caller now."""
        admission = self.admission
        if admission is None:
            raise ClientClosedError(NOT_OPEN)
        admission.check_open()
        return admission

    def require_open_engine(self) -> Engine:
        """Return the engine; raise `ClientUsageError` if the client does not accept this caller."""
        self.check_open()
        assert self.engine is not None
        return self.engine

    def require_engine(self) -> Engine:
        """Return the engine, open or closed; raise `ClientClosedError` if it was never open."""
        if self.engine is None:
            raise ClientClosedError(NOT_OPEN)
        return self.engine

    def deadline_after(self, seconds: float) -> float:
        """Return the time `seconds` from now on the client's clock."""
        seconds = validate_seconds("deadline", seconds)
        return self.require_open_engine().clock() + seconds

    # Open.

    async def open(self) -> None:
        """Build the engine in the running event loop, and start its workers."""
        if self.engine is not None or self._closing:
            raise ClientUsageError("a client can be opened once only; create a new one")
        config = self._config
        self._transport = config.transport if config.transport is not None else _default_transport()
        context = Context(
            config=config,
            protocol=UpdateProtocol(
                config.api, config.base_url, config.limits, config.encode, config.endpoint
            ),
            transport=self._transport,
            quota=self._quota,
            audit=self._audit,
            outbox=config.outbox,
            metrics=self._metrics,
            hooks=self._hooks,
            pending_limit=PendingLimit(config.max_pending),
            waker=self._waker,
            clock=monotonic_clock(),
        )
        self.engine = engine = Engine(context)
        self.admission = admission = Admission(context, engine.scheduler)
        if config.outbox is not None:
            await self._open_outbox(config.outbox, Recovery(context, engine, admission))
        if self._audit is not None:
            self._audit.start()
        self._signals = signals = _Signals()
        await self._background.start(partial(self._run, engine, admission, signals))
        try:
            await signals.workers_started.wait()
            if self._audit is not None:
                await self._audit.ready()
        except BaseException:
            await self.exit(drain=False)
            raise
        if not self._closing:
            # The engine leads back to this object, which a strong reference would keep alive.
            self._finalizer = weakref.finalize(
                self,
                _report_unclosed,
                config.base_url,
                weakref.ref(engine),
                engine.completion.unsent,
                self._metrics,
                fork_counter.count,
            )
            admission.open()

    async def _run(self, engine: Engine, admission: Admission, signals: _Signals) -> None:
        """Run workers and callbacks until the client is closed, and the outbox a little longer."""
        outbox, recorder = self._config.outbox, engine.recorder
        try:
            if outbox is None or recorder is None:
                await self._run_engine(engine, admission, signals)
                return
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(uninterrupted(_run_outbox), outbox, recorder)
                try:
                    await self._run_engine(engine, admission, signals)
                finally:
                    signals.callbacks_ended.set()
                    left = signals.close_scope.deadline - anyio.current_time()
                    timeout = max(0.0, left) if self._closing else RECORD_TIMEOUT
                    await run_to_completion(partial(_close_outbox, outbox, timeout))
                    tasks.cancel_scope.cancel()
        finally:
            admission.close()
            signals.workers_started.set()
            signals.workers_ended.set()
            signals.callbacks_ended.set()
            signals.outbox_closed.set()

    async def _run_engine(self, engine: Engine, admission: Admission, signals: _Signals) -> None:
        async with anyio.create_task_group() as tasks:
            callbacks_started = anyio.Event()
            tasks.start_soon(
                uninterrupted(self._hooks.run), signals.stop_callbacks, callbacks_started
            )
            await callbacks_started.wait()
            try:
                await engine.run(
                    signals.workers_started, signals.stop_workers, signals.in_flight_scope
                )
            finally:
                # Close the admission first: callers that wake up now must not submit.
                admission.close()
                engine.close(CLOSED if self._closing else STOPPED)
                if engine.recorder is not None:
                    await self._wait_for_records(engine.recorder, signals)
                signals.workers_ended.set()

    async def _wait_for_records(self, recorder: Recorder, signals: _Signals) -> None:
        """Wait until the outcomes of all updates that were sent are recorded, or time is up."""
        if not self._closing:
            signals.records_scope.deadline = anyio.current_time() + RECORD_TIMEOUT
        try:
            with signals.records_scope:
                await recorder.wait()
        finally:
            recorder.end(OutboxError("the outbox did not record the outcome in time"))

    async def _open_outbox(self, outbox: Outbox, recovery: Recovery) -> None:
        try:
            await outbox.open(recovery)
        except BaseException:
            self._closing = True
            with anyio.move_on_after(TRANSPORT_CLOSE_TIMEOUT, shield=True):
                await self._close_transport()
            raise

    # Close.

    async def exit(self, *, drain: bool) -> None:
        """Close at the end of ``async with``, and wait for the background task."""
        try:
            # Leaving by an exception waits, even if this task is being cancelled, for another
            # task's close as well.
            with anyio.CancelScope(shield=not drain):
                await self.close(drain=drain, timeout=30.0)
        finally:
            await self._background.join()

    async def close(self, *, drain: bool, timeout: float) -> CloseReport:
        """Stop accepting operations and complete all accepted ones within `timeout` seconds.

        See `AsyncStateClient.aclose`.
        """
        if self._hooks.inside_callback():
            raise ClientUsageError(
                "aclose() would wait for the callback that calls it; call it outside of callbacks"
            )
        signals, engine, admission = self._signals, self.engine, self.admission
        if signals is None or engine is None or admission is None:
            self._closing = True
            self.report = self.report or EMPTY_REPORT
            return self.report
        admission.check_event_loop()
        if self._closing:
            return await self._join_close(signals, drain=drain, timeout=timeout)
        self._closing = True
        admission.close()
        engine.pending_limit.close()
        deadline = anyio.current_time() + timeout
        signals.drain_scope.deadline = signals.close_scope.deadline = deadline
        try:
            if drain:
                with signals.drain_scope:
                    await self._drain(engine, admission)
        finally:
            # A cancellation ends only the drain: requests in flight still get their time.
            await run_to_completion(
                partial(self._finish_close, engine, admission, signals, deadline)
            )
        return self.report or EMPTY_REPORT

    async def _drain(self, engine: Engine, admission: Admission) -> None:
        """Wait until all updates are complete and all events delivered, those of callbacks too."""
        admission.close(except_callbacks=True)
        engine.scheduler.end_linger(for_good=True)
        while engine.completion.busy or self._hooks.busy:
            await engine.completion.flush()
            await self._hooks.wait_delivered()

    async def _join_close(self, signals: _Signals, *, drain: bool, timeout: float) -> CloseReport:
        """Wait for the close that another task started; cut it short after `timeout` seconds."""
        if not drain:
            signals.drain_scope.cancel()
        with anyio.move_on_after(timeout):
            await signals.closed.wait()
        if not signals.closed.is_set():
            signals.drain_scope.cancel()
            signals.close_scope.cancel()
            await signals.closed.wait()
        return self.report or EMPTY_REPORT

    async def _finish_close(
        self, engine: Engine, admission: Admission, signals: _Signals, deadline: float
    ) -> None:
        """Let requests and callbacks end until the deadline, stop the others, close all parts."""
        try:
            admission.close()
            signals.stop_workers.set()
            with signals.close_scope:
                await signals.workers_ended.wait()
                await self._hooks.wait_delivered()
            signals.in_flight_scope.cancel()
            signals.records_scope.deadline = anyio.current_time() + RECORD_TIMEOUT
            await signals.workers_ended.wait()
            signals.stop_callbacks.set()
            await signals.callbacks_ended.wait()
            await self._hooks.dead_letter_rest()
            if self._audit is not None:
                await self._audit.close(deadline - anyio.current_time())
            await signals.outbox_closed.wait()
            with anyio.move_on_after(TRANSPORT_CLOSE_TIMEOUT):
                await self._close_transport()
            metrics = self._metrics
            self.report = CloseReport(
                applied=metrics.applied,
                failed=metrics.failed,
                ambiguous=metrics.ambiguous,
                unsent=tuple(engine.completion.unsent),
                undelivered=metrics.events_dropped,
            )
        finally:
            if self._finalizer is not None:
                self._finalizer.detach()
            signals.closed.set()

    async def _close_transport(self) -> None:
        try:
            if self._transport is not None:
                await self._transport.aclose()
        except Exception as error:
            # Log only: every update has its outcome, and an exception here would hide it.
            log(WARNING, "the transport could not be closed: %s", type(error).__name__)


async def _run_outbox(outbox: Outbox, recorder: Recorder) -> None:
    """Run the outbox; when it ends, for whatever reason, let waiting updates fail."""
    problem = "the outbox does not run any more"
    try:
        await outbox.run()
    except Exception as error:
        problem = f"the outbox failed with {type(error).__name__}"
        log(ERROR, "%s: %s", problem, error if isinstance(error, OutboxError) else "see its code")
    finally:
        recorder.end(OutboxError(problem))


async def _close_outbox(outbox: Outbox, timeout: float) -> None:
    try:
        with anyio.move_on_after(timeout + RECORD_TIMEOUT):
            await outbox.close(timeout)
    except Exception as error:
        # Log only: every update has its outcome, and an exception here would hide it.
        log(WARNING, "the outbox could not be closed: %s", type(error).__name__)


def _report_unclosed(
    base_url: str,
    engine: weakref.ref[Engine],
    unsent: Sequence[StateUpdate],
    metrics: Metrics,
    fork_count: int,
) -> None:
    """Warn of a client that was collected, or that is open when the process ends.

    Any thread may run this, also while the interpreter ends.
    """
    if fork_count != fork_counter.count:
        return  # The client belongs to the parent process.
    dialogs = [update.dialog_id for update in unsent]
    alive = engine()
    if alive is not None and metrics.pending:
        # Another thread may still run the client, and change the queues meanwhile.
        with suppress(RuntimeError):
            dialogs += alive.unsent_dialogs()
    unanswered = len(unsent) + metrics.pending - len(dialogs)
    parts = []
    if dialogs:
        rest = ", ..." if len(dialogs) > DIALOGS_NAMED else ""
        named = ", ".join(map(repr, dialogs[:DIALOGS_NAMED])) + rest
        parts.append(f"accepted updates that were not sent: {len(dialogs)} (dialogs {named})")
    if unanswered > 0:
        parts.append(f"updates without an outcome: {unanswered}")
    message = "; ".join([f"the client of {base_url} was not closed", *parts])
    message += ". Use `async with` or `await client.aclose()`; of a StateClient `with` or `close()`"
    if parts:
        log(WARNING, "%s", message, unsent=len(dialogs), unanswered=unanswered)
    warnings.warn(message, ResourceWarning, stacklevel=2)


def _default_transport() -> Transport:
    from ..transports.httpx import HttpxTransport

    return HttpxTransport()
