"""P6: no window holds more requests than the limit allows, and a busy client uses it."""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import anyio
import pytest

from cognigy_async import (
    AsyncStateClient,
    ClientClosedError,
    ConfigurationError,
    RateLimit,
    RetryPolicy,
)
from cognigy_async.emulator import Faults
from tests.simulation.world import (
    DROPPED,
    Wire,
    all_of,
    client_of,
    emulator,
    every,
    oauth,
    status,
    throttled,
    until,
)


def most(wire: Wire, per: float) -> int:
    """The most requests that came within one window."""
    starts = [sent.at for sent in wire.sent]
    return max(bisect_left(starts, at + per - 1e-6) - index for index, at in enumerate(starts))


def rows(count: int) -> Any:
    return ({"dialog_id": f"d-{number}", "session": {"a": 1}} for number in range(count))


async def bulk(client: AsyncStateClient, count: int, **options: Any) -> None:
    async with client.update_many(rows(count), **options) as outcomes:
        async for outcome in outcomes:
            assert outcome.ok


@pytest.mark.quick("asyncio-*-0.7", "trio-live-0.0")
@pytest.mark.parametrize("latency", [0.0, 0.7])
@pytest.mark.parametrize("priority", ["live", "bulk"])
async def test_p6_quota_a_long_run_is_never_over_and_uses_99_percent(
    priority: str, latency: float
) -> None:
    wire = Wire(takes=latency)
    async with client_of(wire, rate_limit=RateLimit(1000, per=300)) as client:
        await bulk(client, 5_000, priority=priority)
        assert client.metrics.quota[0].utilisation >= 0.99
    assert most(wire, 300) <= 1000
    last = wire.sent[-1].at
    assert last / 300 * 1000 <= 5_000 / 0.99
    if priority == "live":
        # In the first window the requests of a worker follow each other.
        assert last <= 4 * 300 / 0.99 + 1000 / 32 * latency


async def test_p6_quota_calls_of_update_share_it() -> None:
    wire = Wire(takes=0.01)
    async with client_of(wire, rate_limit=RateLimit(60, per=2)) as client:
        await all_of(*(partial(client.update, f"d-{n}", session={"a": 1}) for n in range(480)))
    assert most(wire, 2) == 60
    assert wire.sent[-1].at <= 14 * 1.08


async def modify(client: AsyncStateClient, number: int) -> object:
    return await client.modify(f"d-{number}", lambda _: {"session": {"b": 1}})


async def split(client: AsyncStateClient, number: int) -> object:
    big = {"a": "x" * 300_000, "b": "y" * 300_000}
    return await client.update(f"d-{number}", session=big)


async def read(client: AsyncStateClient, number: int) -> object:
    return await client.get_state(f"d-{number}")


@pytest.mark.parametrize("call", [modify, split, read])
async def test_p6_quota_every_kind_of_request_counts(
    call: Callable[[AsyncStateClient, int], Awaitable[object]],
) -> None:
    wire = Wire()
    async with client_of(wire, rate_limit=RateLimit(10, per=60)) as client:
        await all_of(*(partial(call, client, number) for number in range(30)))
    assert len(wire.sent) == 30 if call is read else 60
    assert most(wire, 60) == 10


@pytest.mark.parametrize("reply", [500, 409, DROPPED, throttled("1", dialog=True)])
async def test_p6_quota_repeats_and_what_is_read_before_them_count(reply: Any) -> None:
    wire = Wire()
    for number in range(20):
        wire.script(reply, dialog_id=f"d-{number}")
    policy = every(0.1, budget=10.0)
    async with client_of(wire, rate_limit=RateLimit(7, per=10), retry=policy) as client:
        await bulk(client, 20)
    assert len(wire.sent) >= 40
    assert most(wire, 10) == 7


async def test_p6_quota_replays_with_a_fresh_token_count_and_token_requests_do_not() -> None:
    server = emulator(tenant_quota=(10, 10))
    client = client_of(server, auth=oauth(server), rate_limit=RateLimit(10, per=10))
    async with client, anyio.create_task_group() as tasks:
        tasks.start_soon(bulk, client, 60)
        for _ in range(6):
            await anyio.sleep(10)
            server.revoke_tokens()
    assert client.metrics.retries["unauthorized"] >= 5
    assert server.stats.token_requests > 5
    assert 429 not in server.stats.answers


async def test_p6_quota_with_the_emulators_fixed_windows_nothing_is_throttled() -> None:
    faults = Faults(latency=0.05, latency_jitter=0.05, error_503=0.05, conflict=0.05)
    server = emulator(tenant_quota=(60, 20), faults=faults)
    client = client_of(server, rate_limit=RateLimit(60, per=20, guard=0.01), retry=every(1))
    async with client:
        await bulk(client, 500)
    assert 429 not in server.stats.answers


async def test_p6_quota_several_limits_hold_at_once() -> None:
    wire = Wire(takes=0.01)
    limits = [RateLimit(5, per=1), RateLimit(40, per=20)]
    async with client_of(wire, rate_limit=limits) as client:
        await bulk(client, 200, priority="live")
        assert [(use.n, use.per) for use in client.metrics.quota] == [(5, 1), (40, 20)]
    assert most(wire, 1) == 5
    assert most(wire, 20) == 40


async def test_p6_quota_the_reserve_is_left_and_a_burst_of_one_is_even() -> None:
    wire = Wire()
    limit = RateLimit(100, per=10, reserve=0.2, burst=1)
    async with client_of(wire, rate_limit=limit) as client:
        await bulk(client, 300, priority="live")
    assert most(wire, 10) == 80
    gaps = [b.at - a.at for a, b in zip(wire.sent, wire.sent[1:], strict=False)]
    assert min(gaps) >= 10 / 80
    assert max(gaps) == pytest.approx(10.05 / 80)


# In the first window, requests count from their answers.


async def test_p6_quota_in_the_first_window_a_request_counts_from_its_answer() -> None:
    """Whatever each takes on its way there, the server never sees too many."""
    wire = Wire(takes=3)
    async with client_of(wire, rate_limit=RateLimit(4, per=10)) as client:
        await bulk(client, 12, priority="live")
    at = [round(sent.at, 2) for sent in wire.sent]
    # What all of them take is not waited for again.
    assert at == [0.0] * 4 + [13.05] * 4 + [23.1] * 4


async def test_p6_quota_a_request_that_is_never_answered_holds_its_place_while_it_lasts() -> None:
    wire = Wire()
    wire.script(DROPPED)
    limit = RateLimit(1, per=10)
    async with client_of(wire, rate_limit=limit, retry=RetryPolicy(ambiguous="raise")) as client:
        outcomes = await all_of(
            *(partial(client.update, f"d-{n}", session={"a": 1}) for n in (1, 2))
        )
    assert sum(isinstance(outcome, Exception) for outcome in outcomes) == 1
    assert wire.sent[1].at == pytest.approx(10.05)


# What holds no quota, and no worker.


async def test_p6_quota_who_waits_for_it_holds_no_lane_and_can_be_withdrawn() -> None:
    wire = Wire()
    async with client_of(wire, rate_limit=RateLimit(2, per=100), max_in_flight=4) as client:
        handles = [
            client.submit_nowait({"dialog_id": f"d-{n}", "session": {"seq": n}}) for n in range(5)
        ]
        await until(lambda: len(wire.sent) == 2)
        await anyio.sleep(50)
        assert len(wire.sent) == 2
        assert client.metrics.in_flight == 0
        assert [handle.withdraw() for handle in handles] == [False, False, True, True, True]
        assert client.metrics.pending == 0


async def test_p6_quota_a_dialog_that_backs_off_holds_none() -> None:
    wire = Wire()
    for number in range(3):
        wire.script(throttled("10000", dialog=True), dialog_id=f"ill-{number}")
    policy = RetryPolicy(max_retry_after=20_000)
    limit = RateLimit(10, per=100)
    async with client_of(wire, rate_limit=limit, retry=policy) as client:
        for number in range(3):
            client.submit_nowait({"dialog_id": f"ill-{number}", "session": {"a": 1}})
        await until(lambda: len(wire.sent) == 3)
        await anyio.sleep(200)
        await all_of(*(partial(client.update, f"d-{n}", session={"a": 1}) for n in range(10)))
        assert anyio.current_time() < 201
        await client.aclose(drain=False)


async def test_p6_quota_a_pause_of_the_tenant_takes_none() -> None:
    wire = Wire()
    wire.script(throttled("30"))
    async with client_of(wire, rate_limit=RateLimit(5, per=60)) as client:
        await all_of(*(partial(client.update, f"d-{n}", session={"a": 1}) for n in range(5)))
    # Had those that waited taken any, the repeat of the first would wait for the next window.
    assert len(wire.sent) <= 5 + 5
    assert 30 <= wire.sent[4].at <= wire.sent[-1].at


async def test_p6_quota_closing_without_draining_waits_for_none() -> None:
    wire = Wire()
    async with client_of(wire, rate_limit=RateLimit(1, per=1000)) as client:
        for number in range(3):
            client.submit_nowait({"dialog_id": f"d-{number}", "session": {"a": 1}})
        await until(lambda: len(wire.sent) == 1)
        await anyio.sleep(1)
        report = await client.aclose(drain=False)
        assert len(report.unsent) == 2
        assert anyio.current_time() < 2


# Across a restart.


async def test_p6_quota_a_process_that_restarts_does_not_forget(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("time.time", anyio.current_time)
    wire = Wire()
    limit = RateLimit(10, per=100)
    async with client_of(wire, rate_limit=limit) as client:
        await all_of(*(partial(client.update, f"d-{n}", session={"a": 1}) for n in range(7)))
        saved = json.dumps(client.quota_state())
    await anyio.sleep(30)
    async with client_of(wire, rate_limit=limit) as client:
        client.restore_quota(json.loads(saved))
        assert client.metrics.quota[0].used == 7
        await all_of(*(partial(client.update, f"d-{n}", session={"a": 1}) for n in range(7)))
    assert most(wire, 100) == 10
    assert wire.sent[9].at == 30
    assert wire.sent[10].at == pytest.approx(100.5)


async def test_p6_quota_the_state_belongs_to_an_open_client() -> None:
    client = client_of(Wire())
    with pytest.raises(ClientClosedError):
        client.quota_state()
    async with client:
        assert client.quota_state()["starts"] == []
        client.restore_quota({"at": 0.0, "starts": []})
        assert client.metrics.quota == client.metrics.snapshot().quota == ()


# Bad input.


@pytest.mark.parametrize("rate_limit", ["fast", 1000, [], [RateLimit(1, per=1), 5], (None,)])
def test_p6_quota_what_is_no_limit_is_refused(rate_limit: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"RateLimit\(1000, per=300\)"):
        client_of(Wire(), rate_limit=rate_limit)


async def test_p6_quota_a_throttled_answer_is_told_as_ever() -> None:
    wire = Wire(answer=status(429, {"retry-after": "1000"}))
    async with client_of(wire, rate_limit=RateLimit(5, per=1)) as client:
        [outcome] = await all_of(partial(client.update, "d", session={"a": 1}))
        assert type(outcome).__name__ == "RateLimitedError"
