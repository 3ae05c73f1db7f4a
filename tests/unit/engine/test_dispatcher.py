"""The workers and their time, apart from the client."""

from __future__ import annotations

import anyio
import pytest

from cognigy_async import AuthenticationError, DeadlineExceededError, RateLimit, RetryPolicy
from cognigy_async.auth.provider import AccessToken
from cognigy_async.engine.dialog_queue import QueueState
from tests.simulation.world import Wire, client_of, every, outcome_of, status
from tests.unit._builders import item

from ._engines import accept, engine_over


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
