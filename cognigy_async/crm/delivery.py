"""Deliver the events of the file to one target, in the order of each dialog.

A cursor reads the events in pages. Of an event whose dialog is in flight, or waits after a failure,
only the id is kept, and the event is read again. So the memory holds a page of events, and the ids
of those that wait.
"""

from __future__ import annotations

import heapq
import logging
import math
import random
from bisect import insort
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import anyio

from cognigy_async import CognigyError, TargetStatus, UpdateEvent
from cognigy_async._utils.concurrency import is_failure, monotonic_clock
from cognigy_async._utils.logging import log

from . import recorder as recording
from .recorder import Recorder, event_of
from .store import DeadRow, EventRow, OutcomeRow, Store, TargetCounts
from .target import (
    DeliveryError,
    EventRejectedError,
    Target,
    TargetGoneError,
    TargetUnavailableError,
)

PAGE = 200
"""Least number of events that are read at a time."""
READ_EVERY = 0.01
"""Seconds from one reading of new events to the next, which commits have to wait for."""
FIRST_BACKOFF, LONGEST_BACKOFF = 1.0, 300.0
"""Seconds before an event is delivered again, doubled with each failure."""
FIRST_PAUSE = 5.0
"""Seconds before a target that is down is tried again, doubled each time."""
SHORTEST_PAUSE, LONGEST_PAUSE = 1.0, 3600.0
"""Bounds in seconds of the pause that a target wants."""
CLOSING = 5.0
"""Seconds that a target may take to close its connections."""


@dataclass(slots=True)
class _Dialog:
    """A dialog with events in flight, or that waits.

    Attributes:
        held: ids of events that have to be read again, in order.
        until: earliest time of the next delivery.
        attempts: failed deliveries of its first event.
        busy: events of it are in flight.
    """

    held: list[int] = field(default_factory=list)
    until: float = 0.0
    attempts: int = 0
    busy: bool = False

    def hold(self, entry: int) -> None:
        """Read an event again later."""
        if self.held:
            insort(self.held, entry)
        else:
            # A list of this size is smaller: of thousands of dialogs, most hold one event.
            self.held = [entry]


class Delivery:
    """The deliveries to one target.

    Args:
        mask: the bit of the target in the masks of the store.
        max_age: seconds after which an event that fails becomes a dead letter.
    """

    def __init__(
        self, target: Target, name: str, recorder: Recorder, mask: int, max_age: float
    ) -> None:
        self.name = name
        self._target = target
        self._recorder = recorder
        self._mask = mask
        self._max_age = max_age
        self._clock = monotonic_clock()
        self._page = max(PAGE, target.batch_size)
        self._cursor = 0
        self._buffer: deque[EventRow] = deque()
        self._buffered_at = self._read_at = -math.inf
        self._dialogs: dict[str, _Dialog] = {}
        self._due: list[tuple[float, str]] = []
        self._calls = 0
        self._paused_until = -math.inf
        self._pauses = 0
        self._must_reset = False
        self._closing = False
        self._wake = anyio.Event()
        self._depth = self._delivered = self._failures = self._dead_letters = 0
        self._oldest_at: float | None = None
        self._paused_by: str | None = None
        self._stopped: str | None = None

    @property
    def status(self) -> TargetStatus:
        """The state of the deliveries. Any thread may ask for it."""
        oldest_at = self._oldest_at
        return TargetStatus(
            self.name,
            self._depth,
            max(0.0, recording.clock() - oldest_at) if self._depth and oldest_at else 0.0,
            self._delivered,
            self._failures,
            self._dead_letters,
            self._stopped or self._paused_by,
        )

    def seed(self, counts: TargetCounts) -> None:
        """Begin with the counts of the file."""
        self._depth, self._dead_letters, self._oldest_at = counts

    def look(self, store: Store) -> None:
        """Find the age of the oldest event, in the thread that uses the file."""
        self._oldest_at = store.oldest(self._mask)

    def added(self, outcomes: Sequence[OutcomeRow]) -> None:
        """Deliver events that were recorded now."""
        if not self._depth:
            self._oldest_at = outcomes[0].settled_at
        self._depth += sum([bool(row.pending & self._mask) for row in outcomes])
        self._wake.set()

    def reset(self) -> None:
        """Read everything again: a command changed the file."""
        self._must_reset = True
        self._wake.set()

    def close(self) -> None:
        """Start no more calls, and end when those in flight have ended."""
        self._closing = True
        self._wake.set()

    # Running.

    async def run(self) -> None:
        """Deliver until `close`, until the target is gone, or until cancelled."""
        try:
            async with anyio.create_task_group() as calls:
                await self._open()
                while not self._closing and self._stopped is None:
                    self._wake = anyio.Event()
                    if (wait := await self._step(calls)) > 0:
                        with anyio.move_on_after(wait):
                            await self._wake.wait()
        finally:
            with anyio.move_on_after(CLOSING, shield=True):
                try:
                    await self._target.aclose()
                except Exception as error:
                    log(logging.WARNING, "target %s did not close: %s", self.name, text_of(error))

    async def _open(self) -> None:
        while not self._closing:
            try:
                await self._target.open()
                return
            except Exception as error:
                if isinstance(error, TargetGoneError):
                    self._stop(error)
                    return
                self._pause(error if isinstance(error, TargetUnavailableError) else None)
                log(logging.WARNING, "target %s cannot be opened: %s", self.name, text_of(error))
            self._wake = anyio.Event()
            while (left := self._paused_until - self._clock()) > 0 and not self._closing:
                with anyio.move_on_after(left):
                    await self._wake.wait()
                    self._wake = anyio.Event()

    async def _step(self, calls: anyio.abc.TaskGroup) -> float:
        """Read events, or start a call. Return the seconds to wait before the next step."""
        if self._must_reset:
            if self._calls:
                return math.inf
            await self._reset()
        now = self._clock()
        if now < self._paused_until:
            return self._paused_until - now
        # After a pause, one call shows whether the target is back.
        if self._calls >= (1 if self._pauses else self._target.concurrency):
            return math.inf
        due = math.inf
        if len(self._buffer) < self._target.batch_size and self._has_more(now):
            due = self._read_at + READ_EVERY - now
            if due <= 0:
                await self._read(now)
                return 0.0
        elif self._due:
            due = self._due[0][0] - now
        if not self._buffer:
            return due
        linger = self._buffered_at + self._target.linger - now
        if len(self._buffer) < self._target.batch_size and linger > 0:
            return min(linger, due)
        if batch := self._next_batch():
            self._calls += 1
            calls.start_soon(self._call, batch)
        return 0.0

    async def _reset(self) -> None:
        # What was delivered must be written before the file is read again.
        if await self._recorder.commits.written() is not None:
            return
        try:
            counts = await self._recorder.call(lambda store: store.counts(self._mask))
        except CognigyError as error:
            self._unreadable(error)
            return
        self._must_reset = False
        self._cursor = 0
        self._buffer.clear()
        self._dialogs.clear()
        self._due.clear()
        self.seed(counts)

    def _unreadable(self, error: CognigyError) -> None:
        log(logging.ERROR, "events for target %s cannot be read: %s", self.name, error)
        self._paused_until = self._clock() + FIRST_PAUSE

    # Reading.

    def _has_more(self, now: float) -> bool:
        while self._due and not self._is_due(*self._due[0]):
            heapq.heappop(self._due)
        is_due = bool(self._due) and self._due[0][0] <= now
        return is_due or self._cursor < self._recorder.store.last_event

    def _is_due(self, until: float, dialog_id: str) -> bool:
        """Return whether an entry of the heap still says when a dialog is due."""
        dialog = self._dialogs.get(dialog_id)
        waits = dialog is not None and dialog.held and not dialog.busy
        return bool(waits and dialog is not None and dialog.until == until)

    async def _read(self, now: float) -> None:
        """Read events of dialogs that waited, and the next page."""
        due: dict[str, list[int]] = {}
        room = self._page
        while self._due and self._due[0][0] <= now and room > 0:
            until, dialog_id = heapq.heappop(self._due)
            if self._is_due(until, dialog_id):
                # No more of them would go into the next call.
                due[dialog_id] = self._dialogs[dialog_id].held[: self._target.batch_size]
                room -= len(due[dialog_id])
        ids = [each for held in due.values() for each in held]
        last = self._recorder.store.last_event

        def read(store: Store) -> tuple[list[EventRow], list[EventRow]]:
            again = store.again(self._mask, ids) if ids else []
            return again, store.page(self._mask, self._cursor, self._page)

        try:
            again, page = await self._recorder.call(read)
        except CognigyError as error:
            self._unreadable(error)
            for dialog_id in due:
                self._end(dialog_id)
            return
        if not self._buffer:
            self._buffered_at = self._clock()
        # First in line, because the buffer may have later events of their dialogs.
        self._buffer.extendleft(reversed(again))
        found = {row.dialog_id for row in again}
        for dialog_id, taken in due.items():
            del self._dialogs[dialog_id].held[: len(taken)]
            if dialog_id not in found:
                self._end(dialog_id)
        for row in page:
            waiting = self._dialogs.get(row.dialog_id)
            if waiting is not None and (waiting.held or waiting.busy):
                waiting.hold(row.id)
            else:
                self._buffer.append(row)
        if page:
            self._cursor = page[-1].id
        if len(page) < self._page:
            # A commit may have come between, and so the page may go beyond `last`.
            self._cursor = max(self._cursor, last)
            self._read_at = self._clock()

    def _next_batch(self) -> list[EventRow]:
        """Take events of the buffer, but keep only the ids of those whose dialog has to wait."""
        batch: list[EventRow] = []
        dialogs: set[str] = set()
        while self._buffer and len(batch) < self._target.batch_size:
            row = self._buffer.popleft()
            dialog = self._dialogs.get(row.dialog_id)
            if dialog is None:
                dialog = self._dialogs[row.dialog_id] = _Dialog()
            elif (dialog.busy and row.dialog_id not in dialogs) or (
                dialog.held and dialog.held[0] < row.id
            ):
                dialog.hold(row.id)
                continue
            dialog.busy = True
            dialogs.add(row.dialog_id)
            batch.append(row)
        if self._target.batch_size > 1:
            # What is left counts for the next batch, and so must be able to go with it.
            for _ in range(len(self._buffer)):
                row = self._buffer.popleft()
                if row.dialog_id in dialogs:
                    self._dialogs[row.dialog_id].hold(row.id)
                else:
                    self._buffer.append(row)
        return batch

    # Calling.

    async def _call(self, rows: list[EventRow]) -> None:
        try:
            while rows:
                self._settle(rows, await self._deliver(rows))
                # A task for each call would cost more than a fast call.
                rows = self._next_batch() if self._goes_on() else []
        finally:
            self._calls -= 1
            self._wake.set()

    def _goes_on(self) -> bool:
        """Return whether a full batch may be sent at once."""
        stops = self._closing or self._must_reset or self._stopped is not None or self._pauses
        return not stops and len(self._buffer) >= self._target.batch_size

    async def _deliver(self, rows: list[EventRow]) -> Sequence[Exception | None]:
        """Return the answer of the target for each event."""
        events: list[UpdateEvent] = []
        damaged: list[int] = []
        for index, row in enumerate(rows):
            try:
                events.append(event_of(row))
            except (ValueError, TypeError, AttributeError):
                damaged.append(index)
        results: list[Exception | None] = []
        try:
            if events:
                results = list(await self._target.deliver(events))
        except BaseException as error:
            if not is_failure(error):
                raise
            failure = error if isinstance(error, Exception) else DeliveryError("it was cancelled")
            results = [failure] * len(events)
        if len(results) != len(events):
            problem = f"target {self.name} gave {len(results)} answers for {len(events)} events"
            results = [DeliveryError(problem)] * len(events)
        for index in damaged:
            results.insert(index, EventRejectedError("its entry in the file is damaged"))
        return results

    def _settle(self, rows: list[EventRow], results: Sequence[Exception | None]) -> None:
        """Decide what follows from the answers of a target."""
        delivered: list[int] = []
        back: set[str] = set()
        unavailable: TargetUnavailableError | None = None
        for row, error in zip(rows, results, strict=True):
            dialog = self._dialogs[row.dialog_id]
            if row.dialog_id in back:
                # The target may have it already. It gets it again, after the one before it.
                dialog.hold(row.id)
            elif error is None:
                delivered.append(row.id)
                dialog.attempts = 0
                dialog.until = 0.0
            elif isinstance(error, TargetGoneError | TargetUnavailableError):
                back.add(row.dialog_id)
                dialog.hold(row.id)
                if isinstance(error, TargetGoneError):
                    self._stop(error)
                elif unavailable is None or _longer(error, unavailable):
                    unavailable = error
            else:
                self._failed(row, dialog, error, back)
        if delivered:
            self._recorder.deliver(self._mask, delivered)
            self._delivered += len(delivered)
            self._depth -= len(delivered)
        if unavailable is not None:
            self._pause(unavailable)
            log(logging.WARNING, "target %s is unavailable: %s", self.name, text_of(unavailable))
        elif self._clock() >= self._paused_until:
            self._pauses = 0
            self._paused_by = None
        for dialog_id in {row.dialog_id for row in rows}:
            self._end(dialog_id)

    def _failed(self, row: EventRow, dialog: _Dialog, error: Exception, back: set[str]) -> None:
        dialog.attempts += 1
        now = recording.clock()
        problem, level = text_of(error), logging.INFO
        self._failures += 1
        if isinstance(error, EventRejectedError) or now - row.settled_at > self._max_age:
            number = self._mask.bit_length() - 1
            self._recorder.bury(DeadRow(number, row.id, dialog.attempts, problem, now))
            dialog.attempts = 0
            dialog.until = 0.0
            self._dead_letters += 1
            self._depth -= 1
            level = logging.WARNING
        else:
            back.add(row.dialog_id)
            dialog.hold(row.id)
            longest = min(LONGEST_BACKOFF, FIRST_BACKOFF * 2 ** min(dialog.attempts - 1, 32))
            dialog.until = self._clock() + longest * random.uniform(0.5, 1)
        log(
            level,
            "event %s of dialog %r was not delivered to %s: %s",
            row.update_id,
            row.dialog_id,
            self.name,
            problem,
        )

    def _end(self, dialog_id: str) -> None:
        """Forget a dialog that is not in flight, or wait until its next event is due."""
        dialog = self._dialogs[dialog_id]
        dialog.busy = False
        if dialog.held:
            heapq.heappush(self._due, (dialog.until, dialog_id))
        else:
            del self._dialogs[dialog_id]

    def _pause(self, error: TargetUnavailableError | None) -> None:
        now = self._clock()
        if now >= self._paused_until:
            self._pauses += 1
        pause = min(LONGEST_BACKOFF, FIRST_PAUSE * 2 ** min(self._pauses - 1, 32))
        pause *= random.uniform(0.5, 1)
        if error is not None and error.retry_after is not None:
            pause = min(max(error.retry_after, SHORTEST_PAUSE), LONGEST_PAUSE)
        if error is not None:
            self._paused_by = text_of(error)
        self._paused_until = max(self._paused_until, now + pause)

    def _stop(self, error: TargetGoneError) -> None:
        self._stopped = text_of(error)
        log(logging.ERROR, "target %s takes no more events: %s", self.name, text_of(error))


def _longer(error: TargetUnavailableError, other: TargetUnavailableError) -> bool:
    return (error.retry_after or 0.0) > (other.retry_after or 0.0)


def text_of(error: BaseException) -> str:
    """Return the text of an error of the library, and only the class of another one."""
    # The text of another exception may have values.
    return str(error) if isinstance(error, CognigyError) else type(error).__name__
