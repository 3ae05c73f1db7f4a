"""Writes the journal off the event loop: in batches, at most 50 ms behind.

What must be written before a request is sent waits for it (`sent`); all the rest is noted and
written soon. When writing fails nothing is noted any more, and the job is told.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import anyio
import anyio.to_thread

from .errors import JournalError
from .fingerprint import Mark
from .journal import Batch, Journal
from .records import Failure, Status

LAG = 0.03
"""Seconds in which a batch gathers; writing it takes the rest of the 50 ms."""


class Scribe:
    """The writer of one run.

    Args:
        letters: where the dead letters go; written from the beginning, None for nowhere.
        run_record: what is to be told of the run itself, asked for with each batch.
        quota: what is to be saved of the quota, likewise; None for nothing new.
        on_failure: called once when the journal cannot be written.
    """

    def __init__(
        self,
        journal: Journal,
        letters: BinaryIO | None,
        letters_path: Path | None,
        *,
        run_record: Callable[[], tuple[Any, ...]],
        quota: Callable[[], str | None],
        on_failure: Callable[[JournalError], None],
    ) -> None:
        self._journal = journal
        self._letters = letters
        self._letters_path = letters_path
        self._run_record = run_record
        self._quota = quota
        self._on_failure = on_failure
        self._batch = Batch()
        self._waiting: list[anyio.Event] = []
        self._noted = anyio.Event()
        self._hurry = anyio.Event()
        self._closing = False
        self._limiter: anyio.CapacityLimiter | None = None
        self.failure: JournalError | None = None

    # What is noted.

    def settled(
        self,
        line: int,
        dialog_id: str | None,
        status: Status,
        at: float,
        *,
        queued: float | None = None,
        sent: float | None = None,
        attempts: int = 0,
        refers: int | None = None,
    ) -> None:
        """A row is done. Times are seconds of the epoch."""
        outcome = (
            line,
            dialog_id,
            int(status),
            self._journal.current_pass,
            queued,
            sent,
            at,
            attempts,
            refers,
        )
        self._batch.outcomes.append(outcome)
        if not self._noted.is_set():
            self._noted.set()

    def failed(self, line: int, failure: Failure, letter: bytes) -> None:
        """Why a row that is done was not applied."""
        self._batch.failures.append((line, failure.type, failure.message, failure.status))
        self._batch.letters.append(letter)

    def event(self, line: int, dialog_id: str, at: float, what: str, seconds: float) -> None:
        """Something happened to a row on its way."""
        self._batch.events.append((line, dialog_id, at, what, seconds))
        self._noted.set()

    def read(self, marks: list[Mark], letters: list[bytes]) -> None:
        """So much of the input was read, with the dead letters of earlier runs."""
        if marks or letters:
            self._batch.marks.extend(marks)
            self._batch.letters.extend(letters)
            self._noted.set()

    def rejected(self, line: int, dialog_id: str, at: float) -> None:
        """The server turned a row away that was sent: it may be sent again."""
        self._batch.sends.append((line, dialog_id, at, None, 0, None))
        self._noted.set()

    async def sent(self, line: int, dialog_id: str, at: float, etag: str | None) -> None:
        """A row is about to be sent that must not be repeated; returns when that is on disk.

        Raises:
            JournalError: it cannot be written.
        """
        self._batch.sends.append((line, dialog_id, at, etag, 1, None))
        self._batch.durable = True
        await self._written()

    async def sent_together(self, lines: list[int], dialog_id: str, at: float, key: str) -> None:
        """Rows are about to be sent as one request, which is repeated as it is or not at all.

        Raises:
            JournalError: it cannot be written.
        """
        self._batch.sends.extend((line, dialog_id, at, None, 0, key) for line in lines)
        await self._written()

    async def _written(self) -> None:
        """Wait until what was noted is written."""
        written = anyio.Event()
        self._waiting.append(written)
        self._noted.set()
        self._hurry.set()
        if self.failure is None:
            await written.wait()
        if self.failure is not None:
            raise JournalError(str(self.failure)) from self.failure

    # Writing.

    async def run(self) -> None:
        """Write until `close`, and then what is left."""
        self._limiter = anyio.CapacityLimiter(1)
        try:
            while not self._closing and self.failure is None:
                await self._noted.wait()
                if not self._closing:
                    with anyio.move_on_after(LAG):
                        await self._hurry.wait()
                await self._write()
            if self.failure is None:
                self._batch.durable = True
                await self._write()
        except anyio.get_cancelled_exc_class():
            if self.failure is None:
                await self._write()
            raise

    def close(self) -> None:
        """Write what is left and end."""
        self._closing = True
        self._noted.set()
        self._hurry.set()

    async def _write(self) -> None:
        batch, self._batch = self._batch, Batch()
        waiting, self._waiting = self._waiting, []
        if not self._closing:
            self._noted, self._hurry = anyio.Event(), anyio.Event()
        batch.run = self._run_record()
        if (quota := self._quota()) is not None:
            batch.meta["quota"] = quota
        try:
            # A batch that was taken is written, whatever ends the job meanwhile.
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(self._write_in_thread, batch, limiter=self._limiter)
        except JournalError as error:
            self.failure = error
            self._on_failure(error)
            # Whoever came meanwhile is not left waiting either.
            waiting += self._waiting
        finally:
            for event in waiting:
                event.set()

    def _write_in_thread(self, batch: Batch) -> None:
        if batch.letters and self._letters is not None:
            try:
                self._letters.write(b"".join(batch.letters))
                self._letters.flush()
            except OSError as error:
                raise JournalError(
                    f"the dead letters {self._letters_path} cannot be written: {error.strerror}. "
                    "Nothing more is sent. Make room and run the same command again to go on."
                ) from error
        self._journal.write(batch)
