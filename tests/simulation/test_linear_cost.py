"""No work costs more for each update because more updates, dialogs, streams or callers wait."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from itertools import count
from typing import Any

import anyio
import pytest

from cognigy_async import AsyncStateClient, RateLimit, Response, UpdateEvent
from cognigy_async.testing.virtual_time import Backend, run
from tests.simulation.world import Wire, at_once, client_of, outcome_of, status, turns, until
from tests.steps import Steps

MOST = 2.1
"""Twice as many may take so many times as many steps; where each looks at all, it is up to 4."""

Scenario = Callable[[int], Awaitable[None]]
SCENARIOS: dict[str, Scenario] = {}


def scenario(function: Scenario) -> Scenario:
    SCENARIOS[function.__name__] = function
    return function


def client(number: int, wire: Wire | None = None, **options: Any) -> AsyncStateClient:
    """A client that accepts so many updates, with two workers."""
    options = {"max_pending": 3 * number + 100, "max_in_flight": 2} | options
    return client_of(wire if wire is not None else Wire(steps=0), **options)


class Gate:
    """Answers to requests that come when it opens."""

    def __init__(self) -> None:
        self.opened = anyio.Event()
        self.wire = Wire(steps=0, answer=self._answer)

    async def _answer(self, _: Any) -> Response:
        await self.opened.wait()
        return status(200)


def row(dialog: object, value: object = 1, **fields: Any) -> dict[str, Any]:
    return {"dialog_id": f"d{dialog}", "session": {"a": value}, **fields}


async def together(number: int, call: Callable[[int], Awaitable[object]]) -> None:
    """Make the calls 0, 1, ... at the same time, whatever comes of them."""
    async with anyio.create_task_group() as tasks:
        for each in range(number):
            tasks.start_soon(outcome_of_call, call, each)


async def outcome_of_call(call: Callable[[int], Awaitable[object]], number: int) -> None:
    await outcome_of(call(number))


async def cancelled_soon(call: Callable[[], Awaitable[object]]) -> None:
    """Begin a call, and cancel it when it waits."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(call)
        await turns(2)
        tasks.cancel_scope.cancel()


@scenario
async def while_a_callback_queue_is_full(number: int) -> None:
    async with client(number) as one:

        @one.on_state_updated(max_queue=5)
        async def hook(_: UpdateEvent) -> None:
            await anyio.lowlevel.checkpoint()

        await together(number, lambda each: one.update(f"d{each}", session={"a": 1}))
    assert one.metrics.applied == one.metrics.events_delivered == number


@scenario
async def while_a_callback_queue_is_full_and_requests_are_repeated(number: int) -> None:
    numbers = count()

    async def answer(_: Any) -> Response:
        return status(503 if next(numbers) % 3 == 0 else 200)

    retry = at_once(max_attempts=50, budget=1.0)
    async with client(number, Wire(steps=0, answer=answer), retry=retry) as one:

        @one.on_state_updated(max_queue=50)
        async def hook(_: UpdateEvent) -> None:
            await anyio.lowlevel.checkpoint()

        for each in range(number):
            one.submit_nowait(row(each), priority="bulk" if each % 2 else "live")
        await one.flush()
    assert one.metrics.applied == number


@scenario
async def a_paused_dialog_is_resumed_after_each_failure(number: int) -> None:
    async with client(number, Wire(steps=0, answer=400), on_failure="pause") as one:
        for _ in range(number):
            one.submit_nowait(row(0))
        while one.metrics.pending:
            await one.flush()
            one.resume()
    assert one.metrics.failed == number


@scenario
async def paused_dialogs_are_asked_for_among_others(number: int) -> None:
    gate = Gate()
    gate.wire.script(400)
    async with client(number, gate.wire, on_failure="pause") as one:
        await outcome_of(one.update("paused", session={"a": 1}))
        for each in range(number):
            one.submit_nowait(row(each))
        for _ in range(number):
            assert list(one.paused_dialogs()) == ["paused"]
        gate.opened.set()


@scenario
async def updates_that_linger_and_do_not_merge(number: int) -> None:
    async with client(number, coalesce=True, linger=5.0) as one:
        await together(number, lambda each: one.update("d", session={"a": {"x": each}}))
    assert one.metrics.requests == number


@scenario
async def updates_that_need_not_linger_because_the_last_is_another(number: int) -> None:
    async with client(number, coalesce=True, linger=5.0) as one:
        for each in range(number):
            one.submit_nowait(row(0, {"x": each}), timeout=9.0 if each == number - 1 else None)
        await turns(5)
        assert one.metrics.requests
        await one.flush()


@scenario
async def a_flush_after_each_update_that_lingers(number: int) -> None:
    async with client(number, coalesce=True, linger=5.0) as one:

        async def call(each: int) -> None:
            one.submit_nowait(row(each))
            await one.flush()

        await together(number, call)


@scenario
async def the_oldest_update_that_lingers_is_withdrawn(number: int) -> None:
    async with client(number, coalesce=True, linger=5.0) as one:
        for pending in [one.submit_nowait(row(0)) for _ in range(number)]:
            assert pending.withdraw()
            await turns(3)


@scenario
async def many_callers_flush(number: int) -> None:
    gate = Gate()
    async with client(number, gate.wire) as one:
        for each in range(number):
            one.submit_nowait(row(each))
        async with anyio.create_task_group() as tasks:
            for _ in range(number):
                tasks.start_soon(one.flush)
            await turns(5)
            gate.opened.set()
        assert one.metrics.pending == 0


@scenario
async def a_flush_after_each_update(number: int) -> None:
    async with client(number) as one:

        @one.on_state_updated(max_queue=number)
        async def hook(_: UpdateEvent) -> None:
            await anyio.lowlevel.checkpoint()

        async def call(each: int) -> None:
            await one.submit_nowait(row(each))
            await one.flush()

        await together(number, call)


@scenario
async def flushes_that_are_cancelled(number: int) -> None:
    gate = Gate()
    async with client(number, gate.wire) as one:
        for each in range(number):
            one.submit_nowait(row(each))
            await cancelled_soon(one.flush)
        gate.opened.set()


@scenario
async def streams_that_are_left_early(number: int) -> None:
    gate = Gate()
    async with client(number, gate.wire) as one:

        async def read(each: int) -> None:
            async with one.update_many([row(each), row(each)]) as outcomes:
                async for _ in outcomes:
                    pass

        async with anyio.create_task_group() as tasks:
            for each in range(number):
                tasks.start_soon(read, each)
            await until(lambda: one.metrics.pending == 2 * number)
            tasks.cancel_scope.cancel()
        gate.opened.set()


@scenario
async def streams_that_have_more_input_than_workers_want(number: int) -> None:
    async with client(number, rate_limit=RateLimit(1, per=3600)) as one:

        async def rows(stream: int) -> AsyncIterator[dict[str, Any]]:
            for each in count():
                yield row(f"{stream}-{each}")

        async def read(stream: int) -> None:
            async with one.update_many(rows(stream)) as outcomes:
                async for _ in outcomes:
                    pass

        async with anyio.create_task_group() as tasks:
            for stream in range(number):
                tasks.start_soon(read, stream)
            await turns(20)
            for each in range(number):
                # A worker wakes for it, and finds that the rate limit allows no request.
                one.submit_nowait(row(each))
                await turns(5)
            tasks.cancel_scope.cancel()
        await one.aclose(drain=False)


@scenario
async def a_server_that_names_a_longer_window_with_each_answer(number: int) -> None:
    numbers = count(1)

    async def answer(_: Any) -> Response:
        used = next(numbers)
        return status(
            200,
            {
                "ratelimit-limit": "100000",
                "ratelimit-remaining": str(100000 - used),
                "ratelimit-reset": str(10 + used),
            },
        )

    async with client(number, Wire(steps=0, answer=answer), rate_limit="auto") as one:
        for each in range(number):
            await one.update(f"d{each}", session={"a": 1})


def steps_of(name: str, number: int, backend: Backend) -> int:
    with Steps() as steps:
        run(partial(SCENARIOS[name], number), backend=backend)
    return steps.count


@pytest.mark.quick("*-asyncio")
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("name", SCENARIOS)
def test_twice_as_many_take_twice_as_many_steps(name: str, backend: Backend) -> None:
    few, many = (steps_of(name, number, backend) for number in (100, 200))
    assert many / few < MOST, f"{few} and {many} steps"
