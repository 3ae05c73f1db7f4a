"""The workers of one client.

A worker takes a dialog's queue, sends the next request of its head, and applies the decision on
the response. It sends one request at a time and is free while an update backs off, so the number
of workers limits the requests in flight, reads included. Decisions are made in synchronous
code before and after the one await: whatever happens to a request, the head of the queue ends up
completed, waiting, or ready for its next request.
"""

from __future__ import annotations

import math
import time
from logging import ERROR
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel

from .._utils.concurrency import event_type, is_failure, uninterrupted
from .._utils.logging import log
from ..api.endpoint import kind_of_answer, with_url_token
from ..errors import (
    CognigyError,
    NoResponseError,
    NotSentError,
    RateLimitedError,
    UpdateError,
)
from ..retry import (
    APPLIED,
    SERVED_KINDS,
    THROTTLING_KINDS,
    UNAUTHORIZED,
    ResponseKind,
    RetryState,
)
from .coalescing import MOST_MERGED, gather
from .dialog_queue import DialogQueue, QueueState
from .protocol import Decision, RetryLater, SendNext, Settled, withdrawn
from .token_failures import TokenFailures, copy_for_one_update
from .work_item import PROBE, READ, RESOLVE, WRITE, Action, WorkItem

if TYPE_CHECKING:
    from ..auth.provider import AccessToken
    from ..models.events import UpdateWatch
    from ..models.http import Response
    from ..ratelimit.adaptive import AdaptiveLimiter
    from .backoff import Backoff
    from .completion import Completion
    from .context import Context
    from .recorder import Recorder
    from .scheduler import Scheduler

STEPS_BETWEEN_YIELDS = 32
"""Number of steps after which a worker yields to the event loop if the transport never waits."""


class Dispatcher:
    """Runs the workers and wakes them when a wait or a deadline ends."""

    def __init__(
        self,
        context: Context,
        scheduler: Scheduler,
        completion: Completion,
        backoff: Backoff,
        recorder: Recorder | None,
    ) -> None:
        self._recorder = recorder
        self._scheduler = scheduler
        self._queues = scheduler.queues
        self._completion = completion
        self._backoff = backoff
        self._token_failures = TokenFailures(context, scheduler, completion)
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
        self._new_event = event_type()
        self._authorized = 0
        """Requests that were not answered 401."""
        self._token: AccessToken | None = None
        self._token_scopes: set[anyio.CancelScope] = set()
        """Cancel scopes of the workers that wait for a token; these hold no queue."""

    async def run(self, started: anyio.Event, stop: anyio.Event) -> None:
        """Run the workers until `stop` is set, then wait for the requests in flight."""
        async with anyio.create_task_group() as workers:
            for _ in range(self._workers):
                workers.start_soon(uninterrupted(self._work))
            started.set()
            await stop.wait()
            self._scheduler.stop()
            self._waker.end()
            for scope in self._token_scopes:
                scope.cancel()

    async def _work(self) -> None:
        with anyio.CancelScope() as scope:
            await self._work_within(scope)

    async def _work_within(self, scope: anyio.CancelScope) -> None:
        """Send requests until the scheduler stops; `scope` may be cancelled during a token wait."""
        scheduler, queues = self._scheduler, self._queues
        urgent, live, bulk = queues.urgent, queues.live, queues.bulk
        failures = self._token_failures
        steps = 0
        while not scheduler.stopped:
            if not (live or bulk or urgent):
                await self._idle()
                continue
            steps += 1
            if steps % STEPS_BETWEEN_YIELDS == 0:
                await anyio.lowlevel.checkpoint()
            if failures.last is not None and failures.fail_next():
                continue
            # Get the token before taking a queue, so that no queue is held during a refresh.
            self._token_scopes.add(scope)
            try:
                token = await self._auth.get_token()
            except BaseException as error:
                if not is_failure(error):
                    raise
                if not self._no_token(error):
                    await self._idle()
                continue
            finally:
                self._token_scopes.discard(scope)
            if token is not self._token:
                self._metrics.token_refreshes += self._token is not None
                self._token = token
                if failures.logged:
                    failures.clear()
            now = self._clock()
            queue = scheduler.next_queue(now)
            if queue is not None:
                await self._send(queue, token, now)
                continue
            if scheduler.tenant.active:
                self._refuse_impatient(now)
            if bulk:
                self._refuse_bulk()
            await self._idle()

    async def _idle(self) -> None:
        """Wait until the waker wakes this worker; return at once if the waker has ended."""
        waker = self._waker
        if waker.ended:
            return
        if waker.on_idle:
            # Ask one stream, not all: its updates wake workers, which ask the next ones when idle.
            waker.on_idle.popitem(last=False)[0].set()
        event = self._new_event()
        waker.idle.append(event)
        try:
            await event.wait()
        finally:
            waker.waking = False
            if not event.is_set():
                waker.idle.remove(event)

    async def keep_time(self) -> None:
        """Complete items after their deadline, and make queues ready after their wait."""
        scheduler, waker = self._scheduler, self._waker
        while True:
            now = self._clock()
            # Check deadlines first: an update after its deadline must not become a probe.
            self._expire(now)
            scheduler.advance(now)
            waker.alarm_at = at = scheduler.next_event_at(now)
            waker.alarm = anyio.Event()
            with anyio.move_on_after(None if at == math.inf else max(0.0, at - now)):
                await waker.alarm.wait()

    def _expire(self, now: float) -> None:
        """Complete the waiting updates whose deadline has passed; requests in flight end first."""
        overdue = self._scheduler.overdue(now)
        for item in overdue:
            queue = item.queue
            if queue is None:
                continue
            if item.sent_at is None:
                waited = self._scheduler.waits_for_quota(queue)
                expired = self._protocol.expired(item, waited_for_quota=waited)
                self._completion.complete_unsent(item, expired)
            elif queue.state is not QueueState.IN_FLIGHT:
                self._completion.expire(queue)
        if overdue:
            self._waker.wake()

    def _no_token(self, error: BaseException) -> bool:
        """Handle a failure of the token provider. Return False if the worker should idle."""
        failure = self._token_failures.record(error)
        self._token = None
        if not failure.transient:
            return True
        now = self._clock()
        # Ignore the rate limit, because no request is made.
        queue = self._scheduler.next_queue(now, limited=False)
        if queue is None:
            if self._scheduler.tenant.active:
                self._refuse_impatient(now)
            return False
        not_sent = self._protocol.unanswered(queue.first, copy_for_one_update(failure))
        self._apply(queue, not_sent, self._clock())
        return True

    def _refuse_impatient(self, now: float) -> None:
        """Fail live updates whose policy does not allow waiting for the tenant's pause."""
        scheduler = self._scheduler
        while (queue := scheduler.next_impatient(now)) is not None:
            self._refuse(queue, "tenant", scheduler.tenant.remaining(now))

    def _refuse(self, queue: DialogQueue, throttled: str, seconds: float) -> None:
        """Fail the head of a queue because it must not wait out a pause of so many seconds."""
        error = RateLimitedError(
            f"The {throttled} is throttled for longer than the policy waits",
            status=429,
            retry_after=seconds,
        )
        final = self._protocol.final(queue.first, error)
        self._completion.complete(queue, Settled(error=final))

    def _refuse_bulk(self) -> None:
        """Fail ready bulk updates while a shared quota cannot be used."""
        while (refused := self._scheduler.next_refused()) is not None:
            self._completion.refuse(*refused)

    # Sending a request and applying its response.

    async def _send(self, queue: DialogQueue, token: AccessToken, began: float) -> None:
        """Send the next request of a queue's head, and apply the decision on its response."""
        item = queue.head
        assert item is not None
        if item.retry_state is not None:
            # The provider may have no other token than the one that the server refused.
            refused = token is item.retry_state.refused_token
            if refused or not self._backoff.may_send(item, item.retry_state):
                self._completion.give_up(queue)
                return
        options = item.options
        if options.deadline is not None and began >= options.deadline:
            self._completion.expire(queue)
            return
        following: Decision
        scheduler = self._scheduler
        if scheduler.dialogs.any:
            if item.action is PROBE and scheduler.dialogs.until(item.probed_dialog_id) > began:
                # The dialog to read is paused: ask the server with the write itself.
                item.action = WRITE
            pause = scheduler.too_long_a_pause(queue, began)
            if pause is not None:
                self._refuse(queue, "dialog", pause)
                return
        try:
            if item.coalesces and queue.behind and item.sent_at is None:
                item = gather(queue, self._protocol, self._hooks.free_slots(MOST_MERGED))
            try:
                request = self._protocol.request(item)
            except CognigyError as error:
                self._completion.complete(queue, Settled(error=error))
                return
            if self._recorder is not None and self._put_aside(self._recorder, queue, began):
                return
            if options.watch is not None:
                if not item.announced and item.not_repeatable:
                    await self._announce(queue, options.watch)
                    return
                item.announced = False
            try:
                if item.observations is not None:
                    item.observations.request_starts(request, item.attempts + 1)
                if request.url_token is None:
                    request.headers[token.header] = token.value
                    outgoing = request
                else:
                    # Observers of the request must not see the URL token.
                    outgoing = with_url_token(request)
                if item.sent_at is None:
                    item.sent_at = began
                    if not scheduler.quiet:
                        scheduler.first_attempt(began)
                    if item.group is not None:
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
                if scheduler.tenant.active:
                    scheduler.tenant.start(began)
                try:
                    response = await self._transport.send(outgoing, timeout=options.timeout)
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
                if outgoing is request:
                    response_kind = self._api.classify(response)
                    if self._adaptive is not None:
                        self._adapt(self._adaptive, response, response_kind, began)
                    if response_kind is UNAUTHORIZED:
                        refusal = self._api.error(request, response, 0.0)
                        self._replay_unauthorized(queue, token, refusal, began)
                        return
                    if item.retry_state is not None:
                        item.retry_state.refused_token = None
                    self._authorized += 1
                    # Reads may be served while no write is: only a probe asks whether they are.
                    if (item.action is WRITE or item.action is PROBE) and (
                        response_kind is APPLIED or response_kind in SERVED_KINDS
                    ):
                        scheduler.served_at = now
                else:
                    response_kind = kind_of_answer(response)
                    if response_kind is APPLIED or response_kind in SERVED_KINDS:
                        scheduler.endpoint_served_at = now
                if not scheduler.quiet:
                    scheduler.on_response(response_kind, began, now)
                if scheduler.dialogs.any and response_kind not in THROTTLING_KINDS:
                    scheduler.dialogs.served(item.requested_dialog_id, began)
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
                    self._abort(queue, lost)
                    raise
                following = self._protocol.unanswered(item, lost)
            if type(following) is Settled:
                self._completion.complete(queue, following)
            else:
                self._apply(queue, following, began)
        except Exception as error:
            self._fail_internally(item, error)

    def _put_aside(self, recorder: Recorder, queue: DialogQueue, began: float) -> bool:
        """Return True if the head is not sent now: its intent must be recorded first."""
        item = queue.head
        assert item is not None
        if item.kind is RESOLVE:
            following = self._protocol.without_read(item, began)
            if following is not None:
                self._apply(queue, following, began)
                return True
        if item.action is not WRITE or item.update is None:
            return False
        if item.record is None or item.record.update is not item.update:
            recorder.intend(queue, item, began, time.time())
            return True
        if item.group is not None and not item.attempts:
            item.sent_at = began
            for member in item.group.members:
                member.sent_at = began
            if not self._scheduler.quiet:
                self._scheduler.first_attempt(began)
        return False

    def _fail_internally(self, item: WorkItem, error: Exception) -> None:
        """Fail one update after an error in this library or in the user's code."""
        log(
            ERROR,
            "internal error while sending update %s: %s",
            item.update_id,
            type(error).__name__,
            dialog_id=item.dialog_id,
        )
        if item.completed or item.queue is None:
            return
        lost = NoResponseError(f"The update ended with an internal {type(error).__name__}")
        lost.__cause__ = error
        self._mark_lost(item, lost)
        self._completion.give_up(item.queue)

    def _adapt(
        self,
        adaptive: AdaptiveLimiter,
        response: Response,
        response_kind: ResponseKind,
        began: float,
    ) -> None:
        """Update the learned rate limit from a response."""
        adaptive.on_headers(response.headers, began, self._clock(), time.time())
        if response_kind is not ResponseKind.THROTTLED:
            adaptive.on_accepted(began)

    def _reserve(self, item: WorkItem, began: float) -> None:
        """Reserve slots in the callback queues for the events of an item or its members."""
        if item.group is not None:
            for member in item.group.members:
                member.sent_at = began
                member.reserved = self._hooks.reserve()
        elif item.kind is not READ:
            item.reserved = self._hooks.reserve()

    async def _announce(self, queue: DialogQueue, watch: UpdateWatch) -> None:
        """Call the watch before a request that must not be repeated blindly.

        The call takes time, so the queue then becomes ready again: the worker that takes it next
        checks whether the request may be sent at that time.
        """
        item = queue.first
        began = self._clock()
        following: Decision = SendNext()
        try:
            if item.sent_at is None:
                item.sent_at = began
                self._scheduler.first_attempt(began)
                self._reserve(item, began)
            indexes = tuple(member.index for member in item.members) or (item.index,)
            await watch.before_send(indexes, item.update_id, item.etag)
            item.announced = True
        except CognigyError as error:
            following = Settled(error=error)
        except BaseException as error:
            if not is_failure(error):
                self._scheduler.stop()
                raise
            kind = type(error).__name__
            failure = CognigyError(f"the update watch raised {kind} before the request was sent")
            failure.__cause__ = error
            following = Settled(error=failure)
        if item.abandoned and not item.attempts:
            following = Settled(error=withdrawn(item))
        self._apply(queue, following, began)

    def _replay_unauthorized(
        self, queue: DialogQueue, token: AccessToken, error: UpdateError, began: float
    ) -> None:
        """Send a request again with a fresh token, once; bulk work backs off after that."""
        item = queue.first
        self._auth.invalidate(token)
        self._protocol.unauthorized(item, error)
        retry_state = item.retry_state
        assert retry_state is not None
        refused_before = retry_state.refused_token is not None
        if item.abandoned or (item.live and refused_before):
            self._completion.give_up(queue)
            return
        others = self._authorized - retry_state.authorized_requests
        retry_state.authorized_requests = self._authorized
        retry_state.refused_token = token
        if not refused_before:
            self._backoff.count("unauthorized", item, 0.0)
            self._continue(queue)
            return
        if others:
            # Do not count this failure: other requests were authorized, so tokens expire quickly.
            retry_state.failures -= 1
            retry_state.counted_failures -= 1
        self._back_off(queue, RetryLater(ResponseKind.UNAUTHORIZED, error), began)

    def _apply(self, queue: DialogQueue, following: Decision, began: float) -> None:
        """Complete the head, let it wait, or make it ready; the last request began at `began`."""
        if type(following) is Settled:
            self._completion.complete(queue, following)
        elif type(following) is RetryLater:
            self._back_off(queue, following, began)
        else:
            retry_state = queue.first.retry_state
            if retry_state is not None:
                # A read after a conflict takes time, too.
                retry_state.elapsed += self._clock() - began
                if queue.first.abandoned:
                    self._completion.give_up(queue)
                    return
            self._continue(queue)

    def _continue(self, queue: DialogQueue) -> None:
        """Make the head ready for its next request, unless its deadline has passed."""
        if self._is_overdue(queue):
            self._completion.expire(queue)
        else:
            self._scheduler.send_next(queue)

    def _back_off(self, queue: DialogQueue, failure: RetryLater, began: float) -> None:
        try:
            waits = self._backoff.failed(queue, failure, began)
        except Exception as error:
            # The user wrote the strategy: its exception must fail only this update.
            log(ERROR, "the retry policy raised %s", type(error).__name__)
            last = self._completion.last_error(queue.first)
            last.__cause__ = error
            self._completion.complete(queue, Settled(error=last))
        else:
            if not waits:
                self._completion.give_up(queue)
            elif self._is_overdue(queue):
                self._completion.expire(queue)

    def _is_overdue(self, queue: DialogQueue) -> bool:
        """Return whether the deadline of the head passed while its request was in flight."""
        deadline = queue.first.options.deadline
        return deadline is not None and self._clock() >= deadline

    def _abort(self, queue: DialogQueue, lost: NoResponseError) -> None:
        """Stop sending, and give up the head, whose request in flight was aborted."""
        self._mark_lost(queue.first, lost)
        self._scheduler.stop()
        self._completion.give_up(queue)

    @staticmethod
    def _mark_lost(item: WorkItem, lost: NoResponseError) -> None:
        """Mark the current request as sent with an unknown result."""
        if item.retry_state is None:
            item.retry_state = RetryState()
        if item.action is Action.WRITE:
            item.retry_state.unanswered = item.retry_state.last_error = lost
        elif item.retry_state.last_error is None:
            item.retry_state.last_error = lost
