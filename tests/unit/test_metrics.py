"""What is counted and measured: precise enough, and in constant memory."""

from __future__ import annotations

import dataclasses
import math
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cognigy_async import Distribution, Metrics
from cognigy_async.metrics import Histogram

from ._builders import unhurried

durations = st.floats(1e-6, 1e5)


def recorded(values: list[float]) -> Histogram:
    histogram = Histogram()
    for value in values:
        histogram.record(value)
    return histogram


@given(durations)
@unhurried
def test_one_duration_is_found_again_within_two_percent(seconds: float) -> None:
    summary = recorded([seconds]).summary()
    assert summary.mean == summary.max == seconds
    for percentile in (summary.p50, summary.p95, summary.p99):
        assert percentile == pytest.approx(seconds, rel=0.02)
        assert percentile <= seconds


@given(st.lists(durations, min_size=1, max_size=200))
@unhurried
def test_percentiles_are_those_of_the_values_within_two_percent(values: list[float]) -> None:
    histogram = recorded(values)
    ordered = sorted(values)
    for share in (0.0, 0.25, 0.5, 0.95, 0.99, 1.0):
        exact = ordered[max(1, math.ceil(share * len(values))) - 1]
        assert histogram.percentile(share) == pytest.approx(exact, rel=0.02)
    assert histogram.count == len(values)
    assert histogram.max == max(values)
    assert histogram.mean == pytest.approx(math.fsum(values) / len(values))


def test_the_percentiles_tell_a_rare_slow_answer() -> None:
    summary = recorded([0.01] * 98 + [1.0, 5.0]).summary()
    assert (summary.count, summary.max) == (100, 5.0)
    assert summary.p50 == pytest.approx(0.01, rel=0.02)
    assert summary.p95 == pytest.approx(0.01, rel=0.02)
    assert summary.p99 == pytest.approx(1.0, rel=0.02)


def test_steps_are_even_over_the_whole_range() -> None:
    # Every bucket edge and its neighbours, from a microsecond to days.
    for power in range(-19, 19):
        for step in range(32):
            for nudge in (1.0, 1.0 + 1e-12, 1.0 - 1e-12):
                seconds = math.ldexp(1.0 + step / 32, power) * nudge
                assert recorded([seconds]).percentile(0.5) == pytest.approx(seconds, rel=0.02)


@pytest.mark.parametrize("seconds", [0.0, -1.0, -1e-9])
def test_a_clock_that_goes_backwards_counts_as_no_time(seconds: float) -> None:
    histogram = recorded([seconds])
    assert histogram.summary() == Distribution(1, 0.0, 0.0, 0.0, 0.0, 0.0)


@pytest.mark.parametrize("seconds", [1e-300, 1e-9, 1e7, 1e15, 1e300])
def test_durations_beyond_the_range_are_counted_at_its_edge(seconds: float) -> None:
    histogram = recorded([seconds])
    assert (histogram.count, histogram.max) == (1, seconds)
    assert 0.0 < histogram.percentile(0.5) <= seconds


def test_without_durations_everything_is_zero() -> None:
    histogram = Histogram()
    assert histogram.mean == 0.0
    assert histogram.percentile(0.99) == 0.0
    assert histogram.summary() == Distribution(0, 0.0, 0.0, 0.0, 0.0, 0.0)


def size(thing: object) -> int:
    if isinstance(thing, dict):
        return sys.getsizeof(thing) + sum(map(size, thing.values()))
    if isinstance(thing, Histogram):
        return sum(sys.getsizeof(getattr(thing, name)) for name in Histogram.__slots__)
    return sys.getsizeof(thing)


def test_memory_does_not_grow_with_the_number_of_updates() -> None:
    metrics = Metrics()
    metrics.retries["fault"] += 1
    before = size(vars(metrics))
    for number in range(20_000):
        metrics.applied += 1
        metrics.latency.record(1e-6 * 1.001**number)
        metrics.queued.record(number)
        metrics.retries["fault"] += 1
    # Larger numbers take a few bytes more.
    assert size(vars(metrics)) <= before + 200


def test_the_persistence_rate_is_applied_over_settled() -> None:
    metrics = Metrics()
    assert metrics.persistence_rate == metrics.snapshot().persistence_rate == 0.0
    metrics.applied, metrics.failed, metrics.ambiguous, metrics.withdrawn = 6, 1, 1, 50
    assert metrics.persistence_rate == metrics.snapshot().persistence_rate == 0.75


def test_the_mean_latency_is_that_of_the_requests() -> None:
    metrics = Metrics()
    assert metrics.mean_latency == 0.0
    for seconds in (0.1, 0.3):
        metrics.latency.record(seconds)
        metrics.queued.record(5.0)
    assert metrics.mean_latency == metrics.snapshot().latency.mean == pytest.approx(0.2)


COUNTERS = (
    *("applied", "failed", "ambiguous", "withdrawn", "reads", "requests", "in_flight", "pending"),
    *("paused", "token_refreshes", "events_delivered", "events_failed", "events_dropped"),
    *("threads_abandoned", "audit_written", "audit_failed", "audit_dropped"),
)


def test_a_snapshot_has_every_counter() -> None:
    metrics = Metrics()
    for number, name in enumerate(COUNTERS, 1):
        assert getattr(metrics, name) == 0
        setattr(metrics, name, number)
    metrics.retries["conflict"] += 7
    metrics.latency.record(0.5)
    metrics.queued.record(0.25)
    snapshot = metrics.snapshot()
    assert {name: getattr(snapshot, name) for name in COUNTERS} == {
        name: number for number, name in enumerate(COUNTERS, 1)
    }
    assert snapshot.retries == {"conflict": 7}
    assert (snapshot.latency.max, snapshot.queued.max) == (0.5, 0.25)
    named = {field.name for field in dataclasses.fields(snapshot)}
    assert named == {
        *COUNTERS,
        "retries",
        "latency",
        "queued",
        "persistence_rate",
        "quota",
        "targets",
    }


def test_a_snapshot_stays_as_it_is() -> None:
    metrics = Metrics()
    metrics.applied = 1
    metrics.retries["fault"] = 1
    metrics.latency.record(1.0)
    snapshot = metrics.snapshot()
    again = metrics.snapshot()
    assert snapshot == again
    metrics.applied = 2
    metrics.retries["fault"] = 2
    metrics.latency.record(9.0)
    assert snapshot == again
    assert metrics.snapshot() != snapshot
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(snapshot, "applied", 5)  # noqa: B010
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(snapshot.latency, "max", 5.0)  # noqa: B010


def test_the_repr_has_the_main_counters() -> None:
    metrics = Metrics()
    metrics.applied, metrics.in_flight = 3, 2
    assert "3 applied" in repr(metrics)
    assert "2 in flight" in repr(metrics)
