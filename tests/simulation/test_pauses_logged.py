"""A long pause is logged once when it begins and once when it ends, however many updates wait."""

from __future__ import annotations

import logging
from functools import partial
from typing import Any

import anyio
import pytest

from cognigy_async import NotSentError, RateLimit, RetryPolicy
from cognigy_async.emulator import Faults
from tests.simulation.world import (
    REFUSED,
    Wire,
    all_of,
    client_of,
    emulator,
    every,
    oauth,
    throttled,
)


class Clock(logging.Handler):
    """Notes the lines of pauses with their time."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[tuple[float, str, str]] = []
        self.began = anyio.current_time()

    def emit(self, record: logging.LogRecord) -> None:
        if hasattr(record, "pause"):
            at = round(anyio.current_time() - self.began, 1)
            self.lines.append((at, record.pause, record.getMessage()))


@pytest.fixture
async def clock() -> Any:
    handler = Clock()
    logging.getLogger("cognigy_async").addHandler(handler)
    yield handler
    logging.getLogger("cognigy_async").removeHandler(handler)


ASKED = "the server asked to wait (429 or 503)"
SPENT = "the rate limit is used up"


def seconds_in(line: str) -> float:
    return float(line.partition(" after ")[2].partition(" s")[0])


async def write(client: Any, count: int, **options: Any) -> list[Any]:
    calls = [
        lambda number=number: client.update(f"d-{number}", session={"a": 1}, **options)
        for number in range(count)
    ]
    return await all_of(*calls)


@pytest.mark.parametrize("status", [429, 503])
async def test_a_throttled_tenant(clock: Clock, status: int) -> None:
    wire = Wire(takes=0.1)
    answer = throttled("30")
    answer = type(answer)(status, answer.headers, answer.content)
    wire.script(*[answer] * 8)
    async with client_of(wire, max_in_flight=8) as client:
        outcomes = await write(client, 200)
        assert not [one for one in outcomes if isinstance(one, Exception)]
        await anyio.sleep(60)
    begun, ended = clock.lines
    assert begun == (0.1, "throttled", f"updates wait 30.0 s: {ASKED}")
    assert ended == (33.1, "throttled", f"updates continue after 30.0 s: {ASKED}")


async def test_a_tenant_that_is_throttled_again_and_again(clock: Clock) -> None:
    wire = Wire(takes=0.1)
    wire.script(*[throttled("20")] * 3)
    async with client_of(wire, max_in_flight=1) as client:
        await write(client, 50)
        await anyio.sleep(60)
    begun, ended = clock.lines
    assert begun == (0.1, "throttled", f"updates wait 20.0 s: {ASKED}")
    # Each of the three is followed by a slow start of at most a second.
    assert 63 < ended[0] < 67
    assert seconds_in(ended[2]) == pytest.approx(ended[0] - 3.1, abs=0.2)


async def test_a_pause_that_the_server_ends_early(clock: Clock) -> None:
    wire = Wire(takes=0.1)
    wire.script(throttled("3000"))
    policy = RetryPolicy(max_retry_after=20.0)
    async with client_of(wire, max_in_flight=1, retry=policy) as client:
        await write(client, 1, priority="bulk", deadline=1.0)
        await anyio.sleep(30)
        await write(client, 1)
        await anyio.sleep(30)
    [begun, ended] = clock.lines
    assert begun[2] == f"updates wait 3000.0 s: {ASKED}"
    assert 20 < ended[0] < 40


async def test_a_short_pause_is_not_logged(clock: Clock) -> None:
    wire = Wire(takes=0.1)
    wire.script(*[throttled("2")] * 8)
    wire.script(*[REFUSED] * 8)
    async with client_of(wire, max_in_flight=8, retry=every(0.5)) as client:
        await write(client, 100)
        await anyio.sleep(60)
    assert clock.lines == []


async def test_a_quota_that_is_used_up(clock: Clock) -> None:
    wire = Wire(takes=0.1)
    async with client_of(wire, rate_limit=RateLimit(10, per=60)) as client:
        await write(client, 25)
        await anyio.sleep(60)
    assert len(wire.applied) == 25
    # The ten requests that are due after a minute take a tenth of a second.
    begun, ended = clock.lines
    assert begun[1:] == ("quota", f"updates wait 60.3 s: {SPENT}")
    assert ended[0] == pytest.approx(124, abs=1)
    assert ended[2].endswith(f"s: {SPENT}")
    assert seconds_in(ended[2]) == pytest.approx(121, abs=1)


async def test_a_quota_whose_windows_are_busy_for_some_time(clock: Clock) -> None:
    wire = Wire(takes=3)
    async with client_of(wire, max_in_flight=5, rate_limit=RateLimit(10, per=60)) as client:
        await write(client, 25)
        await anyio.sleep(60)
    assert len(wire.applied) == 25
    assert [text.split()[1] for _, _, text in clock.lines] == ["wait", "continue"] * 2


async def test_a_quota_whose_last_tenth_bulk_work_spreads_is_one_pause(clock: Clock) -> None:
    wire = Wire(takes=0.1)
    async with client_of(wire, rate_limit=RateLimit(100, per=300)) as client:
        report = await client.update_many(
            {"dialog_id": f"d-{number}", "session": {"a": 1}} for number in range(150)
        ).drain()
        assert report.applied == 150
        await anyio.sleep(60)
    begun, ended = clock.lines
    assert begun[0] < 1
    assert ended[0] == pytest.approx(304, abs=5)


async def test_a_quota_with_short_waits_is_not_logged(clock: Clock) -> None:
    wire = Wire(takes=0.1)
    async with client_of(wire, rate_limit=RateLimit(10, per=3)) as client:
        await write(client, 200)
        await anyio.sleep(60)
    assert clock.lines == []


@pytest.mark.parametrize(("priority", "rows"), [("live", 1), ("bulk", 1), ("bulk", 200)])
async def test_a_server_that_is_away(clock: Clock, priority: str, rows: int) -> None:
    wire = Wire(takes=0.1, answer=NotSentError("no connection"))
    patient = RetryPolicy(max_attempts=1000, max_elapsed=1000)
    # The retry budget of so many workers lasts for longer than the server is away.
    async with client_of(wire, max_in_flight=64, retry=patient) as client:
        async with anyio.create_task_group() as tasks:

            async def writes() -> None:
                await write(client, rows, priority=priority)

            tasks.start_soon(writes)
            await anyio.sleep(100)
            [begun] = clock.lines
            wire.answers(None)
        await anyio.sleep(100)
    message = "updates wait for the server: it served no request for 5.0 s (not_sent)"
    assert begun[0] == pytest.approx(5.1, abs=0.1)
    assert begun[1:] == ("away", message)
    ended = clock.lines[1]
    assert clock.lines == [begun, ended]
    assert 100 < ended[0] < 200
    assert ended[2].startswith("the server serves requests again after ")
    assert seconds_in(ended[2]) == pytest.approx(ended[0], abs=0.2)


async def test_one_dialog_that_fails_while_others_are_served(clock: Clock) -> None:
    wire = Wire(takes=0.1)
    wire.script(*[502] * 20, dialog_id="d-0")
    async with client_of(wire, max_in_flight=8, retry=every(10, max_elapsed=1000)) as client:
        for _ in range(60):
            await write(client, 2, deadline=1.0)
            await anyio.sleep(1)
    assert clock.lines == []


async def test_an_update_that_failed_is_no_pause_of_those_to_come(clock: Clock) -> None:
    wire = Wire(takes=0.1, answer=NotSentError("no connection"))
    async with client_of(wire, retry=every(0.5, max_attempts=3)) as client:
        [error] = await write(client, 1)
        assert isinstance(error, NotSentError)
        await anyio.sleep(100)
        wire.answers(None)
        await write(client, 1)
        await anyio.sleep(100)
    assert clock.lines == []


@pytest.mark.parametrize(("priority", "rows"), [("live", 1), ("bulk", 20)])
async def test_a_token_endpoint_that_is_away(
    caplog: pytest.LogCaptureFixture, priority: str, rows: int
) -> None:
    """The server is not said to be away, and no attempt to get a token has a line of its own."""
    server = emulator(faults=Faults(token_failure=1.0))
    patient = RetryPolicy(max_attempts=1000, max_elapsed=1000)
    async with (
        client_of(server, auth=oauth(server), retry=patient, max_in_flight=64) as client,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(partial(write, client, rows, priority=priority))
        await anyio.sleep(120)
        server.faults = Faults()
    assert len(server.dialogs) == rows
    begun, ended = caplog.messages
    assert begun.startswith("no token: the token endpoint http://127.0.0.1/oauth/token is temporar")
    seconds = float(ended.removeprefix("a token was received after ").partition(" ")[0])
    assert 118 < seconds < 180
