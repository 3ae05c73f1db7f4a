"""The queue of one dialog, and where it stands.

A `Lane` holds the updates of one dialog in the order in which they were accepted. Its head is the
only one that may be sent, which is what makes the writes to a dialog one after another.
"""

from __future__ import annotations

import enum
from collections import OrderedDict, deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..errors import CognigyError
    from .work_item import WorkItem


class QueueState(enum.IntEnum):
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


LEGAL: tuple[frozenset[QueueState], ...] = (
    frozenset({QueueState.READY}),
    frozenset({QueueState.IN_FLIGHT, QueueState.IDLE, QueueState.PAUSED}),
    frozenset({QueueState.READY, QueueState.WAITING, QueueState.PAUSED, QueueState.IDLE}),
    frozenset({QueueState.READY, QueueState.PAUSED, QueueState.IDLE}),
    frozenset({QueueState.READY, QueueState.IDLE}),
)
"""Indexed by the state that is left."""

IDLE, READY, IN_FLIGHT, WAITING, PAUSED = QueueState
"""On Python 3.11 a look-up on the class costs five times as much."""


@dataclass(slots=True, eq=False, repr=False)
class DialogQueue:
    """The entries of one dialog; see `LaneState`.

    Attributes:
        head: the entry that may be sent, or is under way.
        behind: those that follow it; None while there never were any, which is what most dialogs
            come to.
    """

    dialog_id: str
    head: WorkItem | None = None
    behind: OrderedDict[WorkItem, None] | None = None
    state: QueueState = IDLE
    live: int = 0
    from_callback: int = 0
    until: float = 0.0
    ready_list: deque[DialogQueue] | None = None
    paused_by: CognigyError | None = None

    @property
    def first(self) -> WorkItem:
        """The head, where there must be one."""
        if self.head is None:
            raise AssertionError(f"{self!r} has no head")
        return self.head

    @property
    def work_items(self) -> list[WorkItem]:
        """All entries in their order."""
        head = self.head
        if head is None:
            return []
        return [*(head.members or (head,)), *(self.behind or ())]

    def append(self, item: WorkItem) -> None:
        """Put an entry at the end."""
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

    def remove(self, item: WorkItem) -> None:
        """Take an entry out, wherever it stands."""
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
        """Put a group in the place of its members, which are the first entries."""
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
        """Change the state; an illegal change is a bug of this library and says so."""
        if state not in LEGAL[self.state]:
            raise AssertionError(f"a lane cannot go from {self.state.name} to {state.name}")
        self.state = state

    def begin(self) -> None:
        """Leave the queue: a worker makes a request of the head."""
        self.ready_list = None
        self.move(IN_FLIGHT)

    def __repr__(self) -> str:
        return f"<Lane {self.dialog_id!r} {self.state.name} {len(self.work_items)} entries>"
