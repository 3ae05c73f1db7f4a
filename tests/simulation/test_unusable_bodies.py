"""Responses whose head is complete and whose body cannot be used."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from cognigy_async import (
    AmbiguousUpdateError,
    BadRequestError,
    Response,
    ServerError,
    UnexpectedAnswerError,
)

from .world import Wire, at_once, client_of, every, outcome_of, state

REASON = "the body is cut off"


def without_body(status: int, **headers: str) -> Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Response(status, named, body_error=REASON)


@pytest.mark.parametrize(
    "update", [{"session": {"a": 1}}, {"next_step": "s"}], ids=["variables", "transition"]
)
async def test_an_update_is_applied_by_its_status(update: dict[str, Any]) -> None:
    wire = Wire()
    wire.script(without_body(200, etag='"7"'))
    async with client_of(wire) as client:
        result = await client.update("d", **update)
    assert (result.status, result.etag, result.body, result.version) == (200, '"7"', None, None)
    assert len(wire.sent) == 1


async def test_retry_after_counts() -> None:
    wire = Wire()
    wire.script(without_body(429, retry_after="7"))
    async with client_of(wire, retry=at_once()) as client:
        await client.update("d", session={"a": 1})
    first, second = wire.sent
    assert second.at - first.at >= 7


async def test_an_error_is_that_of_the_status() -> None:
    wire = Wire()
    wire.script(without_body(400))
    async with client_of(wire) as client:
        error = await outcome_of(client.update("d", session={"a": 1}))
    assert isinstance(error, BadRequestError)
    assert f"rejected the payload; {REASON}" in str(error)
    assert len(wire.sent) == 1


async def test_a_transition_that_was_answered_500_is_ambiguous_all_the_same() -> None:
    wire = Wire()
    wire.script(without_body(500))
    async with client_of(wire) as client:
        error = await outcome_of(client.update("d", next_step="s"))
    assert isinstance(error, AmbiguousUpdateError)
    assert isinstance(error.__cause__, ServerError)
    assert REASON in str(error.__cause__)


async def test_a_read_is_repeated() -> None:
    wire = Wire()
    wire.script(without_body(200, etag='"7"'), state(8, visits=2), method="GET")
    async with client_of(wire, retry=every(1)) as client:
        assert (await client.get_state("d")).session == {"visits": 2}
    assert anyio.current_time() >= 1
    assert len(wire.sent) == 2


async def test_a_read_fails_in_the_end_and_says_why() -> None:
    wire = Wire()
    wire.script(*[without_body(200)] * 2, method="GET")
    async with client_of(wire, retry=at_once(max_attempts=2)) as client:
        error = await outcome_of(client.get_state("d"))
    assert isinstance(error, UnexpectedAnswerError)
    assert f"not a state; {REASON}" in str(error)
    assert (error.status, error.attempts) == (200, 2)


async def test_modify_decides_on_no_unusable_state() -> None:
    wire = Wire()
    wire.script(without_body(200, etag='"7"'), state(8, visits=2), method="GET")
    async with client_of(wire, retry=at_once()) as client:
        await client.modify("d", lambda found: {"session": {"visits": found.session["visits"] + 1}})
    (write,) = wire.writes()
    assert write.session == {"visits": 3}
    assert write.headers["if-match"] == '"8"'
