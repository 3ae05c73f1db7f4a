"""How many updates are accepted and unsettled, and who waits for room, first come first served."""

from __future__ import annotations

from collections import OrderedDict

import anyio

from .errors import ClientClosedError

__all__ = ["Room"]


class _Waiter:
    __slots__ = ("event", "granted")

    def __init__(self) -> None:
        self.event = anyio.Event()
        self.granted = False


class Room:
    """Places for `capacity` updates. A place that is given back goes to the one that waits longest,
    so nobody who comes later overtakes.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.used = 0
        # Those who are cancelled leave from the midst, thousands at a time.
        self._waiters: OrderedDict[_Waiter, None] = OrderedDict()

    def __repr__(self) -> str:
        return f"<Room {self.used} of {self.capacity} used, {len(self._waiters)} waiting>"

    def try_take(self) -> bool:
        """Take a place if there is one and nobody waits for it."""
        if self.used >= self.capacity or self._waiters:
            return False
        self.used += 1
        return True

    def take_anyway(self) -> None:
        """Take a place beyond the capacity if need be."""
        self.used += 1

    async def take(self) -> None:
        """Take a place, waiting for it.

        Raises:
            ClientClosedError: the client was closed meanwhile.
        """
        if self.try_take():
            return
        waiter = _Waiter()
        self._waiters[waiter] = None
        try:
            await waiter.event.wait()
        except BaseException:
            if waiter.granted:
                self.give_back()
            else:
                self._waiters.pop(waiter, None)
            raise
        if not waiter.granted:
            raise ClientClosedError("the client was closed while this update waited for room")

    def give_back(self) -> None:
        """An update settled."""
        if self._waiters and self.used <= self.capacity:
            waiter, _ = self._waiters.popitem(last=False)
            waiter.granted = True
            waiter.event.set()
        else:
            self.used -= 1

    def close(self) -> None:
        """Nobody gets a place any more; those who wait are told so."""
        while self._waiters:
            self._waiters.popitem(last=False)[0].event.set()
