"""`Admission`: where and when updates are accepted, their slots, and the items made of them."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import anyio
import anyio.to_thread
import pytest

from cognigy_async import (
    AuditError,
    ClientClosedError,
    ClientUsageError,
    DeadlineExceededError,
    DialogPausedError,
    RetryPolicy,
    ServerError,
)
from cognigy_async._utils.concurrency import fork_counter
from cognigy_async.client.admission import Admission
from cognigy_async.engine.work_item import Action, Kind, SendOptions
from cognigy_async.hooks.invocation import Call, current_call
from tests.unit._builders import Heard, item, update
from tests.unit.client._parts import Entrance


def options(**changes: Any) -> SendOptions:
    usual: dict[str, Any] = {"policy": RetryPolicy(), "timeout": 15.0}
    return SendOptions(**usual | changes)


def in_callback(entrance: Entrance) -> None:
    """Make the rest of the test run as if a callback of that client called it."""
    current_call.set(Call(entrance.hooks._tasks))


# Where and when.


async def test_it_accepts_between_open_and_close() -> None:
    entrance = Entrance()
    entrance.admission.check_open()
    entrance.admission.close()
    with pytest.raises(ClientClosedError):
        entrance.admission.check_open()


async def test_while_it_drains_only_running_callbacks_get_in() -> None:
    entrance = Entrance()
    entrance.admission.close(except_callbacks=True)
    with pytest.raises(ClientClosedError):
        entrance.admission.check_open()
    in_callback(entrance)
    entrance.admission.check_open()
    entrance.admission.close()
    with pytest.raises(ClientClosedError):
        entrance.admission.check_open()


async def test_another_event_loop_or_thread_is_refused() -> None:
    entrance = Entrance()

    async def elsewhere() -> None:
        entrance.admission.check_event_loop()

    ways: list[Callable[[], Any]] = [
        entrance.admission.check_event_loop,
        functools.partial(asyncio.run, elsewhere()),
    ]
    for way in ways:
        with pytest.raises(ClientUsageError, match="another event loop"):
            await anyio.to_thread.run_sync(way)


async def test_a_forked_process_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    entrance = Entrance()
    monkeypatch.setattr(fork_counter, "count", fork_counter.count + 1)
    with pytest.raises(ClientUsageError, match="forked"):
        entrance.admission.check_open()


# Slots.


async def test_a_slot_that_is_released_goes_to_a_waiter() -> None:
    entrance = Entrance(slots=1)
    admission: Admission = entrance.admission
    await admission.acquire_slot("a")
    assert not admission.try_acquire_slot()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(admission.acquire_slot, "b")
        await anyio.sleep(1)
        admission.release_slot()
    assert entrance.pending_limit.used == 1


async def test_a_callback_gets_a_slot_although_there_is_none() -> None:
    entrance = Entrance(slots=1)
    entrance.hooks.has_callbacks = True
    assert entrance.admission.try_acquire_slot()
    in_callback(entrance)
    assert entrance.admission.try_acquire_slot()
    assert entrance.admission.enqueue(update(), options(), Heard()).from_callback


async def test_a_deadline_ends_the_wait_for_a_slot() -> None:
    entrance = Entrance(slots=0)
    with pytest.raises(DeadlineExceededError, match="waited for a pending slot"):
        await entrance.admission.acquire_slot("d", 3.0)
    assert anyio.current_time() == pytest.approx(3.0)
    entrance.scheduler.throttle_tenant(0.0, 0.0, 60.0, 0.0)
    with pytest.raises(
        DeadlineExceededError, match=r"no request may be sent for 60\.0 s"
    ) as caught:
        await entrance.admission.acquire_slot("d", 3.0)
    assert caught.value.retry_after == 60.0
    assert entrance.pending_limit.used == 0


async def test_who_waited_while_the_client_closed_gets_no_slot() -> None:
    entrance = Entrance(slots=1)
    admission = entrance.admission
    await admission.acquire_slot()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_refused, admission.acquire_slot)
        await anyio.sleep(1)
        # The slot is handed over before the waiter runs.
        admission.release_slot()
        admission.close()
    assert entrance.pending_limit.used == 0


async def _refused(call: Callable[[], Any]) -> None:
    with pytest.raises(ClientClosedError):
        await call()


async def test_bulk_work_waits_for_a_strict_audit_that_is_behind() -> None:
    audit = SimpleNamespace(strict=True, slow=True)
    entrance = Entrance(audit=audit)
    admission = entrance.admission
    assert not admission.try_acquire_bulk_slot()
    assert admission.try_acquire_slot()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(admission.acquire_bulk_slot)
        await anyio.sleep(1)
        assert entrance.pending_limit.used == 1
        audit.slow = False
    assert entrance.pending_limit.used == 2


# Work items.


async def test_an_update_becomes_an_item() -> None:
    entrance = Entrance()
    sink = Heard()
    entrance.admission.try_acquire_slot()
    first = entrance.admission.enqueue(update(), options(), sink)
    own = update(session={"a": 1}, if_match='"7"', update_id="mine")
    entrance.admission.try_acquire_slot()
    second = entrance.admission.enqueue(own, options(), sink, index=3, waits_when_paused=True)
    assert entrance.items == [first, second]
    assert (first.kind, first.dialog_id, first.index) == (Kind.ASSIGN, "d-1", -1)
    assert (second.kind, second.update_id, second.index) == (Kind.STRICT, "mine", 3)
    assert (first.waits_when_paused, second.waits_when_paused) == (False, True)
    assert first.serial < second.serial
    assert first.update_id not in ("", second.update_id)
    assert entrance.metrics.pending == entrance.pending_limit.used == 2


async def test_other_operations_become_items() -> None:
    entrance = Entrance()
    request: Any = object()
    read = entrance.admission.enqueue_operation(Kind.READ, "d", options(), Heard())
    assert (read.kind, read.action, read.context) == (Kind.READ, Action.READ, None)
    assert read.reading is not None
    assert entrance.metrics.pending == entrance.pending_limit.used == 0
    reset = entrance.admission.enqueue_operation(
        Kind.RESET, "d", options(), Heard(), requests=[request]
    )
    assert (reset.action, reset.requests) == (Action.WRITE, [request])
    modify = entrance.admission.enqueue_operation(
        Kind.MODIFY, "d", options(), Heard(), decide=lambda _: None, metadata={"a": "b"}
    )
    assert modify.metadata == {"a": "b"}
    assert modify.modification is not None
    assert modify.context is not None


@pytest.mark.parametrize("coalesce", [True, False])
async def test_what_may_share_a_request(coalesce: bool) -> None:
    entrance = Entrance()
    for given, expected in ((update(), coalesce), (update(next_step="n"), False)):
        entrance.admission.try_acquire_slot()
        item = entrance.admission.enqueue(given, options(coalesce=coalesce), Heard())
        assert item.coalesces is expected


async def test_observers_see_what_is_accepted() -> None:
    entrance = Entrance()
    seen: list[tuple[str, ...]] = []
    entrance.hooks.add_observer(SimpleNamespace(accepted=lambda *of: seen.append(of)))
    entrance.admission.enqueue_operation(Kind.READ, "d", options(), Heard())
    entrance.admission.try_acquire_slot()
    item = entrance.admission.enqueue(update(session={"a": 1}, update_id="u"), options(), Heard())
    assert [(operation, dialog_id) for operation, dialog_id, _ in seen] == [
        ("read", "d"),
        ("update", "d-1"),
    ]
    assert seen[1][2] == "u"
    assert item.observations is None


class FullAudit:
    strict = True
    slow = False

    def check(self) -> None:
        raise AuditError("full")


async def test_a_refused_update_releases_its_slot() -> None:
    for entrance, deadline, expected in (
        (Entrance(audit=FullAudit()), None, AuditError),
        (Entrance(), -1.0, DeadlineExceededError),
        (paused(Entrance(on_failure="pause")), None, DialogPausedError),
    ):
        assert entrance.admission.try_acquire_slot()
        with pytest.raises(expected):
            entrance.admission.enqueue(update(), options(deadline=deadline), Heard())
        assert entrance.pending_limit.used == entrance.metrics.pending == 0
        assert entrance.items == []


async def test_a_refused_read_had_no_slot_to_release() -> None:
    entrance = Entrance(audit=FullAudit())
    assert entrance.admission.try_acquire_slot()
    with pytest.raises(DeadlineExceededError):
        entrance.admission.enqueue_operation(Kind.READ, "d", options(deadline=-1.0), Heard())
    entrance.admission.enqueue_operation(Kind.READ, "d", options(), Heard())
    assert entrance.pending_limit.used == 1


async def test_a_paused_dialog_holds_what_waits_for_it_and_reads() -> None:
    entrance = paused(Entrance(on_failure="pause"))
    entrance.admission.try_acquire_slot()
    entrance.admission.enqueue(update(), options(), Heard(), waits_when_paused=True)
    entrance.admission.enqueue_operation(Kind.READ, "d-1", options(), Heard())
    assert len(entrance.items) == 2


def paused(entrance: Entrance) -> Entrance:
    """Pause the dialog `d-1`, as after a failed update."""
    entrance.scheduler.accept(item(dialog_id="d-1"), 0.0)
    queue = entrance.scheduler.next_queue(0.0)
    assert queue is not None
    entrance.scheduler.pause(queue, ServerError("no"))
    return entrance
