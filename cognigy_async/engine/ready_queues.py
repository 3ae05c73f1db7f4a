"""The dialogs that have something to do: turns and waiting. No clock, no await, no network.

`Lanes` holds the lanes that have something to do, and nothing of dialogs that have not.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING

from .dialog_queue import IDLE, IN_FLIGHT, PAUSED, READY, WAITING, Lane

if TYPE_CHECKING:
    from ..errors import CognigyError
    from .work_item import Entry


class Lanes:
    """The lanes with something to do, and whose turn it is.

    Ready lanes take turns, in three classes: urgent (what a callback waits for), live, bulk. A lane
    belongs to the highest class of its entries, so that what stands before a live update is lifted
    with it. Bulk work gets every tenth turn although live work is waiting.
    """

    BULK_TURN = 10

    def __init__(self) -> None:
        self._by_dialog: dict[str, Lane] = {}
        self.urgent: deque[Lane] = deque()
        self.live: deque[Lane] = deque()
        self.bulk: deque[Lane] = deque()
        self._timers: list[tuple[float, int, Lane]] = []
        self._ties = 0
        self._since_bulk = 0
        self._sweep_at = 1024

    def __len__(self) -> int:
        return len(self._by_dialog)

    def __iter__(self) -> Iterator[Lane]:
        return iter(list(self._by_dialog.values()))

    def __repr__(self) -> str:
        states = [lane.state.name for lane in self._by_dialog.values()]
        told = ", ".join(f"{states.count(name)} {name}" for name in sorted(set(states)))
        return f"<Lanes {told or 'empty'}>"

    def get(self, dialog_id: str) -> Lane | None:
        """The lane of a dialog, if it has anything to do."""
        return self._by_dialog.get(dialog_id)

    def accept(self, entry: Entry, lane: Lane | None = None) -> None:
        """Put an entry at the end of its dialog's lane, or into `lane`, which stands alone."""
        if lane is None:
            dialog_id = entry.dialog_id
            lane = self._by_dialog.get(dialog_id)
            if lane is None:
                lane = Lane(dialog_id, entry, None, READY, int(entry.live), int(entry.exempt))
                self._by_dialog[dialog_id] = lane
                entry.lane = lane
                queue = self.urgent if lane.exempt else self.live if lane.live else self.bulk
                lane.queue = queue
                queue.append(lane)
                if len(queue) > self._sweep_at:
                    self._sweep()
                return
        if lane.state is IDLE:
            lane.append(entry)
            lane.move(READY)
            self._queue(lane)
            return
        lifted = (entry.live and not lane.live) or (entry.exempt and not lane.exempt)
        lane.append(entry)
        if lifted and lane.state is READY:
            self._queue(lane)

    def ready(self, lane: Lane, *, first: bool = False, urgent: bool = False) -> None:
        """The head may be sent: at its turn, or before the others of its class, or before all."""
        lane.move(READY)
        self._queue(lane, first=first, urgent=urgent)

    def _queue(self, lane: Lane, *, first: bool = False, urgent: bool = False) -> None:
        if urgent or lane.exempt:
            queue = self.urgent
        else:
            queue = self.live if lane.live else self.bulk
        lane.queue = queue
        if first:
            queue.appendleft(lane)
        else:
            queue.append(lane)
        if len(queue) > self._sweep_at:
            self._sweep()

    def _sweep(self) -> None:
        """Forget the places and moments that lanes have left behind."""
        for queue in (self.urgent, self.live, self.bulk):
            places = [lane for lane in queue if lane.queue is queue]
            queue.clear()
            queue.extend(places)
        self._timers = list(filter(self._is_current, self._timers))
        heapq.heapify(self._timers)
        most = max(self.waiting(), len(self._timers))
        self._sweep_at = max(1024, 2 * most)

    @property
    def any_waiting(self) -> bool:
        """Whether a lane is ready, or was."""
        return bool(self.bulk or self.live or self.urgent)

    def waiting(self) -> int:
        """How many lanes are ready, or were."""
        return len(self.live) + len(self.bulk) + len(self.urgent)

    def waiting_before_bulk(self) -> int:
        """How many of them go before bulk work."""
        return len(self.live) + len(self.urgent)

    def take(self, *, bulk: bool = True, placed: bool = False) -> Lane | None:
        """The lane whose turn it is, now in flight.

        Args:
            bulk: without it, no lane of bulk work.
            placed: only what has its place in the queues of the callbacks, or needs none.
        """
        if placed:
            return self._take_placed(bulk=bulk)
        lane = self._next(self.urgent) if self.urgent else None
        if lane is None:
            due = self._since_bulk >= self.BULK_TURN - 1
            if self.live and not (bulk and due and self.bulk):
                self._since_bulk += 1
                lane = self._next(self.live)
            if lane is None and bulk and self.bulk:
                lane = self._next(self.bulk)
                if lane is not None:
                    self._since_bulk = 0
            if lane is None and bulk and due and self.live:
                lane = self._next_live()
        return lane

    def _next_live(self) -> Lane | None:
        self._since_bulk += 1
        return self._next(self.live)

    @property
    def bulk_is_due(self) -> bool:
        """Whether so much live work went before bulk work that it is the turn of that."""
        return self._since_bulk >= self.BULK_TURN - 1 and bool(self.bulk)

    def _take_placed(self, *, bulk: bool) -> Lane | None:
        for queue in (self.urgent, self.live, self.bulk) if bulk else (self.urgent, self.live):
            for lane in queue:
                head = lane.head
                if lane.queue is queue and head is not None and (lane.exempt or head.has_place):
                    queue.remove(lane)
                    lane.begin()
                    return lane
        return None

    def promote_bulk(self) -> Lane | None:
        """Let the next lane of bulk work go before all others."""
        while self.bulk:
            lane = self.bulk.popleft()
            if lane.queue is self.bulk:
                self._queue(lane, urgent=True)
                return lane
        return None

    def take_live(self) -> Lane | None:
        """The next lane of live work, now in flight; one that has to be refused."""
        return self._next(self.live)

    @staticmethod
    def _next(queue: deque[Lane]) -> Lane | None:
        while queue:
            lane = queue.popleft()
            # A lane that was lifted or emptied leaves its old place behind.
            if lane.queue is queue:
                if lane.state is not READY:
                    lane.move(IN_FLIGHT)
                lane.queue = None
                lane.state = IN_FLIGHT
                return lane
        return None

    def wait(self, lane: Lane, until: float) -> None:
        """Back off until a moment; `until` may be infinite, then someone else wakes the lane."""
        lane.move(WAITING)
        lane.until = until
        if until != math.inf:
            self._ties += 1
            heapq.heappush(self._timers, (until, self._ties, lane))
            if len(self._timers) > self._sweep_at:
                self._sweep()

    def next_due(self) -> float:
        """The moment at which the first waiting lane is ready, infinite where there is none."""
        timers = self._timers
        while timers and not self._is_current(timers[0]):
            heapq.heappop(timers)
        return timers[0][0] if timers else math.inf

    @staticmethod
    def _is_current(timer: tuple[float, int, Lane]) -> bool:
        until, _, lane = timer
        return lane.state is WAITING and lane.until == until

    def due(self, now: float) -> int:
        """Make the lanes ready whose moment has come; how many there were."""
        count = 0
        while self.next_due() <= now:
            lane = heapq.heappop(self._timers)[2]
            self.ready(lane)
            count += 1
        return count

    def finish(self, lane: Lane) -> None:
        """Take out the head, which has its outcome; the lane goes on, or is forgotten."""
        entry = lane.head
        if entry is None or lane.behind or lane.state is not IN_FLIGHT:
            lane.remove(lane.first)
            self.next_or_drop(lane)
            return
        lane.head = entry.lane = None
        lane.live = lane.exempt = 0
        lane.state = IDLE
        if self._by_dialog.get(lane.dialog_id) is lane:
            del self._by_dialog[lane.dialog_id]

    def next_or_drop(self, lane: Lane) -> None:
        """After its head is gone: make the lane ready if it has more, else forget it."""
        if lane.head is None:
            self.drop(lane)
        elif lane.state is not READY:
            self.ready(lane)

    def drop(self, lane: Lane) -> None:
        """Forget a lane that has nothing to do."""
        lane.move(IDLE)
        lane.queue = None
        if self._by_dialog.get(lane.dialog_id) is lane:
            del self._by_dialog[lane.dialog_id]

    def remove(self, entry: Entry) -> None:
        """Take out an entry that was not sent; its lane stays or goes as it must."""
        lane = entry.lane
        if lane is None:
            raise AssertionError("the entry is in no lane")
        was_head = entry is lane.head
        lane.remove(entry)
        if lane.state is PAUSED:
            return
        if lane.head is None:
            self.drop(lane)
        elif lane.state is WAITING and was_head:
            self.ready(lane)

    def pause(self, lane: Lane, error: CognigyError) -> None:
        """Hold back what follows a failed update until `resume`."""
        lane.move(PAUSED)
        lane.queue = None
        lane.paused_by = error

    def resume(self, lane: Lane) -> None:
        """Let a paused lane go on."""
        lane.paused_by = None
        self.next_or_drop(lane)


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
