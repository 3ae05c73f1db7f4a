"""The queue of one dialog, and its states."""

from __future__ import annotations

import enum
from collections import OrderedDict, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .work_item import RESOLVE

if TYPE_CHECKING:
    from ..errors import CognigyError
    from .work_item import WorkItem


class QueueState(enum.IntEnum):
    """State of a dialog queue.

    ========= ==================================== ==========================================
    state     meaning                              goes to
    ========= ==================================== ==========================================
    IDLE      nothing to do; forgotten             READY: an update is accepted
    READY     its head may be sent                 IN_FLIGHT: a worker takes it;
                                                   IDLE: all was withdrawn or given up;
                                                   PAUSED: its head was given up between
                                                   attempts, which is a failure;
                                                   RECORDING: the same, with an outbox
    IN_FLIGHT its head is in flight                READY: completed and there is more, or the next
                                                   request follows at once;
                                                   WAITING: backing off; PAUSED: it failed;
                                                   IDLE: completed, no more;
                                                   RECORDING: an outbox must know first
    WAITING   until a moment, or until an outage   READY: the moment came; IDLE: its head was
              ends                                 given up and there is no more; PAUSED: its
                                                   head was given up, which is a failure;
                                                   RECORDING: the same, with an outbox
    PAUSED    holds what follows a failure         READY: resumed; IDLE: nothing is held
    RECORDING until an outbox has recorded the     READY: recorded, or completed and there is more;
              intent or the outcome of its head    IDLE: completed, no more; PAUSED: it failed
    ========= ==================================== ==========================================

    Illegal are IN_FLIGHT to IN_FLIGHT, two requests of one dialog at a time; WAITING to IN_FLIGHT,
    a request before its moment; RECORDING to IN_FLIGHT, a request before its record; PAUSED to
    IN_FLIGHT, a request after a failed one; IDLE to anything but READY, work on a queue that was
    forgotten.
    """

    IDLE = 0
    READY = 1
    IN_FLIGHT = 2
    WAITING = 3
    PAUSED = 4
    RECORDING = 5


LEGAL: tuple[frozenset[QueueState], ...] = (
    frozenset({QueueState.READY}),
    frozenset({QueueState.IN_FLIGHT, QueueState.IDLE, QueueState.PAUSED, QueueState.RECORDING}),
    frozenset(set(QueueState) - {QueueState.IN_FLIGHT}),
    frozenset({QueueState.READY, QueueState.PAUSED, QueueState.IDLE, QueueState.RECORDING}),
    frozenset({QueueState.READY, QueueState.IDLE}),
    frozenset({QueueState.READY, QueueState.PAUSED, QueueState.IDLE}),
)
"""The allowed next states, indexed by the current state."""

IDLE, READY, IN_FLIGHT, WAITING, PAUSED, RECORDING = QueueState
"""Aliases for the hot path: on Python 3.11 a look-up on the class costs five times as much."""


@dataclass(slots=True, eq=False)
class QueueHistory:
    """The data that only a queue has that was paused, or whose updates could not all merge.

    Attributes:
        paused_by: the failure that paused the queue; None if it is not paused.
        last_held: serial up to which all items stay when the queue is paused again.
        last_split: serial of the newest item that cannot share a request with the one before it.
    """

    paused_by: CognigyError | None = None
    last_held: int = 0
    last_split: int = 0


@dataclass(slots=True, eq=False, repr=False)
class DialogQueue:
    """The items of one dialog in the order of acceptance; see `QueueState`.

    Only the head may be sent, so writes to a dialog never overlap.

    Attributes:
        head: the item that may be sent or is in flight.
        behind: the items that follow; None until there is one, as most dialogs have none.
        live, from_callback: number of such items.
        until: moment until which a WAITING queue waits; infinite if it waits for the server.
        ready_list: the list of `ReadyQueues` that contains this queue while it is READY.
        history: None for most queues; see `remember`.
    """

    dialog_id: str
    head: WorkItem | None = None
    behind: OrderedDict[WorkItem, None] | None = None
    state: QueueState = IDLE
    live: int = 0
    from_callback: int = 0
    until: float = field(default=0.0, init=False)
    ready_list: deque[DialogQueue] | None = field(default=None, init=False)
    history: QueueHistory | None = field(default=None, init=False)

    @property
    def first(self) -> WorkItem:
        """The head of a queue that is not empty."""
        if self.head is None:
            raise AssertionError(f"{self!r} has no head")
        return self.head

    def remember(self) -> QueueHistory:
        """Return the history, an empty one if there was none."""
        if self.history is None:
            self.history = QueueHistory()
        return self.history

    @property
    def size(self) -> int:
        """Number of items; a group counts as its members."""
        head = self.head
        if head is None:
            return 0
        return (len(head.members) or 1) + len(self.behind or ())

    @property
    def work_items(self) -> list[WorkItem]:
        """All items in order; a group is replaced by its members."""
        head = self.head
        if head is None:
            return []
        return [*(head.members or (head,)), *(self.behind or ())]

    def newest(self) -> Iterator[WorkItem]:
        """Iterate over the items from the newest one to the head, without a copy."""
        if self.behind:
            yield from reversed(self.behind)
        if self.head is not None:
            yield self.head

    def append(self, item: WorkItem) -> None:
        """Add an item at the end."""
        item.queue = self
        if item.live:
            self.live += 1
        if item.from_callback:
            self.from_callback += 1
        if self.head is None:
            self.head = item
        elif self.behind is None:
            self.behind = OrderedDict({item: None})
        else:
            self.behind[item] = None

    def insert(self, items: Sequence[WorkItem]) -> None:
        """Insert items of dead processes before all others, but behind a head under way.

        They take the serial of the item before which they stand, so that a `flush` which waits for
        that item waits for them.
        """
        present = [item for item in (self.head, *(self.behind or ())) if item is not None]
        place = 0
        if self.head is not None and (
            self.state in (IN_FLIGHT, RECORDING)
            or self.head.sent_at is not None
            or self.head.record is not None
        ):
            place = 1
        while place < len(present) and present[place].kind is RESOLVE:
            place += 1
        for item in items:
            item.queue = self
            if place < len(present):
                item.serial = present[place].serial
        present[place:place] = items
        self.head = present[0]
        self.behind = OrderedDict.fromkeys(present[1:])

    def remove(self, item: WorkItem) -> None:
        """Remove an item from any position."""
        if item is not self.head:
            assert self.behind is not None
            del self.behind[item]
        else:
            self.head = self.behind.popitem(last=False)[0] if self.behind else None
        item.queue = None
        if item.live:
            self.live -= 1
        if item.from_callback:
            self.from_callback -= 1

    def join(self, group: WorkItem) -> None:
        """Put a group at the head of the queue, in place of its members."""
        for item in group.members:
            self.remove(item)
            item.queue = self
        group.queue = self
        self.live += group.live
        self.from_callback += group.from_callback
        if self.head is not None:
            if self.behind is None:
                self.behind = OrderedDict()
            self.behind[self.head] = None
            self.behind.move_to_end(self.head, last=False)
        self.head = group

    def move(self, state: QueueState) -> None:
        """Change the state; raise AssertionError for an illegal change, a bug of this library."""
        if state not in LEGAL[self.state]:
            raise AssertionError(f"a queue cannot go from {self.state.name} to {state.name}")
        self.state = state

    def set_aside(self) -> None:
        """Mark this queue RECORDING, off the ready list, until its record is written."""
        self.ready_list = None
        self.move(RECORDING)

    def begin(self) -> None:
        """Mark this queue IN_FLIGHT, off the ready list, because a worker sends its head."""
        self.ready_list = None
        self.move(IN_FLIGHT)

    def __repr__(self) -> str:
        return f"<DialogQueue {self.dialog_id!r} {self.state.name} {self.size} items>"
