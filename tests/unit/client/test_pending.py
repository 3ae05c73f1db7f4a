"""`PendingUpdate` and `Waiters`: who waits for an update is woken, whoever else is cancelled."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import anyio
import pytest

from cognigy_async import ServerError
from cognigy_async.client.pending import SHARED_WAITERS, PendingUpdate, single_task_waiters


def item(**changes: Any) -> Any:
    facts: dict[str, Any] = {
        "update_id": "u-1",
        "dialog_id": "d-1",
        "completed": False,
        "sent_at": None,
        "result": None,
        "error": None,
        "waiter": None,
    }
    return SimpleNamespace(**facts | changes)


class Client:
    """Stands for the engine and the admission of a client."""

    def __init__(self) -> None:
        self.withdrawn: list[Any] = []
        self.checks = 0

    def check_event_loop(self) -> None:
        self.checks += 1

    def withdraw(self, item: Any) -> bool:
        self.withdrawn.append(item)
        return True


def pending(of: Any) -> tuple[PendingUpdate, Client]:
    client: Any = Client()
    return PendingUpdate(of, client, client), client


def complete(of: Any, result: Any = None, error: Exception | None = None) -> None:
    of.completed, of.result, of.error = True, result, error
    SHARED_WAITERS.notify(of)


async def test_each_task_that_awaits_it_gets_the_result() -> None:
    work = item()
    handle, client = pending(work)
    results: list[Any] = []

    async def wait() -> None:
        results.append(await handle)

    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(wait)
        with anyio.move_on_after(1):
            await handle
        assert not handle.done()
        complete(work, "result")
    assert handle.done()
    assert [*results, await handle] == ["result"] * 4
    assert client.checks == 4
    assert client.withdrawn == []


async def test_its_error_is_raised_each_time() -> None:
    work = item()
    handle, _ = pending(work)
    complete(work, error=ServerError("failed"))
    lengths = set()
    for _ in range(3):
        with pytest.raises(ServerError) as caught:
            await handle
        lengths.add(len(caught.traceback))
    # A traceback that grew would hold the frames of every task that waited.
    assert len(lengths) == 1


async def test_it_is_withdrawn_by_the_engine() -> None:
    work = item()
    handle, client = pending(work)
    assert handle.withdraw()
    assert (client.withdrawn, client.checks) == ([work], 1)
    assert (handle.update_id, handle.dialog_id) == ("u-1", "d-1")


@pytest.mark.parametrize(
    ("facts", "state"),
    [({}, "waiting"), ({"sent_at": 1.0}, "sent"), ({"completed": True, "sent_at": 1.0}, "done")],
)
def test_the_repr_says_how_far_it_is(facts: dict[str, Any], state: str) -> None:
    handle, _ = pending(item(**facts))
    assert repr(handle) == f"<PendingUpdate u-1 dialog='d-1' {state}>"


@pytest.mark.parametrize("shared", [True, False])
async def test_waiters_wake_a_task_and_mind_no_cancelled_one(shared: bool) -> None:
    waiters = SHARED_WAITERS if shared else single_task_waiters()
    work = item()
    with anyio.move_on_after(1):
        await waiters.wait(work)
    waiters.notify(work)
    work = item()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_wait, waiters, work)
        await anyio.sleep(1)
        waiters.notify(work)


async def _wait(waiters: Any, work: Any) -> None:
    await waiters.wait(work)


async def test_one_task_waits_for_a_future_on_asyncio(anyio_backend_name: str) -> None:
    waiters, work = single_task_waiters(), item()
    waiting = waiters.wait(work)
    assert asyncio.isfuture(work.waiter) is (anyio_backend_name == "asyncio")
    waiters.notify(work)
    await waiting
