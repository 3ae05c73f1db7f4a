"""`simulate` with a program of the user: what reaches it, and what is checked of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from typing import Any

import anyio
import pytest

from cognigy_async import AsyncStateClient, CognigyError
from cognigy_async.testing import Schedule, Violation, check, simulate
from cognigy_async.testing.simulation import execute
from cognigy_async.testing.virtual_time import Backend


async def program(client: AsyncStateClient) -> None:
    """Use every kind of call, with variables whose names the simulation uses itself."""

    async def attempt(number: int) -> None:
        try:
            values: Mapping[str, Any] = {"n": number, "name": "x", "count": 1, "last": "y"}
            await client.update(f"d-{number % 2}", session=values, user={"n1": 1}, next_step="pay")
            await client.modify("d-0", lambda state: {"session": {"n": 1}})
            await client.get_state("d-1")
        except CognigyError:
            pass

    async def rows() -> AsyncIterator[Mapping[str, Any]]:
        for number in range(5):
            yield {"dialog_id": f"d-{number}", "session": {"total": number}}

    async with anyio.create_task_group() as tasks:
        for number in range(6):
            tasks.start_soon(attempt, number)
        await client.update_many(rows()).drain()


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_correct_program_breaks_nothing(backend: Backend) -> None:
    faults = 0
    for seed in range(60):
        faults += simulate(seed, program, backend=backend).log.faults.total()
    assert faults > 100


def test_a_program_is_one_exact_run_with_the_state_of_the_server_at_the_end() -> None:
    async def save(client: AsyncStateClient) -> None:
        await client.update("d-1", session={"total": 3})

    once, again = simulate(0, program).log, simulate(0, program).log
    assert once.facts() == again.facts()
    seed = next(seed for seed in range(100) if Schedule.of(seed).strength == 0)
    assert simulate(seed, save).log.sessions == {"d-1": {"total": 3}}


def test_a_program_that_raises_is_a_violation_with_its_cause() -> None:
    async def wrong(client: AsyncStateClient) -> None:
        await client.update("d-1", session={"total": 3})
        raise ValueError("no total")

    with pytest.raises(Violation) as caught:
        simulate(3, wrong)
    text = str(caught.value)
    assert text.startswith("the program: it raised ValueError: no total\n")
    assert "replay: simulate(3, program)" in text
    assert isinstance(caught.value.__cause__, ValueError)


def test_a_program_that_hangs_is_a_violation() -> None:
    async def endless(client: AsyncStateClient) -> None:
        await anyio.sleep_forever()

    with pytest.raises(Violation, match="did not end in 4 hours of virtual time"):
        simulate(3, endless, shrink=False)


def test_the_requests_of_a_program_are_checked() -> None:
    schedule = replace(Schedule.of_own_program(5), strength=0.0)
    log = execute(schedule, program=program)
    assert check(schedule, log) == []
    moved = next(each for each in log.exchanges if each.step is not None)
    moved.applied_at *= 2
    assert [breach.promise for breach in check(schedule, log)] == ["P12 doubled transition"]
    log.exchanges.append(replace(moved, step=None))
    assert "P1 order" in {breach.promise for breach in check(schedule, log)}
