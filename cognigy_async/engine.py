"""The engine of one client: its parts, wired together, and how entries get in and out of them.

Everything here is synchronous but for `run` and `flush`: what is decided about an entry is decided
in one step.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Literal

import anyio

from .course import Course, Done, withdrawn
from .deadlines import Deadlines
from .dispatcher import Dispatcher
from .entries import READ, Entry, Kind
from .errors import ClientClosedError
from .lane import Lane, LaneState
from .lanes import Lanes
from .linger import Linger
from .quota import Quota, QuotaState
from .recovery import Recovery
from .retry import RetryPolicy
from .sender import Sender
from .settlement import Settlement
from .sleepers import Sleepers
from .surroundings import monotonic_clock

if TYPE_CHECKING:
    from .credentials import TokenProvider
    from .hooks import Hooks
    from .metrics import Metrics
    from .room import Room
    from .transports import Transport

READ_AHEAD = 4
"""Ready lanes for each worker beyond which a stream takes no further input."""


class Engine:
    """What stands behind one client."""

    def __init__(
        self,
        *,
        course: Course,
        auth: TokenProvider,
        transport: Transport,
        policy: RetryPolicy,
        max_in_flight: int,
        on_failure: Literal["continue", "pause"],
        metrics: Metrics,
        hooks: Hooks,
        room: Room,
        quota: Quota | None,
        linger: float = 0.0,
    ) -> None:
        self._max_in_flight = max_in_flight
        self._metrics = metrics
        self._clock = clock = monotonic_clock()
        self._quota = quota
        if quota is not None:
            metrics.ask_quota = lambda: quota.use(clock())
        self.lanes = Lanes()
        self.sleepers = Sleepers()
        self._deadlines = Deadlines()
        learned = quota.learned if quota is not None else None
        self._recovery = Recovery(
            self.lanes, policy, max_in_flight, clock, metrics, lambda: hooks.full, learned
        )
        self.settlement = Settlement(
            lanes=self.lanes,
            course=course,
            recovery=self._recovery,
            on_failure=on_failure,
            metrics=metrics,
            hooks=hooks,
            room=room,
            clock=clock,
        )
        self._dispatcher = Dispatcher(
            course=course,
            auth=auth,
            max_in_flight=max_in_flight,
            lanes=self.lanes,
            recovery=self._recovery,
            settlement=self.settlement,
            sleepers=self.sleepers,
            deadlines=self._deadlines,
            linger=Linger(self.lanes, linger) if linger else None,
            quota=quota,
            hooks=hooks,
            metrics=metrics,
            clock=clock,
        )
        self._dispatcher.sender = Sender(
            course=course,
            auth=auth,
            transport=transport,
            lanes=self.lanes,
            recovery=self._recovery,
            settlement=self.settlement,
            metrics=metrics,
            hooks=hooks,
            sleepers=self.sleepers,
            quota=quota,
            clock=clock,
            set_alarm=self._dispatcher.set_alarm,
            on_cut=self._dispatcher.stop,
        )
        self.spawn: Callable[[Callable[[], Coroutine[Any, Any, None]]], object] = _not_running

    # Accepting and withdrawing: called by the client, synchronous.

    def accept(self, entry: Entry) -> None:
        """Queue an entry at the end of its dialog's lane; a read has a lane of its own."""
        self._dispatcher.serial = entry.serial
        entry.accepted_at = self._clock()
        if entry.kind is READ:
            lane = Lane(entry.dialog_id)
            self.settlement.reads.add(lane)
            self.lanes.accept(entry, lane)
        else:
            self._metrics.pending += 1
            self.lanes.accept(entry)
            if self._dispatcher.linger is not None:
                self._dispatcher.linger.accepted(entry)
        if entry.terms.deadline is not None:
            self._deadlines.add(entry)
            self._dispatcher.set_alarm(entry.terms.deadline)
        self.sleepers.wake()

    def withdraw(self, entry: Entry) -> bool:
        """Take an entry back if it was not sent; whether that was so."""
        if entry.settled or entry.sent_at is not None:
            return False
        self.settlement.take_out(entry, withdrawn(entry))
        self._dispatcher.set_alarm(self._recovery.next_due())
        self.sleepers.wake()
        return True

    def cancel(self, entry: Entry) -> None:
        """The caller of an entry is gone: it is withdrawn, or not sent again."""
        if self.withdraw(entry) or entry.settled:
            return
        entry.abandoned = True
        lane = entry.lane
        assert lane is not None
        head = lane.first
        if head is not entry:
            # It is in a group, whose body stays as it is: it goes on while anybody waits for it.
            if not all(member.abandoned for member in head.members):
                return
            head.abandoned = True
        if lane.state is LaneState.IN_FLIGHT:
            return
        if head.trouble is not None:
            self.settlement.give_up(lane)
        elif entry.kind is Kind.MODIFY or not head.attempts:
            self.settlement.settle(lane, Done(error=withdrawn(entry)))
        self._dispatcher.set_alarm(self._recovery.next_due())
        self.sleepers.wake()

    def earliest(self, dialog_id: str) -> float:
        """The moment before which nothing is sent to a dialog, as far as is known."""
        now = self._clock()
        recovery = self._recovery
        opens = recovery.tenant.opens(now) if recovery.tenant.active else now
        until = recovery.dialogs.until(dialog_id) if recovery.dialogs.any else now
        free = self._quota.opens(now, True) if self._quota is not None else now
        if free == math.inf:
            # An answer makes room, and nobody knows when.
            free = now
        return max(now, opens, until, free)

    def now(self) -> float:
        """Seconds of the client's clock."""
        return self._clock()

    async def flush(self) -> None:
        """Wait until what was accepted before has settled; nothing of it lingers any more."""
        if self._dispatcher.linger is not None:
            self._dispatcher.linger.end(self._dispatcher.serial)
            self.sleepers.wake()
        await self.settlement.flush()

    def linger_no_more(self) -> None:
        """Send what waits for more to share its request, now and from now on."""
        if self._dispatcher.linger is not None:
            self._dispatcher.linger.end(self._dispatcher.serial)
            self._dispatcher.linger = None
            self.sleepers.wake()

    def wake(self) -> None:
        """There may be something to do."""
        self.sleepers.wake()

    def hungry(self, *, live: bool) -> bool:
        """Whether more input of that class would find workers soon."""
        lanes = self.lanes
        waiting = lanes.waiting_before_bulk() if live else lanes.waiting()
        return waiting < READ_AHEAD * self._max_in_flight

    def save_quota(self) -> QuotaState:
        """What the quota has to know after a restart."""
        quota = self._quota if self._quota is not None else Quota(())
        return quota.save(self._clock(), time.time())

    def restore_quota(self, state: QuotaState) -> None:
        """Take that over."""
        if self._quota is not None:
            self._quota.restore(state, self._clock(), time.time())

    async def run(self, started: anyio.Event, stop: anyio.Event, cut: anyio.CancelScope) -> None:
        """Work until `stop` is set, then end the requests in flight; `cut` tears them down.

        However this ends, call `close` after it.
        """
        async with anyio.create_task_group() as keepers:
            self.spawn = keepers.start_soon
            keepers.start_soon(self._dispatcher.keep_time)
            for task in self._quota.tasks() if self._quota is not None else ():
                keepers.start_soon(task, self._clock, self.sleepers.wake)
            with cut:
                await self._dispatcher.run(started, stop)
            keepers.cancel_scope.cancel()

    def close(self) -> None:
        """Give everything that is left its outcome; nothing may be accepted any more."""
        self._dispatcher.stop()
        self.settlement.close()


def _not_running(function: Callable[[], Coroutine[Any, Any, None]]) -> None:
    raise ClientClosedError("the client is not open: use it inside `async with`")
