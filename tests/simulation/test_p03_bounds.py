"""P3: bounds on what is in flight, on what is accepted, on what a stream holds, and on memory."""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator, Iterator
from functools import partial
from types import BuiltinFunctionType, CodeType, FunctionType, ModuleType
from typing import Any

import anyio
import pytest

from cognigy_async import QueueFullError, RetryPolicy
from cognigy_async.emulator import Faults
from tests.simulation.world import (
    Wire,
    all_of,
    client_of,
    emulator,
    every,
    throttled,
    turns,
)


async def test_p3_bounds_all_kinds_of_requests_share_one_limit() -> None:
    server = emulator(faults=Faults(latency=0.05, latency_jitter=0.1, error_503=0.04, conflict=0.1))
    policy = RetryPolicy(max_attempts=20)
    client = client_of(server, max_in_flight=7, retry=policy)

    @client.on_state_updated
    async def reads(event: Any) -> None:
        # What a callback does counts like everything else.
        if event.dialog_id.startswith("update"):
            await client.get_state(event.dialog_id)

    async with client:
        rows = [{"dialog_id": f"bulk-{n % 20}", "session": {"a": n}} for n in range(60)]

        async def bulk() -> int:
            return len([outcome async for outcome in client.update_many(rows)])

        outcomes = await all_of(
            bulk,
            *(partial(client.update, f"update-{n}", session={"a": 1}) for n in range(60)),
            *(partial(client.get_state, f"read-{n}") for n in range(60)),
            *(
                partial(client.modify, f"modify-{n % 30}", lambda _: {"session": {"a": 1}})
                for n in range(60)
            ),
        )
        assert not [outcome for outcome in outcomes if isinstance(outcome, Exception)]
        assert server.stats.in_flight_max == 7
        assert server.stats.reads >= 60 + 60 + 60
        await client.flush()
    assert server.stats.in_flight_max == 7
    assert client.metrics.in_flight == 0


async def test_p3_bounds_a_backoff_holds_nothing_in_flight() -> None:
    wire = Wire(answer=503)
    async with client_of(wire, max_in_flight=3, retry=every(100)) as client:
        for number in range(5):
            client.submit_nowait({"dialog_id": f"d-{number}", "session": {"a": 1}})
        await anyio.sleep(50)
        # All five were tried by three workers, and all five wait.
        assert len(wire.sent) == 5
        assert client.metrics.in_flight == wire.in_flight == 0
        assert client.metrics.pending == 5
        wire.answers(None)


async def test_p3_bounds_update_waits_its_turn_for_room() -> None:
    wire = Wire(takes=1)
    async with client_of(wire, max_in_flight=2, max_pending=3) as client:
        peak = 0

        async def write(number: int) -> None:
            nonlocal peak
            await client.update(f"d-{number}", session={"a": 1})
            peak = max(peak, client.metrics.pending)

        async with anyio.create_task_group() as tasks:
            for number in range(20):
                tasks.start_soon(write, number)
            await turns(20)
            assert client.metrics.pending == 3
            with pytest.raises(QueueFullError, match="3 updates are waiting"):
                client.submit_nowait({"dialog_id": "x", "session": {"a": 1}})
            # A read is no update: it is not kept waiting by those that have no room.
            with anyio.fail_after(3.5):
                await client.get_state("r")
        assert peak <= 3
        assert anyio.current_time() == pytest.approx(10.5, abs=0.6)
        client.submit_nowait({"dialog_id": "x", "session": {"a": 1}})


async def test_p3_bounds_those_who_stop_waiting_leave_no_gap() -> None:
    wire = Wire(takes=1)
    async with client_of(wire, max_in_flight=1, max_pending=2) as client:
        for round_ in range(40):
            with anyio.CancelScope() as scope:
                async with anyio.create_task_group() as tasks:
                    for number in range(6):
                        tasks.start_soon(partial(client.update, f"d-{number}", session={"a": 1}))
                    # Some are in flight, some accepted, some wait for room, some just got it.
                    await anyio.sleep(0.1 * (round_ % 13))
                    await turns(round_ % 7)
                    scope.cancel()
        await client.flush()
        assert client.metrics.pending == 0
        for _ in range(2):
            client.submit_nowait({"dialog_id": "x", "session": {"a": 1}})
        with pytest.raises(QueueFullError):
            client.submit_nowait({"dialog_id": "x", "session": {"a": 1}})


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("invalid", [False, True])
async def test_p3_bounds_a_stream_holds_half_of_what_may_be_pending(
    asynchronous: bool, invalid: bool
) -> None:
    wire = Wire(takes=0.01)
    taken = 0
    client = client_of(wire, max_in_flight=4, max_pending=100)

    def rows() -> Iterator[dict[str, Any]]:
        nonlocal taken
        for number in range(1000):
            taken += 1
            bad = invalid and number % 2
            yield {"dialog_id": f"d-{number}", "session": {"a": None if bad else 1}}

    async def slowly() -> AsyncIterator[dict[str, Any]]:
        for row in rows():
            yield row

    async with client:
        source = slowly() if asynchronous else rows()
        most = read = 0
        async with client.update_many(source) as outcomes:
            async for _ in outcomes:
                read += 1
                # A reader who dawdles stops the intake; one row is in the source's hands.
                await anyio.sleep(1 if read < 30 else 0)
                most = max(most, taken - read)
        assert read == taken == 1000
        assert most <= 50 + 1
        if asynchronous:
            # It reads ahead as far as it may; an iterable is read while someone waits.
            assert most >= 49


async def test_p3_bounds_a_stream_stops_taking_input_while_nothing_can_be_sent() -> None:
    wire = Wire(answer=throttled("100"))
    taken = 0

    def rows() -> Iterator[dict[str, Any]]:
        nonlocal taken
        for number in range(5000):
            taken += 1
            yield {"dialog_id": f"d-{number}", "session": {"a": 1}}

    async with (
        client_of(wire, max_in_flight=4, max_pending=1000) as client,
        anyio.create_task_group() as tasks,
    ):

        async def bulk() -> None:
            async with client.update_many(rows()) as outcomes:
                async for _ in outcomes:
                    pass

        tasks.start_soon(bulk)
        await anyio.sleep(50)
        assert 4 <= taken <= 500
        before = taken
        await anyio.sleep(40)
        assert taken == before
        tasks.cancel_scope.cancel()


async def test_p3_bounds_streams_leave_room_for_live_updates() -> None:
    wire = Wire(takes=5)
    rows = [{"dialog_id": f"d-{number}", "session": {"a": 1}} for number in range(500)]
    async with (
        client_of(wire, max_in_flight=4, max_pending=20) as client,
        anyio.create_task_group() as tasks,
    ):

        async def bulk() -> None:
            async with client.update_many(rows) as outcomes:
                async for _ in outcomes:
                    pass

        tasks.start_soon(bulk)
        await anyio.sleep(1)
        for number in range(10):
            client.submit_nowait({"dialog_id": f"live-{number}", "session": {"a": 1}})
        tasks.cancel_scope.cancel()


@pytest.mark.quick("asyncio")
async def test_p3_bounds_memory_does_not_grow_with_the_dialogs_ever_seen() -> None:
    wire = Wire(steps=0)
    wire.sent = wire.applied = Forgetful()
    client = client_of(wire)

    @client.on_state_updated
    async def watch(_: Any) -> None:
        pass

    async def use(first: int, count: int) -> int:
        numbers = range(first, first + count)
        rows = ({"dialog_id": f"d-{n}", "session": {"a": 1}} for n in numbers)
        async with client.update_many(rows) as outcomes:
            async for outcome in outcomes:
                assert outcome.ok
        await client.flush()
        wire.versions.clear()
        return reachable(client)

    async with client:
        # What is remembered of dialogs has a bound, which the first ones reach.
        before = await use(0, 4_500)
        after = await use(4_500, 4_500)
    assert after - before < 2_000


class Forgetful(list[Any]):
    """The memory of the test is not what is measured."""

    def append(self, _: Any) -> None:
        pass


SKIPPED = (type, ModuleType, FunctionType, BuiltinFunctionType, CodeType)


def reachable(root: object) -> int:
    """How many objects a client holds, texts and numbers included."""
    gc.collect()
    seen: dict[int, object] = {}
    found = [root]
    while found:
        one = found.pop()
        if id(one) not in seen and not isinstance(one, SKIPPED):
            seen[id(one)] = one
            found += gc.get_referents(one)
    return len(seen)
