"""Purge stale entries of long-lived containers at a constant cost for each entry."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

KeyT = TypeVar("KeyT")
ValueT = TypeVar("ValueT")


class PurgeThreshold:
    """The size at which a container is purged: twice its size after the last purge.

    A purge visits every entry, but at least half are new since the last purge: adding stays O(1).

    Example::

        if len(heap) > threshold.size:
            heap = [entry for entry in heap if entry.is_live]
            threshold.purged(len(heap))

    Args:
        minimum: smallest number of entries that is worth a purge.
    """

    __slots__ = ("_minimum", "size")

    def __init__(self, minimum: int) -> None:
        self._minimum = self.size = minimum

    def purged(self, left: int) -> None:
        """Set the size for the next purge; the last purge kept `left` entries."""
        self.size = max(self._minimum, 2 * left)


class ExpiringDict(dict[KeyT, ValueT]):
    """A dict whose expired items are purged as new ones are added by `put`.

    Args:
        is_expired: called with a value and the time given to `put`.
        minimum: smallest number of items that is worth a purge.
    """

    def __init__(self, is_expired: Callable[[ValueT, float], bool], minimum: int = 1000) -> None:
        super().__init__()
        self._is_expired = is_expired
        self._threshold = PurgeThreshold(minimum)

    def put(self, key: KeyT, value: ValueT, now: float) -> None:
        """Set an item; `now` is in seconds of the clock that the values use."""
        if len(self) >= self._threshold.size:
            for name in [name for name, each in self.items() if self._is_expired(each, now)]:
                del self[name]
            self._threshold.purged(len(self))
        self[key] = value
