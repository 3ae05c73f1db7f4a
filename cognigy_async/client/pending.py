"""A handle on one accepted update."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any

import anyio

if TYPE_CHECKING:
    from ..engine.work_item import Entry
    from ..models.results import UpdateResult
    from .lifecycle import Life


class PendingUpdate:
    """An accepted update. Awaiting it gives its `UpdateResult` or raises its error.

    It may be awaited by several tasks, more than once, or not at all. Cancelling one who awaits it
    does not touch the update; `withdraw` does. It belongs to the event loop of its client, and
    raises `ClientUsageError` in another.
    """

    __slots__ = ("_entry", "_life", "_settled")

    def __init__(self, life: Life) -> None:
        self._life = life
        self._entry: Entry | None = None
        self._settled: anyio.Event | None = None

    def bind(self, entry: Entry) -> None:
        """The entry that this is a handle on."""
        self._entry = entry

    def notify(self, entry: Entry, /) -> None:
        """The sink of the entry: wake who awaits it."""
        if self._settled is not None:
            self._settled.set()

    @property
    def entry(self) -> Entry:
        """The entry in its lane."""
        assert self._entry is not None
        return self._entry

    @property
    def update_id(self) -> str:
        """The id that it is sent with."""
        return self.entry.update_id

    @property
    def dialog_id(self) -> str:
        """The dialog that it goes to."""
        return self.entry.dialog_id

    def done(self) -> bool:
        """Whether it has its outcome."""
        return self.entry.settled

    def withdraw(self) -> bool:
        """Take it back; true if it was not yet sent, and then it never will be."""
        self._life.check_home()
        return self._life.opened().withdraw(self.entry)

    async def settled(self) -> Entry:
        """Wait for the outcome, whichever it is."""
        entry = self.entry
        if not entry.settled:
            self._life.check_home()
            if self._settled is None:
                self._settled = anyio.Event()
            await self._settled.wait()
        return entry

    async def _result(self) -> UpdateResult:
        entry = await self.settled()
        if entry.error is not None:
            raise entry.error
        assert entry.result is not None
        return entry.result

    def __await__(self) -> Generator[Any, Any, UpdateResult]:
        return self._result().__await__()

    def __repr__(self) -> str:
        entry = self.entry
        told = "settled" if entry.settled else "sent" if entry.sent_at is not None else "waiting"
        return f"<PendingUpdate {entry.update_id} dialog={entry.dialog_id!r} {told}>"
