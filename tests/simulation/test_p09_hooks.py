"""P9: callbacks get their events in order, after the write, bounded; and never harm an update."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from dataclasses import FrozenInstanceError
from functools import partial
from itertools import pairwise
from random import Random
from typing import Any

import anyio
import anyio.from_thread
import pytest

from cognigy_async import (
    AsyncStateClient,
    ClientUsageError,
    ConfigurationError,
    DeadLetter,
    UpdateEvent,
    UpdateResult,
)
from cognigy_async.emulator import Faults
from tests.simulation.world import (
    DROPPED,
    Reply,
    Wire,
    all_of,
    at_once,
    client_of,
    emulator,
    every,
    named,
    oauth,
    outcome_of,
    throttled,
    turns,
    until,
)


def seq_of(event: UpdateEvent) -> Any:
    return event.payload["session"]["seq"]


# Order, concurrency, and who comes first.


async def test_p9_hooks_get_events_in_order_for_each_dialog_and_side_by_side() -> None:
    server = emulator(faults=Faults(latency=0.01, error_503=0.05))
    client = client_of(server, max_in_flight=8)
    chance = Random(0)
    seen: defaultdict[str, list[int]] = defaultdict(list)
    running: Counter[str] = Counter()
    peak = 0

    @client.on_state_updated(concurrency=5, retries=20)
    async def watch(event: UpdateEvent) -> None:
        nonlocal peak
        name = event.dialog_id
        # After the write: the server has it.
        assert server.dialogs[name].session["seq"] >= seq_of(event)
        running[name] += 1
        peak = max(peak, running.total())
        assert running[name] == 1
        await anyio.sleep(chance.uniform(0, 0.5))
        running[name] -= 1
        if chance.random() < 0.2:
            raise ValueError("not this time")
        seen[name].append(seq_of(event))

    async with client:
        for seq in range(10):
            for number in range(20):
                client.submit_nowait({"dialog_id": f"d-{number}", "session": {"seq": seq}})
        await client.flush()
        assert len(seen) == 20
    assert all(seqs == list(range(10)) for seqs in seen.values())
    assert peak == 5
    assert client.metrics.events_delivered == 200
    assert client.metrics.events_failed > 10
    assert client.metrics.events_dropped == 0


async def test_p9_hooks_come_after_the_caller_of_update_wakes() -> None:
    wire = Wire()
    client = client_of(wire)
    order: list[tuple[str, str]] = []

    @client.on_state_updated
    async def watch(event: UpdateEvent) -> None:
        order.append(("callback", event.dialog_id))

    async def write(number: int) -> None:
        await client.update(f"d-{number}", session={"seq": 0})
        order.append(("caller", f"d-{number}"))

    async def hand_in(number: int) -> None:
        await (await client.submit({"dialog_id": f"s-{number}", "session": {"seq": 0}}))
        order.append(("caller", f"s-{number}"))

    async with client:
        await all_of(
            *(partial(write, number) for number in range(50)),
            *(partial(hand_in, number) for number in range(50)),
        )
        await client.flush()
    assert len(order) == 200
    for kind in "ds":
        for number in range(50):
            name = f"{kind}-{number}"
            assert order.index(("caller", name)) < order.index(("callback", name))


async def test_p9_hooks_run_in_the_background() -> None:
    wire = Wire()
    client = client_of(wire)
    ended: list[float] = []

    @client.on_state_updated
    async def slow(_: UpdateEvent) -> None:
        await anyio.sleep(5)
        ended.append(anyio.current_time())

    async with client:
        for seq in range(3):
            await client.update("d", session={"seq": seq})
        assert anyio.current_time() < 0.1
        await client.flush()
    assert ended == [pytest.approx(5 * n, abs=0.1) for n in (1, 2, 3)]


async def test_p9_hooks_see_the_context_of_the_caller() -> None:
    request_id: ContextVar[str] = ContextVar("request_id", default="none")
    wire = Wire()
    client = client_of(wire)
    seen: list[tuple[str, str]] = []

    @client.on_state_updated
    async def watch(event: UpdateEvent) -> None:
        seen.append((event.dialog_id, request_id.get()))
        # What a callback sets is its own.
        request_id.set("changed")

    async def one(name: str) -> None:
        request_id.set(name)
        match name[0]:
            case "u":
                await client.update(name, session={"seq": 0})
            case "s":
                client.submit_nowait({"dialog_id": name, "session": {"seq": 0}})
            case "m":
                await client.modify(name, lambda _: {"session": {"by": request_id.get()}})
            case _:
                rows = [{"dialog_id": name, "session": {"seq": n}} for n in range(2)]
                assert [outcome.ok async for outcome in client.update_many(rows)] == [True] * 2
        request_id.set("later")

    async with client:
        await all_of(*(partial(one, name) for name in ("u1", "u2", "s1", "m1", "b1")))
        await client.flush()
    assert sorted(seen) == [(n, n) for n in ("b1", "b1", "m1", "s1", "u1", "u2")]
    assert next(s for s in wire.writes("m1")).body == {"session": {"by": "m1"}}


async def test_p9_hooks_registered_while_an_update_is_in_flight_get_its_event() -> None:
    wire = Wire(takes=1)
    client = client_of(wire)
    seen: list[str] = []

    async def watch(event: UpdateEvent) -> None:
        seen.append(event.dialog_id)

    async with client:
        client.submit_nowait({"dialog_id": "d", "session": {"seq": 0}})
        await until(lambda: wire.sent)
        client.on_state_updated(watch)
        await client.flush()
    assert seen == ["d"]


async def test_p9_hooks_may_be_registered_in_every_way() -> None:
    client = client_of(Wire())
    seen: list[str] = []

    @client.on_state_updated
    async def bare(_: UpdateEvent) -> None:
        seen.append("bare")

    @client.on_state_updated()
    async def empty(_: UpdateEvent) -> None:
        seen.append("empty")

    @client.on_state_updated(retries=1, timeout=3)
    async def told(_: UpdateEvent) -> None:
        seen.append("told")

    class Asynchronous:
        async def __call__(self, _: UpdateEvent) -> None:
            seen.append("object")

        async def method(self, _: UpdateEvent) -> None:
            seen.append("method")

    client.on_state_updated(Asynchronous())
    client.on_state_updated(Asynchronous().method)
    async with client:

        async def late(word: str, _: UpdateEvent) -> None:
            seen.append(word)

        client.on_state_updated(partial(late, "late"))
        await client.update("d", session={"seq": 0})
        await client.flush()
    assert sorted(seen) == ["bare", "empty", "late", "method", "object", "told"]
    # A decorator gives back what it was put on.
    assert callable(bare)
    wrong: Any
    for wrong in ({"timeout": 0}, {"retries": -1}, {"concurrency": 0}, {"overflow": "drop"}):
        with pytest.raises(ConfigurationError):
            client.on_state_updated(bare, **wrong)
    with pytest.raises(TypeError):
        client.on_state_updated("bare")  # type: ignore[call-overload]


async def test_p9_hooks_are_told_of_what_was_sent_and_of_nothing_else() -> None:
    wire = Wire(takes=1)
    client = client_of(wire, max_in_flight=1, on_failure="pause", retry=at_once(max_attempts=2))
    good: list[str] = []
    bad: list[tuple[str, str]] = []

    @client.on_state_updated
    async def applied(event: UpdateEvent) -> None:
        assert event.result is not None
        assert event.error is None
        good.append(event.dialog_id)

    @client.on_update_failed
    async def failed(event: UpdateEvent) -> None:
        assert event.result is None
        bad.append((event.dialog_id, type(event.error).__name__))

    for name, reply in (("refused", 400), ("fault", 500), ("lost", DROPPED)):
        wire.script(reply, reply, dialog_id=name)
    async with client:
        # Withdrawn, refused by the pause, invalid, without a write, left at the close.
        for name in ("fine", "refused", "refused", "fault", "lost"):
            client.submit_nowait({"dialog_id": name, "session": {"seq": 0}})
        client.submit_nowait({"dialog_id": "back", "session": {"seq": 0}}).withdraw()
        await client.flush()
        await outcome_of(client.update("refused", session={"seq": 0}))
        await outcome_of(client.update("invalid", session={"1": 0}))
        await client.modify("nothing", lambda _: None)
        await client.modify("modified", lambda _: {"session": {"seq": 1}})
        await client.get_state("read")
        await client.flush()
    assert good == ["fine", "modified"]
    assert bad == [
        ("refused", "BadRequestError"),
        ("fault", "ServerError"),
        ("lost", "AmbiguousUpdateError"),
    ]
    assert client.close_report is not None
    assert len(client.close_report.unsent) == 1


async def test_p9_hooks_get_a_frozen_event_whose_payload_is_a_copy() -> None:
    client = client_of(Wire())
    events: list[UpdateEvent] = []

    @client.on_state_updated
    async def spoil(event: UpdateEvent) -> None:
        event.payload["session"]["seq"] = 99
        with pytest.raises(FrozenInstanceError):
            event.dialog_id = "other"  # type: ignore[misc]

    @client.on_state_updated
    async def watch(event: UpdateEvent) -> None:
        events.append(event)

    given = {"seq": 1}
    async with client:
        handle = client.submit_nowait({"dialog_id": "d", "session": given})
        given["seq"] = 2
        result = await handle
    assert events[0].payload == {"session": {"seq": 1}}
    assert events[0].result is result
    assert events[0].update_id == result.update_id
    assert client.metrics.events_failed == 0


# Failing callbacks.


async def test_p9_hooks_that_fail_never_fail_an_update() -> None:
    client = client_of(Wire())

    @client.on_state_updated(retries=1)
    async def broken(_: UpdateEvent) -> None:
        raise ZeroDivisionError

    @client.on_state_updated(retries=0)
    async def stray(_: UpdateEvent) -> None:
        # What awaiting a cancelled future raises on asyncio.
        raise BaseExceptionGroup("several", [KeyError()])

    async with client:
        results = [await client.update("d", session={"seq": seq}) for seq in range(5)]
        await client.flush()
        assert all(isinstance(result, UpdateResult) for result in results)
    assert client.metrics.applied == 5
    assert client.metrics.events_failed == 5 * 2 + 5
    assert client.metrics.events_dropped == 10
    assert client.close_report is not None
    assert client.close_report.undelivered == 10


async def test_p9_hooks_stand_a_stray_cancellation(anyio_backend_name: str) -> None:
    if anyio_backend_name == "trio":
        pytest.skip("only asyncio has a cancellation that anybody can raise")
    client = client_of(Wire())
    seen: list[Any] = []

    @client.on_state_updated(retries=1)
    async def stray(event: UpdateEvent) -> None:
        seen.append(seq_of(event))
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        future.cancel()
        await future

    async with client:
        for seq in range(3):
            await client.update("d", session={"seq": seq})
        await client.flush()
    assert seen == [0, 0, 1, 1, 2, 2]


async def test_p9_hooks_are_retried_with_a_pause_that_holds_nobody_up() -> None:
    client = client_of(Wire())
    calls: list[tuple[str, int, float]] = []

    @client.on_state_updated(retries=3, concurrency=1)
    async def watch(event: UpdateEvent) -> None:
        name = event.dialog_id
        tries = len([call for call in calls if call[0] == name and call[1] == seq_of(event)])
        calls.append((name, seq_of(event), anyio.current_time()))
        if name == "ill" and tries < 3:
            raise OSError("the CRM is away")

    async with client:
        for seq in range(2):
            for name in ("ill", "well"):
                client.submit_nowait({"dialog_id": name, "session": {"seq": seq}})
        await client.flush()
    ill = [call for call in calls if call[0] == "ill"]
    assert [seq for _, seq, _ in ill] == [0, 0, 0, 0, 1, 1, 1, 1]
    gaps = [b[2] - a[2] for a, b in pairwise(ill[:4])]
    assert all(gap > 0.05 for gap in gaps)
    assert all(at < 0.1 for name, _, at in calls if name == "well")
    assert client.metrics.events_delivered == 4
    assert client.metrics.events_failed == 6


async def test_p9_hooks_that_hang_are_cut_off_and_their_dialog_goes_on() -> None:
    client = client_of(Wire())
    letters: list[DeadLetter] = []
    seen: list[Any] = []

    @client.on_state_updated(timeout=2, retries=1, on_dead_letter=letters.append)
    async def watch(event: UpdateEvent) -> None:
        if seq_of(event) == 0:
            await anyio.sleep_forever()
        seen.append((seq_of(event), anyio.current_time()))

    @client.on_state_updated(timeout=2, retries=0)
    async def other(event: UpdateEvent) -> None:
        seen.append(("other", anyio.current_time()))

    async with client:
        for seq in range(2):
            await client.update("d", session={"seq": seq})
        # The handler is synchronous, which needs the machine's own time; see below.
        await anyio.sleep(8)
        assert seen[0][0] == seen[1][0] == "other"
        assert seen[1][1] < 0.1
        assert seen[2][0] == 1
        assert 4 <= seen[2][1] <= 5


@pytest.mark.parametrize("kind", ["raises", "hangs"])
async def test_p9_hooks_hand_what_cannot_be_delivered_to_the_dead_letters(kind: str) -> None:
    client = client_of(Wire())
    letters: list[DeadLetter] = []

    async def bury(letter: DeadLetter) -> None:
        letters.append(letter)
        if len(letters) == 1:
            raise ValueError("the handler itself stumbles")
        if len(letters) == 2:
            await anyio.sleep_forever()

    @client.on_state_updated(timeout=1, retries=2, on_dead_letter=bury)
    async def watch(_: UpdateEvent) -> None:
        if kind == "hangs":
            await anyio.sleep_forever()
        raise LookupError("no such customer")

    async with client:
        for number in range(4):
            await client.update(f"d-{number}", session={"seq": number})
        await client.flush()
        assert sorted(seq_of(letter.event) for letter in letters) == [0, 1, 2, 3]
        for letter in letters:
            assert letter.attempts == 3
            expected = TimeoutError if kind == "hangs" else LookupError
            assert type(letter.error.__cause__) is expected
    assert client.metrics.events_dropped == 4
    assert client.metrics.events_failed == 12


# Bounds.


async def test_p9_hooks_with_a_full_queue_delay_sends() -> None:
    wire = Wire()
    client = client_of(wire, max_in_flight=4)
    gate = anyio.Event()
    delivered = 0
    most = 0

    @client.on_state_updated(max_queue=3, concurrency=1)
    async def watch(_: UpdateEvent) -> None:
        nonlocal delivered, most
        await gate.wait()
        most = max(most, len(wire.sent) - delivered)
        delivered += 1

    async with client:
        handles = [
            client.submit_nowait({"dialog_id": f"d-{n}", "session": {"seq": 0}}) for n in range(20)
        ]
        await turns(200)
        assert len(wire.sent) == 3
        # A read has no event, and so it need not wait for the place of one.
        await client.get_state("d")
        gate.set()
        with anyio.fail_after(5):
            for handle in handles:
                await handle
            await client.flush()
    # The sum of what is queued, in flight and being delivered never exceeds it; one read aside.
    assert most <= 3 + 1
    assert delivered == 20


@pytest.mark.parametrize("concurrency", [1, 4])
async def test_p9_hooks_that_bury_what_overflows_never_delay_sends(concurrency: int) -> None:
    wire = Wire()
    client = client_of(wire, max_in_flight=4)
    letters: list[DeadLetter] = []
    seen: list[str] = []

    async def bury(letter: DeadLetter) -> None:
        letters.append(letter)

    @client.on_state_updated(
        max_queue=5, concurrency=concurrency, overflow="dead_letter", on_dead_letter=bury
    )
    async def watch(event: UpdateEvent) -> None:
        await anyio.sleep(5)
        seen.append(event.dialog_id)

    async with client:
        await all_of(*(partial(client.update, f"d-{n}", session={"seq": 0}) for n in range(50)))
        assert anyio.current_time() < 0.1
        await client.flush()
    assert len(seen) == 5
    assert len(letters) == 45
    assert {letter.event.dialog_id for letter in letters} | set(seen) == {
        f"d-{n}" for n in range(50)
    }
    assert all("full" in str(letter.error) and letter.attempts == 0 for letter in letters)


async def test_p9_hooks_that_wait_and_hooks_that_bury_stand_side_by_side() -> None:
    wire = Wire()
    client = client_of(wire)
    seen: Counter[str] = Counter()

    @client.on_state_updated(max_queue=1, overflow="wait")
    async def patient(_: UpdateEvent) -> None:
        seen["patient"] += 1
        await anyio.sleep(1)

    @client.on_state_updated(max_queue=1, overflow="dead_letter")
    async def next_impatient(_: UpdateEvent) -> None:
        seen["impatient"] += 1
        await anyio.sleep(1.5)

    @client.on_update_failed(max_queue=1, overflow="wait")
    async def unconcerned(_: UpdateEvent) -> None:
        seen["unconcerned"] += 1

    async with client:
        await all_of(*(partial(client.update, f"d-{n}", session={"seq": 0}) for n in range(10)))
        assert anyio.current_time() >= 9
        await client.flush()
    assert seen["patient"] == 10
    assert seen["impatient"] + client.metrics.events_dropped == 10
    assert seen["unconcerned"] == 0


async def test_p9_hooks_give_no_place_to_a_read() -> None:
    wire = Wire()
    client = client_of(wire)
    seen: list[str] = []

    @client.on_state_updated(max_queue=2)
    async def watch(event: UpdateEvent) -> None:
        seen.append(event.dialog_id)

    async with client:
        for _ in range(10):
            await client.get_state("d")
        wire.script(500, 500, 500, method="GET")
        for _ in range(3):
            await outcome_of(client.get_state("d", retry=at_once(max_attempts=1)))
        with anyio.fail_after(60):
            await client.update("d", session={"a": 1})
            await client.flush()
    assert seen == ["d"]


PLACED: list[Reply] = [503, 500, 409, 401, DROPPED, throttled("5", dialog=True), throttled("5")]


@pytest.mark.parametrize("max_queue", [1, 2])
@pytest.mark.parametrize("trouble", PLACED, ids=named)
async def test_p9_hooks_an_update_that_has_its_place_does_not_wait_for_another(
    max_queue: int, trouble: Reply
) -> None:
    wire = Wire()
    server = emulator()
    client = client_of(wire, max_in_flight=4, retry=every(1), auth=oauth(server))

    @client.on_state_updated(max_queue=max_queue)
    async def watch(_: UpdateEvent) -> None:
        await anyio.sleep(0.1)

    for number in range(4):
        wire.script(trouble, dialog_id=f"d-{number}")
    async with client:
        with anyio.fail_after(600):
            outcomes = await all_of(
                *(partial(client.update, f"d-{n}", session={"a": 1}) for n in range(4)),
                *(
                    partial(client.modify, f"m-{n}", lambda _: {"session": {"a": 1}})
                    for n in range(4)
                ),
            )
            await client.flush()
    assert not [outcome for outcome in outcomes if isinstance(outcome, Exception)]
    assert client.metrics.events_delivered == 8


async def test_p9_hooks_an_update_that_is_given_up_gives_its_place_back() -> None:
    wire = Wire(takes=1)
    client = client_of(wire, max_in_flight=2, retry=every(5, max_attempts=2))

    @client.on_state_updated(max_queue=2)
    async def watch(_: UpdateEvent) -> None:
        pass

    async with client:
        for number in range(10):
            wire.script(503, dialog_id=f"d-{number}")
            # In flight, or between attempts.
            with anyio.move_on_after(0.5 + number % 2 * 3):
                await client.update(f"d-{number}", session={"seq": 0})
        with anyio.fail_after(10):
            await client.update("d", session={"seq": 0})


# Calls from inside.

INSIDE: dict[str, Callable[[AsyncStateClient, str], Awaitable[object]]] = {
    "update": lambda client, name: client.update(name, session={"by": "callback"}),
    "submit": lambda client, name: _submit(client, name),
    "submit_nowait": lambda client, name: _submit_nowait(client, name),
    "modify": lambda client, name: client.modify(name, lambda _: {"session": {"by": "callback"}}),
    "get_state": lambda client, name: client.get_state(name),
    "update_many": lambda client, name: _bulk(client, name),
}


async def _submit(client: AsyncStateClient, name: str) -> object:
    return await (await client.submit({"dialog_id": name, "session": {"by": "callback"}}))


async def _submit_nowait(client: AsyncStateClient, name: str) -> object:
    return await client.submit_nowait({"dialog_id": name, "session": {"by": "callback"}})


async def _bulk(client: AsyncStateClient, name: str) -> None:
    rows = [{"dialog_id": name, "session": {"by": "callback"}} for _ in range(3)]
    async with client.update_many(rows) as outcomes:
        async for outcome in outcomes:
            assert outcome.ok


@pytest.mark.parametrize("where", ["same", "other", "busy"])
@pytest.mark.parametrize("call", INSIDE)
async def test_p9_hooks_may_call_the_client_with_everything_full(call: str, where: str) -> None:
    wire = Wire()
    client = client_of(wire, max_in_flight=1, max_pending=4)
    done: list[str] = []
    failures: list[BaseException] = []

    @client.on_state_updated(max_queue=1, concurrency=1, retries=0, timeout=30)
    async def watch(event: UpdateEvent) -> None:
        if event.payload["session"].get("by") == "callback":
            return
        names = {"same": event.dialog_id, "other": f"x-{event.dialog_id}", "busy": "d-5"}
        try:
            await INSIDE[call](client, names[where])
        except BaseException as error:
            failures.append(error)
            raise
        done.append(event.dialog_id)

    async with client:
        with anyio.fail_after(20):
            await all_of(*(partial(client.update, f"d-{n}", session={"seq": 0}) for n in range(12)))
            await client.flush()
    assert failures == []
    assert sorted(done) == sorted(f"d-{n}" for n in range(12))
    assert anyio.current_time() < 1


async def test_p9_hooks_calls_from_inside_are_exempt_and_nothing_else_is() -> None:
    wire = Wire()
    client = client_of(wire, max_in_flight=2, max_pending=2)
    gate = anyio.Event()
    inside = 0

    @client.on_state_updated(max_queue=1, concurrency=1)
    async def watch(event: UpdateEvent) -> None:
        nonlocal inside
        if event.dialog_id == "first":
            for number in range(10):
                await client.update(f"inner-{number}", session={"seq": 0})
                inside += 1
            await gate.wait()

    async with client:
        await client.update("first", session={"seq": 0})
        async with anyio.create_task_group() as tasks:
            for number in range(5):
                tasks.start_soon(partial(client.update, f"outer-{number}", session={"seq": 0}))
            await turns(300)
            assert inside == 10
            assert not [sent for sent in wire.sent if sent.dialog_id.startswith("outer")]
            gate.set()
    assert client.metrics.applied == 16


async def test_p9_hooks_tasks_that_a_callback_starts_are_not_inside_it() -> None:
    wire = Wire()
    client = client_of(wire, max_pending=1, max_in_flight=1, retry=every(0.5))
    order: list[str] = []
    async with anyio.create_task_group() as tasks:

        async def later() -> None:
            await anyio.sleep(5)
            # Long after the callback: this is a caller like any other.
            await client.flush()
            order.append("flushed")
            wire.script(503)
            client.submit_nowait({"dialog_id": "full", "session": {"seq": 0}})
            await until(lambda: wire.writes("full"))
            with anyio.move_on_after(0.01):
                await client.update("x", session={"seq": 0})
                order.append("exempt")

        @client.on_state_updated
        async def watch(event: UpdateEvent) -> None:
            if event.dialog_id == "d":
                tasks.start_soon(later)

        async with client:
            await client.update("d", session={"seq": 0})
            await anyio.sleep(6)
    assert order == ["flushed"]


async def test_p9_hooks_must_not_close_their_client() -> None:
    client = client_of(Wire())
    other = client_of(Wire())
    told: list[Any] = []

    @client.on_state_updated
    async def watch(_: UpdateEvent) -> None:
        told.append(await outcome_of(client.aclose()))
        told.append(await outcome_of(client.flush()))
        async with other:
            await other.update("x", session={"seq": 0})
            await other.flush()
        told.append(other.close_report)

    async with client:
        await client.update("d", session={"seq": 0})
        await client.flush()
    assert isinstance(told[0], ClientUsageError)
    assert "callback" in str(told[0])
    assert isinstance(told[1], ClientUsageError)
    assert told[2].applied == 1


# Closing.


async def test_p9_hooks_get_what_there_is_before_the_client_closes() -> None:
    client = client_of(Wire())
    seen: list[Any] = []

    @client.on_state_updated(concurrency=1)
    async def slow(event: UpdateEvent) -> None:
        await anyio.sleep(1)
        seen.append(seq_of(event))

    async with client:
        for seq in range(5):
            await client.update("d", session={"seq": seq})
    assert seen == [0, 1, 2, 3, 4]
    assert client.close_report is not None
    assert client.close_report.undelivered == 0


async def test_p9_hooks_that_are_too_slow_for_the_close_lose_nothing_silently() -> None:
    client = client_of(Wire())
    seen: list[Any] = []
    letters: list[Any] = []

    async def bury(letter: DeadLetter) -> None:
        letters.append(seq_of(letter.event))

    @client.on_state_updated(concurrency=1, on_dead_letter=bury)
    async def slow(event: UpdateEvent) -> None:
        await anyio.sleep(1)
        seen.append(seq_of(event))

    async with client:
        for seq in range(5):
            await client.update("d", session={"seq": seq})
        report = await client.aclose(timeout=2.5)
        assert anyio.current_time() == pytest.approx(2.5, abs=0.2)
    assert seen == [0, 1]
    assert letters == [2, 3, 4]
    assert report.undelivered == 3
    assert report.applied == 5
    # Who closed it is not marked by what the close had to call.
    async with client_of(Wire()) as next_one:
        await next_one.update("d", session={"seq": 0})
        await next_one.flush()


async def test_p9_hooks_flush_waits_for_what_was_accepted_before_and_not_for_more() -> None:
    client = client_of(Wire())
    seen: list[Any] = []

    @client.on_state_updated
    async def slow(event: UpdateEvent) -> None:
        await anyio.sleep(0.5)
        seen.append(seq_of(event))

    async with client, anyio.create_task_group() as tasks:

        async def traffic() -> None:
            for seq in range(200):
                await client.update(f"d-{seq}", session={"seq": seq})
                await anyio.sleep(0.1)

        tasks.start_soon(traffic)
        await anyio.sleep(1.05)
        await client.flush()
        assert anyio.current_time() == pytest.approx(1.5, abs=0.1)
        assert seen[:11] == list(range(11))
        tasks.cancel_scope.cancel()


# In threads, and so in the time of the machine.


@pytest.mark.real_time
async def test_p9_hooks_synchronous_ones_run_in_threads_of_their_own() -> None:
    client = client_of(Wire())
    here = threading.get_ident()
    seen: defaultdict[str, list[Any]] = defaultdict(list)
    lock = threading.Lock()
    running = peak = 0

    @client.on_state_updated(concurrency=3)
    def watch(event: UpdateEvent) -> None:
        nonlocal running, peak
        with lock:
            running += 1
            peak = max(peak, running)
        assert threading.get_ident() != here
        time.sleep(0.01)
        with lock:
            running -= 1
            seen[event.dialog_id].append(seq_of(event))

    async with client:
        for seq in range(5):
            for number in range(6):
                client.submit_nowait({"dialog_id": f"d-{number}", "session": {"seq": seq}})
        await client.flush()
    assert all(seqs == [0, 1, 2, 3, 4] for seqs in seen.values())
    assert len(seen) == 6
    assert peak == 3
    assert client.metrics.events_delivered == 30


@pytest.mark.real_time
async def test_p9_hooks_synchronous_ones_may_call_the_client() -> None:
    client = client_of(Wire(), max_in_flight=1, max_pending=2)
    variable: ContextVar[str] = ContextVar("variable")
    seen: list[str] = []

    @client.on_state_updated(max_queue=1, concurrency=1)
    def watch(event: UpdateEvent) -> None:
        if event.dialog_id.startswith("d-"):
            call = partial(client.update, f"x{event.dialog_id}", session={"seq": 0})
            anyio.from_thread.run(call)
            seen.append(variable.get())

    async def write(number: int) -> None:
        variable.set(f"d-{number}")
        await client.update(f"d-{number}", session={"seq": 0})

    async with client:
        with anyio.fail_after(20):
            await all_of(*(partial(write, number) for number in range(6)))
            await client.flush()
    assert sorted(seen) == [f"d-{number}" for number in range(6)]


@pytest.mark.real_time
async def test_p9_hooks_synchronous_ones_that_hang_are_abandoned_and_counted() -> None:
    client = client_of(Wire())
    release, ended = threading.Event(), threading.Event()
    seen: list[Any] = []
    letters: list[DeadLetter] = []

    @client.on_state_updated(timeout=0.1, retries=0, concurrency=1, on_dead_letter=letters.append)
    def watch(event: UpdateEvent) -> None:
        if seq_of(event) < 3:
            release.wait(10)
        seen.append(seq_of(event))
        if len(seen) == 2:
            ended.set()

    try:
        async with client:
            for seq in range(2):
                await client.update("d", session={"seq": seq})
            with anyio.fail_after(5):
                await client.flush()
            # Each of them hangs in a thread, and the caller of `update` noticed nothing.
            assert client.metrics.threads_abandoned == 2
            assert seen == []
            assert [type(letter.error.__cause__) for letter in letters] == [TimeoutError] * 2
            # With two threads for each call allowed, no more are wasted on it.
            await client.update("d", session={"seq": 2})
            with anyio.fail_after(5):
                await client.flush()
            assert client.metrics.threads_abandoned == 2
            assert "hang" in str(letters[2].error.__cause__)
            release.set()
            await anyio.to_thread.run_sync(ended.wait, 5)
            # They have come to their end: it is called again.
            await client.update("d", session={"seq": 3})
            await client.flush()
            assert seen[-1] == 3
    finally:
        release.set()


@pytest.mark.real_time
async def test_p9_hooks_synchronous_dead_letter_handlers_run_in_threads_too() -> None:
    client = client_of(Wire())
    letters: list[tuple[int, DeadLetter]] = []
    here = threading.get_ident()

    def bury(letter: DeadLetter) -> None:
        letters.append((threading.get_ident(), letter))

    @client.on_state_updated(retries=0, concurrency=1, on_dead_letter=bury)
    def broken(_: UpdateEvent) -> None:
        raise ValueError("no")

    async with client:
        for seq in range(5):
            await client.update("d", session={"seq": seq})
        await client.flush()
    assert [seq_of(letter.event) for _, letter in letters] == [0, 1, 2, 3, 4]
    assert here not in {thread for thread, _ in letters}
    assert client.metrics.threads_abandoned == 0
