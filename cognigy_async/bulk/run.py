"""One run of a job: rows go to the client, and their outcomes to the journal."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing, suppress
from datetime import UTC, datetime
from functools import partial
from typing import Protocol, TypeAlias, cast

import anyio
import anyio.to_thread
from anyio.abc import ObjectSendStream, TaskGroup

from cognigy_async import (
    AsyncStateClient,
    AuthenticationError,
    BadRequestError,
    ClientClosedError,
    ClientUsageError,
    CognigyError,
    DeadlineExceededError,
    DialogNotFoundError,
    DialogPausedError,
    NotSentError,
    PayloadTooLargeError,
    PendingUpdate,
    PermissionDeniedError,
    RateLimitedError,
    SharedQuotaError,
    StateConflictError,
    StateUpdate,
    UnexpectedAnswerError,
    UpdateOutcome,
    UpdateResult,
    UpdateStream,
    UpdateWithdrawnError,
)
from cognigy_async.spi import DatedUpdate, DeliveryReceipt, may_repeat

from .baseline_filter import BaselineFilter
from .callback_receipts import CallbackReceipts
from .errors import InputError, JournalError
from .input.row import Row
from .input.row_reader import RowChunk, RowReader
from .journal.schema import EarlierRuns
from .journal.writer import JournalWriter
from .options import JobOptions
from .resend import AmbiguousSends, InterruptedGroups, ambiguous
from .stop_conditions import Ended, StopConditions

FINAL = (
    BadRequestError,
    DialogNotFoundError,
    PayloadTooLargeError,
    PermissionDeniedError,
    UnexpectedAnswerError,
)
"""Errors that no retry can repair. While the run stops, only these make a row fail."""

UNSENT = (
    UpdateWithdrawnError,
    ClientClosedError,
    DialogPausedError,
    JournalError,
    SharedQuotaError,
)
"""Errors of rows that were not sent. The next run sends these rows."""

FAULTS = (InputError, JournalError, ClientUsageError, SharedQuotaError)
"""Errors that stop the run where they occur."""

NOT_APPLIED = (AuthenticationError, NotSentError, RateLimitedError, StateConflictError)
"""Errors that prove that a row was not applied; a 503 proves it too."""

NOT_APPLIED_REASONS = frozenset(
    {"conflict", "not_sent", "throttled", "unauthorized", "unavailable"}
)
"""Reasons for a retry that prove that the request was not applied."""

RowToSend: TypeAlias = tuple[Row, StateUpdate]

MOST_HELD = 1 << 24
"""Bytes of rows that the client may hold. The next row waits until fewer are held."""
MOST_UNWRITTEN = 1 << 22
"""Bytes of failed and unchanged rows after which reading waits until their records are written."""


class Work(Protocol):
    """The rows to apply, and the state left by earlier runs: see `OpenedJob`."""

    @property
    def rows(self) -> RowReader:
        """The rows of the input."""
        ...

    @property
    def earlier(self) -> EarlierRuns:
        """State left by earlier runs."""
        ...

    @property
    def canary(self) -> int:
        """Number of rows to run first; 0 for no canary."""
        ...

    @property
    def ends_at(self) -> float | None:
        """Seconds of the epoch at which the sessions end; None if only the rows tell."""
        ...

    @property
    def is_pipe(self) -> bool:
        """True if a read may wait for the writer of a pipe."""
        ...


class JobRun:
    """One run of a job. It also serves as the `UpdateWatch` of its stream.

    Args:
        changes: Leaves out what would change nothing; None sends all rows as they are.
    """

    def __init__(
        self,
        client: AsyncStateClient,
        options: JobOptions,
        opened: Work,
        writer: JournalWriter,
        changes: BaselineFilter | None = None,
    ) -> None:
        self._client = client
        self._changes = changes
        self._rows = opened.rows
        self._ends_at = math.inf if opened.ends_at is None else opened.ends_at
        self._writer = writer
        self._coalesce = options.coalesce
        self._pauses_dialogs = options.on_failure == "pause-dialog"
        # A read from a pipe may wait for its writer. The run must not wait for it to end.
        self._abandons_reads = opened.is_pipe
        totals = opened.earlier.totals
        failed = totals.failed + totals.ambiguous
        done = totals.succeeded + totals.unchanged + failed
        self.conditions = StopConditions(options, opened.canary, done, failed)
        self.receipts = CallbackReceipts(writer)
        self._ambiguous = AmbiguousSends(
            client, opened.earlier.sends, renews_keys=options.renews_keys
        )
        self._groups = InterruptedGroups(opened.earlier.groups)
        self._group_tasks: TaskGroup | None = None
        self._resent: list[PendingUpdate] = []
        self._has_resent = False
        self._stream: UpdateStream | None = None
        self._in_stream: dict[int, Row] = {}
        self._next_index = 0
        self._held = 0
        """Bytes of the rows in the stream."""
        self._room: anyio.Event | None = None
        """Event of a row that waits until fewer are in the stream."""
        self._settled = anyio.Event()
        """Set when deferred rows may go on, or no more rows will be deferred."""
        self._input_ended = False
        self._input_error: InputError | None = None
        """Error of the input, raised once the rows before it were sent."""
        self._unwritten = 0
        """Bytes of failed and unchanged rows whose records may not be written yet."""
        self._sent_before: set[int] = set()
        """Lines of rows that an earlier run may have applied."""
        self._announced: set[int] = set()
        """Lines of rows in the stream that the journal has as sent."""
        self._unclear: set[int] = set()
        """Lines of rows that an earlier attempt, of this run or of another, may have applied."""
        self._paused: set[str] = set()
        self._canary_done = anyio.Event()
        self._all_completed = False
        self.skipped = 0
        """Rows completed by earlier runs."""
        self.unchanged = totals.unchanged
        """Rows of all runs that would have changed nothing."""
        self.position = 0
        """Bytes of the input read so far."""
        self.total: tuple[int | None, bool] = (None, False)
        """Number of rows of the job, and whether it is exact."""
        self.ended: Ended = "complete"
        self.reason: str | None = None
        self.fault: CognigyError | None = None
        """Error that stopped the run."""
        self.latest_wait: tuple[str, float] | None = None
        """Reason of the latest retry and its time in seconds of the epoch. None after a row was
        applied later than this time."""

    async def carry_out(self) -> None:
        """Apply rows until none is left or the run stops, and record the outcomes."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._write_journal)
            ended = None
            try:
                await self._apply_rows()
                ended = self.reason or self.ended
            finally:
                self._writer.close(ended)
        if self._writer.commits.failure is not None:
            await self._writer.record_failure(self.reason or self.ended)

    async def _write_journal(self) -> None:
        await self._writer.commits.run()
        if (failure := self._writer.commits.failure) is not None:
            self.stop("stopped", str(failure), failure)

    async def _apply_rows(self) -> None:
        async with anyio.create_task_group() as tasks:
            self._group_tasks = tasks
            self._check_conditions()
            await self._stream_rows()
            if self.ended != "complete":
                # Leave the groups that must be sent again to the next run.
                tasks.cancel_scope.cancel()
        if self.ended != "complete" and self.fault is None and not self._abandons_reads:
            await self._complete_dead_letters()
        self._all_completed = True
        if self.ended == "interrupted":
            self.receipts.hurry()
        if self._writer.commits.failure is None:
            await self.receipts.wait()

    async def _stream_rows(self) -> None:
        # A stream takes dated updates, which have no place in the public type of its input.
        rows = cast("AsyncGenerator[StateUpdate, None]", self._feed())
        stream = self._client.update_many(
            rows, coalesce=self._coalesce, watch=self, deadline=self._seconds_left(self._ends_at)
        )
        async with stream:
            self._stream = stream
            if self.ended != "complete":
                stream.stop()
                return
            try:
                async for outcome in stream:
                    self._take(outcome)
            except FAULTS as error:
                self.stop("stopped", str(error), error)
            except BaseException:
                # The journal has the rows that were not sent; the log need not count them.
                stream.stop()
                raise

    async def _complete_dead_letters(self) -> None:
        """Write dead letters of earlier runs for rows that this run did not reach."""
        last = False
        while not last:
            try:
                chunk = await anyio.to_thread.run_sync(
                    self._rows.remaining_dead_letters, limiter=anyio.CapacityLimiter(1)
                )
            except InputError:
                return
            last = chunk.last
            await self._record_chunk(chunk)

    async def _record_chunk(self, chunk: RowChunk) -> None:
        """Record what was read, and do not read on while many dead letters are not written."""
        self._writer.read(chunk.marks, chunk.dead_letters, chunk.total)
        self._unwritten += sum(map(len, chunk.dead_letters))
        if self._unwritten > MOST_UNWRITTEN:
            self._unwritten = 0
            # The run is stopped if the journal cannot be written.
            with suppress(JournalError):
                await self._writer.flush()

    def stop(self, ended: Ended, reason: str, fault: CognigyError | None = None) -> None:
        """Stop taking rows, withdraw unsent rows, and let requests in flight finish."""
        if self._all_completed and fault is None:
            self.receipts.hurry()
            return
        if isinstance(fault, JournalError):
            # Do not wait for receipts, because the journal cannot record them.
            self.receipts.hurry(0.0)
        if self.ended != "complete":
            return
        self.ended, self.reason, self.fault = ended, reason, fault
        self._canary_done.set()
        self._wake_input()
        if self._stream is not None:
            self._stream.stop()
        for pending in self._resent:
            pending.withdraw()

    def _check_conditions(self) -> None:
        reason = self.conditions.reason_to_stop()
        if reason is not None:
            self.stop("stopped", reason)
        elif not self._canary_done.is_set() and self.conditions.canary_is_done:
            self._canary_done.set()

    @property
    def has_sent(self) -> bool:
        """Return whether this run gave any row to the client."""
        return self._next_index > 0 or self._has_resent

    # Sending.

    async def _feed(self) -> AsyncGenerator[StateUpdate | DatedUpdate, None]:
        """Yield the updates that the stream sends."""
        # Rows that may share a request are not deferred.
        defers = self._changes is not None and not self._coalesce
        rows = self._rows_with_deferred() if defers else self._rows_of_input()
        async with aclosing(rows):
            async for row, update in rows:
                self._held += len(row.source)
                self._in_stream[self._next_index] = row
                self._next_index += 1
                if row.expires_at is None:
                    yield update
                else:
                    yield DatedUpdate(update, self._writer.on_clock(self._end_of(row)))

    async def _rows_with_deferred(self) -> AsyncGenerator[RowToSend, None]:
        """Yield rows of the input, and deferred rows as soon as they may go on."""
        assert self._group_tasks is not None
        send, receive = anyio.create_memory_object_stream[RowToSend | None](0)
        with send, receive:
            self._group_tasks.start_soon(self._send_input, send)
            self._group_tasks.start_soon(self._send_deferred, send)
            async for found in receive:
                if found is None:
                    break
                yield found
        if self._input_error is not None:
            raise self._input_error

    async def _send_input(self, send: ObjectSendStream[RowToSend | None]) -> None:
        # The stream is closed when the run stops.
        with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
            try:
                async with aclosing(self._rows_of_input()) as rows:
                    async for found in rows:
                        await send.send(found)
            except InputError as error:
                # The rows before it may still wait to be sent.
                self._input_error = error
            except FAULTS as error:
                self.stop("stopped", str(error), error)
        self._input_ended = True
        self._settled.set()

    async def _send_deferred(self, send: ObjectSendStream[RowToSend | None]) -> None:
        assert self._changes is not None
        with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
            while not self._input_ended or self._changes.deferred:
                await self._settled.wait()
                self._settled = anyio.Event()
                try:
                    rows = await in_thread(self._changes.release)
                    for row in rows:
                        if self.ended != "complete":
                            return
                        update = await self._update_of(row)
                        if update is not None:
                            await send.send((row, update))
                        else:
                            self._check_conditions()
                except FAULTS as error:
                    self.stop("stopped", str(error), error)
                    return
                self._wake_input()
            await send.send(None)

    async def _compared(self, changes: BaselineFilter, rows: list[Row]) -> list[Row]:
        """Compare rows of the input with the baseline, and return those that are not deferred."""
        rows = await in_thread(partial(changes.compare, rows))
        if changes.deferred:
            # What they wait for may have been settled meanwhile.
            self._settled.set()
        return rows

    async def _rows_of_input(self) -> AsyncGenerator[RowToSend, None]:
        """Yield the rows of the input to send, with their updates, and handle all other rows."""
        last = False
        while not last:
            chunk = await anyio.to_thread.run_sync(
                self._rows.next_chunk,
                abandon_on_cancel=self._abandons_reads,
                limiter=anyio.CapacityLimiter(1),
            )
            last = chunk.last
            self.position = chunk.position
            is_total = last and chunk.total != self.total
            self.total = chunk.total
            has_news = is_total or chunk.marks or chunk.dead_letters
            if has_news or self._unwritten > MOST_UNWRITTEN:
                await self._record_chunk(chunk)
            if chunk.skipped:
                self.skipped += len(chunk.skipped)
                self._paused.update(chunk.paused)
                self.conditions.skip(chunk.skipped, chunk.failed)
                self._check_conditions()
            rows = chunk.rows
            if self._changes is not None:
                rows = await self._compared(self._changes, rows)
            for row in rows:
                if row.ordinal > self.conditions.canary > 0 and not self.conditions.canary_is_done:
                    await self._canary_done.wait()
                if self._is_full:
                    await self._wait_for_room()
                if self.ended != "complete":
                    return
                update = await self._update_of(row)
                if update is not None:
                    yield row, update
                else:
                    self._check_conditions()
            if self.ended != "complete":
                return
        if self.conditions.canary > self._rows.count:
            self.conditions.canary = self._rows.count
            self._check_conditions()

    async def _update_of(self, row: Row) -> StateUpdate | None:
        """Return the update to send for a row; None if the row was handled in another way."""
        update = row.update
        if update is None:
            assert row.error is not None
            self._fail(row, row.error)
        elif self._pauses_dialogs and row.dialog_id in self._paused:
            self.conditions.hold(row.ordinal)
            self._settle(row)
        elif row.duplicate_of is not None:
            self._writer.duplicate(row)
            self.conditions.complete(row.ordinal, ok=True)
        elif row.unchanged:
            self._writer.unchanged(row)
            self._unwritten += len(row.source)
            self.unchanged += 1
            self.conditions.complete(row.ordinal, ok=True)
        elif row.line in self._groups.keys:
            await self._resend_group(row)
        else:
            if row.line in self._ambiguous.sends:
                update = self._resolved(row, update)
            return update
        return None

    @property
    def _is_full(self) -> bool:
        changes = self._changes
        return self._held > MOST_HELD or (changes is not None and changes.is_full)

    def _end_of(self, row: Row) -> float:
        """Return when the session of a row ends, in seconds of the epoch; infinity if unknown."""
        return self._ends_at if row.expires_at is None else min(row.expires_at, self._ends_at)

    def _seconds_left(self, ends_at: float) -> float | None:
        """Return the seconds until a time, negative after it; None for infinity."""
        return None if ends_at == math.inf else ends_at - self._writer.now()

    async def _wait_for_room(self) -> None:
        while self._is_full and self.ended == "complete":
            self._room = anyio.Event()
            await self._room.wait()
        self._room = None

    def _wake_input(self) -> None:
        if self._room is not None:
            self._room.set()

    def _settle(
        self, row: Row, error: CognigyError | None = None, *, applied: bool = False
    ) -> None:
        """Note the outcome of a row for the baseline, and for rows that wait for it."""
        if self._changes is not None:
            self._changes.settle(row, applied=applied, error=error)
            if self._changes.waits_for(row):
                self._settled.set()

    def _resolved(self, row: Row, update: StateUpdate) -> StateUpdate | None:
        """Return the update to send for a row that may be applied; None if it is ambiguous."""
        resolved = self._ambiguous.resolve(row, update)
        if resolved is None:
            error = ambiguous(row, None)
            self._settle(row, error)
            self._fail(row, error)
        else:
            self._sent_before.add(row.line)
            self._unclear.add(row.line)
        return resolved

    async def _resend_group(self, row: Row) -> None:
        """Send a group unchanged, once all of its rows are read.

        The client accepts the group, and sends it, before later rows of its dialog.
        """
        group = self._groups.add(row, self._client.limits)
        if group is None:
            return
        update, rows = group
        api = self._client.api
        if not (api.honours_idempotency_keys or may_repeat(api, update)):
            self._fail_group(rows, None)
            self._check_conditions()
            return
        deadline = self._seconds_left(min(map(self._end_of, rows)))
        try:
            pending = await self._client.submit(
                update,
                watch=_GroupObserver(self, rows),
                coalesce=False,
                priority="bulk",
                deadline=deadline,
            )
        except DeadlineExceededError as error:
            self._fail_group(rows, error)
            return
        self._has_resent = True
        self._resent.append(pending)
        assert self._group_tasks is not None
        self._group_tasks.start_soon(self._take_group, pending, rows)

    # Outcomes.

    def _take(self, outcome: UpdateOutcome) -> None:
        row = self._in_stream.pop(outcome.index)
        self._held -= len(row.source)
        if self._held <= MOST_HELD:
            self._wake_input()
        if outcome.result is not None:
            self._succeed(row, outcome.result)
        else:
            assert outcome.error is not None
            self._judge_failure(row, outcome.error)
        if self._sent_before:
            self._sent_before.discard(row.line)
        if self._unclear:
            self._unclear.discard(row.line)
        if self._announced:
            self._announced.discard(row.line)
        # Fast path: no stop condition applies if there are no failures and no canary.
        if self.conditions.failed or self.conditions.canary:
            self._check_conditions()

    async def _take_group(self, pending: PendingUpdate, rows: list[Row]) -> None:
        try:
            result = await pending
        except DeadlineExceededError as error:
            self._fail_group(rows, error)
        except CognigyError as error:
            for row in rows:
                self._judge_failure(row, error)
        else:
            for row in rows:
                row.sent_with = rows[0].line
                self._succeed(row, result)
        self._resent.remove(pending)
        self._check_conditions()

    def _fail_group(self, rows: list[Row], error: DeadlineExceededError | None) -> None:
        """Record rows that an earlier run sent, and that are not sent again.

        Args:
            error: Error of rows whose sessions ended before a repeat; None if it is unsafe.
        """
        for row in rows:
            doubt = ambiguous(row, error)
            self._settle(row, doubt)
            self._fail(row, doubt)

    def _succeed(self, row: Row, result: UpdateResult) -> None:
        self._settle(row, applied=True)
        self._writer.applied(row, result)
        self.conditions.complete(row.ordinal, ok=True)
        if self.latest_wait is not None and self.latest_wait[1] < self._writer.now():
            self.latest_wait = None

    def _judge_failure(self, row: Row, error: CognigyError) -> None:
        """Record a failed row, or leave it to the next run."""
        self._settle(row, error)
        if isinstance(error, UNSENT):
            self.conditions.hold(row.ordinal)
            if not isinstance(error, JournalError):
                self._reject(row, getattr(error.__cause__, "applied_parts", 0))
            if isinstance(error, ClientClosedError | SharedQuotaError):
                self.stop("stopped", str(error), error)
        elif isinstance(error.__cause__, SharedQuotaError):
            # The row may have been applied, and was not sent again.
            self._leave(row, error)
            self.stop("stopped", str(error.__cause__), error.__cause__)
        elif isinstance(error, AuthenticationError):
            # This error would occur for all rows.
            self._leave(row, error)
            self.stop("stopped", f"there is no access to the server: {error}", error)
        elif self.ended != "complete" and not isinstance(error, FINAL):
            # The client would have retried this row, so leave it to the next run.
            self._leave(row, error)
        elif row.line in self._sent_before:
            self._fail(row, ambiguous(row, error))
        else:
            if isinstance(error, DeadlineExceededError):
                self._name_end(row, error)
            self._fail(row, error)

    def _name_end(self, row: Row, error: DeadlineExceededError) -> None:
        """Say in the error of a row that was not sent in time when its session ends."""
        ends_at = self._end_of(row)
        source = "expires_at" if ends_at == row.expires_at else "session_ttl"
        end = datetime.fromtimestamp(ends_at, UTC).isoformat(timespec="seconds")
        reason = error.message[0].lower() + error.message[1:]
        error.message = f"The session ends at {end} by {source}, and {reason}"
        error.remedy = (
            "Leave the row out; if the session still lives, correct its end and run the row again."
        )

    def _leave(self, row: Row, error: CognigyError) -> None:
        """Leave a row to the next run, although it was sent."""
        self.conditions.hold(row.ordinal)
        was_rejected = isinstance(error, NOT_APPLIED) or getattr(error, "status", None) == 503
        if was_rejected:
            self._reject(row, getattr(error, "applied_parts", 0))

    def _reject(self, row: Row, applied_parts: int) -> None:
        """Record that a row may be sent again, unless a request of it may have been applied.

        Args:
            applied_parts: Number of requests of the row that were applied.
        """
        if row.line not in self._announced or row.line in self._unclear:
            return
        assert row.update is not None
        if may_repeat(self._client.api, row.update, applied_parts):
            self._announced.discard(row.line)
            self._writer.rejected(row)

    def _fail(self, row: Row, error: CognigyError) -> None:
        self._writer.failed(row, error)
        self._unwritten += len(row.source)
        self.conditions.complete(row.ordinal, ok=False)
        if row.dialog_id is not None:
            self._paused.add(row.dialog_id)

    # Methods of `UpdateWatch`, called by the client.

    async def before_send(self, indexes: tuple[int, ...], key: str, etag: str | None) -> None:
        """Record a request that must not be repeated, or must be repeated unchanged."""
        rows = [self._in_stream[index] for index in indexes]
        if len(rows) == 1:
            self._announced.add(rows[0].line)
            await self._writer.sending(rows[0], etag)
            return
        for row in rows:
            row.sent_with = rows[0].line
        await self._writer.sending_together(rows, key)

    def retrying(self, index: int, reason: str, seconds: float, applied_parts: int) -> None:
        """Record a wait, and whether the failed attempt may have been applied."""
        row = self._in_stream[index]
        self.note_wait(row, reason, seconds)
        if reason in NOT_APPLIED_REASONS:
            self._reject(row, applied_parts)
        elif row.line in self._announced:
            self._unclear.add(row.line)

    def note_wait(self, row: Row, reason: str, seconds: float) -> None:
        """Record that a row waits `seconds` before it is sent again."""
        self.latest_wait = (reason, self._writer.now() + seconds)
        self._writer.event(row.line, row.dialog_id, reason, seconds)

    def published(self, index: int, callback: str) -> DeliveryReceipt:
        """Return the receipt of a row's event."""
        return self.receipts.expect((self._in_stream[index],), callback)


async def in_thread(compare: Callable[[], list[Row]]) -> list[Row]:
    """Compare rows with the baseline in a worker thread."""
    return await anyio.to_thread.run_sync(compare, limiter=anyio.CapacityLimiter(1))


class _GroupObserver:
    """The `UpdateWatch` of a group that is sent again."""

    def __init__(self, run: JobRun, rows: Sequence[Row]) -> None:
        self._run = run
        self._rows = rows

    async def before_send(self, indexes: tuple[int, ...], key: str, etag: str | None) -> None:
        """Do nothing: the journal already has the rows that share this request."""

    def retrying(self, index: int, reason: str, seconds: float, applied_parts: int) -> None:
        """Record a wait."""
        self._run.note_wait(self._rows[0], reason, seconds)

    def published(self, index: int, callback: str) -> DeliveryReceipt:
        """Return the receipt of the event that covers all rows."""
        return self._run.receipts.expect(self._rows, callback)
