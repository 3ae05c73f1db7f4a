"""Outcomes of items, apart from the client."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator

import anyio
import pytest
from anyio.abc import TaskGroup

from cognigy_async import (
    AmbiguousUpdateError,
    ClientClosedError,
    DialogPausedError,
    NoResponseError,
    RetryPolicy,
    ServerError,
    SharedQuotaError,
)
from cognigy_async.engine.coalescing import gather
from cognigy_async.engine.completion import pause_error
from cognigy_async.engine.dialog_queue import DialogQueue
from cognigy_async.engine.engine import Engine
from cognigy_async.engine.protocol import Settled
from cognigy_async.engine.work_item import Kind, WorkItem
from cognigy_async.retry import RetryState
from tests.simulation.world import Wire
from tests.steps import Steps
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
    queue.remember().paused_by = broken = ServerError("broken")
    error = pause_error(queue)
    assert (error.dialog_id, error.__cause__) == ("d-1", broken)
    assert "1 waiting" in str(error)


def test_the_error_of_a_paused_dialog_costs_the_same_however_many_wait() -> None:
    class Behind(OrderedDict[WorkItem, None]):
        looked_at = 0

        def __iter__(self) -> Iterator[WorkItem]:
            for each in super().__iter__():
                Behind.looked_at += 1
                yield each

    queue = DialogQueue("d-1")
    for serial in range(1, 101):
        queue.append(item(serial=serial))
    assert queue.behind is not None
    queue.behind = Behind(queue.behind)
    assert pause_error(queue).waiting == 100
    assert Behind.looked_at == 0


async def failed(engine: Engine, serial: int, *, waiting: int = 0) -> None:
    """Let an item fail, with so many behind it that wait while its dialog is paused."""
    made = [item(dialog_id="d", serial=serial + number) for number in range(1 + waiting)]
    for each in made:
        each.waits_when_paused = True
    accept(engine, *made)
    await fail_next(engine)


async def fail_next(engine: Engine) -> None:
    queue = engine.scheduler.next_queue(engine.clock())
    assert queue is not None
    queue.first.sent_at = engine.clock()
    engine.completion.complete(queue, Settled(error=ServerError("no")))


async def test_a_pause_looks_only_at_what_came_after_the_pause_before() -> None:
    engine = engine_over(Wire(), on_failure="pause")
    await failed(engine, 1, waiting=1000)
    counts = []
    for serial in (2000, 3000):
        engine.completion.resume("d")
        refused, held = item(dialog_id="d", serial=serial), item(dialog_id="d", serial=serial + 1)
        held.waits_when_paused = True
        accept(engine, refused, held)
        with Steps() as steps:
            await fail_next(engine)
        counts.append(steps.count)
        assert isinstance(refused.error, DialogPausedError)
        assert not held.completed
    assert engine.completion.paused()["d"].waiting == 998 + 2
    assert max(counts) < 300


async def flush(engine: Engine, tasks: TaskGroup) -> list[bool]:
    """Begin a flush. The list gets an element at its end."""
    ended: list[bool] = []

    async def wait() -> None:
        await engine.flush()
        ended.append(True)

    tasks.start_soon(wait)
    await anyio.wait_all_tasks_blocked()
    return ended


async def test_a_flush_ends_when_the_dialog_is_paused_and_the_next_one_after_its_resume() -> None:
    engine = engine_over(Wire(), on_failure="pause")
    async with anyio.create_task_group() as tasks:
        made = [item(dialog_id="d", serial=serial) for serial in (1, 2, 3)]
        for each in made:
            each.waits_when_paused = True
        accept(engine, *made)
        before = await flush(engine, tasks)
        assert not before
        await fail_next(engine)
        assert not engine.completion.busy
        await anyio.wait_all_tasks_blocked()
        assert before
        assert await flush(engine, tasks)
        engine.completion.resume(None)
        assert engine.completion.busy
        after = await flush(engine, tasks)
        await fail_next(engine)
        engine.completion.resume("d")
        # Withdrawn while it is the head: the flush has nothing left to wait for.
        assert engine.withdraw(made[2])
        await anyio.wait_all_tasks_blocked()
        assert after
        assert not engine.completion.busy


async def test_a_flush_waits_for_what_stands_before_it_and_for_nothing_behind_it() -> None:
    engine = engine_over(Wire())
    async with anyio.create_task_group() as tasks:
        made = [item(dialog_id="d", serial=serial) for serial in range(1, 5)]
        accept(engine, *made[:2])
        first = await flush(engine, tasks)
        accept(engine, made[2])
        second = await flush(engine, tasks)
        accept(engine, made[3], item(Kind.READ, "d", serial=5))
        ends = []
        for _ in range(3):
            assert engine.withdraw(next(each for each in made if not each.completed))
            await anyio.wait_all_tasks_blocked()
            ends.append((bool(first), bool(second)))
        assert ends == [(False, False), (True, False), (True, True)]


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
