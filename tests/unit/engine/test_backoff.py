"""Failures: waits, pauses of the dialog or the tenant, and giving up."""

from __future__ import annotations

import math

import pytest

from cognigy_async import RateLimitedError, RetryPolicy, ServerError, UpdateError
from cognigy_async.engine.backoff import Backoff
from cognigy_async.engine.dialog_queue import DialogQueue, QueueState
from cognigy_async.engine.engine import Engine
from cognigy_async.engine.protocol import RetryLater
from cognigy_async.retry import ResponseKind, RetryState
from tests.simulation.world import Wire
from tests.unit._builders import item

from ._engines import accept, engine_over

POLICY = RetryPolicy(wait=lambda _: 3.0, max_attempts=2, budget=0)


def in_flight(engine: Engine, *, live: bool = True) -> DialogQueue:
    made = item(serial=1, live=live, policy=POLICY)
    made.retry_state = RetryState()
    accept(engine, made)
    queue = engine.scheduler.next_queue(engine.clock())
    assert queue is not None
    return queue


def fail(engine: Engine, queue: DialogQueue, kind: ResponseKind, error: UpdateError) -> bool:
    backoff: Backoff = engine._dispatcher._backoff
    dialog_only = kind is ResponseKind.THROTTLED and error.dialog_id is not None
    return backoff.failed(queue, RetryLater(kind, error, dialog_only), engine.clock())


async def test_a_failure_lets_the_dialog_wait_for_the_backoff() -> None:
    engine = engine_over(Wire(), retry=POLICY)
    queue = in_flight(engine)
    assert fail(engine, queue, ResponseKind.FAULT, ServerError("no"))
    assert queue.state is QueueState.WAITING
    assert queue.until == pytest.approx(engine.clock() + 3.0)
    assert not engine.scheduler.tenant.active


async def test_the_last_attempt_is_given_up() -> None:
    engine = engine_over(Wire(), retry=POLICY)
    queue = in_flight(engine)
    assert fail(engine, queue, ResponseKind.FAULT, ServerError("no"))
    engine.scheduler.advance(queue.until)
    assert engine.scheduler.next_queue(queue.until) is queue
    assert not fail(engine, queue, ResponseKind.FAULT, ServerError("no"))


async def test_retry_after_pauses_the_tenant_or_one_dialog() -> None:
    engine = engine_over(Wire(), retry=POLICY)
    queue = in_flight(engine)
    own = RateLimitedError("slow down", retry_after=7.0)
    own.dialog_id = "d-1"
    assert fail(engine, queue, ResponseKind.THROTTLED, own)
    assert not engine.scheduler.tenant.active
    assert engine.scheduler.dialogs.until("d-1") == pytest.approx(engine.clock() + 7.0)
    engine.scheduler.advance(queue.until)
    assert engine.scheduler.next_queue(queue.until) is queue
    assert fail(
        engine, queue, ResponseKind.THROTTLED, RateLimitedError("slow down", retry_after=9.0)
    )
    assert engine.scheduler.tenant.remaining(engine.clock()) == pytest.approx(9.0)


async def test_the_reset_of_a_rate_limit_counts_without_retry_after() -> None:
    for named, expected in ((None, 8.0), (5.0, 5.0)):
        engine = engine_over(Wire(), retry=POLICY)
        queue = in_flight(engine)
        error = RateLimitedError("slow down", retry_after=named)
        failure = RetryLater(ResponseKind.THROTTLED, error, reset_after=8.0)
        assert engine._dispatcher._backoff.failed(queue, failure, engine.clock())
        assert engine.scheduler.tenant.remaining(engine.clock()) == pytest.approx(expected)
        assert error.retry_after == expected


@pytest.mark.parametrize("named", [None, 0.001])
async def test_the_tenant_backs_off_if_no_moment_ahead_is_named(named: float | None) -> None:
    engine = engine_over(Wire(), retry=POLICY)
    queue = in_flight(engine)
    error = RateLimitedError("slow down", retry_after=named)
    assert fail(engine, queue, ResponseKind.THROTTLED, error)
    assert engine.scheduler.tenant.remaining(engine.clock()) == pytest.approx(3.0)


async def test_the_tenant_backs_off_if_moments_come_too_early_again_and_again() -> None:
    engine = engine_over(Wire(), retry=POLICY)
    queue = in_flight(engine)
    now = engine.clock()
    for began, expected in ((now, 1.0), (now + 1.0, 3.0)):
        error = RateLimitedError("slow down", retry_after=1.0)
        failure = RetryLater(ResponseKind.THROTTLED, error)
        engine._dispatcher._backoff._throttle(queue.first, failure, began, began, 1.0)
        assert engine.scheduler.tenant.remaining(began) == pytest.approx(expected)


async def test_an_item_is_given_up_that_pauses_in_a_row_hold_too_long() -> None:
    engine = engine_over(Wire(), retry=POLICY)
    queue = in_flight(engine)
    queue.first.accepted_at = now = engine.clock()
    engine.scheduler.throttle_tenant(now, now, 599.0, 0.0)
    error = RateLimitedError("slow down", retry_after=598.0)
    assert fail(engine, queue, ResponseKind.THROTTLED, error)
    error = RateLimitedError("slow down", retry_after=1.5)
    engine.scheduler.tenant.throttle(now + 599.0, now + 599.0, 2.0, 0.0)
    assert not fail(engine, queue, ResponseKind.THROTTLED, error)


async def test_without_budget_live_work_is_given_up_and_bulk_work_waits_for_the_server() -> None:
    for live in (True, False):
        engine = engine_over(Wire(), retry=POLICY)
        while engine.scheduler.budget.take():
            pass
        queue = in_flight(engine, live=live)
        assert fail(engine, queue, ResponseKind.GATEWAY, ServerError("away")) is not live
        assert (queue.until == math.inf) is not live
