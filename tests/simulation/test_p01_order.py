"""P1: updates of one dialog are sent in the order of their acceptance, one at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import anyio
import pytest

from cognigy_async import AsyncStateClient, AuthenticationError, Limits, RetryPolicy, UpdateResult
from cognigy_async.emulator import Emulator, Faults
from tests.simulation.world import (
    DROPPED,
    REFUSED,
    Reply,
    Wire,
    all_of,
    applied,
    at_once,
    client_of,
    emulator,
    every,
    named,
    never,
    oauth,
    on_each_api,
    outcome_of,
    seqs,
    throttled,
    until,
)

DIALOGS = 400
WORKERS = 32
STORMY = Faults(
    latency=0.02,
    latency_jitter=0.03,
    error_500=0.03,
    error_503=0.03,
    drop_before=0.03,
    drop_after=0.03,
    conflict=0.03,
)
"""409 is what a competitor causes who holds the state while a write arrives."""


def rows(updates: int) -> Iterator[dict[str, Any]]:
    # Round by round, so that all dialogs are busy at the same time.
    for seq in range(updates):
        for number in range(DIALOGS):
            yield {"dialog_id": f"d-{number}", "session": {"seq": seq}}


def check_the_server(server: Emulator, updates: int) -> None:
    stats = server.stats
    assert stats.violations() == {}
    assert stats.in_flight_max == WORKERS
    # The weather was as it should be, else the rest says nothing.
    for fault in ("error_500", "error_503", "drop_before", "drop_after", "conflict"):
        assert stats.faults[fault] > 0.02 * DIALOGS * updates
    assert len(server.dialogs) == DIALOGS
    for number in range(DIALOGS):
        arrived = seqs(server, f"d-{number}")
        # A lost answer is repeated, so that an assignment may be there twice, one after the other.
        assert set(arrived) == set(range(updates))
        assert arrived == sorted(arrived)  # type: ignore[type-var]
        assert server.dialogs[f"d-{number}"].session["seq"] == updates - 1
    assert stats.repeat_applies > 0


@pytest.mark.quick("*-5")
@on_each_api
@pytest.mark.parametrize("updates", [5, 15])
async def test_p1_order_of_bulk_under_faults_nothing_overlaps_or_is_lost(updates: int) -> None:
    server = emulator(faults=STORMY, honour_idempotency_keys=False)
    policy = RetryPolicy(max_attempts=12)
    async with (
        client_of(server, max_in_flight=WORKERS, retry=policy) as client,
        client.update_many(rows(updates)) as outcomes,
    ):
        told = [(outcome.index, outcome.ok) async for outcome in outcomes]
    assert sorted(told) == [(index, True) for index in range(DIALOGS * updates)]
    check_the_server(server, updates)
    assert client.metrics.applied == DIALOGS * updates
    assert client.metrics.failed == client.metrics.ambiguous == 0


@on_each_api
async def test_p1_order_of_live_updates_under_faults_nothing_overlaps_or_is_lost() -> None:
    server = emulator(faults=STORMY, honour_idempotency_keys=False, seed=1)
    policy = RetryPolicy(max_attempts=12)
    async with client_of(server, max_in_flight=WORKERS, retry=policy) as client:
        handles = [client.submit_nowait(row) for row in rows(6)]
        results = [await handle for handle in handles]
    assert len({result.update_id for result in results}) == DIALOGS * 6
    check_the_server(server, 6)
    assert client.metrics.persistence_rate == 1.0


FAILURES: list[Reply] = [
    500,
    502,
    503,
    504,
    409,
    412,
    DROPPED,
    REFUSED,
    throttled("30"),
    throttled("30", dialog=True),
    throttled(None, dialog=True),
]


@on_each_api
@pytest.mark.parametrize("failure", FAILURES, ids=named)
async def test_p1_order_nothing_overtakes_what_backs_off(failure: Reply) -> None:
    wire = Wire()
    wire.script(failure, failure, failure)
    async with client_of(wire, retry=every(10)) as client:
        first = client.submit_nowait({"dialog_id": "d", "session": {"seq": 0}})
        await until(lambda: wire.sent)
        # Accepted while the one before it is in flight, and while it waits.
        second = client.submit_nowait({"dialog_id": "d", "session": {"seq": 1}})
        await anyio.sleep(1)
        third = client.submit_nowait({"dialog_id": "d", "session": {"seq": 2}})
        assert [sent.seq for sent in wire.writes()] == [0]
        for handle in (first, second, third):
            await handle
    assert [sent.seq for sent in wire.writes()] == [0, 0, 0, 0, 1, 2]
    assert wire.peak == 1


@on_each_api
@pytest.mark.parametrize("failure", [400, 403, 404, 413, 301, 418])
async def test_p1_order_goes_on_after_a_refusal(failure: int) -> None:
    wire = Wire()
    wire.script(failure)
    async with client_of(wire) as client:
        handles = [
            client.submit_nowait({"dialog_id": "d", "session": {"seq": seq}}) for seq in range(3)
        ]
        await client.flush()
        assert all(handle.done() for handle in handles)
    assert [sent.seq for sent in wire.writes()] == [0, 1, 2]


@on_each_api
async def test_p1_order_holds_through_a_refused_token() -> None:
    server = emulator(faults=Faults(token_expiry=0.2, latency=0.01))
    async with client_of(server, auth=oauth(server), max_in_flight=8) as client:
        row = {"dialog_id": "d", "session": {"seq": 0}}
        handles = [client.submit_nowait(row | {"session": {"seq": n}}) for n in range(100)]
        for handle in handles:
            # Refused twice in a row, it fails; its place is its own all the same.
            outcome = await outcome_of(handle)
            assert isinstance(outcome, UpdateResult | AuthenticationError)
    assert server.stats.faults["token_expiry"] > 10
    assert server.stats.violations() == {}
    assert seqs(server, "d") == sorted(seqs(server, "d"))  # type: ignore[type-var]


async def test_p1_order_is_that_of_acceptance_whoever_asks() -> None:
    wire = Wire(takes=1)
    async with client_of(wire, max_in_flight=4) as client:
        accepted: list[int] = []

        def live(seq: int) -> None:
            accepted.append(seq)
            client.submit_nowait({"dialog_id": "d", "session": {"seq": seq}})

        async def bulk() -> None:
            async for outcome in client.update_many(source()):
                assert outcome.ok

        def source() -> Iterator[dict[str, Any]]:
            for seq in (10, 11, 12):
                accepted.append(seq)
                yield {"dialog_id": "d", "session": {"seq": seq}}

        async def modify() -> None:
            accepted.append(20)
            await client.modify("d", lambda _: {"session": {"seq": 20}})

        async with anyio.create_task_group() as tasks:
            live(0)
            tasks.start_soon(bulk)
            await until(lambda: 12 in accepted)
            # Urgent or not: what stands before it goes first.
            live(1)
            tasks.start_soon(modify)
            await until(lambda: 20 in accepted)
            live(2)
    assert [sent.seq for sent in wire.writes()] == accepted == [0, 10, 11, 12, 1, 20, 2]
    assert wire.peak == 1


@on_each_api
async def test_p1_order_of_those_who_wait_for_room_is_that_of_their_calls() -> None:
    wire = Wire(takes=1)
    async with client_of(wire, max_pending=2) as client:

        async def write(seq: int) -> None:
            await client.update("d", session={"seq": seq})

        async with anyio.create_task_group() as tasks:
            for seq in range(10):
                tasks.start_soon(write, seq)
                # Tasks begin in no particular order on trio.
                await anyio.sleep(0.01)
    assert [sent.seq for sent in wire.writes()] == list(range(10))


async def test_p1_order_of_the_parts_of_a_split_update() -> None:
    wire = Wire()
    wire.script(200, 503, DROPPED, 200, 409)
    limits = Limits(safe_payload_bytes=300)
    async with client_of(wire, limits=limits, retry=at_once()) as client:
        big = {f"v{number}": "x" * 150 for number in range(4)}
        first = client.submit_nowait({"dialog_id": "d", "session": big, "next_step": "s"})
        second = client.submit_nowait({"dialog_id": "d", "session": {"seq": 1}})
        await first
        await second
    names = [next(iter(sent.body["session"])) for sent in wire.writes()]
    assert names == ["v0", "v1", "v1", "v1", "v2", "v2", "v3", "seq"]
    assert [sent.key and sent.key.rpartition("/")[2] for sent in wire.applied[:4]] == list("0123")
    assert [("transition" in sent.body) for sent in wire.applied] == [False] * 3 + [True, False]


@on_each_api
async def test_p1_order_a_read_does_not_queue_behind_writes() -> None:
    wire = Wire()
    wire.script(503)
    async with client_of(wire, retry=every(60)) as client:
        write = client.submit_nowait({"dialog_id": "d", "session": {"seq": 0}})
        await until(lambda: wire.writes())
        await client.get_state("d")
        assert anyio.current_time() < 1
        await write


async def test_p1_order_two_clients_in_one_process_do_not_mix_up_their_updates() -> None:
    server = emulator(faults=Faults(latency=0.1))

    async def run(client: AsyncStateClient, dialog_id: str) -> None:
        async with client:
            for seq in range(20):
                await client.update(dialog_id, session={"seq": seq})

    one, other = client_of(server), client_of(server)
    await all_of(lambda: run(one, "a"), lambda: run(other, "b"))
    keys = [item.key for name in "ab" for item in applied(server, name)]
    assert len(set(keys)) == 40
    assert seqs(server, "a") == seqs(server, "b") == list(range(20))


@on_each_api
async def test_p1_order_a_request_that_timed_out_is_in_flight_no_longer() -> None:
    """What the promise does not cover: it may still land on the server."""
    wire = Wire()
    wire.script(never)
    async with client_of(wire, timeout=2, retry=at_once()) as client:
        result = await client.update("d", session={"seq": 0})
    assert result.attempts == 2
    assert wire.sent[1].at - wire.sent[0].at == pytest.approx(2, abs=0.1)
    assert wire.peak == 1
