"""A fixed number of workers: whose turn it is, and with which token.

A worker makes one request at a time and holds nothing while an update backs off, so the number of
workers is the bound on requests in flight, reads included. What a request leads to is the matter of
`Sender`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from logging import WARNING
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel

from .course import Course, Done, share
from .deadlines import Deadlines
from .errors import AuthenticationError, RateLimitedError
from .lane import Lane, LaneState
from .lanes import Lanes
from .linger import Linger
from .logs import log
from .quota import Pacer, Quota
from .recovery import Recovery
from .sender import Sender
from .settlement import Settlement
from .sleepers import Sleepers
from .surroundings import is_failure

if TYPE_CHECKING:
    from .credentials import AccessToken, TokenProvider
    from .hooks import Hooks
    from .metrics import Metrics

STEPS_BETWEEN_YIELDS = 32
"""A transport that answers without waiting must not keep the event loop to itself."""

SHARED_BY_BULK = 1.0
"""Seconds for which a final failure to get a token holds for bulk work accepted after it."""


@dataclass(frozen=True, slots=True)
class _TokenFailure:
    error: AuthenticationError
    serial: int
    """Of the last entry that was accepted before it."""
    at: float


class Dispatcher:
    """The workers of one client.

    Attributes:
        sender: makes a request of the lane that a worker took.
        linger: what waits for more to share its request; None where nothing does.
        serial: of the last entry that was accepted.
    """

    sender: Sender

    def __init__(
        self,
        *,
        course: Course,
        auth: TokenProvider,
        max_in_flight: int,
        lanes: Lanes,
        recovery: Recovery,
        settlement: Settlement,
        sleepers: Sleepers,
        deadlines: Deadlines,
        linger: Linger | None,
        quota: Quota | None,
        hooks: Hooks,
        metrics: Metrics,
        clock: Callable[[], float],
    ) -> None:
        self._course = course
        self._auth = auth
        self._workers = max_in_flight
        self._lanes = lanes
        self._recovery = recovery
        self._settlement = settlement
        self._sleepers = sleepers
        self._deadlines = deadlines
        self.linger = linger
        self._pacer = quota.pacer if quota is not None else None
        self._hooks = hooks
        self._metrics = metrics
        self._clock = clock
        self.serial = 0
        self._quota_opens = math.inf
        self._timer_at = math.inf
        self._timer: anyio.Event | None = None
        self._token: AccessToken | None = None
        self._token_failure: _TokenFailure | None = None
        self._asking: set[anyio.CancelScope] = set()
        """Of the workers that wait for a token, who hold nothing."""
        self._stopped = False

    async def run(self, started: anyio.Event, stop: anyio.Event) -> None:
        """Work until `stop` is set, then end the requests in flight."""
        async with anyio.create_task_group() as workers:
            for _ in range(self._workers):
                workers.start_soon(self._work)
            started.set()
            await stop.wait()
            self.stop()
            self._sleepers.end()
            for scope in self._asking:
                scope.cancel()

    def stop(self) -> None:
        """No request is made any more."""
        self._stopped = self._settlement.closing = True

    async def _work(self) -> None:
        with anyio.CancelScope() as scope:
            await self._work_within(scope)

    async def _work_within(self, scope: anyio.CancelScope) -> None:
        """Work; `scope` may be cancelled while this asks for a token."""
        steps = 0
        while not self._stopped:
            if not self._lanes.any_waiting:
                await self._sleepers.sleep()
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
                    await self._sleepers.sleep()
                continue
            finally:
                self._asking.discard(scope)
            if token is not self._token:
                self._metrics.token_refreshes += self._token is not None
                self._token = token
                self._token_failure = None
            lane = self._take(self._pacer)
            if lane is not None:
                await self.sender.send(lane, token)
                if self._recovery.outage.waiting:
                    self.set_alarm(self._recovery.next_due())
            else:
                await self._sleepers.sleep()

    async def keep_time(self) -> None:
        """Wake workers when a lane, a pause, the quota or a probe has come to its moment."""
        tenant = self._recovery.tenant
        while True:
            now = self._clock()
            opens = tenant.opens(now) if tenant.active else math.inf
            quota_opens = self._quota_opens
            late = self._expire(now)
            if self._recovery.due(now) or opens <= now or quota_opens <= now or late:
                self._sleepers.wake()
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
                self._settlement.take_out(entry, self._course.expired(entry))
            elif lane.state is not LaneState.IN_FLIGHT:
                self._settlement.expire(lane)
        return bool(late)

    def set_alarm(self, at: float) -> None:
        """Something has its moment then: wake up no later."""
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
            self._token_failure = _TokenFailure(failure, self.serial, self._clock())
            return True
        lane = self._take(None)
        if lane is None:
            return False
        self.sender.apply(lane, self._course.unanswered(lane.first, share(failure)), self._clock())
        return True

    def _fail_older(self) -> bool:
        """Settle one update that shares the last failure to get a token; whether there was one."""
        failed = self._token_failure
        lane = self._lanes.take() if failed is not None else None
        if failed is None or lane is None:
            return False
        entry = lane.first
        # All that was accepted before waited for that token. Bulk work that is fed in one by one
        # would otherwise ask for a new one with each row.
        fresh = not entry.live and self._clock() < failed.at + SHARED_BY_BULK
        if entry.serial > failed.serial and not fresh:
            self._lanes.ready(lane, first=True)
            return False
        self._settlement.settle(lane, Done(error=self._course.final(entry, share(failed.error))))
        return True

    def _take(self, pacer: Pacer | None) -> Lane | None:
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
                self.set_alarm(opens)
                return None
        # With a full queue of events only those go on that have their place, or need none.
        placed = self._hooks.any and self._hooks.full
        bulk = not recovery.outage.blocks
        bulk_opens = 0.0
        if pacer is not None:
            live = self._lanes.waiting_before_bulk() > 0
            opens = pacer.opens(now, live)
            if opens > now:
                self._wait_for_quota(opens)
                return None
            bulk_opens = pacer.bulk_opens(now)
            if bulk_opens > now and not (live and self._lanes.bulk_is_due):
                bulk = False
        while True:
            lane = self._lanes.take(bulk=bulk, placed=placed)
            if lane is None:
                if bulk_opens > now:
                    self._wait_for_quota(bulk_opens)
                return None
            until = recovery.dialogs.until(lane.dialog_id) if recovery.dialogs.any else 0.0
            if self.linger is not None and lane is not recovery.outage.probe:
                until = max(until, self.linger.until(lane))
            if until <= now:
                break
            if lane is recovery.outage.probe:
                recovery.wait_for_server(lane, now)
            else:
                self._lanes.wait(lane, until)
            self.set_alarm(min(until, recovery.next_due()))
        if tenant.active:
            tenant.start(now)
        if self._lanes.any_waiting:
            self._sleepers.wake()
        return lane

    def _wait_for_quota(self, until: float) -> None:
        """Have a worker woken then; nobody holds anything meanwhile."""
        self._quota_opens = until
        self.set_alarm(until)

    def _refuse_impatient(self, remaining: float) -> None:
        """Live updates do not wait for a pause that is longer than their policy allows."""
        while (lane := self._lanes.take_live()) is not None:
            entry = lane.first
            if not entry.live or remaining <= entry.terms.policy.max_retry_after:
                self._lanes.ready(lane, first=True)
                return
            message = "The tenant is throttled for longer than the policy waits"
            error = RateLimitedError(message, status=429, retry_after=remaining)
            self._settlement.settle(lane, Done(error=self._course.final(entry, error)))
