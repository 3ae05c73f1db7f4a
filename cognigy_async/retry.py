"""What became of a request, and whether and when to make it again.

Nothing here sleeps or reads a clock: the dispatcher asks after each failure, and waits as told.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Literal, TypeVar

import tenacity

from .errors import ConfigurationError, UpdateError


class ResponseKind(enum.Enum):
    """What became of one request, as far as the next step depends on it."""

    APPLIED = "applied"
    REFUSED = "refused"
    """400, 403, 404, 413, a redirect and the like: final."""
    UNAUTHORIZED = "unauthorized"
    CONFLICT = "conflict"
    THROTTLED = "throttled"
    UNAVAILABLE = "unavailable"
    """503: turned away before anything was done."""
    FAULT = "fault"
    """500."""
    GATEWAY = "gateway"
    """502, 504 and other 5xx: something on the way gave up."""
    NOT_SENT = "not_sent"
    NO_RESPONSE = "no_response"


APPLIED = ResponseKind.APPLIED
UNAUTHORIZED = ResponseKind.UNAUTHORIZED
"""For where each answer passes: on Python 3.11 a look-up on the class costs five times as much."""

RETRYABLE_KINDS = frozenset(
    {
        ResponseKind.NOT_SENT,
        ResponseKind.NO_RESPONSE,
        ResponseKind.UNAVAILABLE,
        ResponseKind.FAULT,
        ResponseKind.GATEWAY,
    }
)
"""Repeating after these counts as an attempt and costs a token of the repeat budget."""

COUNTED_KINDS = RETRYABLE_KINDS | {ResponseKind.UNAUTHORIZED}
"""These spend attempts; the first refusal of a token is replayed without asking."""

OUTAGE_KINDS = RETRYABLE_KINDS - {ResponseKind.FAULT}
"""The server is away; bulk work waits for it as long as it takes."""

AnswerT = TypeVar("AnswerT", float, bool)
WaitStrategy = Callable[[tenacity.RetryCallState], float]
StopStrategy = Callable[[tenacity.RetryCallState], bool]


def _default_wait() -> WaitStrategy:
    return tenacity.wait_random_exponential(multiplier=0.25, max=20)


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """When an update that failed is sent again.

    Args:
        max_attempts: attempts that end in 5xx or without an answer; 409, 412 and 429 do not count.
        wait: a tenacity wait strategy; it sees the number of all failures so far.
        stop: a tenacity stop strategy besides `max_attempts`; it sees the attempts that count.
        max_elapsed: seconds from the first request on, without queueing and without pauses that the
            server named.
        max_retry_after: seconds that a live update lets the server make it wait, at once or in sum;
            beyond, it fails with `RateLimitedError`. Bulk work waits.
        budget: repeats after a 5xx or no answer for each first attempt, over all dialogs; what
            keeps retries from making an outage worse.
        ambiguous: what to do when an update of variables was sent and no answer came: ``"retry"``
            (the same assignment again, with the same key) or ``"raise"``.

    Raises:
        ConfigurationError: a number out of its range, an unknown word.
    """

    max_attempts: int = 5
    wait: WaitStrategy = field(default_factory=_default_wait)
    stop: StopStrategy | None = None
    max_elapsed: float = 300.0
    max_retry_after: float = 600.0
    budget: float = 0.2
    ambiguous: Literal["retry", "raise"] = "retry"

    def __post_init__(self) -> None:
        if isinstance(self.max_attempts, bool) or not isinstance(self.max_attempts, int):
            raise ConfigurationError(f"max_attempts={self.max_attempts!r}: must be an integer")
        if self.max_attempts < 1:
            raise ConfigurationError(f"max_attempts={self.max_attempts}: must be at least 1")
        for name in ("max_elapsed", "max_retry_after", "budget"):
            number = getattr(self, name)
            if not isinstance(number, int | float) or not number >= 0:
                raise ConfigurationError(f"{name}={number!r}: must be a number of at least 0")
        if not math.isfinite(self.budget):
            raise ConfigurationError("budget=inf: without a bound an outage becomes a storm")
        if self.ambiguous not in ("retry", "raise"):
            raise ConfigurationError(f'ambiguous={self.ambiguous!r}: must be "retry" or "raise"')
        for name in ("wait", "stop"):
            strategy = getattr(self, name)
            if not callable(strategy) and not (name == "stop" and strategy is None):
                raise ConfigurationError(
                    f"{name}={strategy!r}: must be a {name} object of tenacity"
                )

    def backoff(self, failures: int, error: BaseException | None, now: float) -> float:
        """The wait after so many failures in a row, in seconds."""
        return _seconds(self._call_strategy(self.wait, failures, error, now, 0.0, 0.0, 0.0))

    def next_wait(
        self,
        retry_state: RetryState,
        response_kind: ResponseKind,
        error: UpdateError,
        *,
        live: bool,
        now: float,
    ) -> float | None:
        """Seconds until the update may be sent again, or None to let it fail with `error`.

        `trouble` is brought up to date. Never less than what the server named.
        """
        free = response_kind in OUTAGE_KINDS and not live
        retry_state.failures += 1
        retry_state.counted_failures += response_kind in COUNTED_KINDS and not free
        elapsed = retry_state.elapsed
        asked = self._call_strategy(
            self.wait, retry_state.failures, error, now, elapsed, retry_state.waited, 0.0
        )
        own = _seconds(asked)
        requested_wait = error.retry_after or 0.0
        retry_state.requested_wait += requested_wait
        if live and retry_state.requested_wait > self.max_retry_after:
            return None
        retry_state.waited += max(own, requested_wait)
        if free:
            return max(own, requested_wait)
        retry_state.elapsed += max(0.0, own - requested_wait)
        if retry_state.elapsed > self.max_elapsed:
            return None
        if retry_state.counted_failures >= self.max_attempts:
            return None
        if self.stop is not None and self._call_strategy(
            self.stop, retry_state.counted_failures, error, now, elapsed, retry_state.waited, own
        ):
            return None
        return max(own, requested_wait)

    @staticmethod
    def _call_strategy(
        strategy: Callable[[tenacity.RetryCallState], AnswerT],
        number: int,
        error: BaseException | None,
        now: float,
        elapsed: float,
        waited: float,
        upcoming: float,
    ) -> AnswerT:
        state = tenacity.RetryCallState(_NOBODY, None, (), {})
        state.attempt_number = number
        state.start_time = now - elapsed
        state.outcome_timestamp = now
        state.idle_for = waited
        state.upcoming_sleep = upcoming
        if error is not None:
            state.outcome = tenacity.Future(number)
            state.outcome.set_exception(error)
        return strategy(state)


_NOBODY = tenacity.Retrying()


def _seconds(answer: float) -> float:
    if not 0.0 <= answer < math.inf:
        raise ValueError(f"the wait strategy returned {answer!r}, not a number of seconds")
    return float(answer)


@dataclass(slots=True)
class RetryState:
    """What went wrong so far with one update; made at its first failure.

    Attributes:
        failures: all of them. counted: those that spend attempts.
        spent: seconds that count against `max_elapsed`.
        named: seconds that the server told it to wait.
        idle: seconds waited between attempts.
        last: the failure to settle with if nothing else happens.
        lost: the first request that was sent and not answered.
        let_in: requests of the client that were not refused for their token, when one of this
            update was, the last time.
        uncertain: a request that cannot be repeated harmlessly was answered 500, 502 or 504.
    """

    failures: int = 0
    counted_failures: int = 0
    elapsed: float = 0.0
    requested_wait: float = 0.0
    waited: float = 0.0
    last_error: UpdateError | None = None
    unanswered: UpdateError | None = None
    authorized_requests: int = 0
    maybe_applied: bool = False


def retry_after(headers: Mapping[str, str], wall_clock: float) -> float | None:
    """Seconds that an answer asks to wait (RFC 9110, 10.2.3): a number, or an HTTP date.

    A date is measured against the answer's own `Date` where it has one, else against `wall_clock`
    (seconds since the epoch). None where there is nothing sensible: garbage, negative, not finite.
    A date in the past is 0.
    """
    text = headers.get("retry-after", "").strip()
    if not text:
        return None
    try:
        seconds = float(text) if _is_decimal(text) else _date(text) - _now(headers, wall_clock)
    except (ValueError, OverflowError, TypeError):
        return None
    if not math.isfinite(seconds):
        return None
    return max(0.0, seconds)


def _is_decimal(text: str) -> bool:
    return text.isascii() and text.replace(".", "", 1).isdigit()


def _now(headers: Mapping[str, str], wall_clock: float) -> float:
    try:
        return _date(headers["date"])
    except (KeyError, ValueError, OverflowError, TypeError):
        return wall_clock


def _date(text: str) -> float:
    moment = parsedate_to_datetime(text[:64])
    # The obsolete forms that HTTP still allows name no zone, and mean UTC all the same.
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


class RetryBudget:
    """A token bucket for requests that repeat others after a 5xx or no answer.

    Fed by first attempts, full at the start, never deeper than `capacity`: however the server
    fails, repeats number at most `ratio` for each first attempt, plus `capacity`.
    """

    def __init__(self, ratio: float, capacity: float) -> None:
        self._ratio = ratio
        self._capacity = capacity
        self._tokens = capacity

    @property
    def full(self) -> bool:
        """Whether first attempts add nothing."""
        return self._tokens >= self._capacity

    def first_attempt(self) -> None:
        """A request that repeats nothing was sent."""
        if self._tokens < self._capacity:
            self._tokens = min(self._capacity, self._tokens + self._ratio)

    def take(self) -> bool:
        """Take the token of one repeat, if there is one."""
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True
