"""`UpdateStream`: what it takes from its input and what it gives, without workers or a server."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from types import SimpleNamespace
from typing import Any

import anyio
import anyio.abc
import pytest

from cognigy_async import CognigyError, RuntimeApi, StateUpdate, UpdateValidationError
from cognigy_async._utils.waker import Waker
from cognigy_async.client.stream import INPUTS_PER_YIELD, UpdateStream
from cognigy_async.engine.work_item import SendOptions, WorkItem
from tests.unit.client._parts import Entrance, config

ROW = {"dialog_id": "d", "session": {"a": 1}}


class Client:
    """A lifecycle and an engine whose items the test completes by hand."""

    def __init__(self, tasks: anyio.abc.TaskGroup | None = None) -> None:
        self.entrance = Entrance(slots=1000)
        self.hungry = False
        self.waker = Waker()
        self.cancelled: list[WorkItem] = []
        self.spawned = tasks
        self.scheduler: Any = SimpleNamespace(wants_input=lambda *, live: self.hungry)

    @property
    def items(self) -> list[WorkItem]:
        return self.entrance.items

    def check_open(self) -> Any:
        self.entrance.admission.check_open()
        return self.entrance.admission

    @property
    def engine(self) -> Any:
        return self

    def require_engine(self) -> Any:
        return self

    def cancel(self, item: WorkItem) -> None:
        if item not in self.cancelled:
            self.cancelled.append(item)

    def spawn(self, function: Callable[[], Any]) -> None:
        assert self.spawned is not None
        self.spawned.start_soon(function)

    def stream(self, updates: Any, *, coalesce: bool = False, **changes: Any) -> Any:
        made = config(**{"max_pending": 10} | changes)
        options = SendOptions(made.retry, 1.0, live=False, coalesce=coalesce)
        lifecycle: Any = self
        return UpdateStream(made, lifecycle, updates, options)

    def complete(self, number: int = 0, error: CognigyError | None = None) -> None:
        item = self.items[number]
        item.completed, item.error = True, error
        item.sink.notify(item)


async def read(stream: Any) -> list[Any]:
    return [outcome async for outcome in stream]


async def test_outcomes_come_in_the_order_of_completion() -> None:
    client = Client()
    client.hungry = True
    stream = client.stream([ROW, ROW | {"dialog_id": "e"}])
    async with anyio.create_task_group() as tasks:
        seen: list[int] = []

        async def note() -> None:
            seen.extend([outcome.index async for outcome in stream])

        tasks.start_soon(note)
        await anyio.sleep(1)
        client.complete(1)
        await anyio.sleep(1)
        client.complete(0, CognigyError("failed"))
    assert seen == [1, 0]
    assert repr(stream) == "<UpdateStream taken=2 held=0 unread=0>"


async def test_an_invalid_input_is_an_outcome() -> None:
    class Broken(RuntimeApi):
        def check(self, update: StateUpdate) -> None:
            raise ValueError("canary")

    client = Client()
    outcomes = await read(client.stream([{}, ROW], api=Broken()))
    assert [outcome.index for outcome in outcomes] == [0, 1]
    assert isinstance(outcomes[0].error, UpdateValidationError)
    assert isinstance(outcomes[1].error, CognigyError)
    assert str(outcomes[1].error) == "the input could not be read: ValueError"
    assert client.items == []
    assert client.entrance.pending_limit.used == 0


async def test_it_takes_input_as_idle_workers_want_it() -> None:
    taken: list[int] = []

    def rows() -> Iterator[Any]:
        for number in range(200):
            taken.append(number)
            yield ROW

    client = Client()
    stream = client.stream(rows(), max_pending=200)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(read, stream)
        await anyio.sleep(1)
        assert len(taken) == INPUTS_PER_YIELD
        client.hungry = True
        (event,) = client.waker.on_idle
        event.set()
        await anyio.sleep(1)
        assert len(taken) == 100
        assert not client.waker.on_idle
        tasks.cancel_scope.cancel()


async def test_it_takes_all_that_may_be_held_where_updates_are_coalesced() -> None:
    client = Client()
    stream = client.stream([ROW] * 9, coalesce=True)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(read, stream)
        await anyio.sleep(1)
        assert len(client.items) == 5
        tasks.cancel_scope.cancel()


async def test_an_error_of_the_input_comes_after_the_outcomes_before_it() -> None:
    def rows() -> Iterator[Any]:
        yield {}
        raise ValueError("broken")

    stream = Client().stream(rows())
    assert not (await anext(stream)).ok
    with pytest.raises(ValueError, match="broken"):
        await anext(stream)
    with pytest.raises(StopAsyncIteration):
        await anext(stream)


async def test_a_stopped_stream_withdraws_its_own_items_and_gives_their_outcomes() -> None:
    client = Client()
    client.hungry = True
    stream = client.stream(iter([ROW, ROW]))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(read, stream)
        await anyio.sleep(1)
        stream.stop()
        assert client.cancelled == client.items
        for number in range(2):
            client.complete(number, CognigyError("withdrawn"))


async def test_leaving_it_withdraws_and_drops() -> None:
    closed: list[bool] = []

    def rows() -> Iterator[Any]:
        try:
            while True:
                yield ROW
        finally:
            closed.append(True)

    client, given = Client(), rows()
    stream = client.stream(given)
    async with stream:
        with anyio.move_on_after(1):
            await anext(stream)
    assert closed == [True]
    assert client.cancelled == client.items != []
    client.complete()
    assert await read(stream) == []


@pytest.mark.parametrize("feeds", [False, True])
async def test_leaving_it_ends_a_task_that_reads(feeds: bool) -> None:
    async def fed() -> AsyncIterator[Any]:
        yield ROW

    async with anyio.create_task_group() as tasks:
        client = Client(tasks)
        stream = client.stream(fed() if feeds else iter([ROW]))
        with anyio.fail_after(10):
            async with anyio.create_task_group() as readers:
                readers.start_soon(read, stream)
                await anyio.sleep(1)
                # The input is at its end, and the answer is in flight.
                assert len(client.items) == 1
                await stream.aclose()
        client.complete()
        assert await read(stream) == []


@pytest.mark.parametrize("end", ["stop", "aclose"])
async def test_a_stream_that_ends_while_its_reader_waits_for_a_slot_takes_no_more(
    end: str,
) -> None:
    client = Client()
    client.hungry = True
    for _ in range(1000):
        assert client.entrance.admission.try_acquire_bulk_slot()
    stream = client.stream(iter([ROW] * 3))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(read, stream)
        await anyio.sleep(1)
        if end == "stop":
            stream.stop()
        else:
            await stream.aclose()
        client.entrance.admission.release_slot()
        await anyio.sleep(1)
        assert client.items == []
        tasks.cancel_scope.cancel()
    assert client.entrance.pending_limit.used == 999


async def test_tasks_share_a_stream() -> None:
    client = Client()
    client.hungry = True
    stream = client.stream([ROW] * 4)
    seen: list[int] = []

    async def note() -> None:
        seen.extend([outcome.index async for outcome in stream])

    with anyio.fail_after(10):
        async with anyio.create_task_group() as readers:
            for _ in range(3):
                readers.start_soon(note)
            with anyio.move_on_after(1):
                await anext(stream)
            for number in range(4):
                client.complete(number)
                await anyio.sleep(1)
    assert sorted(seen) == [0, 1, 2, 3]


async def test_asynchronous_input_is_taken_by_a_task_of_its_own() -> None:
    closed: list[bool] = []

    async def rows() -> AsyncIterator[Any]:
        try:
            for _ in range(9):
                yield ROW
        finally:
            closed.append(True)
            raise ValueError("while closing")

    async with anyio.create_task_group() as tasks:
        client = Client(tasks)
        stream = client.stream(rows())
        with anyio.move_on_after(1):
            await anext(stream)
        assert len(client.items) == 1
        client.hungry = True
        for event in client.waker.on_idle:
            event.set()
        await anyio.sleep(1)
        assert len(client.items) == 5
        with pytest.raises(ValueError, match="while closing"):
            await stream.aclose()
    assert closed == [True]
    assert client.cancelled == client.items


async def test_a_failure_of_asynchronous_input_is_raised_after_what_came_before() -> None:
    async def rows() -> AsyncIterator[Any]:
        yield {}
        raise ValueError("broken")

    async with anyio.create_task_group() as tasks:
        stream = Client(tasks).stream(rows())
        assert not (await anext(stream)).ok
        with pytest.raises(ValueError, match="broken"):
            await anext(stream)


async def test_a_stream_that_is_left_withdraws_its_own_updates_without_a_search() -> None:
    client = Client()
    client.hungry = True
    streams = [client.stream([ROW] * 3) for _ in range(2)]
    for stream in streams:
        with anyio.move_on_after(1):
            await anext(stream)
    own = client.items[:3]
    client.complete(0)
    assert (await anext(streams[0])).index == 0
    await streams[0].aclose()
    assert client.cancelled == own[1:]
    client.complete(1)
    streams[1].stop()
    assert client.cancelled == own[1:] + client.items[3:]


async def test_a_client_that_is_closed_ends_the_input() -> None:
    client = Client()
    client.entrance.admission.close()
    with pytest.raises(CognigyError, match="closed"):
        await anext(client.stream([ROW]))


@pytest.mark.parametrize("updates", ["text", b"bytes", ROW, 7, None])
async def test_what_is_no_iterable_of_updates_is_refused_at_once(updates: Any) -> None:
    with pytest.raises(TypeError, match="update_many takes an iterable of updates"):
        Client().stream(updates)
