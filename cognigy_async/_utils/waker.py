"""Wake idle workers and set the alarm."""

from __future__ import annotations

import math

import anyio


class Waker:
    """Wakes one idle worker at a time, and the alarm when an earlier moment is planned.

    Each worker wakes the next one when it finds more to do than it takes. So a transport that
    answers at once is not given a crowd of workers that find nothing.

    Attributes:
        idle: the events of the workers that wait; only the dispatcher adds to it.
        waking: a worker was woken and has not run yet.
        on_idle: events to set when a worker finds nothing to do, so that a stream gives more.
        alarm: set to recompute the next moment; None while nobody waits for it.
        alarm_at: the moment at which the alarm rings.
    """

    __slots__ = ("alarm", "alarm_at", "ended", "idle", "on_idle", "waking")

    def __init__(self) -> None:
        self.idle: list[anyio.Event] = []
        self.waking = False
        self.ended = False
        self.on_idle: set[anyio.Event] = set()
        self.alarm: anyio.Event | None = None
        self.alarm_at = math.inf

    def __repr__(self) -> str:
        return f"<Waker {len(self.idle)} idle>"

    def wake(self) -> None:
        """Wake one worker, unless one is waking up."""
        if self.idle and not self.waking:
            self.waking = True
            self.idle.pop().set()

    def wake_at(self, at: float) -> None:
        """Let the alarm ring no later than that."""
        if at < self.alarm_at and self.alarm is not None:
            self.alarm_at = at
            self.alarm.set()

    def end(self) -> None:
        """Wake all workers; none waits any more."""
        self.ended = True
        while self.idle:
            self.idle.pop().set()
