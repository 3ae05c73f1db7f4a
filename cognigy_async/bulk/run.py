"""One run of a job: rows go in, outcomes come out, and what has to be remembered is noted."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import AsyncGenerator
from typing import Any

import anyio
import anyio.to_thread
from anyio.abc import TaskGroup

from cognigy_async import (
    AmbiguousUpdateError,
    AsyncStateClient,
    AuthenticationError,
    ClientClosedError,
    ClientUsageError,
    CognigyError,
    PendingUpdate,
    StateConflictError,
    StateUpdate,
    UpdateOutcome,
    UpdateResult,
    UpdateStream,
)
from cognigy_async.spi import DeliveryReceipt

from .deliveries import Deliveries
from .doubts import Doubts, conflicted
from .errors import InputError, JournalError
from .groups import Groups, GroupWatch
from .intake import Intake
from .ledger import Ended, Ledger
from .outcomes import Outcomes
from .rows import Row
from .scribe import Scribe
from .verdicts import FINAL, NOT_SENT, REJECTED, was_turned_away


class Run:
    """Carries out the rows of an intake.

    It is the `UpdateWatch` of its own stream.

    Args:
        number: of the run, in the journal.
        pauses_dialogs: what follows a failed row of a dialog is held back.
        abandons_reads: reading may wait for somebody who writes, and is not waited for at the end.
    """

    def __init__(
        self,
        client: AsyncStateClient,
        intake: Intake,
        scribe: Scribe,
        ledger: Ledger,
        doubts: Doubts,
        groups: Groups,
        *,
        number: int,
        coalesce: bool,
        pauses_dialogs: bool,
        abandons_reads: bool,
    ) -> None:
        self._client = client
        self._intake = intake
        self._scribe = scribe
        self._ledger = ledger
        self._doubts = doubts
        self._groups = groups
        self._coalesce = coalesce
        self._again: list[PendingUpdate] = []
        self._side: TaskGroup | None = None
        self._pauses_dialogs = pauses_dialogs
        self._abandons_reads = abandons_reads
        self._rows: dict[int, Row] = {}
        self._next = 0
        self._conditional: set[int] = set()
        self._lost: set[int] = set()
        self._paused: set[str] = set()
        self._canary_done = anyio.Event()
        self._stream: UpdateStream | None = None
        # The clock of the event loop, set to the time of day, so that it never goes back.
        self._epoch = time.time() - anyio.current_time()
        self._outcomes = Outcomes(scribe, ledger, self.now)
        self.deliveries = Deliveries(scribe, self.now)
        self._all_settled = False
        self._number = number
        self._began = self.now()
        self._requests_before = client.metrics.requests
        self._retries_before = Counter(client.metrics.retries)
        self.skipped = 0
        self.position = 0
        """Bytes of the input that were read."""
        self.ended: Ended = "complete"
        self.reason: str | None = None
        self.fault: CognigyError | None = None
        """What the job cannot get over."""
        self.news: tuple[str, float] | None = None
        """Why a request is repeated, and when, as a moment of the epoch; the latest, until a row is
        applied after that."""

    def now(self) -> float:
        """Seconds of the epoch."""
        return self._epoch + anyio.current_time()

    async def carry_out(self) -> None:
        """Until there is nothing left to do, or the run is stopped."""
        async with anyio.create_task_group() as side:
            self._side = side
            self._judge()
            await self._carry_out_stream()
            if self.ended != "complete":
                # Groups that are sent again and do not come to an end are there for the next run.
                side.cancel_scope.cancel()
        if self.ended != "complete" and self.fault is None and not self._abandons_reads:
            await self._complete_letters()
        self._all_settled = True
        if self.ended == "interrupted":
            self.deliveries.hurry()
        if self._scribe.failure is None:
            await self.deliveries.wait()

    async def _complete_letters(self) -> None:
        """The file of dead letters is complete also where a run did not get to the end."""
        last = False
        while not last:
            try:
                chunk = await anyio.to_thread.run_sync(self._intake.rest_of_letters)
            except InputError:
                return
            last = chunk.last
            self._scribe.read(chunk.marks, chunk.letters)

    async def _carry_out_stream(self) -> None:
        stream = self._client.update_many(self._feed(), coalesce=self._coalesce, watch=self)
        async with stream:
            self._stream = stream
            if self.ended != "complete":
                return
            try:
                async for outcome in stream:
                    self._take(outcome)
            except (InputError, ClientUsageError) as error:
                self.stop("stopped", str(error), error)

    def stop(self, ended: Ended, reason: str | None, fault: CognigyError | None = None) -> None:
        """Take no more rows, withdraw what was not sent, and let the rest end."""
        if self._all_settled and fault is None:
            self.deliveries.hurry()
            return
        if isinstance(fault, JournalError):
            # Nothing can be written down any more.
            self.deliveries.hurry(0.0)
        if self.ended != "complete":
            return
        self.ended, self.reason, self.fault = ended, reason, fault
        self._canary_done.set()
        if self._stream is not None:
            self._stream.stop()
        for pending in self._again:
            pending.withdraw()

    # Rows in.

    async def _feed(self) -> AsyncGenerator[StateUpdate, None]:
        last = False
        while not last and self.ended == "complete":
            chunk = await anyio.to_thread.run_sync(
                self._intake.next_chunk, abandon_on_cancel=self._abandons_reads
            )
            last = chunk.last
            self.position = chunk.position
            self.skipped += len(chunk.skipped)
            self._ledger.passed_over(chunk.skipped, chunk.failed)
            self._paused.update(chunk.paused)
            self._scribe.read(chunk.marks, chunk.letters)
            if chunk.skipped:
                self._judge()
                if self.ended != "complete":
                    return
            for row in chunk.rows:
                if row.ordinal > self._ledger.canary > 0:
                    await self._wait_for_canary()
                update = row.update if row.error is None else None
                if update is None:
                    self._refuse(row)
                elif self._pauses_dialogs and row.dialog_id in self._paused:
                    self._ledger.hold(row.ordinal)
                elif row.repeats is not None:
                    self._outcomes.repeated(row)
                    self._judge()
                elif len(self._groups) and self._groups.has(row):
                    await self._send_again(row)
                else:
                    if len(self._doubts):
                        resolved = await self._doubts.resolve(row)
                        if isinstance(resolved, AmbiguousUpdateError):
                            self._fail(row, resolved)
                            self._judge()
                            continue
                        if resolved is not None:
                            update = resolved
                            self._conditional.add(self._next)
                    self._rows[self._next] = row
                    self._next += 1
                    yield update
                if self.ended != "complete":
                    return
        self._canary_is_over()

    async def _send_again(self, row: Row) -> None:
        """Send a group as it was sent before, once all of its rows are there.

        What follows in the same dialog is accepted after it, and so sent after it.
        """
        complete = self._groups.add(row, self._client.limits)
        if complete is None:
            return
        update, rows = complete
        watch = GroupWatch(rows, self.deliveries, self._note_wait)
        pending = await self._client.submit(update, watch=watch, coalesce=False, priority="bulk")
        self._again.append(pending)
        assert self._side is not None
        self._side.start_soon(self._wait_for, pending, rows)

    async def _wait_for(self, pending: PendingUpdate, rows: list[Row]) -> None:
        try:
            result = await pending
        except CognigyError as error:
            for row in rows:
                self._take_failure(row, -1, error)
        else:
            for row in rows:
                row.leader = rows[0].line
                self._succeed(row, result)
        self._again.remove(pending)
        self._judge()

    async def _wait_for_canary(self) -> None:
        if not self._ledger.canary_is_done:
            await self._canary_done.wait()

    def _canary_is_over(self) -> None:
        """The input has fewer rows than the canary."""
        self._ledger.canary = min(self._ledger.canary, self._intake.count)
        self._judge()

    def _refuse(self, row: Row) -> None:
        """A row that is not valid."""
        assert row.error is not None
        self._fail(row, row.error)
        self._judge()

    # Outcomes out.

    def _take(self, outcome: UpdateOutcome) -> None:
        row = self._rows.pop(outcome.index)
        result = outcome.result
        if result is not None:
            self._succeed(row, result)
        else:
            assert outcome.error is not None
            self._take_failure(row, outcome.index, outcome.error)
        if self._conditional:
            self._conditional.discard(outcome.index)
        if self._lost:
            self._lost.discard(outcome.index)
        self._judge()

    def _succeed(self, row: Row, result: UpdateResult) -> None:
        at = self.now() if row.settled is None else row.settled
        if self.news is not None and self.news[1] < at:
            self.news = None
        self._outcomes.applied(row, result, at)

    def _take_failure(self, row: Row, index: int, error: CognigyError) -> None:
        if isinstance(error, NOT_SENT):
            if row.is_delicate and not isinstance(error, JournalError):
                self._scribe.rejected(row.line, row.dialog_id or "", self.now())
            self._ledger.hold(row.ordinal)
            if isinstance(error, ClientClosedError):
                self.stop("stopped", str(error), error)
            return
        if isinstance(error, AuthenticationError):
            # It says nothing of the row, and would be the same for all of them.
            self._hold(row, index, error)
            self.stop("stopped", f"there is no access to the server: {error}", error)
            return
        if self.ended != "complete" and not isinstance(error, FINAL):
            # It would have been tried again: the next run does.
            self._hold(row, index, error)
            return
        if index in self._conditional and isinstance(error, StateConflictError):
            error = conflicted(row, error)
        self._fail(row, error)

    def _hold(self, row: Row, index: int, error: CognigyError) -> None:
        """Leave a row that was sent to the next run."""
        self._ledger.hold(row.ordinal)
        if row.is_delicate and was_turned_away(error) and index not in self._lost:
            self._scribe.rejected(row.line, row.dialog_id or "", self.now())

    def _fail(self, row: Row, error: CognigyError) -> None:
        self._outcomes.failed(row, error)
        if row.dialog_id is not None:
            self._paused.add(row.dialog_id)

    def _judge(self) -> None:
        ledger = self._ledger
        reason = ledger.verdict()
        if reason is not None:
            self.stop("stopped", reason)
        elif ledger.canary_is_done and not self._canary_done.is_set():
            self._canary_done.set()

    # What the client tells on the way.

    async def before_send(self, indexes: tuple[int, ...], key: str, etag: str | None) -> None:
        """As `UpdateWatch` says."""
        rows = [self._rows[index] for index in indexes]
        first = rows[0]
        if len(rows) == 1:
            self._lost.discard(indexes[0])
            await self._scribe.sent(first.line, first.dialog_id or "", self.now(), etag)
            return
        for row in rows:
            row.leader = first.line
        lines = [row.line for row in rows]
        await self._scribe.sent_together(lines, first.dialog_id or "", self.now(), key)

    def retrying(self, index: int, reason: str, seconds: float) -> None:
        """As `UpdateWatch` says."""
        row = self._rows[index]
        now = self._note_wait(row, reason, seconds)
        if not row.is_delicate:
            return
        if reason not in REJECTED:
            self._lost.add(index)
        elif index not in self._lost:
            self._scribe.rejected(row.line, row.dialog_id or "", now)

    def _note_wait(self, row: Row, reason: str, seconds: float) -> float:
        now = self.now()
        self.news = (reason, now + seconds)
        self._scribe.event(row.line, row.dialog_id or "", now, reason, seconds)
        return now

    def published(self, index: int, callback: str) -> DeliveryReceipt:
        """As `UpdateWatch` says."""
        return self.deliveries.expect((self._rows[index],), callback)

    def record(self, ended: str | None = None) -> tuple[Any, ...]:
        """The row of this run in the journal, as it is now."""
        metrics, now = self._client.metrics, self.now()
        retries = metrics.retries - self._retries_before
        return (
            self._number,
            self._began,
            now,
            now - self._began,
            metrics.requests - self._requests_before,
            json.dumps(dict(retries)),
            ended,
        )
