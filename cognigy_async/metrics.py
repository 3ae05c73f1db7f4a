"""Counters and histograms of a client, in constant memory."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, fields
from math import exp2, log2
from typing import Protocol

BUCKETS_PER_OCTAVE = 32
"""Buckets between a duration and its double. The middle of a bucket is off by less than 1.1%."""
MIN_OCTAVE = -20
MAX_OCTAVE = 20
"""The bounds in seconds are powers of two with these exponents: 1 microsecond to 12 days."""


@dataclass(frozen=True, slots=True)
class Distribution:
    """Summary of durations in seconds; all 0.0 while `count` is 0."""

    count: int
    mean: float
    p50: float
    p95: float
    p99: float
    max: float


class Histogram:
    """Logarithmic histogram of durations in seconds.

    Percentiles are accurate to 2%; count, mean and maximum are exact.
    """

    __slots__ = ("_buckets", "count", "max", "total")

    def __init__(self) -> None:
        self._buckets = [0] * ((MAX_OCTAVE - MIN_OCTAVE) * BUCKETS_PER_OCTAVE)
        self.count = 0
        self.total = 0.0
        self.max = 0.0

    def record(self, seconds: float) -> None:
        """Add one duration; a negative one counts as 0."""
        self.count += 1
        if seconds <= 0.0:
            self._buckets[0] += 1
            return
        self.total += seconds
        if seconds > self.max:
            self.max = seconds
        index = int((log2(seconds) - MIN_OCTAVE) * BUCKETS_PER_OCTAVE)
        try:
            self._buckets[index if index > 0 else 0] += 1
        except IndexError:
            self._buckets[-1] += 1

    @property
    def mean(self) -> float:
        """Mean duration; 0.0 if nothing was recorded."""
        return self.total / self.count if self.count else 0.0

    def percentile(self, share: float) -> float:
        """Return the percentile of `share` (0 to 1); 0.0 if nothing was recorded."""
        rank = max(1, math.ceil(share * self.count))
        seen = 0
        for index, count in enumerate(self._buckets):
            seen += count
            if seen >= rank:
                return min(exp2((index + 0.5) / BUCKETS_PER_OCTAVE + MIN_OCTAVE), self.max)
        return 0.0

    def summary(self) -> Distribution:
        """Return count, mean, percentiles and maximum."""
        p50, p95, p99 = map(self.percentile, (0.5, 0.95, 0.99))
        return Distribution(self.count, self.mean, p50, p95, p99, self.max)


@dataclass(frozen=True, slots=True)
class QuotaUse:
    """Use of one rate limit.

    Attributes:
        n: requests that the client may start in one window, without the reserve.
        per: length of the window in seconds.
        used: requests that count against the limit now.
        utilisation: requests sent from the first to the last one, as a share (0 to 1) of the
            requests that the limit allowed in that time.
        learned: True if the limit is an estimate of ``rate_limit="auto"``.
    """

    n: int
    per: float
    used: int
    utilisation: float
    learned: bool


@dataclass(frozen=True, slots=True)
class TargetStatus:
    """State of the deliveries of an outbox to one target.

    Attributes:
        name: name of the target.
        depth: events that the target has not taken yet, without dead letters.
        oldest_age: age of the oldest of these events in seconds; 0.0 without any.
        delivered: events that the target took since the client was opened.
        failed: failed attempts to deliver an event since then.
        dead_letters: events that are not delivered any more, until somebody retries or drops them.
        halted: reason why nothing is delivered now, such as a target that is down; None if
            deliveries go on.
    """

    name: str
    depth: int
    oldest_age: float
    delivered: int
    failed: int
    dead_letters: int
    halted: str | None


class TargetsSource(Protocol):
    """Reports the deliveries of an outbox."""

    def status(self) -> tuple[TargetStatus, ...]:
        """Return the state of the deliveries to each target now."""
        ...


class UsageSource(Protocol):
    """Reports the use of the rate limits."""

    def current_usage(self) -> tuple[QuotaUse, ...]:
        """Return the use of each rate limit now."""
        ...


@dataclass(frozen=True, slots=True)
class MetricsSnapshot:
    """The metrics of a client at one moment.

    Attributes:
        applied: updates that the server applied.
        failed: updates that the server did not apply.
        ambiguous: updates that the server may or may not have applied.
        withdrawn: accepted updates that were withdrawn before the client sent them.
        reads: successful reads.
        requests: requests that the client sent, with reads and retries, without token requests.
        retries: retries by reason: ``fault``, ``unavailable``, ``gateway``, ``no_response``,
            ``not_sent``, ``throttled``, ``conflict``, ``unauthorized``.
        persistence_rate: share of applied updates in all completed updates; 0.0 without completed
            updates.
        latency: time from the first request of an update to its last response.
        queued: time from the acceptance of an update to its first request.
        in_flight: requests without a response yet.
        pending: accepted updates without an outcome yet.
        paused: dialogs that wait for `resume`.
        token_refreshes: replaced tokens that the client used.
        events_delivered: events that a callback handled.
        events_failed: failed calls of callbacks.
        events_dropped: events that the client passed to the dead-letter handlers.
        threads_abandoned: synchronous callbacks that still run after their timeout.
        quota: use of each rate limit, in the order of the argument `rate_limit`; empty without a
            rate limit, or while ``"auto"`` has not learned a limit.
        audit_written: audit records that a sink wrote, counted for each sink.
        audit_failed: audit records that a sink could not write, even after retries.
        audit_dropped: audit records that did not fit into the queue of a sink, or that were left in
            the queue when the client closed.
        targets: state of the deliveries to each target of the outbox; empty without an outbox.
    """

    applied: int
    failed: int
    ambiguous: int
    withdrawn: int
    reads: int
    requests: int
    retries: Mapping[str, int]
    persistence_rate: float
    latency: Distribution
    queued: Distribution
    in_flight: int
    pending: int
    paused: int
    token_refreshes: int
    events_delivered: int
    events_failed: int
    events_dropped: int
    threads_abandoned: int
    quota: tuple[QuotaUse, ...]
    audit_written: int
    audit_failed: int
    audit_dropped: int
    targets: tuple[TargetStatus, ...]


class Metrics:
    """Live counters of a client, named as in `MetricsSnapshot`."""

    def __init__(
        self, quota: UsageSource | None = None, targets: TargetsSource | None = None
    ) -> None:
        self.applied = self.failed = self.ambiguous = self.withdrawn = 0
        self.reads = self.requests = self.in_flight = self.pending = self.paused = 0
        self.token_refreshes = self.threads_abandoned = 0
        self.events_delivered = self.events_failed = self.events_dropped = 0
        self.audit_written = self.audit_failed = self.audit_dropped = 0
        self.retries: Counter[str] = Counter()
        self.latency = Histogram()
        self.queued = Histogram()
        self._quota = quota
        self._targets = targets

    @property
    def quota(self) -> tuple[QuotaUse, ...]:
        """Use of each rate limit now."""
        return () if self._quota is None else self._quota.current_usage()

    @property
    def targets(self) -> tuple[TargetStatus, ...]:
        """State of the deliveries to each target of the outbox now."""
        return () if self._targets is None else self._targets.status()

    @property
    def persistence_rate(self) -> float:
        """Share of the completed updates that were applied; 0.0 if there are none."""
        completed = self.applied + self.failed + self.ambiguous
        return self.applied / completed if completed else 0.0

    @property
    def mean_latency(self) -> float:
        """Mean seconds from the first request to the last response; 0.0 if there are none."""
        return self.latency.mean

    def snapshot(self) -> MetricsSnapshot:
        """Return a frozen copy."""
        values = {each.name: getattr(self, each.name) for each in fields(MetricsSnapshot)}
        values["retries"] = dict(self.retries)
        values["latency"], values["queued"] = self.latency.summary(), self.queued.summary()
        return MetricsSnapshot(**values)

    def __repr__(self) -> str:
        return (
            f"<Metrics {self.applied} applied, {self.failed} failed, {self.ambiguous} ambiguous, "
            f"{self.in_flight} in flight, {self.pending} pending>"
        )
