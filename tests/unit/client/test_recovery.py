"""Items for the updates of dead processes."""

from __future__ import annotations

import time
from typing import Any

import anyio
import pytest

from cognigy_async import Limits, StateUpdate
from cognigy_async.client.admission import Admission
from cognigy_async.client.recovery import Recovery
from cognigy_async.engine.engine import Engine
from cognigy_async.engine.work_item import RESOLVE, Action
from cognigy_async.spi import Intent
from tests.simulation.outbox import MemoryOutbox
from tests.simulation.world import Wire
from tests.unit.engine._engines import context_over


def recovery() -> tuple[Recovery, Engine]:
    context = context_over(Wire(), outbox=MemoryOutbox())
    engine = Engine(context)
    return Recovery(context, engine, Admission(context, engine.scheduler)), engine


def intent(update_id: str, **changes: Any) -> Intent:
    values: dict[str, Any] = {
        "dialog_id": "d",
        "update_id": update_id,
        "update": StateUpdate("d", session={"a": 1}),
        "metadata": {},
        "key": update_id,
        "etag": '"1"',
        "repeatable": True,
        "deadline": None,
        "recorded_at": time.time(),
    }
    return Intent(**values | changes)


async def test_they_stand_in_order_and_hold_slots() -> None:
    client, engine = recovery()
    client.resolve([intent("u-1"), intent("u-2")])
    client.resolve([intent("u-3", dialog_id="e"), intent("u-4")])
    queue = engine.queues.get("d")
    assert queue is not None
    assert [each.update_id for each in queue.work_items] == ["u-1", "u-2", "u-4"]
    assert {(each.kind, each.action, each.live) for each in queue.work_items} == {
        (RESOLVE, Action.READ, False)
    }
    assert engine.pending_limit.used == client.metrics.pending == 4
    assert client.limits == Limits()


async def test_only_updates_of_one_request_are_put_together() -> None:
    client, engine = recovery()
    client.resolve([intent("u-1", key="k"), intent("u-2", key="k"), intent("u-3")])
    queue = engine.queues.get("d")
    assert queue is not None
    assert [each.coalesces for each in queue.work_items] == [True, True, False]


@pytest.mark.parametrize(("deadline", "until"), [(None, 29.0), (10.0, 10.0), (60.0, 29.0)])
async def test_times_of_the_wall_clock_become_those_of_the_client(
    deadline: float | None, until: float
) -> None:
    client, engine = recovery()
    wall = time.time()
    ends = None if deadline is None else wall + deadline
    client.resolve([intent("u-1", recorded_at=wall - 1.0, deadline=ends)])
    queue = engine.queues.get("d")
    assert queue is not None
    resolution = queue.first.resolution
    assert resolution is not None
    now = anyio.current_time()
    assert resolution.blind_until - now == pytest.approx(until, abs=0.5)
    if deadline is None:
        assert resolution.deadline is None
    else:
        assert resolution.deadline is not None
        assert resolution.deadline - now == pytest.approx(deadline, abs=0.5)


async def test_a_client_that_has_stopped_takes_none() -> None:
    client, engine = recovery()
    engine.close()
    client.resolve([intent("u-1")])
    assert (len(engine.queues), engine.pending_limit.used) == (0, 0)
