"""Records of heads: steps, late receipts, failures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import anyio
import pytest

from cognigy_async import AmbiguousUpdateError, OutboxError, UpdateEvent
from cognigy_async.engine.dialog_queue import QueueState
from cognigy_async.engine.engine import Engine
from cognigy_async.engine.protocol import withdrawn
from cognigy_async.engine.recorder import Record
from cognigy_async.engine.work_item import WorkItem
from cognigy_async.spi import Intent, OutboxClient, Receipt
from tests.simulation.world import Wire, turns, until
from tests.unit._builders import item

from ._engines import accept, engine_over, running


class Held:
    """An outbox whose records the test writes."""

    def __init__(self) -> None:
        self.receipts: list[tuple[str, Receipt]] = []
        self.withdrawn: list[str] = []

    async def open(self, client: OutboxClient) -> None: ...

    async def run(self) -> None: ...

    def intend(self, intents: Sequence[Intent], receipt: Receipt) -> None:
        self.receipts.append(("intend", receipt))

    def settle(self, events: Sequence[UpdateEvent], receipt: Receipt) -> None:
        self.receipts.append(("settle", receipt))

    def withdraw(self, dialog_id: str, update_ids: Sequence[str]) -> None:
        self.withdrawn += update_ids

    async def close(self, timeout: float) -> None: ...

    async def next(self, verb: str) -> Receipt:
        await until(lambda: self.receipts)
        found, receipt = self.receipts.pop()
        assert found == verb
        return receipt


def heard(one: WorkItem) -> int:
    sink: Any = one.sink
    return len(sink.work_items)


def engine_with(outbox: Held, wire: Wire) -> Engine:
    return engine_over(wire, outbox=outbox, transport=wire)


async def test_a_queue_stands_aside_while_records_are_written() -> None:
    outbox, wire, one = Held(), Wire(), item(serial=1)
    engine = engine_with(outbox, wire)
    assert engine.recorder is not None
    async with running(engine):
        accept(engine, one)
        intent = await outbox.next("intend")
        assert one.queue is not None
        assert one.queue.state is QueueState.RECORDING
        assert (wire.sent, engine.recorder.settling) == ([], 0)
        assert engine.scheduler.recording == 1
        intent.recorded(None)
        assert engine.scheduler.recording == 0
        outcome = await outbox.next("settle")
        assert one.queue.state is QueueState.RECORDING
        assert (len(wire.sent), heard(one), engine.recorder.settling) == (1, 0, 1)
        outcome.recorded(None)
        assert (heard(one), engine.recorder.settling, one.record) == (1, 0, None)
        # A second call means nothing.
        outcome.recorded(None)
        intent.recorded(OutboxError("late"))
        assert heard(one) == 1
        assert engine.pending_limit.used == 0
        assert engine.scheduler.recording == 0


async def test_a_receipt_that_comes_after_the_withdrawal_means_nothing() -> None:
    outbox, wire, one, two = Held(), Wire(), item(serial=1), item(serial=2)
    engine = engine_with(outbox, wire)
    async with running(engine):
        accept(engine, one, two)
        intent = await outbox.next("intend")
        assert engine.withdraw(one)
        assert outbox.withdrawn == ["u-1"]
        other = await outbox.next("intend")
        intent.recorded(None)
        await turns(5)
        assert wire.sent == []
        other.recorded(None)
        (await outbox.next("settle")).recorded(None)
        assert (heard(one), heard(two)) == (1, 1)
        assert engine.scheduler.recording == 0


async def test_an_outcome_does_not_change() -> None:
    outbox, wire, one = Held(), Wire(), item(serial=1)
    engine = engine_with(outbox, wire)
    async with running(engine):
        accept(engine, one)
        (await outbox.next("intend")).recorded(None)
        outcome = await outbox.next("settle")
        engine.cancel(one)
        assert one.queue is not None
        engine.completion.expire(one.queue)
        engine.completion.give_up(one.queue)
        assert heard(one) == 0
        outcome.recorded(None)
        assert one.result is not None
        assert outbox.withdrawn == []


async def test_the_end_of_the_outbox_fails_what_waits_and_what_comes() -> None:
    outbox, wire = Held(), Wire()
    items = [item(dialog_id=f"d-{i}", serial=i) for i in range(3)]
    engine = engine_with(outbox, wire)
    assert engine.recorder is not None
    async with running(engine):
        accept(engine, items[0])
        (await outbox.next("intend")).recorded(None)
        await outbox.next("settle")
        accept(engine, items[1])
        await outbox.next("intend")
        engine.recorder.end(OutboxError("gone", "/outbox"))
        accept(engine, items[2])
        await until(lambda: items[2].completed)
        with anyio.fail_after(1.0):
            await engine.recorder.wait()
        assert engine.scheduler.recording == 0
    assert [type(each.error) for each in items] == [
        AmbiguousUpdateError,
        OutboxError,
        OutboxError,
    ]
    assert isinstance(items[1].error, OutboxError)
    assert items[1].error.path == "/outbox"


async def test_waiting_ends_when_all_outcomes_are_recorded() -> None:
    outbox, wire = Held(), Wire()
    items = [item(dialog_id=f"d-{i}", serial=i) for i in range(2)]
    engine = engine_with(outbox, wire)
    recorder = engine.recorder
    assert recorder is not None
    over = False

    async def wait() -> None:
        nonlocal over
        await recorder.wait()
        over = True

    async with running(engine), anyio.create_task_group() as tasks:
        receipts = []
        for one in items:
            accept(engine, one)
            (await outbox.next("intend")).recorded(None)
            receipts.append(await outbox.next("settle"))
        tasks.start_soon(wait)
        await turns(5)
        receipts[0].recorded(None)
        await turns(5)
        assert not over
        receipts[1].recorded(None)
        await until(lambda: over)


async def test_a_receipt_never_raises() -> None:
    class Faulty:
        def notify(self, item: WorkItem, /) -> None:
            raise RuntimeError("a bug")

    outbox, wire, one = Held(), Wire(), item(serial=1)
    one.sink = Faulty()
    engine = engine_with(outbox, wire)
    async with running(engine):
        accept(engine, one)
        (await outbox.next("intend")).recorded(None)
        (await outbox.next("settle")).recorded(None)
        assert engine.recorder is not None
        assert engine.recorder.settling == 0
        assert one.completed


async def test_an_outbox_that_cannot_withdraw_does_not_matter() -> None:
    class Faulty(Held):
        def withdraw(self, dialog_id: str, update_ids: Sequence[str]) -> None:
            raise OutboxError("full")

    outbox, one = Faulty(), item(serial=1)
    engine = engine_with(outbox, Wire())
    async with running(engine):
        accept(engine, one)
        await outbox.next("intend")
        assert isinstance(one.record, Record)
        engine.completion.complete_unsent(one, withdrawn(one))
        assert heard(one) == 1


@pytest.mark.parametrize("waits", [False, True])
async def test_a_queue_that_waited_for_the_server_leaves_the_outage(waits: bool) -> None:
    outbox, wire, one = Held(), Wire(answer=503), item(serial=1, live=False)
    engine = engine_with(outbox, wire)
    if waits:
        while engine.scheduler.budget.take():
            pass
        engine.scheduler.quiet = False
    async with running(engine):
        accept(engine, one)
        (await outbox.next("intend")).recorded(None)
        await until(lambda: one.queue is not None and one.queue.state is QueueState.WAITING)
        assert bool(engine.scheduler.outage) is waits
        engine.cancel(one)
        assert not engine.scheduler.outage
        (await outbox.next("settle")).recorded(None)
        assert one.error is not None
        assert len(engine.queues) == 0
