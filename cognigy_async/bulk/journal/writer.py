"""Write a journal in batches, outside the event loop, with a delay of about 50 ms.

Only `sending` and `sending_together` wait until a batch is written, because the record must
precede the request.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any, BinaryIO, Protocol

import anyio

from cognigy_async import (
    AmbiguousUpdateError,
    AsyncStateClient,
    CognigyError,
    UpdateError,
    UpdateResult,
)
from cognigy_async._utils.group_commit import GroupCommit

from ..baseline_filter import BaselineFilter
from ..errors import JournalError
from ..faulty_rows import FaultyRows
from ..input.fingerprint import Mark
from ..input.row import Row, dead_letter
from .journal import Batch
from .schema import Failure, Status

GATHERING = 0.03
"""Seconds for collecting a batch. The rest of the 50 ms is for writing it."""
SMALL_QUOTA = 2000
"""Largest quota, in requests per window, that is saved with every batch."""
LARGE_QUOTA_EVERY = 0.5
"""Seconds between saves of a larger quota, each of which takes milliseconds."""


class BatchStore(Protocol):
    """Keeps what a run records: see `Journal`."""

    @property
    def run(self) -> int:
        """Number of this run, from 1."""
        ...

    @property
    def current_pass(self) -> int:
        """Number of the pass."""
        ...

    def write(self, batch: Batch) -> None:
        """Write all of a batch, or nothing. Called in a worker thread of anyio.

        Raises:
            JournalError: The batch cannot be written.
        """
        ...


class JournalWriter:
    """The writer of one run.

    Args:
        dead_letters: File for the rows that were not applied.
        client: Client whose requests, retries and quota are saved with each batch.
        faulty_rows: Gets the faulty rows of a table. None if the file is a stream, whose earlier
            dead letters cannot be removed.
        changes: Writes to the baseline what the outcomes changed, before each batch.

    Attributes:
        commits: Writes the batches; has the error that ended that.
    """

    def __init__(
        self,
        journal: BatchStore,
        dead_letters: BinaryIO,
        client: AsyncStateClient,
        faulty_rows: FaultyRows | None = None,
        changes: BaselineFilter | None = None,
    ) -> None:
        self._journal = journal
        self._dead_letters = dead_letters
        self._client = client
        # Shift the event loop's clock to the epoch, because that clock never goes back.
        self._epoch = time.time() - anyio.current_time()
        self._began = self.now()
        self._requests_before = client.metrics.requests
        self._retries_before = client.metrics.retries.copy()
        self._quota_saved_at = 0.0
        self._quota_requests = -1
        self._batch = Batch()
        self.commits = GroupCommit(self, JournalError, gathering=GATHERING)
        self._has_read = False
        self._faulty_rows = faulty_rows
        self._changes = changes
        self._is_emptied = faulty_rows is None
        self._ended: str | None = None

    def now(self) -> float:
        """Return the time in seconds of the epoch."""
        return self._epoch + anyio.current_time()

    def on_clock(self, at: float) -> float:
        """Return the time of the client's clock for a time in seconds of the epoch."""
        return at - self._epoch

    # Noting.

    def applied(self, row: Row, result: UpdateResult) -> None:
        """Record a row that was applied."""
        at = self.now() if row.completed_at is None else row.completed_at
        sent = at - result.latency
        self._complete(row, Status.SUCCEEDED, (sent - result.queued, sent, at), result.attempts)

    def duplicate(self, row: Row) -> None:
        """Record a row that repeats the update of an earlier line."""
        self._complete(row, Status.REPEATED, (None, None, self.now()), 0)

    def unchanged(self, row: Row) -> None:
        """Record a row that would have changed nothing."""
        self._complete(row, Status.SUCCEEDED, (None, None, self.now()), 0)

    def failed(self, row: Row, error: CognigyError) -> None:
        """Record a row that was not applied, or may not have been."""
        at = self.now() if row.completed_at is None else row.completed_at
        queued = sent = None
        if isinstance(error, UpdateError) and error.latency is not None:
            sent = at - error.latency
            queued = sent - (error.queued or 0.0)
        failure = Failure.of(error)
        self._batch.failures.append((row.line, failure.type, failure.message, failure.status))
        self._batch.dead_letters.append(dead_letter(row.line, row.source, failure))
        ambiguous = isinstance(error, AmbiguousUpdateError)
        status = Status.AMBIGUOUS if ambiguous else Status.FAILED
        self._complete(row, status, (queued, sent, at), getattr(error, "attempts", 0))

    def _complete(
        self, row: Row, status: Status, times: tuple[float | None, ...], attempts: int
    ) -> None:
        refers = row.sent_with if row.duplicate_of is None else row.duplicate_of
        completed_in = self._journal.current_pass
        outcome = (row.line, row.dialog_id, int(status), completed_in, *times, attempts, refers)
        self._batch.outcomes.append(outcome)
        self.commits.noted.set()

    def event(self, line: int, dialog_id: str | None, what: str, seconds: float = 0.0) -> None:
        """Record a wait and its reason, or the result of a callback."""
        self._batch.events.append((line, dialog_id or "", self.now(), what, seconds))
        self.commits.noted.set()

    def read(
        self, marks: list[Mark], dead_letters: list[bytes], total: tuple[int | None, bool]
    ) -> None:
        """Record marks of the input, and dead letters of earlier runs.

        Args:
            total: Number of rows of the job, and whether it is exact. See `RowReader.total`.
        """
        self._has_read = True
        self._batch.marks.extend(marks)
        self._batch.dead_letters.extend(dead_letters)
        self._batch.meta["total"] = json.dumps(total)
        self.commits.noted.set()

    def rejected(self, row: Row) -> None:
        """Record that the server did not apply a row from `sending`. It may be sent again."""
        self._batch.sends.append((row.line, row.dialog_id or "", self.now(), None, 0, None))
        self.commits.noted.set()

    async def sending(self, row: Row, etag: str | None) -> None:
        """Record a row that must not be sent twice. Return when the record is on disk.

        Raises:
            JournalError: The journal cannot be written.
        """
        self._batch.sends.append((row.line, row.dialog_id or "", self.now(), etag, 1, None))
        self._batch.durable = True
        await self._written()

    async def sending_together(self, rows: Sequence[Row], key: str) -> None:
        """Record rows that share a request. The request may only be repeated unchanged.

        Raises:
            JournalError: The journal cannot be written.
        """
        now = self.now()
        for row in rows:
            self._batch.sends.append((row.line, row.dialog_id or "", now, None, 0, key))
        await self._written()

    async def flush(self) -> None:
        """Return when everything recorded so far is written.

        Raises:
            JournalError: The journal cannot be written.
        """
        await self._written()

    async def _written(self) -> None:
        error = await self.commits.written()
        if error is not None:
            raise JournalError(str(error)) from error

    # Writing.

    def close(self, ended: str | None) -> None:
        """Write the last batch and end.

        Args:
            ended: Recorded as the reason why the run ended; None if it was cut off.
        """
        self._ended = ended
        self.commits.close()

    async def record_failure(self, reason: str) -> None:
        """Try to record why the run ended, after a batch could not be written."""
        self._ended = reason
        self._batch = Batch()
        await self.commits.commit()

    def take(self) -> Batch:
        """Return the rows that were recorded since the last call."""
        batch, self._batch = self._batch, Batch()
        # The last batch of a run, and with it all others, survives a crash of the machine.
        batch.durable |= self.commits.closing
        now = self.now()
        batch.run = self._run_record(now)
        if self._ended == "complete":
            # The next run begins a new pass, in which paused dialogs continue.
            batch.meta["pass"] = str(self._journal.current_pass + 1)
        if (quota := self._quota_to_save(now)) is not None:
            batch.meta["quota"] = quota
        return batch

    def _run_record(self, now: float) -> tuple[Any, ...]:
        metrics = self._client.metrics
        requests = metrics.requests - self._requests_before
        retries = json.dumps(metrics.retries - self._retries_before)
        elapsed = now - self._began
        return (self._journal.run, self._began, now, elapsed, requests, retries, self._ended)

    def _quota_to_save(self, now: float) -> str | None:
        """Return the state of the quota, or None if it need not be saved now."""
        requests = self._client.metrics.requests
        if requests == self._quota_requests:
            return None
        quota = self._client.metrics.quota
        if not quota or not self._client.is_open:
            return None
        is_large = max(use.n for use in quota) > SMALL_QUOTA
        if is_large and now - self._quota_saved_at < LARGE_QUOTA_EVERY:
            return None
        self._quota_requests = requests
        self._quota_saved_at = now
        return json.dumps(self._client.quota_state())

    def write(self, batch: Batch) -> None:
        """Write a batch, in a worker thread.

        Raises:
            JournalError: A file cannot be written.
        """
        try:
            if self._has_read and not self._is_emptied:
                # Not earlier: the dead letters may be those of another input, which is refused.
                self._is_emptied = True
                self._dead_letters.truncate(0)
            if letters := batch.dead_letters:
                if self._faulty_rows is not None:
                    letters = self._faulty_rows.take(letters)
                self._dead_letters.write(b"".join(letters))
                self._dead_letters.flush()
        except OSError as error:
            raise JournalError(
                f"the dead letters {self._dead_letters.name} cannot be written: "
                f"{error.strerror}. Nothing more is sent. Make room and run the same command "
                "again to go on."
            ) from error
        try:
            # First the baseline: after a crash, a row that only it has is not sent again.
            if self._changes is not None:
                self._changes.write()
        finally:
            self._journal.write(batch)
