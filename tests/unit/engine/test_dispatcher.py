"""The workers and their time, apart from the client."""

from __future__ import annotations

import itertools

import anyio
import anyio.lowlevel
import pytest

from cognigy_async import AuthenticationError, DeadlineExceededError, RateLimit, RetryPolicy
from cognigy_async.auth.provider import AccessToken
from cognigy_async.engine.dialog_queue import QueueState
from cognigy_async.engine.dispatcher import STEPS_BETWEEN_YIELDS
from tests.simulation.world import Wire, client_of, every, outcome_of, status
from tests.unit._builders import item

from ._engines import accept, engine_over, running


class _NoToken:
    """A provider that has a token for the first request only, and may have one later."""

    def __init__(self) -> None:
        self.asked = 0

    async def get_token(self) -> AccessToken:
        self.asked += 1
        if self.asked > 1:
            raise AuthenticationError("no token", transient=True)
        return AccessToken("authorization", "token")

    def invalidate(self, token: AccessToken) -> None:
        """Nothing is kept."""

    async def aclose(self) -> None:
        """Nothing is open."""


async def test_an_idle_worker_asks_one_stream_for_input_and_the_next_one_when_idle_again() -> None:
    engine = engine_over(Wire(), max_in_flight=2)
    events = [anyio.Event() for _ in range(5)]
    engine.waker.on_idle.update(dict.fromkeys(events))
    async with running(engine):
        await anyio.wait_all_tasks_blocked()
        # Each of the two workers asks one.
        assert [event.is_set() for event in events] == [True, True, False, False, False]
        engine.waker.wake()
        await anyio.wait_all_tasks_blocked()
        assert [event.is_set() for event in events] == [True, True, True, False, False]
        assert list(engine.waker.on_idle) == events[3:]
        assert len(engine.waker.idle) == 2
    assert engine.waker.idle == []


async def test_a_failure_to_get_a_token_does_not_wait_for_the_rate_limit() -> None:
    """No request is made of it, so it needs no slot of the quota."""
    wire = Wire()
    client = client_of(
        wire,
        auth=_NoToken(),
        rate_limit=RateLimit(1, per=1000),
        retry=every(1.0, max_attempts=3),
    )
    async with client:
        await client.update("d-1", session={"a": 1})
        began = anyio.current_time()
        error = await outcome_of(client.update("d-2", session={"a": 1}))
        assert isinstance(error, AuthenticationError)
        assert anyio.current_time() - began == pytest.approx(2.0)
    assert len(wire.sent) == 1


async def test_an_update_past_its_deadline_does_not_take_the_turn_of_a_probe() -> None:
    engine = engine_over(Wire(answer=status(503)), retry=RetryPolicy(wait=lambda _: 5.0, budget=0))
    late = item(serial=1, dialog_id="late", live=False, deadline=anyio.current_time() + 5.0)
    other = item(serial=2, dialog_id="other", live=False)
    accept(engine, late, other)
    now = engine.clock()
    for queue in [engine.scheduler.next_queue(now) for _ in range(2)]:
        assert queue is not None
        queue.first.sent_at, queue.first.attempts = now, 1
        engine.scheduler.wait_for_server(queue, now)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(engine._dispatcher.keep_time)
        await anyio.sleep(5.5)
        tasks.cancel_scope.cancel()
    assert isinstance(late.error, DeadlineExceededError)
    assert other.queue is not None
    assert other.queue.state is QueueState.READY
    engine.close()


async def test_a_transport_that_never_waits_leaves_the_event_loop_to_others() -> None:
    wire = Wire(steps=0)
    engine = engine_over(wire, max_in_flight=1)
    accept(engine, *(item(serial=number, dialog_id=f"d-{number}") for number in range(200)))
    seen: list[int] = []
    async with running(engine):
        while engine.scheduler.queues.waiting():
            await anyio.lowlevel.checkpoint()
            seen.append(len(wire.sent))
    steps = [after - before for before, after in itertools.pairwise([0, *seen])]
    # Event loops may let the worker go twice in a row.
    assert max(steps) <= 2 * STEPS_BETWEEN_YIELDS
    assert len(wire.sent) == 200
