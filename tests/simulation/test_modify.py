"""`modify`: read, decide, write if nothing changed meanwhile, else start over."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import Any

import anyio
import pytest

from cognigy_async import (
    AuthenticationError,
    DialogNotFoundError,
    DialogState,
    Response,
    ServerError,
    StateConflictError,
    UnexpectedAnswerError,
    UpdateEvent,
    UpdateResult,
    UpdateValidationError,
    VariableTypeError,
)
from cognigy_async.emulator import Faults
from tests.simulation.world import (
    Wire,
    all_of,
    applied,
    at_once,
    client_of,
    emulator,
    every,
    outcome_of,
    state,
    until,
)


def visits(state: DialogState) -> dict[str, Any]:
    return {"session": {"visits": state.session.get("visits", 0) + 1}}


async def test_modify_writes_what_the_function_decides() -> None:
    server = emulator()
    server.add_dialog("d", session={"visits": 4, "kept": [1]}, user={"u": 1}, next_step="start")
    seen: list[DialogState] = []

    def decide(state: DialogState) -> dict[str, Any]:
        seen.append(state)
        return {"session": {"visits": 5}, "user": {"u": 2}, "next_step": "end"}

    async with client_of(server) as client:
        result = await client.modify("d", decide)
        state = await client.get_state("d")
    assert isinstance(result, UpdateResult)
    assert (result.attempts, result.version, result.etag) == (2, 1, '"1"')
    (first,) = seen
    assert (first.dialog_id, first.next_step, first.etag, first.version) == ("d", "start", '"0"', 0)
    assert first.session == {"visits": 4, "kept": [1]}
    assert state.session == {"visits": 5, "kept": [1]}
    assert (state.user, state.next_step) == ({"u": 2}, "end")
    assert [item.if_match for item in applied(server, "d")] == ['"0"']


async def test_modify_may_decide_to_write_nothing() -> None:
    wire = Wire()
    client = client_of(wire)
    events: list[UpdateEvent] = []

    @client.on_state_updated
    @client.on_update_failed
    async def watch(event: UpdateEvent) -> None:
        events.append(event)

    async with client:
        assert await client.modify("d", lambda _: None) is None
        await client.update("d", session={"a": 1})
        await client.flush()
    assert [sent.method for sent in wire.sent] == ["GET", "PATCH"]
    assert len(events) == 1
    assert client.close_report is not None
    assert (client.close_report.applied, client.close_report.failed) == (1, 0)
    assert client.metrics.pending == 0


@pytest.mark.parametrize("conflict", [409, 412])
async def test_modify_starts_over_when_the_state_changed_meanwhile(conflict: Any) -> None:
    server = emulator(conflict_status=conflict)
    server.script("competitor", "competitor", "ok")
    seen: list[Any] = []

    def decide(state: DialogState) -> dict[str, Any]:
        seen.append(state.session.get("competitor"))
        return visits(state)

    async with client_of(server, retry=at_once()) as client:
        result = await client.modify("d", decide)
        assert result is not None
        assert result.attempts == 6
    assert seen == [None, 1, 2]
    assert server.dialogs["d"].session == {"competitor": 2, "visits": 1}
    assert server.stats.violations() == {}


async def test_modify_of_one_dialog_loses_no_update() -> None:
    server = emulator(faults=Faults(latency=0.05, latency_jitter=0.05))
    async with client_of(server, max_in_flight=8) as client:
        outcomes = await all_of(*[partial(client.modify, "d", visits)] * 50)
    assert not [outcome for outcome in outcomes if isinstance(outcome, Exception)]
    assert server.dialogs["d"].session["visits"] == 50
    # In one client they wait for their turn, and so meet no conflict.
    assert server.stats.answers == {200: 100}


async def test_modify_of_two_clients_loses_no_update() -> None:
    server = emulator(faults=Faults(latency=0.05, latency_jitter=0.05))

    async def count(number: int) -> None:
        async with client_of(server, retry=every(0.1 + number / 30)) as client:
            for _ in range(20):
                await client.modify("d", visits)

    assert await all_of(*(partial(count, number) for number in range(2))) == [None] * 2
    assert server.dialogs["d"].session["visits"] == 40
    assert server.stats.answers[409] > 0


async def test_modify_keeps_its_place_in_the_lane_between_read_and_write() -> None:
    wire = Wire(takes=1)
    async with client_of(wire) as client, anyio.create_task_group() as tasks:
        client.submit_nowait({"dialog_id": "d", "session": {"seq": 0}})
        tasks.start_soon(partial(client.modify, "d", lambda _: {"session": {"seq": 1}}))
        await anyio.sleep(1.5)
        # It reads by now; what comes later is sent later.
        client.submit_nowait({"dialog_id": "d", "session": {"seq": 2}})
    assert [(sent.method, sent.seq) for sent in wire.sent] == [
        ("PATCH", 0),
        ("GET", None),
        ("PATCH", 1),
        ("PATCH", 2),
    ]
    assert wire.peak == 1


@pytest.mark.parametrize("made", [dict, MappingProxyType, OrderedDict])
async def test_modify_takes_any_mapping(made: Any) -> None:
    wire = Wire()
    async with client_of(wire) as client:
        result = await client.modify("d", lambda _: made({"session": made({"a": 1})}))
    assert isinstance(result, UpdateResult)
    assert wire.applied[0].body == {"session": {"a": 1}}


BAD: dict[str, tuple[Any, type[Exception], str]] = {
    "a list": ([], UpdateValidationError, "modify"),
    "a number": (7, UpdateValidationError, "modify"),
    "unknown": ({"sessions": {}}, UpdateValidationError, "modify"),
    "dialog_id": ({"dialog_id": "e", "session": {"a": 1}}, UpdateValidationError, "modify"),
    "if_match": ({"if_match": "*", "session": {"a": 1}}, UpdateValidationError, "modify"),
    "empty": ({}, UpdateValidationError, "update"),
    "none": ({"session": {"a": None}}, VariableTypeError, "session.a"),
    "deep": ({"session": {"a": [[[[1]]]]}}, UpdateValidationError, "session.a"),
    "name": ({"user": {"1": 1}}, UpdateValidationError, "user.1"),
    "large": ({"session": {"a": "x" * 600_000}}, UpdateValidationError, "conditional"),
}


@pytest.mark.parametrize("bad", BAD)
async def test_modify_refuses_what_is_no_assignment_and_sends_nothing(bad: str) -> None:
    assignment, kind, said = BAD[bad]
    wire = Wire()
    async with client_of(wire) as client:
        error = await outcome_of(client.modify("d", lambda _: assignment))
        assert type(error) is kind
        assert said in str(error)
        # The dialog goes on.
        await client.update("d", session={"a": 1})
    assert [sent.method for sent in wire.sent] == ["GET", "PATCH"]
    assert client.metrics.pending == 0


async def test_modify_raises_what_the_function_raises() -> None:
    class OutOfStockError(Exception):
        pass

    def decide(_: DialogState) -> Mapping[str, Any]:
        raise OutOfStockError

    wire = Wire()
    async with client_of(wire) as client:
        with pytest.raises(OutOfStockError):
            await client.modify("d", decide)
        await client.update("d", session={"a": 1})
    assert [sent.method for sent in wire.sent] == ["GET", "PATCH"]
    assert client.metrics.pending == 0


async def test_modify_of_a_state_without_a_version_is_refused() -> None:
    wire = Wire()
    wire.script(Response(200, {}, b'{"session": {}}'), method="GET")
    async with client_of(wire) as client:
        error = await outcome_of(client.modify("d", visits))
    assert isinstance(error, UnexpectedAnswerError)
    assert "version" in str(error)
    assert wire.writes() == []


@pytest.mark.parametrize(
    ("answer", "kind"),
    [(404, DialogNotFoundError), (401, AuthenticationError), (500, ServerError)],
)
async def test_modify_fails_as_a_read_does(answer: int, kind: type[Exception]) -> None:
    wire = Wire()
    wire.script(*[answer] * 3, method="GET")
    client = client_of(wire, retry=at_once(max_attempts=3))
    events: list[UpdateEvent] = []

    @client.on_update_failed
    async def watch(event: UpdateEvent) -> None:
        events.append(event)

    async with client:
        error = await outcome_of(client.modify("d", visits))
        assert type(error) is kind
        await client.flush()
    # It was nothing yet that could have been written.
    assert [event.update for event in events] == [None]
    assert events[0].payload == {}


async def test_modify_gives_up_when_others_write_all_the_time() -> None:
    server = emulator(faults=Faults(competitor=1.0))
    async with client_of(server, retry=every(10, max_elapsed=100)) as client:
        error = await outcome_of(client.modify("d", visits))
        assert isinstance(error, StateConflictError)
        assert error.current_version is not None
        assert anyio.current_time() < 130
    assert "visits" not in server.dialogs["d"].session


@pytest.mark.parametrize("method", ["update", "modify"])
async def test_conflicts_that_never_end_are_given_up_after_max_elapsed(method: str) -> None:
    """The reads between the refused writes count against the time, although they succeed."""
    fault = {"update": Faults(conflict=1.0), "modify": Faults(competitor=1.0)}[method]
    server = emulator(faults=replace(fault, latency=0.5))
    began = anyio.current_time()
    async with client_of(server, retry=at_once(max_attempts=1, max_elapsed=10)) as client:
        calls: dict[str, Callable[[], Any]] = {
            "update": lambda: client.update("d", session={"visits": 1}),
            "modify": lambda: client.modify("d", visits),
        }
        error = await outcome_of(calls[method]())
    assert isinstance(error, StateConflictError)
    # Requests of half a second, one after the other.
    assert 10 < anyio.current_time() - began <= 11.5
    assert 20 < error.attempts <= 23


async def test_modify_tells_its_callbacks_what_was_written() -> None:
    wire = Wire()
    client = client_of(wire)
    events: list[UpdateEvent] = []

    @client.on_state_updated
    async def watch(event: UpdateEvent) -> None:
        events.append(event)

    async with client:
        result = await client.modify("d", lambda _: {"session": {"a": 1}, "next_step": "s"})
        await client.flush()
    assert result is not None
    assert events[0].payload == {"session": {"a": 1}, "transition": {"nextStep": "s"}}
    assert events[0].update_id == result.update_id == wire.writes()[0].key


async def test_modify_withdrawn_before_it_writes_writes_nothing() -> None:
    wire = Wire(takes=2)
    async with client_of(wire) as client:
        with anyio.move_on_after(1):
            await client.modify("d", visits)
        await until(lambda: wire.sent)
        await anyio.sleep(5)
        assert [sent.method for sent in wire.sent] == ["GET"]
        await client.update("d", session={"a": 1})
    assert client.metrics.withdrawn == 1


async def test_modify_needs_a_function_and_a_dialog() -> None:
    async with client_of(Wire()) as client:
        with pytest.raises(TypeError, match="function"):
            await client.modify("d", {"session": {"a": 1}})  # type: ignore[arg-type]
        with pytest.raises(UpdateValidationError):
            await client.modify("", visits)
        with pytest.raises(UpdateValidationError):
            await client.modify("x" * 257, visits)
        with pytest.raises(UpdateValidationError):
            await client.get_state(" ")
        assert client.metrics.pending == 0


async def test_get_state_of_answers_that_are_no_state() -> None:
    wire = Wire()
    async with client_of(wire, retry=at_once(max_attempts=2)) as client:
        for content in (b"", b"[]", b"<html>", b'{"session": [1]}', b'{"session": {"a":'):
            wire.script(*[Response(200, {}, content)] * 2, method="GET")
            error = await outcome_of(client.get_state("d"))
            assert isinstance(error, UnexpectedAnswerError), content
        wire.script(Response(200, {}, b"{}"), method="GET")
        empty = await client.get_state("d")
        assert (empty.session, empty.user, empty.next_step, empty.etag, empty.version) == (
            {},
            {},
            None,
            None,
            None,
        )
        wire.script(state(9, visits=3), method="GET")
        assert (await client.get_state("d")).session == {"visits": 3}
    assert client.metrics.reads == 2


@pytest.mark.parametrize("status", [409, 412])
async def test_modify_of_a_dialog_that_others_write_ends_behind_a_weakening_proxy(
    status: int,
) -> None:
    """Each refusal is of another etag, and each etag is weak."""
    wire = Wire(answer=status)
    wire.script(
        *[Response(200, {"etag": f'W/"{number}"'}, b"{}") for number in range(99)], method="GET"
    )
    async with client_of(wire) as client:
        error = await outcome_of(client.modify("d", visits))
    assert isinstance(error, StateConflictError)
    assert "weak" in str(error)
    assert len(wire.writes()) == 5
    assert anyio.current_time() < 30


async def test_modify_goes_on_where_the_server_accepts_weak_etags() -> None:
    wire = Wire()
    weak = [Response(200, {"etag": f'W/"{number}"'}, b"{}") for number in range(99)]
    async with client_of(wire) as client:
        wire.script(*weak, method="GET")
        await client.modify("d", visits)
        wire.script(*[412] * 8)
        await client.modify("d", visits)
    assert len(wire.writes()) == 10
