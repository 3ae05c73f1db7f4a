"""P5: nothing goes to a throttled tenant or dialog before its moment, and after it no burst."""

from __future__ import annotations

import math
import time
from collections import Counter, deque
from email.utils import formatdate
from functools import partial
from itertools import pairwise
from typing import Any, Literal

import anyio
import pytest

from cognigy_async import (
    AsyncStateClient,
    RateLimitedError,
    Response,
    RetryPolicy,
    ServerError,
    UpdateEvent,
    UpdateResult,
    UpdateWithdrawnError,
)
from cognigy_async.emulator import Emulator, Faults
from tests.simulation.world import (
    DROPPED,
    REFUSED,
    Reply,
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
    [
        *(("7", 7), ("7.25", 7.25), (" 7 ", 7), ("000012", 12), ("599.999", 599.999)),
        # Headers that were sent twice, by the server and a proxy, are joined.
        *(("7, 7", 7), ("5, 7, 0", 7), ("soon, 7", 7)),
    ],
)
async def test_p5_never_early_by_a_number(text: str, seconds: float) -> None:
    wire = Wire()
    wire.script(throttled(text))
    async with client_of(wire, retry=every(0.001)) as client:
        await client.update("d", session={"a": 1})
    waited = wire.sent[1].at - wire.sent[0].at
    # At most a second more, which is the spread of those who resume.
    assert seconds <= waited <= seconds + 1.01


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("skew", [-86_400, 3600])
async def test_p5_never_early_by_a_date_of_the_server(times: int, skew: int) -> None:
    # Its clock is off: what counts is how far it is from its own `Date`.
    wire = Wire()
    wire.script(
        status(
            429,
            {
                "date": formatdate(EPOCH + skew, usegmt=True),
                "retry-after": ", ".join([formatdate(EPOCH + skew + 40, usegmt=True)] * times),
            },
        )
    )
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


PAST = "Wed, 21 Oct 2015 07:28:00 GMT"


@pytest.mark.quick("asyncio-*-live", "trio-*-bulk")
@pytest.mark.parametrize("kind", ["live", "bulk"])
@pytest.mark.parametrize("text", [None, "0", f"{PAST}, {PAST}", "0.001"])
async def test_p5_never_early_zero_and_the_past_are_no_moment(text: str | None, kind: str) -> None:
    """The tenant backs off, as without the header: before, each dialog did by itself."""
    accepted: deque[float] = deque()

    async def ten_a_second(_: Any) -> Response:
        now = anyio.current_time()
        while accepted and accepted[0] <= now - 1:
            accepted.popleft()
        if len(accepted) >= 10:
            return throttled(text)
        accepted.append(now)
        return state(1)

    wire = Wire(takes=0.005, answer=ten_a_second)
    rows = [{"dialog_id": f"d-{n}", "session": {"a": 1}} for n in range(500)]
    async with client_of(wire) as client:
        if kind == "live":
            calls = [partial(client.update, f"d-{n}", session={"a": 1}) for n in range(500)]
            outcomes = await all_of(*calls)
            assert not [outcome for outcome in outcomes if isinstance(outcome, Exception)]
        else:
            assert all([outcome.ok async for outcome in client.update_many(rows)])
    assert len(wire.sent) - 500 <= 750
    busiest = Counter(math.floor(sent.at) for sent in wire.sent)
    assert max(busiest.values()) <= 120


RESETS = [
    *({f"{prefix}reset": "20"} for prefix in ("ratelimit-", "x-ratelimit-", "x-rate-limit-")),
    {"x-ratelimit-limit": "10", "x-ratelimit-remaining": "0", "x-ratelimit-reset": "20"},
    {"x-ratelimit-limit": "10, 10", "x-ratelimit-remaining": "0, 0", "x-ratelimit-reset": "20, 20"},
    {"ratelimit": "limit=10, remaining=0, reset=20", "ratelimit-policy": "10;w=60"},
    {"ratelimit": '"default";r=0;t=20', "ratelimit-policy": '"default";q=10;w=60'},
    {"ratelimit": '"a";r=0;t=20, "b";r=5;t=3000'},
    {"x-ratelimit-reset": str(int(EPOCH) + 20), "date": formatdate(EPOCH, usegmt=True)},
    {"x-ratelimit-reset": f"{int(EPOCH) + 20}000", "date": formatdate(EPOCH, usegmt=True)},
    {"ratelimit": f"limit=10, remaining=0, reset={int(EPOCH) + 20}", "date": formatdate(EPOCH)},
    {
        "x-ratelimit-reset": formatdate(EPOCH + 20, usegmt=True),
        "date": formatdate(EPOCH, usegmt=True),
    },
    # Zero names no moment; the reset does.
    {"retry-after": "0", "x-ratelimit-reset": "20"},
    {"retry-after": "20", "x-ratelimit-reset": "3000"},
]


@pytest.mark.parametrize("headers", RESETS, ids=lambda headers: " ".join(headers.values()))
@pytest.mark.parametrize("number", [429, 503])
async def test_p5_never_early_by_the_reset_of_a_rate_limit(
    headers: dict[str, str], number: int
) -> None:
    wire = Wire()
    wire.script(status(number, headers))
    async with client_of(wire, retry=every(0.001)) as client:
        await client.update("d", session={"a": 1})
        await client.update("e", session={"a": 1})
    assert 20 <= wire.sent[1].at <= 21.1
    assert wire.sent[2].at <= 22.1


@on_each_api
async def test_p5_never_early_by_the_reset_of_a_learned_limit() -> None:
    wire = Wire()
    wire.script(status(429, {"x-ratelimit-remaining": "0", "x-ratelimit-reset": "20"}))
    async with client_of(wire, retry=every(0.001), rate_limit="auto") as client:
        await client.update("d", session={"a": 1})
    assert 20 <= wire.sent[1].at <= 21.1


async def test_p5_never_early_by_a_reset_without_a_date() -> None:
    wire = Wire()
    wire.script(status(429, {"x-ratelimit-reset": str(math.ceil(time.time()) + 40)}))
    async with client_of(wire, retry=every(0.001)) as client:
        await client.update("d", session={"a": 1})
    assert 40 <= wire.sent[1].at - wire.sent[0].at <= 42.5


@pytest.mark.parametrize(
    "headers",
    [
        {"x-ratelimit-remaining": "7", "x-ratelimit-reset": "20"},
        {"ratelimit": "limit=10, remaining=7, reset=20"},
        {"ratelimit": '"a";r=7;t=20'},
        {"x-ratelimit-remaining": "0", "x-ratelimit-reset": "0"},
        {"x-ratelimit-remaining": "0", "x-ratelimit-reset": str(int(EPOCH) - 10**8)},
        {"x-ratelimit-remaining": "0", "x-ratelimit-reset": "soon"},
        {"x-ratelimit-limit": "10", "x-ratelimit-remaining": "0"},
    ],
    ids=lambda headers: " ".join(headers.values()),
)
async def test_p5_never_early_a_limit_that_is_not_used_up_names_no_moment(
    headers: dict[str, str],
) -> None:
    wire = Wire()
    wire.script(status(429, headers))
    async with client_of(wire, retry=every(2)) as client:
        await client.update("d", session={"a": 1})
    assert 2 <= wire.sent[1].at <= 3.1


async def test_p5_never_early_by_a_reset_of_one_dialog() -> None:
    wire = Wire()
    headers = {"x-ratelimit-scope": "dialog", "x-ratelimit-reset": "20"}
    wire.script(status(429, headers), dialog_id="hot")
    async with client_of(wire, retry=every(0.001)) as client:
        hot = client.submit_nowait({"dialog_id": "hot", "session": {"seq": 0}})
        await anyio.sleep(1)
        await client.update("d", session={"a": 1})
        assert anyio.current_time() < 2
        await hot
    assert wire.writes("hot")[1].at >= 20


@on_each_api
@pytest.mark.parametrize("style", ["ietf", "ietf-early", "x"])
async def test_p5_never_early_under_a_quota_that_only_its_headers_tell(style: Any) -> None:
    server = throttling(
        retry_after="none", quota_headers=style, tenant_quota=(40, 10), faults=Faults(latency=0.02)
    )
    async with client_of(server, max_in_flight=10) as client:
        outcomes = await busy(client, dialogs=10, updates=5)
    assert not [outcome for outcome in outcomes if isinstance(outcome, Exception)]
    assert server.stats.violations() == {}
    assert server.stats.answers[429] >= 5


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


# A moment that is too far away: live work asks again after `max_retry_after`, bulk after an hour.

FAR = ["86400", "1000000000", "99999999999999", "Thu, 01 Jan 2099 00:00:00 GMT"]


@pytest.mark.parametrize("text", ["3600", *FAR])
@pytest.mark.parametrize("number", [429, 503])
async def test_p5_never_early_a_moment_too_far_away_fails_live_updates(
    text: str, number: int
) -> None:
    wire = Wire()
    wire.script(status(number, {"retry-after": text}))
    async with client_of(wire) as client:
        error = await outcome_of(client.update("d", session={"a": 1}))
        assert isinstance(error, RateLimitedError if number == 429 else ServerError)
        assert error.retry_after is not None
        assert error.retry_after >= 3600
        # Nothing is sent for the next ones to be told the same.
        for seconds in (0, 1, 300, 298):
            await anyio.sleep(seconds)
            refused = await outcome_of(client.update("d", session={"a": 1}))
            assert isinstance(refused, RateLimitedError)
            assert refused.retry_after == pytest.approx(
                error.retry_after - anyio.current_time(), abs=1
            )
        assert isinstance(await outcome_of(client.get_state("d")), RateLimitedError)
        assert len(wire.sent) == 1
        await anyio.sleep(1)
        await client.update("d", session={"a": 1})
        # It was served: the pause is over for everyone.
        await client.update("e", session={"a": 1}, priority="bulk")
    assert [round(sent.at) for sent in wire.sent] == [0, 600, 600]


async def test_p5_never_early_one_live_request_asks_every_ten_minutes() -> None:
    wire = Wire(takes=1.0, answer=throttled("1000000000"))
    async with client_of(wire) as client, anyio.create_task_group() as tasks:

        async def insist(number: int) -> None:
            while True:
                assert isinstance(
                    await outcome_of(client.update(f"d-{number}", session={"a": 1})),
                    RateLimitedError,
                )
                await anyio.sleep(5)

        tasks.start_soon(insist, 0)
        await anyio.sleep(10)
        for number in range(1, 9):
            tasks.start_soon(insist, number)
        await anyio.sleep(3050)
        tasks.cancel_scope.cancel()
    # A request takes a second, and those who insist try every five seconds.
    moments = [0, 605, 1210, 1815, 2420, 3025]
    assert [sent.at for sent in wire.sent] == pytest.approx(moments, abs=25)


@on_each_api
@pytest.mark.parametrize("text", FAR)
async def test_p5_never_early_one_bulk_request_asks_every_hour(text: str) -> None:
    wire = Wire(takes=0.1)
    wire.script(*[throttled(text)] * 3)
    rows = [{"dialog_id": f"d-{n}", "session": {"a": 1}} for n in range(100)]
    async with client_of(wire, max_in_flight=1) as client:
        assert [outcome.ok async for outcome in client.update_many(rows)] == [True] * 100
    assert [round(sent.at) for sent in wire.sent[:4]] == [0, 3600, 7200, 10800]
    # Only the fourth is served, and the others follow spread out.
    assert 10800 < wire.sent[4].at <= wire.sent[-1].at < 10820


async def test_p5_never_early_many_workers_ask_once() -> None:
    wire = Wire(takes=1.0)
    wire.script(*[throttled("1000000000")] * 21)
    rows = [{"dialog_id": f"d-{n}", "session": {"a": 1}} for n in range(100)]
    async with client_of(wire, max_in_flight=20) as client:
        assert [outcome.ok async for outcome in client.update_many(rows)] == [True] * 100
    later = [sent.at for sent in wire.sent[20:]]
    # Twenty were in flight when the pause began; then one asks, is told the same, and one asks.
    assert [round(at) for at in later[:2]] == [3601, 7202]
    assert later[2] >= 7203
    gaps = [after - before for before, after in pairwise(later[2:20])]
    assert min(gaps) >= 1 / 20 * 0.9


async def test_p5_never_early_a_live_update_that_is_served_ends_the_pause_of_bulk() -> None:
    wire = Wire()
    wire.script(throttled("1000000000"))
    rows = [{"dialog_id": f"b-{n}", "session": {"a": 1}} for n in range(3)]
    async with client_of(wire, max_in_flight=1) as client, anyio.create_task_group() as tasks:

        async def bulk() -> None:
            assert [outcome.ok async for outcome in client.update_many(rows)] == [True] * 3

        tasks.start_soon(bulk)
        await anyio.sleep(1000)
        assert len(wire.sent) == 1
        await client.update("d", session={"a": 1})
        await anyio.sleep(5)
        # The row that was refused has its own hour; the others have gone.
        assert len(wire.sent) == 4
    assert [round(sent.at) for sent in wire.sent] == [0, 1000, 1000, 1001, 3600]


async def test_p5_never_early_the_answer_to_the_one_that_asks_names_a_nearer_moment() -> None:
    wire = Wire()
    wire.script(throttled("1000000000"), throttled("5"))
    async with client_of(wire) as client:
        assert isinstance(await outcome_of(client.update("d", session={"a": 1})), RateLimitedError)
        await anyio.sleep(700)
        await client.update("d", session={"a": 1})
    assert [math.floor(sent.at) for sent in wire.sent] == [0, 700, 705]


@pytest.mark.parametrize("reply", [REFUSED, DROPPED, status(502)])
async def test_p5_never_early_another_request_asks_if_the_first_has_no_answer(
    reply: Reply,
) -> None:
    wire = Wire()
    wire.script(throttled("1000000000"))
    async with client_of(wire, retry=every(0.001, max_attempts=1)) as client:
        await outcome_of(client.update("d", session={"a": 1}))
        wire.script(reply)
        await anyio.sleep(600)
        assert not isinstance(await outcome_of(client.update("d", session={"a": 1})), UpdateResult)
        await anyio.sleep(31)
        await client.update("d", session={"a": 1})
    assert [round(sent.at) for sent in wire.sent] == [0, 600, 631]


@on_each_api
@pytest.mark.parametrize("number", [429, 503])
async def test_p5_never_early_pauses_in_a_row_hold_live_updates_ten_minutes_in_all(
    number: int,
) -> None:
    wire = Wire(takes=0.1, answer=status(number, {"retry-after": "100"}))
    ended: list[float] = []
    async with client_of(wire, max_in_flight=2, retry=every(0.001, max_attempts=99)) as client:

        async def one(n: int) -> None:
            error = await outcome_of(client.update(f"d-{n}", session={"a": 1}))
            assert isinstance(error, RateLimitedError | ServerError)
            ended.append(anyio.current_time())

        async with anyio.create_task_group() as tasks:
            for n in range(100):
                tasks.start_soon(one, n)
    assert len(ended) == 100
    assert 500 <= min(ended) <= max(ended) <= 605


async def test_p5_never_early_a_server_that_serves_some_holds_nobody_too_long() -> None:
    """A queue is not a pause: whoever waits for his turn is not refused."""
    wire = Wire(takes=0.1)
    for _ in range(30):
        wire.script(throttled("60"), 200, 200)
    async with client_of(wire, max_in_flight=1) as client:
        outcomes = await all_of(
            *(partial(client.update, f"d-{n}", session={"a": 1}) for n in range(60))
        )
    assert not [outcome for outcome in outcomes if isinstance(outcome, Exception)]
    assert wire.sent[-1].at > 1200


@on_each_api
async def test_p5_never_early_a_dialog_asks_again_as_the_tenant_does() -> None:
    for priority, asks_at in (("live", 600), ("bulk", 3600)):
        wire = Wire()
        wire.script(*[throttled("1000000000", dialog=True)] * 2, dialog_id="ill")
        row = {"dialog_id": "ill", "session": {"a": 1}}
        async with client_of(wire) as client:
            begin = anyio.current_time()
            if priority == "bulk":
                [outcome] = [each async for each in client.update_many([row])]
                assert outcome.ok
            for _ in range(4 if priority == "live" else 0):
                error = await outcome_of(client.update("ill", session={"a": 1}))
                assert isinstance(error, RateLimitedError)
                # Others do not notice.
                await client.update("d", session={"a": 1})
                await anyio.sleep(300)
            if priority == "live":
                await client.update("ill", session={"a": 1})
        moments = [round(sent.at - begin) for sent in wire.writes("ill")]
        assert moments == [0, asks_at, 2 * asks_at]


async def test_p5_never_early_those_behind_one_of_a_throttled_dialog_are_refused_as_well() -> None:
    wire = Wire()
    wire.script(throttled("1000000000", dialog=True))
    async with client_of(wire) as client:
        outcomes = await all_of(
            *(partial(client.update, "ill", session={"seq": n}) for n in range(50))
        )
        assert all(isinstance(outcome, RateLimitedError) for outcome in outcomes)
        assert anyio.current_time() < 1
    assert len(wire.sent) == 1


async def test_p5_never_early_pauses_in_a_row_of_a_dialog_hold_it_ten_minutes_in_all() -> None:
    wire = Wire(answer=throttled("250", dialog=True))
    async with client_of(wire) as client:
        outcomes = await all_of(
            *(partial(client.update, "ill", session={"seq": n}) for n in range(20))
        )
        assert all(isinstance(outcome, RateLimitedError) for outcome in outcomes)
        assert anyio.current_time() < 601
    assert [round(sent.at) for sent in wire.sent] == [0, 250, 500]


async def test_p5_never_early_a_request_that_is_served_ends_the_pause_of_its_dialog() -> None:
    wire = Wire()
    wire.script(throttled("1000000000", dialog=True), 200, throttled("500", dialog=True))
    async with client_of(wire) as client:
        assert isinstance(await outcome_of(client.update("d", session={"a": 1})), RateLimitedError)
        await anyio.sleep(600)
        await client.update("d", session={"a": 1})
        # Bulk work need not wait for its hour, and what was named before does not add up.
        await client.update("d", session={"a": 1}, priority="bulk")
    assert [round(sent.at) for sent in wire.sent] == [0, 600, 600, 1100]


async def test_p5_never_early_a_call_from_a_callback_is_refused_as_well() -> None:
    wire = Wire()
    wire.script(200, throttled("1000000000"), dialog_id="d")
    seen: list[Any] = []
    client = client_of(wire)

    @client.on_state_updated
    async def follow(event: UpdateEvent) -> None:
        if event.dialog_id == "d":
            await anyio.sleep(1)
            seen.append(await outcome_of(client.update("other", session={"a": 1})))
            seen.append(anyio.current_time())

    async with client:
        await client.update("d", session={"a": 1})
        await outcome_of(client.update("d", session={"a": 1}))
        await anyio.sleep(10)
    assert isinstance(seen[0], RateLimitedError)
    assert seen[1] < 2


async def test_p5_never_early_a_policy_that_waits_for_nothing_asks_once_a_second() -> None:
    wire = Wire(answer=throttled("60"))
    async with client_of(wire, retry=RetryPolicy(max_retry_after=0)) as client:
        for _ in range(100):
            assert isinstance(
                await outcome_of(client.update("d", session={"a": 1})), RateLimitedError
            )
            await anyio.sleep(0.1)
    assert 5 <= len(wire.sent) <= 11


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


async def test_p5_never_early_a_probe_reads_no_throttled_dialog() -> None:
    """A bulk update that fails reads a dialog that was served before, unless that one is paused."""
    wire = Wire(takes=0.01)
    async with client_of(wire, retry=every(1.0)) as client, anyio.create_task_group() as tasks:
        await client.update("other", session={"a": 1})
        wire.script(502, dialog_id="d")
        wire.script(throttled("20", dialog=True), dialog_id="other")
        tasks.start_soon(partial(client.update, "other", session={"a": 2}))
        await anyio.sleep(0.02)
        async with client.update_many([{"dialog_id": "d", "session": {"a": 1}}]) as outcomes:
            assert [one.ok async for one in outcomes] == [True]
        assert anyio.current_time() < 20
    asked = [(sent.method, sent.at < 20) for sent in wire.sent if sent.dialog_id == "other"]
    assert asked == [("PATCH", True), ("PATCH", True), ("PATCH", False)]


async def test_p5_never_early_a_throttled_probe_pauses_the_dialog_that_it_read() -> None:
    wire = Wire(takes=0.01)
    async with client_of(wire, retry=every(1.0)) as client, anyio.create_task_group() as tasks:
        await client.update("other", session={"a": 1})
        wire.script(502, dialog_id="d")
        wire.script(throttled("20", dialog=True), dialog_id="other", method="GET")
        tasks.start_soon(partial(client.update, "d", session={"a": 1}, priority="bulk"))
        await anyio.sleep(2)
        await client.update("other", session={"a": 3})
    asked = [(sent.method, sent.at < 20) for sent in wire.sent if sent.dialog_id == "other"]
    assert asked[:2] == [("PATCH", True), ("GET", True)]
    assert not any(early for _, early in asked[2:])
    assert ("PATCH", False) in asked
