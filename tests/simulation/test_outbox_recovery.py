"""An update whose process died is resolved from the state, before others of its dialog."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import anyio
import pytest

from cognigy_async import (
    AmbiguousUpdateError,
    AuthenticationError,
    DeadlineExceededError,
    DialogNotFoundError,
    Limits,
    MemoryAudit,
    OutboxError,
    Request,
    Response,
    RuntimeApi,
    ServerError,
    SessionsApi,
    StateUpdate,
    UpdateEvent,
    UpdateResult,
)
from cognigy_async.engine.coalescing import key_of
from cognigy_async.spi import Intent
from tests.simulation.outbox import MemoryOutbox
from tests.simulation.world import (
    DROPPED,
    Reply,
    Wire,
    all_of,
    at_once,
    client_of,
    emulator,
    every,
    never,
    outcome_of,
    state,
    status,
    turns,
    until,
)


def intent(update_id: str = "u-1", /, **changes: Any) -> Intent:
    """An update of dialog d that assigns 1 to a, sent a second ago on top of version 4."""
    fields = {"session": {"a": 1}} | changes.pop("fields", {})
    dialog_id = changes.pop("dialog_id", "d")
    values: dict[str, Any] = {
        "dialog_id": dialog_id,
        "update_id": update_id,
        "update": StateUpdate(dialog_id, **fields),
        "metadata": {"m": "x"},
        "key": update_id,
        "etag": '"4"',
        "repeatable": True,
        "deadline": None,
        "recorded_at": time.time() - 1.0,
    }
    return Intent(**values | changes)


async def resolved(wire: Wire, *intents: Intent, **options: Any) -> list[Any]:
    """Open a client over what a dead process left: the result or the error of each update."""
    outbox = MemoryOutbox(delay=0.01, left=intents)
    async with client_of(wire, outbox=outbox, **options) as client:
        await client.flush()
        assert client.metrics.pending == 0
        assert outbox.intents == {}
        assert client.metrics.applied + client.metrics.ambiguous == len(intents)
    return [event.result or event.error for event in outbox.events]


def methods(wire: Wire) -> list[str]:
    return [sent.method for sent in wire.sent]


async def test_it_is_applied_if_all_its_values_are_there() -> None:
    wire, audit = Wire(), MemoryAudit()
    wire.script(state(5, a=1, b=2), method="GET")
    outbox = MemoryOutbox(left=[intent()])
    client = client_of(wire, outbox=outbox, audit=audit)
    events: list[UpdateEvent] = []

    @client.on_state_updated
    async def heard(event: UpdateEvent) -> None:
        events.append(event)

    async with client:
        await client.flush()
        assert client.metrics.applied == 1
    assert methods(wire) == ["GET"]
    (event,) = outbox.events
    result = event.result
    assert isinstance(result, UpdateResult)
    assert (result.status, result.etag, result.version) == (200, '"5"', 5)
    assert (result.attempts, result.update_id, result.carried_by) == (1, "u-1", "u-1")
    assert (event.metadata, event.payload) == ({"m": "x"}, {"session": {"a": 1}})
    assert [each.result for each in events] == [result]
    assert [record.outcome for record in audit.records] == ["applied"]


@pytest.mark.parametrize(
    ("assigned", "found", "there"),
    [
        ({"a": 1}, {"a": 1.0}, True),
        ({"a": 1}, {"a": True}, False),
        ({"a": {"b": [1, {"c": "x"}]}}, {"a": {"b": [1, {"c": "x"}]}}, True),
        ({"a": {"b": [1]}}, {"a": {"b": [1], "c": 2}}, False),
        ({"a": [1, 2]}, {"a": [1]}, False),
        ({"a": 1, "b": 2}, {"a": 1}, False),
        ({"a": "1"}, {"a": 1}, False),
        ({"a": [True]}, {"a": [1]}, False),
    ],
)
async def test_its_values_are_compared_as_json(assigned: Any, found: Any, there: bool) -> None:
    wire = Wire()
    wire.script(state(5, **found), method="GET")
    (outcome,) = await resolved(wire, intent(fields={"session": assigned}))
    assert isinstance(outcome, UpdateResult if there else AmbiguousUpdateError)
    assert methods(wire) == ["GET"]


@pytest.mark.parametrize("moves", [False, True])
async def test_it_is_sent_again_if_the_version_is_that_before_it(moves: bool) -> None:
    wire = Wire()
    fields = {"next_step": "s"} if moves else {}
    wire.script(state(4, a=7), method="GET")
    wire.versions["d"] = 4
    (outcome,) = await resolved(wire, intent("u-1", fields=fields, key="u-1/r2"))
    assert isinstance(outcome, UpdateResult)
    assert methods(wire) == ["GET", "PATCH"]
    write = wire.sent[1]
    assert (write.key, write.headers["if-match"]) == ("u-1/r2", '"4"')
    assert (write.session, write.moves, outcome.etag) == ({"a": 1}, moves, '"5"')


async def test_a_transition_to_the_node_where_the_dialog_was_before_is_not_taken_for_applied() -> (
    None
):
    server = emulator()
    server.add_dialog("d", session={"a": 1}, next_step="s")
    outbox = MemoryOutbox(left=[intent(fields={"next_step": "s"}, etag='"0"')])
    async with client_of(server, outbox=outbox) as client:
        await client.flush()
    (write,) = server.dialogs["d"].history
    assert (write.key, write.if_match) == ("u-1", '"0"')
    assert outbox.events[0].result is not None


async def test_a_transition_that_arrived_is_applied() -> None:
    server = emulator()
    server.add_dialog("d", session={"a": 1}, next_step="s")
    outbox = MemoryOutbox(left=[intent(fields={"next_step": "s"}, etag='"4"')])
    async with client_of(server, outbox=outbox) as client:
        await client.flush()
    assert server.dialogs["d"].history == []
    assert outbox.events[0].result is not None


PROBLEMS: dict[str, tuple[Intent, Response, str]] = {
    "others": (intent(), state(5, a=2), "other values"),
    "unknown": (intent(etag=None), state(4, a=2), "other values"),
    "weak": (
        intent(etag='W/"4"'),
        Response(200, {"etag": 'W/"4"'}, b'{"session": {"a": 2}}'),
        "other values",
    ),
    "raise": (intent(repeatable=False), state(4, a=2), "forbids a repeat"),
    "late": (intent(deadline=time.time() - 1.0), state(4, a=2), "deadline has passed"),
    "moved": (intent(fields={"next_step": "s"}), state(5, a=1), "other values"),
}


@pytest.mark.parametrize("problem", PROBLEMS)
async def test_it_is_ambiguous_if_it_must_not_be_sent_again(problem: str) -> None:
    left, answer, text = PROBLEMS[problem]
    wire = Wire()
    wire.script(answer, method="GET")
    outbox = MemoryOutbox(left=[left])
    client = client_of(wire, outbox=outbox)
    events: list[UpdateEvent] = []

    @client.on_update_failed
    async def heard(event: UpdateEvent) -> None:
        events.append(event)

    async with client:
        await client.flush()
    assert methods(wire) == ["GET"]
    (event,) = outbox.events
    error = event.error
    assert isinstance(error, AmbiguousUpdateError)
    assert "The process that sent the update died" in str(error)
    assert text in str(error)
    assert (error.dialog_id, error.update_id, error.attempts) == ("d", "u-1", 1)
    assert [each.error for each in events] == [error]


@pytest.mark.parametrize("left", [intent(repeatable=False), intent(deadline=time.time() - 1.0)])
async def test_its_values_decide_even_if_it_must_not_be_sent_again(left: Intent) -> None:
    wire = Wire()
    wire.script(state(5, a=1), method="GET")
    (outcome,) = await resolved(wire, left)
    assert isinstance(outcome, UpdateResult)


async def test_a_server_that_ignores_conditions_gets_no_repeat() -> None:
    wire = Wire()
    wire.script(state(4, a=2), method="GET")
    (outcome,) = await resolved(wire, intent(), api=RuntimeApi(conditional_writes=False))
    assert isinstance(outcome, AmbiguousUpdateError)


# Dialogs that cannot be read.

UNREADABLE: dict[str, tuple[Callable[[], Any], tuple[Reply, ...]]] = {
    "404": (RuntimeApi, (404,)),
    "405": (RuntimeApi, (405,)),
    "501": (RuntimeApi, (501,)),
    "403": (RuntimeApi, (403,)),
    "no reads": (lambda: SessionsApi(user_id="u"), ()),
}


@pytest.mark.parametrize("how", UNREADABLE)
async def test_a_dialog_that_cannot_be_read_gets_the_update_again_for_a_while(how: str) -> None:
    api, answers = UNREADABLE[how]
    wire = Wire()
    wire.script(*answers, method="GET")
    (outcome,) = await resolved(wire, intent(), api=api())
    assert isinstance(outcome, UpdateResult)
    (write,) = wire.writes()
    assert write.session == {"a": 1}
    assert "if-match" not in write.headers
    assert len(wire.sent) == 1 + len(answers)


@pytest.mark.parametrize("how", UNREADABLE)
@pytest.mark.parametrize(
    "left",
    [
        intent(recorded_at=time.time() - 31.0),
        intent(deadline=time.time() - 1.0),
        intent(repeatable=False),
        intent(fields={"next_step": "s"}),
    ],
    ids=["old", "late", "raise", "transition"],
)
async def test_a_dialog_that_cannot_be_read_gets_nothing_else_again(how: str, left: Intent) -> None:
    api, answers = UNREADABLE[how]
    wire = Wire()
    wire.script(*answers, method="GET")
    (outcome,) = await resolved(wire, left, api=api())
    assert isinstance(outcome, AmbiguousUpdateError)
    assert "cannot be read" in str(outcome)
    assert wire.writes() == []


async def test_a_repeat_without_a_read_comes_in_time_or_never() -> None:
    wire = Wire()
    wire.script(503, 503)
    api = SessionsApi(user_id="u")
    (outcome,) = await resolved(wire, intent(), api=api, retry=every(20.0))
    assert isinstance(outcome, AmbiguousUpdateError)
    assert isinstance(outcome.__cause__, DeadlineExceededError)
    assert len(wire.sent) == 2


@pytest.mark.parametrize("with_variables", [False, True])
async def test_a_message_is_never_sent_again(with_variables: bool) -> None:
    wire = Wire()
    fields: dict[str, Any] = {"inject": {"text": "hello"}, "user_id": "u"}
    if not with_variables:
        fields["session"] = None
    (outcome,) = await resolved(wire, intent(fields=fields))
    assert isinstance(outcome, AmbiguousUpdateError)
    assert "message" in str(outcome)
    assert wire.sent == []


# Failures on the way.


@pytest.mark.parametrize("failure", [503, 500, 429, 401, DROPPED], ids=str)
async def test_a_read_that_fails_is_repeated(failure: Reply) -> None:
    wire = Wire()
    wire.script(failure, state(5, a=1), method="GET")
    (outcome,) = await resolved(wire, intent(), retry=at_once())
    if failure == 401:
        # The only key is refused.
        assert isinstance(outcome, AmbiguousUpdateError)
        assert isinstance(outcome.__cause__, AuthenticationError)
        return
    assert isinstance(outcome, UpdateResult)
    assert outcome.attempts == 2


async def test_reads_that_go_on_failing_leave_it_ambiguous() -> None:
    wire = Wire(answer=500)
    (outcome,) = await resolved(wire, intent(), retry=at_once(max_attempts=3))
    assert isinstance(outcome, AmbiguousUpdateError)
    assert isinstance(outcome.__cause__, ServerError)
    assert methods(wire) == ["GET"] * 3


async def test_it_waits_for_a_server_that_is_away() -> None:
    wire = Wire(answer=DROPPED)
    outbox = MemoryOutbox(left=[intent(f"u-{i}", dialog_id=f"d-{i}") for i in range(100)])
    async with client_of(wire, outbox=outbox) as client:
        await anyio.sleep(3600.0)
        assert outbox.events == []
        wire.answers(state(5, a=1))
        await client.flush()
    assert len(outbox.events) == 100
    assert all(event.result is not None for event in outbox.events)


@pytest.mark.parametrize(
    ("then", "kind"), [(state(5, a=1), UpdateResult), (state(5, a=3), AmbiguousUpdateError)]
)
@pytest.mark.parametrize("failure", [412, 409, DROPPED, 504], ids=str)
async def test_a_repeat_that_fails_is_followed_by_another_read(
    failure: Reply, then: Response, kind: type
) -> None:
    wire = Wire()
    wire.script(state(4, a=2), then, method="GET")
    wire.script(failure)
    (outcome,) = await resolved(wire, intent(), retry=at_once())
    assert isinstance(outcome, kind)
    assert methods(wire) == ["GET", "PATCH", "GET"]


async def test_a_repeat_that_is_refused_is_ambiguous() -> None:
    wire = Wire()
    wire.script(state(4, a=2), method="GET")
    wire.script(404)
    (outcome,) = await resolved(wire, intent())
    assert isinstance(outcome, AmbiguousUpdateError)
    assert isinstance(outcome.__cause__, DialogNotFoundError)


async def test_a_repeat_that_a_pause_delays_beyond_its_deadline_is_not_sent() -> None:
    wire = Wire()
    wire.script(state(4, a=2), method="GET")
    wire.script(status(503, {"retry-after": "100"}))
    (outcome,) = await resolved(wire, intent(deadline=time.time() + 60.0))
    assert isinstance(outcome, AmbiguousUpdateError)
    assert methods(wire) == ["GET", "PATCH"]


async def test_an_outcome_of_it_that_is_not_recorded_stays() -> None:
    wire, outbox = Wire(), MemoryOutbox(left=[intent()])
    wire.script(state(5, a=1), method="GET")
    outbox.fails = lambda verb, _: OutboxError("full") if verb == "settle" else None
    async with client_of(wire, outbox=outbox) as client:
        await client.flush()
        assert (client.metrics.applied, client.metrics.ambiguous) == (0, 1)
    assert list(outbox.intents) == ["u-1"]


# Several updates.


def group(count: int, **changes: Any) -> list[Intent]:
    ids = [f"g-{i}" for i in range(count)]
    key = key_of(ids)
    rows: list[dict[str, Any]] = [{"a": i, f"v{i}": i} for i in range(count)]
    return [
        intent(each, key=key, fields={"session": row}, **changes)
        for each, row in zip(ids, rows, strict=True)
    ]


async def test_updates_that_were_sent_together_are_found_together() -> None:
    wire = Wire()
    # Only the last one's value of `a` is there, as after any request of the three.
    wire.script(state(5, a=2, v0=0, v1=1, v2=2), method="GET")
    outcomes = await resolved(wire, *group(3))
    assert [outcome.update_id for outcome in outcomes] == ["g-0", "g-1", "g-2"]
    assert [outcome.merged for outcome in outcomes] == [3, 3, 3]
    assert methods(wire) == ["GET"]


async def test_updates_that_were_sent_together_are_sent_together_again() -> None:
    wire = Wire()
    wire.script(state(4), method="GET", dialog_id="d")
    outcomes = await resolved(wire, *group(3), intent("other", dialog_id="o", etag='"0"'))
    assert len(outcomes) == 4
    (write,) = wire.writes("d")
    assert write.key == group(3)[0].key
    assert write.session == {"a": 2, "v0": 0, "v1": 1, "v2": 2}


async def test_updates_that_were_sent_together_are_ambiguous_together() -> None:
    wire = Wire()
    wire.script(state(6, a=2), method="GET")
    outcomes = await resolved(wire, *group(3))
    assert [type(outcome) for outcome in outcomes] == [AmbiguousUpdateError] * 3
    assert [outcome.update_id for outcome in outcomes] == ["g-0", "g-1", "g-2"]


async def test_updates_of_several_dead_processes_are_resolved_in_order() -> None:
    wire = Wire()
    wire.script(state(4, a=0), method="GET")
    wire.script(state(5, a=1, b=2), method="GET")
    wire.versions["d"] = 4
    left = [intent("u-1"), intent("u-2", fields={"session": {"b": 2}})]
    outcomes = await resolved(wire, *left)
    assert [outcome.update_id for outcome in outcomes] == ["u-1", "u-2"]
    assert methods(wire) == ["GET", "PATCH", "GET"]


async def test_updates_that_cannot_be_sent_together_again_are_found_one_by_one() -> None:
    wire = Wire(answer=state(5, a=2, v0=0, v1=1, v2=2))
    outcomes = await resolved(wire, *group(3), limits=Limits(max_context_bytes=25))
    # Later updates of the request replaced the first two values of `a`.
    kinds = [AmbiguousUpdateError, AmbiguousUpdateError, UpdateResult]
    assert [type(outcome) for outcome in outcomes] == kinds
    wire = Wire(answer=state(4))
    outcomes = await resolved(wire, *group(3), limits=Limits(max_context_bytes=25))
    assert [type(outcome) for outcome in outcomes] == [AmbiguousUpdateError] * 3
    assert wire.writes() == []


async def test_updates_of_its_dialog_wait_and_others_do_not() -> None:
    wire = Wire(takes=1.0)
    wire.script(503, state(5, a=1), method="GET")
    outbox = MemoryOutbox(left=[intent()])
    async with client_of(wire, outbox=outbox, retry=every(10.0)) as client:
        began = anyio.current_time()
        behind = client.submit_nowait({"dialog_id": "d", "session": {"a": 2}})
        await client.update("o", session={"a": 1})
        assert anyio.current_time() - began < 5.0
        result = await behind
        assert anyio.current_time() - began > 10.0
    assert [event.update_id for event in outbox.events if event.dialog_id == "d"] == [
        "u-1",
        result.update_id,
    ]
    assert [sent.method for sent in wire.sent if sent.dialog_id == "d"] == ["GET", "GET", "PATCH"]


@pytest.mark.parametrize("at", ["waiting", "in flight", "idle"])
async def test_a_client_that_runs_resolves_before_what_waits(at: str) -> None:
    wire, outbox = Wire(takes=1.0), MemoryOutbox()
    wire.script(state(5, a=1), method="GET")
    async with client_of(wire, outbox=outbox, max_in_flight=1) as client:
        assert outbox.client is not None
        first = client.submit_nowait(
            {"dialog_id": "x" if at == "waiting" else "d", "next_step": "s"}
        )
        await anyio.sleep(0.5 if at != "idle" else 2.0)
        rows = [client.submit_nowait({"dialog_id": "d", "session": {"seq": i}}) for i in range(2)]
        left = [intent("u-1"), intent("u-2", fields={"session": {"b": 2}}, etag='"9"')]
        for each in left:
            outbox.intents[each.update_id] = each
        if at == "idle":
            for row in rows:
                await row
        flushed = anyio.Event()

        async def flush() -> None:
            await client.flush()
            assert all(row.done() for row in rows)
            flushed.set()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(flush)
            await turns(1)
            outbox.client.resolve(left)
            await flushed.wait()
        await client.flush()
        await first
        assert client.metrics.pending == 0
    ids = [event.update_id for event in outbox.events if event.dialog_id == "d"]
    own = [row.update_id for row in rows]
    expected = {
        "waiting": ["u-1", "u-2", *own],
        "in flight": [first.update_id, "u-1", "u-2", *own],
        "idle": [first.update_id, *own, "u-1", "u-2"],
    }
    assert ids == expected[at]


async def test_a_paused_dialog_resolves_when_it_is_resumed() -> None:
    wire, outbox = Wire(), MemoryOutbox()
    wire.script(400)
    async with client_of(wire, outbox=outbox, on_failure="pause") as client:
        await outcome_of(client.update("d", session={"a": 0}))
        assert outbox.client is not None
        outbox.intents["u-1"] = intent()
        outbox.client.resolve([intent()])
        await client.update("o", session={"a": 1})
        wire.script(state(5, a=1), method="GET")
        client.resume("d")
        await client.flush()
    assert [event.update_id for event in outbox.events][-1] == "u-1"
    assert outbox.intents == {}


async def test_an_ambiguous_one_pauses_its_dialog_and_those_behind_it_wait() -> None:
    wire, outbox = Wire(), MemoryOutbox(left=[intent("u-1"), intent("u-2")])
    wire.script(state(5, a=9), state(6, a=1), method="GET")
    async with client_of(wire, outbox=outbox, on_failure="pause") as client:
        await until(lambda: client.paused_dialogs())
        paused = client.paused_dialogs()["d"]
        assert isinstance(paused.__cause__, AmbiguousUpdateError)
        assert (paused.waiting, list(outbox.intents)) == (1, ["u-2"])
        client.resume("d")
        await client.flush()
    assert [event.result is not None for event in outbox.events] == [False, True]


async def test_a_read_after_a_conflict_waits_until_it_can_show_the_write() -> None:
    times: list[float] = []

    async def read(_: Request) -> Response:
        times.append(anyio.current_time())
        return state(4, a=2) if len(times) == 1 else state(5, a=1)

    wire = Wire()
    wire.script(read, read, method="GET")
    wire.script(412)
    (outcome,) = await resolved(wire, intent(), api=RuntimeApi(read_delay=7.0), retry=at_once())
    assert isinstance(outcome, UpdateResult)
    assert times[1] - times[0] >= 7.0


# Closing.


async def test_a_close_leaves_the_rest_to_the_next_process() -> None:
    async def slowly(_: Request) -> Response:
        await anyio.sleep(5.0)
        return state(5, a=1)

    wire = Wire(answer=slowly)
    left = [intent(f"u-{i}", dialog_id=f"d-{i}") for i in range(3)] + group(2)
    outbox = MemoryOutbox(left=left)
    client = client_of(wire, outbox=outbox, max_in_flight=1)
    failed: list[UpdateEvent] = []

    @client.on_update_failed
    async def heard(event: UpdateEvent) -> None:
        failed.append(event)

    async with client:
        await anyio.sleep(1.0)
        report = await client.aclose(drain=False)
    # The read under way decides; the others were not read.
    assert [event.update_id for event in outbox.events] == ["u-0"]
    assert len(outbox.intents) == 4
    assert (report.unsent, report.failed, report.ambiguous, failed) == ((), 0, 0, [])
    assert client.metrics.pending == 0
    assert outbox.client is not None
    outbox.client.resolve(left)
    assert client.metrics.pending == 0


async def test_a_close_that_cuts_a_read_off_leaves_it_to_the_next_process() -> None:
    wire, outbox = Wire(answer=never), MemoryOutbox(left=[intent(), *group(2, dialog_id="e")])
    client = client_of(wire, outbox=outbox, timeout=1000.0)
    async with client:
        await until(lambda: len(wire.sent) == 2)
        report = await client.aclose(timeout=2.0)
    assert (report.unsent, report.ambiguous) == ((), 0)
    assert (outbox.events, len(outbox.intents), client.metrics.pending) == ([], 3, 0)


async def test_a_close_with_drain_waits_for_them() -> None:
    wire = Wire(takes=1.0, answer=state(5, a=1))
    left = [intent(f"u-{i}", dialog_id=f"d-{i}") for i in range(10)]
    outbox = MemoryOutbox(left=left)
    async with client_of(wire, outbox=outbox, max_in_flight=2):
        pass
    assert len(outbox.events) == 10


async def test_many_are_resolved_side_by_side() -> None:
    server = emulator()
    left = []
    for number in range(40):
        dialog = f"d-{number}"
        server.add_dialog(dialog, session={"a": number % 2})
        left.append(intent(f"u-{number}", dialog_id=dialog, etag='"0"'))
    outbox = MemoryOutbox(delay=0.01, left=left)
    async with client_of(server, outbox=outbox) as client:
        rows = [partial(client.update, each.dialog_id, session={"b": 1}) for each in left]
        assert not [one for one in await all_of(*rows) if isinstance(one, Exception)]
    assert len(outbox.events) == 80
    assert all(event.result is not None for event in outbox.events)
    for number in range(40):
        dialog_state = server.dialogs[f"d-{number}"]
        assert (dialog_state.session["a"], dialog_state.session["b"]) == (1, 1)
    assert server.stats.violations() == {}
