"""From an input to the rows of a job, in chunks: what is done already, repeats, a selection.

Runs in a worker thread, one chunk at a time: crossing threads for each row would cost more than the
row, and a whole block at once would keep the interpreter from the event loop for too long.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from cognigy_async import (
    CognigyError,
    Fault,
    Limits,
    StateApi,
    StateUpdate,
    UpdateValidationError,
)

from .fingerprint import Mark
from .readers import Reader
from .records import Settled, Status
from .rows import Row, Source, dead_letter, parse_row
from .seen import UpdateIds
from .tables import Record

ROWS = 128
"""Rows in a chunk."""
LINES = 20_000
"""Lines that are passed over in a chunk at most."""
PAGE = 4096
"""Lines of which it is asked at once whether they are done."""

NAME = b'"update_id"'


@dataclass(frozen=True, slots=True)
class Selection:
    """Which rows of the input belong to the job.

    Args:
        limit: so many from the beginning; None for all.
        dialogs: those of these dialogs; none for all.
    """

    limit: int | None = None
    dialogs: frozenset[str] = frozenset()

    @property
    def told_of_nothing(self) -> str:
        """What a user is told of an input that has no such rows."""
        if not self.dialogs:
            return "The input has no rows."
        return f"The input has no rows of {', '.join(map(repr, sorted(self.dialogs)))}."


@dataclass(slots=True)
class Chunk:
    """Some rows, and what was passed over on the way to them.

    Attributes:
        skipped: ordinals of rows that were done before. failed: those of them that were not
            applied.
        letters: the dead letters of those.
        paused: dialogs with a failure in the pass that this run continues.
        marks: hashes of the input up to here.
        position: bytes of the input that were read.
        last: there is no more.
    """

    rows: list[Row] = field(default_factory=list)
    skipped: list[int] = field(default_factory=list)
    failed: list[int] = field(default_factory=list)
    letters: list[bytes] = field(default_factory=list)
    paused: list[str] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)
    position: int = 0
    last: bool = False


class Intake:
    """The rows of one input, in order.

    Args:
        api: which has to be able to carry a row; None for any.
        key: makes the `update_id` of a row that has none.
        settled: what is known of a range of lines; asked up to `last_settled`.
    """

    def __init__(
        self,
        reader: Reader,
        limits: Limits,
        selection: Selection,
        *,
        api: StateApi | None = None,
        key: Callable[[int], str] | None = None,
        settled: Callable[[int, int], dict[int, Settled]] | None = None,
        last_settled: int = 0,
    ) -> None:
        self._reader = reader
        self._limits = limits
        self.selection = selection
        self._api = api
        self._key = key
        self._settled = settled
        self._last_settled = last_settled
        self._page: dict[int, Settled] = {}
        self._page_end = 0
        self._ids = UpdateIds()
        self._blocks = iter(reader)
        self._records: Iterator[Record] = iter(())
        self.count = 0
        """Rows of the job that were seen so far."""

    def next_chunk(self) -> Chunk:
        """The next rows: what there is, since more of it may take its time.

        Raises:
            InputError: there are none to be had.
        """
        chunk = Chunk()
        while not self._fill(chunk):
            block = next(self._blocks, None) if self._wants_more() else None
            if block is None:
                chunk.last = True
                break
            self._records = iter(block)
        chunk.marks = self._reader.take_marks()
        chunk.position = self._reader.bytes_read
        return chunk

    def _fill(self, chunk: Chunk) -> bool:
        """Put in what was read already; whether it came to anything."""
        lines = 0
        if not self._wants_more():
            return False
        for line, source, fault in self._records:
            lines += 1
            if line <= self._last_settled and (done := self._done(line)) is not None:
                self._pass_over(chunk, line, source, done)
            else:
                row = self._check(parse_row(line, source, self._limits, self._key, fault))
                if not self._is_of(row.dialog_id):
                    continue
                self.count += 1
                row.ordinal = self.count
                chunk.rows.append(row)
            if len(chunk.rows) >= ROWS or lines >= LINES or not self._wants_more():
                break
        return lines > 0

    def rest_of_letters(self) -> Chunk:
        """The next dead letters of rows that were done before; all others are passed over.

        Raises:
            InputError: there are none to be had.
        """
        chunk = Chunk()
        lines = 0
        while lines < LINES:
            record = next(self._records, None)
            if record is None:
                block = next(self._blocks, None)
                if block is None:
                    chunk.last = True
                    break
                self._records = iter(block)
                continue
            line, source, _ = record
            if line > self._last_settled:
                chunk.last = True
                break
            lines += 1
            if (done := self._done(line)) is not None and (letter := _letter(line, source, done)):
                chunk.letters.append(letter)
        return chunk

    def rows(self) -> Iterator[Row]:
        """All rows, where no thread has to be crossed."""
        while True:
            chunk = self.next_chunk()
            yield from chunk.rows
            if chunk.last:
                return

    def close(self) -> None:
        """Close the input."""
        self._ids.close()
        self._reader.close()

    def _wants_more(self) -> bool:
        limit = self.selection.limit
        return limit is None or self.count < limit

    def _is_of(self, dialog_id: str | None) -> bool:
        dialogs = self.selection.dialogs
        return not dialogs or dialog_id in dialogs

    def _done(self, line: int) -> Settled | None:
        assert self._settled is not None
        if line > self._page_end:
            self._page_end = line + PAGE
            self._page = self._settled(line, self._page_end)
        return self._page.get(line)

    def _pass_over(self, chunk: Chunk, line: int, source: Source, done: Settled) -> None:
        self.count += 1
        chunk.skipped.append(self.count)
        if NAME in source if isinstance(source, bytes) else source.get("update_id") is not None:
            row = parse_row(line, source, self._limits, self._key)
            if row.update is not None:
                self._ids.first(row.update, line)
        letter = _letter(line, source, done)
        if letter is None:
            return
        chunk.failed.append(self.count)
        chunk.letters.append(letter)
        if done.this_pass and done.dialog_id is not None:
            chunk.paused.append(done.dialog_id)

    @staticmethod
    def _carried(row: Row, update: StateUpdate, api: StateApi) -> StateUpdate | None:
        """The update, if the API can carry it."""
        try:
            api.check(update)
        except UpdateValidationError as error:
            row.error = error
        except CognigyError as error:
            fault = Fault("update", str(error).rstrip("."), "leave it out")
            row.error = UpdateValidationError((fault,), dialog_id=update.dialog_id)
        else:
            return update
        row.update = None
        return None

    def _check(self, row: Row) -> Row:
        """Ask whether a row can be sent, and look for an earlier one with the same `update_id`."""
        update = row.update
        if update is not None and self._api is not None:
            update = self._carried(row, update, self._api)
        if update is None or update.update_id is None:
            return row
        if self._key is not None and update.update_id == self._key(row.line):
            return row
        before = self._ids.first(update, row.line)
        if before is None:
            return row
        line, same = before
        if same:
            row.repeats = line
            return row
        problem = f"is that of line {line} too, which is another update"
        remedy = "give each update an id of its own, or leave it out"
        fault = Fault("update_id", problem, remedy)
        row.error = UpdateValidationError((fault,), dialog_id=update.dialog_id)
        row.update = None
        return row


def _letter(line: int, source: Source, done: Settled) -> bytes | None:
    """The dead letter of a row that was done before; None where it was applied."""
    failure = done.failure
    if done.status not in (Status.FAILED, Status.AMBIGUOUS) or failure is None:
        return None
    told = {"type": failure.type, "message": failure.message, "status": failure.status}
    return dead_letter(line, source, told)
