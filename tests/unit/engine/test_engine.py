"""Withdrawing and cancelling items of an engine that does not run."""

from __future__ import annotations

from cognigy_async import ServerError, UpdateWithdrawnError
from cognigy_async.engine.dialog_queue import DialogQueue
from cognigy_async.engine.engine import Engine
from cognigy_async.engine.work_item import WorkItem
from cognigy_async.retry import RetryState
from tests.simulation.world import Wire
from tests.unit._builders import item

from ._engines import accept, engine_over


def sent(engine: Engine, made: WorkItem) -> DialogQueue:
    accept(engine, made)
    queue = engine.scheduler.next_queue(engine.clock())
    assert queue is not None
    made.sent_at, made.attempts = engine.clock(), 1
    return queue


async def test_only_what_was_not_sent_is_withdrawn() -> None:
    engine = engine_over(Wire())
    first, second = item(serial=1), item(serial=2)
    sent(engine, first)
    accept(engine, second)
    assert not engine.withdraw(first)
    assert engine.withdraw(second)
    assert isinstance(second.error, UpdateWithdrawnError)
    assert not engine.withdraw(second)
    assert engine.pending_limit.used == 1


async def test_a_cancelled_item_between_attempts_ends_with_its_last_error() -> None:
    engine = engine_over(Wire())
    made = item(serial=1)
    queue = sent(engine, made)
    made.retry_state = RetryState(last_error=ServerError("down"))
    engine.scheduler.wait(queue, engine.clock() + 10.0)
    engine.cancel(made)
    assert isinstance(made.error, ServerError)
    assert list(engine.queues) == []


async def test_a_cancelled_item_in_flight_is_not_torn_down() -> None:
    engine = engine_over(Wire())
    made = item(serial=1)
    sent(engine, made)
    engine.cancel(made)
    assert made.abandoned
    assert not made.completed


async def test_without_a_rate_limit_nothing_is_saved() -> None:
    assert engine_over(Wire()).save_quota()["starts"] == []
