"""The dialogs that have something to do: turns and waiting. No clock, no await, no network.

`Lanes` holds the lanes that have something to do, and nothing of dialogs that have not.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING

from .dialog_queue import IDLE, IN_FLIGHT, PAUSED, READY, WAITING, DialogQueue

if TYPE_CHECKING:
    from ..errors import CognigyError
    from .work_item import WorkItem


class ReadyQueues:
    """The lanes with something to do, and whose turn it is.

    Ready lanes take turns, in three classes: urgent (what a callback waits for), live, bulk. A lane
    belongs to the highest class of its entries, so that what stands before a live update is lifted
    with it. Bulk work gets every tenth turn although live work is waiting.
    """

    BULK_TURN = 10

    def __init__(self) -> None:
        self._by_dialog: dict[str, DialogQueue] = {}
        self.urgent: deque[DialogQueue] = deque()
        self.live: deque[DialogQueue] = deque()
        self.bulk: deque[DialogQueue] = deque()
        self._timers: list[tuple[float, int, DialogQueue]] = []
        self._ties = 0
        self._since_bulk = 0
        self._sweep_at = 1024

    def __len__(self) -> int:
        return len(self._by_dialog)

    def __iter__(self) -> Iterator[DialogQueue]:
        return iter(list(self._by_dialog.values()))

    def __repr__(self) -> str:
        states = [queue.state.name for queue in self._by_dialog.values()]
        told = ", ".join(f"{states.count(name)} {name}" for name in sorted(set(states)))
        return f"<Lanes {told or 'empty'}>"

    def get(self, dialog_id: str) -> DialogQueue | None:
        """The lane of a dialog, if it has anything to do."""
        return self._by_dialog.get(dialog_id)

    def accept(self, item: WorkItem, queue: DialogQueue | None = None) -> None:
        """Put an entry at the end of its dialog's lane, or into `lane`, which stands alone."""
        if queue is None:
            dialog_id = item.dialog_id
            queue = self._by_dialog.get(dialog_id)
            if queue is None:
                queue = DialogQueue(
                    dialog_id, item, None, READY, int(item.live), int(item.from_callback)
                )
                self._by_dialog[dialog_id] = queue
                item.queue = queue
                ready_list = (
                    self.urgent if queue.from_callback else self.live if queue.live else self.bulk
                )
                queue.ready_list = ready_list
                ready_list.append(queue)
                if len(ready_list) > self._sweep_at:
                    self._sweep()
                return
        if queue.state is IDLE:
            queue.append(item)
            queue.move(READY)
            self._enqueue(queue)
            return
        lifted = (item.live and not queue.live) or (item.from_callback and not queue.from_callback)
        queue.append(item)
        if lifted and queue.state is READY:
            self._enqueue(queue)

    def ready(self, queue: DialogQueue, *, first: bool = False, urgent: bool = False) -> None:
        """The head may be sent: at its turn, or before the others of its class, or before all."""
        queue.move(READY)
        self._enqueue(queue, first=first, urgent=urgent)

    def _enqueue(self, queue: DialogQueue, *, first: bool = False, urgent: bool = False) -> None:
        if urgent or queue.from_callback:
            ready_list = self.urgent
        else:
            ready_list = self.live if queue.live else self.bulk
        queue.ready_list = ready_list
        if first:
            ready_list.appendleft(queue)
        else:
            ready_list.append(queue)
        if len(ready_list) > self._sweep_at:
            self._sweep()

    def _sweep(self) -> None:
        """Forget the places and moments that lanes have left behind."""
        for ready_list in (self.urgent, self.live, self.bulk):
            free_slots = [queue for queue in ready_list if queue.ready_list is ready_list]
            ready_list.clear()
            ready_list.extend(free_slots)
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

    def take(self, *, bulk: bool = True, reserved_only: bool = False) -> DialogQueue | None:
        """The lane whose turn it is, now in flight.

        Args:
            bulk: without it, no lane of bulk work.
            placed: only what has its place in the queues of the callbacks, or needs none.
        """
        if reserved_only:
            return self._take_reserved(bulk=bulk)
        queue = self._next(self.urgent) if self.urgent else None
        if queue is None:
            due = self._since_bulk >= self.BULK_TURN - 1
            if self.live and not (bulk and due and self.bulk):
                self._since_bulk += 1
                queue = self._next(self.live)
            if queue is None and bulk and self.bulk:
                queue = self._next(self.bulk)
                if queue is not None:
                    self._since_bulk = 0
            if queue is None and bulk and due and self.live:
                queue = self._next_live()
        return queue

    def _next_live(self) -> DialogQueue | None:
        self._since_bulk += 1
        return self._next(self.live)

    @property
    def bulk_is_due(self) -> bool:
        """Whether so much live work went before bulk work that it is the turn of that."""
        return self._since_bulk >= self.BULK_TURN - 1 and bool(self.bulk)

    def _take_reserved(self, *, bulk: bool) -> DialogQueue | None:
        for ready_list in (self.urgent, self.live, self.bulk) if bulk else (self.urgent, self.live):
            for queue in ready_list:
                head = queue.head
                if (
                    queue.ready_list is ready_list
                    and head is not None
                    and (queue.from_callback or head.has_slot)
                ):
                    ready_list.remove(queue)
                    queue.begin()
                    return queue
        return None

    def promote_bulk(self) -> DialogQueue | None:
        """Let the next lane of bulk work go before all others."""
        while self.bulk:
            queue = self.bulk.popleft()
            if queue.ready_list is self.bulk:
                self._enqueue(queue, urgent=True)
                return queue
        return None

    def take_live(self) -> DialogQueue | None:
        """The next lane of live work, now in flight; one that has to be refused."""
        return self._next(self.live)

    @staticmethod
    def _next(ready_list: deque[DialogQueue]) -> DialogQueue | None:
        while ready_list:
            queue = ready_list.popleft()
            # A lane that was lifted or emptied leaves its old place behind.
            if queue.ready_list is ready_list:
                if queue.state is not READY:
                    queue.move(IN_FLIGHT)
                queue.ready_list = None
                queue.state = IN_FLIGHT
                return queue
        return None

    def wait(self, queue: DialogQueue, until: float) -> None:
        """Back off until a moment; `until` may be infinite, then someone else wakes the lane."""
        queue.move(WAITING)
        queue.until = until
        if until != math.inf:
            self._ties += 1
            heapq.heappush(self._timers, (until, self._ties, queue))
            if len(self._timers) > self._sweep_at:
                self._sweep()

    def next_due(self) -> float:
        """The moment at which the first waiting lane is ready, infinite where there is none."""
        timers = self._timers
        while timers and not self._is_current(timers[0]):
            heapq.heappop(timers)
        return timers[0][0] if timers else math.inf

    @staticmethod
    def _is_current(timer: tuple[float, int, DialogQueue]) -> bool:
        until, _, queue = timer
        return queue.state is WAITING and queue.until == until

    def due(self, now: float) -> int:
        """Make the lanes ready whose moment has come; how many there were."""
        count = 0
        while self.next_due() <= now:
            queue = heapq.heappop(self._timers)[2]
            self.ready(queue)
            count += 1
        return count

    def finish(self, queue: DialogQueue) -> None:
        """Take out the head, which has its outcome; the lane goes on, or is forgotten."""
        item = queue.head
        if item is None or queue.behind or queue.state is not IN_FLIGHT:
            queue.remove(queue.first)
            self.next_or_drop(queue)
            return
        queue.head = item.queue = None
        queue.live = queue.from_callback = 0
        queue.state = IDLE
        if self._by_dialog.get(queue.dialog_id) is queue:
            del self._by_dialog[queue.dialog_id]

    def next_or_drop(self, queue: DialogQueue) -> None:
        """After its head is gone: make the lane ready if it has more, else forget it."""
        if queue.head is None:
            self.drop(queue)
        elif queue.state is not READY:
            self.ready(queue)

    def drop(self, queue: DialogQueue) -> None:
        """Forget a lane that has nothing to do."""
        queue.move(IDLE)
        queue.ready_list = None
        if self._by_dialog.get(queue.dialog_id) is queue:
            del self._by_dialog[queue.dialog_id]

    def remove(self, item: WorkItem) -> None:
        """Take out an entry that was not sent; its lane stays or goes as it must."""
        queue = item.queue
        if queue is None:
            raise AssertionError("the entry is in no lane")
        was_head = item is queue.head
        queue.remove(item)
        if queue.state is PAUSED:
            return
        if queue.head is None:
            self.drop(queue)
        elif queue.state is WAITING and was_head:
            self.ready(queue)

    def pause(self, queue: DialogQueue, error: CognigyError) -> None:
        """Hold back what follows a failed update until `resume`."""
        queue.move(PAUSED)
        queue.ready_list = None
        queue.paused_by = error

    def resume(self, queue: DialogQueue) -> None:
        """Let a paused lane go on."""
        queue.paused_by = None
        self.next_or_drop(queue)


class Deadlines:
    """Entries by their deadline. Holds at most as many that are settled as that are not."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, WorkItem]] = []
        self._sweep_at = 1024

    def __len__(self) -> int:
        return len(self._heap)

    def add(self, item: WorkItem) -> None:
        """Watch an entry that has a deadline."""
        deadline = item.options.deadline
        assert deadline is not None
        heapq.heappush(self._heap, (deadline, item.serial, item))
        if len(self._heap) > self._sweep_at:
            self._heap = [place for place in self._heap if not place[2].completed]
            heapq.heapify(self._heap)
            self._sweep_at = max(1024, 2 * len(self._heap))

    def next(self) -> float:
        """The first moment that matters, infinite where there is none."""
        heap = self._heap
        while heap and heap[0][2].completed:
            heapq.heappop(heap)
        return heap[0][0] if heap else math.inf

    def due(self, now: float) -> list[WorkItem]:
        """The unsettled entries whose moment has come, which are forgotten here."""
        late = []
        while self.next() <= now:
            late.append(heapq.heappop(self._heap)[2])
        return late
