"""The workers of one client: take a lane, get a token, make the request, and do what follows.

A worker makes one request at a time and holds nothing while an update backs off, so the number of
workers is the bound on requests in flight, reads included. Whatever happens to a request, the head
of its lane ends up settled, waiting, or ready for its next request. All of it is decided in
synchronous code after the one await.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from logging import ERROR, WARNING
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel

from .._utils.concurrency import is_failure
from .._utils.logging import log
from ..errors import (
    AuthenticationError,
    CognigyError,
    NoResponseError,
    NotSentError,
    RateLimitedError,
    UpdateError,
)
from ..retry import UNAUTHORIZED, Trouble, Verdict
from .coalescing import MOST_MERGED, gather
from .dialog_queue import Lane, LaneState
from .protocol import Again, Done, Next, share, withdrawn
from .protocol import Backoff as RetryLater
from .work_item import READ, Action, Entry, Kind

if TYPE_CHECKING:
    from ..auth.provider import AccessToken
    from ..models.events import UpdateWatch
    from ..models.http import Response
    from ..ratelimit.adaptive import Learned
    from .backoff import Backoff
    from .completion import Completion
    from .context import Context
    from .scheduler import Scheduler

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
    """The workers of one client, awake and idle."""

    def __init__(
        self, context: Context, scheduler: Scheduler, completion: Completion, backoff: Backoff
    ) -> None:
        self._scheduler = scheduler
        self._lanes = scheduler.lanes
        self._completion = completion
        self._backoff = backoff
        self._waker = context.waker
        self._course = context.course
        self._api = context.course.api
        self._auth = context.config.auth
        self._transport = context.transport
        self._workers = context.config.max_in_flight
        quota = context.quota
        self._limiter = quota.pacer if quota is not None else None
        self._learned = quota.learned if quota is not None else None
        self._hooks = context.hooks
        self._metrics = context.metrics
        self._clock = context.clock
        self._let_in = 0
        self._token: AccessToken | None = None
        self._token_failure: _TokenFailure | None = None
        self._asking: set[anyio.CancelScope] = set()
        """Of the workers that wait for a token, who hold nothing."""

    async def run(self, started: anyio.Event, stop: anyio.Event) -> None:
        """Work until `stop` is set, then end the requests in flight."""
        async with anyio.create_task_group() as workers:
            for _ in range(self._workers):
                workers.start_soon(self._work)
            started.set()
            await stop.wait()
            self._scheduler.stop()
            self._waker.end()
            for scope in self._asking:
                scope.cancel()

    async def _work(self) -> None:
        with anyio.CancelScope() as scope:
            await self._work_within(scope)

    async def _work_within(self, scope: anyio.CancelScope) -> None:
        """Work; `scope` may be cancelled while this asks for a token."""
        scheduler, lanes = self._scheduler, self._lanes
        urgent, live, bulk = lanes.urgent, lanes.live, lanes.bulk
        steps = 0
        while not scheduler.stopped:
            if not (live or bulk or urgent):
                await self._idle()
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
                    await self._idle()
                continue
            finally:
                self._asking.discard(scope)
            if token is not self._token:
                self._metrics.token_refreshes += self._token is not None
                self._token = token
                self._token_failure = None
            now = self._clock()
            lane = scheduler.next_lane(now)
            if lane is not None:
                await self._send(lane, token, now)
                continue
            if scheduler.tenant.active:
                self._refuse_impatient(now)
            await self._idle()

    async def _idle(self) -> None:
        """Wait to be woken; return at once after the end."""
        waker = self._waker
        if waker.ended:
            return
        for call in list(waker.on_idle):
            call()
        event = anyio.Event()
        waker.idle.append(event)
        try:
            await event.wait()
        finally:
            waker.waking = False
            if event in waker.idle:
                waker.idle.remove(event)

    async def keep_time(self) -> None:
        """Go on with what has come to its moment, and settle what is past its deadline."""
        scheduler, waker = self._scheduler, self._waker
        while True:
            now = self._clock()
            self._expire(now)
            scheduler.advance(now)
            waker.alarm_at = at = scheduler.next_event_at(now)
            waker.alarm = anyio.Event()
            with anyio.move_on_after(None if at == math.inf else max(0.0, at - now)):
                await waker.alarm.wait()

    def _expire(self, now: float) -> None:
        """Settle what waits past its deadline; what is in flight ends first."""
        late = self._scheduler.overdue(now)
        for entry in late:
            lane = entry.lane
            if lane is None:
                continue
            if entry.sent_at is None:
                self._completion.take_out(entry, self._course.expired(entry))
            elif lane.state is not LaneState.IN_FLIGHT:
                self._completion.expire(lane)
        if late:
            self._waker.wake()

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
            self._token_failure = _TokenFailure(failure, self._scheduler.serial, self._clock())
            return True
        now = self._clock()
        lane = self._scheduler.next_lane(now, limited=False)
        if lane is None:
            if self._scheduler.tenant.active:
                self._refuse_impatient(now)
            return False
        self._apply(lane, self._course.unanswered(lane.first, share(failure)), self._clock())
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
        self._completion.settle(lane, Done(error=self._course.final(entry, share(failed.error))))
        return True

    def _refuse_impatient(self, now: float) -> None:
        """Live updates do not wait for a pause that is longer than their policy allows."""
        scheduler = self._scheduler
        while (lane := scheduler.impatient(now)) is not None:
            message = "The tenant is throttled for longer than the policy waits"
            wait = scheduler.tenant.remaining(now)
            error = RateLimitedError(message, status=429, retry_after=wait)
            self._completion.settle(lane, Done(error=self._course.final(lane.first, error)))

    # One request of a lane's head, and what follows from it.

    async def _send(self, lane: Lane, token: AccessToken, began: float) -> None:
        """Make one request of a lane's head, and do what follows from it."""
        entry = lane.head
        assert entry is not None
        if token is entry.refused_token:
            # The provider has nothing better than what the server refused.
            self._completion.give_up(lane)
            return
        terms = entry.terms
        if terms.deadline is not None and began >= terms.deadline:
            self._completion.expire(lane)
            return
        following: Next
        scheduler = self._scheduler
        try:
            if entry.coalesces and lane.behind and entry.sent_at is None:
                entry = gather(lane, self._course, self._hooks.places(MOST_MERGED))
            if terms.watch is not None:
                if not entry.cleared and entry.is_delicate:
                    await self._clear(lane, terms.watch)
                    return
                entry.cleared = False
            try:
                request = self._course.request(entry)
                if entry.observations is not None:
                    entry.observations.request_starts(request, entry.attempts + 1)
                request.headers[token.header] = token.value
                if entry.sent_at is None:
                    entry.sent_at = began
                    if not scheduler.quiet:
                        scheduler.first_attempt(began)
                    if entry.members:
                        self._reserve(entry, began)
                    elif self._hooks.any and entry.kind is not READ:
                        entry.reserved = self._hooks.reserve()
                entry.attempts += 1
                metrics = self._metrics
                metrics.requests += 1
                metrics.in_flight += 1
                limiter = self._limiter
                if limiter is not None:
                    limiter.start(began, bulk=not lane.live)
                try:
                    response = await self._transport.send(request, timeout=terms.timeout)
                except BaseException as error:
                    if entry.observations is not None:
                        entry.observations.request_ends(request, None, error)
                    raise
                finally:
                    metrics.in_flight -= 1
                    now = self._clock()
                    if limiter is not None:
                        limiter.answered(began, now)
                if entry.observations is not None:
                    entry.observations.request_ends(request, response, None)
                verdict = self._api.verdict(response)
                if self._learned is not None:
                    self._learn(self._learned, response, verdict, began)
                if verdict is UNAUTHORIZED:
                    refusal = self._api.error(request, response, 0.0)
                    self._unauthorized(lane, token, refusal, began)
                    return
                entry.refused_token = None
                self._let_in += 1
                if not scheduler.quiet:
                    scheduler.heard(verdict, began)
                following = self._course.answered(
                    entry, verdict, request, response, now, time.time()
                )
            except (NotSentError, NoResponseError) as error:
                following = self._course.unanswered(entry, error)
            except CognigyError as error:
                following = Done(error=error)
            except BaseException as error:
                lost = NoResponseError(f"The request failed with {type(error).__name__}")
                lost.__cause__ = error
                if not is_failure(error):
                    self._cut(lane, lost)
                    raise
                following = self._course.unanswered(entry, lost)
            if type(following) is Done:
                self._completion.settle(lane, following)
            else:
                self._apply(lane, following, began)
        except Exception as error:
            self._break_off(entry, error)

    def _break_off(self, entry: Entry, error: Exception) -> None:
        """Something failed that must not: this update bears it, and nobody else."""
        log(ERROR, "update %s broke off: %r", entry.update_id, type(error).__name__)
        if entry.settled or entry.lane is None:
            return
        lost = NoResponseError(f"The update broke off with {type(error).__name__}")
        lost.__cause__ = error
        self._lose(entry, lost)
        self._completion.give_up(entry.lane)

    def _learn(self, learned: Learned, response: Response, verdict: Verdict, began: float) -> None:
        learned.heard(response.headers, began, self._clock(), time.time())
        if verdict is not Verdict.THROTTLED:
            learned.accepted(began)

    def _reserve(self, entry: Entry, began: float) -> None:
        """Take the places that the events of an entry will have in the queues of the callbacks."""
        if entry.members:
            for member in entry.members:
                member.sent_at = began
                member.reserved = self._hooks.reserve()
        elif entry.kind is not Kind.READ:
            entry.reserved = self._hooks.reserve()

    async def _clear(self, lane: Lane, watch: UpdateWatch) -> None:
        """Let what looks on write down that a request is about to be sent.

        That takes its time, so the lane then takes its turn once more, before the others: whether
        a request may start now is asked where it starts.
        """
        entry = lane.first
        began = self._clock()
        following: Next = Again()
        try:
            self._course.request(entry)
            if entry.sent_at is None:
                entry.sent_at = began
                self._scheduler.first_attempt(began)
                self._reserve(entry, began)
            if entry.is_delicate:
                indexes = tuple(member.index for member in entry.members) or (entry.index,)
                await watch.before_send(indexes, entry.update_id, entry.etag or entry.known)
            entry.cleared = True
        except CognigyError as error:
            following = Done(error=error)
        except BaseException as error:
            if not is_failure(error):
                self._scheduler.stop()
                raise
            told = CognigyError(f"what looks on failed with {type(error).__name__}")
            told.__cause__ = error
            following = Done(error=told)
        if entry.abandoned and not entry.attempts:
            following = Done(error=withdrawn(entry))
        self._apply(lane, following, began)

    def _unauthorized(
        self, lane: Lane, token: AccessToken, error: UpdateError, began: float
    ) -> None:
        """Replay the request once with a fresh token; bulk work has patience after that, too."""
        entry = lane.first
        self._auth.invalidate(token)
        self._course.unauthorized(entry, error)
        if entry.abandoned or (entry.live and entry.refused_token is not None):
            self._completion.give_up(lane)
            return
        trouble = entry.trouble
        assert trouble is not None
        others, trouble.let_in = self._let_in - trouble.let_in, self._let_in
        if entry.refused_token is not None:
            entry.refused_token = token
            if others:
                # There is access: tokens end faster than they get there. That spends no attempt.
                trouble.failures -= 1
                trouble.counted -= 1
            self._back_off(lane, RetryLater(Verdict.UNAUTHORIZED, error), began)
            return
        self._backoff.count("unauthorized", entry, 0.0)
        entry.refused_token = token
        self._go_on(lane)

    def _apply(self, lane: Lane, following: Next, began: float) -> None:
        """Do what a request that began at that moment leads to."""
        if type(following) is Done:
            self._completion.settle(lane, following)
        elif type(following) is RetryLater:
            self._back_off(lane, following, began)
        elif lane.first.abandoned and lane.first.trouble is not None:
            self._completion.give_up(lane)
        else:
            self._go_on(lane)

    def _go_on(self, lane: Lane) -> None:
        """The next request of the head follows at once; a probe is not held back by the outage."""
        if self._is_late(lane):
            self._completion.expire(lane)
            return
        self._scheduler.go_on(lane)

    def _back_off(self, lane: Lane, failure: RetryLater, began: float) -> None:
        try:
            waits = self._backoff.failed(lane, failure, began)
        except Exception as error:
            # Strategies are the user's own; what they raise ends this update and nothing else.
            log(ERROR, "the retry policy failed with %s", type(error).__name__)
            told = self._completion.last_error(lane.first)
            told.__cause__ = error
            self._completion.settle(lane, Done(error=told))
        else:
            if not waits:
                self._completion.give_up(lane)
            elif self._is_late(lane):
                self._completion.expire(lane)

    def _is_late(self, lane: Lane) -> bool:
        """Whether the deadline of a head passed while its request was under way."""
        deadline = lane.first.terms.deadline
        return deadline is not None and self._clock() >= deadline

    def _cut(self, lane: Lane, lost: NoResponseError) -> None:
        """A request in flight was torn down."""
        self._lose(lane.first, lost)
        self._scheduler.stop()
        self._completion.give_up(lane)

    @staticmethod
    def _lose(entry: Entry, lost: NoResponseError) -> None:
        """Nobody will know what became of the request at hand."""
        if entry.trouble is None:
            entry.trouble = Trouble()
        if entry.action is Action.WRITE:
            entry.trouble.lost = entry.trouble.last = lost
        elif entry.trouble.last is None:
            entry.trouble.last = lost
