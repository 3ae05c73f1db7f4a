"""Waking workers, and the alarm."""

from __future__ import annotations

import anyio

from cognigy_async._utils.waker import Waker


def idle(waker: Waker, count: int) -> list[anyio.Event]:
    events = [anyio.Event() for _ in range(count)]
    waker.idle.extend(events)
    return events


async def test_one_worker_is_woken_at_a_time() -> None:
    waker = Waker()
    events = idle(waker, 3)
    waker.wake()
    waker.wake()
    assert [event.is_set() for event in events] == [False, False, True]
    # The worker runs, and wakes the next one if there is more to do.
    waker.waking = False
    waker.wake()
    assert [event.is_set() for event in events] == [False, True, True]


async def test_the_alarm_rings_earlier_but_never_later() -> None:
    waker = Waker()
    waker.wake_at(1.0)
    waker.alarm, waker.alarm_at = anyio.Event(), 5.0
    waker.wake_at(7.0)
    assert not waker.alarm.is_set()
    waker.wake_at(3.0)
    assert waker.alarm.is_set()
    assert waker.alarm_at == 3.0


async def test_the_end_wakes_everybody() -> None:
    waker = Waker()
    events = idle(waker, 3)
    waker.end()
    assert waker.ended
    assert all(event.is_set() for event in events)
