"""`deadline=`: never sent after it, settled at it, refused at once where it cannot be met."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest
import sniffio
import trio
import trio.testing

from cognigy_async import (
    AccessToken,
    AmbiguousUpdateError,
    ApiKey,
    AsyncStateClient,
    BadRequestError,
    ClientClosedError,
    ConfigurationError,
    DeadlineExceededError,
    DialogPausedError,
    DialogState,
    Limits,
    RateLimit,
    ServerError,
    StateUpdate,
    UpdateError,
    UpdateEvent,
    UpdateResult,
)
from cognigy_async.spi import DatedUpdate
from cognigy_async.testing.virtual_time import VirtualClockLoop
from tests.simulation.world import (
    DROPPED,
    REFUSED,
    Reply,
    Wire,
    all_of,
    client_of,
    every,
    named,
    never,
    outcome_of,
    throttled,
    turns,
    until,
)


def row(seq: int, dialog_id: str = "d", **fields: Any) -> dict[str, Any]:
    return {"dialog_id": dialog_id, "session": {"seq": seq}, "update_id": f"u{seq}"} | fields


async def waited_for(call: Any) -> tuple[float, Any]:
    start = anyio.current_time()
    outcome = await outcome_of(call)
    return anyio.current_time() - start, outcome


def jump(seconds: float) -> None:
    """As if something had blocked the event loop."""
    if sniffio.current_async_library() == "trio":
        clock = trio.lowlevel.current_clock()
        assert isinstance(clock, trio.testing.MockClock)
        clock.jump(seconds)
    else:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualClockLoop)
        loop.jump(seconds)


def about(seconds: float) -> Any:
    return pytest.approx(seconds, abs=0.01)


async def test_deadline_that_is_met_changes_nothing() -> None:
    wire = Wire(takes=1)
    async with client_of(wire) as client:
        result = await client.update("d", session={"a": 1}, deadline=5)
        assert isinstance(result, UpdateResult)
        assert isinstance(await (await client.submit(row(1), deadline=5)), UpdateResult)
        assert isinstance(await client.get_state("d", deadline=5), DialogState)
        assert await client.modify("d", lambda _: None, deadline=5) is None
        await anyio.sleep(10)
    assert client.metrics.failed == 0
    assert client.metrics.applied == 2


@pytest.mark.parametrize("deadline", [0, -1.5])
async def test_deadline_in_the_past_is_refused_at_once(deadline: float) -> None:
    wire = Wire()
    async with client_of(wire) as client:
        with pytest.raises(DeadlineExceededError, match="has passed already") as caught:
            await client.update("d", session={"a": 1}, update_id="u", deadline=deadline)
        assert (caught.value.dialog_id, caught.value.update_id) == ("d", "u")
        for call in (client.submit, client.submit_nowait):
            with pytest.raises(DeadlineExceededError):
                await call(row(1), deadline=deadline)  # type: ignore[misc]
        with pytest.raises(DeadlineExceededError):
            await client.get_state("d", deadline=deadline)
        with pytest.raises(DeadlineExceededError):
            await client.modify("d", lambda _: None, deadline=deadline)
        (outcome,) = [one async for one in client.update_many([row(2)], deadline=deadline)]
        assert isinstance(outcome.error, DeadlineExceededError)
        assert outcome.update is not None
        assert client.metrics.pending == 0
        # What was refused holds no room.
        assert client._lifecycle.engine.pending_limit.used == 0
    assert not wire.sent


@pytest.mark.parametrize("deadline", [float("nan"), float("inf"), "5", True])
async def test_deadline_is_a_number_of_seconds(deadline: Any) -> None:
    async with client_of(Wire()) as client:
        with pytest.raises(ConfigurationError, match="deadline="):
            await client.update("d", session={"a": 1}, deadline=deadline)
        with pytest.raises(ConfigurationError, match="deadline="):
            client.update_many([], deadline=deadline)


async def test_deadline_of_a_client_that_is_not_open() -> None:
    client = client_of(Wire())
    with pytest.raises(ClientClosedError):
        await client.update("d", session={"a": 1}, deadline=1)
    with pytest.raises(ClientClosedError):
        client.update_many([], deadline=1)


@pytest.mark.parametrize("scope", ["tenant", "dialog"])
async def test_deadline_that_a_pause_does_not_allow_is_refused_at_once(scope: str) -> None:
    wire = Wire()
    wire.script(throttled("60", dialog=scope == "dialog"))
    async with client_of(wire) as client:
        first = client.submit_nowait(row(0))
        await until(lambda: wire.sent)
        await turns(20)
        seconds, error = await waited_for(client.update("d", session={"a": 1}, deadline=30))
        assert seconds == 0
        assert isinstance(error, DeadlineExceededError)
        assert error.retry_after == pytest.approx(60, abs=1)
        assert "no request may be sent for 6" in str(error)
        # Where it can be met it is taken, and so is what is for others.
        patient = client.submit_nowait(row(1), deadline=120)
        other = client.submit_nowait(row(2, "e"), deadline=30) if scope == "dialog" else None
        assert isinstance(await patient, UpdateResult)
        assert other is None or isinstance(await other, UpdateResult)
        await first
    assert client.metrics.failed == 0


async def test_deadline_that_the_quota_does_not_allow_is_refused_at_once() -> None:
    wire = Wire()
    async with client_of(wire, rate_limit=RateLimit(2, per=60)) as client:
        for seq in range(2):
            await client.update(f"d{seq}", session={"a": 1})
        seconds, error = await waited_for(client.update("d", session={"a": 1}, deadline=30))
        assert seconds == 0
        assert isinstance(error, DeadlineExceededError)
        assert error.retry_after == pytest.approx(60, abs=1)
        assert isinstance(await client.update("d", session={"a": 1}, deadline=90), UpdateResult)
    assert len(wire.sent) == 3


async def test_deadline_settles_what_waits_for_the_quota() -> None:
    wire = Wire()
    async with client_of(wire, rate_limit=RateLimit(1, per=60)) as client:
        handles = [client.submit_nowait(row(seq, f"d{seq}"), deadline=90) for seq in range(3)]
        start = anyio.current_time()
        outcomes = [await outcome_of(handle) for handle in handles]
        assert anyio.current_time() - start == about(90)
        assert isinstance(outcomes[2], DeadlineExceededError)
    assert len(wire.sent) == 2


async def test_deadline_settles_what_waits_behind_another() -> None:
    wire = Wire(takes=5)
    events: list[UpdateEvent] = []
    client = client_of(wire)

    @client.on_update_failed
    async def keep(event: UpdateEvent) -> None:
        events.append(event)

    async with client:
        first = client.submit_nowait(row(0))
        await until(lambda: wire.sent)
        second = client.submit_nowait(row(1), deadline=2)
        third = client.submit_nowait(row(2))
        seconds, error = await waited_for(second)
        assert seconds == about(2)
        assert isinstance(error, DeadlineExceededError)
        assert (error.update_id, error.dialog_id, error.attempts) == ("u1", "d", 0)
        assert str(error).endswith(DeadlineExceededError.remedy)
        await first
        await third
    assert [sent.seq for sent in wire.sent] == [0, 2]
    assert client.metrics.failed == 1
    assert [event.update_id for event in events] == ["u1"]


async def test_deadline_settles_what_waits_for_a_worker() -> None:
    wire = Wire(takes=5)
    async with client_of(wire, max_in_flight=1) as client:
        client.submit_nowait(row(0))
        await until(lambda: wire.sent)
        calls = [
            lambda: client.update("e", session={"a": 1}, deadline=2),
            lambda: client.modify("f", lambda _: {"session": {"a": 1}}, deadline=2),
            lambda: client.get_state("g", deadline=2),
        ]
        start = anyio.current_time()
        outcomes = await all_of(*calls)
        assert anyio.current_time() - start == about(2)
        assert [type(outcome) for outcome in outcomes] == [DeadlineExceededError] * 3
    assert len(wire.sent) == 1


async def test_deadline_settles_what_waits_for_room() -> None:
    wire = Wire(takes=5)
    async with client_of(wire, max_pending=1) as client:
        first = client.submit_nowait(row(0))
        await until(lambda: wire.sent)
        for call in (
            lambda: client.update("e", session={"a": 1}, deadline=1),
            lambda: client.submit(row(1), deadline=1),
            lambda: client.modify("e", lambda _: None, deadline=1),
        ):
            seconds, error = await waited_for(call())
            assert seconds == about(1)
            assert isinstance(error, DeadlineExceededError)
            assert "pending slot" in str(error)
        await first
        await client.update("e", session={"a": 1}, deadline=20)
    assert [sent.dialog_id for sent in wire.sent] == ["d", "e"]


async def test_deadline_that_a_pause_does_not_allow_does_not_wait_for_room() -> None:
    wire = Wire()
    wire.script(throttled("60"))
    async with client_of(wire, max_pending=1) as client:
        client.submit_nowait(row(0))
        await until(lambda: wire.sent)
        await turns(20)
        seconds, error = await waited_for(client.update("e", session={"a": 1}, deadline=30))
    assert seconds == 0
    assert isinstance(error, DeadlineExceededError)


async def test_deadline_that_passes_while_the_event_loop_is_blocked() -> None:
    """Nothing had its turn in time, and still nothing is sent too late."""

    class Blocking(ApiKey):
        async def get_token(self) -> AccessToken:
            jump(3)
            return await super().get_token()

    wire = Wire()
    async with client_of(wire, auth=Blocking("key")) as client:
        error = await outcome_of(client.update("d", session={"a": 1}, deadline=2))
        assert isinstance(error, DeadlineExceededError)
    assert not wire.sent


async def test_deadline_settles_what_waits_for_a_token() -> None:
    class Slow:
        async def get_token(self) -> Any:
            await anyio.sleep_forever()

        def invalidate(self, token: Any) -> None:
            raise AssertionError("there was none")

        async def aclose(self) -> None:
            pass

    wire = Wire()
    async with client_of(wire, auth=Slow()) as client:
        seconds, error = await waited_for(client.update("d", session={"a": 1}, deadline=3))
        assert seconds == about(3)
        assert isinstance(error, DeadlineExceededError)
        await client.aclose(timeout=1)
    assert not wire.sent


BACKOFFS: list[Reply] = [500, 503, REFUSED, throttled("30"), throttled("30", dialog=True), 409]


@pytest.mark.parametrize("failure", BACKOFFS, ids=named)
async def test_deadline_settles_what_backs_off(failure: Reply) -> None:
    wire = Wire()
    wire.script(failure)
    async with client_of(wire, retry=every(30)) as client:
        seconds, error = await waited_for(client.update("d", session={"a": 1}, deadline=10))
        assert seconds == about(10)
        assert isinstance(error, DeadlineExceededError)
        assert isinstance(error.__cause__, UpdateError)
        assert error.status == error.__cause__.status
        assert f"; the last failure was: {error.__cause__.message}" in str(error)
        assert error.attempts == 1
        after = client.submit_nowait(row(1))
        await after
    assert len(wire.sent) == 2
    assert client.metrics.failed == 1


async def test_deadline_of_an_update_that_may_have_been_applied_is_ambiguous() -> None:
    wire = Wire()
    wire.script(DROPPED)
    async with client_of(wire, retry=every(30)) as client:
        seconds, error = await waited_for(client.update("d", session={"a": 1}, deadline=10))
        assert seconds == about(10)
        assert isinstance(error, AmbiguousUpdateError)
        assert isinstance(error.__cause__, DeadlineExceededError)
    assert len(wire.sent) == 1


async def test_deadline_of_bulk_work_that_waits_for_a_server_that_is_away() -> None:
    wire = Wire(answer=503)
    async with client_of(wire, max_in_flight=1, retry=every(1, budget=0.0)) as client:
        rows = [row(seq, f"d{seq}") for seq in range(60)]
        start = anyio.current_time()
        outcomes = [one async for one in client.update_many(rows, deadline=100)]
        assert anyio.current_time() - start == about(100)
        assert {type(one.error) for one in outcomes} == {DeadlineExceededError}
        wire.answers(None)
        assert isinstance(await client.update("d", session={"a": 1}), UpdateResult)
    assert client.metrics.failed == 60
    assert client.metrics.pending == 0


@pytest.mark.parametrize("priority", ["live", "bulk"])
async def test_deadline_while_the_quota_is_used_up_names_the_quota(priority: Any) -> None:
    async with client_of(Wire(takes=1), rate_limit=RateLimit(2, per=300)) as client:
        rows = [row(seq, f"d{seq}") for seq in range(5)]
        stream = client.update_many(rows, deadline=100, priority=priority)
        late = [str(one.error) async for one in stream if one.error is not None]
        assert len(late) == 3
        for text in late:
            assert "before this was sent; it waited for the quota of the rate limit (" in text


async def test_deadline_behind_an_update_of_its_dialog_does_not_name_the_quota() -> None:
    async with client_of(Wire(takes=14), rate_limit=RateLimit(2, per=300)) as client:
        first = client.submit_nowait(row(1))
        _, error = await waited_for(client.update("d", session={"a": 1}, deadline=10))
        assert "before this was sent (" in str(error)
        await first


async def test_deadline_in_flight_its_request_completes() -> None:
    wire = Wire(takes=5)
    async with client_of(wire) as client:
        seconds, result = await waited_for(client.update("d", session={"a": 1}, deadline=2))
    assert seconds == about(5)
    assert isinstance(result, UpdateResult)
    assert wire.torn_down == 0


IN_FLIGHT: list[Reply] = [500, 503, 401, 409, throttled("1"), DROPPED]


@pytest.mark.parametrize("failure", IN_FLIGHT, ids=named)
async def test_deadline_in_flight_there_is_no_further_attempt(failure: Reply) -> None:
    wire = Wire(takes=5)
    wire.script(failure)
    async with client_of(wire, retry=every(1)) as client:
        seconds, error = await waited_for(client.update("d", session={"a": 1}, deadline=2))
        ambiguous = failure is DROPPED
        # At the end of its request, not after the backoff.
        assert seconds == about(2.5 if ambiguous else 5)
        assert type(error) is (AmbiguousUpdateError if ambiguous else DeadlineExceededError)
        await client.update("d", session={"a": 2})
    assert len(wire.sent) == 2
    assert wire.sent[1].body == {"session": {"a": 2}}


async def test_deadline_in_flight_a_final_answer_is_told_as_it_is() -> None:
    wire = Wire(takes=5)
    wire.script(400)
    async with client_of(wire) as client:
        _, error = await waited_for(client.update("d", session={"a": 1}, deadline=2))
    assert type(error) is BadRequestError


async def test_deadline_between_the_parts_of_a_split_update() -> None:
    wire = Wire(takes=2)
    large = dict.fromkeys("abc", "x" * 150)
    async with client_of(wire, limits=Limits(safe_payload_bytes=300)) as client:
        seconds, error = await waited_for(client.update("d", session=large, deadline=3))
    assert seconds == about(4)
    assert isinstance(error, DeadlineExceededError)
    assert error.applied_parts == 2
    assert len(wire.sent) == 2


async def test_deadline_between_the_read_and_the_write_of_modify() -> None:
    wire = Wire(takes=2)
    async with client_of(wire) as client:
        call = client.modify("d", lambda _: {"session": {"a": 1}}, deadline=1)
        seconds, error = await waited_for(call)
    assert seconds == about(2)
    assert isinstance(error, DeadlineExceededError)
    assert not wire.writes()


async def test_deadline_pauses_a_dialog_only_where_something_was_sent() -> None:
    wire = Wire(takes=5)
    async with client_of(wire, on_failure="pause", retry=every(60)) as client:
        client.submit_nowait(row(0))
        await until(lambda: wire.sent)
        unsent = client.submit_nowait(row(1), deadline=2)
        assert isinstance(await outcome_of(unsent), DeadlineExceededError)
        assert not client.paused_dialogs()
        await client.flush()
        wire.script(503)
        failed = client.submit_nowait(row(2), deadline=10)
        waits_when_paused = client.submit_nowait(row(3), deadline=20)
        assert isinstance(await outcome_of(failed), DeadlineExceededError)
        assert list(client.paused_dialogs()) == ["d"]
        # What a paused dialog holds has its deadline as well.
        assert isinstance(await outcome_of(waits_when_paused), DeadlineExceededError)
        with pytest.raises(DialogPausedError):
            await client.update("d", session={"a": 1})
        client.resume()
        await client.update("d", session={"a": 1})


async def test_deadline_of_update_many_is_one_for_all() -> None:
    wire = Wire(takes=1)
    async with client_of(wire, max_in_flight=1) as client:
        rows = [row(seq, f"d{seq}") for seq in range(10)]
        start = anyio.current_time()
        outcomes = [one async for one in client.update_many(rows, deadline=3.5)]
        assert anyio.current_time() - start == about(4)
    assert sum(one.ok for one in outcomes) == 4
    assert len(wire.sent) == 4
    assert {type(one.error) for one in outcomes if not one.ok} == {DeadlineExceededError}


@pytest.mark.parametrize("is_async", [True, False], ids=["async", "plain"])
async def test_deadline_of_one_row_among_others(is_async: bool) -> None:
    wire = Wire(takes=1)
    async with client_of(wire, max_in_flight=1) as client:
        start = anyio.current_time()
        ends = [100.0, 1.5, None, -1.0, 100.0]
        given = [StateUpdate.from_fields(client.limits, row(n, f"d{n}")) for n in range(5)]
        rows: Any = [
            update if end is None else DatedUpdate(update, start + end)
            for update, end in zip(given, ends, strict=True)
        ]

        async def one_by_one() -> AsyncIterator[Any]:
            for each in rows:
                yield each

        stream = client.update_many(one_by_one() if is_async else rows, deadline=50)
        outcomes = {one.index: one async for one in stream}
    assert [outcomes[n].ok for n in range(5)] == [True, True, True, False, True]
    assert isinstance(outcomes[3].error, DeadlineExceededError)
    assert outcomes[3].update == given[3]
    assert len(wire.sent) == 4


async def test_deadline_with_cancellation_and_withdrawal() -> None:
    wire = Wire(takes=5)
    async with client_of(wire) as client:
        client.submit_nowait(row(0))
        await until(lambda: wire.sent)
        taken_back = client.submit_nowait(row(1), deadline=2)
        assert taken_back.withdraw()
        with anyio.move_on_after(1):
            await client.update("d", session={"a": 1}, deadline=2)
        await anyio.sleep(3)
    assert client.metrics.withdrawn == 2
    assert client.metrics.failed == 0


async def test_deadline_of_a_group_is_that_of_each_member() -> None:
    wire = Wire()
    wire.script(503)
    async with client_of(wire, coalesce=True, retry=every(60)) as client:
        group = [client.submit_nowait(row(seq), deadline=10) for seq in range(3)]
        rest = client.submit_nowait(row(3))
        start = anyio.current_time()
        errors = [await outcome_of(handle) for handle in group]
        assert anyio.current_time() - start == about(10)
        assert [type(error) for error in errors] == [DeadlineExceededError] * 3
        told = [error.update_id for error in errors if isinstance(error, UpdateError)]
        assert told == ["u0", "u1", "u2"]
        assert isinstance(errors[0], UpdateError)
        assert isinstance(errors[0].__cause__, ServerError)
        await rest
    assert [sent.seq for sent in wire.sent] == [2, 3]


async def test_deadline_takes_one_out_of_what_is_not_yet_a_group() -> None:
    wire = Wire(takes=3)
    async with client_of(wire, coalesce=True) as client:
        client.submit_nowait(row(0))
        await until(lambda: wire.sent)
        late = client.submit_nowait(row(1), deadline=1)
        others = [client.submit_nowait(row(seq)) for seq in (2, 3)]
        assert isinstance(await outcome_of(late), DeadlineExceededError)
        assert {(await other).merged for other in others} == {2}


async def test_deadline_ends_lingering_before_it_would_pass() -> None:
    wire = Wire()
    async with client_of(wire, coalesce=True, linger=60) as client:
        seconds, result = await waited_for(client.update("d", session={"a": 1}, deadline=10))
    assert isinstance(result, UpdateResult)
    assert seconds == 0


async def test_deadline_and_close() -> None:
    wire = Wire()
    wire.script(never)
    async with client_of(wire, timeout=100) as client:
        client.submit_nowait(row(0), deadline=50)
        await until(lambda: wire.sent)
        client.submit_nowait(row(1), deadline=50)
        report = await client.aclose(timeout=1)
    assert (report.ambiguous, len(report.unsent)) == (1, 1)


async def test_deadline_never_sent_after_it_in_any_weather() -> None:
    """Each request begins before the deadline of what it carries."""
    bad: list[Reply] = [503, 409, DROPPED, throttled("0.3"), throttled("0.2", dialog=True)]
    wire = Wire(takes=0.1)
    for failure in bad * 20:
        wire.script(200, 200, failure)
    by: dict[str, float] = {}
    async with client_of(wire, max_in_flight=2, retry=every(0.3, max_attempts=9)) as client:

        async def call(client: AsyncStateClient, seq: int) -> None:
            deadline = 0.2 + seq % 7 * 0.4
            by[f"u{seq}"] = anyio.current_time() + deadline
            fields = row(seq, f"d{seq % 5}")
            outcome = await outcome_of(client.update(**fields, deadline=deadline))
            assert isinstance(outcome, UpdateResult | UpdateError)
            # Settled at the deadline, or at the end of the request that was in flight then.
            assert anyio.current_time() <= by[f"u{seq}"] + 0.11

        async with anyio.create_task_group() as tasks:
            for seq in range(100):
                tasks.start_soon(call, client, seq)
                await anyio.sleep(0.03)
    assert len(wire.writes()) > 20
    assert all(sent.at <= by[str(sent.key)] for sent in wire.writes())
    assert client.metrics.failed > 10
    assert client.metrics.applied > 10
