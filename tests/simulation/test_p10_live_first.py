"""P10: live work goes before bulk work, for workers and for quota, and bulk still advances."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import anyio
import pytest

from cognigy_async import AsyncStateClient, ConfigurationError, RateLimit
from tests.simulation.test_p06_quota import most
from tests.simulation.world import Wire, all_of, client_of, until


def rows(count: int, name: str = "bulk") -> Iterator[dict[str, Any]]:
    return ({"dialog_id": f"{name}-{number}", "session": {"a": 1}} for number in range(count))


async def bulk(client: AsyncStateClient, updates: Any, **options: Any) -> None:
    async with client.update_many(updates, **options) as outcomes:
        async for outcome in outcomes:
            assert outcome.ok


async def wait_of_update(client: AsyncStateClient, number: int) -> float:
    began = anyio.current_time()
    await client.update(f"live-{number}", session={"a": 1})
    return anyio.current_time() - began


@pytest.mark.parametrize(
    ("limit", "count", "apart", "longest"),
    [(RateLimit(1000, per=300), 4000, 87.3, 6.0), (RateLimit(30, per=1), 300, 0.83, 0.4)],
)
async def test_p10_live_first_updates_in_a_bulk_run_find_a_place_soon(
    limit: RateLimit, count: int, apart: float, longest: float
) -> None:
    ends = []
    waits: list[float] = []
    for lives in (0, 10):
        wire = Wire(takes=0.01)
        began = anyio.current_time()
        async with (
            client_of(wire, rate_limit=limit) as client,
            anyio.create_task_group() as tasks,
        ):

            async def run(client: AsyncStateClient = client, began: float = began) -> None:
                await bulk(client, rows(count))
                ends.append(anyio.current_time() - began)

            tasks.start_soon(run)
            for number in range(lives):
                await anyio.sleep(apart)
                waits.append(await wait_of_update(client, number))
        assert most(wire, limit.per) <= limit.n
    assert max(waits) < longest
    assert sorted(waits)[5] < min(0.3 * limit.per, 4)
    assert ends[1] <= 1.15 * ends[0]


async def test_p10_live_first_bulk_keeps_a_tenth_of_the_quota() -> None:
    wire = Wire()
    async with (
        client_of(wire, rate_limit=RateLimit(100, per=10)) as client,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(partial(bulk, client, rows(2000, "live"), priority="live"))
        tasks.start_soon(bulk, client, rows(2000))
        await anyio.sleep(100)
        tasks.cancel_scope.cancel()
    names = [sent.dialog_id.split("-")[0] for sent in wire.sent]
    assert len(names) >= 990
    share = names.count("bulk") / len(names)
    assert share == pytest.approx(0.1, abs=0.01)
    assert most(wire, 10) <= 100


async def test_p10_live_first_bulk_keeps_a_tenth_of_the_workers() -> None:
    wire = Wire(takes=1)
    async with (
        client_of(wire, max_in_flight=1) as client,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(partial(bulk, client, rows(200, "live"), priority="live"))
        tasks.start_soon(bulk, client, rows(200))
        await anyio.sleep(100)
        tasks.cancel_scope.cancel()
    names = [sent.dialog_id.split("-")[0] for sent in wire.sent]
    assert names.count("bulk") == pytest.approx(len(names) / 10, abs=1)


async def test_p10_live_first_priority_overrides_the_class() -> None:
    wire = Wire(takes=1)
    async with client_of(wire, max_in_flight=1) as client:
        client.submit_nowait({"dialog_id": "first", "session": {"a": 1}})
        await until(lambda: wire.sent)
        calls = [
            partial(client.update, "patient", session={"a": 1}, priority="bulk"),
            partial(bulk, client, rows(2, "hasty"), priority="live"),
            partial(client.submit, {"dialog_id": "late", "session": {"a": 1}}, priority="bulk"),
        ]
        await all_of(*calls)
        client.submit_nowait({"dialog_id": "later", "session": {"a": 1}}, priority="bulk")
        client.submit_nowait({"dialog_id": "now", "session": {"a": 1}})
    order = [sent.dialog_id for sent in wire.sent]
    assert order.index("hasty-1") < min(order.index("patient"), order.index("late"))
    assert order.index("now") < order.index("later")


async def test_p10_live_first_no_other_class_is_known() -> None:
    update = {"dialog_id": "d", "session": {"a": 1}}
    async with client_of(Wire()) as client:
        calls: list[Any] = [
            partial(client.update, "d", session={"a": 1}),
            partial(client.submit, update),
        ]
        for call in calls:
            with pytest.raises(ConfigurationError, match='"live" or "bulk"'):
                await call(priority="urgent")
        with pytest.raises(ConfigurationError, match='"live" or "bulk"'):
            client.submit_nowait(update, priority="urgent")  # type: ignore[arg-type]
        with pytest.raises(ConfigurationError, match='"live" or "bulk"'):
            client.update_many([update], priority="urgent")  # type: ignore[arg-type]
        assert client.metrics.pending == 0


async def test_p10_live_first_a_dialog_with_both_keeps_its_order() -> None:
    wire = Wire(takes=1)
    async with client_of(wire, rate_limit=RateLimit(3, per=10), max_in_flight=1) as client:
        for seq in range(3):
            client.submit_nowait({"dialog_id": "d", "session": {"seq": seq}}, priority="bulk")
        for number in range(10):
            client.submit_nowait(
                {"dialog_id": f"o-{number}", "session": {"seq": 0}}, priority="bulk"
            )
        await anyio.sleep(0.5)
        await client.update("d", session={"seq": 3})
        assert [sent.seq for sent in wire.writes("d")] == [0, 1, 2, 3]
        assert len(wire.sent) <= 5
        await client.aclose(drain=False)


@pytest.mark.parametrize("rate_limit", [None, RateLimit(2000, per=1)])
async def test_p10_live_first_a_hot_dialog_delays_the_cold_ones_little(
    rate_limit: RateLimit | None,
) -> None:
    percentiles = []
    for hot in (0, 5_000):
        wire = Wire(takes=0.001)
        async with (
            client_of(wire, max_in_flight=8, rate_limit=rate_limit) as client,
            anyio.create_task_group() as tasks,
        ):
            row = {"dialog_id": "hot", "session": {"a": 1}}
            tasks.start_soon(bulk, client, (row for _ in range(hot)))
            await anyio.sleep(0.01)
            calls = (partial(wait_of_update, client, number) for number in range(1000))
            waits = sorted(wait for wait in await all_of(*calls) if isinstance(wait, float))
            tasks.cancel_scope.cancel()
        assert len(waits) == 1000
        percentiles.append(waits[989])
    assert percentiles[1] <= 3 * percentiles[0]


async def test_p10_live_first_priority_makes_reads_and_modify_bulk_work() -> None:
    wire = Wire()
    async with client_of(wire, rate_limit=RateLimit(1, per=10)) as client:
        await client.update("first", session={"a": 1})

        async def change(name: str, **options: Any) -> None:
            await client.modify(name, lambda _: None, **options)

        await all_of(
            partial(client.get_state, "late-1", priority="bulk"),
            partial(change, "late-2", priority="bulk"),
            partial(client.get_state, "soon-1"),
            partial(change, "soon-2"),
        )
    names = [sent.dialog_id.split("-")[0] for sent in wire.sent]
    assert names == ["first", "soon", "soon", "late", "late"]


async def test_p10_live_first_a_read_of_bulk_work_waits_for_a_server_that_is_away() -> None:
    wire = Wire(answer=503)
    async with client_of(wire) as client, anyio.create_task_group() as tasks:
        tasks.start_soon(partial(client.get_state, "d", priority="bulk"))
        tasks.start_soon(partial(client.modify, "d", lambda _: None, priority="bulk"))
        await anyio.sleep(2000)
        wire.answers(None)
        await client.flush()
    with pytest.raises(ConfigurationError, match='must be "live" or "bulk"'):
        await client.get_state("d", priority="urgent")  # type: ignore[arg-type]
