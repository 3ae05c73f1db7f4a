"""Retries: `RetryPolicy` decides whether and when to repeat a request; also the retry budget.

Nothing here sleeps or reads a clock.
"""

from __future__ import annotations

import enum
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from itertools import islice
from typing import Literal, TypeVar

import tenacity

from ._utils.arguments import validate_count
from .errors import ConfigurationError, UpdateError


class ResponseKind(enum.Enum):
    """The result of one request, as far as the next step depends on it."""

    APPLIED = "applied"
    """2xx: the server applied the request."""
    REFUSED = "refused"
    """400, 403, 404, 413, 501, 505, a redirect or another 4xx: never repeated."""
    UNAUTHORIZED = "unauthorized"
    """401: repeated once with a fresh token."""
    CONFLICT = "conflict"
    """409 or 412: applied again to the current state, if the API has versions."""
    THROTTLED = "throttled"
    """429: repeated, but not before the time in Retry-After."""
    UNAVAILABLE = "unavailable"
    """503: the server did nothing; repeated, but not before the time in Retry-After."""
    FAULT = "fault"
    """500: possibly applied; repeated if a second application is harmless."""
    GATEWAY = "gateway"
    """408, 502, 504 or another 5xx: like `FAULT`, but the server may be unavailable."""
    NOT_SENT = "not_sent"
    """Nothing reached the server; repeated."""
    NO_RESPONSE = "no_response"
    """No complete response came: possibly applied; repeated if a second application is harmless."""


APPLIED = ResponseKind.APPLIED
UNAUTHORIZED = ResponseKind.UNAUTHORIZED
"""Aliases for hot paths: on Python 3.11 the look-up on the class costs five times as much."""

RETRYABLE_KINDS = frozenset(
    {
        ResponseKind.NOT_SENT,
        ResponseKind.NO_RESPONSE,
        ResponseKind.UNAVAILABLE,
        ResponseKind.FAULT,
        ResponseKind.GATEWAY,
    }
)
"""A retry after one of these kinds counts as an attempt and takes a token of the retry budget."""

COUNTED_KINDS = RETRYABLE_KINDS | {ResponseKind.UNAUTHORIZED}
"""These kinds count as attempts. The first 401 is replayed without asking the policy."""

OUTAGE_KINDS = RETRYABLE_KINDS - {ResponseKind.FAULT}
"""Kinds for an unavailable server: bulk work waits for it without a time limit."""

SERVED_KINDS = frozenset({ResponseKind.APPLIED, ResponseKind.REFUSED, ResponseKind.CONFLICT})
"""Kinds of a server that is available."""

MAX_BULK_WAIT = 3600.0
"""Seconds after which bulk work asks the server again, even if the server named a later time."""

MIN_PAUSE = 1.0
"""Minimum of `RetryPolicy.longest_pause`, so that a small `max_retry_after` causes no storm."""

MIN_EPOCH = 1e9
"""A larger number is a time since 1970: in seconds, or in milliseconds if it exceeds 1e12."""
MAX_NUMBER = 1e15
"""Larger numbers are no times; they would overflow in calculations."""
MAX_LISTED = 16
"""Number of values that are read from one header."""

THROTTLING_KINDS = frozenset({ResponseKind.THROTTLED, ResponseKind.UNAVAILABLE})
"""Kinds of responses that may name a time before which the client sends nothing."""

ValueT = TypeVar("ValueT", float, bool)
WaitStrategy = Callable[[tenacity.RetryCallState], float]
StopStrategy = Callable[[tenacity.RetryCallState], bool]


def _default_wait() -> WaitStrategy:
    return tenacity.wait_random_exponential(multiplier=0.25, max=20)


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """The rules by which a failed update is sent again.

    Example::

        RetryPolicy(max_attempts=3, wait=tenacity.wait_random_exponential(max=60))

    Args:
        max_attempts: maximum number of attempts that end in 5xx or without a response. Attempts
            that end in 409, 412 or 429 do not count. An API without versions counts each 409.
        wait: a tenacity wait strategy in seconds, called with the number of all failures so far.
        stop: a tenacity stop strategy besides `max_attempts`, called with the number of attempts
            that count.
        max_elapsed: maximum seconds since the first request, without Retry-After waits. It ends
            conflicts (409, 412) that never end.
        max_retry_after: maximum seconds that a live update waits for Retry-After, in total. An
            update that would have to wait longer fails with `RateLimitedError`. During a longer
            pause, one live request asks the server again every `max_retry_after` seconds. Bulk
            work waits without a maximum, and asks the server again every hour.
        budget: number of retries after 5xx or no response that each first attempt allows, for all
            dialogs together, so that retries do not make an outage worse.
        ambiguous: rule for an assignment that was sent and got no response. ``"retry"`` sends the
            assignment again with the same key, ``"raise"`` fails with `AmbiguousUpdateError`.

    Raises:
        ConfigurationError: an argument is out of its range.
    """

    max_attempts: int = 5
    wait: WaitStrategy = field(default_factory=_default_wait)
    stop: StopStrategy | None = None
    max_elapsed: float = 300.0
    max_retry_after: float = 600.0
    budget: float = 0.2
    ambiguous: Literal["retry", "raise"] = "retry"

    def __post_init__(self) -> None:
        validate_count("max_attempts", self.max_attempts)
        for name in ("max_elapsed", "max_retry_after", "budget"):
            number = getattr(self, name)
            if not isinstance(number, int | float) or not number >= 0:
                raise ConfigurationError(f"{name}={number!r}: must be a number of at least 0")
        if not math.isfinite(self.budget):
            raise ConfigurationError("budget=inf: must be finite, or retries worsen an outage")
        if self.ambiguous not in ("retry", "raise"):
            raise ConfigurationError(f'ambiguous={self.ambiguous!r}: must be "retry" or "raise"')
        for name in ("wait", "stop"):
            strategy = getattr(self, name)
            if not callable(strategy) and not (name == "stop" and strategy is None):
                raise ConfigurationError(
                    f"{name}={strategy!r}: must be a {name} object of tenacity"
                )

    def backoff(self, failures: int, error: BaseException | None, now: float) -> float:
        """Return the seconds to wait after `failures` failures in a row."""
        return _seconds(_call_strategy(self.wait, failures, error, now))

    def longest_pause(self, *, live: bool) -> float:
        """Return the seconds after which one request asks again, even during a longer pause."""
        return max(MIN_PAUSE, self.max_retry_after) if live else MAX_BULK_WAIT

    def next_wait(
        self,
        retry_state: RetryState,
        response_kind: ResponseKind,
        error: UpdateError,
        *,
        live: bool,
        now: float,
    ) -> float | None:
        """Update `retry_state` after a failure and decide about a retry.

        Returns:
            Seconds to wait, at least `error.retry_after` or `MAX_BULK_WAIT` for bulk work; None to
            let the update fail.
        """
        unlimited = response_kind in OUTAGE_KINDS and not live and not retry_state.is_blamed
        retry_state.failures += 1
        retry_state.counted_failures += response_kind in COUNTED_KINDS and not unlimited
        elapsed, waited = retry_state.elapsed, retry_state.waited
        own = _seconds(_call_strategy(self.wait, retry_state.failures, error, now, elapsed, waited))
        requested = error.retry_after or 0.0
        retry_state.requested_wait += requested
        if live and retry_state.requested_wait > self.max_retry_after:
            return None
        if not live:
            requested = min(requested, MAX_BULK_WAIT)
        wait = max(own, requested)
        retry_state.waited = waited = waited + wait
        if unlimited:
            return wait
        retry_state.elapsed += max(0.0, own - requested)
        attempts = retry_state.counted_failures
        if retry_state.elapsed > self.max_elapsed or attempts >= self.max_attempts:
            return None
        if self.stop is not None and _call_strategy(
            self.stop, attempts, error, now, elapsed, waited, own
        ):
            return None
        return wait


_UNUSED = tenacity.Retrying()


def _call_strategy(
    strategy: Callable[[tenacity.RetryCallState], ValueT],
    attempt: int,
    error: BaseException | None,
    now: float,
    elapsed: float = 0.0,
    waited: float = 0.0,
    upcoming: float = 0.0,
) -> ValueT:
    state = tenacity.RetryCallState(_UNUSED, None, (), {})
    state.attempt_number = attempt
    state.start_time = now - elapsed
    state.outcome_timestamp = now
    state.idle_for = waited
    state.upcoming_sleep = upcoming
    if error is not None:
        state.outcome = tenacity.Future(attempt)
        state.outcome.set_exception(error)
    return strategy(state)


def _seconds(value: float) -> float:
    if not 0.0 <= value < math.inf:
        raise ValueError(f"the wait strategy returned {value!r}, not a number of seconds")
    return float(value)


@dataclass(slots=True)
class RetryState:
    """The failures of one update so far, created at the first one.

    Attributes:
        failures: number of failures.
        counted_failures: number of failures that count as attempts.
        elapsed: seconds that count against `RetryPolicy.max_elapsed`.
        requested_wait: sum of all Retry-After values in seconds.
        waited: seconds waited between attempts.
        last_error: the failure to raise if there are no more attempts.
        unanswered: failure of a request that was sent and may have been applied.
        authorized_requests: number of authorized requests of the client at this update's last 401.
            If the number grew before the next 401, the server accepts tokens that expire quickly.
        refused_etag, refusals: the last `If-Match` that the server refused, and the number of
            refusals in a row.
        never_accepted_etag: an etag that the server refused too often to be used again.
        conflicts: number of 409 responses of an API without versions.
        failed_at: time of the last failure of a bulk update that looked like an unavailable
            server; None without such a failure.
        is_blamed: True if the failure at `failed_at` counts, because the server is available.
        was_blamed: True if a failure was counted because the server served other updates after it.
        refused_token: the token that the last request was refused with.
    """

    failures: int = 0
    counted_failures: int = 0
    elapsed: float = 0.0
    requested_wait: float = 0.0
    waited: float = 0.0
    last_error: UpdateError | None = None
    unanswered: UpdateError | None = None
    authorized_requests: int = 0
    refused_etag: str | None = None
    refusals: int = 0
    never_accepted_etag: str | None = None
    conflicts: int = 0
    failed_at: float | None = None
    is_blamed: bool = False
    was_blamed: bool = False
    refused_token: object = None


def retry_after(headers: Mapping[str, str], wall_clock: float) -> float | None:
    """Return the seconds of a Retry-After header: a number or an HTTP date (RFC 9110, 10.2.3).

    Args:
        headers: header values by lower-case name.
        wall_clock: seconds since the epoch, used if the response has no `Date`.

    Returns:
        More than 0; None if the header is missing, malformed, zero or names a time in the past.
    """
    return seconds_until(headers.get("retry-after", ""), headers, wall_clock) or None


def seconds_until(text: str, headers: Mapping[str, str], wall_clock: float) -> float | None:
    """Return the seconds until the time in a header value, or until the latest of several times.

    A number up to 1e9 is in seconds. A larger number is a time since 1970 in seconds or
    milliseconds. Dates have the formats of HTTP or of ISO 8601. Times are compared with the `Date`
    of the response, so that a wrong clock on this machine does not matter.

    Args:
        text: one value, or a list of them: repeated headers are joined with commas.
        headers: headers of the response, values by lower-case name.
        wall_clock: seconds since the epoch, used if the response has no `Date`.

    Returns:
        At least 0; None if the text has no time.
    """
    found = [_seconds_until(value, headers, wall_clock) for value in listed(text)]
    return max((seconds for seconds in found if seconds is not None), default=None)


_LISTED = re.compile(r"(?:\s*(?:mon|tue|wed|thu|fri|sat|sun)[a-z]*\s*,)?[^,]+", re.IGNORECASE)


def listed(text: str) -> list[str]:
    """Return the values of a header that may be repeated. The comma of an HTTP date stays."""
    return [found[0].strip() for found in islice(_LISTED.finditer(text), MAX_LISTED)]


def _seconds_until(text: str, headers: Mapping[str, str], wall_clock: float) -> float | None:
    try:
        if not _is_decimal(text):
            seconds = _date(text) - _now(headers, wall_clock)
        else:
            seconds = float(text)
            if seconds > MAX_NUMBER:
                return None
            if seconds > MIN_EPOCH:
                epoch = seconds / 1000 if seconds > 1000 * MIN_EPOCH else seconds
                seconds = epoch - _now(headers, wall_clock)
    except (ValueError, OverflowError, TypeError):
        return None
    return max(0.0, seconds)


def _is_decimal(text: str) -> bool:
    return text.isascii() and text.replace(".", "", 1).isdigit()


def _now(headers: Mapping[str, str], wall_clock: float) -> float:
    for text in listed(headers.get("date", "")):
        try:
            return _date(text)
        except (ValueError, OverflowError, TypeError):
            continue
    return wall_clock


def _date(text: str) -> float:
    text = text[:64]
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = parsedate_to_datetime(text)
    # The obsolete formats name no zone; RFC 9110, 5.6.7 says that they are UTC.
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


class RetryBudget:
    """A token bucket for retries after 5xx or no response.

    The bucket starts full, first attempts add tokens, and each retry takes one token. So the number
    of retries is at most `capacity` plus `ratio` for each first attempt.

    Args:
        ratio: number of tokens that a first attempt adds.
        capacity: maximum number of tokens.
    """

    def __init__(self, ratio: float, capacity: float) -> None:
        self._ratio = ratio
        self._capacity = capacity
        self._tokens = capacity

    @property
    def full(self) -> bool:
        """True if first attempts need not be recorded."""
        return self._tokens >= self._capacity

    def first_attempt(self) -> None:
        """Record a request that is not a retry."""
        if self._tokens < self._capacity:
            self._tokens = min(self._capacity, self._tokens + self._ratio)

    def take(self) -> bool:
        """Take the token of one retry. Return False if there is none."""
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True
