"""One request of a lane's head: made, sent, and what follows from its answer.

Whatever happens, the head ends up settled, waiting, or ready for its next request. All of it is
decided in synchronous code after the one await.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from logging import ERROR
from typing import TYPE_CHECKING

from .course import Again, Backoff, Course, Done, Next, withdrawn
from .entries import Action, Entry, Kind
from .errors import CognigyError, NoResponseError, NotSentError, UpdateError
from .groups import MOST_MERGED, gather
from .lane import Lane
from .lanes import Lanes
from .logs import log
from .recovery import Recovery
from .retry import UNAUTHORIZED, Trouble, Verdict
from .settlement import Settlement
from .sleepers import Sleepers
from .surroundings import is_failure

if TYPE_CHECKING:
    from .credentials import AccessToken, TokenProvider
    from .events import UpdateWatch
    from .hooks import Hooks
    from .learned import Learned
    from .messages import Response
    from .metrics import Metrics
    from .quota import Quota
    from .transports import Transport


class Sender:
    """Makes the requests of one client.

    Args:
        quota: told of each request; None for no limit.
        set_alarm: told the moment at which something waits for its turn.
        on_cut: told when a request in flight was torn down, so that no further one is made.
    """

    def __init__(
        self,
        *,
        course: Course,
        auth: TokenProvider,
        transport: Transport,
        lanes: Lanes,
        recovery: Recovery,
        settlement: Settlement,
        metrics: Metrics,
        hooks: Hooks,
        sleepers: Sleepers,
        quota: Quota | None,
        clock: Callable[[], float],
        set_alarm: Callable[[float], None],
        on_cut: Callable[[], None],
    ) -> None:
        self._course = course
        self._api = course.api
        self._auth = auth
        self._transport = transport
        self._lanes = lanes
        self._recovery = recovery
        self._settlement = settlement
        self._metrics = metrics
        self._hooks = hooks
        self._sleepers = sleepers
        self._pacer = quota.pacer if quota is not None else None
        self._learned = quota.learned if quota is not None else None
        self._let_in = 0
        self._clock = clock
        self._set_alarm = set_alarm
        self._on_cut = on_cut

    async def send(self, lane: Lane, token: AccessToken) -> None:
        """Make one request of a lane's head, and do what follows from it."""
        entry = lane.head
        assert entry is not None
        if token is entry.refused_token:
            # The provider has nothing better than what the server refused.
            self._settlement.give_up(lane)
            return
        began = self._clock()
        terms = entry.terms
        if terms.deadline is not None and began >= terms.deadline:
            self._settlement.expire(lane)
            return
        following: Next
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
                    self._begin(entry, began)
                entry.attempts += 1
                metrics = self._metrics
                metrics.requests += 1
                metrics.in_flight += 1
                pacer = self._pacer
                if pacer is not None:
                    pacer.start(began, bulk=not lane.live)
                try:
                    response = await self._transport.send(request, timeout=terms.timeout)
                except BaseException as error:
                    if entry.observations is not None:
                        entry.observations.request_ends(request, None, error)
                    raise
                finally:
                    metrics.in_flight -= 1
                    now = self._clock()
                    if pacer is not None:
                        pacer.answered(began, now)
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
                if self._recovery.heard(verdict, began):
                    self._sleepers.wake()
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
            self.apply(lane, following, began)
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
        self._settlement.give_up(entry.lane)

    def _learn(self, learned: Learned, response: Response, verdict: Verdict, began: float) -> None:
        learned.heard(response.headers, began, self._clock(), time.time())
        if verdict is not Verdict.THROTTLED:
            learned.accepted(began)

    def _begin(self, entry: Entry, began: float) -> None:
        """The first request of an entry: from now on it counts as sent."""
        entry.sent_at = began
        self._recovery.first_attempt(began)
        if entry.members:
            for member in entry.members:
                member.sent_at = began
                member.reserved = self._hooks.reserve()
        elif self._hooks.any and entry.kind is not Kind.READ:
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
                self._begin(entry, began)
            if entry.is_delicate:
                indexes = tuple(member.index for member in entry.members) or (entry.index,)
                await watch.before_send(indexes, entry.update_id, entry.etag or entry.known)
            entry.cleared = True
        except CognigyError as error:
            following = Done(error=error)
        except BaseException as error:
            if not is_failure(error):
                self._on_cut()
                raise
            told = CognigyError(f"what looks on failed with {type(error).__name__}")
            told.__cause__ = error
            following = Done(error=told)
        if entry.abandoned and not entry.attempts:
            following = Done(error=withdrawn(entry))
        self.apply(lane, following, began)

    def _unauthorized(
        self, lane: Lane, token: AccessToken, error: UpdateError, began: float
    ) -> None:
        """Replay the request once with a fresh token; bulk work has patience after that, too."""
        entry = lane.first
        self._auth.invalidate(token)
        self._course.unauthorized(entry, error)
        if entry.abandoned or (entry.live and entry.refused_token is not None):
            self._settlement.give_up(lane)
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
            self._back_off(lane, Backoff(Verdict.UNAUTHORIZED, error), began)
            return
        self._recovery.count("unauthorized", entry, 0.0)
        entry.refused_token = token
        self._go_on(lane)

    def apply(self, lane: Lane, following: Next, began: float) -> None:
        """Do what a request that began at that moment leads to."""
        if type(following) is Done:
            self._settlement.settle(lane, following)
        elif type(following) is Backoff:
            self._back_off(lane, following, began)
        elif lane.first.abandoned and lane.first.trouble is not None:
            self._settlement.give_up(lane)
        else:
            self._go_on(lane)

    def _go_on(self, lane: Lane) -> None:
        """The next request of the head follows at once; a probe is not held back by the outage."""
        if self._is_late(lane):
            self._settlement.expire(lane)
            return
        self._lanes.ready(lane, first=True, urgent=lane is self._recovery.outage.probe)

    def _back_off(self, lane: Lane, failure: Backoff, began: float) -> None:
        try:
            waits = self._recovery.failed(lane, failure, began)
        except Exception as error:
            # Strategies are the user's own; what they raise ends this update and nothing else.
            log(ERROR, "the retry policy failed with %s", type(error).__name__)
            told = self._settlement.last_error(lane.first)
            told.__cause__ = error
            self._settlement.settle(lane, Done(error=told))
        else:
            if not waits:
                self._settlement.give_up(lane)
            elif self._is_late(lane):
                self._settlement.expire(lane)
        self._set_alarm(self._recovery.next_due())

    def _is_late(self, lane: Lane) -> bool:
        """Whether the deadline of a head passed while its request was under way."""
        deadline = lane.first.terms.deadline
        return deadline is not None and self._clock() >= deadline

    def _cut(self, lane: Lane, lost: NoResponseError) -> None:
        """A request in flight was torn down."""
        self._lose(lane.first, lost)
        self._on_cut()
        self._settlement.give_up(lane)

    @staticmethod
    def _lose(entry: Entry, lost: NoResponseError) -> None:
        """Nobody will know what became of the request at hand."""
        if entry.trouble is None:
            entry.trouble = Trouble()
        if entry.action is Action.WRITE:
            entry.trouble.lost = entry.trouble.last = lost
        elif entry.trouble.last is None:
            entry.trouble.last = lost
