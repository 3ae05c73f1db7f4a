"""Receipts of the events of a job's rows, if the job's client has callbacks."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import anyio

from cognigy_async import CallbackError
from cognigy_async.spi import DeliveryReceipt

from .input.row import Row
from .journal.schema import HOOK
from .journal.writer import JournalWriter

PATIENCE = 5.0
"""Seconds that an interrupted run waits for its callbacks to finish."""


class CallbackReceipts:
    """Records in the journal which callback handled which event; waits for pending ones."""

    def __init__(self, writer: JournalWriter) -> None:
        self._writer = writer
        self.pending = 0
        """Number of events that a callback still has to handle."""
        self._finished: anyio.Event | None = None
        self._waiting = anyio.CancelScope()

    def __repr__(self) -> str:
        return f"<CallbackReceipts {self.pending} pending>"

    def expect(self, rows: Sequence[Row], callback: str) -> DeliveryReceipt:
        """Return the receipt for the event of the update that carries these rows."""
        self.pending += 1
        now = self._writer.now()
        for row in rows:
            row.completed_at = now
        # Keep line and dialog only, so that the content of the rows can be freed.
        places = [(row.line, row.dialog_id) for row in rows]
        return partial(self._record, places, callback)

    def _record(
        self,
        places: list[tuple[int, str | None]],
        callback: str,
        error: CallbackError | None,
        calls: int,
    ) -> None:
        what = f"{HOOK}{callback}: {_description(error, calls)}"
        for line, dialog_id in places:
            self._writer.event(line, dialog_id, what)
        self.pending -= 1
        if not self.pending and self._finished is not None:
            self._finished.set()

    async def wait(self) -> None:
        """Wait until no event is pending. A timeout limits each call of a callback."""
        if self.pending:
            self._finished = anyio.Event()
            with self._waiting:
                await self._finished.wait()

    def hurry(self, seconds: float = PATIENCE) -> None:
        """Make `wait` return within `seconds` from now."""
        self._waiting.deadline = min(self._waiting.deadline, anyio.current_time() + seconds)


def _description(error: CallbackError | None, calls: int) -> str:
    if error is None:
        return "delivered" if calls == 1 else f"delivered by call {calls}"
    # The text of an exception from a callback may hold values, so use only its type.
    why = str(error) if error.__cause__ is None else type(error.__cause__).__name__
    return f"not delivered, {why}" + (f" after {calls} call{'s' * (calls > 1)}" if calls else "")
