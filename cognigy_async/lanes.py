"""One dialog's queue, and the set of them: order, turns, waiting. No clock, no await, no network.

A `Lane` holds the updates of one dialog in the order in which they were accepted. Its head is the
only one that may be sent, which is what makes the writes to a dialog one after another. `Lanes`
holds the lanes that have something to do, and nothing of dialogs that have not.
"""

from __future__ import annotations

import enum
import heapq
import math
from collections import OrderedDict, deque
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .entries import Entry
    from .errors import CognigyError

__all__ = ["Lane", "LaneState", "Lanes"]


class LaneState(enum.IntEnum):
    """Where a lane stands.

    ========= ==================================== ==========================================
    state     meaning                              goes to
    ========= ==================================== ==========================================
    IDLE      nothing to do; forgotten             READY: an update is accepted
    READY     its head may be sent                 IN_FLIGHT: a worker takes it;
                                                   IDLE: all was withdrawn or given up;
                                                   PAUSED: its head was given up between
                                                   attempts, which is a failure
    IN_FLIGHT a worker makes a request of its head READY: settled and there is more, or the next
                                                   request follows at once;
                                                   WAITING: backing off; PAUSED: it failed;
                                                   IDLE: settled, no more
    WAITING   until a moment, or until an outage   READY: the moment came; IDLE: its head was
              ends                                 given up and there is no more; PAUSED: its
                                                   head was given up, which is a failure
    PAUSED    holds what follows a failure         READY: resumed; IDLE: nothing is held
    ========= ==================================== ==========================================

    What must never happen: IN_FLIGHT to IN_FLIGHT, two requests of one dialog at a time; WAITING to
    IN_FLIGHT, a request before its moment; PAUSED to IN_FLIGHT, a request that skips the failed
    one; IDLE to anything but READY, work on a lane that is no longer in the set.
    """

    IDLE = 0
    READY = 1
    IN_FLIGHT = 2
    WAITING = 3
    PAUSED = 4


LEGAL: tuple[frozenset[LaneState], ...] = (
    frozenset({LaneState.READY}),
    frozenset({LaneState.IN_FLIGHT, LaneState.IDLE, LaneState.PAUSED}),
    frozenset({LaneState.READY, LaneState.WAITING, LaneState.PAUSED, LaneState.IDLE}),
    frozenset({LaneState.READY, LaneState.PAUSED, LaneState.IDLE}),
    frozenset({LaneState.READY, LaneState.IDLE}),
)
"""Indexed by the state that is left."""

IDLE, READY, IN_FLIGHT, WAITING, PAUSED = LaneState
"""On Python 3.11 a look-up on the class costs five times as much."""


class Lane:
    """The entries of one dialog; see `LaneState`.

    Attributes:
        head: the entry that may be sent, or is under way.
        behind: those that follow it; None while there never were any, which is what most dialogs
            come to.
    """

    __slots__ = (
        "behind",
        "dialog_id",
        "exempt",
        "head",
        "live",
        "paused_by",
        "queue",
        "state",
        "until",
    )

    def __init__(self, dialog_id: str) -> None:
        self.dialog_id = dialog_id
        self.head: Entry | None = None
        self.behind: OrderedDict[Entry, None] | None = None
        self.state = IDLE
        self.live = 0
        self.exempt = 0
        self.until = 0.0
        self.queue: deque[Lane] | None = None
        self.paused_by: CognigyError | None = None

    @property
    def first(self) -> Entry:
        """The head, where there must be one."""
        if self.head is None:
            raise AssertionError(f"{self!r} has no head")
        return self.head

    @property
    def entries(self) -> list[Entry]:
        """All entries in their order."""
        head = self.head
        if head is None:
            return []
        return [*(head.members or (head,)), *(self.behind or ())]

    def append(self, entry: Entry) -> None:
        """Put an entry at the end."""
        entry.lane = self
        if entry.live:
            self.live += 1
        if entry.exempt:
            self.exempt += 1
        if self.head is None:
            self.head = entry
        elif self.behind is None:
            self.behind = OrderedDict({entry: None})
        else:
            self.behind[entry] = None

    def remove(self, entry: Entry) -> None:
        """Take an entry out, wherever it stands."""
        if entry is not self.head:
            assert self.behind is not None
            del self.behind[entry]
        else:
            self.head = self.behind.popitem(last=False)[0] if self.behind else None
        entry.lane = None
        if entry.live:
            self.live -= 1
        if entry.exempt:
            self.exempt -= 1

    def join(self, group: Entry) -> None:
        """Put a group in the place of its members, which are the first entries."""
        for entry in group.members:
            self.remove(entry)
            entry.lane = self
        group.lane = self
        self.live += group.live
        self.exempt += group.exempt
        if self.head is not None:
            if self.behind is None:
                self.behind = OrderedDict()
            self.behind[self.head] = None
            self.behind.move_to_end(self.head, last=False)
        self.head = group

    def move(self, state: LaneState) -> None:
        """Change the state; an illegal change is a bug of this library and says so."""
        if state not in LEGAL[self.state]:
            raise AssertionError(f"a lane cannot go from {self.state.name} to {state.name}")
        self.state = state

    def begin(self) -> None:
        """Leave the queue: a worker makes a request of the head."""
        self.queue = None
        self.move(IN_FLIGHT)

    def __repr__(self) -> str:
        return f"<Lane {self.dialog_id!r} {self.state.name} {len(self.entries)} entries>"


class Lanes:
    """The lanes with something to do, and whose turn it is.

    Ready lanes take turns, in three classes: urgent (what a callback waits for), live, bulk. A lane
    belongs to the highest class of its entries, so that what stands before a live update is lifted
    with it. Bulk work gets every tenth turn although live work is waiting.
    """

    BULK_TURN = 10

    def __init__(self) -> None:
        self._by_dialog: dict[str, Lane] = {}
        self._urgent: deque[Lane] = deque()
        self._live: deque[Lane] = deque()
        self._bulk: deque[Lane] = deque()
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
                lane = self._by_dialog[dialog_id] = Lane(dialog_id)
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
            queue = self._urgent
        else:
            queue = self._live if lane.live else self._bulk
        lane.queue = queue
        if first:
            queue.appendleft(lane)
        else:
            queue.append(lane)
        if len(queue) > self._sweep_at:
            self._sweep()

    def _sweep(self) -> None:
        """Forget the places and moments that lanes have left behind."""
        for queue in (self._urgent, self._live, self._bulk):
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
        return bool(self._bulk or self._live or self._urgent)

    def waiting(self) -> int:
        """How many lanes are ready, or were."""
        return len(self._live) + len(self._bulk) + len(self._urgent)

    def waiting_before_bulk(self) -> int:
        """How many of them go before bulk work."""
        return len(self._live) + len(self._urgent)

    def take(self, *, bulk: bool = True, placed: bool = False) -> Lane | None:
        """The lane whose turn it is, now in flight.

        Args:
            bulk: without it, no lane of bulk work.
            placed: only what has its place in the queues of the callbacks, or needs none.
        """
        if placed:
            return self._take_placed(bulk=bulk)
        lane = self._next(self._urgent) if self._urgent else None
        if lane is None:
            due = self._since_bulk >= self.BULK_TURN - 1
            if self._live and not (bulk and due and self._bulk):
                lane = self._next_live()
            if lane is None and bulk and self._bulk:
                lane = self._next(self._bulk)
                if lane is not None:
                    self._since_bulk = 0
            if lane is None and bulk and due and self._live:
                lane = self._next_live()
        return lane

    def _next_live(self) -> Lane | None:
        self._since_bulk += 1
        return self._next(self._live)

    @property
    def bulk_is_due(self) -> bool:
        """Whether so much live work went before bulk work that it is the turn of that."""
        return self._since_bulk >= self.BULK_TURN - 1 and bool(self._bulk)

    def _take_placed(self, *, bulk: bool) -> Lane | None:
        for queue in (self._urgent, self._live, self._bulk) if bulk else (self._urgent, self._live):
            for lane in queue:
                head = lane.head
                if lane.queue is queue and head is not None and (lane.exempt or head.has_place):
                    queue.remove(lane)
                    lane.begin()
                    return lane
        return None

    def promote_bulk(self) -> Lane | None:
        """Let the next lane of bulk work go before all others."""
        while self._bulk:
            lane = self._bulk.popleft()
            if lane.queue is self._bulk:
                self._queue(lane, urgent=True)
                return lane
        return None

    def take_live(self) -> Lane | None:
        """The next lane of live work, now in flight; one that has to be refused."""
        return self._next(self._live)

    @staticmethod
    def _next(queue: deque[Lane]) -> Lane | None:
        while queue:
            lane = queue.popleft()
            # A lane that was lifted or emptied leaves its old place behind.
            if lane.queue is queue:
                lane.begin()
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
