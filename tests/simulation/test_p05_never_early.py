"""P5: nothing goes to a throttled tenant or dialog before its moment, and after it no burst."""

from __future__ import annotations

import math
import time
from email.utils import formatdate
from functools import partial
from itertools import pairwise
from typing import Any, Literal

import anyio
import pytest

from cognigy_async import AsyncStateClient, RateLimitedError, RetryPolicy, UpdateWithdrawnError
from cognigy_async.emulator import Emulator, Faults
from tests.simulation.world import (
    Wire,
    all_of,
    client_of,
    emulator,
    every,
    on_each_api,
    outcome_of,
    state,
    status,
    throttled,
    turns,
    until,
)

STYLES: list[Literal["seconds", "decimal", "date", "none"]] = ["seconds", "decimal", "date"]
EPOCH = 1_800_000_000.25
"""A wall clock that agrees with virtual time, and is in the midst of a second."""


def throttling(**options: Any) -> Emulator:
    return emulator(wall_clock=lambda: EPOCH + anyio.current_time(), notice=0.05, **options)


async def busy(client: AsyncStateClient, dialogs: int, updates: int) -> list[Any]:
    """Writes and reads, live and bulk, all at once."""
    rows = [
        {"dialog_id": f"bulk-{number}", "session": {"seq": seq}}
        for seq in range(updates)
        for number in range(dialogs)
    ]

    async def bulk() -> list[Any]:
        return [outcome.result async for outcome in client.update_many(rows)]

    async def live(number: int) -> None:
        for seq in range(updates):
            await client.update(f"d-{number}", session={"seq": seq})
            await client.get_state(f"d-{number}")

    return await all_of(bulk, *(partial(live, number) for number in range(dialogs)))


@on_each_api
@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("scope", ["tenant", "dialog"])
async def test_p5_never_early_on_the_clock_of_the_server(style: Any, scope: str) -> None:
    often = {"throttle_tenant": 0.01} if scope == "tenant" else {"throttle_dialog": 0.05}
    faults = Faults.of({"latency": 0.02, "throttle_seconds": 2.5, **often})
    server = throttling(retry_after=style, faults=faults)
    async with client_of(server, max_in_flight=10) as client:
        outcomes = await busy(client, dialogs=20, updates=10)
    assert not [outcome for outcome in outcomes if isinstance(outcome, Exception)]
    assert server.stats.violations() == {}
    assert server.stats.faults[f"throttle_{scope}"] >= 5
    assert client.metrics.retries["throttled"] >= 5


@on_each_api
@pytest.mark.parametrize("style", STYLES)
async def test_p5_never_early_under_a_quota_that_is_too_small(style: Any) -> None:
    server = throttling(
        retry_after=style, tenant_quota=(40, 10), dialog_quota=(3, 4), faults=Faults(latency=0.02)
    )
    async with client_of(server, max_in_flight=10) as client:
        outcomes = await busy(client, dialogs=10, updates=5)
    assert not [outcome for outcome in outcomes if isinstance(outcome, Exception)]
    assert server.stats.violations() == {}
    assert server.stats.answers[429] > 10


@on_each_api
@pytest.mark.parametrize("style", STYLES)
async def test_p5_never_early_after_a_503_that_names_a_moment(style: Any) -> None:
    faults = Faults(latency=0.02, error_503=0.05, retry_after_503=3)
    server = throttling(retry_after=style, faults=faults)
    async with client_of(server, max_in_flight=10) as client:
        outcomes = await busy(client, dialogs=20, updates=5)
    assert not [outcome for outcome in outcomes if isinstance(outcome, Exception)]
    assert server.stats.violations() == {}
    assert server.stats.answers[503] >= 5


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("7", 7), ("7.25", 7.25), (" 7 ", 7), ("0", 0), ("000012", 12), ("599.999", 599.999)],
)
async def test_p5_never_early_by_a_number(text: str, seconds: float) -> None:
    wire = Wire()
    wire.script(throttled(text))
    async with client_of(wire, retry=every(0.001)) as client:
        await client.update("d", session={"a": 1})
    waited = wire.sent[1].at - wire.sent[0].at
    # At most a second more, which is the spread of those who resume.
    assert seconds <= waited <= seconds + 1.01


async def test_p5_never_early_by_a_date_of_the_server() -> None:
    # Its clock is an hour off: what counts is how far it is from its own `Date`.
    answer = throttled(formatdate(EPOCH + 3600 + 40, usegmt=True))
    answer.headers["date"] = formatdate(EPOCH + 3600, usegmt=True)  # type: ignore[index]
    wire = Wire()
    wire.script(answer)
    async with client_of(wire, retry=every(0.001)) as client:
        await client.update("d", session={"a": 1})
    assert 40 <= wire.sent[1].at - wire.sent[0].at <= 41.5


async def test_p5_never_early_by_a_date_without_one_of_the_server() -> None:
    wire = Wire()
    wire.script(throttled(formatdate(math.ceil(time.time()) + 40, usegmt=True)))
    async with client_of(wire, retry=every(0.001)) as client:
        await client.update("d", session={"a": 1})
    assert 40 <= wire.sent[1].at - wire.sent[0].at <= 42.5


@pytest.mark.parametrize(
    "text",
    [
        "",
        "soon",
        "-5",
        "1e400",
        "9" * 400,
        "nan",
        "inf",
        "1.2.3",
        "٣",
        "Wed, 21 Oct 1970 07:28:00 GMT",
        "Wed, 99 Oct 2015 07:28:00 GMT",
        "Mon, 01 Jan 99999999999 00:00:00 GMT",
        "\x00",
    ],
)
@pytest.mark.parametrize("number", [429, 503])
async def test_p5_never_early_garbage_is_no_moment(text: str, number: int) -> None:
    wire = Wire()
    wire.script(status(number, {"retry-after": text}))
    async with client_of(wire, retry=every(2)) as client:
        result = await client.update("d", session={"a": 1})
    assert result.attempts == 2
    # It is taken for what it is, and not for an answer that nobody can make sense of.
    assert client.metrics.retries == {"throttled" if number == 429 else "unavailable": 1}
    assert 2 <= wire.sent[1].at - wire.sent[0].at <= 3.1


@on_each_api
@pytest.mark.parametrize("kind", ["live", "bulk"])
async def test_p5_never_early_and_no_burst_afterwards(kind: str) -> None:
    wire = Wire(takes=0.001)
    wire.script(throttled("10"))
    workers = 20
    async with client_of(wire, max_in_flight=workers) as client:
        if kind == "live":
            calls = [partial(client.update, f"d-{n}", session={"a": 1}) for n in range(100)]
            await all_of(*calls)
        else:
            rows = [{"dialog_id": f"d-{n}", "session": {"a": 1}} for n in range(100)]
            assert [outcome.ok async for outcome in client.update_many(rows)] == [True] * 100
    after = sorted(sent.at for sent in wire.sent if sent.at >= 9)
    assert after[0] >= 10
    # As many as may be in flight are spread over a second; by then the answers set the pace.
    gaps = [later - earlier for earlier, later in pairwise(after)]
    assert min(gaps[: workers - 1]) >= 1 / workers * 0.9
    assert after[workers - 1] <= 11.1
    assert after[-1] <= 12


async def test_p5_never_early_clients_of_one_tenant_do_not_resume_as_one() -> None:
    moments = []
    for _ in range(8):
        wire = Wire()
        wire.script(throttled("10"))
        async with client_of(wire, max_in_flight=1, retry=every(0.001)) as client:
            await client.update("d", session={"a": 1})
        moments.append(wire.sent[1].at - wire.sent[0].at)
    assert min(moments) >= 10
    assert len({round(moment, 3) for moment in moments}) >= 6


async def test_p5_never_early_while_other_dialogs_go_on() -> None:
    wire = Wire(takes=0.1)
    wire.script(throttled("30", dialog=True), dialog_id="hot")
    async with client_of(wire, max_in_flight=2) as client:
        hot = client.submit_nowait({"dialog_id": "hot", "session": {"seq": 0}})
        await anyio.sleep(1)
        for number in range(20):
            await client.update(f"d-{number}", session={"a": 1})
        assert anyio.current_time() < 4
        assert not hot.done()
        await hot
    assert wire.writes("hot")[1].at >= 30.1


@pytest.mark.parametrize("when", ["in flight", "waiting"])
@pytest.mark.parametrize("dialog", [True, False])
async def test_p5_never_early_after_an_abandoned_update(when: str, dialog: bool) -> None:
    wire = Wire(takes=1)
    wire.script(throttled("20", dialog=dialog))
    async with client_of(wire) as client:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(partial(client.update, "d", session={"seq": 0}))
            await anyio.sleep(0.5 if when == "in flight" else 5)
            tasks.cancel_scope.cancel()
        # Its caller is gone; what it was told holds for the next one all the same.
        await client.update("d", session={"seq": 1})
    assert [sent.seq for sent in wire.sent] == [0, 1]
    assert wire.sent[1].at >= 21


async def test_p5_never_early_after_an_update_that_failed_at_once() -> None:
    wire = Wire()
    wire.script(throttled("20", dialog=True))
    impatient = RetryPolicy(max_retry_after=5)
    async with client_of(wire) as client:
        error = await outcome_of(client.update("d", session={"seq": 0}, retry=impatient))
        assert isinstance(error, RateLimitedError)
        assert error.retry_after == 20
        assert anyio.current_time() < 1
        await client.update("d", session={"seq": 1})
    assert wire.sent[1].at >= 20


@on_each_api
@pytest.mark.parametrize("dialog", [True, False])
async def test_p5_never_early_with_reads(dialog: bool) -> None:
    wire = Wire()
    wire.script(throttled("20", dialog=dialog), dialog_id="d")
    async with client_of(wire) as client:
        write = client.submit_nowait({"dialog_id": "d", "session": {"seq": 0}})
        await anyio.sleep(1)
        await client.get_state("d")
        await write
    assert [sent.at >= 20 for sent in wire.sent] == [False, True, True]


@pytest.mark.parametrize("dialog", [True, False])
async def test_p5_never_early_after_a_read_was_throttled(dialog: bool) -> None:
    wire = Wire()
    wire.script(throttled("20", dialog=dialog), dialog_id="d", method="GET")
    async with client_of(wire) as client:

        async def modify() -> None:
            await client.modify("d", lambda _: {"session": {"seq": 1}})

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.get_state, "d")
            await until(lambda: wire.sent)
            await turns(20)
            tasks.start_soon(modify)
            await client.update("d", session={"seq": 0})
    assert [sent.at >= 20 for sent in wire.sent] == [False, True, True, True, True]


async def test_p5_never_early_a_moment_too_far_away_fails_live_updates_and_not_bulk() -> None:
    wire = Wire()
    wire.script(throttled("3600"))
    rows = [{"dialog_id": f"b-{n}", "session": {"a": 1}} for n in range(3)]
    async with client_of(wire, max_in_flight=1) as client:
        error = await outcome_of(client.update("d", session={"a": 1}))
        assert isinstance(error, RateLimitedError)
        assert error.retry_after == 3600
        async with anyio.create_task_group() as tasks:

            async def bulk() -> None:
                assert [outcome.ok async for outcome in client.update_many(rows)] == [True] * 3

            tasks.start_soon(bulk)
            await anyio.sleep(600)
            # Nothing is sent for the next ones to be told the same.
            error = await outcome_of(client.update("d", session={"a": 1}))
            assert isinstance(error, RateLimitedError)
            assert error.retry_after == pytest.approx(3000, abs=1)
            read = await outcome_of(client.get_state("d"))
            assert isinstance(read, RateLimitedError)
            await anyio.sleep(2500)
            # Less than ten minutes are left: that is worth the wait.
            await client.update("d", session={"a": 1})
        assert anyio.current_time() >= 3600
    assert [sent.at >= 3600 for sent in wire.sent] == [False, True, True, True, True]


async def test_p5_never_early_a_later_moment_replaces_an_earlier_one_and_not_reversed() -> None:
    wire = Wire()
    both = [throttled("50"), throttled("5")]

    async def slow(_: Any) -> Any:
        await anyio.sleep(2)
        return both.pop(0)

    async def slower(_: Any) -> Any:
        await anyio.sleep(3)
        return both.pop(0)

    wire.script(slow, slower)
    async with client_of(wire) as client:
        await all_of(*(partial(client.update, f"d-{n}", session={"a": 1}) for n in range(2)))
    assert [sent.at >= 52 for sent in wire.sent] == [False, False, True, True]


async def test_p5_never_early_a_withdrawn_update_does_not_end_the_pause() -> None:
    wire = Wire()
    wire.script(throttled("20", dialog=True))
    async with client_of(wire) as client:
        first = client.submit_nowait({"dialog_id": "d", "session": {"seq": 0}})
        await until(lambda: wire.sent)
        await turns(20)
        second = client.submit_nowait({"dialog_id": "d", "session": {"seq": 1}})
        third = client.submit_nowait({"dialog_id": "d", "session": {"seq": 2}})
        assert second.withdraw()
        assert isinstance(await outcome_of(second), UpdateWithdrawnError)
        await first
        await third
    assert [(sent.seq, sent.at >= 20) for sent in wire.sent] == [(0, False), (0, True), (2, True)]


async def test_p5_never_early_without_a_moment_named_it_backs_off() -> None:
    server = throttling(retry_after="none", faults=Faults(throttle_seconds=5))
    server.script("throttle_tenant")
    policy = every(2)
    async with client_of(server, max_in_flight=5, retry=policy) as client:
        outcomes = await all_of(
            *(partial(client.update, f"d-{n}", session={"seq": 0}) for n in range(20))
        )
    assert not [outcome for outcome in outcomes if isinstance(outcome, Exception)]
    # The first ones, and after each pause of two seconds those that hear of the next one.
    assert server.stats.answers[429] <= 5 * 3
    assert anyio.current_time() < 12


async def test_p5_never_early_with_several_parts_and_conditions() -> None:
    """Whatever the next request of an update is: the read after a conflict waits as well."""
    wire = Wire()
    wire.script(409)
    wire.script(throttled("20", dialog=True), state(3), method="GET")
    async with client_of(wire, retry=every(0.001)) as client:
        await client.update("d", session={"a": 1})
    told = [(sent.method, sent.at >= 20) for sent in wire.sent]
    assert told == [("PATCH", False), ("GET", False), ("GET", True), ("PATCH", True)]
    assert wire.sent[-1].headers["if-match"] == '"3"'
