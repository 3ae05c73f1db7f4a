"""Receipts of the events of rows."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from cognigy_async import CallbackError, StateUpdate
from cognigy_async.bulk.callback_receipts import CallbackReceipts
from cognigy_async.bulk.input.row import Row


class Writer:
    """Keeps what is noted."""

    def __init__(self) -> None:
        self.events: list[tuple[int, str | None, str]] = []

    def now(self) -> float:
        return 12.0

    def event(self, line: int, dialog_id: str | None, what: str) -> None:
        self.events.append((line, dialog_id, what))


@pytest.fixture
def writer() -> Any:
    return Writer()


def row(line: int) -> Row:
    return Row(line, b"", StateUpdate("d", next_step="s"), None, "d")


async def test_each_row_of_an_event_has_its_receipt(writer: Any) -> None:
    receipts = CallbackReceipts(writer)
    rows = (row(1), row(2))
    receipt = receipts.expect(rows, "crm")
    assert [one.completed_at for one in rows] == [12.0, 12.0]
    assert repr(receipts) == "<CallbackReceipts 1 pending>"
    receipt(None, 2)
    assert receipts.pending == 0
    assert writer.events == [
        (1, "d", "hook crm: delivered by call 2"),
        (2, "d", "hook crm: delivered by call 2"),
    ]


async def test_the_text_of_a_callbacks_exception_is_not_recorded(writer: Any) -> None:
    receipts = CallbackReceipts(writer)
    error = CallbackError("callback crm failed")
    error.__cause__ = ValueError("canary-3f")
    receipts.expect((row(1),), "crm")(error, 1)
    receipts.expect((row(2),), "crm")(CallbackError("the queue is full"), 0)
    assert [what for _, _, what in writer.events] == [
        "hook crm: not delivered, ValueError after 1 call",
        "hook crm: not delivered, the queue is full",
    ]


async def test_waiting_ends_with_the_last_receipt_or_in_a_hurry(writer: Any) -> None:
    receipts = CallbackReceipts(writer)
    receipt = receipts.expect((row(1),), "crm")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(receipts.wait)
        await anyio.sleep(1.0)
        receipt(None, 1)
    await receipts.wait()
    receipts = CallbackReceipts(writer)
    receipts.expect((row(2),), "crm")
    began = anyio.current_time()
    receipts.hurry(7.0)
    await receipts.wait()
    assert anyio.current_time() - began == pytest.approx(7.0)
