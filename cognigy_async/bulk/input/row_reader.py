"""Read the rows of a job in chunks: select and check them, and skip completed rows.

A worker thread reads one chunk at a time. Switching threads for each row would cost more than
the row, and reading a whole block at once would block the event loop for too long.
"""

from __future__ import annotations

import sqlite3
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from operator import length_hint
from typing import Protocol

from cognigy_async import CognigyError, Fault, Limits, StateApi, StateUpdate, UpdateValidationError

from ..errors import InputError
from ..journal.schema import CompletedRow
from ..options import JobOptions
from .columns import Columns, Findings, Record
from .fingerprint import Fingerprint, Mark
from .row import Row, Source, TableRow, dead_letter, line_of_faulty, parse_row

MAX_ROWS = 128
"""Most rows in a chunk."""
MAX_LINES = 20_000
"""Most lines to read for a chunk, completed rows included."""
MAX_BYTES = 1 << 20
"""Bytes of rows after which a chunk ends."""
BLOCKS_AHEAD = 3
"""Most blocks to fetch ahead, so that the rows of a small file are counted, its end included."""
FEW_RECORDS = 8
"""A block with fewer records may have long ones. To bound the memory, two are fetched ahead."""
PAGE = 4096
"""Lines looked up in the journal at a time."""
MOST_IN_MEMORY = 200_000
"""Texts that a `SpilledSet` keeps in memory."""

UPDATE_ID = b'"update_id"'


class Records(Protocol):
    """The records of an input: see `InputReader`."""

    @property
    def fingerprint(self) -> Fingerprint:
        """Size and modification time of the input."""
        ...

    @property
    def findings(self) -> Findings:
        """Facts that reading brings to light."""
        ...

    @property
    def bytes_read(self) -> int:
        """Number of bytes read."""
        ...

    def __iter__(self) -> Iterator[list[Record]]: ...

    def take_marks(self) -> list[Mark]:
        """Return the marks computed since the last call."""
        ...

    def close(self) -> None:
        """Close the input."""
        ...


class Completed(Protocol):
    """The rows that earlier runs completed: see `Journal`."""

    @property
    def job_id(self) -> str:
        """Name of the job, part of the keys of its updates."""
        ...

    @property
    def run(self) -> int:
        """Number of this run, from 1."""
        ...

    def last_line(self) -> int:
        """Return the last completed line, 0 if there is none."""
        ...

    def completed(self, first: int, last: int) -> dict[int, CompletedRow]:
        """Return the completed rows between two lines, by line."""
        ...


@dataclass(slots=True)
class RowChunk:
    """Some rows, and the completed rows that were skipped before and between them.

    Attributes:
        skipped: Ordinals of rows completed by earlier runs.
        failed: Ordinals of the skipped rows that were not applied.
        dead_letters: Dead letters of the failed rows.
        paused: Dialogs with a failure in the pass that this run continues.
        marks: New marks of the input, up to the end of this chunk.
        position: Bytes of the input read so far.
        size: Bytes of the rows and the dead letters.
        total: Number of rows of the job, and whether it is exact. See `RowReader.total`.
        last: True if no rows are left after this chunk.
    """

    rows: list[Row] = field(default_factory=list)
    skipped: list[int] = field(default_factory=list)
    failed: list[int] = field(default_factory=list)
    dead_letters: list[bytes] = field(default_factory=list)
    paused: list[str] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)
    position: int = 0
    size: int = 0
    total: tuple[int | None, bool] = (None, False)
    last: bool = False

    def add_dead_letter(self, letter: bytes) -> None:
        """Add the dead letter of a skipped row."""
        self.dead_letters.append(letter)
        self.size += len(letter)


class _Blocks:
    """The blocks of records of an input, a few of them fetched ahead.

    Attributes:
        fetched, returned: number of records in the blocks so far, and in those returned.
        ended: True if the last block was fetched.
    """

    def __init__(self, blocks: Iterator[list[Record]]) -> None:
        self._blocks = blocks
        self._ahead: deque[list[Record]] = deque()
        self._failure: InputError | None = None
        self.fetched = self.returned = 0
        self.ended = False

    def __iter__(self) -> _Blocks:
        return self

    def __next__(self) -> list[Record]:
        if not self._ahead and self._failure is None and not self.ended:
            self._fetch()
        if not self._ahead:
            raise self._failure or StopIteration
        block = self._ahead.popleft()
        self.returned += len(block)
        return block

    def fetch_ahead(self) -> None:
        """Fetch the next blocks. A failure is raised after the blocks before it."""
        while not self.ended and self._failure is None and len(self._ahead) < BLOCKS_AHEAD:
            if sum(len(block) < FEW_RECORDS for block in self._ahead) > 1:
                return
            self._fetch()

    def _fetch(self) -> None:
        try:
            block = next(self._blocks)
        except StopIteration:
            self.ended = True
        except InputError as error:
            self._failure = error
        else:
            self._ahead.append(block)
            self.fetched += len(block)


class RowReader:
    """The rows of one input, in order.

    Args:
        options: Which rows belong to the job.
        api: API that must support each row; None to skip this check.
        journal: Journal of the job; None reads all rows, as in a first run.
    """

    def __init__(
        self,
        reader: Records,
        options: JobOptions,
        limits: Limits,
        api: StateApi | None = None,
        journal: Completed | None = None,
    ) -> None:
        self._reader = reader
        self._limit = options.limit
        self._dialogs = frozenset(options.only_dialogs)
        self._limits = limits
        self._api = api
        self._journal = journal
        self._job_id = None if journal is None else journal.job_id
        self._run = None
        """Number of the run, if it renews keys."""
        if journal is not None and journal.run > 1 and options.renews_keys:
            self._run = journal.run
        self._page: dict[int, CompletedRow] = {}
        self._page_end = 0
        self._update_ids = _UpdateIds()
        self._last_completed = 0 if journal is None else journal.last_line()
        self._blocks = _Blocks(iter(reader))
        self._records: Iterator[Record] = iter(())
        self.count = 0
        """Rows of the job read so far."""
        self._progress = (0, 0, 0, 0, (False, False))

    @property
    def columns(self) -> Columns | None:
        """Return the columns of a table, once its header was read."""
        return self._reader.findings.columns

    @property
    def none_found(self) -> str:
        """Note for the user that the input has no rows of the job."""
        if not self._dialogs:
            return "The input has no rows."
        return f"The input has no rows of {', '.join(map(repr, sorted(self._dialogs)))}."

    def next_chunk(self) -> RowChunk:
        """Return the next rows. Once some rows are found, do not wait for more.

        Raises:
            InputError: The input cannot be read.
        """
        chunk = RowChunk()
        while not self._fill(chunk):
            block = next(self._blocks, None) if self._wants_more() else None
            if block is None:
                chunk.last = True
                break
            self._records = iter(block)
        if (
            not chunk.last
            and self._reader.fingerprint.size
            and self._reader.findings.records is None
        ):
            # A pipe has no size, and would make its reader wait.
            self._blocks.fetch_ahead()
        chunk.marks = self._reader.take_marks()
        chunk.position = self._reader.bytes_read
        blocks = self._blocks
        taken = blocks.returned - length_hint(self._records)
        # Whole at each moment, because `total` is called in another thread.
        ends = (blocks.ended, chunk.last)
        self._progress = (self.count, taken, blocks.fetched, chunk.position, ends)
        chunk.total = (self.count, True) if chunk.last else self.total()
        return chunk

    def total(self) -> tuple[int | None, bool]:
        """Return the number of rows of the job, and whether it is exact.

        It is an estimate by what was read of the input, or None if nothing is known.
        """
        count, taken, fetched, position, (ended, last) = self._progress
        if last:
            return count, True
        if not taken:
            return None, False
        size = self._reader.fingerprint.size
        records: float | None = self._reader.findings.records
        is_exact = (ended or records is not None) and not self._dialogs
        if records is None and size and position:
            records = fetched * max(1.0, size / position)
        if records is None:
            return self._limit, False
        rows = max(count, round(records * count / taken))
        return rows if self._limit is None else min(rows, self._limit), is_exact

    def _fill(self, chunk: RowChunk) -> bool:
        """Add rows of the current block. Return False if the block has no rows left."""
        lines = 0
        if not self._wants_more():
            return False
        for line, source, fault in self._records:
            lines += 1
            if line <= self._last_completed and (done := self._completed(line)) is not None:
                self._skip(chunk, line, source, done)
            else:
                default_id = None if self._job_id is None else f"{self._job_id}-{line}"
                row = parse_row(line, source, self._limits, default_id, fault)
                if row.update is not None:
                    self._check(row, row.update)
                    self._renew_key(row)
                    if row.error is not None:
                        row.source = line_of_faulty(source)
                if self._dialogs and row.dialog_id not in self._dialogs:
                    continue
                self.count += 1
                row.ordinal = self.count
                chunk.rows.append(row)
                chunk.size += len(row.source)
            is_full = len(chunk.rows) >= MAX_ROWS or chunk.size >= MAX_BYTES
            if is_full or lines >= MAX_LINES or not self._wants_more():
                break
        return lines > 0

    def remaining_dead_letters(self) -> RowChunk:
        """Return the next dead letters of completed rows, ignoring all other rows.

        Raises:
            InputError: The input cannot be read.
        """
        chunk = RowChunk(total=self.total())
        for lines, (line, source, _) in enumerate(self._remaining_records(), 1):
            if line > self._last_completed:
                break
            done = self._completed(line)
            if done is not None and done.failure is not None:
                chunk.add_dead_letter(dead_letter(line, source, done.failure))
            if lines == MAX_LINES or chunk.size >= MAX_BYTES:
                return chunk
        chunk.last = True
        return chunk

    def _remaining_records(self) -> Iterator[Record]:
        yield from self._records
        for block in self._blocks:
            self._records = iter(block)
            yield from self._records

    def rows(self) -> Iterator[Row]:
        """Read all rows in the calling thread, and yield them."""
        while True:
            chunk = self.next_chunk()
            yield from chunk.rows
            if chunk.last:
                return

    def close(self) -> None:
        """Close the input."""
        self._update_ids.close()
        self._reader.close()

    def _wants_more(self) -> bool:
        return self._limit is None or self.count < self._limit

    def _completed(self, line: int) -> CompletedRow | None:
        if line > self._page_end:
            assert self._journal is not None
            self._page_end = line + PAGE
            self._page = self._journal.completed(line, self._page_end)
        return self._page.get(line)

    def _skip(self, chunk: RowChunk, line: int, source: Source, done: CompletedRow) -> None:
        self.count += 1
        chunk.skipped.append(self.count)
        if (
            source.read()[0].get("update_id") is not None
            if isinstance(source, TableRow)
            else UPDATE_ID in source
        ):
            row = parse_row(line, source, self._limits, None)
            if row.update is not None and row.update.update_id is not None:
                self._update_ids.first(row.update, line)
        if done.failure is None:
            return
        chunk.failed.append(self.count)
        chunk.add_dead_letter(dead_letter(line, source, done.failure))
        if done.this_pass and done.dialog_id is not None:
            chunk.paused.append(done.dialog_id)

    def _renew_key(self, row: Row) -> None:
        """Give a row another `update_id` than in the run before, if the job renews keys."""
        update = row.update
        if self._run is None or update is None or row.has_own_id or row.not_repeatable:
            return
        row.update = update.replace(update_id=f"{update.update_id}-r{self._run}")

    def _check(self, row: Row, update: StateUpdate) -> None:
        """Reject a row that the API does not support or that reuses the `update_id` of another."""
        if self._api is not None:
            try:
                self._api.check(update)
            except UpdateValidationError as error:
                row.reject(error.with_traceback(None))
                return
            except CognigyError as error:
                fault = Fault("update", str(error).rstrip("."), "leave it out")
                row.reject(UpdateValidationError((fault,), dialog_id=update.dialog_id))
                return
        if not row.has_own_id:
            return
        first = self._update_ids.first(update, row.line)
        if first is None:
            return
        line, same = first
        if same:
            row.duplicate_of = line
            return
        problem = f"is that of line {line} too, which is another update"
        fault = Fault("update_id", problem, "give each update an id of its own, or leave it out")
        row.reject(UpdateValidationError((fault,), dialog_id=update.dialog_id))


class _UpdateIds:
    """The `update_id`s of an input and the first line of each. Many ids move to disk."""

    def __init__(self) -> None:
        self._connection = _scratch_table(", line, content")

    def first(self, update: StateUpdate, line: int) -> tuple[int, bool] | None:
        """Return the first line with the same id, and whether its update is the same.

        If this line is the first with the id, remember the id and return None.
        """
        id_hash, content = hash(update.update_id), hash(update)
        insert = "INSERT OR IGNORE INTO seen VALUES (?, ?, ?)"
        if self._connection.execute(insert, (id_hash, line, content)).rowcount:
            return None
        select = "SELECT line, content FROM seen WHERE id = ?"
        first, first_content = self._connection.execute(select, (id_hash,)).fetchone()
        return first, first_content == content

    def close(self) -> None:
        self._connection.close()


class SpilledSet:
    """A set of texts that moves to disk when it is large. It can only count its texts."""

    def __init__(self) -> None:
        self._recent: set[int] = set()
        self._connection = _scratch_table("")

    def add(self, text: str) -> None:
        """Add a text."""
        self._recent.add(hash(text))
        if len(self._recent) > MOST_IN_MEMORY:
            self._spill()

    def _spill(self) -> None:
        rows = ((item,) for item in sorted(self._recent))
        self._connection.executemany("INSERT OR IGNORE INTO seen VALUES (?)", rows)
        self._recent.clear()

    def count(self) -> int:
        """Return the number of different texts."""
        self._spill()
        number: int = self._connection.execute("SELECT count(*) FROM seen").fetchone()[0]
        return number

    def close(self) -> None:
        """Forget the texts."""
        self._connection.close()


def _scratch_table(columns: str) -> sqlite3.Connection:
    # Unnamed database: SQLite creates a temporary file for it when its cache is full.
    connection = sqlite3.connect("", isolation_level=None, check_same_thread=False)
    for statement in ("journal_mode = OFF", "synchronous = OFF", "cache_size = -8192"):
        connection.execute(f"PRAGMA {statement}")
    connection.execute(f"CREATE TABLE seen (id INTEGER PRIMARY KEY{columns})")
    connection.execute("BEGIN")
    return connection
