"""Apply one chunk of a job, by the code of `BulkJob` with another journal.

The journal of a chunk is the state that its heartbeats carry. The Temporal server keeps the details
of the last heartbeat that it has acknowledged, and gives them to the next attempt. It takes no
heartbeat of an attempt that it has given up. So a row that must not be sent twice is sent after the
acknowledged record of it, and by no attempt that has a successor.
"""

from __future__ import annotations

import base64
import io
import json
import zlib
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Self

import anyio
import anyio.from_thread

from cognigy_async import AsyncStateClient
from cognigy_async.bulk import JobOptions, JournalError
from cognigy_async.bulk.input.columns import Findings, Record
from cognigy_async.bulk.input.fingerprint import Fingerprint, Mark
from cognigy_async.bulk.input.row_reader import RowReader
from cognigy_async.bulk.journal.journal import Batch
from cognigy_async.bulk.journal.schema import (
    HOOK,
    CompletedRow,
    EarlierRuns,
    Failure,
    OpenSend,
    Status,
    Totals,
)
from cognigy_async.bulk.journal.writer import JournalWriter
from cognigy_async.bulk.run import JobRun

Beat = Callable[["ChunkState"], Awaitable[None]]
"""Sends the state as a heartbeat, and returns when the server has it. Raises `JournalError` if the
server does not take it."""


@dataclass(slots=True)
class ChunkState:
    """The state of a chunk: what a new attempt must know of those before.

    Attributes:
        done: Outcomes of the completed rows, by line.
        failures: Errors of the rows that were not applied, by line.
        sends: `If-Match` of rows that may have been sent and must not be sent twice, by line.
        requests: Number of requests of the completed rows.
        retries: Number of repeated requests, by reason.
    """

    done: dict[int, Status] = field(default_factory=dict)
    failures: dict[int, Failure] = field(default_factory=dict)
    sends: dict[int, str | None] = field(default_factory=dict)
    requests: int = 0
    retries: Counter[str] = field(default_factory=Counter)

    def take(self, batch: Batch) -> None:
        """Take what a batch of the journal records."""
        for line, _, _, etag, is_open, _ in batch.sends:
            if is_open:
                self.sends[line] = etag
            else:
                self.sends.pop(line, None)
        for line, *failure in batch.failures:
            self.failures[line] = Failure(*failure)
        for outcome in batch.outcomes:
            line, status, attempts = outcome[0], outcome[2], outcome[7]
            self.done[line] = Status(status)
            self.sends.pop(line, None)
            self.requests += attempts
        for _, _, _, what, _ in batch.events:
            if not what.startswith(HOOK):
                self.retries[what] += 1

    def encode(self) -> str:
        """Return the state as a short text."""
        failures = {
            line: (failure.type, failure.message, failure.status)
            for line, failure in self.failures.items()
        }
        content = [self.done, failures, self.sends, self.requests, self.retries]
        return base64.b64encode(zlib.compress(json.dumps(content).encode(), 1)).decode()

    @classmethod
    def decode(cls, text: str) -> Self:
        """Return the state of a text from `encode`."""
        content = json.loads(zlib.decompress(base64.b64decode(text)))
        done, failures, sends, requests, retries = content
        return cls(
            {int(line): Status(status) for line, status in done.items()},
            {int(line): Failure(*failure) for line, failure in failures.items()},
            {int(line): etag for line, etag in sends.items()},
            requests,
            Counter(retries),
        )

    def numbers(self) -> dict[str, int]:
        """Return the numbers of rows by outcome."""
        counts = Counter(self.done.values())
        return {
            "succeeded": counts[Status.SUCCEEDED],
            "failed": counts[Status.FAILED],
            "ambiguous": counts[Status.AMBIGUOUS],
        }


@dataclass(frozen=True, slots=True)
class ChunkReader:
    """The records of a chunk, with their lines in the input."""

    rows: list[tuple[int, bytes]]
    fingerprint: Fingerprint = Fingerprint(None, None)
    findings: Findings = field(default_factory=Findings)
    bytes_read: int = 0

    def __iter__(self) -> Iterator[list[Record]]:
        yield [(line, source, None) for line, source in self.rows]

    def take_marks(self) -> list[Mark]:
        """Return no marks: the content of a chunk does not change."""
        return []

    def close(self) -> None:
        """Do nothing: the chunk was read at once."""


class ChunkJournal:
    """The journal of one attempt at a chunk.

    Args:
        job_id: Name of the job, part of the keys of its updates.
        state: State that the attempts before have left.
        beat: Keeps the state.
    """

    run = 1
    """The keys of all attempts are the same."""
    current_pass = 1

    def __init__(self, job_id: str, state: ChunkState, beat: Beat) -> None:
        self.job_id = job_id
        self.state = state
        self._send = beat
        self._sending = anyio.Lock()

    def last_line(self) -> int:
        """Return the last completed line, 0 if there is none."""
        return max(self.state.done, default=0)

    def completed(self, first: int, last: int) -> dict[int, CompletedRow]:
        """Return the completed rows between two lines, by line."""
        failures = self.state.failures
        return {
            line: CompletedRow(None, this_pass=True, failure=failures.get(line))
            for line in self.state.done
            if first <= line <= last
        }

    def write(self, batch: Batch) -> None:
        """Take a batch into the state. Return when the server has it, if it must be durable."""
        anyio.from_thread.run(self._write, batch)

    async def _write(self, batch: Batch) -> None:
        self.state.take(batch)
        if batch.durable:
            await self.beat()

    async def beat(self) -> None:
        """Send the newest state as a heartbeat.

        Raises:
            JournalError: The server does not take it: another attempt may have begun.
        """
        # One at a time: an older state must not replace a newer one.
        async with self._sending:
            await self._send(self.state)


@dataclass(frozen=True, slots=True)
class _Work:
    rows: RowReader
    earlier: EarlierRuns
    canary: int = 0
    ends_at: float | None = None
    is_pipe: bool = True


class Chunk:
    """A chunk that is applied.

    Args:
        client: Client that sends the rows.
        journal: Journal of this attempt.
        rows: Rows of the chunk: their lines in the input, and their content.
        interval: Seconds between heartbeats.
    """

    def __init__(
        self,
        client: AsyncStateClient,
        journal: ChunkJournal,
        rows: list[tuple[int, bytes]],
        interval: float,
    ) -> None:
        self._client = client
        self._journal = journal
        self._rows = rows
        self._interval = interval
        self._run: JobRun | None = None
        self._is_stopped = False

    def stop(self) -> None:
        """Send no more rows. Requests in flight finish."""
        self._is_stopped = True
        if self._run is not None:
            self._run.stop("interrupted", "interrupted")

    async def apply(self) -> bytes | None:
        """Apply the rows without an outcome.

        Returns:
            The dead letters of all attempts; None if rows are left because of `stop`.

        Raises:
            CognigyError: The error stopped the chunk. Another attempt can go on.
        """
        state = self._journal.state
        sends = [OpenSend(line, "", etag) for line, etag in state.sends.items()]
        earlier = EarlierRuns(Totals(), sends, groups={}, quota=None, began=None)
        options = JobOptions()
        client = self._client
        reader = ChunkReader(self._rows)
        rows = RowReader(reader, options, client.limits, client.api, self._journal)
        letters = io.BytesIO()
        writer = JournalWriter(self._journal, letters, client)
        run = self._run = JobRun(client, options, _Work(rows, earlier), writer)
        if self._is_stopped:
            run.stop("interrupted", "interrupted")
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._keep_beating, run)
                await run.carry_out()
                tasks.cancel_scope.cancel()
        finally:
            rows.close()
        if run.fault is not None:
            raise run.fault
        return letters.getvalue() if run.ended == "complete" else None

    async def _keep_beating(self, run: JobRun) -> None:
        while True:
            try:
                await self._journal.beat()
            except JournalError as error:
                run.stop("stopped", str(error), error)
                return
            await anyio.sleep(self._interval)

