"""Wake idle workers and set the dispatcher's alarm."""

from __future__ import annotations

import math
from collections import OrderedDict

from .concurrency import Event


class Waker:
    """Wakes one idle worker at a time, and the dispatcher early if work is due before `alarm_at`.

    A woken worker wakes the next one if it finds more work than it takes. So a transport that
    responds at once never wakes workers that would find nothing.

    Attributes:
        idle: events of the waiting workers; only the dispatcher adds to it.
        waking: True after a worker was woken and before it runs.
        ended: True after `end`.
        on_idle: events of the streams that have more input; each time that a worker finds no work,
            the first one is removed and set.
        alarm: event that makes the dispatcher recompute its next moment; None while it is busy.
        alarm_at: moment at which the dispatcher wakes by itself, in seconds of its clock.
    """

    __slots__ = ("alarm", "alarm_at", "ended", "idle", "on_idle", "waking")

    def __init__(self) -> None:
        self.idle: list[Event] = []
        self.waking = False
        self.ended = False
        self.on_idle: OrderedDict[Event, None] = OrderedDict()
        self.alarm: Event | None = None
        self.alarm_at = math.inf

    def __repr__(self) -> str:
        return f"<Waker {len(self.idle)} idle>"

    def wake(self) -> None:
        """Wake one worker, unless one is waking up already."""
        if self.idle and not self.waking:
            self.waking = True
            self.idle.pop().set()

    def wake_at(self, at: float) -> None:
        """Let the alarm ring at `at` or earlier."""
        if at < self.alarm_at and self.alarm is not None:
            self.alarm_at = at
            self.alarm.set()

    def end(self) -> None:
        """Wake all workers for the last time."""
        self.ended = True
        while self.idle:
            self.idle.pop().set()
