"""The handle of an accepted update, and the objects that wake the tasks waiting for it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Generator
from contextlib import suppress
from logging import ERROR
from typing import TYPE_CHECKING, Any

import anyio
import sniffio

from .._utils.logging import log
from ..errors import AmbiguousUpdateError, ClientClosedError, UpdateError, UpdateWithdrawnError

if TYPE_CHECKING:
    from ..engine.engine import Engine
    from ..engine.work_item import WorkItem
    from ..hooks.registry import CallbackRegistry
    from ..models.results import UpdateResult
    from .admission import Admission


class PendingUpdate:
    """Handle of an accepted update. Awaiting the handle returns the `UpdateResult` or raises.

    Any number of tasks may await the handle, also several times. Cancelling a task that awaits the
    handle does not cancel the update; `withdraw` does. The handle belongs to the event loop of its
    client, and raises `ClientUsageError` in another event loop.

    If nobody awaits a failure, and no callback of `on_update_failed` gets it, the client logs the
    failure at ERROR when the handle is collected, as asyncio does for tasks. The client logs an
    `AmbiguousUpdateError` at once, at WARNING.

    Example::

        pending = await client.submit(update)
        result = await pending
    """

    __slots__ = ("_admission", "_engine", "_item")

    def __init__(self, item: WorkItem, engine: Engine, admission: Admission) -> None:
        self._item = item
        self._engine = engine
        self._admission = admission

    @property
    def update_id(self) -> str:
        """Id of the update."""
        return self._item.update_id

    @property
    def dialog_id(self) -> str:
        """Id of the dialog."""
        return self._item.dialog_id

    def done(self) -> bool:
        """Return True if the update has its result or its error."""
        return self._item.completed

    def withdraw(self) -> bool:
        """Withdraw the update. Return True if the client has not sent it and never will.

        Raises:
            ClientUsageError: Called in another event loop.
        """
        self._admission.check_event_loop()
        return self._engine.withdraw(self._item)

    async def _wait(self) -> UpdateResult:
        item = self._item
        if not item.completed:
            self._admission.check_event_loop()
            await SHARED_WAITERS.wait(item)
        if item.error is not None:
            if type(item.waiter) is _UnawaitedFailure:
                item.waiter.awaited = True
            # Each `raise` of the same object would make its traceback longer.
            raise item.error.with_traceback(None)
        assert item.result is not None
        return item.result

    def __await__(self) -> Generator[Any, Any, UpdateResult]:
        return self._wait().__await__()

    def __repr__(self) -> str:
        item = self._item
        state = "done" if item.completed else "sent" if item.sent_at is not None else "waiting"
        return f"<PendingUpdate {item.update_id} dialog={item.dialog_id!r} {state}>"


class Waiters:
    """Lets any number of tasks wait for the outcome of a work item; a sink of work items."""

    def wait(self, item: WorkItem, /) -> Awaitable[object]:
        """Wait for `notify`, which must not have been called yet."""
        if item.waiter is None:
            item.waiter = anyio.Event()
        event: anyio.Event = item.waiter
        return event.wait()

    def notify(self, item: WorkItem, /) -> None:
        """Wake the tasks that wait for the item."""
        if item.waiter is not None:
            item.waiter.set()


class HandleWaiters(Waiters):
    """Waiters for handles: a failure that nobody awaits is logged when its handle is collected."""

    def __init__(self, hooks: CallbackRegistry) -> None:
        self._hooks = hooks

    def notify(self, item: WorkItem, /) -> None:
        """Wake the tasks that wait for the item, and watch over its failure."""
        super().notify(item)
        error = item.error
        # The caller withdrew the update, or `aclose` logs and reports it, or `Completion` logs it.
        logged = UpdateWithdrawnError | ClientClosedError | AmbiguousUpdateError
        if error is None or isinstance(error, logged):
            return
        if isinstance(error, UpdateError) and self._hooks.has_failure_callbacks:
            return
        # Only the handle, if there still is one, refers to the item from now on.
        item.waiter = _UnawaitedFailure(
            item.update_id, item.dialog_id, f"{type(error).__name__}: {error}"
        )


class _UnawaitedFailure:
    """The failure of an update that has a handle. Held by the item, and collected with it.

    It holds texts only: an exception refers to frames, which refer to the item.
    """

    __slots__ = ("_dialog_id", "_error", "_update_id", "awaited")

    def __init__(self, update_id: str, dialog_id: str, error: str) -> None:
        self._update_id = update_id
        self._dialog_id = dialog_id
        self._error = error
        self.awaited = False

    def __del__(self) -> None:
        # Any thread may run this, also while the interpreter ends.
        with suppress(Exception):
            if not self.awaited:
                log(
                    ERROR,
                    "update %s of dialog %r failed, and nobody awaited its handle: %s",
                    self._update_id,
                    self._dialog_id,
                    self._error,
                    dialog_id=self._dialog_id,
                    update_id=self._update_id,
                )


class _FutureWaiters(Waiters):
    """Waiters for asyncio with one task per item; they cost a quarter of `Waiters`."""

    def __init__(self) -> None:
        self._create_future = asyncio.get_running_loop().create_future

    def wait(self, item: WorkItem, /) -> Awaitable[object]:
        item.waiter = future = self._create_future()
        return future

    def notify(self, item: WorkItem, /) -> None:
        future = item.waiter
        if not future.done():
            future.set_result(None)


SHARED_WAITERS = Waiters()


def single_task_waiters() -> Waiters:
    """Return the cheapest `Waiters` for this event loop, if at most one task awaits each item."""
    is_asyncio = sniffio.current_async_library() == "asyncio"
    return _FutureWaiters() if is_asyncio else SHARED_WAITERS
