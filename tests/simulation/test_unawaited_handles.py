"""Handles of `submit` that nobody awaits: their failures are logged, once and without values."""

from __future__ import annotations

import gc
import logging
from typing import Any

import anyio
import pytest

from cognigy_async import BadRequestError, PendingUpdate, UpdateEvent
from tests.simulation.world import Wire, client_of

CANARY = "canary-4711"


def row(dialog_id: str = "d-1") -> dict[str, Any]:
    return {"dialog_id": dialog_id, "update_id": "u-1", "session": {"a": CANARY}}


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    gc.collect()
    unawaited = [one for one in caplog.records if "nobody awaited" in one.getMessage()]
    assert {one.levelno for one in unawaited} <= {logging.ERROR}
    assert CANARY not in caplog.text
    return [one.getMessage() for one in unawaited]


@pytest.mark.parametrize("kept", [False, True], ids=["dropped at once", "dropped afterwards"])
async def test_a_failure_that_nobody_awaits_is_logged_when_its_handle_is_collected(
    kept: bool, caplog: pytest.LogCaptureFixture
) -> None:
    wire = Wire(answer=400)
    async with client_of(wire) as client:
        handles = [await client.submit(row())]
        if not kept:
            handles.clear()
        await client.flush()
        assert len(lines(caplog)) == (not kept)
        handles.clear()
        assert lines(caplog) == [
            "update u-1 of dialog 'd-1' failed, and nobody awaited its handle: BadRequestError: "
            "The server rejected the payload (dialog 'd-1', update 'u-1', HTTP 400). Check the "
            "names and types of the variables, and that next_step is a node of the flow."
        ]


async def _await_it(handle: PendingUpdate) -> None:
    with pytest.raises(BadRequestError):
        await handle


@pytest.mark.parametrize("early", [True, False])
async def test_a_failure_that_was_awaited_is_not_logged_again(
    early: bool, caplog: pytest.LogCaptureFixture
) -> None:
    wire = Wire(takes=1, answer=400)
    async with client_of(wire) as client, anyio.create_task_group() as tasks:
        handle = client.submit_nowait(row())
        if not early:
            await client.flush()
        tasks.start_soon(_await_it, handle)
        del handle
    assert lines(caplog) == []


async def test_a_failure_that_was_awaited_in_vain_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with client_of(Wire(takes=10, answer=400)) as client:
        handle = client.submit_nowait(row())
        with anyio.move_on_after(1):
            await handle
        await client.flush()
        del handle
        assert len(lines(caplog)) == 1


async def test_a_success_and_an_update_that_was_withdrawn_are_not_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with client_of(Wire()) as client:
        assert client.submit_nowait(row()).withdraw()
        client.submit_nowait(row())
        await client.flush()
        assert lines(caplog) == []


async def test_a_failure_that_a_callback_gets_is_not_logged_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    failed: list[str] = []
    wire = Wire(answer=400)
    async with client_of(wire) as client:

        @client.on_state_updated
        async def applied(event: UpdateEvent) -> None:
            raise AssertionError(event)

        client.submit_nowait(row())
        await client.flush()
        assert len(lines(caplog)) == 1
        caplog.clear()

        @client.on_update_failed
        async def note(event: UpdateEvent) -> None:
            failed.append(event.dialog_id)

        client.submit_nowait(row("d-2"))
        await client.flush()
    assert failed == ["d-2"]
    assert lines(caplog) == []


async def test_a_failure_with_an_unknown_outcome_is_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with client_of(Wire(answer=500)) as client:
        client.submit_nowait({"dialog_id": "d-1", "next_step": "node-7"})
        await client.flush()
    gc.collect()
    [line] = [one for one in caplog.records if "AmbiguousUpdateError" in one.getMessage()]
    assert line.levelno == logging.WARNING
    assert "dialog 'd-1'" in line.getMessage()


async def test_each_update_of_a_failed_group_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    wire = Wire(answer=400)
    async with client_of(wire, coalesce=True) as client:
        for number in range(3):
            client.submit_nowait(row() | {"update_id": f"u-{number}"})
        await client.flush()
        assert len(wire.sent) == 1
        assert sorted(line.split()[1] for line in lines(caplog)) == ["u-0", "u-1", "u-2"]


class SlowWatch:
    """Delays the request of a group, which is made by then."""

    async def before_send(self, indexes: tuple[int, ...], key: str, etag: str | None) -> None:
        assert indexes == (-1, -1, -1)
        await anyio.sleep(5)

    def retrying(self, index: int, reason: str, seconds: float, applied_parts: int) -> None:
        raise AssertionError

    def published(self, index: int, callback: str) -> None:
        raise AssertionError


@pytest.mark.parametrize("coalesce", [False, True], ids=["alone", "group"])
async def test_an_update_that_the_end_of_the_client_cut_off_is_logged_once(
    coalesce: bool, caplog: pytest.LogCaptureFixture
) -> None:
    wire = Wire(takes=5)
    watch = SlowWatch() if coalesce else None
    async with client_of(wire, max_in_flight=1, coalesce=coalesce) as client:
        if not coalesce:
            client.submit_nowait(row("d-0") | {"update_id": "u"})
            await anyio.sleep(1)
        for number in range(3):
            client.submit_nowait(row() | {"update_id": f"u-{number}"}, watch=watch)
        await anyio.sleep(1)
        report = await client.aclose(drain=False)
    assert len(report.unsent) == 3
    assert len(wire.sent) == (not coalesce)
    unsent = [one for one in caplog.messages if "was not sent" in one]
    assert [line.split()[1] for line in unsent] == ["u-0", "u-1", "u-2"]
    assert lines(caplog) == []
