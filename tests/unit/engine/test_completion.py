"""Outcomes of items, apart from the client."""

from __future__ import annotations

from cognigy_async import ClientClosedError, NoResponseError, RetryPolicy
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
    first.retry_state.last = NoResponseError("no answer")
    engine.scheduler.wait(queue, engine.clock() + 10.0)
    engine.close()
    assert isinstance(first.error, NoResponseError)
    assert isinstance(second.error, ClientClosedError)
    assert engine.completion.paused() == {}
    assert engine.completion.unsent == [second.update]
    assert list(engine.queues) == []
