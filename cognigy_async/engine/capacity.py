"""How many updates are accepted and unsettled, and who waits for room: dialogs take turns."""

from __future__ import annotations

from collections import OrderedDict

import anyio

from ..errors import ClientClosedError


class _Waiter:
    __slots__ = ("event", "granted")

    def __init__(self) -> None:
        self.event = anyio.Event()
        self.granted = False


class PendingLimit:
    """Places for `capacity` updates. Dialogs take turns at places that are given back, so that one
    for which thousands wait does not keep out the others; within a dialog nobody overtakes.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.used = 0
        # Those who are cancelled leave from the midst, thousands at a time.
        self._waiters: OrderedDict[str | None, OrderedDict[_Waiter, None]] = OrderedDict()

    def __repr__(self) -> str:
        waiting = sum(map(len, self._waiters.values()))
        return f"<Room {self.used} of {self.capacity} used, {waiting} waiting>"

    def try_take(self) -> bool:
        """Take a place if there is one and nobody waits for it."""
        if self.used >= self.capacity or self._waiters:
            return False
        self.used += 1
        return True

    def take_anyway(self) -> None:
        """Take a place beyond the capacity if need be."""
        self.used += 1

    async def take(self, dialog_id: str | None = None) -> None:
        """Take a place, waiting for it; what is of no certain dialog counts as one more.

        Raises:
            ClientClosedError: the client was closed meanwhile.
        """
        if self.try_take():
            return
        waiter = _Waiter()
        self._waiters.setdefault(dialog_id, OrderedDict())[waiter] = None
        try:
            await waiter.event.wait()
        except BaseException:
            if waiter.granted:
                self.give_back()
            else:
                self._leave(dialog_id, waiter)
            raise
        if not waiter.granted:
            raise ClientClosedError("the client was closed while this update waited for room")

    def _leave(self, dialog_id: str | None, waiter: _Waiter) -> None:
        mine = self._waiters.get(dialog_id)
        if mine is not None:
            mine.pop(waiter, None)
            if not mine:
                del self._waiters[dialog_id]

    def _next(self) -> _Waiter:
        dialog_id, mine = self._waiters.popitem(last=False)
        waiter, _ = mine.popitem(last=False)
        if mine:
            self._waiters[dialog_id] = mine
        return waiter

    def give_back(self) -> None:
        """An update settled."""
        if self._waiters and self.used <= self.capacity:
            waiter = self._next()
            waiter.granted = True
            waiter.event.set()
        else:
            self.used -= 1

    def close(self) -> None:
        """Nobody gets a place any more; those who wait are told so."""
        while self._waiters:
            self._next().event.set()
