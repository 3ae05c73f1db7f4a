"""What a client counts and measures, in constant memory."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, fields
from math import exp2, log2
from typing import Protocol

STEPS = 32
"""Buckets for each doubling, all as wide by ratio: their middle is wrong by less than 1.1%."""
SMALLEST = -20
LARGEST = 20
"""Powers of two: from a microsecond to twelve days."""


@dataclass(frozen=True, slots=True)
class Distribution:
    """A frozen summary of durations in seconds; all 0.0 while `count` is 0."""

    count: int
    mean: float
    p50: float
    p95: float
    p99: float
    max: float


class Histogram:
    """Durations in seconds by logarithmic steps; percentiles within 2%, mean and maximum exact."""

    __slots__ = ("_buckets", "count", "max", "total")

    def __init__(self) -> None:
        self._buckets = [0] * ((LARGEST - SMALLEST) * STEPS)
        self.count = 0
        self.total = 0.0
        self.max = 0.0

    def record(self, seconds: float) -> None:
        """Count one duration; negative ones count as 0."""
        self.count += 1
        if seconds <= 0.0:
            self._buckets[0] += 1
            return
        self.total += seconds
        if seconds > self.max:
            self.max = seconds
        index = int((log2(seconds) - SMALLEST) * STEPS)
        try:
            self._buckets[index if index > 0 else 0] += 1
        except IndexError:
            self._buckets[-1] += 1

    @property
    def mean(self) -> float:
        """0.0 when nothing was recorded."""
        return self.total / self.count if self.count else 0.0

    def percentile(self, share: float) -> float:
        """The duration that `share` (0 to 1) of all stay within; 0.0 when nothing was recorded."""
        rank = max(1, math.ceil(share * self.count))
        seen = 0
        for index, count in enumerate(self._buckets):
            seen += count
            if seen >= rank:
                return min(exp2((index + 0.5) / STEPS + SMALLEST), self.max)
        return 0.0

    def summary(self) -> Distribution:
        """Count, mean, percentiles and maximum, frozen."""
        return Distribution(
            self.count,
            self.mean,
            self.percentile(0.5),
            self.percentile(0.95),
            self.percentile(0.99),
            self.max,
        )


@dataclass(frozen=True, slots=True)
class QuotaUse:
    """How one rate limit stands.

    Attributes:
        n, per: requests that the client may start in so many seconds, without what is reserved.
        used: requests that count at this moment.
        utilisation: of what the limit allowed from the first request to the last, 0 to 1.
        learned: whether the limit is an estimate, of ``rate_limit="auto"``.
    """

    n: int
    per: float
    used: int
    utilisation: float
    learned: bool


class UsageSource(Protocol):
    """Tells how much of the rate limits is used."""

    def current_usage(self) -> tuple[QuotaUse, ...]:
        """At this moment."""
        ...


@dataclass(frozen=True, slots=True)
class MetricsSnapshot:
    """The metrics at one moment.

    Attributes:
        applied, failed, ambiguous: settled updates by outcome.
        withdrawn: accepted updates that were taken back before they were sent.
        reads: reads that were answered; failed ones are not counted elsewhere either.
        requests: requests made, reads and repeats included, token requests not.
        retries: repeats by reason: ``fault``, ``unavailable``, ``gateway``, ``no_response``,
            ``not_sent``, ``throttled``, ``conflict``, ``unauthorized``.
        persistence_rate: applied over settled, 0.0 when none settled.
        latency: from the first request of an update to its answer.
        queued: from the acceptance of an update to its first request.
        in_flight: requests under way. pending: updates accepted and unsettled.
        paused: dialogs that wait for `resume`.
        token_refreshes: tokens that the client saw replaced.
        events_delivered, events_failed, events_dropped: calls of callbacks that worked, that did
            not, and events that went to the dead letters.
        threads_abandoned: synchronous callbacks that still run past their timeout.
        quota: each rate limit, in the order given; none where the client has none, or has not yet
            learned one.
        audit_written, audit_failed, audit_dropped: records that sinks took, that they failed with
            for good, and that found their queue full or were left over when the client closed;
            each sink counts for itself.
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


class Metrics:
    """Counters of a client; see `MetricsSnapshot` for what each one means."""

    def __init__(self, quota: UsageSource | None = None) -> None:
        self.applied = self.failed = self.ambiguous = self.withdrawn = 0
        self.reads = self.requests = self.in_flight = self.pending = self.paused = 0
        self.token_refreshes = self.threads_abandoned = 0
        self.events_delivered = self.events_failed = self.events_dropped = 0
        self.audit_written = self.audit_failed = self.audit_dropped = 0
        self.retries: Counter[str] = Counter()
        self.latency = Histogram()
        self.queued = Histogram()
        self._quota = quota

    @property
    def quota(self) -> tuple[QuotaUse, ...]:
        """How each rate limit stands."""
        return () if self._quota is None else self._quota.current_usage()

    @property
    def persistence_rate(self) -> float:
        """Applied over settled updates; 0.0 when none settled."""
        settled = self.applied + self.failed + self.ambiguous
        return self.applied / settled if settled else 0.0

    @property
    def mean_latency(self) -> float:
        """Mean seconds from first request to answer; 0.0 when none was applied."""
        return self.latency.mean

    def snapshot(self) -> MetricsSnapshot:
        """A frozen copy."""
        own = {each.name: getattr(self, each.name) for each in fields(MetricsSnapshot)}
        own["retries"] = dict(self.retries)
        own["latency"], own["queued"] = self.latency.summary(), self.queued.summary()
        return MetricsSnapshot(**own)

    def __repr__(self) -> str:
        return (
            f"<Metrics {self.applied} applied, {self.failed} failed, {self.ambiguous} ambiguous, "
            f"{self.in_flight} in flight, {self.pending} pending>"
        )
