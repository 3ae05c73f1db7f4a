"""From the opening of a client to its close: where it may be used, and how it ends."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from logging import WARNING
from typing import TYPE_CHECKING, Any

import anyio

from .._utils.arguments import validate_seconds
from .._utils.concurrency import TaskOwner, forks, home_of_this_task, monotonic_clock, to_the_end
from .._utils.logging import log
from ..engine.capacity import PendingLimit
from ..engine.context import Context
from ..engine.engine import Engine
from ..engine.protocol import UpdateProtocol
from ..errors import ClientClosedError, ClientUsageError
from ..hooks.registry import CallbackRegistry
from ..models.results import CloseReport
from .admission import Admission

if TYPE_CHECKING:
    from .._utils.waker import Waker
    from ..audit.trail import AuditTrail
    from ..metrics import Metrics
    from ..ratelimit.limiter import CompositeLimiter
    from ..transports.base import Transport
    from .config import ClientConfig

NOTHING_DONE = CloseReport(0, 0, 0, (), 0)

CLOSING_TIME = 5.0
"""Seconds that the transport may take to close its connections."""


class _Events:
    """The moments of an open client."""

    def __init__(self) -> None:
        self.started = anyio.Event()
        self.stop = anyio.Event()
        self.worked = anyio.Event()
        self.stop_hooks = anyio.Event()
        self.ended = anyio.Event()
        self.closed = anyio.Event()
        self.cut = anyio.CancelScope()
        self.closing = anyio.CancelScope()
        self.draining = anyio.CancelScope()


class Lifecycle:
    """Opens the engine of one client, says where and when it may be used, and closes it."""

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
        self._owner = TaskOwner()
        self.engine: Engine | None = None
        """What carries updates out; None before the client is open."""
        self._admission: Admission | None = None
        self._transport: Transport | None = None
        self._events: _Events | None = None
        self._home: Callable[[], Any] | None = None
        self._loop: Any = None
        self._forks = 0
        self._closing = False
        self._draining = False
        self.accepting = False
        """Whether updates are taken."""
        self.report: CloseReport | None = None
        """What the close came to, None before."""

    def __str__(self) -> str:
        return "open" if self.accepting else "closed" if self._closing else "not open"

    def check_home(self) -> None:
        """Raise `ClientUsageError` in another event loop, thread or process than its own."""
        if self._forks != forks.count:
            raise ClientUsageError(
                "this client was opened before the process forked; open one in each process"
            )
        try:
            here = self._home() if self._home is not None else None
        except RuntimeError:
            here = None
        if here is not self._loop:
            raise ClientUsageError(
                "this client belongs to another event loop; open one in each event loop"
            )

    def check_open(self) -> Admission:
        """The way in; raise `ClientUsageError` where no updates are taken."""
        if self._admission is None:
            raise ClientClosedError("the client is not open: use it inside `async with`")
        self.check_home()
        if not self.accepting and not (self._draining and self._hooks.called_us()):
            raise ClientClosedError("the client is closed and takes no more updates")
        return self._admission

    def moment(self, seconds: float) -> float:
        """The deadline that is so many seconds from now."""
        seconds = validate_seconds("deadline", seconds)
        self.check_open()
        return self.opened().clock() + seconds

    def opened(self) -> Engine:
        """The engine of a client that was opened; raise `ClientClosedError` where it was not."""
        if self.engine is None:
            raise ClientClosedError("the client is not open: use it inside `async with`")
        return self.engine

    async def open(self) -> None:
        """Build the engine in the running event loop, and start to work."""
        if self.engine is not None or self._closing:
            raise ClientUsageError("a client is opened once; make a new one")
        self._home = home_of_this_task()
        self._loop = self._home()
        self._forks = forks.count
        config = self._config
        self._transport = config.transport if config.transport is not None else _default_transport()
        context = Context(
            config=config,
            protocol=UpdateProtocol(config.api, config.base_url, config.limits),
            transport=self._transport,
            quota=self._quota,
            audit=self._audit,
            metrics=self._metrics,
            hooks=self._hooks,
            pending_limit=PendingLimit(config.max_pending),
            waker=self._waker,
            clock=monotonic_clock(),
        )
        self.engine = engine = Engine(context)
        if self._audit is not None:
            self._audit.start()
        self._admission = Admission(context, engine.scheduler, self)
        self._events = events = _Events()
        await self._owner.start(partial(self._run, engine, events))
        try:
            await events.started.wait()
            if self._audit is not None:
                await self._audit.ready()
        except BaseException:
            await self.leave(drain=False)
            raise
        self.accepting = not self._closing

    async def _run(self, engine: Engine, events: _Events) -> None:
        """What runs in the background from opening to closing."""
        try:
            async with anyio.create_task_group() as tasks:
                hooks_started = anyio.Event()
                tasks.start_soon(self._hooks.run, events.stop_hooks, hooks_started)
                await hooks_started.wait()
                try:
                    await engine.run(events.started, events.stop, events.cut)
                finally:
                    # First: who is woken by an outcome must not come in again.
                    self.accepting = self._draining = False
                    engine.close()
                    events.worked.set()
        finally:
            self.accepting = self._draining = False
            for event in (events.started, events.worked, events.ended):
                event.set()

    async def leave(self, *, drain: bool) -> None:
        """The end of ``async with``."""
        try:
            # What is in flight is given its time even when this task is being cancelled.
            with anyio.CancelScope(shield=not drain):
                await self.close(drain=drain, timeout=30.0)
        finally:
            await self._owner.join()

    async def close(self, *, drain: bool, timeout: float) -> CloseReport:
        """Stop accepting and settle everything, within `timeout` seconds; see the client."""
        if self._hooks.called_us():
            raise ClientUsageError("aclose() would wait for the callback that calls it")
        events, engine = self._events, self.engine
        if events is None or engine is None:
            self._closing = True
            self.report = self.report or NOTHING_DONE
            return self.report
        self.check_home()
        if self._closing:
            return await self._hasten(events, drain=drain, timeout=timeout)
        self._closing = True
        self.accepting = False
        engine.pending_limit.close()
        deadline = events.closing.deadline = anyio.current_time() + timeout
        try:
            with events.closing:
                if drain:
                    with events.draining:
                        await self._drain(engine)
                self._draining = False
                events.stop.set()
                await events.worked.wait()
                await self._hooks.drained()
        finally:
            await to_the_end(partial(self._finish, engine, events, deadline))
        return self.report or NOTHING_DONE

    async def _drain(self, engine: Engine) -> None:
        """Until everything is settled and delivered, what callbacks write meanwhile included."""
        self._draining = True
        settlement, hooks = engine.completion, self._hooks
        engine.scheduler.end_linger(for_good=True)
        while settlement.busy or hooks.busy:
            await settlement.flush()
            await hooks.drained()

    async def _hasten(self, events: _Events, *, drain: bool, timeout: float) -> CloseReport:
        """Wait for a close that is under way, and let it take no longer than is asked for now."""
        if not drain:
            events.draining.cancel()
        with anyio.move_on_after(timeout):
            await events.closed.wait()
        if not events.closed.is_set():
            events.closing.cancel()
            await events.closed.wait()
        return self.report or NOTHING_DONE

    async def _close_transport(self) -> None:
        try:
            if self._transport is not None:
                await self._transport.aclose()
        except Exception as error:
            # Everything is settled; connections that do not close must not hide that.
            log(WARNING, "the transport could not be closed: %s", type(error).__name__)

    async def _finish(self, engine: Engine, events: _Events, deadline: float) -> None:
        """Cut off what is left, and say what was done."""
        try:
            events.stop.set()
            events.cut.cancel()
            await events.worked.wait()
            events.stop_hooks.set()
            await events.ended.wait()
            await self._hooks.dead_letter_rest()
            if self._audit is not None:
                await self._audit.close(deadline - anyio.current_time())
            with anyio.move_on_after(CLOSING_TIME):
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
            events.closed.set()


def _default_transport() -> Transport:
    from ..transports.httpx import HttpxTransport

    return HttpxTransport()
