"""A dict that drops expired items, so that long runs need no more memory than short ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

K = TypeVar("K")
V = TypeVar("V")

MIN_SIZE = 1_000


class Expiring(dict[K, V]):
    """A dict that drops expired items whenever it has doubled: constant cost for each `put`."""

    def __init__(self, is_expired: Callable[[V, float], bool]) -> None:
        super().__init__()
        self._is_expired = is_expired
        self._sweep_at = MIN_SIZE

    def put(self, key: K, value: V, now: float) -> None:
        """Set an item; drop expired ones if the dict has doubled."""
        if len(self) >= self._sweep_at:
            for expired in [name for name, each in self.items() if self._is_expired(each, now)]:
                del self[expired]
            self._sweep_at = max(MIN_SIZE, 2 * len(self))
        self[key] = value
