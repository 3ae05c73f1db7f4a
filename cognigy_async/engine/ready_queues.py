"""The queues of dialogs with work: choose the next one, and keep the times of waiting ones.

This module uses no clock, no await and no network. It does not keep dialogs without work.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from .._utils.purging import PurgeThreshold
from .dialog_queue import IDLE, IN_FLIGHT, PAUSED, READY, RECORDING, WAITING, DialogQueue
from .work_item import READ

if TYPE_CHECKING:
    from ..errors import CognigyError
    from .work_item import WorkItem

MIN_PURGE_SIZE = 1024
"""Number of list entries or timers below which no stale ones are removed."""


class ReadyQueues:
    """The queues of all dialogs with work; chooses the queue to send next.

    Ready queues take turns in three classes: urgent (a callback waits for it), live, bulk. A queue
    belongs to the highest class of its items, so that items before a live update are promoted
    with it. Bulk work gets every tenth turn even while live work is waiting.

    Attributes:
        urgent, live, bulk: the ready queues of each class, in the order of their turns. They may
            hold stale references to queues that moved.
        paused: the paused queues by dialog.
    """

    BULK_TURN = 10

    def __init__(self) -> None:
        self._by_dialog: dict[str, DialogQueue] = {}
        self.urgent: deque[DialogQueue] = deque()
        self.live: deque[DialogQueue] = deque()
        self.bulk: deque[DialogQueue] = deque()
        # The same for the queues whose head has a slot in the callback queues or needs none. While
        # a callback queue is full, these are found without a search among all others.
        self._urgent_with_slot: deque[DialogQueue] = deque()
        self._live_with_slot: deque[DialogQueue] = deque()
        self._bulk_with_slot: deque[DialogQueue] = deque()
        self.paused: dict[str, DialogQueue] = {}
        self._timers: list[tuple[float, int, DialogQueue]] = []
        self._ties = 0
        self._since_bulk = 0
        self._purge_threshold = PurgeThreshold(MIN_PURGE_SIZE)

    def __len__(self) -> int:
        return len(self._by_dialog)

    @property
    def active(self) -> int:
        """Number of dialogs with work that are not paused."""
        return len(self._by_dialog) - len(self.paused)

    def __iter__(self) -> Iterator[DialogQueue]:
        return iter(list(self._by_dialog.values()))

    def __repr__(self) -> str:
        states = [queue.state.name for queue in self._by_dialog.values()]
        counts = ", ".join(f"{states.count(name)} {name}" for name in sorted(set(states)))
        return f"<ReadyQueues {counts or 'empty'}>"

    def get(self, dialog_id: str) -> DialogQueue | None:
        """Return the queue of a dialog, or None if the dialog has no work."""
        return self._by_dialog.get(dialog_id)

    def accept(self, item: WorkItem, queue: DialogQueue | None = None) -> None:
        """Add an item at the end of its dialog's queue, or to `queue`, which belongs to a read."""
        if queue is None:
            dialog_id = item.dialog_id
            queue = self._by_dialog.get(dialog_id)
            if queue is None:
                queue = DialogQueue(
                    dialog_id, item, None, READY, int(item.live), int(item.from_callback)
                )
                self._by_dialog[dialog_id] = queue
                item.queue = queue
                if queue.from_callback:
                    self._enqueue(queue)
                    return
                ready_list = self.live if queue.live else self.bulk
                queue.ready_list = ready_list
                ready_list.append(queue)
                if len(ready_list) > self._purge_threshold.size:
                    self._purge()
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

    def accept_first(self, items: Sequence[WorkItem]) -> None:
        """Add items of one dialog before its others; see `DialogQueue.insert`."""
        queue = self._by_dialog.get(items[0].dialog_id)
        if queue is not None:
            queue.insert(items)
            return
        for item in items:
            self.accept(item)

    def ready(self, queue: DialogQueue, *, first: bool = False, urgent: bool = False) -> None:
        """Make a queue ready, at the end of its class, as its `first`, or as `urgent`."""
        queue.move(READY)
        self._enqueue(queue, first=first, urgent=urgent)

    def _enqueue(self, queue: DialogQueue, *, first: bool = False, urgent: bool = False) -> None:
        if urgent or queue.from_callback:
            ready_list, with_slot = self.urgent, self._urgent_with_slot
        elif queue.live:
            ready_list, with_slot = self.live, self._live_with_slot
        else:
            ready_list, with_slot = self.bulk, self._bulk_with_slot
        queue.ready_list = ready_list
        if first:
            ready_list.appendleft(queue)
        else:
            ready_list.append(queue)
        head = queue.head
        assert head is not None
        if head.sent_at is not None or queue.from_callback or head.kind is READ:
            if first:
                with_slot.appendleft(queue)
            else:
                with_slot.append(queue)
        size = self._purge_threshold.size
        if len(ready_list) > size or len(with_slot) > size:
            self._purge()

    def _purge(self) -> None:
        """Remove stale references and timers of queues that moved."""
        for ready_list, with_slot in self._classes():
            # A queue that was taken from `with_slot` left a reference in its other list.
            unique = dict.fromkeys(ready_list) if with_slot else ready_list
            for references, entries in (with_slot, dict.fromkeys(with_slot)), (ready_list, unique):
                current = [queue for queue in entries if queue.ready_list is ready_list]
                references.clear()
                references.extend(current)
        self._timers = list(filter(self._is_current, self._timers))
        heapq.heapify(self._timers)
        most = max(self.waiting(), len(self._timers))
        self._purge_threshold.purged(most)

    def _classes(self) -> tuple[tuple[deque[DialogQueue], deque[DialogQueue]], ...]:
        """Return both lists of each class, the highest class first."""
        return (
            (self.urgent, self._urgent_with_slot),
            (self.live, self._live_with_slot),
            (self.bulk, self._bulk_with_slot),
        )

    def waiting(self) -> int:
        """Return the number of entries in the ready lists."""
        return len(self.live) + len(self.bulk) + len(self.urgent)

    def waiting_before_bulk(self) -> int:
        """Return the number of entries that are served before bulk work."""
        return len(self.live) + len(self.urgent)

    def take(self, *, bulk: bool = True, reserved_only: bool = False) -> DialogQueue | None:
        """Mark the next queue as in flight and return it, or return None.

        Args:
            bulk: include bulk work.
            reserved_only: only queues whose head has a slot in the callback queues or needs none.
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
        if queue is None:
            for ready_list, with_slot in self._classes():
                if not ready_list:
                    with_slot.clear()
        return queue

    def _next_live(self) -> DialogQueue | None:
        self._since_bulk += 1
        return self._next(self.live)

    @property
    def bulk_is_due(self) -> bool:
        """Return whether it is the turn of bulk work, after nine turns of live work."""
        return self._since_bulk >= self.BULK_TURN - 1 and bool(self.bulk)

    def _take_reserved(self, *, bulk: bool) -> DialogQueue | None:
        for ready_list, with_slot in self._classes() if bulk else self._classes()[:2]:
            while with_slot:
                queue = with_slot.popleft()
                if queue.ready_list is ready_list and (queue.from_callback or queue.first.has_slot):
                    queue.begin()
                    # Most of these are first: leave no list that holds nothing but references.
                    while ready_list and ready_list[0].ready_list is not ready_list:
                        ready_list.popleft()
                    return queue
        return None

    def has_fresh_bulk(self) -> bool:
        """Return whether a bulk queue is ready whose head was not sent yet."""
        bulk = self.bulk
        return any(one.ready_list is bulk and one.first.sent_at is None for one in bulk)

    def promote_bulk(self) -> DialogQueue | None:
        """Make the next bulk queue urgent and return it, or None."""
        while self.bulk:
            queue = self.bulk.popleft()
            if queue.ready_list is self.bulk:
                self._enqueue(queue, urgent=True)
                return queue
        return None

    def first_live(self) -> Iterator[DialogQueue]:
        """Yield the first urgent and the first live queue whose heads are live; they stay ready."""
        for ready_list in (self.urgent, self.live):
            while ready_list and ready_list[0].ready_list is not ready_list:
                ready_list.popleft()
            if ready_list and ready_list[0].first.live:
                yield ready_list[0]

    def take_first(self, queue: DialogQueue) -> None:
        """Mark a queue as in flight that `first_live` yielded."""
        assert queue.ready_list is not None
        self._next(queue.ready_list)

    def take_bulk(self) -> DialogQueue | None:
        """Mark the next bulk queue as in flight and return it, or return None."""
        return self._next(self.bulk)

    @staticmethod
    def _next(ready_list: deque[DialogQueue]) -> DialogQueue | None:
        while ready_list:
            queue = ready_list.popleft()
            # A queue that was promoted or emptied leaves a stale reference behind.
            if queue.ready_list is ready_list:
                if queue.state is not READY:
                    queue.move(IN_FLIGHT)
                queue.ready_list = None
                queue.state = IN_FLIGHT
                return queue
        return None

    def wait(self, queue: DialogQueue, until: float) -> None:
        """Make a queue wait until a time; infinity if something else makes it ready."""
        queue.move(WAITING)
        queue.until = until
        if until != math.inf:
            self._ties += 1
            heapq.heappush(self._timers, (until, self._ties, queue))
            if len(self._timers) > self._purge_threshold.size:
                self._purge()

    def next_due(self) -> float:
        """Return the time at which the first waiting queue is due; infinity if none waits."""
        timers = self._timers
        while timers and not self._is_current(timers[0]):
            heapq.heappop(timers)
        return timers[0][0] if timers else math.inf

    @staticmethod
    def _is_current(timer: tuple[float, int, DialogQueue]) -> bool:
        until, _, queue = timer
        return queue.state is WAITING and queue.until == until

    def due(self, now: float) -> int:
        """Make all queues ready whose time has come. Return their number."""
        count = 0
        while self.next_due() <= now:
            queue = heapq.heappop(self._timers)[2]
            self.ready(queue)
            count += 1
        return count

    def finish(self, queue: DialogQueue) -> None:
        """Remove the completed head of a queue, and drop the queue if it is empty."""
        item = queue.head
        if item is None or queue.behind or queue.state is not IN_FLIGHT:
            queue.remove(queue.first)
            self.next_or_drop(queue)
            return
        queue.head = item.queue = None
        queue.live = queue.from_callback = 0
        queue.state = IDLE
        if item.kind is not READ:
            del self._by_dialog[queue.dialog_id]

    def next_or_drop(self, queue: DialogQueue) -> None:
        """Make a queue ready whose head was removed, or drop it if it is empty."""
        if queue.head is None:
            self.drop(queue)
        elif queue.state is not READY:
            self.ready(queue)

    def drop(self, queue: DialogQueue) -> None:
        """Drop an empty queue."""
        queue.move(IDLE)
        queue.ready_list = None
        if self._by_dialog.get(queue.dialog_id) is queue:
            del self._by_dialog[queue.dialog_id]

    def remove(self, item: WorkItem) -> None:
        """Remove an item that was not sent; its queue continues, or is dropped if empty."""
        queue = item.queue
        if queue is None:
            raise AssertionError("the item is in no queue")
        was_head = item is queue.head
        queue.remove(item)
        if queue.state is PAUSED:
            return
        if queue.head is None:
            self.drop(queue)
        elif queue.state in (WAITING, RECORDING) and was_head:
            self.ready(queue)

    def pause(self, queue: DialogQueue, error: CognigyError) -> None:
        """Hold back the items after a failed update until `resume`."""
        queue.move(PAUSED)
        queue.ready_list = None
        queue.remember().paused_by = error
        self.paused[queue.dialog_id] = queue

    def resume(self, queue: DialogQueue) -> None:
        """Resume a paused queue."""
        queue.remember().paused_by = None
        del self.paused[queue.dialog_id]
        self.next_or_drop(queue)


class Deadlines:
    """The items that have a deadline, ordered by it; completed ones are removed now and then."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, WorkItem]] = []
        self._purge_threshold = PurgeThreshold(MIN_PURGE_SIZE)

    def __len__(self) -> int:
        return len(self._heap)

    def add(self, item: WorkItem) -> None:
        """Add an item that has a deadline."""
        deadline = item.options.deadline
        assert deadline is not None
        heapq.heappush(self._heap, (deadline, item.serial, item))
        if len(self._heap) > self._purge_threshold.size:
            self._heap = [place for place in self._heap if not place[2].completed]
            heapq.heapify(self._heap)
            self._purge_threshold.purged(len(self._heap))

    def next(self) -> float:
        """Return the first deadline of an item that is not complete, infinite if there is none."""
        heap = self._heap
        while heap and heap[0][2].completed:
            heapq.heappop(heap)
        return heap[0][0] if heap else math.inf

    def due(self, now: float) -> list[WorkItem]:
        """Return and forget the items that are not complete and whose deadline has passed."""
        late = []
        while self.next() <= now:
            late.append(heapq.heappop(self._heap)[2])
        return late
