"""One window against the plainest model there is."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cognigy_async import ConfigurationError, RateLimit
from cognigy_async.ratelimit.sliding_window import SlidingWindow

from ._busy import busy, most

LARGE = 50_000
"""More requests than are kept one by one."""


# The plainest model.


class Model:
    """Every request by itself."""

    def __init__(self, limit: RateLimit) -> None:
        self.limit = limit
        self.counted: list[float] = []
        self.open: list[float] = []
        self.cold_until = self.last = -math.inf
        self.shortest = math.inf

    def _latest(self, began: float) -> float:
        """From when on one that is not answered counts."""
        waits = any(at < self.cold_until for at in (began, *self.open) if at <= began)
        return math.inf if waits else began + self.limit.per / 4 + self.shortest

    def _end(self, began: float) -> float:
        """Until when one that is not answered holds its slot."""
        return max(self._latest(began), self._latest(began) - self.shortest + self.limit.per)

    def used(self, now: float) -> int:
        length = self.limit.per
        open_ = [at for at in self.open if self._end(at) > now]
        return len(open_) + sum(at + length > now for at in self.counted)

    def pass_time(self, now: float) -> None:
        """Count what has had its time without an answer."""
        for at in [at for at in self.open if self._latest(at) <= now]:
            self.open.remove(at)
            self.counted.append(at + self.limit.per / 4)

    def next_slot_at(self, now: float) -> float:
        ends = map(self._end, self.open)
        moments = [now, *ends, *(at + self.limit.per for at in self.counted)]
        late = [at for at in moments if at >= now and self.used(at) < self.limit.capacity]
        return min(late, default=math.inf)

    def start(self, now: float) -> None:
        if not self.used(now) and now > self.last + 2 * self.limit.per:
            self.cold_until = now + self.limit.per
        self.last = now
        self.open.append(now)

    def finish(self, began: float, now: float) -> None:
        is_cold = began < self.cold_until
        if not is_cold:
            self.shortest = min(self.shortest, now - began)
        if began in self.open:
            self.open.remove(began)
            self.counted.append(now if is_cold else max(began, now - self.shortest))


@settings(deadline=None, max_examples=300)
@given(
    n=st.integers(1, 12),
    reserve=st.sampled_from([0.0, 0.3, 0.5]),
    steps=st.lists(
        st.one_of(
            st.just("start"),
            st.just("answer"),
            st.floats(0, 3).map(lambda number: round(number, 2)),
        ),
        max_size=120,
    ),
)
def test_a_window_is_what_the_plainest_model_says(n: int, reserve: float, steps: list[Any]) -> None:
    try:
        limit = RateLimit(n, per=2, reserve=reserve, guard=0.0)
    except ConfigurationError:
        return
    window, model = SlidingWindow(limit), Model(limit)
    now, under_way = 0.0, []
    for step in steps:
        if step == "start":
            if window.next_slot_at(now) <= now:
                window.start(now, bulk=False)
                model.start(now)
                under_way.append(now)
        elif step == "answer":
            if under_way:
                began = under_way.pop(0)
                window.finish(began, now)
                model.finish(began, now)
        else:
            now += step
        model.pass_time(now)
        before = window.used
        [use] = window.usage(now)
        assert window.used == before, "reading the metrics changes nothing"
        assert window.next_slot_at(now) == pytest.approx(model.next_slot_at(now), abs=1e-9)
        assert window.used == use.used == model.used(now)


@settings(deadline=None, max_examples=60)
@given(
    n=st.integers(1, 40),
    latency=st.floats(0, 1.5),
    burst=st.one_of(st.none(), st.integers(1, 50)),
    bulk=st.booleans(),
)
def test_no_window_is_exceeded(n: int, latency: float, burst: int | None, bulk: bool) -> None:
    window = SlidingWindow(RateLimit(n, per=2, burst=burst))
    starts = busy(window, 6 * n, latency=latency, bulk=bulk)
    assert most(starts, 2.0) <= n


# When a request counts.


@settings(deadline=None, max_examples=100)
@given(data=st.data(), n=st.integers(1, 8), least=st.sampled_from([0.0, 0.3]))
def test_the_server_never_sees_too_many_while_answers_are_quick(
    data: st.DataObject, n: int, least: float
) -> None:
    """Whenever between its start and its answer it sees a request, which takes `least` at least,
    one half on the way there and one on the way back.
    """
    window = SlidingWindow(RateLimit(n, per=2, guard=0.01))
    arrivals: list[float] = []
    window.start(0.0, bulk=False)
    window.finish(0.0, now := least)
    for _ in range(6 * n):
        now = max(now, window.next_slot_at(now))
        window.start(now, bulk=False)
        there = data.draw(st.floats(0, 0.016))
        arrivals.append(now + there + least / 2)
        began, now = now, now + data.draw(st.floats(there, 0.016)) + least
        window.finish(began, now)
    assert most(sorted(arrivals), 2.0) <= n


def test_a_constant_latency_costs_no_quota() -> None:
    starts = busy(SlidingWindow(RateLimit(10, per=2, guard=0.01)), 1000, latency=0.5)
    # But for the first window, which waits for its answers.
    assert starts[-1] == pytest.approx(0.5 + 99 * 2.02, abs=0.01)


def test_a_slow_response_counts_later_by_its_excess_over_the_shortest_latency() -> None:
    window = SlidingWindow(RateLimit(1, per=2, guard=0.01))
    for began, took in ((0.0, 0.1), (3.0, 0.1), (6.0, 0.3)):
        assert window.next_slot_at(began) == began
        window.start(began, bulk=False)
        window.finish(began, began + took)
    assert window.next_slot_at(7.0) == pytest.approx(6.0 + 0.2 + 2.02)


def test_a_request_without_an_answer_counts_after_a_quarter_of_the_window() -> None:
    window = SlidingWindow(RateLimit(1, per=2, guard=0.01))
    for began in (0.0, 3.0):
        assert window.next_slot_at(began) == began
        window.start(began, bulk=False)
        window.finish(began, began + 0.1)
    assert window.next_slot_at(6.0) == 6.0
    window.start(6.0, bulk=False)
    assert window.next_slot_at(6.1) == pytest.approx(6.0 + 2.02 / 4 + 2.02)
    # Its answer comes too late to show an earlier moment.
    assert window.next_slot_at(7.0) == pytest.approx(6.0 + 2.02 / 4 + 2.02)
    window.finish(6.0, 7.9)
    assert window.next_slot_at(8.0) == pytest.approx(6.0 + 2.02 / 4 + 2.02)


@pytest.mark.parametrize("latency", [0.1, 0.3, 0.6, 0.95])
def test_a_constant_latency_costs_nothing_however_long(latency: float) -> None:
    starts = busy(SlidingWindow(RateLimit(100, per=1)), 3000, latency=latency)
    # But for the first window, which waits for its answers.
    assert starts[-1] <= latency + 29 * 1.005 + 0.001


@pytest.mark.parametrize(("idle", "cold"), [(4.0, False), (4.1, True)])
def test_after_a_long_idle_time_a_request_counts_from_its_answer(idle: float, cold: bool) -> None:
    window = SlidingWindow(RateLimit(1, per=2, guard=0.01))
    window.start(0.0, bulk=False)
    window.finish(0.0, 0.1)
    window.next_slot_at(3.0)
    window.start(3.0, bulk=False)
    window.finish(3.0, 3.1)
    began = 3.0 + idle
    assert window.next_slot_at(began) == began
    window.start(began, bulk=False)
    # On a cold connection nothing is known of the moment at which the server sees it.
    assert (window.next_slot_at(began + 1.0) == math.inf) is cold


@pytest.mark.quick("30-*", "1000-*")
@pytest.mark.parametrize("bulk", [False, True])
@pytest.mark.parametrize("n", [30, 1000, LARGE])
def test_a_busy_client_uses_at_least_99_percent(n: int, bulk: bool) -> None:
    window = SlidingWindow(RateLimit(n, per=300))
    count = 20 * n
    starts = busy(window, count, bulk=bulk)
    assert most(starts, 300.0) <= n
    assert count / (starts[-1] / 300 + (not bulk)) >= 0.99 * n


def test_large_limits_cost_little_memory_and_are_kept() -> None:
    window = SlidingWindow(RateLimit(LARGE, per=10, guard=0.0))
    now, starts = 0.0, []
    while len(starts) < 3 * LARGE:
        at = window.next_slot_at(now)
        if at > now:
            now = at
        else:
            window.start(now, bulk=False)
            window.finish(now, now)
            starts.append(now)
            now += 10 / (1.3 * LARGE)
    assert most(starts, 10.0) <= LARGE
    assert len(window.save(now)) <= 402
    assert starts[-1] <= 1.01 * 2 * 10 + 10


# Reserve and burst.


def test_the_reserve_is_left_to_others() -> None:
    assert most(busy(SlidingWindow(RateLimit(100, per=10, reserve=0.2)), 500), 10.0) == 80
    assert RateLimit(10, per=1, reserve=0.9).capacity == 1


def test_a_burst_of_one_is_even() -> None:
    starts = busy(SlidingWindow(RateLimit(100, per=10, burst=1)), 500)
    gaps = [after - before for before, after in itertools.pairwise(starts)]
    assert min(gaps) == pytest.approx(0.1005)
    assert max(gaps) == pytest.approx(0.1005)


def test_a_burst_goes_at_once_and_the_rest_evenly() -> None:
    starts = busy(SlidingWindow(RateLimit(100, per=10, burst=7)), 50)
    assert starts[:8] == [0.0] * 7 + [pytest.approx(0.1005)]
    assert starts[-1] == pytest.approx(43 * 0.1005)


def test_a_slightly_late_start_does_not_delay_the_others() -> None:
    window = SlidingWindow(RateLimit(10, per=10, burst=1, guard=0.0))
    window.next_slot_at(0.0)
    window.start(0.0, bulk=False)
    window.finish(0.0, 0.0)
    assert window.next_slot_at(1.09) == 1.09
    window.start(1.09, bulk=False)
    assert window.next_slot_at(1.1) == 2.0
    window.next_slot_at(2.5)
    window.start(2.5, bulk=False)
    assert window.next_slot_at(2.6) == 3.5


# Bulk and live.


def test_bulk_work_spreads_the_last_tenth() -> None:
    starts = busy(SlidingWindow(RateLimit(1000, per=300)), 2000, bulk=True)
    assert starts.count(0.0) == 901
    gaps = [after - before for before, after in itertools.pairwise(starts) if after > before]
    assert max(gaps) < 3.2
    assert most(starts, 300.0) <= 1000


@pytest.mark.parametrize(
    ("n", "per", "apart", "longest"), [(1000, 300.0, 21.93, 3.1), (30, 1.0, 0.731, 0.36)]
)
def test_a_live_request_finds_a_slot_soon_at_any_moment(
    n: int, per: float, apart: float, longest: float
) -> None:
    """Bulk work takes what it may; now and then a live request comes."""
    window = SlidingWindow(RateLimit(n, per=per))
    now, starts = 0.0, []
    arrivals = [apart * number for number in range(1, 100)]
    arrivals = [at for number, at in enumerate(arrivals) if number % 3]
    waits = []
    while arrivals:
        at = window.next_slot_at(now)
        if at <= now and arrivals[0] <= now:
            waits.append(now - arrivals.pop(0))
            window.start(now, bulk=False)
            window.finish(now, now)
            starts.append(now)
            continue
        if at <= now:
            at = window.next_bulk_slot_at(now)
        if at <= now:
            window.start(now, bulk=True)
            window.finish(now, now)
            starts.append(now)
        elif arrivals[0] > now:
            now = min(at, arrivals[0])
        else:
            now = window.next_slot_at(now)
    # In a short window bulk work leaves places free only once it has seen live work.
    assert waits[0] <= (per if per <= 6 else longest)
    assert max(waits[1:]) <= longest
    assert most(starts, per) <= n


def test_in_a_short_window_bulk_work_alone_takes_all_slots_at_once() -> None:
    assert busy(SlidingWindow(RateLimit(60, per=2.0)), 480, bulk=True)[-1] < 14.2
    assert busy(SlidingWindow(RateLimit(60, per=7.0)), 480, bulk=True)[-1] > 49.5


def test_requests_that_count_go_on_to_count_with_another_limit() -> None:
    window = SlidingWindow(RateLimit(10, per=10, guard=0.0))
    for now in (0.0, 1.0, 2.0):
        assert window.next_slot_at(now) == now
        window.start(now, bulk=False)
    window.finish(0.0, 0.0)
    window.finish(1.0, 1.0)
    window.set_limit(RateLimit(3, per=20, guard=0.0))
    assert (window.used, window.capacity) == (3, 3)
    assert window.next_slot_at(3.0) == 20.0
    # The one that was in flight counts from its answer.
    window.finish(2.0, 3.0)
    assert window.next_slot_at(20.0) == 20.0
    window.set_limit(RateLimit(100, per=5, guard=0.0))
    assert window.next_slot_at(20.0) == 20.0
    assert window.used == 0


# Requests of others, which the server told of.


def test_requests_of_other_clients_count_until_the_given_moment() -> None:
    window = SlidingWindow(RateLimit(10, per=10, guard=0.0))
    window.next_slot_at(0.0)
    for _ in range(4):
        window.start(0.0, bulk=False)
        window.finish(0.0, 0.0)
    window.set_external(6, 3.0)
    assert (window.used, window.next_slot_at(1.0)) == (10, 3.0)
    window.set_external(5, 4.0)
    assert window.next_slot_at(1.0) == 1.0
    window.set_external(8, 12.0)
    assert window.next_slot_at(1.0) == 10.0
    window.set_external(10, 12.0)
    assert window.next_slot_at(1.0) == 12.0
    assert [window.usage(at)[0].used for at in (11.9, 12.0)] == [10, 0]
    assert window.next_slot_at(12.0) == 12.0
    assert window.used == 0
