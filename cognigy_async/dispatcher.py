"""A fixed number of workers: whose turn it is, and with which token.

A worker makes one request at a time and holds nothing while an update backs off, so the number of
workers is the bound on requests in flight, reads included. What a request leads to is the matter of
`Sender`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from logging import WARNING
from typing import TYPE_CHECKING, Any, Literal

import anyio
import anyio.lowlevel

from .background import is_failure, monotonic_clock
from .course import Course, Done, share, withdrawn
from .deadlines import Deadlines
from .entries import Entry, Kind
from .errors import (
    AuthenticationError,
    ClientClosedError,
    RateLimitedError,
)
from .lanes import Lane, Lanes, LaneState
from .linger import Linger
from .logs import log
from .quota import Quota, QuotaState
from .recovery import Recovery
from .retry import RetryPolicy
from .sender import Sender
from .settlement import Settlement
from .sleepers import Sleepers

if TYPE_CHECKING:
    from .auth import AccessToken, TokenProvider
    from .hooks import Hooks
    from .metrics import Metrics
    from .room import Room
    from .transports import Transport

__all__ = ["Dispatcher"]

STEPS_BETWEEN_YIELDS = 32
"""A transport that answers without waiting must not keep the event loop to itself."""

READ_AHEAD = 4
"""Ready lanes for each worker beyond which a stream takes no further input."""


SHARED_BY_BULK = 1.0
"""Seconds for which a final failure to get a token holds for bulk work accepted after it."""


@dataclass(frozen=True, slots=True)
class _TokenFailure:
    error: AuthenticationError
    serial: int
    """Of the last entry that was accepted before it."""
    at: float


class Dispatcher:
    """The engine of one client."""

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
        self._course = course
        self._auth = auth
        self._workers = max_in_flight
        self._metrics = metrics
        self._hooks = hooks
        self._clock = monotonic_clock()
        self._quota = quota
        if quota is not None:
            metrics.ask_quota = lambda: quota.use(self._clock())
        self.lanes = Lanes()
        self._linger = Linger(self.lanes, linger) if linger else None
        self._deadlines = Deadlines()
        learned = quota.learned if quota is not None else None
        self._recovery = Recovery(
            self.lanes, policy, max_in_flight, self._clock, metrics, lambda: hooks.full, learned
        )
        self.settlement = Settlement(
            lanes=self.lanes,
            course=course,
            recovery=self._recovery,
            on_failure=on_failure,
            metrics=metrics,
            hooks=hooks,
            room=room,
        )
        self.spawn: Callable[[Callable[[], Coroutine[Any, Any, None]]], object] = _not_running
        self.sleepers = Sleepers()
        self._sender = Sender(
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
            clock=self._clock,
            set_alarm=self._set_alarm,
            on_cut=self._stop,
        )
        self._quota_opens = math.inf
        self._timer_at = math.inf
        self._timer: anyio.Event | None = None
        self._token: AccessToken | None = None
        self._token_failure: _TokenFailure | None = None
        self._serial = 0
        self._asking: set[anyio.CancelScope] = set()
        """Of the workers that wait for a token, who hold nothing."""
        self._stopped = False

    # Accepting and withdrawing: called by the client, synchronous.

    def next_serial(self) -> int:
        """The number of the next entry; they tell the order of acceptance."""
        self._serial += 1
        return self._serial

    def accept(self, entry: Entry) -> None:
        """Queue an entry at the end of its dialog's lane; a read has a lane of its own."""
        entry.accepted_at = self._clock()
        if entry.kind is Kind.READ:
            lane = Lane(entry.dialog_id)
            self.settlement.reads.add(lane)
            self.lanes.accept(entry, lane)
        else:
            self._metrics.pending += 1
            self.lanes.accept(entry)
            if self._linger is not None:
                self._linger.accepted(entry)
        if entry.deadline is not None:
            self._deadlines.add(entry)
            self._set_alarm(entry.deadline)
        self.sleepers.wake()

    def withdraw(self, entry: Entry) -> bool:
        """Take an entry back if it was not sent; whether that was so."""
        if entry.settled or entry.sent_at is not None:
            return False
        self.settlement.take_out(entry, withdrawn(entry))
        self._set_alarm(self._recovery.next_due())
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
        self._set_alarm(self._recovery.next_due())
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
        if self._linger is not None:
            self._linger.end(self._serial)
            self.sleepers.wake()
        await self.settlement.flush()

    def linger_no_more(self) -> None:
        """Send what waits for more to share its request, now and from now on."""
        if self._linger is not None:
            self._linger.end(self._serial)
            self._linger = None
            self.sleepers.wake()

    def wake(self) -> None:
        """There may be something to do."""
        self.sleepers.wake()

    def hungry(self, *, live: bool) -> bool:
        """Whether more input of that class would find workers soon."""
        lanes = self.lanes
        waiting = lanes.waiting_before_bulk() if live else lanes.waiting()
        return waiting < READ_AHEAD * self._workers

    def save_quota(self) -> QuotaState:
        """What the quota has to know after a restart."""
        quota = self._quota if self._quota is not None else Quota(())
        return quota.save(self._clock(), time.time())

    def restore_quota(self, state: QuotaState) -> None:
        """Take that over."""
        if self._quota is not None:
            self._quota.restore(state, self._clock(), time.time())

    # The tasks.

    async def run(self, started: anyio.Event, stop: anyio.Event, cut: anyio.CancelScope) -> None:
        """Work until `stop` is set, then end the requests in flight; `cut` tears them down.

        However this ends, call `close` after it.
        """
        async with anyio.create_task_group() as keepers:
            self.spawn = keepers.start_soon
            keepers.start_soon(self._keep_time)
            for task in self._quota.tasks() if self._quota is not None else ():
                keepers.start_soon(task, self._clock, self.sleepers.wake)
            with cut:
                async with anyio.create_task_group() as workers:
                    for _ in range(self._workers):
                        workers.start_soon(self._work)
                    started.set()
                    await stop.wait()
                    self._stop()
                    self.sleepers.end()
                    for scope in self._asking:
                        scope.cancel()
            keepers.cancel_scope.cancel()

    def close(self) -> None:
        """Give everything that is left its outcome; nothing may be accepted any more."""
        self._stopped = True
        self.settlement.close()

    def _stop(self) -> None:
        self._stopped = self.settlement.closing = True

    async def _work(self) -> None:
        with anyio.CancelScope() as scope:
            await self._work_within(scope)

    async def _work_within(self, scope: anyio.CancelScope) -> None:
        """Work; `scope` may be cancelled while this asks for a token."""
        steps = 0
        while not self._stopped:
            if not self.lanes.waiting():
                await self.sleepers.sleep()
                continue
            steps += 1
            if steps % STEPS_BETWEEN_YIELDS == 0:
                await anyio.lowlevel.checkpoint()
            if self._token_failure is not None and self._fail_older():
                continue
            # The token comes before the lane: while it is refreshed nothing is held.
            self._asking.add(scope)
            try:
                token = await self._auth.get_token()
            except BaseException as error:
                if not is_failure(error):
                    raise
                if not self._no_token(error):
                    await self.sleepers.sleep()
                continue
            finally:
                self._asking.discard(scope)
            if token is not self._token:
                self._metrics.token_refreshes += self._token is not None
                self._token = token
                self._token_failure = None
            lane = self._take(self._quota)
            if lane is not None:
                await self._sender.send(lane, token)
                if self._recovery.outage.waiting:
                    self._set_alarm(self._recovery.next_due())
            else:
                await self.sleepers.sleep()

    async def _keep_time(self) -> None:
        """Wake workers when a lane, a pause, the quota or a probe has come to its moment."""
        tenant = self._recovery.tenant
        while True:
            now = self._clock()
            opens = tenant.opens(now) if tenant.active else math.inf
            quota_opens = self._quota_opens
            late = self._expire(now)
            if self._recovery.due(now) or opens <= now or quota_opens <= now or late:
                self.sleepers.wake()
            if quota_opens <= now:
                self._quota_opens = quota_opens = math.inf
            opens = opens if opens > now else math.inf
            at = min(self._recovery.next_due(), opens, quota_opens, self._deadlines.next())
            self._timer_at = at
            self._timer = anyio.Event()
            with anyio.move_on_after(None if at == math.inf else max(0.0, at - now)):
                await self._timer.wait()

    def _expire(self, now: float) -> bool:
        """Settle what waits past its deadline; what is in flight ends first."""
        late = self._deadlines.due(now)
        for entry in late:
            lane = entry.lane
            if lane is None:
                continue
            if entry.sent_at is None:
                self.settlement.take_out(entry, self._course.expired(entry))
            elif lane.state is not LaneState.IN_FLIGHT:
                self.settlement.expire(lane)
        return bool(late)

    def _set_alarm(self, at: float) -> None:
        if at < self._timer_at and self._timer is not None:
            self._timer_at = at
            self._timer.set()

    # What a worker does next: a token, then a lane.

    def _no_token(self, error: BaseException) -> bool:
        """There is no token: those who wait share the failure, or try again later.

        Whether there is something to do at once.
        """
        failure = error if isinstance(error, AuthenticationError) else None
        if failure is None:
            failure = AuthenticationError(f"The token provider failed with {type(error).__name__}")
            failure.__cause__ = error
        log(WARNING, "no token: %s", failure, transient=failure.transient)
        self._token = None
        if not failure.transient:
            self._token_failure = _TokenFailure(failure, self._serial, self._clock())
            return True
        lane = self._take(None)
        if lane is None:
            return False
        self._sender.apply(lane, self._course.unanswered(lane.first, share(failure)), self._clock())
        return True

    def _fail_older(self) -> bool:
        """Settle one update that shares the last failure to get a token; whether there was one."""
        failed = self._token_failure
        lane = self.lanes.take() if failed is not None else None
        if failed is None or lane is None:
            return False
        entry = lane.first
        # All that was accepted before waited for that token. Bulk work that is fed in one by one
        # would otherwise ask for a new one with each row.
        fresh = not entry.live and self._clock() < failed.at + SHARED_BY_BULK
        if entry.serial > failed.serial and not fresh:
            self.lanes.ready(lane, first=True)
            return False
        self.settlement.settle(lane, Done(error=self._course.final(entry, share(failed.error))))
        return True

    def _take(self, quota: Quota | None) -> Lane | None:
        """A lane whose head may be sent now; the quota has room for it."""
        if self._stopped:
            return None
        now = self._clock()
        recovery = self._recovery
        tenant = recovery.tenant
        if tenant.active:
            opens = tenant.opens(now)
            if opens > now:
                self._refuse_impatient(tenant.remaining(now))
                self._set_alarm(opens)
                return None
        # With a full queue of events only those go on that have their place, or need none.
        placed = self._hooks.any and self._hooks.full
        bulk = not recovery.outage.blocks
        bulk_opens = 0.0
        if quota is not None:
            live = self.lanes.waiting_before_bulk() > 0
            opens = quota.opens(now, live)
            if opens > now:
                self._wait_for_quota(opens)
                return None
            bulk_opens = quota.bulk_opens(now)
            if bulk_opens > now and not (live and self.lanes.bulk_is_due):
                bulk = False
        while True:
            lane = self.lanes.take(bulk=bulk, placed=placed)
            if lane is None:
                if bulk_opens > now:
                    self._wait_for_quota(bulk_opens)
                return None
            until = recovery.dialogs.until(lane.dialog_id) if recovery.dialogs.any else 0.0
            if self._linger is not None and lane is not recovery.outage.probe:
                until = max(until, self._linger.until(lane))
            if until <= now:
                break
            if lane is recovery.outage.probe:
                recovery.wait_for_server(lane, now)
            else:
                self.lanes.wait(lane, until)
            self._set_alarm(min(until, recovery.next_due()))
        if tenant.active:
            tenant.start(now)
        if self.sleepers.can_wake and self.lanes.waiting():
            self.sleepers.wake()
        return lane

    def _wait_for_quota(self, until: float) -> None:
        """Have a worker woken then; nobody holds anything meanwhile."""
        self._quota_opens = until
        self._set_alarm(until)

    def _refuse_impatient(self, remaining: float) -> None:
        """Live updates do not wait for a pause that is longer than their policy allows."""
        while (lane := self.lanes.take_live()) is not None:
            entry = lane.first
            if not entry.live or remaining <= entry.policy.max_retry_after:
                self.lanes.ready(lane, first=True)
                return
            message = "The tenant is throttled for longer than the policy waits"
            error = RateLimitedError(message, status=429, retry_after=remaining)
            self.settlement.settle(lane, Done(error=self._course.final(entry, error)))


def _not_running(function: Callable[[], Coroutine[Any, Any, None]]) -> None:
    raise ClientClosedError("the client is not open: use it inside `async with`")
