"""Values that are converted, and typed variables, in each method that sends."""

from __future__ import annotations

import datetime
from collections.abc import AsyncIterator, Mapping
from typing import Any, TypedDict

import pytest
from pydantic import BaseModel

from cognigy_async import DialogState, StateUpdate, UpdateValidationError, VariableTypeError
from tests.simulation.world import Wire, client_of, emulator

DAY = datetime.date(2025, 2, 3)


class MySession(BaseModel):
    visits: int
    since: datetime.date


class Row(TypedDict):
    dialog_id: str
    session: dict[str, Any]


def sent(wire: Wire) -> list[dict[str, Any]]:
    return [request.session for request in wire.sent]


async def test_each_method_converts_the_values_of_a_client_that_encodes() -> None:
    wire = Wire()
    row: Row = {"dialog_id": "d-1", "session": {"day": DAY}}

    async def rows() -> AsyncIterator[Row]:
        yield row

    async with client_of(wire, encode="json") as client:
        await client.update("d-1", session={"day": DAY}, user={"day": (DAY,)})
        await (await client.submit(row))
        await client.submit_nowait(row)
        assert [outcome.ok async for outcome in client.update_many([row])] == [True]
        assert [outcome.ok async for outcome in client.update_many(rows())] == [True]
    assert sent(wire) == [{"day": "2025-02-03"}] * 5
    assert wire.sent[0].body["user"] == {"day": ["2025-02-03"]}


async def test_what_modify_returns_is_converted() -> None:
    server = emulator()
    async with client_of(server, encode="json") as client:
        await client.update("d-1", session={"visits": 1})
        await client.modify("d-1", lambda _: {"session": {"day": DAY}})
        assert (await client.get_state("d-1")).session == {"visits": 1, "day": "2025-02-03"}


async def test_without_conversion_nothing_is_sent() -> None:
    wire = Wire()
    async with client_of(wire) as client:
        with pytest.raises(VariableTypeError, match=r"value\.isoformat\(\)"):
            await client.update("d-1", session={"day": DAY})
        [outcome] = [
            one async for one in client.update_many([{"dialog_id": "d", "user": {"a": DAY}}])
        ]
        assert isinstance(outcome.error, VariableTypeError)
    assert not wire.sent


async def test_variables_that_do_not_fit_the_model_are_refused_before_anything_is_sent() -> None:
    wire = Wire()
    wrong: dict[str, Any] = {"dialog_id": "d-1", "session": {"visits": "1"}}
    async with client_of(wire, variables=MySession) as client:
        assert client.limits.variables is MySession
        with pytest.raises(UpdateValidationError, match=r"session\.visits: does not fit"):
            await client.update("d-1", session={"visits": "1"})
        with pytest.raises(
            UpdateValidationError, match=r"session\.visist: MySession has no variable"
        ):
            await client.submit({"dialog_id": "d-1", "session": {"visist": 1}})
        with pytest.raises(UpdateValidationError, match=r"session\.visits"):
            client.submit_nowait(StateUpdate(**wrong))
        rows = [wrong, {"dialog_id": "d-1", "session": {"visits": 2}}]
        outcomes = [outcome async for outcome in client.update_many(rows)]
        assert [outcome.ok for outcome in sorted(outcomes, key=lambda one: one.index)] == [
            False,
            True,
        ]
        await client.update("d-1", session={"since": "2025-02-03"}, user={"anything": 1})
    assert sent(wire) == [{"visits": 2}, {"since": "2025-02-03"}]


async def test_what_modify_returns_must_fit_the_model() -> None:
    server = emulator()

    def decide(state: DialogState) -> Mapping[str, Any]:
        return {"session": {"visits": "many"}}

    async with client_of(server, variables=MySession) as client:
        await client.update("d-1", session={"visits": 1})
        with pytest.raises(UpdateValidationError, match=r"session\.visits"):
            await client.modify("d-1", decide)
        assert (await client.get_state("d-1")).session == {"visits": 1}


async def test_converted_values_are_checked_against_the_model() -> None:
    wire = Wire()
    async with client_of(wire, variables=MySession, encode="json") as client:
        await client.update("d-1", session={"since": DAY})
        with pytest.raises(UpdateValidationError, match=r"session\.visits"):
            await client.update("d-1", session={"visits": DAY})
    assert sent(wire) == [{"since": "2025-02-03"}]


async def test_updates_that_share_a_request_were_checked_one_by_one() -> None:
    wire = Wire()
    rows: list[dict[str, Any]] = [
        {"dialog_id": "d-1", "session": {"visits": 1}},
        {"dialog_id": "d-1", "session": {"since": "2025-02-03"}},
        {"dialog_id": "d-1", "session": {"since": 5}},
    ]
    async with client_of(wire, variables=MySession, coalesce=True, linger=0.1) as client:
        outcomes = [outcome async for outcome in client.update_many(rows)]
    assert sorted(outcome.ok for outcome in outcomes) == [False, True, True]
    assert sent(wire) == [{"visits": 1, "since": "2025-02-03"}]
