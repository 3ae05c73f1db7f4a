"""Containers that purge their stale entries."""

from __future__ import annotations

from cognigy_async._utils.purging import ExpiringDict, PurgeThreshold


def test_the_threshold_is_twice_what_is_left_and_never_below_the_minimum() -> None:
    threshold = PurgeThreshold(10)
    assert threshold.size == 10
    threshold.purged(30)
    assert threshold.size == 60
    threshold.purged(2)
    assert threshold.size == 10


def is_expired(end: float, now: float) -> bool:
    return end <= now


def test_expired_items_are_purged_and_others_kept() -> None:
    items: ExpiringDict[int, float] = ExpiringDict(is_expired, minimum=8)
    for number in range(1000):
        items.put(number, number + 4.5, float(number))
    assert len(items) <= 10
    assert all(number in items for number in range(996, 1000))


def test_purging_costs_a_constant_for_each_item() -> None:
    calls = 0

    def counting(end: float, now: float) -> bool:
        nonlocal calls
        calls += 1
        return end <= now

    items: ExpiringDict[int, float] = ExpiringDict(counting, minimum=8)
    for number in range(10_000):
        items.put(number, 1e9, 0.0)
    assert len(items) == 10_000
    assert calls <= 2 * 10_000
