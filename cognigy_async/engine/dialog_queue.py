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
    from .work_item import Entry


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


@dataclass(slots=True, eq=False, repr=False)
class Lane:
    """The entries of one dialog; see `LaneState`.

    Attributes:
        head: the entry that may be sent, or is under way.
        behind: those that follow it; None while there never were any, which is what most dialogs
            come to.
    """

    dialog_id: str
    head: Entry | None = None
    behind: OrderedDict[Entry, None] | None = None
    state: LaneState = IDLE
    live: int = 0
    exempt: int = 0
    until: float = 0.0
    queue: deque[Lane] | None = None
    paused_by: CognigyError | None = None

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
