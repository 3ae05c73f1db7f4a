"""Two limits at once, through restarts of the process: no window holds more than it may."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from cognigy_async import RateLimit
from cognigy_async.ratelimit.limiter import CompositeLimiter, create_limiter


class LimiterMachine(RuleBasedStateMachine):
    """The limiter against the list of all starts, on a clock that no restart sets back."""

    @initialize(
        short=st.integers(1, 4),
        more=st.integers(1, 6),
        reserve=st.sampled_from([0.0, 0.25]),
        burst=st.sampled_from([None, 1, 2]),
    )
    def begin(self, short: int, more: int, reserve: float, burst: int | None) -> None:
        self.limits = [
            RateLimit(short + 1, per=10, reserve=reserve, burst=burst),
            RateLimit(short + more, per=60),
        ]
        self.now = 0.0
        self.born = 0.0
        """The monotonic clock of a process begins with it."""
        self.starts: list[float] = []
        self.flying: list[float] = []
        self.limiter = self.fresh()

    def fresh(self) -> CompositeLimiter:
        made = create_limiter(self.limits)
        assert made is not None
        return made

    @property
    def monotonic(self) -> float:
        return self.now - self.born

    @rule(seconds=st.sampled_from([0.0, 0.01, 0.5, 2.0, 5.0, 30.0]))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def pass_until_a_slot(self) -> None:
        at = self.limiter.next_slot_at(self.monotonic, True)
        if self.monotonic < at < 1e9:
            # A sum of floats may fall a little short.
            self.now = self.born + at + 1e-9
            assert self.limiter.next_slot_at(self.monotonic, True) <= self.monotonic

    @rule(bulk=st.booleans())
    def start(self, bulk: bool) -> None:
        if self.limiter.next_slot_at(self.monotonic, not bulk) > self.monotonic:
            return
        if bulk and self.limiter.next_bulk_slot_at(self.monotonic) > self.monotonic:
            return
        self.limiter.start(self.monotonic, bulk=bulk)
        self.starts.append(self.now)
        self.flying.append(self.now)

    @precondition(lambda self: self.flying)
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        started = self.flying.pop(data.draw(st.integers(0, len(self.flying) - 1)))
        self.limiter.finish(started - self.born, self.monotonic)

    @rule(stands=st.sampled_from([0.0, 3.0, 100.0]), clock=st.sampled_from([0.0, -1000.0]))
    def restart(self, stands: float, clock: float) -> None:
        """Save, stand still, and restore; the wall clock may be set back meanwhile."""
        saved = json.loads(json.dumps(self.limiter.save(self.monotonic, 1e9 + self.now)))
        self.now += stands
        self.born = self.now
        self.flying.clear()
        self.limiter = self.fresh()
        self.limiter.restore(saved, self.monotonic, 1e9 + self.now + clock)

    @invariant()
    def no_window_holds_too_many(self) -> None:
        if self.starts:
            for limit in self.limits:
                since = [at for at in self.starts if at > self.starts[-1] - limit.per]
                assert len(since) <= limit.capacity, f"{limit}: {since}"

    @invariant()
    def each_limit_knows_its_use(self) -> None:
        for use, limit in zip(self.limiter.usage(self.monotonic), self.limits, strict=True):
            assert (use.n, use.per) == (limit.capacity, limit.per)
            # After a restart the shorter window counts as late as the longer one did.
            assert 0 <= use.used <= max(each.capacity for each in self.limits)

    def teardown(self) -> None:
        """A client that sends nothing for long has all its slots."""
        if not hasattr(self, "limiter"):
            return
        for started in self.flying:
            self.limiter.finish(started - self.born, self.monotonic)
        self.now += 1000.0
        assert self.limiter.next_slot_at(self.monotonic, True) <= self.monotonic
        assert [use.used for use in self.limiter.usage(self.monotonic)] == [0, 0]


class LimiterMachineForLong(LimiterMachine):
    pass


TestLimiter: Any = LimiterMachine.TestCase
TestLimiter.settings = settings(deadline=None, max_examples=40, stateful_step_count=40)
TestLimiterForLong: Any = pytest.mark.thorough(LimiterMachineForLong.TestCase)
TestLimiterForLong.settings = settings(deadline=None, max_examples=3000, stateful_step_count=60)
