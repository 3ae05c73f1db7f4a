"""Outcomes of items, apart from the client."""

from __future__ import annotations

import pytest

from cognigy_async import (
    AmbiguousUpdateError,
    ClientClosedError,
    NoResponseError,
    RetryPolicy,
    ServerError,
    SharedQuotaError,
)
from cognigy_async.engine.coalescing import gather
from cognigy_async.engine.completion import pause_error
from cognigy_async.engine.dialog_queue import DialogQueue
from cognigy_async.engine.protocol import Settled
from cognigy_async.engine.work_item import WorkItem
from cognigy_async.retry import RetryState
from tests.simulation.world import Wire
from tests.unit._builders import item

from ._engines import accept, engine_over


async def test_a_dialog_is_not_paused_while_the_client_closes() -> None:
    """Nobody could resume it: what follows the failed update is returned as not sent."""
    engine = engine_over(Wire(), on_failure="pause", retry=RetryPolicy())
    first, second = item(serial=1), item(serial=2)
    second.waits_when_paused = True
    accept(engine, first, second)
    queue = engine.scheduler.next_queue(engine.clock())
    assert queue is not None
    first.sent_at, first.attempts = engine.clock(), 1
    first.retry_state = RetryState()
    first.retry_state.last_error = NoResponseError("no answer")
    engine.scheduler.wait(queue, engine.clock() + 10.0)
    engine.close()
    assert isinstance(first.error, NoResponseError)
    assert isinstance(second.error, ClientClosedError)
    assert engine.completion.paused() == {}
    assert engine.completion.unsent == [second.update]
    assert list(engine.queues) == []


def test_the_error_of_a_paused_dialog_names_its_cause_and_what_waits() -> None:
    queue = DialogQueue("d-1")
    queue.append(item(serial=1))
    queue.paused_by = ServerError("broken")
    error = pause_error(queue)
    assert (error.dialog_id, error.__cause__) == ("d-1", queue.paused_by)
    assert "1 waiting" in str(error)


async def test_a_failure_at_one_member_of_a_group_keeps_no_other_from_its_outcome() -> None:
    engine = engine_over(Wire(), coalesce=True)
    made = [item(serial=number) for number in (1, 2, 3)]
    for each in made:
        each.coalesces, each.options = True, made[0].options
    accept(engine, *made)
    queue = engine.scheduler.next_queue(engine.clock())
    assert queue is not None
    group = gather(queue, engine.completion._protocol, 10)

    class Broken:
        def notify(self, item: WorkItem, /) -> None:
            raise RuntimeError("broken")

    made[1].sink = Broken()
    with pytest.raises(RuntimeError, match="broken"):
        engine.completion.complete(queue, Settled(error=ServerError("no")))
    assert group.group is not None
    assert [each.completed for each in made] == [True] * 3
    assert all(isinstance(each.error, ServerError) for each in made)


async def test_a_refused_update_tells_of_its_last_failure() -> None:
    lost, rejected = NoResponseError("no answer"), ServerError("unavailable", status=503)
    failures: list[NoResponseError | ServerError | None] = [None, rejected, lost]
    found = []
    for last in failures:
        engine = engine_over(Wire())
        refused = item(live=False)
        accept(engine, refused)
        queue = engine.scheduler.next_queue(engine.clock())
        assert queue is not None
        if last is not None:
            refused.sent_at, refused.attempts = engine.clock(), 1
            refused.retry_state = RetryState()
            refused.retry_state.last_error = last
            if last is lost:
                refused.retry_state.unanswered = lost
        engine.completion.refuse(queue, SharedQuotaError("/run/quota", "is full", "Make room."))
        assert refused.completed
        assert refused.error is not None
        found.append((type(refused.error), type(refused.error.__cause__)))
        assert list(engine.queues) == []
    assert found == [
        (SharedQuotaError, type(None)),
        (SharedQuotaError, ServerError),
        (AmbiguousUpdateError, SharedQuotaError),
    ]
    assert getattr(refused.error.__cause__, "__cause__", None) is lost
