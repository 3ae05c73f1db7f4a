"""`Invoker`: each kind of function is called, with a timeout, and knows that it is a callback."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from cognigy_async import CallbackError, Metrics
from cognigy_async.hooks.invocation import Invoker, current_call


def invoker(owner: object = None, *, timeout: float = 5.0, max_hanging: int = 2) -> Invoker:
    return Invoker("cb", owner, timeout, max_hanging, Metrics(None))


class Called:
    """An object that is called, synchronously or not."""

    def __init__(self, seen: list[Any]) -> None:
        self.seen = seen

    async def __call__(self, argument: Any) -> None:
        await anyio.lowlevel.checkpoint()
        self.seen.append(argument)


def functions(seen: list[Any]) -> dict[str, Callable[[Any], Any]]:
    async def async_function(argument: Any) -> None:
        await anyio.lowlevel.checkpoint()
        seen.append(argument)

    async def with_more(_: str, argument: Any) -> None:
        seen.append(argument)

    def plain(argument: Any) -> None:
        assert threading.current_thread() is not threading.main_thread()
        seen.append(argument)

    def awaitable(argument: Any) -> Any:
        return async_function(argument)

    return {
        "async": async_function,
        "partial": functools.partial(with_more, "bound"),
        "object": Called(seen),
        "plain": plain,
        "awaitable": awaitable,
    }


@pytest.mark.real_time
@pytest.mark.parametrize("kind", functions([]))
async def test_each_kind_of_function_is_called(kind: str, anyio_backend_name: str) -> None:
    if kind == "awaitable" and anyio_backend_name == "trio":
        pytest.skip("trio refuses a thread that returns an awaitable")
    seen: list[Any] = []
    await invoker().call(functions(seen)[kind], "event")
    assert seen == ["event"]


async def test_a_call_that_takes_too_long_is_cancelled() -> None:
    async def hang(_: Any) -> None:
        await anyio.sleep_forever()

    with pytest.raises(TimeoutError):
        await invoker(timeout=3.0).call(hang, None)
    assert anyio.current_time() == 3.0


async def test_what_a_callback_runs_is_marked_until_it_returns() -> None:
    owner = object()
    marks: list[Any] = []

    async def later() -> None:
        await anyio.sleep(1)
        marks.append(current_call.get())

    async with anyio.create_task_group() as tasks:

        async def callback(_: Any) -> None:
            call = current_call.get()
            assert call is not None
            marks.append((call.owner, call.active))
            tasks.start_soon(later)

        await invoker(owner).call(callback, None)
        assert current_call.get() is None
    assert marks[0] == (owner, True)
    assert (marks[1].owner, marks[1].active) == (owner, False)


@pytest.mark.real_time
async def test_threads_that_hang_are_bounded() -> None:
    metrics = Metrics(None)
    calls = Invoker("cb", None, 0.02, 2, metrics)
    release = threading.Event()

    def hang(_: Any) -> None:
        release.wait(10)

    # On a busy machine, a call may time out before its thread runs, which then leaves nothing.
    while metrics.threads_abandoned < 2:
        with pytest.raises(TimeoutError):
            await calls.call(hang, None)
    with pytest.raises(CallbackError, match="2 calls of cb hang in their threads"):
        await calls.call(hang, None)
    seen: list[Any] = []
    release.set()
    await calls.call(seen.append, "letter", unlimited=True)
    assert seen == ["letter"]
    for _ in range(500):
        if calls._hanging:
            await anyio.sleep(0.01)
    await calls.call(seen.append, "again")
    assert seen == ["letter", "again"]
