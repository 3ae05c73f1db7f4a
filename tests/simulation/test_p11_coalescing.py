"""P11: updates that wait for the same dialog are sent as one request, and the state cannot tell."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, get_args

import anyio
import pytest

from cognigy_async import (
    AmbiguousUpdateError,
    ApiKey,
    AsyncStateClient,
    BadRequestError,
    ClientClosedError,
    ConfigurationError,
    DialogPausedError,
    Fault,
    Limits,
    PendingUpdate,
    Request,
    Response,
    RetryPolicy,
    RuntimeApi,
    ServerError,
    SessionsApi,
    StateUpdate,
    UpdateError,
    UpdateEvent,
    UpdateResult,
    UpdateValidationError,
    UpdateWithdrawnError,
)
from cognigy_async.emulator import Emulator, Faults
from cognigy_async.emulator.state import Dialog, Merge
from cognigy_async.hooks.observers import Observations
from tests.chance import Chance
from tests.simulation.world import (
    BASE_URL,
    DROPPED,
    Reply,
    Wire,
    all_of,
    at_once,
    client_of,
    emulator,
    every,
    named,
    never,
    outcome_of,
    throttled,
    turns,
    until,
)

Client = AsyncStateClient


def row(seq: int, dialog_id: str = "d", **fields: Any) -> dict[str, Any]:
    return {"dialog_id": dialog_id, "session": {f"v{seq}": seq}, "update_id": f"u{seq}"} | fields


def submit(client: Client, *seqs: int, **options: Any) -> list[PendingUpdate]:
    return [client.submit_nowait(row(seq), **options) for seq in seqs]


def bodies(wire: Wire) -> list[list[str]]:
    """The session variables of each write, in order."""
    return [sorted(sent.body.get("session", {})) for sent in wire.writes()]


def coalescing(server: Emulator | Wire, **options: Any) -> Client:
    return client_of(server, **{"coalesce": True} | options)


async def blocked(client: Client, wire: Wire, **options: Any) -> PendingUpdate:
    """The dialog is busy: what follows waits."""
    wire.script(200)
    handle = client.submit_nowait(row(0), **options)
    await until(lambda: wire.in_flight)
    return handle


def keeping(events: list[UpdateEvent]) -> Callable[[UpdateEvent], Awaitable[None]]:
    async def keep(event: UpdateEvent) -> None:
        events.append(event)

    return keep


# What it saves, and what the state is.


async def by_update(client: Client, rows: list[dict[str, Any]]) -> list[UpdateResult]:
    def call(fields: dict[str, Any]) -> Any:
        return lambda: client.update(**fields)

    outcomes = await all_of(*[call(fields) for fields in rows])
    return [outcome for outcome in outcomes if isinstance(outcome, UpdateResult)]


async def by_submit(client: Client, rows: list[dict[str, Any]]) -> list[UpdateResult]:
    handles = [await client.submit(fields) for fields in rows]
    return [await handle for handle in handles]


async def by_update_many(client: Client, rows: list[dict[str, Any]]) -> list[UpdateResult]:
    return [
        outcome.result async for outcome in client.update_many(rows) if outcome.result is not None
    ]


@pytest.mark.parametrize("way", [by_update, by_submit, by_update_many])
async def test_p11_coalescing_of_500_updates_takes_at_most_a_quarter_of_the_requests(
    way: Any,
) -> None:
    server = emulator(faults=Faults(latency=0.02))
    rows = [row(seq, session={"seq": seq, f"v{seq}": seq}) for seq in range(500)]
    async with coalescing(server) as client:
        results = await way(client, rows)
    assert len(results) == 500
    assert server.stats.requests <= 125
    assert server.stats.violations() == {}
    dialog = server.dialogs["d"]
    assert {f"v{seq}": seq for seq in range(500)}.items() <= dialog.session.items()
    if way is not by_update:
        # Tasks begin in no particular order on trio.
        assert dialog.session["seq"] == 499
    assert client.metrics.requests == dialog.version == server.stats.requests
    requests = {result.carried_by: result.merged for result in results}
    assert sum(requests.values()) == client.metrics.applied == 500
    assert set(requests) == {item.key for item in dialog.history}


@pytest.mark.parametrize("semantics", get_args(Merge))
@pytest.mark.parametrize("seed", range(8))
async def test_p11_coalescing_the_final_state_is_that_of_one_by_one(
    semantics: Merge, seed: int
) -> None:
    """In any weather, with transitions and bulk work between."""
    chance = Chance(seed)
    faults = Faults(latency=0.02, error_503=0.1, drop_before=0.1, drop_after=0.1, conflict=0.1)
    # Without competitors, whose variable is none of ours.
    server = emulator(faults=faults, merge=semantics, seed=seed)
    expected: dict[str, Dialog] = {}
    async with coalescing(server, retry=RetryPolicy(max_attempts=50)) as client:
        handles = []
        for _ in range(120):
            dialog_id = f"d-{chance.random.randrange(3)}"
            payload: dict[str, Any] = chance.payload()
            step = f"s-{chance.random.random()}" if chance.random.random() < 0.1 else None
            update = StateUpdate(dialog_id=dialog_id, **payload, next_step=step)
            expected.setdefault(dialog_id, Dialog(dialog_id)).assign(
                update.payload(), merge=semantics, at=0.0
            )
            handles.append(client.submit_nowait(update))
            if chance.random.random() < 0.1:
                await anyio.sleep(0.01)
        results = [await outcome_of(handle) for handle in handles]
    # A transition whose answer is lost may end as ambiguous, and the state is as it is then.
    lost = {h.dialog_id for h, r in zip(handles, results, strict=True) if isinstance(r, Exception)}
    for dialog_id, dialog in expected.items():
        seen = server.dialogs[dialog_id]
        seen.session.pop("competitor", None)
        if dialog_id not in lost:
            assert seen.session == dialog.session
            assert seen.user == dialog.user
            assert seen.next_step == dialog.next_step
    carried = [result.carried_by for result in results if isinstance(result, UpdateResult)]
    assert len(set(carried)) < len(carried)
    assert server.stats.violations() == {}


async def test_p11_coalescing_is_off_unless_asked_for() -> None:
    wire = Wire()
    async with client_of(wire) as client:
        results = [await handle for handle in submit(client, 0, 1)]
        assert [(result.merged, result.carried_by) for result in results] == [(1, "u0"), (1, "u1")]
        assert len(wire.sent) == 2
        for handle in submit(client, 2, 3, coalesce=True):
            await handle
        assert len(wire.sent) == 3


async def test_p11_coalescing_may_be_refused_for_one_call() -> None:
    wire = Wire()
    async with coalescing(wire) as client:
        submit(client, 0)
        submit(client, 1, coalesce=False)
        submit(client, 2, 3)
        await client.flush()
    assert bodies(wire) == [["v0"], ["v1"], ["v2", "v3"]]


async def test_p11_coalescing_by_each_kind_of_call() -> None:
    wire = Wire(takes=1)
    async with client_of(wire) as client, anyio.create_task_group() as tasks:
        await blocked(client, wire)

        async def update() -> None:
            await client.update("d", session={"a": 1}, coalesce=True)

        tasks.start_soon(update)
        await anyio.sleep(0.1)
        await client.submit({"dialog_id": "d", "session": {"b": 1}}, coalesce=True)
    assert bodies(wire) == [["v0"], ["a", "b"]]
    async with (
        client_of(wire := Wire()) as client,
        client.update_many([row(0), row(1)], coalesce=True) as outcomes,
    ):
        assert [outcome.index async for outcome in outcomes] == [0, 1]
    assert bodies(wire) == [["v0", "v1"]]


# What nothing merges past.


@pytest.mark.parametrize(
    "apart",
    [{"next_step": "s"}, {"if_match": '"0"'}, {"session": {"v1": {"x": 1}}}],
    ids=lambda fields: next(iter(fields)),
)
async def test_p11_coalescing_does_not_merge_past(apart: dict[str, Any]) -> None:
    wire = Wire(takes=1)
    async with coalescing(wire) as client:
        await blocked(client, wire)
        submit(client, 1, 2)
        client.submit_nowait(row(3, **apart))
        submit(client, 4, 5)
    sent = bodies(wire)
    assert sent[:2] == [["v0"], ["v1", "v2"]]
    # An assignment that stays apart begins the next group.
    expected = [["v1", "v4", "v5"]] if "session" in apart else [["v3"], ["v4", "v5"]]
    assert sent[2:] == expected


async def test_p11_coalescing_does_not_merge_past_a_modify() -> None:
    wire = Wire(takes=1)
    async with coalescing(wire) as client, anyio.create_task_group() as tasks:
        await blocked(client, wire)
        submit(client, 1, 2)

        async def modify() -> None:
            await client.modify("d", lambda _: {"session": {"m": 1}})

        tasks.start_soon(modify)
        await anyio.sleep(0.1)
        submit(client, 3, 4)
    assert bodies(wire) == [["v0"], ["v1", "v2"], ["m"], ["v3", "v4"]]


async def test_p11_coalescing_does_not_merge_past_the_size_limit() -> None:
    wire = Wire()
    value = "x" * 80
    async with coalescing(wire, limits=Limits(safe_payload_bytes=300)) as client:
        for seq in range(6):
            client.submit_nowait(row(seq, session={f"v{seq}": value}))
    assert bodies(wire) == [["v0", "v1"], ["v2", "v3"], ["v4", "v5"]]
    assert all(len(json.dumps(sent.body)) <= 300 for sent in wire.sent)


async def test_p11_coalescing_what_has_to_be_split_stays_alone() -> None:
    wire = Wire()
    async with coalescing(wire, limits=Limits(safe_payload_bytes=300)) as client:
        submit(client, 0)
        large = client.submit_nowait(row(1, session=dict.fromkeys("ab", "x" * 150)))
        submit(client, 2, 3)
        assert (await large).carried_by == "u1"
    assert bodies(wire) == [["v0"], ["a"], ["b"], ["v2", "v3"]]
    assert [sent.key for sent in wire.sent[1:3]] == ["u1/0", "u1/1"]


async def test_p11_coalescing_needs_the_same_terms() -> None:
    """One request can be repeated, timed and given up in one way only."""
    wire = Wire(takes=1)
    async with coalescing(wire) as client:
        await blocked(client, wire)
        submit(client, 1, 2, retry=(policy := at_once()))
        submit(client, 3, retry=policy)
        submit(client, 4)
        submit(client, 5, timeout=2)
        submit(client, 6, 7, deadline=60)
        submit(client, 8, deadline=61)
        submit(client, 11)
        async with client.update_many([row(9), row(10)]) as outcomes:
            assert [outcome.ok async for outcome in outcomes] == [True, True]
    expected = ["v0"], ["v1", "v2", "v3"], ["v4"], ["v5"], ["v6", "v7"], ["v8"]
    assert bodies(wire) == [*expected, ["v11"], ["v10", "v9"]]


async def test_p11_coalescing_needs_the_same_user_and_profile() -> None:
    wire = Wire()
    async with coalescing(wire, api=SessionsApi()) as client:
        for seq, user in enumerate(("u-1", "u-1", "u-2", "u-2", "u-1")):
            client.submit_nowait(row(seq, user_id=user))
        await client.flush()
    sent = [(body["userId"], sorted(body["context"])) for body in (one.body for one in wire.sent)]
    assert sent == [("u-1", ["v0", "v1"]), ("u-2", ["v2", "v3"]), ("u-1", ["v4"])]


async def test_p11_coalescing_equal_policies_are_the_same_terms() -> None:
    wire = Wire()
    async with coalescing(wire) as client:
        wait = RetryPolicy().wait
        for seq in range(3):
            submit(client, seq, retry=RetryPolicy(max_attempts=3, wait=wait))
    assert len(wire.sent) == 1


# Body and key.

REPEATED: list[Reply] = [500, 503, 409, 412, DROPPED, throttled("5"), throttled("5", dialog=True)]


@pytest.mark.parametrize("failure", REPEATED, ids=named)
async def test_p11_coalescing_body_and_key_are_frozen_at_the_first_send(failure: Reply) -> None:
    wire = Wire()
    wire.script(failure, failure)
    async with coalescing(wire, retry=every(10)) as client:
        first = submit(client, 0, 1)
        await until(lambda: wire.sent)
        # Accepted while the group is in flight, and while it waits.
        second = submit(client, 2)
        await anyio.sleep(1)
        third = submit(client, 3)
        results = [await handle for handle in first]
        for handle in (*second, *third):
            await handle
    assert bodies(wire) == [["v0", "v1"]] * 3 + [["v2", "v3"]]
    keys = [sent.key for sent in wire.writes()]
    assert keys[0] == keys[1] == keys[2] != keys[3]
    assert {result.carried_by for result in results} == {keys[0]}
    assert [result.update_id for result in results] == ["u0", "u1"]
    assert {result.merged for result in results} == {2}
    # Retries are counted by requests, and a 409 costs a read.
    assert sum(client.metrics.retries.values()) == 2
    assert {result.attempts for result in results} == {5 if failure in (409, 412) else 3}


async def test_p11_coalescing_a_key_is_repeated_by_another_client() -> None:
    """A job that resumes sends the same key for the same updates."""
    keys = []
    for _ in range(2):
        wire = Wire()
        async with coalescing(wire) as client:
            submit(client, 0, 1, 2)
        keys.append([sent.key for sent in wire.sent])
    assert keys[0] == keys[1]
    assert len(keys[0]) == 1


async def test_p11_coalescing_an_answer_tells_the_same_to_all() -> None:
    wire = Wire(takes=1)
    async with coalescing(wire) as client:
        await blocked(client, wire)
        await anyio.sleep(0.4)
        first = submit(client, 1)
        await anyio.sleep(0.5)
        results = [await handle for handle in (*first, *submit(client, 2))]
    assert {result.etag for result in results} == {'"2"'}
    assert {result.version for result in results} == {2}
    assert [result.queued for result in results] == pytest.approx([0.6, 0.1], abs=0.01)
    assert [result.latency for result in results] == pytest.approx([1, 1], abs=0.01)


# Failures.


async def test_p11_coalescing_a_failure_is_told_to_each_with_an_error_of_its_own() -> None:
    wire = Wire()
    wire.script(400)
    async with coalescing(wire) as client:
        errors = [await outcome_of(handle) for handle in submit(client, 0, 1, 2)]
    assert len({id(error) for error in errors}) == 3
    for seq, error in enumerate(errors):
        assert isinstance(error, BadRequestError)
        assert (error.update_id, error.dialog_id, error.status) == (f"u{seq}", "d", 400)
        assert f"u{seq}" in str(error)
        assert error.attempts == 1
    assert client.metrics.failed == 3
    assert client.metrics.requests == 1


async def test_p11_coalescing_a_lost_answer_is_ambiguous_for_all() -> None:
    wire = Wire()
    wire.script(DROPPED)
    async with coalescing(wire, retry=RetryPolicy(ambiguous="raise")) as client:
        errors = [await outcome_of(handle) for handle in submit(client, 0, 1)]
    assert [type(error) for error in errors] == [AmbiguousUpdateError] * 2
    causes = [error.__cause__ for error in errors if isinstance(error, Exception)]
    assert all(isinstance(cause, type(DROPPED)) for cause in causes)
    assert client.metrics.ambiguous == 2


async def test_p11_coalescing_a_failed_group_pauses_its_dialog() -> None:
    wire = Wire(takes=1)
    async with coalescing(wire, on_failure="pause") as client:
        await blocked(client, wire)
        wire.script(400)
        group = submit(client, 1, 2)
        apart = client.submit_nowait(row(3, next_step="s"))
        errors = [await outcome_of(handle) for handle in group]
        assert [type(error) for error in errors] == [BadRequestError] * 2
        (paused,) = client.paused_dialogs().values()
        assert isinstance(paused, DialogPausedError)
        assert paused.waiting == 1
        client.resume()
        await apart
    assert bodies(wire) == [["v0"], ["v1", "v2"], ["v3"]]


class Picky(RuntimeApi):
    """Cannot carry some combination of what it can carry alone."""

    def writes(self, base_url: str, update: StateUpdate, update_id: str) -> list[Request]:
        if {"v0", "v1"} <= update.session.keys():
            fault = Fault("session", "does not fit", "send it alone")
            raise UpdateValidationError((fault,))
        return super().writes(base_url, update, update_id)


async def test_p11_coalescing_what_the_api_cannot_carry_together_goes_alone() -> None:
    wire = Wire()
    async with coalescing(wire, api=Picky()) as client:
        results = [await handle for handle in submit(client, 0, 1, 2)]
    assert [result.merged for result in results] == [1, 2, 2]
    assert bodies(wire) == [["v0"], ["v1", "v2"]]


async def test_p11_coalescing_a_refused_token_replays_the_group() -> None:
    server = emulator(faults=Faults(token_expiry=1.0))
    wire = Wire()
    wire.script(401)
    async with coalescing(wire) as client:
        errors = [await outcome_of(handle) for handle in submit(client, 0, 1)]
    assert [type(error).__name__ for error in errors] == ["AuthenticationError"] * 2
    assert errors[0] is not errors[1]
    assert server.stats.requests == 0


async def test_p11_coalescing_waits_for_a_server_that_is_away_as_one() -> None:
    wire = Wire(answer=503)
    policy = every(1, max_attempts=2, budget=0.0)
    async with (
        coalescing(wire, max_in_flight=1, retry=policy) as client,
        anyio.create_task_group() as tasks,
    ):

        async def bulk() -> None:
            async for outcome in client.update_many(row(seq) for seq in range(20)):
                assert outcome.ok

        tasks.start_soon(bulk)
        await anyio.sleep(60)
        wire.answers(None)
    assert set(map(tuple, bodies(wire))) == {tuple(sorted(f"v{seq}" for seq in range(20)))}
    assert client.metrics.applied == 20


# Taking back.


async def test_p11_coalescing_a_member_taken_back_before_the_send_is_out() -> None:
    wire = Wire(takes=1)
    async with coalescing(wire) as client:
        await blocked(client, wire)
        first, second, third = submit(client, 1, 2, 3)
        assert second.withdraw()
        results = [await first, await third]
        assert isinstance(await outcome_of(second), UpdateWithdrawnError)
        assert not first.withdraw()
    assert bodies(wire) == [["v0"], ["v1", "v3"]]
    assert {result.merged for result in results} == {2}


async def test_p11_coalescing_a_member_cancelled_before_the_send_is_out() -> None:
    wire = Wire(takes=1)
    async with coalescing(wire) as client:
        await blocked(client, wire)
        submit(client, 1)
        with anyio.move_on_after(0.1):
            await client.update("d", session={"cancelled": 1})
        submit(client, 2)
    assert bodies(wire) == [["v0"], ["v1", "v2"]]


async def test_p11_coalescing_a_member_cancelled_after_the_send_shares_the_outcome() -> None:
    wire = Wire(takes=1)
    events: list[UpdateEvent] = []
    client = coalescing(wire)
    client.on_state_updated(keeping(events))
    async with client, anyio.create_task_group() as tasks:
        await blocked(client, wire)
        wire.script(503)
        (other,) = submit(client, 1)

        async def cancelled() -> None:
            with anyio.move_on_after(1.5):
                await client.update("d", session={"v2": 2}, update_id="u2")

        tasks.start_soon(cancelled)
        await other
    # For the sake of the other, with the body that it was first sent with.
    assert bodies(wire) == [["v0"], ["v1", "v2"], ["v1", "v2"]]
    assert sorted(event.update_id for event in events) == ["u0", "u1", "u2"]
    assert client.metrics.applied == 3


async def test_p11_coalescing_a_group_nobody_waits_for_is_not_repeated() -> None:
    wire = Wire(takes=1)
    async with coalescing(wire, retry=every(5)) as client:
        await blocked(client, wire)
        wire.script(503)
        with anyio.move_on_after(3):
            await all_of(*[lambda: client.update("d", session={"a": 1})] * 3)
        assert len(wire.sent) == 2
        assert client.metrics.failed == 3
        await client.flush()
        assert anyio.current_time() < 4
    assert len(wire.sent) == 2


async def test_p11_coalescing_a_group_cancelled_in_flight_ends_with_its_request() -> None:
    wire = Wire(takes=2)
    async with coalescing(wire) as client:
        await blocked(client, wire)
        wire.script(503)
        with anyio.move_on_after(3):
            await all_of(*[lambda: client.update("d", session={"a": 1})] * 3)
    assert len(wire.sent) == 2
    assert wire.torn_down == 0
    assert client.metrics.applied + client.metrics.failed == 4


async def test_p11_coalescing_leaving_a_stream_takes_its_part_out() -> None:
    wire = Wire(takes=1)
    async with coalescing(wire) as client:
        await blocked(client, wire, retry=at_once())
        async with client.update_many([row(1), row(2)]) as outcomes:
            with anyio.move_on_after(0.5):
                await anext(outcomes)
    assert bodies(wire) == [["v0"]]
    assert client.metrics.withdrawn == 2


async def test_p11_coalescing_a_group_that_is_cut_off_is_ambiguous_and_the_rest_unsent() -> None:
    wire = Wire(takes=1)
    async with coalescing(wire) as client:
        await blocked(client, wire)
        wire.script(never)
        group = submit(client, 1, 2)
        await anyio.sleep(1.5)
        rest = submit(client, 3, 4)
        report = await client.aclose(timeout=1)
        assert [type(await outcome_of(one)) for one in group] == [AmbiguousUpdateError] * 2
        assert [type(await outcome_of(one)) for one in rest] == [ClientClosedError] * 2
    assert (report.applied, report.ambiguous) == (1, 2)
    assert [update.update_id for update in report.unsent] == ["u3", "u4"]


async def test_p11_coalescing_a_group_that_backs_off_is_settled_by_a_close() -> None:
    wire = Wire()
    wire.script(503)
    async with coalescing(wire, retry=every(60)) as client:
        group = submit(client, 0, 1)
        await anyio.sleep(1)
        rest = submit(client, 2)
        report = await client.aclose(drain=False)
        errors = [await outcome_of(handle) for handle in group]
        assert [type(error) for error in errors] == [ServerError] * 2
        assert isinstance(await outcome_of(rest[0]), ClientClosedError)
    assert (report.failed, len(report.unsent)) == (2, 1)
    assert client.metrics.pending == 0


# One record for each update.


async def test_p11_coalescing_hooks_have_one_event_for_each_update_in_order() -> None:
    wire = Wire(takes=1)
    events: list[UpdateEvent] = []
    failures: list[UpdateEvent] = []
    client = coalescing(wire)
    client.on_state_updated(keeping(events))
    client.on_update_failed(keeping(failures))
    async with client:
        await blocked(client, wire)
        submit(client, 1, 2, 3)
        await client.flush()
        wire.script(400)
        submit(client, 4, 5)
    assert [event.update_id for event in events] == ["u0", "u1", "u2", "u3"]
    assert [event.payload["session"] for event in events] == [{f"v{n}": n} for n in range(4)]
    assert [event.update_id for event in failures] == ["u4", "u5"]
    assert len({id(event.error) for event in failures}) == 2
    assert client.metrics.latency.count == client.metrics.queued.count == 4


async def test_p11_coalescing_each_member_has_its_place_with_the_callbacks() -> None:
    """A group takes no more members than there are places for their events."""
    wire = Wire()
    client = coalescing(wire)
    waits_when_paused = anyio.Event()

    @client.on_state_updated(max_queue=4, concurrency=1, timeout=1000)
    async def hook(_: UpdateEvent) -> None:
        await waits_when_paused.wait()

    async with client:
        handles = submit(client, *range(10))
        await anyio.sleep(1)
        assert bodies(wire) == [["v0", "v1", "v2", "v3"]]
        assert [handle.done() for handle in handles] == [True] * 4 + [False] * 6
        waits_when_paused.set()
        await client.flush()
    assert client.metrics.events_delivered == 10


async def test_p11_coalescing_a_callback_may_update_its_own_dialog() -> None:
    wire = Wire()
    client = coalescing(wire)

    @client.on_state_updated(max_queue=1, concurrency=1)
    async def hook(event: UpdateEvent) -> None:
        if event.update_id.startswith("u"):
            await client.update(
                "d", session={"seen": event.update_id}, update_id=f"h-{event.update_id}"
            )

    async with client:
        submit(client, 0, 1, 2)
        await client.flush()
        await client.flush()
    assert client.metrics.applied == 6
    assert anyio.current_time() < 1


async def test_p11_coalescing_places_with_the_callbacks_are_taken_when_a_group_is_sent() -> None:
    wire = Wire(takes=1)
    client = coalescing(wire)
    waits_when_paused = anyio.Event()

    @client.on_state_updated(max_queue=5, timeout=1000)
    async def hook(_: UpdateEvent) -> None:
        await waits_when_paused.wait()

    async with client:
        for dialog_id in "de":
            for seq in range(3):
                client.submit_nowait(row(seq, dialog_id))
        await anyio.sleep(0.5)
        # The group of the first dialog has three places before any of its events is there.
        assert bodies(wire) == [["v0", "v1", "v2"], ["v0", "v1"]]
        waits_when_paused.set()


class Watching:
    """Observes one update, and marks its requests."""

    def __init__(self, log: list[tuple[str, str]], update_id: str) -> None:
        self._log = log
        self._update_id = update_id

    def request_starts(self, request: Request, attempt: int) -> None:
        request.headers["x-trace"] = self._update_id
        self._log.append((self._update_id, f"starts {attempt}"))

    def request_ends(
        self, request: Request, response: Response | None, error: BaseException | None
    ) -> None:
        self._log.append((self._update_id, f"ends {response.status if response else error!r}"))

    def settled(self, error: BaseException | None, attempts: int) -> None:
        self._log.append((self._update_id, f"settled {attempts}"))


async def test_p11_coalescing_observers_see_each_update_on_its_way() -> None:
    wire = Wire()
    wire.script(503)
    log: list[tuple[str, str]] = []

    class Observer:
        def accepted(self, operation: str, dialog_id: str, update_id: str) -> Watching:
            return Watching(log, update_id)

    client = coalescing(wire, retry=at_once())
    client.add_observer(Observer())
    async with client:
        submit(client, 0, 1)
    for seq in (0, 1):
        seen = [what for update_id, what in log if update_id == f"u{seq}"]
        assert seen == ["starts 1", "ends 503", "starts 2", "ends 200", "settled 2"]
    # The request is told as one of the oldest.
    assert [sent.headers["x-trace"] for sent in wire.sent] == ["u0", "u0"]


async def test_p11_coalescing_counts_in_room_and_flush() -> None:
    wire = Wire(takes=1)
    async with coalescing(wire, max_pending=4) as client:
        await blocked(client, wire)
        submit(client, 1, 2, 3)
        assert client.metrics.pending == 4
        await client.flush()
        assert client.metrics.pending == 0
        assert anyio.current_time() == pytest.approx(2, abs=0.1)
        submit(client, 4, 5, 6, 7)


# Lingering.


async def sends(client: Client, wire: Wire, *moments: float) -> list[float]:
    """Submit one update at each moment; when requests came to the wire."""
    for seq, moment in enumerate(moments):
        await anyio.sleep_until(moment)
        submit(client, seq)
    await anyio.sleep(10)
    return [sent.at for sent in wire.sent]


async def test_p11_coalescing_lingers_from_its_oldest_update() -> None:
    wire = Wire()
    async with coalescing(wire, linger=1.0) as client:
        start = anyio.current_time()
        at = await sends(client, wire, *(start + moment for moment in (0, 0.4, 0.9, 1.5)))
    assert [moment - start for moment in at] == pytest.approx([1, 2.5], abs=0.01)
    assert bodies(wire) == [["v0", "v1", "v2"], ["v3"]]


async def test_p11_coalescing_does_not_linger_after_waiting_anyway() -> None:
    wire = Wire(takes=2)
    async with coalescing(wire, linger=1.0) as client:
        submit(client, 0)
        await anyio.sleep(1.5)
        assert wire.sent
        submit(client, 1, 2)
        await anyio.sleep(5)
    assert wire.sent[1].at - wire.sent[0].at == pytest.approx(2, abs=0.01)


async def test_p11_coalescing_lingers_only_what_coalesces() -> None:
    wire = Wire()
    async with coalescing(wire, linger=1.0) as client:
        submit(client, 0, coalesce=False)
        client.submit_nowait(row(1, "e", next_step="s"))
        await client.get_state("f")
        await anyio.sleep(0.1)
        assert len(wire.sent) == 3
    async with client_of(wire := Wire(), linger=1.0) as client:
        submit(client, 0)
        await anyio.sleep(0.1)
        assert len(wire.sent) == 1


@pytest.mark.parametrize("end", ["flush", "aclose", "leave"])
async def test_p11_coalescing_lingering_is_ended_by(end: str) -> None:
    wire = Wire(takes=0.1)
    async with coalescing(wire, linger=60.0) as client:
        start = anyio.current_time()
        submit(client, 0, 1)
        client.submit_nowait(row(2, "e"))
        await turns(20)
        assert not wire.sent
        if end == "flush":
            await client.flush()
            # What comes later lingers again.
            submit(client, 3)
            await anyio.sleep(5)
            assert len(wire.sent) == 2
            start += 5
        elif end == "aclose":
            await client.aclose()
    assert anyio.current_time() - start < 1
    assert sorted(bodies(wire))[:2] == [["v0", "v1"], ["v2"]]


async def test_p11_coalescing_flush_leaves_no_lingering_behind_what_is_in_flight() -> None:
    wire = Wire(takes=1)
    async with coalescing(wire, linger=60.0) as client:
        submit(client, 0, coalesce=False)
        await until(lambda: wire.sent)
        submit(client, 1, 2)
        start = anyio.current_time()
        await client.flush()
        assert anyio.current_time() - start < 3


async def test_p11_coalescing_a_close_does_not_linger_for_what_callbacks_write() -> None:
    wire = Wire()
    client = coalescing(wire, linger=5.0)

    @client.on_state_updated
    async def hook(event: UpdateEvent) -> None:
        if event.update_id == "u0":
            await client.update("e", session={"seen": 1})

    async with client:
        submit(client, 0)
        start = anyio.current_time()
    assert anyio.current_time() - start < 1
    assert client.metrics.applied == 2


async def test_p11_coalescing_what_breaks_at_one_member_keeps_no_other_from_its_outcome() -> None:
    wire = Wire()

    class Broken(Observations):
        def settled(self, error: BaseException | None, attempts: int) -> None:
            raise ZeroDivisionError

    async with coalescing(wire) as client:
        first, second, third = submit(client, 0, 1, 2)
        second._item.observations = Broken((), "update", "d", "u1")
        assert isinstance(await first, UpdateResult)
        assert isinstance(await third, UpdateResult)
        assert second.done()
        assert isinstance(await client.update("d", session={"a": 1}), UpdateResult)


@pytest.mark.parametrize("apart", [{"next_step": "s"}, {"if_match": '"0"'}], ids=str)
async def test_p11_coalescing_does_not_linger_where_nothing_more_can_join(
    apart: dict[str, str],
) -> None:
    wire = Wire()
    async with coalescing(wire, linger=60.0) as client:
        start = anyio.current_time()
        submit(client, 0, 1)
        await anyio.sleep(1)
        assert not wire.sent
        await client.submit_nowait(row(2, **apart))
        assert anyio.current_time() - start < 2
    assert bodies(wire) == [["v0", "v1"], ["v2"]]


async def test_p11_coalescing_lingers_for_the_next_when_the_oldest_is_taken_back() -> None:
    wire = Wire()
    async with coalescing(wire, linger=2.0) as client:
        start = anyio.current_time()
        (first,) = submit(client, 0)
        await anyio.sleep(1)
        (second,) = submit(client, 1)
        assert first.withdraw()
        await second
        assert anyio.current_time() - start == pytest.approx(3, abs=0.1)


async def test_p11_coalescing_lingering_respects_a_pause_of_the_dialog() -> None:
    wire = Wire()
    wire.script(throttled("10", dialog=True))
    async with coalescing(wire, linger=1.0) as client:
        start = anyio.current_time()
        (first,) = submit(client, 0)
        await anyio.sleep(2)
        submit(client, 1)
        await client.flush()
        await first
    assert [sent.at - start for sent in wire.sent] == pytest.approx([1, 11, 11], abs=0.1)


@pytest.mark.parametrize("linger", [-1, float("nan"), float("inf"), "1", True])
def test_p11_coalescing_linger_is_a_number_of_seconds(linger: Any) -> None:
    with pytest.raises(ConfigurationError, match="linger="):
        AsyncStateClient(BASE_URL, auth=ApiKey("k"), linger=linger)


async def test_p11_coalescing_isolation_a_lane_that_lingers_holds_no_worker() -> None:
    wire = Wire()
    async with coalescing(wire, linger=5.0, max_in_flight=1) as client:
        submit(client, 0)
        start = anyio.current_time()
        await client.update("other", session={"a": 1}, coalesce=False)
        assert anyio.current_time() - start < 1


async def test_p11_coalescing_takes_input_for_lanes_that_linger() -> None:
    """The stream must not wait for outcomes that wait for more of the stream."""
    wire = Wire()

    def rows() -> Iterator[dict[str, Any]]:
        for seq in range(300):
            yield row(seq)

    async with coalescing(wire, linger=1.0) as client:
        outcomes = [outcome.ok async for outcome in client.update_many(rows())]
    assert outcomes == [True] * 300
    assert len(wire.sent) <= 2


async def test_p11_coalescing_a_group_has_a_bound() -> None:
    wire = Wire()
    async with coalescing(wire) as client:
        handles = submit(client, *range(1500))
        results = [await handle for handle in handles]
    assert {result.merged for result in results} == {1000, 500}


async def test_p11_coalescing_errors_of_a_group_hold_no_values() -> None:
    wire = Wire()
    wire.script(400)
    async with coalescing(wire) as client:
        for name in "ab":
            client.submit_nowait({"dialog_id": "d", "session": {name: "c4n4ry"}})
        handle = client.submit_nowait({"dialog_id": "d", "session": {"c": "c4n4ry"}})
        error = await outcome_of(handle)
    assert isinstance(error, UpdateError)
    assert "c4n4ry" not in f"{error} {error!r} {error.__dict__}"
