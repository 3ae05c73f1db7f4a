"""P2: a dialog in trouble holds no worker and no quota; ready dialogs take turns."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

import anyio
import pytest

from cognigy_async import AsyncStateClient, RateLimitedError, RetryPolicy, ServerError
from tests.simulation.world import (
    DROPPED,
    REFUSED,
    Reply,
    Wire,
    all_of,
    client_of,
    every,
    named,
    on_each_api,
    throttled,
    until,
)

WORKERS = 2
TROUBLE: list[Reply] = [500, 503, 409, DROPPED, REFUSED, throttled("3600", dialog=True)]


@on_each_api
@pytest.mark.parametrize("trouble", TROUBLE, ids=named)
async def test_p2_isolation_dialogs_that_back_off_hold_no_worker(trouble: Reply) -> None:
    wire = Wire(takes=0.1)
    policy = every(600, max_elapsed=7200, max_retry_after=7200)
    async with client_of(wire, max_in_flight=WORKERS, retry=policy) as client:
        for number in range(10):
            wire.script(trouble, dialog_id=f"ill-{number}")
            client.submit_nowait({"dialog_id": f"ill-{number}", "session": {"seq": 0}})
        await until(lambda: client.metrics.in_flight)
        # Each of the ten takes its tenth of a second, and the healthy ones all workers after that.
        await anyio.sleep(1)
        began = anyio.current_time()
        await all_of(*(partial(client.update, f"well-{n}", session={"seq": 0}) for n in range(20)))
        assert anyio.current_time() - began == pytest.approx(20 / WORKERS * 0.1, abs=0.05)
        assert wire.peak == WORKERS
        assert client.metrics.in_flight == 0
        assert client.metrics.pending == 10
        await client.aclose(drain=False)


@on_each_api
async def test_p2_isolation_a_throttled_dialog_takes_nobody_with_it() -> None:
    wire = Wire()
    wire.script(throttled("60", dialog=True), dialog_id="hot")
    async with client_of(wire, max_in_flight=1) as client:
        hot = [
            client.submit_nowait({"dialog_id": "hot", "session": {"seq": seq}}) for seq in range(5)
        ]
        await until(lambda: wire.sent)
        for number in range(50):
            await client.update(f"cold-{number}", session={"seq": 0})
        assert anyio.current_time() < 0.1
        for handle in hot:
            await handle
        assert [sent.at >= 60 for sent in wire.writes("hot")] == [
            False,
            True,
            True,
            True,
            True,
            True,
        ]


@on_each_api
async def test_p2_isolation_a_paused_dialog_takes_nobody_with_it() -> None:
    wire = Wire()
    wire.script(400, dialog_id="ill")
    async with client_of(wire, max_in_flight=1, on_failure="pause") as client:
        waits_when_paused = [
            client.submit_nowait({"dialog_id": "ill", "session": {"seq": seq}}) for seq in range(4)
        ]
        for number in range(20):
            await client.update(f"well-{number}", session={"seq": 0})
        assert [handle.done() for handle in waits_when_paused] == [True, False, False, False]
        client.resume("ill")
        for handle in waits_when_paused[1:]:
            await handle


@on_each_api
async def test_p2_isolation_a_hot_dialog_does_not_starve_a_cold_one() -> None:
    wire = Wire(takes=1)
    async with client_of(wire, max_in_flight=1) as client:
        for seq in range(1000):
            client.submit_nowait({"dialog_id": "hot", "session": {"seq": seq}})
        await anyio.sleep(0.5)
        # One request of the hot one is under way, and it may be its turn once more.
        await client.update("cold", session={"seq": 0})
        assert anyio.current_time() <= 3.1
        await client.aclose(drain=False)


@on_each_api
async def test_p2_isolation_a_hot_dialog_that_fills_the_room_does_not_keep_out_cold_ones() -> None:
    wire = Wire(takes=0.02)
    async with client_of(wire, max_pending=100) as client, anyio.create_task_group() as tasks:
        for number in range(2000):
            tasks.start_soon(partial(client.update, "hot", session={"n": number}))
        await anyio.sleep(0.05)
        began = anyio.current_time()
        await all_of(*(partial(client.update, f"d-{n}", session={"a": 1}) for n in range(200)))
        assert anyio.current_time() < began + 1
        tasks.cancel_scope.cancel()


async def test_p2_isolation_dialogs_take_turns() -> None:
    wire = Wire(takes=1)
    async with client_of(wire, max_in_flight=3) as client:
        # All of the first dialog come before all of the second one, and so on.
        for number in range(30):
            for seq in range(4):
                client.submit_nowait({"dialog_id": f"d-{number}", "session": {"seq": seq}})
        await client.flush()
    rounds = [sent.seq for sent in wire.sent]
    assert rounds == sorted(rounds)


@on_each_api
async def test_p2_isolation_bulk_dialogs_take_turns_too() -> None:
    wire = Wire(takes=1)
    rows = [
        {"dialog_id": name, "session": {"seq": seq}}
        for name, most in (("hot", 60), ("cold", 1), ("cool", 2))
        for seq in range(most)
    ]
    async with client_of(wire, max_in_flight=1) as client:
        async for outcome in client.update_many(rows):
            assert outcome.ok
    # The cold one is read after the sixty, and then waits for one of them at most.
    order = [sent.dialog_id for sent in wire.sent]
    assert order.index("cold") <= 3
    assert order.index("cool") <= 3


@on_each_api
async def test_p2_isolation_reads_of_one_dialog_do_not_wait_for_another() -> None:
    wire = Wire()
    wire.script(503, method="GET", dialog_id="ill")
    async with (
        client_of(wire, max_in_flight=1, retry=every(60)) as client,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(client.get_state, "ill")
        await until(lambda: wire.sent)
        await client.get_state("well")
        await client.update("ill", session={"seq": 0})
        assert anyio.current_time() < 1
    assert anyio.current_time() == pytest.approx(60, abs=1)


@on_each_api
async def test_p2_isolation_an_impatient_update_of_one_dialog_does_not_end_others() -> None:
    wire = Wire()
    wire.script(throttled("700", dialog=True), dialog_id="ill")
    async with client_of(wire) as client:
        calls: list[Callable[[], Awaitable[object]]] = [
            partial(client.update, "ill", session={"seq": 0}),
            partial(client.update, "well", session={"seq": 0}),
        ]
        ill, well = await all_of(*calls)
        assert isinstance(ill, RateLimitedError)
        assert ill.retry_after == 700
        assert not isinstance(well, Exception)


@on_each_api
async def test_p2_isolation_attempts_of_one_dialog_are_its_own() -> None:
    wire = Wire()
    wire.script(*[500] * 10, dialog_id="ill")
    policy = RetryPolicy(max_attempts=3)

    async def write(client: AsyncStateClient, name: str) -> object:
        return await client.update(name, session={"seq": 0})

    async with client_of(wire, retry=policy) as client:
        outcomes = await all_of(*(partial(write, client, name) for name in ("ill", "well")))
    assert isinstance(outcomes[0], ServerError)
    assert outcomes[0].attempts == 3
    assert not isinstance(outcomes[1], Exception)
