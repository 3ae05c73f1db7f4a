"""Limit the number of updates that are accepted and not yet complete."""

from __future__ import annotations

from collections import OrderedDict

import anyio

from ..errors import ClientClosedError


class PendingLimit:
    """A semaphore that serves its waiters dialog by dialog.

    A released slot goes to the next dialog in turn and, within it, to the oldest waiter. A dialog
    with thousands of waiters therefore delays every other dialog by one slot at most.

    Args:
        capacity: Number of slots.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.used = 0
        # OrderedDict, because cancelled waiters are removed from the middle in O(1).
        self._waiters: OrderedDict[str | None, OrderedDict[_Waiter, None]] = OrderedDict()

    def __repr__(self) -> str:
        waiting = sum(map(len, self._waiters.values()))
        return f"<PendingLimit used={self.used}/{self.capacity} waiting={waiting}>"

    def try_acquire(self) -> bool:
        """Acquire a slot without waiting. Return False if none is free or others are waiting."""
        if self.used >= self.capacity or self._waiters:
            return False
        self.used += 1
        return True

    def acquire_beyond_capacity(self) -> None:
        """Acquire a slot even if none is free, so that callbacks cannot deadlock their client."""
        self.used += 1

    async def acquire(self, dialog_id: str | None = None) -> None:
        """Acquire a slot, waiting until one is free.

        Args:
            dialog_id: Dialog in whose turn to wait; None counts as one more dialog.

        Raises:
            ClientClosedError: `close` was called while waiting.
        """
        if self.try_acquire():
            return
        waiter = _Waiter()
        self._waiters.setdefault(dialog_id, OrderedDict())[waiter] = None
        try:
            await waiter.woken.wait()
        except BaseException:
            if waiter.has_slot:
                self.release()
            else:
                self._remove(dialog_id, waiter)
            raise
        if not waiter.has_slot:
            raise ClientClosedError(
                "the client was closed before this update was accepted; it was not sent"
            )

    def release(self) -> None:
        """Release a slot, handing it to the next waiter if there is one."""
        # While more slots are used than exist, no waiter gets the released slot.
        if self._waiters and self.used <= self.capacity:
            waiter = self._pop_next()
            waiter.has_slot = True
            waiter.woken.set()
        else:
            self.used -= 1

    def close(self) -> None:
        """Wake all waiters without a slot; each raises `ClientClosedError`."""
        while self._waiters:
            self._pop_next().woken.set()

    def _pop_next(self) -> _Waiter:
        """Remove and return the next waiter, moving its dialog to the end of the turn order."""
        dialog_id, queue = self._waiters.popitem(last=False)
        waiter, _ = queue.popitem(last=False)
        if queue:
            self._waiters[dialog_id] = queue
        return waiter

    def _remove(self, dialog_id: str | None, waiter: _Waiter) -> None:
        """Remove a cancelled waiter; it may be gone already if the limit was closed."""
        queue = self._waiters.get(dialog_id)
        if queue is not None:
            queue.pop(waiter, None)
            if not queue:
                del self._waiters[dialog_id]


class _Waiter:
    __slots__ = ("has_slot", "woken")

    def __init__(self) -> None:
        self.woken = anyio.Event()
        self.has_slot = False
