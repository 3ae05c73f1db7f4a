"""A request of an activity is sent only while the cluster knows that the worker is alive."""

from __future__ import annotations

import time
from typing import Any

import pytest

from cognigy_async import ApiKey, AsyncStateClient, NotSentError, Request, Response, RetryPolicy
from cognigy_async.temporal import fencing
from cognigy_async.temporal.fencing import Fence, FencedTransport


class Recorder:
    def __init__(self) -> None:
        self.requests: list[Request] = []

    async def send(self, request: Request, *, timeout: float) -> Response:
        self.requests.append(request)
        return Response(200, {"etag": '"1"'}, b"{}")

    async def aclose(self) -> None: ...


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    moment = [100.0]
    monkeypatch.setattr(fencing, "clock", lambda: moment[0])
    return moment


def open_client(recorder: Recorder, **arguments: Any) -> AsyncStateClient:
    client = AsyncStateClient(
        "https://tenant.invalid",
        auth=ApiKey("a-key"),
        transport=FencedTransport(recorder),
        retry=RetryPolicy(max_attempts=1),
        **arguments,
    )
    client.add_observer(fencing.observer)
    return client


async def test_no_request_is_sent_from_the_deadline_on(now: list[float]) -> None:
    fence, recorder = Fence(), Recorder()
    fence.extend(100.0, timeout=10.0)
    token = fencing._current.set(fence)
    async with open_client(recorder) as client:
        now[0] = 106.9
        await client.update("d-1", session={"n": 1})
        now[0] = 107.0
        with pytest.raises(NotSentError, match="Temporal cluster"):
            await client.update("d-1", session={"n": 2})
        fence.extend(107.0, timeout=10.0)
        await client.update("d-1", session={"n": 3})
        fence.lose()
        with pytest.raises(NotSentError):
            await client.update("d-1", session={"n": 4})
        fencing._current.reset(token)
        await client.update("d-1", session={"n": 5})
    assert [b'{"session":{"n":%d}}' % n for n in (1, 3, 5)] == [
        request.content for request in recorder.requests
    ]
    assert fence.refused == 2


async def test_update_many_and_merged_updates_belong_to_their_activity(now: list[float]) -> None:
    fence, recorder = Fence(), Recorder()
    token = fencing._current.set(fence)
    async with open_client(recorder, coalesce=True) as client:
        rows = [{"dialog_id": "d-1", "session": {"n": n}} for n in range(5)]
        async with client.update_many(rows, priority="live") as stream:
            report = await stream.drain()
        assert report.failed == 5
    fencing._current.reset(token)
    assert recorder.requests == []
    assert fence.refused == 1


async def test_of_two_activities_the_one_that_ends_first_decides(now: list[float]) -> None:
    stale, fresh, recorder = Fence(), Fence(), Recorder()
    fresh.extend(100.0, timeout=10.0)
    async with open_client(recorder, coalesce=True) as client:
        handles = []
        for fence in (fresh, stale, fresh):
            token = fencing._current.set(fence)
            handles.append(client.submit_nowait({"dialog_id": "d-1", "session": {"n": 1}}))
            fencing._current.reset(token)
        for handle in handles:
            with pytest.raises(NotSentError):
                await handle
    assert recorder.requests == []


def test_the_clock_goes_on_while_the_machine_sleeps() -> None:
    wanted = getattr(time, "CLOCK_BOOTTIME", None)
    if wanted is None:
        pytest.skip("only Linux has this clock")
    assert abs(fencing.clock() - time.clock_gettime(wanted)) < 1.0
