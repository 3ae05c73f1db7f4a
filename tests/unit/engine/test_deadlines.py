"""Who is watched until when, against a list that is searched anew each time."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from cognigy_async.engine.ready_queues import Deadlines
from cognigy_async.engine.work_item import WorkItem
from tests.unit._builders import item, unhurried


def watched(deadlines: Deadlines, at: float, serial: int) -> WorkItem:
    made = item(serial=serial, deadline=at)
    deadlines.add(made)
    return made


def moment_of(watched: WorkItem) -> float:
    assert watched.options.deadline is not None
    return watched.options.deadline


steps = st.lists(
    st.tuples(st.sampled_from(["add", "settle", "wait"]), st.integers(0, 20)), max_size=60
)


@unhurried
@given(steps)
def test_each_is_told_once_at_its_moment_and_never_when_it_is_settled(
    steps: list[tuple[str, int]],
) -> None:
    deadlines = Deadlines()
    open_: list[WorkItem] = []
    now = 0.0
    for serial, (step, number) in enumerate(steps):
        if step == "add":
            open_.append(watched(deadlines, now + number, serial))
        elif step == "settle" and open_:
            open_.pop(number % len(open_)).completed = True
        elif step == "wait":
            now += number
        assert deadlines.next() == min(map(moment_of, open_), default=math.inf)
        late = deadlines.due(now)
        assert late == sorted(late, key=lambda one: (moment_of(one), one.serial))
        assert {one.serial for one in late} == {
            one.serial for one in open_ if moment_of(one) <= now
        }
        open_ = [one for one in open_ if one not in late]


def test_those_that_settle_early_are_forgotten() -> None:
    deadlines = Deadlines()
    for serial in range(50_000):
        # The first one stays, so that the others are never on top.
        watched(deadlines, 100.0 + serial, serial).completed = serial > 0
    assert len(deadlines) < 3000
    assert deadlines.next() == 100.0
