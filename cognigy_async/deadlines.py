"""The moments after which updates are not sent any more."""

from __future__ import annotations

import heapq
import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .entries import Entry


class Deadlines:
    """Entries by their deadline. Holds at most as many that are settled as that are not."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Entry]] = []
        self._sweep_at = 1024

    def __len__(self) -> int:
        return len(self._heap)

    def add(self, entry: Entry) -> None:
        """Watch an entry that has a deadline."""
        deadline = entry.terms.deadline
        assert deadline is not None
        heapq.heappush(self._heap, (deadline, entry.serial, entry))
        if len(self._heap) > self._sweep_at:
            self._heap = [place for place in self._heap if not place[2].settled]
            heapq.heapify(self._heap)
            self._sweep_at = max(1024, 2 * len(self._heap))

    def next(self) -> float:
        """The first moment that matters, infinite where there is none."""
        heap = self._heap
        while heap and heap[0][2].settled:
            heapq.heappop(heap)
        return heap[0][0] if heap else math.inf

    def due(self, now: float) -> list[Entry]:
        """The unsettled entries whose moment has come, which are forgotten here."""
        late = []
        while self.next() <= now:
            late.append(heapq.heappop(self._heap)[2])
        return late
