"""How calls are made: by a pool of workers, or at a constant rate whatever becomes of them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator

from .work import Work

__all__ = ["Call", "arrivals", "drive"]

Call = Callable[[int], Awaitable[object]]
"""Makes the update of a number."""


async def drive(
    work: Work, start: int, end: int, call: Call, latencies: list[float] | None
) -> None:
    """The updates from one number to another, as the work says; `latencies` get one for each."""
    if work.rate:
        measured = await arrivals(work.rate, range(start, end), call)
        if latencies is not None:
            latencies.extend(measured)
        return
    if latencies is not None:
        call = _timed(call, latencies)
    await asyncio.gather(*[_work(numbers, call) for numbers in work.shares(start, end)])


async def arrivals(
    rate: float,
    numbers: range,
    call: Call,
    clock: Callable[[], float] = time.perf_counter,
    pause: Callable[[float], Awaitable[object]] | None = None,
) -> list[float]:
    """Start so many calls a second, and wait for all.

    The result has seconds for each call, from the moment at which it was due to its end. A call
    that is started late, because the event loop is busy with others, has waited since then as well:
    counted from its start, the slow moments would be the ones that nobody measures.

    Args:
        rate: calls a second.
        numbers: given to the calls.
        call: what is measured.
        clock: tells seconds.
        pause: waits for so many seconds. Without it the event loop is polled until it is time, as
            timers are late by up to a millisecond.
    """
    latencies = [0.0] * len(numbers)
    began = clock()

    async def one(place: int, due: float) -> None:
        await call(numbers[place])
        latencies[place] = clock() - due

    async with asyncio.TaskGroup() as group:
        for place in range(len(numbers)):
            due = began + place / rate
            while (left := due - clock()) > 0:
                await (pause(left) if pause is not None else asyncio.sleep(0))
            group.create_task(one(place, due))
    return latencies


def _timed(call: Call, latencies: list[float]) -> Call:
    async def timed(number: int) -> None:
        began = time.perf_counter()
        await call(number)
        latencies.append(time.perf_counter() - began)

    return timed


async def _work(numbers: Iterator[int], call: Call) -> None:
    for number in numbers:
        await call(number)
