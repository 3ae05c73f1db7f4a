"""`StateClient`: the client for scripts, notebooks, Django, Celery and other synchronous code."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterable, Iterator
from concurrent.futures import Future
from contextlib import AbstractContextManager, suppress
from functools import wraps
from typing import Any, Concatenate, ParamSpec, Self, TypeVar, Unpack, cast

import anyio
from anyio.from_thread import BlockingPortal

import cognigy_async as ca

from ._utils.concurrency import FORKED, ItemsOfThread, fork_counter
from .client.config import SubmitArguments as Options
from .models.update import UpdateInput, check_iterable

P = ParamSpec("P")
R = TypeVar("R")
Method = Callable[Concatenate[ca.AsyncStateClient, P], R]
Blocking = Callable[Concatenate["StateClient", P], R]
NAME = "cognigy_async client"
CLOSED = "the client is closed and accepts no more updates; create a new one"
NOTHING = ca.CloseReport(0, 0, 0, (), 0)
OWN_THREAD = "async callbacks and functions of modify cannot call their own client: see StateClient"


def _plain(method: Method[P, R]) -> Blocking[P, R]:
    def call(self: StateClient, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return cast("R", self._run(method, self._client, *args, **kwargs))

    return wraps(method, assigned=("__name__", "__doc__"))(call)


def _blocking(method: Method[P, Coroutine[Any, Any, R]]) -> Blocking[P, R]:
    return _plain(cast("Method[P, R]", method))


def _same_arguments(init: Method[P, None]) -> Callable[[Callable[..., None]], Blocking[P, None]]:
    return wraps(init, assigned=())


class StateClient:
    """Writes the state of dialogs, from any number of threads; see ``docs/sync.md``.

    `StateClient` has the arguments, methods and errors of `AsyncStateClient`. The client opens at
    ``with`` or at the first call. Plain callbacks run in worker threads and may call the client.
    Async callbacks, observers and the function of `modify` run in the thread of the client and must
    not call the client.
    """

    @_same_arguments(ca.AsyncStateClient.__init__)
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._client = client = ca.AsyncStateClient(*args, **kwargs)
        self.base_url, self.api = client.base_url, client.api
        self.limits, self.endpoint = client.limits, client.endpoint
        self.on_failure, self.on_state_updated = client.on_failure, client.on_state_updated
        self.on_update_failed, self.add_observer = client.on_update_failed, client.add_observer
        self._lock = threading.RLock()  # reentrant: a signal handler may call the client
        self._opened: Future[BlockingPortal] | None = None
        self._portal: BlockingPortal | None = None
        self._thread, self._fork_count, self._closed = threading.Thread(), -1, False
        self.close_report: ca.CloseReport | None = None

    update = _blocking(ca.AsyncStateClient.update)
    inject = _blocking(ca.AsyncStateClient.inject)
    notify = _blocking(ca.AsyncStateClient.notify)
    get_state = _blocking(ca.AsyncStateClient.get_state)
    modify = _blocking(ca.AsyncStateClient.modify)
    reset_context = _blocking(ca.AsyncStateClient.reset_context)
    reset_state = _blocking(ca.AsyncStateClient.reset_state)
    create_profile = _blocking(ca.AsyncStateClient.create_profile)
    update_profile = _blocking(ca.AsyncStateClient.update_profile)
    flush = _blocking(ca.AsyncStateClient.flush)
    paused_dialogs = _plain(ca.AsyncStateClient.paused_dialogs)
    resume = _plain(ca.AsyncStateClient.resume)
    quota_state = _plain(ca.AsyncStateClient.quota_state)
    restore_quota = _plain(ca.AsyncStateClient.restore_quota)

    def submit(self, update: UpdateInput, **given: Unpack[Options]) -> UpdateHandle:
        """Accept an update and return its handle; see `AsyncStateClient.submit`."""
        return UpdateHandle(self, self._run(self._client.submit, update, **given))

    def submit_nowait(self, update: UpdateInput, **given: Unpack[Options]) -> UpdateHandle:
        """Accept an update without waiting; see `AsyncStateClient.submit_nowait`."""
        return UpdateHandle(self, self._run(self._client.submit_nowait, update, **given))

    def update_many(self, updates: Iterable[UpdateInput], **given: Unpack[Options]) -> Outcomes:
        """Send updates: ``with client.update_many(rows) as outcomes: for outcome in outcomes: ...``

        Leaving the ``with`` block withdraws unsent updates. `UpdateOutcome.index` is the position
        of the input, and `UpdateOutcome.error` is None for an applied update. `deadline` is in
        seconds for all updates together. See `AsyncStateClient.update_many`.
        """
        return Outcomes(self, updates, given)

    @property
    def metrics(self) -> ca.MetricsSnapshot:
        """Counts and latencies at this moment."""
        self._check_caller()
        snapshot = self._client.metrics.snapshot
        with self._lock:
            return self._portal.call(snapshot) if self._portal else snapshot()

    @property
    def is_open(self) -> bool:
        """True while updates are accepted: from ``with`` or the first call until `close`."""
        return self._client.is_open and not self._forked

    def __enter__(self) -> Self:
        self._run(bool)  # the first call opens
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self.close(drain=error is None)

    def close(self, *, drain: bool = True, timeout: float = 30.0) -> ca.CloseReport:
        """Complete all updates and close the connections; see `AsyncStateClient.aclose`."""
        if self._forked:  # the client belongs to the parent process
            return NOTHING
        self._check_caller()
        with self._lock:
            with suppress(Exception):  # Ctrl-C may have ended the wait for the opening
                self._portal = self._opened.result() if self._opened else None
            if (portal := self._portal) is None:
                self._closed = True
                if self._opened:  # the opening failed, and its thread ends
                    self._thread.join()
                return self.close_report or NOTHING
            future = self._start(self._client.aclose, drain=drain, timeout=timeout)
        try:
            return cast("ca.CloseReport", future.result())
        finally:
            future.cancel()  # inside a callback it was refused, and the client stays open
            if future.cancelled() or not isinstance(future.exception(), ca.ClientUsageError):
                with self._lock:
                    if not self._closed:
                        portal.start_task_soon(portal.stop)
                    self._portal, self._opened, self._closed = None, None, True
                self._thread.join()
                self.close_report = self._client.close_report

    def _open(self) -> BlockingPortal:
        if self._closed:
            raise ca.ClientClosedError(CLOSED)
        if self._opened is None:
            self._fork_count, self._opened = fork_counter.count, Future()
            serve = (self._serve, self._opened)
            self._thread = threading.Thread(None, anyio.run, NAME, serve, daemon=True)
            self._thread.start()
        self._portal = self._opened.result()
        return self._portal

    async def _serve(self, opened: Future[BlockingPortal]) -> None:
        try:
            async with self._client, BlockingPortal() as portal:
                opened.set_result(portal)
                await portal.sleep_until_stopped()
        except BaseException as error:
            opened.set_exception(error)  # after the opening it ends the thread

    @property
    def _forked(self) -> bool:
        return self._fork_count not in (-1, fork_counter.count)

    def _check_caller(self) -> None:
        if self._forked or threading.current_thread() is self._thread:
            raise ca.ClientUsageError(FORKED if self._forked else OWN_THREAD)

    def _start(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Future[Any]:
        self._check_caller()

        async def call() -> Any:
            result = function(*args, **kwargs)  # handles and streams can be awaited, but must not
            return await result if asyncio.iscoroutine(result) else result

        with self._lock:  # `close` must not end the event loop before it has taken the call
            return (self._portal or self._open()).start_task_soon(call)

    def _run(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        future = self._start(function, *args, **kwargs)
        try:
            return future.result()
        finally:
            future.cancel()  # only where Ctrl-C ended the wait


class UpdateHandle:
    """An accepted update, for any thread; `StateClient.submit` returns it."""

    def __init__(self, client: StateClient, pending: ca.PendingUpdate) -> None:
        self._client, self._pending, self.done = client, pending, pending.done
        self.update_id, self.dialog_id = pending.update_id, pending.dialog_id

    def withdraw(self) -> bool:
        """Withdraw the update. Return True if the client has not sent it and never will."""
        return bool(self._client._run(self._pending.withdraw))

    def result(self) -> ca.UpdateResult:
        """Wait for the result and return it, or raise the error."""
        if not self.done():
            self._client._run(self._pending._wait)
        try:  # without an event loop: there is none after the client has closed
            raise AssertionError(next(self._pending.__await__()))
        except StopIteration as end:
            return cast("ca.UpdateResult", end.value)


class Outcomes(Iterator[ca.UpdateOutcome], AbstractContextManager["Outcomes"]):
    """The outcomes of `StateClient.update_many`. A thread that reads them also takes inputs."""

    def __init__(self, client: StateClient, updates: Any, given: Options) -> None:
        check_iterable("update_many", updates)
        self._client, self._inputs = client, ItemsOfThread(iter(updates))
        self._lock, self._reading = threading.Lock(), cast("Future[Any] | None", None)
        self._stream = client._run(client._client.update_many, self._inputs, **given)

    def __next__(self) -> ca.UpdateOutcome:
        try:
            return cast("ca.UpdateOutcome", self._read(self._stream.__anext__))
        except StopAsyncIteration:
            raise StopIteration from None

    def _read(self, function: Callable[[], Coroutine[Any, Any, object]]) -> Any:
        with self._lock:  # threads may share the stream
            if self._reading is None:
                self._reading = self._client._start(function)
                self._reading.add_done_callback(self._inputs.wake)
            self._inputs.serve(self._reading)
            reading, self._reading = self._reading, None
        return reading.result()

    def drain(self) -> ca.DrainReport:
        """Send all remaining rows and return their counts; see `UpdateStream.drain`."""
        return cast("ca.DrainReport", self._read(self._stream.drain))

    def stop(self) -> None:
        """Withdraw unsent updates, also from a signal handler; see `UpdateStream.stop`."""
        with suppress(ca.ClientClosedError):
            self._client._run(self._stream.stop)

    def close(self, *_: object) -> None:
        """Take no more input, withdraw unsent updates and drop unread outcomes."""
        if not self._client._forked:
            with suppress(ca.ClientClosedError):
                self._client._run(self._stream.aclose)

    __exit__ = close
