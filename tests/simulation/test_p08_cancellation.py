"""P8: what is cancelled never arrives, or is settled; and the client serves on."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from functools import partial
from random import Random
from typing import Any

import anyio
import anyio.abc
import anyio.lowlevel
import httpx
import pytest
import sniffio

from cognigy_async import (
    AsyncStateClient,
    ClientUsageError,
    CognigyError,
    HttpxTransport,
    Limits,
    MemoryAudit,
    Request,
    Response,
    RetryPolicy,
    UpdateEvent,
    UpdateResult,
    UpdateWithdrawnError,
)
from cognigy_async.emulator import Faults, serve
from tests.simulation.world import (
    DROPPED,
    KEY,
    Reply,
    Wire,
    all_of,
    applied,
    at_once,
    client_of,
    emulator,
    every,
    oauth,
    outcome_of,
    status,
    turns,
    until,
)

Call = Callable[[AsyncStateClient], Awaitable[object]]


async def cancelled_after(steps: int, call: Callable[[], Awaitable[object]]) -> bool:
    """Cancel a call after so many turns of the event loop; whether it ended by that.

    Time does not pass meanwhile.
    """
    ended = False

    async def run() -> None:
        nonlocal ended
        with suppress(CognigyError):
            await call()
        ended = True
        # Without this the scope would go on to wait for the one who counts.
        scope.cancel()

    scope = anyio.CancelScope()
    with scope:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run)
            await turns(steps)
            scope.cancel()
    return not ended


async def at_each_step(scenario: Callable[[int], Awaitable[bool]], *, least: int) -> None:
    """Cancel one step later each time, until the call comes to its end by itself.

    Args:
        scenario: what to do with a number of steps; whether the call was cut off.
        least: how many steps the call has at least, else nothing was tested.
    """
    for steps in range(400):
        if not await scenario(steps):
            assert steps >= least
            return
    raise AssertionError("the call never came to its end")


# An update at each step of its way. `seq` 0 is the one that is cancelled.

ROADS: dict[str, tuple[Reply, ...]] = {
    "straight": (),
    "fault": (500,),
    "unavailable": (503, 503),
    "conflict": (409,),
    "conflict-again": (409, 409),
    "dropped": (DROPPED,),
    "refused": (400,),
    "unauthorized": (401,),
    "given-up": (500, 500, 500, 500, 500),
}
CALLS: dict[str, Call] = {
    "update": lambda client: client.update("d", session={"seq": 0}),
    "transition": lambda client: client.update("d", session={"seq": 0}, next_step="s"),
    "split": lambda client: client.update("d", session={"seq": 0, "a": "x" * 200, "b": "x" * 200}),
    "modify": lambda client: client.modify("d", lambda _: {"session": {"seq": 0}}),
    "submit": lambda client: _submit_and_wait(client),
}
LIMITS = Limits(safe_payload_bytes=300)


async def _submit_and_wait(client: AsyncStateClient) -> UpdateResult:
    handle = await client.submit({"dialog_id": "d", "session": {"seq": 0}})
    try:
        return await handle
    except anyio.get_cancelled_exc_class():
        # What the handle is for: taking back what was not yet sent.
        handle.withdraw()
        raise


@pytest.mark.parametrize("road", ROADS)
@pytest.mark.parametrize("call", CALLS)
async def test_p8_cancellation_at_each_step_of_a_write(call: str, road: str) -> None:
    await at_each_step(partial(_one_write, CALLS[call], ROADS[road]), least=5)


async def _one_write(call: Call, road: tuple[Reply, ...], steps: int) -> bool:
    wire = Wire(steps=2)
    wire.script(*road)
    events: Counter[str] = Counter()
    client = client_of(wire, max_in_flight=2, retry=at_once(max_attempts=3), limits=LIMITS)

    @client.on_state_updated
    @client.on_update_failed
    async def watch(event: UpdateEvent) -> None:
        events[event.update_id] += 1

    async with client:
        # The one before it and the one after it have nothing to do with its fate.
        before = client.submit_nowait({"dialog_id": "other", "session": {"seq": 7}})
        cut = await cancelled_after(steps, lambda: call(client))
        writes_then, flying_then = len(wire.writes("d")), wire.in_flight
        after = client.submit_nowait({"dialog_id": "d", "session": {"seq": 1}})
        await outcome_of(after)
        await outcome_of(before)
        await client.flush()
        metrics = client.metrics
        assert metrics.pending == metrics.in_flight == wire.in_flight == wire.torn_down == 0
        # No attempt begins after the cancellation, but the parts of one update belong together.
        own = [sent for sent in wire.writes("d") if sent.seq != 1]
        mine = {sent.key.partition("/")[0] for sent in own if sent.key}
        assert len(mine) <= 1
        # Who awaits a handle is not who owns the update.
        if cut and call not in (CALLS["split"], CALLS["submit"]):
            assert len(own) == writes_then
        # Either it never arrived, or it has its outcome and its event; nothing else.
        settled = metrics.applied + metrics.failed + metrics.ambiguous
        expected = {before.update_id, after.update_id} | mine
        if own:
            assert settled == 3
            assert set(events) == expected
            assert set(events.values()) == {1}
        else:
            assert settled + metrics.withdrawn >= 2
            assert metrics.applied + metrics.failed + metrics.ambiguous <= 3
        assert flying_then <= 2
        # In its turn, and once.
        order = [sent.seq for sent in wire.writes("d") if sent.seq is not None]
        assert order == sorted(order)
    assert client.close_report is not None
    assert client.close_report.unsent == ()
    return cut


@pytest.mark.parametrize("answer", [200, 503, 404])
async def test_p8_cancellation_at_each_step_of_a_read(answer: int) -> None:
    async def scenario(steps: int) -> bool:
        wire = Wire(steps=2)
        wire.script(answer, method="GET")
        async with client_of(wire, retry=at_once(max_attempts=2)) as client:
            cut = await cancelled_after(steps, partial(client.get_state, "d"))
            sent_then = len(wire.sent)
            await client.flush()
            await until(lambda: not wire.in_flight)
            await turns(20)
            assert wire.torn_down == 0
            # The read is not made again for nobody.
            assert len(wire.sent) == sent_then or not cut
            if wire.sent:
                await client.get_state("d")
        return cut

    await at_each_step(scenario, least=3)


async def test_p8_cancellation_at_each_step_of_waiting_for_room() -> None:
    async def scenario(steps: int) -> bool:
        wire = Wire(steps=3)
        async with client_of(wire, max_in_flight=1, max_pending=1) as client:
            client.submit_nowait({"dialog_id": "x", "session": {"seq": 5}})
            cut = await cancelled_after(steps, partial(client.update, "d", session={"seq": 0}))
            await client.flush()
            # The place is free again, whether it was asked for, granted or taken.
            client.submit_nowait({"dialog_id": "y", "session": {"seq": 6}})
            await client.flush()
            assert client.metrics.pending == 0
            told = Counter(sent.dialog_id for sent in wire.sent)
            assert told["x"] == told["y"] == 1
            metrics = client.metrics
            assert metrics.applied == len(wire.applied) == 2 + told["d"]
        return cut

    await at_each_step(scenario, least=5)


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_p8_cancellation_at_each_step_of_a_stream(asynchronous: bool) -> None:
    rows = [{"dialog_id": f"d-{n % 3}", "session": {"seq": n}} for n in range(12)]

    async def slowly() -> AsyncIterator[dict[str, Any]]:
        for row in rows:
            await anyio.lowlevel.checkpoint()
            yield row

    async def read_all(client: AsyncStateClient) -> None:
        async with client.update_many(slowly() if asynchronous else rows) as outcomes:
            async for outcome in outcomes:
                assert outcome.ok

    async def scenario(steps: int) -> bool:
        wire = Wire(steps=2)
        wire.script(503, 409, dialog_id="d-1")
        async with client_of(wire, max_in_flight=2, max_pending=8, retry=at_once()) as client:
            cut = await cancelled_after(steps, partial(read_all, client))
            sent_then = {sent.key for sent in wire.writes()}
            await client.flush()
            assert client.metrics.pending == wire.torn_down == 0
            # What had not been sent then was withdrawn.
            assert {sent.key for sent in wire.writes()} == sent_then
            for number in range(8):
                # All the room is there again.
                client.submit_nowait({"dialog_id": f"e-{number}", "session": {"seq": 0}})
            await client.flush()
            for name in ("d-0", "d-1", "d-2"):
                order = [sent.seq for sent in wire.writes(name)]
                assert order == sorted(order)
        return cut

    await at_each_step(scenario, least=20)


async def test_p8_cancellation_at_each_step_of_opening() -> None:
    opened = False

    async def scenario(steps: int) -> bool:
        wire = Wire()
        client = client_of(wire)

        async def use() -> None:
            nonlocal opened
            async with client:
                opened = True
                await client.update("d", session={"seq": 0})

        cut = await cancelled_after(steps, use)
        assert wire.closed <= 1
        # It is closed, or was never open, and says so; no task is left, which the fixture sees.
        with pytest.raises(ClientUsageError):
            await client.update("d", session={"seq": 0})
        assert client.metrics.pending == 0
        return cut

    await at_each_step(scenario, least=3)
    assert opened


@pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)
@pytest.mark.parametrize("times", [1, 3])
@pytest.mark.parametrize("leaves", [False, True], ids=["aclose", "async with"])
@pytest.mark.parametrize("audited", [False, True], ids=["plain", "audited"])
async def test_p8_cancellation_by_asyncio_itself_at_each_step_of_closing(
    audited: bool, leaves: bool, times: int
) -> None:
    """No scope of anyio keeps it off, as with `asyncio.timeout` and `asyncio.wait_for`."""

    class Slow(Wire):
        async def aclose(self) -> None:
            await turns(3)
            await super().aclose()

    async def scenario(steps: int) -> bool:
        wire = Slow(steps=4)
        audit = MemoryAudit()
        client = client_of(wire, max_in_flight=2, audit=audit if audited else None)

        async def use() -> None:
            async with client:
                for number in range(4):
                    client.submit_nowait({"dialog_id": f"d-{number}", "session": {"seq": number}})
                await turns(3)
                ready.set()
                if not leaves:
                    with suppress(asyncio.CancelledError):
                        await client.aclose()

        ready = asyncio.Event()
        task = asyncio.create_task(use())
        await ready.wait()
        await turns(steps)
        for _ in range(times):
            task.cancel()
            await turns(1)
        cut = not task.done()
        await asyncio.wait([task])
        assert wire.closed == 1
        assert client.metrics.pending == wire.in_flight == wire.torn_down == 0
        assert client.close_report is not None
        assert client.close_report.ambiguous == 0
        assert len(audit.records) == 4 * audited
        assert not [thread for thread in threading.enumerate() if "MemoryAudit" in thread.name]
        return cut

    # An audit's thread takes its own time, so that the steps after that are not reached.
    cuts = [await scenario(steps) for steps in range(36)]
    assert all(cuts[:5])
    assert audited or not all(cuts)


@pytest.mark.parametrize("drain", [False, True])
async def test_p8_cancellation_at_each_step_of_closing(drain: bool) -> None:
    async def scenario(steps: int) -> bool:
        wire = Wire(steps=4)
        client = client_of(wire, max_in_flight=2)
        events: list[str] = []

        @client.on_state_updated
        async def watch(event: UpdateEvent) -> None:
            await turns(2)
            events.append(event.update_id)

        async with client:
            handles = [
                client.submit_nowait({"dialog_id": f"d-{n % 3}", "session": {"seq": n}})
                for n in range(8)
            ]
            await turns(3)
            cut = await cancelled_after(steps, partial(client.aclose, drain=drain))
            report = await client.aclose()
            assert report is client.close_report
            assert all(handle.done() for handle in handles)
            assert client.metrics.pending == wire.in_flight == 0
            told = Counter([type(await outcome_of(handle)).__name__ for handle in handles])
            assert report.applied == told["UpdateResult"] == len(wire.sent)
            assert report.ambiguous == told["AmbiguousUpdateError"] == wire.torn_down == 0
            assert len(report.unsent) == told["ClientClosedError"]
            assert sum(told.values()) == 8
            assert len(events) == report.applied
        return cut

    cuts = [await scenario(steps) for steps in range(60)]
    # Without a drain there is nothing that a cancellation could end.
    assert drain == any(cuts)
    assert not all(cuts)


Cancel = Callable[[AsyncStateClient, Callable[[], Awaitable[object]]], Awaitable[None]]


async def _cancelled_by_a_scope(
    client: AsyncStateClient, use: Callable[[], Awaitable[object]]
) -> None:
    with anyio.move_on_after(1):
        await use()


async def _cancelled_by_asyncio(
    client: AsyncStateClient, use: Callable[[], Awaitable[object]]
) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(1):
            await use()


async def _cancelled_again_and_again(
    client: AsyncStateClient, use: Callable[[], Awaitable[object]]
) -> None:
    task = asyncio.ensure_future(use())
    await asyncio.sleep(1)
    while not task.done():
        task.cancel()
        await asyncio.sleep(0.1)
    assert task.cancelled()


@pytest.mark.parametrize(
    "cancelled", [_cancelled_by_a_scope, _cancelled_by_asyncio, _cancelled_again_and_again]
)
@pytest.mark.parametrize("place", ["body", "exit", "aclose"])
@pytest.mark.parametrize(("takes", "most"), [(4, 4), (100, 15)], ids=["answered", "unanswered"])
async def test_p8_cancellation_while_it_is_closed_gives_requests_in_flight_their_time(
    cancelled: Cancel, place: str, takes: float, most: float, anyio_backend_name: str
) -> None:
    if cancelled is not _cancelled_by_a_scope and anyio_backend_name != "asyncio":
        pytest.skip("only asyncio has a cancellation without a scope")
    wire = Wire(takes=takes)
    client = client_of(wire, max_in_flight=30, timeout=15, retry=RetryPolicy(ambiguous="raise"))
    handles = []

    async def use() -> None:
        async with client:
            for number in range(40):
                update = {"dialog_id": f"d-{number}", "session": {"seq": 1}, "next_step": "pay"}
                handles.append(client.submit_nowait(update))
            if place == "body":
                await anyio.sleep_forever()
            if place == "aclose":
                await client.aclose()

    began = anyio.current_time()
    await cancelled(client, use)
    assert anyio.current_time() - began == pytest.approx(most, abs=0.2)
    told = Counter([type(await outcome_of(handle)).__name__ for handle in handles])
    answer = "UpdateResult" if takes < 15 else "AmbiguousUpdateError"
    assert told == {answer: 30, "ClientClosedError": 10}
    assert len(wire.sent) == 30
    assert wire.torn_down == 0


async def test_p8_cancellation_of_a_close_leaves_its_timeout_in_force() -> None:
    wire = Wire(takes=100)
    client = client_of(wire, timeout=50)
    async with client:
        handle = client.submit_nowait({"dialog_id": "d", "session": {"seq": 1}})
        began = anyio.current_time()
        with anyio.move_on_after(1):
            await client.aclose(timeout=3)
        assert anyio.current_time() - began == pytest.approx(3, abs=0.1)
        assert type(await outcome_of(handle)).__name__ == "AmbiguousUpdateError"


@pytest.mark.parametrize("name", ["flush", "await"])
async def test_p8_cancellation_of_one_who_only_waits_touches_nothing(name: str) -> None:
    async def scenario(steps: int) -> bool:
        wire = Wire(steps=3)
        async with client_of(wire, max_in_flight=1) as client:
            handles = [
                client.submit_nowait({"dialog_id": "d", "session": {"seq": n}}) for n in range(4)
            ]

            async def wait() -> None:
                await (client.flush() if name == "flush" else handles[2])

            cut = await cancelled_after(steps, wait)
            results = [await handle for handle in handles]
            assert len({result.update_id for result in results}) == 4
        assert [sent.seq for sent in wire.sent] == [0, 1, 2, 3]
        return cut

    await at_each_step(scenario, least=3)


# The parts of the promise, one by one.


async def test_p8_cancellation_before_it_is_sent_withdraws() -> None:
    wire = Wire(takes=1)
    client = client_of(wire, max_in_flight=1)
    events: list[UpdateEvent] = []
    client.on_state_updated(events.append)
    client.on_update_failed(events.append)
    async with client:
        client.submit_nowait({"dialog_id": "d", "session": {"seq": 0}})
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(partial(client.update, "d", session={"seq": 1}))
            tasks.start_soon(partial(client.update, "e", session={"seq": 2}))
            await anyio.sleep(0.5)
            tasks.cancel_scope.cancel()
        await anyio.sleep(10)
        assert [sent.seq for sent in wire.sent] == [0]
        assert client.metrics.withdrawn == 2
    assert client.close_report is not None
    assert client.close_report.unsent == ()


async def test_p8_cancellation_in_flight_lets_the_request_complete() -> None:
    wire = Wire(takes=2)
    client = client_of(wire)
    events: list[UpdateEvent] = []

    @client.on_state_updated
    async def watch(event: UpdateEvent) -> None:
        events.append(event)

    async with client:
        with anyio.move_on_after(1):
            await client.update("d", session={"seq": 0})
        assert anyio.current_time() == pytest.approx(1, abs=0.01)
        await anyio.sleep(2)
        assert wire.torn_down == 0
        assert [event.result is not None for event in events] == [True]
        assert client.metrics.applied == 1


async def test_p8_cancellation_in_flight_leaves_no_second_attempt() -> None:
    wire = Wire(takes=2)
    wire.script(503)
    client = client_of(wire, retry=every(1))
    events: list[UpdateEvent] = []

    @client.on_update_failed
    async def watch(event: UpdateEvent) -> None:
        events.append(event)

    async with client:
        with anyio.move_on_after(1):
            await client.update("d", session={"seq": 0})
        await anyio.sleep(60)
        assert len(wire.sent) == 1
        assert [type(event.error).__name__ for event in events] == ["ServerError"]
        assert events[0].error is not None
        assert client.metrics.failed == 1


@pytest.mark.parametrize(
    ("reply", "end"),
    [
        (503, "ServerError"),
        (500, "ServerError"),
        (DROPPED, "AmbiguousUpdateError"),
        (409, "StateConflictError"),
        (status(429, {"retry-after": "50"}), "RateLimitedError"),
    ],
    ids=str,
)
async def test_p8_cancellation_between_attempts_settles_with_the_last_failure(
    reply: Reply, end: str
) -> None:
    wire = Wire()
    wire.script(reply, reply)
    client = client_of(wire, retry=every(20))
    events: list[UpdateEvent] = []

    @client.on_update_failed
    async def watch(event: UpdateEvent) -> None:
        events.append(event)

    async with client:
        with anyio.move_on_after(10):
            await client.update("d", session={"seq": 0})
        await turns(20)
        assert [type(event.error).__name__ for event in events] == [end]
        assert client.metrics.pending == 0
        await anyio.sleep(100)
        assert len(wire.sent) == 1
        await client.update("d", session={"seq": 1})


async def test_p8_cancellation_during_the_read_after_a_conflict_leaves_no_second_write() -> None:
    async def slow(_: Any) -> Any:
        await anyio.sleep(2)
        return wire._succeed(wire.sent[-1])

    wire = Wire()
    wire.script(409)
    wire.script(slow, method="GET")
    async with client_of(wire, retry=at_once()) as client:
        with anyio.move_on_after(1):
            await client.update("d", session={"seq": 0})
        await anyio.sleep(10)
        assert [sent.method for sent in wire.sent] == ["PATCH", "GET"]
        assert client.metrics.failed == 1


async def test_p8_cancellation_while_a_token_is_fetched() -> None:
    server = emulator(faults=Faults(token_latency=3))
    async with client_of(server, auth=oauth(server)) as client:
        with anyio.move_on_after(1):
            await client.update("d", session={"seq": 0})
        await client.update("e", session={"seq": 0})
        assert anyio.current_time() == pytest.approx(3, abs=0.1)
    assert server.dialogs.keys() == {"e"}
    assert server.stats.token_requests == 1


async def test_p8_cancellation_leaving_by_an_exception_does_not_drain() -> None:
    wire = Wire(takes=2)
    client = client_of(wire, max_in_flight=2)
    with anyio.move_on_after(1) as scope:
        async with client:
            for number in range(6):
                client.submit_nowait({"dialog_id": f"d-{number}", "session": {"seq": 0}})
            await anyio.sleep_forever()
    assert scope.cancelled_caught
    # What was in flight ended in its own time although everything around was cancelled.
    assert anyio.current_time() == pytest.approx(2, abs=0.1)
    report = client.close_report
    assert report is not None
    assert (report.applied, len(report.unsent), wire.torn_down) == (2, 4, 0)


async def test_p8_cancellation_on_asyncio_a_client_may_be_left_in_another_task(
    anyio_backend_name: str,
) -> None:
    if anyio_backend_name == "trio":
        pytest.skip("a nursery belongs to the task that opened it")
    wire = Wire()
    client = client_of(wire)

    async def enter() -> None:
        await client.__aenter__()

    async def leave() -> None:
        await client.__aexit__(None, None, None)

    await asyncio.create_task(enter())
    await client.update("d", session={"seq": 0})
    await asyncio.create_task(leave())
    assert wire.closed == 1


@pytest.mark.quick("*-0")
@pytest.mark.parametrize("first", range(0, 300, 50))
async def test_p8_cancellation_at_random_in_300_rounds(first: int) -> None:
    for seed in range(first, first + 50):
        await _random_round(seed, emulator(honour_idempotency_keys=False, seed=seed), None)


async def _random_round(seed: int, server: Any, client: AsyncStateClient | None) -> None:
    """Everything at once, cancelled here and there; `client` is one over sockets."""
    chance = Random(seed)
    server.faults = Faults(
        latency=0.002 if client else 0.2,
        latency_jitter=0.004 if client else 0.3,
        error_503=0.05,
        drop_before=0.03,
        drop_after=0.03,
        conflict=0.05,
    )
    scale = 0.02 if client else 1.0
    events: Counter[str] = Counter()
    made: dict[str, Any] = {}
    name = f"r{seed}"

    async def count(event: UpdateEvent) -> None:
        events[event.update_id] += 1

    async def write(client: AsyncStateClient, number: int) -> None:
        update_id = f"{name}-u{number}"
        await anyio.sleep(chance.uniform(0, scale))
        with anyio.CancelScope(deadline=anyio.current_time() + chance.uniform(0, scale)) as scope:
            await outcome_of(
                client.update(f"{name}-{number % 3}", session={"a": number}, update_id=update_id)
            )
        made[update_id] = "cancelled" if scope.cancelled_caught else "told"

    async def hand_in(client: AsyncStateClient, number: int) -> None:
        update_id = f"{name}-s{number}"
        await anyio.sleep(chance.uniform(0, scale))
        handle = client.submit_nowait(
            {"dialog_id": f"{name}-{number % 3}", "session": {"a": number}, "update_id": update_id}
        )
        await anyio.sleep(chance.uniform(0, scale))
        # Taken back, it must never arrive.
        made[update_id] = "withdrawn" if handle.withdraw() else "told"
        outcome = await outcome_of(handle)
        assert isinstance(outcome, UpdateWithdrawnError) is (made[update_id] == "withdrawn")

    async def bulk(client: AsyncStateClient) -> None:
        rows = [{"dialog_id": f"{name}-b{n % 3}", "session": {"a": n}} for n in range(12)]
        most = chance.randrange(12)
        async with client.update_many(rows) as outcomes:
            async for outcome in outcomes:
                if outcome.index >= most:
                    break

    async def run(client: AsyncStateClient) -> None:
        async with anyio.create_task_group() as tasks:
            for number in range(6):
                tasks.start_soon(write, client, number)
                tasks.start_soon(hand_in, client, number)
            tasks.start_soon(bulk, client)
        await client.flush()
        assert client.metrics.pending == client.metrics.in_flight == 0
        # And it serves on.
        server.faults = Faults()
        await client.update(f"{name}-last", session={"a": 1})
        await client.flush()

    if client is None:
        policy = RetryPolicy(max_attempts=12)
        async with client_of(server, max_in_flight=3, retry=policy) as client:
            client.on_state_updated(count)
            client.on_update_failed(count)
            await run(client)
        for update_id, number in events.items():
            assert number == 1, update_id
    else:
        await run(client)
    there = Counter(
        item.key
        for dialog_id in list(server.dialogs)
        if dialog_id.startswith(f"{name}-")
        for item in applied(server, dialog_id)
    )
    assert server.stats.violations() == {}
    assert server.stats.in_flight_max <= 3
    for update_id, end in made.items():
        if end == "withdrawn":
            assert there[update_id] == 0
        elif end == "told":
            assert there[update_id] >= 1
        if there[update_id] and client.metrics.events_delivered:
            # Whoever was cancelled: what was sent is settled, with its event.
            assert events[update_id] == 1


# Over real sockets, where a cancellation in the wrong place spoils a connection for good.


@pytest.mark.real_time
async def test_p8_cancellation_over_sockets_leaves_the_connections_in_order(
    anyio_backend_name: str,
) -> None:
    if anyio_backend_name == "trio":
        pytest.skip("the emulator serves on asyncio")
    server = emulator(honour_idempotency_keys=False)
    before = asyncio.all_tasks()
    async with (
        serve(server) as base_url,
        AsyncStateClient(
            base_url, auth=_key(), max_in_flight=3, retry=RetryPolicy(max_attempts=12, wait=_brief)
        ) as client,
    ):
        for seed in range(40):
            await _random_round(seed, server, client)
        # Dropped connections are made anew; those that were merely given up on are not.
        drops = server.stats.faults["drop_before"] + server.stats.faults["drop_after"]
        assert server.stats.connections <= 3 + drops
        # The server may accept a connection before it sees the end of the one that it replaces.
        assert server.stats.connections_max <= 6
        began = anyio.current_time()
        await all_of(*(partial(client.update, f"d-{n}", session={"a": 1}) for n in range(60)))
        assert anyio.current_time() - began < 5
    assert {task for task in asyncio.all_tasks() if not task.done()} <= before


@pytest.mark.real_time
async def test_p8_cancellation_over_sockets_early_exit_from_a_stream_leaks_no_task(
    anyio_backend_name: str,
) -> None:
    if anyio_backend_name == "trio":
        pytest.skip("the emulator serves on asyncio")
    server = emulator(faults=Faults(latency=0.01))

    async def rows() -> AsyncIterator[dict[str, Any]]:
        for number in range(1000):
            await asyncio.sleep(0)
            yield {"dialog_id": f"d-{number}", "session": {"a": number}}

    async with serve(server) as base_url:
        http = httpx.AsyncClient(trust_env=False)
        transport = HttpxTransport(http)
        async with (
            http,
            AsyncStateClient(base_url, auth=_key(), max_in_flight=4, transport=transport) as client,
        ):
            await client.update("warm", session={"a": 1})
            before = {task.get_coro().__qualname__ for task in asyncio.all_tasks()}  # type: ignore[union-attr]
            for most in (1, 3, 10):
                async with client.update_many(rows()) as outcomes:
                    count = 0
                    async for outcome in outcomes:
                        assert outcome.ok
                        count += 1
                        if count == most:
                            break
                await client.flush()
                left = {task.get_coro().__qualname__ for task in asyncio.all_tasks()}  # type: ignore[union-attr]
                assert {
                    name for name in left - before if "RequestResponseCycle" not in name
                } == set()
            assert client.metrics.pending == 0
    assert server.stats.writes < 500


def _key() -> Any:
    from cognigy_async import ApiKey

    return ApiKey(KEY)


def _brief(_: Any) -> float:
    return 0.01


class _ProtectionWire(Wire):
    """Notes whether Ctrl-C would interrupt the task that sends."""

    def __init__(self) -> None:
        super().__init__()
        self.protected: list[bool] = []

    async def send(self, request: Request, *, timeout: float) -> Response:
        self.protected.append(_leaves_interrupts_to_the_main_task())
        return await super().send(request, timeout=timeout)


async def test_p8_an_interrupt_on_trio_is_for_the_main_task() -> None:
    """In the task of a worker, it would reach the program in an `ExceptionGroup`."""
    wire = _ProtectionWire()
    async with client_of(wire) as client:
        await client.update("d", session={"n": 1})
    assert wire.protected == [True]


def _leaves_interrupts_to_the_main_task() -> bool:
    if sniffio.current_async_library() == "asyncio":
        return True  # `asyncio.Runner` cancels the main task.
    import trio

    return trio.lowlevel.currently_ki_protected()
