"""Write the intents, the outcomes and the deliveries of a process to its file, in groups."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from cognigy_async import OutboxError, UpdateEvent
from cognigy_async._utils.group_commit import GroupCommit
from cognigy_async.spi import load_outcome, load_update

from .store import Batch, DeadRow, EventRow, Store

T = TypeVar("T")

GATHERING = 0.05
"""Seconds for which deliveries are gathered. A crash repeats those that are not written."""
INTERVAL = 0.001
"""Seconds from one commit to the next if several updates wait for each."""

clock = time.time
"""Return seconds of the epoch; outcomes and ages use this clock."""


class Recorder:
    """The file of this process, written by one thread outside the event loop.

    Args:
        on_written: called in the event loop after each batch, with an empty one if it could not be
            written.

    Attributes:
        commits: writes the batches.
        batch: changes that are written next.
    """

    def __init__(self, store: Store, on_written: Callable[[Batch], None]) -> None:
        self.store = store
        self.batch = Batch()
        self.commits = GroupCommit(
            self,
            OutboxError,
            gathering=GATHERING,
            interval=INTERVAL,
            ends_on_error=False,
        )
        self._on_written = on_written

    def take(self) -> Batch:
        """Return the changes since the last call."""
        batch, self.batch = self.batch, Batch()

        def written(error: OutboxError | None) -> None:
            self._on_written(batch if error is None else Batch())

        self.commits.when_written(written)
        return batch

    def write(self, batch: Batch) -> None:
        """Write a batch, in the thread.

        Raises:
            OutboxError: it cannot be written. Deliveries in it are written with a later one.
        """
        try:
            self.store.write(batch)
        except OutboxError:
            later = self.batch
            later.withdrawn += batch.withdrawn
            later.dead += batch.dead
            for mask, ids in batch.delivered.items():
                later.delivered.setdefault(mask, []).extend(ids)
            raise

    def deliver(self, mask: int, ids: Sequence[int]) -> None:
        """Record that a target has events."""
        self.batch.delivered.setdefault(mask, []).extend(ids)
        self.commits.noted.set()

    def bury(self, row: DeadRow) -> None:
        """Record a dead letter."""
        self.batch.dead.append(row)
        self.commits.noted.set()

    def retry(self) -> None:
        """Write soon what could not be written before."""
        if self.batch.delivered or self.batch.dead or self.batch.withdrawn:
            self.commits.noted.set()

    async def call(self, function: Callable[[Store], T]) -> T:
        """Call a function with the store, in the thread.

        Raises:
            OutboxError: the file cannot be read.
        """
        return await self.commits.in_thread(function, self.store)


def event_of(row: EventRow) -> UpdateEvent:
    """Return the event of a row.

    Raises:
        ValueError, TypeError, AttributeError: the row is damaged.
    """
    update, metadata, _ = load_update(row.dialog_id, row.content)
    outcome = load_outcome(row.dialog_id, row.update_id, row.outcome, row.answer)
    error = outcome if isinstance(outcome, Exception) else None
    result = None if isinstance(outcome, Exception) else outcome
    return UpdateEvent(row.dialog_id, row.update_id, update, result, error, metadata)
