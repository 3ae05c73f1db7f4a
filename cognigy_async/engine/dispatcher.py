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
from ..retry import UNAUTHORIZED, ResponseKind, RetryState
from .coalescing import MOST_MERGED, gather
from .dialog_queue import DialogQueue, QueueState
from .protocol import Backoff as RetryLater
from .protocol import Next, SendNext, Settled, share, withdrawn
from .work_item import READ, Action, Kind, WorkItem

if TYPE_CHECKING:
    from ..auth.provider import AccessToken
    from ..models.events import UpdateWatch
    from ..models.http import Response
    from ..ratelimit.adaptive import AdaptiveLimiter
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
        self._queues = scheduler.queues
        self._completion = completion
        self._backoff = backoff
        self._waker = context.waker
        self._protocol = context.protocol
        self._api = context.protocol.api
        self._auth = context.config.auth
        self._transport = context.transport
        self._workers = context.config.max_in_flight
        quota = context.quota
        self._limiter = quota.hot_path if quota is not None else None
        self._adaptive = quota.adaptive if quota is not None else None
        self._hooks = context.hooks
        self._metrics = context.metrics
        self._clock = context.clock
        self._authorized_requests = 0
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
        scheduler, queues = self._scheduler, self._queues
        urgent, live, bulk = queues.urgent, queues.live, queues.bulk
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
            queue = scheduler.next_queue(now)
            if queue is not None:
                await self._send(queue, token, now)
                continue
            if scheduler.tenant.active:
                self._refuse_impatient(now)
            await self._idle()

    async def _idle(self) -> None:
        """Wait to be woken; return at once after the end."""
        waker = self._waker
        if waker.ended:
            return
        for event in waker.on_idle:
            event.set()
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
        for item in late:
            queue = item.queue
            if queue is None:
                continue
            if item.sent_at is None:
                self._completion.take_out(item, self._protocol.expired(item))
            elif queue.state is not QueueState.IN_FLIGHT:
                self._completion.expire(queue)
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
        queue = self._scheduler.next_queue(now, limited=False)
        if queue is None:
            if self._scheduler.tenant.active:
                self._refuse_impatient(now)
            return False
        self._apply(queue, self._protocol.unanswered(queue.first, share(failure)), self._clock())
        return True

    def _fail_older(self) -> bool:
        """Settle one update that shares the last failure to get a token; whether there was one."""
        failed = self._token_failure
        queue = self._queues.take() if failed is not None else None
        if failed is None or queue is None:
            return False
        item = queue.first
        # All that was accepted before waited for that token. Bulk work that is fed in one by one
        # would otherwise ask for a new one with each row.
        fresh = not item.live and self._clock() < failed.at + SHARED_BY_BULK
        if item.serial > failed.serial and not fresh:
            self._queues.ready(queue, first=True)
            return False
        self._completion.complete(
            queue, Settled(error=self._protocol.final(item, share(failed.error)))
        )
        return True

    def _refuse_impatient(self, now: float) -> None:
        """Live updates do not wait for a pause that is longer than their policy allows."""
        scheduler = self._scheduler
        while (queue := scheduler.impatient(now)) is not None:
            message = "The tenant is throttled for longer than the policy waits"
            wait = scheduler.tenant.remaining(now)
            error = RateLimitedError(message, status=429, retry_after=wait)
            self._completion.complete(
                queue, Settled(error=self._protocol.final(queue.first, error))
            )

    # One request of a lane's head, and what follows from it.

    async def _send(self, queue: DialogQueue, token: AccessToken, began: float) -> None:
        """Make one request of a lane's head, and do what follows from it."""
        item = queue.head
        assert item is not None
        if token is item.refused_token:
            # The provider has nothing better than what the server refused.
            self._completion.give_up(queue)
            return
        options = item.options
        if options.deadline is not None and began >= options.deadline:
            self._completion.expire(queue)
            return
        following: Next
        scheduler = self._scheduler
        try:
            if item.coalesces and queue.behind and item.sent_at is None:
                item = gather(queue, self._protocol, self._hooks.free_slots(MOST_MERGED))
            if options.watch is not None:
                if not item.cleared and item.not_repeatable:
                    await self._clear(queue, options.watch)
                    return
                item.cleared = False
            try:
                request = self._protocol.request(item)
                if item.observations is not None:
                    item.observations.request_starts(request, item.attempts + 1)
                request.headers[token.header] = token.value
                if item.sent_at is None:
                    item.sent_at = began
                    if not scheduler.quiet:
                        scheduler.first_attempt(began)
                    if item.members:
                        self._reserve(item, began)
                    elif self._hooks.has_callbacks and item.kind is not READ:
                        item.reserved = self._hooks.reserve()
                item.attempts += 1
                metrics = self._metrics
                metrics.requests += 1
                metrics.in_flight += 1
                limiter = self._limiter
                if limiter is not None:
                    limiter.start(began, bulk=not queue.live)
                try:
                    response = await self._transport.send(request, timeout=options.timeout)
                except BaseException as error:
                    if item.observations is not None:
                        item.observations.request_ends(request, None, error)
                    raise
                finally:
                    metrics.in_flight -= 1
                    now = self._clock()
                    if limiter is not None:
                        limiter.finish(began, now)
                if item.observations is not None:
                    item.observations.request_ends(request, response, None)
                response_kind = self._api.classify(response)
                if self._adaptive is not None:
                    self._learn(self._adaptive, response, response_kind, began)
                if response_kind is UNAUTHORIZED:
                    refusal = self._api.error(request, response, 0.0)
                    self._unauthorized(queue, token, refusal, began)
                    return
                item.refused_token = None
                self._authorized_requests += 1
                if not scheduler.quiet:
                    scheduler.heard(response_kind, began)
                following = self._protocol.answered(
                    item, response_kind, request, response, now, time.time()
                )
            except (NotSentError, NoResponseError) as error:
                following = self._protocol.unanswered(item, error)
            except CognigyError as error:
                following = Settled(error=error)
            except BaseException as error:
                lost = NoResponseError(f"The request failed with {type(error).__name__}")
                lost.__cause__ = error
                if not is_failure(error):
                    self._cut(queue, lost)
                    raise
                following = self._protocol.unanswered(item, lost)
            if type(following) is Settled:
                self._completion.complete(queue, following)
            else:
                self._apply(queue, following, began)
        except Exception as error:
            self._break_off(item, error)

    def _break_off(self, item: WorkItem, error: Exception) -> None:
        """Something failed that must not: this update bears it, and nobody else."""
        log(ERROR, "update %s broke off: %r", item.update_id, type(error).__name__)
        if item.settled or item.queue is None:
            return
        lost = NoResponseError(f"The update broke off with {type(error).__name__}")
        lost.__cause__ = error
        self._lose(item, lost)
        self._completion.give_up(item.queue)

    def _learn(
        self,
        adaptive: AdaptiveLimiter,
        response: Response,
        response_kind: ResponseKind,
        began: float,
    ) -> None:
        adaptive.on_headers(response.headers, began, self._clock(), time.time())
        if response_kind is not ResponseKind.THROTTLED:
            adaptive.on_accepted(began)

    def _reserve(self, item: WorkItem, began: float) -> None:
        """Take the places that the events of an entry will have in the queues of the callbacks."""
        if item.members:
            for member in item.members:
                member.sent_at = began
                member.reserved = self._hooks.reserve()
        elif item.kind is not Kind.READ:
            item.reserved = self._hooks.reserve()

    async def _clear(self, queue: DialogQueue, watch: UpdateWatch) -> None:
        """Let what looks on write down that a request is about to be sent.

        That takes its time, so the lane then takes its turn once more, before the others: whether
        a request may start now is asked where it starts.
        """
        item = queue.first
        began = self._clock()
        following: Next = SendNext()
        try:
            self._protocol.request(item)
            if item.sent_at is None:
                item.sent_at = began
                self._scheduler.first_attempt(began)
                self._reserve(item, began)
            if item.not_repeatable:
                indexes = tuple(member.index for member in item.members) or (item.index,)
                await watch.before_send(indexes, item.update_id, item.etag or item.known)
            item.cleared = True
        except CognigyError as error:
            following = Settled(error=error)
        except BaseException as error:
            if not is_failure(error):
                self._scheduler.stop()
                raise
            told = CognigyError(f"what looks on failed with {type(error).__name__}")
            told.__cause__ = error
            following = Settled(error=told)
        if item.abandoned and not item.attempts:
            following = Settled(error=withdrawn(item))
        self._apply(queue, following, began)

    def _unauthorized(
        self, queue: DialogQueue, token: AccessToken, error: UpdateError, began: float
    ) -> None:
        """Replay the request once with a fresh token; bulk work has patience after that, too."""
        item = queue.first
        self._auth.invalidate(token)
        self._protocol.unauthorized(item, error)
        if item.abandoned or (item.live and item.refused_token is not None):
            self._completion.give_up(queue)
            return
        retry_state = item.retry_state
        assert retry_state is not None
        others, retry_state.authorized_requests = (
            self._authorized_requests - retry_state.authorized_requests,
            self._authorized_requests,
        )
        if item.refused_token is not None:
            item.refused_token = token
            if others:
                # There is access: tokens end faster than they get there. That spends no attempt.
                retry_state.failures -= 1
                retry_state.counted_failures -= 1
            self._back_off(queue, RetryLater(ResponseKind.UNAUTHORIZED, error), began)
            return
        self._backoff.count("unauthorized", item, 0.0)
        item.refused_token = token
        self._go_on(queue)

    def _apply(self, queue: DialogQueue, following: Next, began: float) -> None:
        """Do what a request that began at that moment leads to."""
        if type(following) is Settled:
            self._completion.complete(queue, following)
        elif type(following) is RetryLater:
            self._back_off(queue, following, began)
        elif queue.first.abandoned and queue.first.retry_state is not None:
            self._completion.give_up(queue)
        else:
            self._go_on(queue)

    def _go_on(self, queue: DialogQueue) -> None:
        """The next request of the head follows at once; a probe is not held back by the outage."""
        if self._is_late(queue):
            self._completion.expire(queue)
            return
        self._scheduler.go_on(queue)

    def _back_off(self, queue: DialogQueue, failure: RetryLater, began: float) -> None:
        try:
            waits = self._backoff.failed(queue, failure, began)
        except Exception as error:
            # Strategies are the user's own; what they raise ends this update and nothing else.
            log(ERROR, "the retry policy failed with %s", type(error).__name__)
            told = self._completion.last_error(queue.first)
            told.__cause__ = error
            self._completion.complete(queue, Settled(error=told))
        else:
            if not waits:
                self._completion.give_up(queue)
            elif self._is_late(queue):
                self._completion.expire(queue)

    def _is_late(self, queue: DialogQueue) -> bool:
        """Whether the deadline of a head passed while its request was under way."""
        deadline = queue.first.options.deadline
        return deadline is not None and self._clock() >= deadline

    def _cut(self, queue: DialogQueue, lost: NoResponseError) -> None:
        """A request in flight was torn down."""
        self._lose(queue.first, lost)
        self._scheduler.stop()
        self._completion.give_up(queue)

    @staticmethod
    def _lose(item: WorkItem, lost: NoResponseError) -> None:
        """Nobody will know what became of the request at hand."""
        if item.retry_state is None:
            item.retry_state = RetryState()
        if item.action is Action.WRITE:
            item.retry_state.unanswered = item.retry_state.last_error = lost
        elif item.retry_state.last_error is None:
            item.retry_state.last_error = lost
