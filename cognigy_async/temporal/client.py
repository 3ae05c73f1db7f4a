"""`DurableStateClient`: the methods of `AsyncStateClient` that write, on a Temporal cluster."""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import AsyncIterable, Generator, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from hashlib import sha256
from secrets import token_hex
from time import monotonic
from typing import Any, Literal, Self

import anyio
from temporalio.client import (
    Client,
    RPCTimeoutOrCancelledError,
    WithStartWorkflowOperation,
    WorkflowUpdateFailedError,
)
from temporalio.common import WorkflowIDConflictPolicy
from temporalio.exceptions import ApplicationError, TemporalError
from temporalio.service import RPCError, RPCStatusCode

from cognigy_async import (
    AmbiguousUpdateError,
    ClientClosedError,
    CloseReport,
    CognigyError,
    DeadlineExceededError,
    Limits,
    NotSentError,
    RetryPolicy,
    StateUpdate,
    UpdateResult,
    UpdateWithdrawnError,
)
from cognigy_async._utils.arguments import validate_timeout

from .dialog_writer import BUSY, UPDATE, WORKFLOW, Json, WriterState
from .stream import DurableStream
from .wire import dump_options, dump_update, load_outcome

MOST_UPDATES = 100
"""Updates of one call."""

MOST_BYTES = 1_000_000
"""Bytes of one call. The server accepts 2 MB."""

MOST_CALLS = 1000
"""Calls of one process at a time. The server accepts about as many for each of its hosts."""

PATIENCE = 300.0
"""Seconds without an answer of the cluster after which an update is given up as ambiguous."""

MOST_SILENCE = 60.0
"""Seconds of a failed call after which the cluster must have answered meanwhile. The SDK notices a
dead connection within 45 s, and repeats for 10 s."""

MOST_ID_BYTES = 512
FAULTS_OF_CALLERS = (
    RPCStatusCode.INVALID_ARGUMENT,
    RPCStatusCode.PERMISSION_DENIED,
    RPCStatusCode.UNAUTHENTICATED,
    RPCStatusCode.UNIMPLEMENTED,
)


def workflow_id(task_queue: str, dialog_id: str) -> str:
    """Return the id of a dialog's workflow. A task queue belongs to one tenant."""
    if len(dialog_id.encode()) > MOST_ID_BYTES:
        dialog_id = "sha256-" + sha256(dialog_id.encode()).hexdigest()
    return f"dialog/{task_queue}/{dialog_id}"


class DurableUpdate:
    """Handle of an update. Awaiting the handle returns the `UpdateResult` or raises.

    It works as `PendingUpdate` does.

    Attributes:
        dialog_id: id of the dialog.
        update_id: id of the update.
    """

    def __init__(self, update: StateUpdate, update_id: str, options: Json) -> None:
        self.dialog_id = update.dialog_id
        self.update_id = update_id
        self._update = update
        self._wire = dump_update(update, update_id, options)
        self._sent = False
        self._outcome: asyncio.Future[UpdateResult] = asyncio.get_running_loop().create_future()
        self._expiry: asyncio.TimerHandle | None = None
        self._error: CognigyError | None = None

    def done(self) -> bool:
        """Return True if the update has its result or its error."""
        return self._outcome.done()

    def withdraw(self) -> bool:
        """Withdraw the update. Return True if the cluster has not got it and never will."""
        if self._sent or self._outcome.done():
            return False
        self._complete(UpdateWithdrawnError("the update was withdrawn before it was sent"))
        # The caller knows.
        self._outcome.exception()
        return True

    def _complete(self, outcome: UpdateResult | CognigyError) -> None:
        if self._expiry is not None:
            self._expiry.cancel()
        if self._outcome.done():
            return
        if isinstance(outcome, CognigyError):
            self._error = outcome
            # If nobody awaits it, asyncio logs it.
            self._outcome.set_exception(outcome)
        else:
            self._outcome.set_result(outcome)

    async def _wait(self) -> UpdateResult:
        # Each `raise` of the same object would make its traceback longer.
        await asyncio.wait((self._outcome,))
        error = self._outcome.exception()
        if error is not None:
            raise error.with_traceback(None)
        return self._outcome.result()

    def __await__(self) -> Generator[Any, Any, UpdateResult]:
        return self._wait().__await__()

    def __repr__(self) -> str:
        state = "done" if self.done() else "sent" if self._sent else "waiting"
        return f"<DurableUpdate {self.update_id} dialog={self.dialog_id!r} {state}>"


class DurableStateClient:
    """Writes the state of dialogs through the workers of a Temporal cluster.

    An update is in the history of a workflow before a worker sends it, so it survives each machine.
    Updates of one dialog are sent in order, from all processes: those of one process in the order
    of their calls, those of several processes in the order of arrival. Use one client for the life
    of the process, on asyncio. Register callbacks on the workers; see `StateWorker`.

    Args:
        client: Connected client of the cluster; it stays open.
        task_queue: Name that the workers and clients of a tenant share.
        limits: Limits for variables and sizes. The workers apply those of their API too.
        max_pending: Maximum number of accepted updates without an outcome. At the maximum,
            `update` waits.

    Example::

        async with await DurableStateClient.connect() as client:
            await client.update("d-1", session={"cart_total": 149.99})
    """

    def __init__(
        self,
        client: Client,
        task_queue: str = "cognigy",
        *,
        limits: Limits | None = None,
        max_pending: int = 10_000,
    ) -> None:
        self._client = client
        self.task_queue = task_queue
        """Name that the workers and clients of a tenant share."""
        self._limits = Limits() if limits is None else limits
        self.max_pending = max_pending
        self._slots = anyio.Semaphore(max_pending, fast_acquire=True)
        self._calls = anyio.Semaphore(MOST_CALLS, fast_acquire=True)
        self._queues: dict[str, deque[DurableUpdate]] = {}
        self._open: dict[DurableUpdate, None] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_open = False
        self._applied = self._failed = self._ambiguous = 0
        self._unsent: list[StateUpdate] = []
        self.close_report: CloseReport | None = None
        """Result of `aclose`; None until the client has closed."""

    @classmethod
    async def connect(cls) -> Self:
        """Return a client of the cluster and the task queue that the environment names.

        Temporal's own variables and profiles name the cluster (`TEMPORAL_ADDRESS` and others),
        `COGNIGY_TASK_QUEUE` the task queue, `COGNIGY_TEMPORAL_KEY` the keys of encryption.

        Raises:
            ConfigurationError: a setting is invalid, or the cluster cannot be reached.
        """
        from cognigy_async.integrations.settings import TemporalSettings

        from .connection import connect

        settings = TemporalSettings()
        return cls(await connect(settings), settings.task_queue)

    # Lifecycle.

    async def __aenter__(self) -> Self:
        if self._is_open or self.close_report is not None:
            raise ClientClosedError("a client can be opened once only; create a new one")
        self._is_open = True
        return self

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        await self.aclose(drain=error is None)

    @property
    def is_open(self) -> bool:
        """True while updates are accepted."""
        return self._is_open

    async def aclose(self, *, drain: bool = True, timeout: float = 30.0) -> CloseReport:
        """Stop accepting, and wait for the outcomes of all updates.

        Args:
            drain: True sends the updates that are waiting. False returns them in the report.
            timeout: Maximum seconds for the whole close. After that time, updates that the cluster
                has got end as ambiguous here; the workers still send them.
        """
        validate_timeout(timeout)
        if self.close_report is not None:
            return self.close_report
        self._is_open = False
        try:
            if not drain:
                self._return_unsent()
            if self._tasks:
                await asyncio.wait(self._tasks, timeout=timeout)
        finally:
            self._return_unsent()
            tasks = list(self._tasks)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            numbers = (self._applied, self._failed, self._ambiguous)
            self.close_report = CloseReport(*numbers, tuple(self._unsent), 0)
        return self.close_report

    async def flush(self) -> None:
        """Wait until all updates accepted so far are complete."""
        if self._open:
            await asyncio.wait([handle._outcome for handle in self._open])

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
        priority: Literal["live", "bulk"] = "live",
        metadata: Mapping[str, str] | None = None,
    ) -> UpdateResult:
        """Assign variables of one dialog, and wait for the result; see `AsyncStateClient.update`.

        If the caller is cancelled after the cluster has got the update, a worker still sends it.

        Args:
            retry: Numbers of a `RetryPolicy`; its functions cannot cross the cluster.
            deadline: Seconds from now, by the clocks of this machine and of the worker.

        Raises:
            AmbiguousUpdateError: The update was sent and may have been applied, or the cluster did
                not answer for long.
            NotSentError: Nothing reached the server, or the cluster refused the update.
            CognigyError: See `AsyncStateClient.update`.
        """
        given = dict(
            zip(
                ("session", "user", "next_step", "if_match", "update_id", "user_id", "profile_id"),
                (session, user, next_step, if_match, update_id, user_id, profile_id),
                strict=True,
            )
        )
        given |= {"dialog_id": dialog_id, "inject": inject, "notify": notify, "metadata": metadata}
        handle = await self.submit(
            given,
            retry=retry,
            timeout=timeout,
            deadline=deadline,
            coalesce=coalesce,
            priority=priority,
        )
        try:
            return await handle
        except asyncio.CancelledError:
            if not handle.withdraw():
                # The caller has left; nobody else can await the failure.
                handle._outcome.add_done_callback(lambda outcome: outcome.exception())
            raise

    async def submit(
        self,
        update: StateUpdate | Mapping[str, Any],
        *,
        retry: RetryPolicy | None = None,
        deadline: float | None = None,
        **options: Any,
    ) -> DurableUpdate:
        """Accept an update and return its handle. Wait first if no pending slot is free.

        Args:
            update: A `StateUpdate`, or a mapping of its arguments.
            retry, timeout, deadline, coalesce, priority: See `update`.

        Raises:
            UpdateValidationError: The input is invalid; nothing was accepted.
            ClientClosedError: The client is not open.
        """
        return await self._accept(dump_options(retry, deadline, **options), update)

    def update_many(
        self,
        updates: Iterable[StateUpdate | Mapping[str, Any]]
        | AsyncIterable[StateUpdate | Mapping[str, Any]],
        **arguments: Any,
    ) -> DurableStream:
        """Send many updates, and iterate over their outcomes, one for each input.

        Takes the arguments of `AsyncStateClient.update_many`. For a large file, a bulk job costs
        the cluster far less.
        """
        arguments.setdefault("priority", "bulk")
        options = dump_options(
            arguments.pop("retry", None), arguments.pop("deadline", None), **arguments
        )
        accept = partial(self._accept, options)
        return DurableStream(accept, updates, max(1, self.max_pending // 2))

    # Steps.

    async def _accept(
        self, options: Json, update: StateUpdate | Mapping[str, Any]
    ) -> DurableUpdate:
        if isinstance(update, StateUpdate):
            update = update.with_limits(self._limits)
        else:
            update = StateUpdate.from_fields(self._limits, update)
        self._check_open()
        await self._slots.acquire()
        try:
            self._check_open()
            handle = DurableUpdate(update, update.update_id or token_hex(16), options)
        except BaseException:
            self._slots.release()
            raise
        self._open[handle] = None
        handle._outcome.add_done_callback(lambda _: self._count(handle))
        if "deadline" in options:
            rest = max(0.0, options["deadline"] - time.time())
            handle._expiry = asyncio.get_running_loop().call_later(rest, self._expire, handle)
        queue = self._queues.get(handle.dialog_id)
        if queue is None:
            queue = self._queues[handle.dialog_id] = deque()
            task = asyncio.create_task(self._serve(handle.dialog_id, queue))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        queue.append(handle)
        return handle

    def _check_open(self) -> None:
        if not self._is_open:
            raise ClientClosedError("the client is not open; use it within `async with`")

    def _count(self, handle: DurableUpdate) -> None:
        del self._open[handle]
        self._slots.release()
        error = handle._error
        if error is None:
            self._applied += 1
        elif isinstance(error, AmbiguousUpdateError):
            self._ambiguous += 1
        elif not isinstance(error, UpdateWithdrawnError | ClientClosedError):
            self._failed += 1

    def _expire(self, handle: DurableUpdate) -> None:
        if not handle._sent:
            handle._complete(
                DeadlineExceededError(
                    "The deadline passed before the cluster got the update",
                    dialog_id=handle.dialog_id,
                    update_id=handle.update_id,
                )
            )

    def _return_unsent(self) -> None:
        for handle in list(self._open):
            if not handle._sent and not handle.done():
                self._unsent.append(handle._update)
                handle._complete(ClientClosedError("the client was closed"))

    async def _serve(self, dialog_id: str, queue: deque[DurableUpdate]) -> None:
        """Hand in the updates of a dialog, one call at a time, until none waits."""
        while batch := _next_batch(queue):
            async with self._calls:
                for handle in batch:
                    handle._sent = True
                try:
                    outcomes = await self._call(dialog_id, [handle._wire for handle in batch])
                except asyncio.CancelledError:
                    message = "The client was closed before the cluster answered"
                    self._fail(batch, AmbiguousUpdateError, message)
                    raise
                except _RefusedError as error:
                    self._fail(batch, error.kind, str(error), error.__cause__)
                except Exception as error:
                    message = f"The answer of the cluster cannot be read: {error}"
                    self._fail(batch, AmbiguousUpdateError, message, error)
                else:
                    for handle, outcome in zip(batch, outcomes, strict=True):
                        handle._complete(load_outcome(dialog_id, handle.update_id, outcome))
            del batch
        del self._queues[dialog_id]

    def _fail(
        self,
        batch: Sequence[DurableUpdate],
        kind: type[NotSentError | AmbiguousUpdateError],
        message: str,
        cause: BaseException | None = None,
    ) -> None:
        for handle in batch:
            error = kind(message, dialog_id=handle.dialog_id, update_id=handle.update_id)
            error.__cause__ = cause
            handle._complete(error)

    async def _call(self, dialog_id: str, updates: Sequence[Json]) -> list[Json]:
        """Return the outcomes of updates that the dialog's workflow has written.

        The call is repeated with the same id until the cluster answers: the workflow takes it once.
        Only if an operator has ended the workflow meanwhile, its successor takes it again.
        """
        call_id = token_hex(16)
        workflow = workflow_id(self.task_queue, dialog_id)
        answered_at = monotonic()
        failures = 0
        run_id: str | None = None
        while True:
            start = None
            began = monotonic()
            try:
                if run_id is not None:
                    handle = self._client.get_workflow_handle(workflow, run_id=run_id)
                    found = handle.get_update_handle(call_id, result_type=list)
                    return await found.result()  # type: ignore[no-any-return]
                start = WithStartWorkflowOperation[Any, Any](
                    WORKFLOW,
                    WriterState(),
                    id=workflow,
                    task_queue=self.task_queue,
                    id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
                )
                return await self._client.execute_update_with_start_workflow(  # type: ignore[no-any-return]
                    UPDATE,
                    updates,
                    start_workflow_operation=start,
                    id=call_id,
                    result_type=list,
                )
            except WorkflowUpdateFailedError as error:
                cause = error.cause
                if isinstance(cause, ApplicationError) and cause.type == BUSY:
                    answered_at = monotonic()
                elif all(update["repeatable"] for update in updates):
                    run_id = None
                else:
                    message = "The workflow of the dialog was ended before it answered"
                    raise _RefusedError(AmbiguousUpdateError, message) from error
                last: Exception = error
            except (RPCError, RPCTimeoutOrCancelledError, TemporalError) as error:
                task = asyncio.current_task()
                if task is not None and task.cancelling():
                    # The SDK makes an error of its own of a cancellation.
                    raise asyncio.CancelledError from error
                # The SDK keeps the error in a future too, which has to be asked in any case.
                known = await _run_id(start, run_id)
                status = error.status if isinstance(error, RPCError) else None
                if status in FAULTS_OF_CALLERS:
                    is_new = known is None and not failures
                    raise _RefusedError(
                        NotSentError if is_new else AmbiguousUpdateError,
                        f"The cluster refused it: {error}",
                    ) from error
                run_id = None if status is RPCStatusCode.NOT_FOUND else known
                last = error
            now = monotonic()
            if now - began > MOST_SILENCE:
                answered_at = now
            if now - answered_at > PATIENCE:
                message = "The Temporal cluster did not answer"
                raise _RefusedError(AmbiguousUpdateError, message) from last
            failures += 1
            await asyncio.sleep(random.uniform(0.05, min(5.0, 0.1 * 2**failures)))


class _RefusedError(Exception):
    """The updates of a call have no outcome."""

    def __init__(self, kind: type[NotSentError | AmbiguousUpdateError], message: str) -> None:
        super().__init__(message)
        self.kind = kind


async def _run_id(
    start: WithStartWorkflowOperation[Any, Any] | None, known: str | None
) -> str | None:
    """Return the run that received the call; None if the cluster did not name it."""
    if start is None:
        return known
    with suppress(Exception):
        return (await asyncio.wait_for(start.workflow_handle(), 0.01)).result_run_id
    return None


def _next_batch(queue: deque[DurableUpdate]) -> list[DurableUpdate]:
    """Take the updates of the next call, without those that were withdrawn."""
    batch: list[DurableUpdate] = []
    size = 0
    while queue and len(batch) < MOST_UPDATES:
        if not queue[0].done():
            size += queue[0]._wire["size"]
            if batch and size > MOST_BYTES:
                break
            batch.append(queue[0])
        queue.popleft()
    return batch
