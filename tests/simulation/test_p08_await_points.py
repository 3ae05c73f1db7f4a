"""P8: each public coroutine of a client cancelled at each of its await points in turn.

`test_p08_cancellation.py` cancels after so many turns of the event loop, however far the call is.
Here the call itself is driven, and cancelled exactly where it begins to wait, or when what it waits
for has just come about.
"""

from __future__ import annotations

import inspect
import types
from collections import Counter
from collections.abc import Awaitable, Callable, Generator
from contextlib import suppress
from functools import partial
from typing import Any

import anyio
import pytest

from cognigy_async import AsyncStateClient, CognigyError, PendingUpdate, QueueFullError, UpdateEvent
from cognigy_async.emulator import Emulator, Faults
from tests.simulation.world import APIS, client_of, emulator, turns

Call = Callable[[AsyncStateClient], Awaitable[object]]

PROFILE = "0" * 24
MAX_PENDING = 4
MAX_IN_FLIGHT = 2


async def _read_a_stream(client: AsyncStateClient) -> None:
    rows = ({"dialog_id": "d", "session": {"n": number}} for number in range(3))
    async with client.update_many(rows) as outcomes:
        async for _ in outcomes:
            pass


async def _submit(client: AsyncStateClient) -> None:
    await (await client.submit({"dialog_id": "d", "session": {"a": 1}}))


CALLS: dict[str, Call] = {
    "update": lambda client: client.update("d", session={"a": 1}, next_step="s"),
    "submit": _submit,
    "update_many": _read_a_stream,
    "inject": lambda client: client.inject("d", text="hello", user_id="u-1"),
    "notify": lambda client: client.notify("d", text="hello", user_id="u-1"),
    "get_state": lambda client: client.get_state("d"),
    "modify": lambda client: client.modify("d", lambda _: {"session": {"a": 1}}),
    "reset_context": lambda client: client.reset_context("d"),
    "reset_state": lambda client: client.reset_state("d"),
    "create_profile": lambda client: client.create_profile(PROFILE, profile={"a": "1"}),
    "update_profile": lambda client: client.update_profile(PROFILE, profile={"a": "1"}),
    "flush": lambda client: client.flush(),
}
OF_SESSIONS = {"reset_context", "reset_state", "create_profile", "update_profile"}
OPENS_AND_CLOSES = {"__aenter__", "__aexit__", "aclose"}


def test_p8_cancellation_every_public_coroutine_is_here() -> None:
    members = inspect.getmembers(AsyncStateClient, inspect.iscoroutinefunction)
    names = {name for name, _ in members if name.startswith("__") or not name.startswith("_")}
    assert names == (CALLS.keys() - {"update_many"}) | OPENS_AND_CLOSES


class Driven:
    """Drives a call, and cancels it at one await point.

    Args:
        at: the number of the await point, from 1.
        late: cancel when what is awaited there has come about, and the call has not gone on.

    Attributes:
        at: as given.
        points: await points so far.
    """

    def __init__(self, at: int, *, late: bool) -> None:
        self.points = 0
        self.at = at
        self._late = late

    async def cancel(self, call: Callable[[], Awaitable[object]]) -> bool:
        """Whether the call came so far."""
        with anyio.CancelScope() as scope, suppress(CognigyError):
            await self._drive(call().__await__(), scope.cancel)
        return self.points >= self.at

    @types.coroutine
    def _drive(
        self, call: Generator[Any, Any, object], cancel: Callable[[], None]
    ) -> Generator[Any, Any, None]:
        step: Callable[[], Any] = partial(next, call)
        while True:
            try:
                waits_for = step()
            except StopIteration:
                return
            self.points += 1
            if self.points == self.at:
                if self._late and waits_for is not None:
                    waits_for.add_done_callback(lambda _: cancel())
                else:
                    cancel()
            try:
                step = partial(call.send, (yield waits_for))
            except BaseException as error:
                step = partial(call.throw, error)


on_asyncio = pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)
each_call = pytest.mark.parametrize("call", CALLS)
each_load = pytest.mark.parametrize("full", [False, True], ids=["room", "full"])


@each_load
@each_call
async def test_p8_cancellation_at_each_await_point(call: str, full: bool) -> None:
    await _at_each_point(call, full=full, late=False)


@on_asyncio
@each_load
@each_call
async def test_p8_cancellation_when_what_is_awaited_has_come(call: str, full: bool) -> None:
    await _at_each_point(call, full=full, late=True)


async def _at_each_point(name: str, *, full: bool, late: bool) -> None:
    tasks, call = len(anyio.get_running_tasks()), CALLS[name]
    api = "sessions" if name in OF_SESSIONS else "runtime"
    for point in range(1, 100):
        server = emulator(faults=Faults(latency=0.1))
        client = client_of(
            server, api=APIS[api](), max_pending=MAX_PENDING, max_in_flight=MAX_IN_FLIGHT
        )
        reached = await _one_call(client, server, Driven(point, late=late).cancel, call, full)
        assert client.close_report is not None
        assert client.close_report.unsent == ()
        assert len(anyio.get_running_tasks()) == tasks
        if not reached:
            # A call that waits for room has one more.
            assert point > 1
            return
    raise AssertionError("the call never came to its end")


async def _one_call(
    client: AsyncStateClient,
    server: Emulator,
    cancelled: Callable[[Callable[[], Awaitable[object]]], Awaitable[bool]],
    call: Call,
    full: bool,
) -> bool:
    events: Counter[str] = Counter()

    @client.on_state_updated
    @client.on_update_failed
    async def watch(event: UpdateEvent) -> None:
        events[event.update_id] += 1

    async with client:
        for number in range(MAX_PENDING if full else 1):
            client.submit_nowait({"dialog_id": f"o-{number}", "session": {"seq": 1}})
        reached = await cancelled(lambda: call(client))
        await client.flush()
        metrics = client.metrics
        settled = metrics.applied + metrics.failed + metrics.ambiguous
        assert metrics.pending == metrics.in_flight == metrics.paused == 0
        assert metrics.failed == metrics.ambiguous == 0
        # Each outcome once. A profile and a reset are no updates and have no event.
        assert set(events.values()) <= {1}
        assert len(events) <= settled
        # No place and no request slot is lost.
        server.stats.reset()
        for number in range(MAX_PENDING):
            client.submit_nowait({"dialog_id": f"n-{number}", "session": {"seq": 1}})
        with pytest.raises(QueueFullError):
            client.submit_nowait({"dialog_id": "one-too-many", "session": {"seq": 1}})
        await client.flush()
        assert server.stats.in_flight_max == MAX_IN_FLIGHT
        assert server.stats.applied == MAX_PENDING
        await client.update("d", session={"seq": 2})
        assert client.metrics.pending == 0
    assert server.stats.violations() == {}
    return reached


@pytest.mark.parametrize("calls_aclose", [False, True])
async def test_p8_cancellation_at_each_await_point_of_opening_and_closing(
    calls_aclose: bool,
) -> None:
    tasks = len(anyio.get_running_tasks())

    async def use(driven: Driven) -> bool:
        server = emulator(faults=Faults(latency=0.1))
        client = client_of(server, max_in_flight=1)
        pending: list[PendingUpdate] = []

        async def scenario(close: Callable[[], Awaitable[object]]) -> None:
            async with client:
                for number in range(3):
                    update = {"dialog_id": f"d-{number}", "session": {"seq": 1}}
                    pending.append(client.submit_nowait(update))
                await close()

        if calls_aclose:
            await scenario(partial(driven.cancel, client.aclose))
        else:
            await driven.cancel(partial(scenario, partial(turns, 1)))
        report = client.close_report
        assert all(handle.done() for handle in pending)
        if report is not None:
            assert report.applied + len(report.unsent) == len(pending)
            assert report.applied == server.stats.applied
        assert report is not None or not pending
        assert client.metrics.pending == client.metrics.in_flight == 0
        assert not client.is_open
        return driven.points >= driven.at

    for point in range(1, 100):
        reached = await use(Driven(point, late=False))
        # Tasks that have just ended go.
        await turns(3)
        assert len(anyio.get_running_tasks()) == tasks
        if not reached:
            assert point > 2
            return
    raise AssertionError("the call never came to its end")
