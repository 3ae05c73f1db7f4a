"""A handle on one accepted update."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any

import anyio

if TYPE_CHECKING:
    from ..engine.work_item import WorkItem
    from ..models.results import UpdateResult
    from .lifecycle import Lifecycle


class PendingUpdate:
    """An accepted update. Awaiting it gives its `UpdateResult` or raises its error.

    It may be awaited by several tasks, more than once, or not at all. Cancelling one who awaits it
    does not touch the update; `withdraw` does. It belongs to the event loop of its client, and
    raises `ClientUsageError` in another.
    """

    __slots__ = ("_item", "_lifecycle", "_settled")

    def __init__(self, lifecycle: Lifecycle) -> None:
        self._lifecycle = lifecycle
        self._item: WorkItem | None = None
        self._settled: anyio.Event | None = None

    def bind(self, item: WorkItem) -> None:
        """The entry that this is a handle on."""
        self._item = item

    def notify(self, item: WorkItem, /) -> None:
        """The sink of the entry: wake who awaits it."""
        if self._settled is not None:
            self._settled.set()

    @property
    def item(self) -> WorkItem:
        """The entry in its lane."""
        assert self._item is not None
        return self._item

    @property
    def update_id(self) -> str:
        """The id that it is sent with."""
        return self.item.update_id

    @property
    def dialog_id(self) -> str:
        """The dialog that it goes to."""
        return self.item.dialog_id

    def done(self) -> bool:
        """Whether it has its outcome."""
        return self.item.completed

    def withdraw(self) -> bool:
        """Take it back; true if it was not yet sent, and then it never will be."""
        self._lifecycle.check_home()
        return self._lifecycle.opened().withdraw(self.item)

    async def settled(self) -> WorkItem:
        """Wait for the outcome, whichever it is."""
        item = self.item
        if not item.completed:
            self._lifecycle.check_home()
            if self._settled is None:
                self._settled = anyio.Event()
            await self._settled.wait()
        return item

    async def _result(self) -> UpdateResult:
        item = await self.settled()
        if item.error is not None:
            raise item.error
        assert item.result is not None
        return item.result

    def __await__(self) -> Generator[Any, Any, UpdateResult]:
        return self._result().__await__()

    def __repr__(self) -> str:
        item = self.item
        told = "settled" if item.completed else "sent" if item.sent_at is not None else "waiting"
        return f"<PendingUpdate {item.update_id} dialog={item.dialog_id!r} {told}>"
