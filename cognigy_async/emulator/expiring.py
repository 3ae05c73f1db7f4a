"""A dict that forgets what is over, so that long runs need no more memory than short ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

K = TypeVar("K")
V = TypeVar("V")

SMALL = 1_000


class Expiring(dict[K, V]):
    """Looks for what is over whenever it has doubled: a constant cost for each `put`."""

    def __init__(self, is_over: Callable[[V, float], bool]) -> None:
        super().__init__()
        self._is_over = is_over
        self._most = SMALL

    def put(self, key: K, value: V, now: float) -> None:
        """Set an item."""
        if len(self) >= self._most:
            for over in [name for name, each in self.items() if self._is_over(each, now)]:
                del self[over]
            self._most = max(SMALL, 2 * len(self))
        self[key] = value
