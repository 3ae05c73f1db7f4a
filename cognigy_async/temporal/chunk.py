"""Apply one chunk of a job, by the code of `BulkJob` with another journal.

The journal of a chunk is a state that its heartbeats carry: the cluster gives the last one to the
next attempt. Heartbeats may be lost or overtake each other, so what they have is true, but may be
old: a row that was sent in the meantime is sent again, with the same key. A row that must not be
sent twice is sent after the state was written to the job folder.
"""

from __future__ import annotations

import base64
import io
import json
import threading
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Self

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

from .job_folder import read_object, write_object

NO_FILE = Fingerprint(None, None)


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

    def add(self, heartbeat: Self) -> None:
        """Add what a heartbeat of an earlier attempt knows."""
        self.failures |= heartbeat.failures
        self.done |= heartbeat.done
        for line in heartbeat.done:
            self.sends.pop(line, None)
        self.requests = max(self.requests, heartbeat.requests)
        self.retries |= heartbeat.retries

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
    fingerprint: Fingerprint = NO_FILE
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
        sends: URL of the object for rows that must not be sent twice, without the attempt.
        attempt: Number of the attempt, from 1.
        state: State of the last heartbeat of the attempts before, or where the chunk was stopped.
    """

    run = 1
    """The keys of all attempts are the same."""
    current_pass = 1

    def __init__(self, job_id: str, sends: str, attempt: int, state: ChunkState) -> None:
        self.job_id = job_id
        self._object = f"{sends}.{attempt}"
        self._before = [f"{sends}.{number}" for number in range(attempt - 1, 0, -1)]
        self._state = state
        self._lock = threading.Lock()

    def load(self) -> ChunkState:
        """Return the state that the attempts before have left. Call it in a worker thread.

        Raises:
            OSError: An object cannot be read.
        """
        for url in self._before:
            # Each attempt begins with what those before it have written.
            if (text := read_object(url)) is not None:
                written = ChunkState.decode(text.decode())
                written.add(self._state)
                self._state = written
                break
        return self._state

    @property
    def state(self) -> ChunkState:
        """The state, which does not change when the chunk has ended."""
        return self._state

    def progress(self) -> tuple[dict[str, int], str]:
        """Return the present numbers of rows by outcome, and the state as a text."""
        with self._lock:
            return self._state.numbers(), self._state.encode()

    def last_line(self) -> int:
        """Return the last completed line, 0 if there is none."""
        return max(self._state.done, default=0)

    def completed(self, first: int, last: int) -> dict[int, CompletedRow]:
        """Return the completed rows between two lines, by line."""
        with self._lock:
            return {
                line: CompletedRow(None, this_pass=True, failure=self._state.failures.get(line))
                for line in self._state.done
                if first <= line <= last
            }

    def write(self, batch: Batch) -> None:
        """Take a batch into the state. If it is about rows that must not be sent twice, write it.

        Raises:
            JournalError: The state cannot be written.
        """
        with self._lock:
            self._state.take(batch)
            if not batch.sends:
                return
            text = self._state.encode()
        try:
            write_object(self._object, text.encode())
        except OSError as error:
            raise JournalError(
                f"{self._object} cannot be written: {error.strerror or error}. Nothing more is "
                "sent. Another attempt goes on when it can be written."
            ) from error


@dataclass(frozen=True, slots=True)
class _Work:
    rows: RowReader
    earlier: EarlierRuns
    canary: int = 0
    ends_at: float | None = None
    is_pipe: bool = True


class Chunk:
    """The rows of a chunk that are left, which are applied.

    Args:
        client: Client that sends the rows.
        journal: Journal of this attempt.
        rows: Rows of the chunk: their lines in the input, and their content.
        state: State that the attempts before have left.
    """

    def __init__(
        self,
        client: AsyncStateClient,
        journal: ChunkJournal,
        rows: list[tuple[int, bytes]],
        state: ChunkState,
    ) -> None:
        options = JobOptions()
        self._rows = RowReader(ChunkReader(rows), options, client.limits, client.api, journal)
        sends = [OpenSend(line, "", etag) for line, etag in state.sends.items()]
        earlier = EarlierRuns(Totals(), sends, groups={}, quota=None, began=None)
        self._letters = io.BytesIO()
        writer = JournalWriter(journal, self._letters, client)
        self._run = JobRun(client, options, _Work(self._rows, earlier), writer)

    def stop(self) -> None:
        """Send no more rows. Requests in flight finish."""
        self._run.stop("interrupted", "interrupted")

    async def apply(self) -> bytes | None:
        """Apply the rows.

        Returns:
            The dead letters of all attempts; None if rows are left because of `stop`.

        Raises:
            CognigyError: The error stopped the chunk. Another attempt can go on.
        """
        try:
            await self._run.carry_out()
        finally:
            self._rows.close()
        if self._run.fault is not None:
            raise self._run.fault
        return self._letters.getvalue() if self._run.ended == "complete" else None
