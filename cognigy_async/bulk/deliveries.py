"""What became of the events of a job's rows, where the job's client has callbacks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import anyio

from cognigy_async import CallbackError
from cognigy_async.spi import DeliveryReceipt

from .rows import Row
from .scribe import Scribe

HOOK = "hook "
"""What such an event of the journal begins with; the others are waits."""

PATIENCE = 5.0
"""Seconds that the callbacks have when a run was interrupted."""


class Deliveries:
    """Notes in the journal which callback had the event of which row, and waits for the last ones.

    Args:
        now: seconds of the epoch.
    """

    def __init__(self, scribe: Scribe, now: Callable[[], float]) -> None:
        self._scribe = scribe
        self._now = now
        self.left = 0
        """Events that a callback has not yet taken."""
        self._over: anyio.Event | None = None
        self._scope = anyio.CancelScope()

    def __repr__(self) -> str:
        return f"<Deliveries {self.left} left>"

    def expect(self, rows: Sequence[Row], callback: str) -> DeliveryReceipt:
        """The event of one update, which is that of these rows, waits for a callback."""
        self.left += 1
        settled = self._now()
        for row in rows:
            row.settled = settled
        places = [(row.line, row.dialog_id or "") for row in rows]
        return partial(self._done, places, callback)

    def _done(
        self,
        places: list[tuple[int, str]],
        callback: str,
        error: CallbackError | None,
        calls: int,
    ) -> None:
        at, what = self._now(), f"{HOOK}{callback}: {_told(error, calls)}"
        for line, dialog_id in places:
            self._scribe.event(line, dialog_id, at, what, 0.0)
        self.left -= 1
        if not self.left and self._over is not None:
            self._over.set()

    async def wait(self) -> None:
        """Until none is left; all rows are settled, and each call of a callback has its timeout."""
        if self.left:
            self._over = anyio.Event()
            with self._scope:
                await self._over.wait()

    def hurry(self, seconds: float = PATIENCE) -> None:
        """Wait for them no longer than so many seconds from now."""
        self._scope.deadline = min(self._scope.deadline, anyio.current_time() + seconds)


def _told(error: CallbackError | None, calls: int) -> str:
    if error is None:
        return "delivered" if calls == 1 else f"delivered by call {calls}"
    # The text of what a callback raised is its own, and may hold values.
    why = str(error) if error.__cause__ is None else type(error.__cause__).__name__
    return f"not delivered, {why}" + (f" after {calls} call{'s' * (calls > 1)}" if calls else "")
