"""`update_many`: send many updates and return one outcome for each, in constant memory."""

from __future__ import annotations

from collections import deque
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Collection,
    Generator,
    Iterable,
    Iterator,
)
from contextlib import suppress
from contextvars import copy_context
from dataclasses import replace
from logging import WARNING
from operator import length_hint
from typing import TYPE_CHECKING, Any, NoReturn, Self

import anyio
import anyio.lowlevel

from .._utils.concurrency import is_failure
from .._utils.logging import log
from ..engine.work_item import SendOptions, WorkItem
from ..errors import (
    AmbiguousUpdateError,
    ClientClosedError,
    CognigyError,
    SharedQuotaError,
    UpdateError,
    UpdateWithdrawnError,
    copy_error,
)
from ..models.results import DrainReport, UpdateOutcome
from ..models.update import DatedUpdate, UpdateInput, check_iterable
from .admission import Admission
from .config import ClientConfig
from .lifecycle import Lifecycle

INPUTS_PER_YIELD = 64
"""Number of inputs taken from an iterable before other tasks may run."""

INPUT_CLOSE_TIMEOUT = 5.0
"""Maximum seconds for an asynchronous generator to end when its stream is closed."""

MAX_FAILURES_KEPT = 100
"""Number of failed outcomes that `drain` returns; a report must not grow with the input."""

UNSENT_ON_PURPOSE = (UpdateWithdrawnError, ClientClosedError)
"""Errors of rows that count as unsent, not as failures."""

AWAITED = (
    "update_many() cannot be awaited: it returns a stream of outcomes. Write "
    "`async with client.update_many(rows) as stream:` and in it "
    "`async for outcome in stream: ...`, or `report = await stream.drain()` to send all rows"
)


class UpdateStream:
    """The outcomes of `update_many`, one for each input, in the order of completion.

    Iterate over the stream inside ``async with``: leaving the block withdraws unsent updates. Tasks
    may share the iteration; each outcome goes to one of them.
    Without the block, the client sends accepted updates even if nobody reads their outcomes, and
    reads an asynchronous input until the client is closed. `drain` sends all rows in one call.

    A stream that ends before all rows were sent logs the number of unsent rows at WARNING, unless
    `stop` was called before.

    The stream takes inputs when workers need them, or without delay if updates are coalesced. The
    stream holds at most half of `max_pending` inputs, unread outcomes included. An invalid input
    becomes an outcome with an error. If the input raises an exception, the stream raises it after
    the outcomes of the earlier inputs. A `SharedQuotaError` ends the stream in the same way.

    Example::

        async with client.update_many(rows) as outcomes:
            async for outcome in outcomes:
                if not outcome.ok:
                    print(outcome.index, outcome.error)
    """

    def __init__(
        self,
        config: ClientConfig,
        lifecycle: Lifecycle,
        updates: Iterable[UpdateInput | DatedUpdate] | AsyncIterable[UpdateInput | DatedUpdate],
        options: SendOptions,
    ) -> None:
        self._config = config
        self._lifecycle = lifecycle
        self._options = options
        self._limit = max(1, config.max_pending // 2)
        self._context = copy_context()
        self._inputs: Iterator[UpdateInput | DatedUpdate] | None = None
        self._async_inputs: AsyncIterator[UpdateInput | DatedUpdate] | None = None
        self._length = -1
        """Number of all asynchronous inputs; -1 if unknown."""
        if isinstance(updates, AsyncIterable):
            self._length = _length_of(updates)
            self._async_inputs = aiter(updates)
        else:
            self._inputs = _iterator(updates)
        self._outcomes: deque[UpdateOutcome] = deque()
        self._late: list[UpdateOutcome] = []
        """The outcomes that came after the stream was left."""
        self._incomplete: dict[WorkItem, None] = {}
        """The work items without an outcome, in the order of the input."""
        self._taken = 0
        self._held = 0
        self._exhausted = False
        self._reported = False
        """True if the caller knows that rows were not sent, or the stream has logged it."""
        self._input_error: BaseException | None = None
        self._input_close_error: Exception | None = None
        self._reader: anyio.Event | None = None
        self._feeder: anyio.Event | None = None
        self._feed_scope: anyio.CancelScope | None = None
        self._feed_ended: anyio.Event | None = None

    def __repr__(self) -> str:
        return f"<UpdateStream taken={self._taken} held={self._held} unread={len(self._outcomes)}>"

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> UpdateOutcome:
        while True:
            if self._inputs is not None and self._wants_input():
                await self._pull()
            elif (
                self._async_inputs is not None and self._feed_ended is None and not self._exhausted
            ):
                self._start_feeding()
            if self._outcomes:
                self._held -= 1
                if self._feeder is not None:
                    self._feeder.set()
                return self._outcomes.popleft()
            if self._exhausted and not self._held:
                error, self._input_error = self._input_error, None
                if error is not None:
                    raise error
                raise StopAsyncIteration
            await self._wait_for_outcome()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.aclose()

    if not TYPE_CHECKING:  # A type checker reports such an `await` by itself.

        def __await__(self) -> NoReturn:
            self._reported = True
            raise TypeError(AWAITED)

    def __del__(self) -> None:
        # Any thread may run this, also while the interpreter ends.
        with suppress(Exception):
            self._report_left(self._outcomes)

    async def drain(self) -> DrainReport:
        """Send all remaining rows, wait for their outcomes, and return a count of each outcome.

        Outcomes that were read before `drain` do not count.

        Raises:
            Exception: The input raised it. The rows before the exception are sent and complete.
            SharedQuotaError, ClientClosedError: See `AsyncStateClient.update_many`.

        Example::

            async with client.update_many(rows) as stream:
                report = await stream.drain()
            print(report.applied, "applied,", report.failed, "failed")
        """
        applied = failed = ambiguous = 0
        failures: list[UpdateOutcome] = []
        async for outcome in self:
            if outcome.error is None:
                applied += 1
                continue
            if isinstance(outcome.error, AmbiguousUpdateError):
                ambiguous += 1
            else:
                failed += 1
            if len(failures) < MAX_FAILURES_KEPT:
                failures.append(outcome)
        return DrainReport(applied, failed, ambiguous, tuple(failures))

    def stop(self) -> None:
        """Take no more input, withdraw unsent updates, and let requests in flight complete.

        You can still read the outcomes of all updates that were taken. Inputs that were not yet
        taken get no outcome. The outcome of a withdrawn update has an `UpdateWithdrawnError`. The
        outcome of an update that waited for a retry has its last error.
        """
        self._reported = True
        self._inputs = None
        self._exhausted = True
        if self._feed_scope is not None:
            self._feed_scope.cancel()
        self._withdraw()
        self._wake_reader()

    async def aclose(self) -> None:
        """Take no more input, withdraw unsent updates, and drop unread outcomes.

        An iteration in another task ends. Log the number of rows that were not sent, unless `stop`
        was called before.

        Raises:
            Exception: The asynchronous input raised it while it was closed.
        """
        self._report_left(self._outcomes)
        self._outcomes.clear()
        self._held = 0
        self._exhausted = True
        inputs, self._inputs = self._inputs, None
        if self._feed_scope is not None and self._feed_ended is not None:
            self._feed_scope.cancel()
            # Withdraw before waiting for the input, which may be slow to end.
            self._withdraw()
            with anyio.CancelScope(shield=True):
                await self._feed_ended.wait()
        self._withdraw()
        self._outcomes.clear()
        self._held = 0
        self._input_error = None
        self._wake_reader()
        if isinstance(inputs, Generator):
            inputs.close()
        if self._input_close_error is not None:
            error, self._input_close_error = self._input_close_error, None
            raise error

    def _withdraw(self) -> None:
        if self._incomplete:
            engine = self._lifecycle.require_engine()
            for item in list(self._incomplete):
                engine.cancel(item)

    def _report_left(self, outcomes: Collection[UpdateOutcome]) -> None:
        """Log the number of rows that were not sent, once, and failures that nobody read."""
        unsent, details = self._unsent()
        if parts := [*details, *_failures(outcomes)]:
            log(
                WARNING,
                "update_many was left early: %s Read the stream to its end, or call its `drain()`. "
                "To leave it early on purpose, call its `stop()` first",
                " ".join(parts),
                unsent=unsent,
                taken=self._taken,
            )

    def _unsent(self) -> tuple[int, list[str]]:
        """Count and describe the rows that were not sent, once."""
        if self._reported:
            return 0, []
        self._reported = True
        unsent = sum(item.sent_at is None for item in self._incomplete)
        unsent += sum(map(_was_not_sent, self._outcomes))
        unread = self._unread_input()
        if unread < 0:
            return unsent, [
                f"{self._taken} rows were taken from the input, {unsent} of them were not sent; "
                "the rest of the input was not read."
            ]
        if unsent or unread:
            return unsent + unread, [
                f"{unsent + unread} of {self._taken + unread} rows were not sent."
            ]
        return 0, []

    def _unread_input(self) -> int:
        """Return the number of inputs that were not taken; -1 if there are some, 0 for none."""
        if self._exhausted and self._input_error is None:
            return 0
        # An input that failed, or that the end of the client cut off, has a rest as well.
        if self._exhausted or self._inputs is None:
            return max(-1, self._length - self._taken)
        return _length_of(self._inputs)

    # Outcomes.

    def notify(self, item: WorkItem, /) -> None:
        """Add the outcome of one work item; the stream is the sink of all its items."""
        self._incomplete.pop(item, None)
        if self._feeder is not None:
            self._feeder.set()
        error = item.error
        assert error is None or isinstance(error, CognigyError)
        outcome = UpdateOutcome(item.index, item.update, item.update_id, item.result, error)
        if self._exhausted and not self._held:
            # The stream was left while this request was in flight.
            self._late.append(outcome)
            if not self._incomplete:
                self._report_left(self._late)
            return
        self._outcomes.append(outcome)
        if error is not None and isinstance(error, SharedQuotaError):
            # All later inputs would fail as this one did.
            self._end_input(copy_error(error))
            if self._feed_scope is not None:
                self._feed_scope.cancel()
        if self._reader is not None:
            self._wake_reader()

    def _wake_reader(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.set()

    async def _wait_for_outcome(self) -> None:
        """Wait for an outcome, or until an idle worker wants more input."""
        reader = self._reader
        if reader is None:
            self._reader = reader = anyio.Event()
        on_idle = self._lifecycle.require_engine().waker.on_idle
        if self._inputs is not None and self._held < self._limit:
            on_idle[reader] = None
        try:
            await reader.wait()
        finally:
            # Other tasks may wait for the same event.
            if self._reader is reader:
                self._wake_reader()
            on_idle.pop(reader, None)

    # Input from an iterable: taken by the task that reads the outcomes.

    def _wants_input(self) -> bool:
        return not self._held or (self._held < self._limit and self._wants_more())

    def _wants_more(self) -> bool:
        # Take all input when coalescing, because more updates may then share a request.
        options = self._options
        engine = self._lifecycle.engine
        assert engine is not None
        return options.coalesce or engine.scheduler.wants_input(live=options.live)

    async def _pull(self) -> None:
        """Take inputs while workers want more, up to the limit."""
        inputs = self._inputs
        assert inputs is not None
        try:
            admission = self._lifecycle.check_open()
        except CognigyError as error:
            self._end_input(error)
            return
        while self._inputs is not None and self._wants_input():
            for _ in range(min(INPUTS_PER_YIELD, self._limit - self._held)):
                if not admission.try_acquire_bulk_slot():
                    if self._held:
                        return
                    await admission.acquire_bulk_slot()
                    if self._exhausted:
                        admission.release_slot()
                        return
                try:
                    given = next(inputs)
                except BaseException as error:
                    admission.release_slot()
                    self._end_input(None if isinstance(error, StopIteration) else error)
                    return
                self._submit(admission, given)
            if self._outcomes:
                return
            await anyio.lowlevel.checkpoint()

    def _end_input(self, error: BaseException | None) -> None:
        """Take no more input; raise `error` after the outcomes of the inputs before it."""
        self._inputs = None
        self._exhausted = True
        self._input_error = error

    def _submit(self, admission: Admission, given: UpdateInput | DatedUpdate) -> None:
        """Submit an input that has a slot; turn an error into its outcome."""
        index = self._taken
        self._taken += 1
        self._held += 1
        update = None
        options = self._options
        try:
            if isinstance(given, DatedUpdate):
                options = replace(options, deadline=given.deadline)
                given = given.update
            update = self._config.parse(given)
            item = admission.enqueue(update, options, self, index=index, context=self._context)
            self._incomplete[item] = None
        except Exception as error:
            if update is None:
                admission.release_slot()
            if not isinstance(error, CognigyError):
                error = _wrapped("the input could not be read", error)
            self._outcomes.append(UpdateOutcome(index, update, None, None, error))
            self._wake_reader()

    # Input from an asynchronous iterable: taken by a task of its own.

    def _start_feeding(self) -> None:
        self._lifecycle.check_open()
        self._feed_ended = anyio.Event()
        self._feed_scope = anyio.CancelScope()
        self._context.run(self._lifecycle.require_engine().spawn, self._feed)

    async def _feed(self) -> None:
        """Take inputs while workers want more, up to the limit, until the input ends."""
        assert self._async_inputs is not None
        assert self._feed_scope is not None
        assert self._feed_ended is not None
        try:
            with self._feed_scope:
                async for given in self._async_inputs:
                    admission = await self._acquire_slot()
                    if self._feed_scope.cancel_called:
                        admission.release_slot()
                        return
                    self._submit(admission, given)
        except BaseException as error:
            if isinstance(error, Exception):
                self._input_error = error
            elif not is_failure(error):
                self._input_error = ClientClosedError(
                    "the client was closed before the input of update_many ended"
                )
                raise
            else:
                # Wrap the error: a stray cancellation would look like a cancellation of the reader.
                self._input_error = _wrapped("the input of update_many failed", error)
        finally:
            self._exhausted = True
            try:
                await self._close_async_inputs()
            finally:
                self._feed_ended.set()
                self._wake_reader()

    async def _acquire_slot(self) -> Admission:
        """Wait until workers want more input, and acquire a slot for one update."""
        on_idle = self._lifecycle.require_engine().waker.on_idle
        while self._held >= self._limit or (self._held and not self._wants_more()):
            self._feeder = feeder = anyio.Event()
            on_idle[feeder] = None
            try:
                await feeder.wait()
            finally:
                self._feeder = None
                on_idle.pop(feeder, None)
        admission = self._lifecycle.check_open()
        if not admission.try_acquire_bulk_slot():
            await admission.acquire_bulk_slot()
        return admission

    async def _close_async_inputs(self) -> None:
        if isinstance(self._async_inputs, AsyncGenerator):
            try:
                with anyio.move_on_after(INPUT_CLOSE_TIMEOUT, shield=True):
                    await self._async_inputs.aclose()
            except Exception as error:
                self._input_close_error = error


def _was_not_sent(outcome: UpdateOutcome) -> bool:
    # An `UpdateError` is logged when it occurs.
    return outcome.error is not None and not isinstance(outcome.error, UpdateError)


def _failures(outcomes: Collection[UpdateOutcome]) -> list[str]:
    """Describe the failures among outcomes that nobody can read; a withdrawal is none."""
    kept = [one for one in outcomes if not isinstance(one.error, UNSENT_ON_PURPOSE)]
    failed = [one for one in kept if one.error is not None]
    if not failed:
        return []
    first = failed[0]
    dialog = ""
    if first.update is not None and not isinstance(first.error, UpdateError):
        dialog = f" of dialog {first.update.dialog_id!r}"
    return [
        f"Of {len(kept)} unread outcomes, {len(failed)} failed. The first: "
        f"{type(first.error).__name__}{dialog}: {str(first.error).rstrip('.')}."
    ]


def _length_of(inputs: object) -> int:
    """Return the number of inputs that are left; -1 if it is unknown."""
    try:
        return length_hint(inputs, -1)
    except Exception:
        # The caller wrote the iterator.
        return -1


def _iterator(updates: Any) -> Iterator[UpdateInput | DatedUpdate]:
    check_iterable("update_many", updates)
    return iter(updates)


def _wrapped(problem: str, cause: BaseException) -> CognigyError:
    # The text of the cause may contain values, so the message names its class only.
    error = CognigyError(f"{problem}: {type(cause).__name__}")
    error.__cause__ = cause
    return error
