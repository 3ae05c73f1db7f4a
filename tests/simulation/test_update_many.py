"""`update_many`: any input, one outcome for each, as they settle; left at any moment."""

from __future__ import annotations

import asyncio
import gc
import logging
import re
from collections import ChainMap, Counter, UserDict
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import suppress
from functools import partial
from types import MappingProxyType
from typing import Any

import anyio
import anyio.abc
import pytest

from cognigy_async import (
    AmbiguousUpdateError,
    BadRequestError,
    ClientClosedError,
    CognigyError,
    Limits,
    RetryPolicy,
    StateUpdate,
    UpdateOutcome,
    UpdateStream,
    UpdateValidationError,
    UpdateWithdrawnError,
    VariableTypeError,
)
from tests.simulation.world import (
    DROPPED,
    Wire,
    all_of,
    at_once,
    client_of,
    every,
    on_each_api,
    outcome_of,
    turns,
    until,
)


def rows_of(count: int, dialogs: int | None = None) -> list[dict[str, Any]]:
    return [
        {"dialog_id": f"d-{number % (dialogs or count)}", "session": {"seq": number}}
        for number in range(count)
    ]


async def slowly(rows: Any, pause: float = 0.0) -> AsyncIterator[Any]:
    for row in rows:
        if pause:
            await anyio.sleep(pause)
        yield row


class Source:
    """An async iterable that is no generator, and what was taken of it."""

    def __init__(self, rows: Any, pause: float = 0.0) -> None:
        self._rows = iter(rows)
        self._pause = pause
        self.taken = 0

    def __aiter__(self) -> Source:
        return self

    async def __anext__(self) -> Any:
        await anyio.sleep(self._pause)
        for row in self._rows:
            self.taken += 1
            return row
        raise StopAsyncIteration


@on_each_api
@pytest.mark.parametrize(
    "make",
    [list, tuple, iter, lambda rows: (row for row in rows), slowly, Source],
    ids=["list", "tuple", "iterator", "generator", "async-generator", "async-iterator"],
)
async def test_update_many_takes_every_kind_of_input(make: Any) -> None:
    wire = Wire()
    rows = [StateUpdate(**row) if row["session"]["seq"] % 2 else row for row in rows_of(50)]
    async with client_of(wire) as client:
        outcomes = [outcome async for outcome in client.update_many(make(rows))]
    assert sorted(outcome.index for outcome in outcomes) == list(range(50))
    assert all(outcome.ok and outcome.result and outcome.error is None for outcome in outcomes)
    for outcome in outcomes:
        assert outcome.update is not None
        assert outcome.update.session == {"seq": outcome.index}
        assert outcome.update_id == outcome.result.update_id  # type: ignore[union-attr]
    assert len(wire.sent) == 50


@on_each_api
@pytest.mark.parametrize(
    "wrong",
    [7, None, "rows", b"rows", {"dialog_id": "d"}, object()],
    ids=lambda wrong: type(wrong).__name__,
)
async def test_update_many_refuses_what_is_no_input(wrong: Any) -> None:
    async with client_of(Wire()) as client:
        with pytest.raises(TypeError, match="iterable"):
            client.update_many(wrong)


@on_each_api
@pytest.mark.parametrize("make", [list, slowly], ids=["sync", "async"])
async def test_update_many_of_nothing(make: Any) -> None:
    async with client_of(Wire()) as client:
        assert [outcome async for outcome in client.update_many(make([]))] == []


class Unreadable(Mapping[str, Any]):
    def __getitem__(self, key: str) -> Any:
        raise OSError("the file is gone")

    def __iter__(self) -> Iterator[str]:
        return iter(["dialog_id"])

    def __len__(self) -> int:
        return 1


INVALID: list[tuple[Any, type[UpdateValidationError]]] = [
    (None, VariableTypeError),
    (7, VariableTypeError),
    ([], VariableTypeError),
    ("d-1", VariableTypeError),
    ({}, UpdateValidationError),
    ({"dialog_id": "d"}, UpdateValidationError),
    ({"session": {"a": 1}}, UpdateValidationError),
    ({"dialog_id": 7, "session": {"a": 1}}, UpdateValidationError),
    ({"dialog_id": "d", "session": {"a": None}}, VariableTypeError),
    ({"dialog_id": "d", "session": {"_cognigy": 1}}, UpdateValidationError),
    ({"dialog_id": "d", "session": {"a": 1}, "extra": 1}, UpdateValidationError),
    ({1: 2}, UpdateValidationError),
    (Unreadable(), UpdateValidationError),
]


@on_each_api
@pytest.mark.parametrize("make", [list, slowly], ids=["sync", "async"])
async def test_update_many_makes_outcomes_of_invalid_rows_and_goes_on(make: Any) -> None:
    good = rows_of(len(INVALID))
    mixed = [row for pair in zip(good, (bad for bad, _ in INVALID), strict=True) for row in pair]
    wire = Wire()
    async with client_of(wire, max_pending=10) as client:
        outcomes = [outcome async for outcome in client.update_many(make(mixed))]
        assert client.metrics.pending == 0
        # They took no room for good.
        for number in range(10):
            client.submit_nowait({"dialog_id": f"x-{number}", "session": {"a": 1}})
    outcomes.sort(key=lambda outcome: outcome.index)
    assert [outcome.index for outcome in outcomes] == list(range(len(mixed)))
    assert all(outcome.ok for outcome in outcomes[::2])
    for outcome, (_, kind) in zip(outcomes[1::2], INVALID, strict=True):
        assert isinstance(outcome.error, kind)
        assert (outcome.update, outcome.update_id, outcome.result) == (None, None, None)
    assert len(wire.writes()) == len(INVALID) + 10


@on_each_api
@pytest.mark.parametrize("made", [dict, MappingProxyType, UserDict, ChainMap])
async def test_update_many_takes_any_mapping(made: Any) -> None:
    row = made({"dialog_id": "d", "session": {"a": 1}})
    async with client_of(Wire()) as client:
        assert [outcome.ok async for outcome in client.update_many([row])] == [True]


@on_each_api
async def test_update_many_checks_updates_against_the_limits_of_the_client() -> None:
    update = StateUpdate(dialog_id="d", session={"a": [[[1]]]})
    async with client_of(Wire(), limits=Limits(max_depth=2)) as client:
        (outcome,) = [outcome async for outcome in client.update_many([update])]
        assert isinstance(outcome.error, UpdateValidationError)


@on_each_api
@pytest.mark.parametrize("make", [list, slowly], ids=["sync", "async"])
async def test_update_many_raises_what_its_source_raises_after_what_came_before(make: Any) -> None:
    class SourceError(Exception):
        pass

    def broken() -> Iterator[dict[str, Any]]:
        yield from rows_of(5)
        raise SourceError

    wire = Wire(takes=1)
    outcomes: list[UpdateOutcome] = []
    async with client_of(wire, max_in_flight=1) as client:
        source = broken() if make is list else slowly(broken())
        stream = client.update_many(source)
        with pytest.raises(SourceError):
            async for outcome in stream:
                # Kept although the loop ends by an exception.
                outcomes.append(outcome)
        assert [outcome.ok for outcome in outcomes] == [True] * 5
        # Said once; then it is at its end.
        assert [outcome async for outcome in stream] == []
        await client.update("d", session={"a": 1})
    assert client.metrics.pending == 0


@on_each_api
async def test_update_many_stands_a_source_that_raises_a_stray_cancellation(
    anyio_backend_name: str,
) -> None:
    if anyio_backend_name == "trio":
        pytest.skip("only asyncio has a cancellation that anybody can raise")

    async def broken() -> AsyncIterator[dict[str, Any]]:
        yield rows_of(1)[0]
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        future.cancel()
        await future

    outcomes: list[UpdateOutcome] = []
    async with client_of(Wire()) as client:
        with pytest.raises(CognigyError) as caught:
            async for outcome in client.update_many(broken()):
                # Kept although the loop ends by an exception.
                outcomes.append(outcome)
        assert isinstance(caught.value.__cause__, asyncio.CancelledError)
        assert [outcome.ok for outcome in outcomes] == [True]
        await client.update("d", session={"a": 1})


@on_each_api
async def test_update_many_of_a_slow_source_gives_outcomes_as_they_settle() -> None:
    wire = Wire(takes=1)
    times: list[float] = []
    async with (
        client_of(wire) as client,
        client.update_many(slowly(rows_of(5), pause=10)) as outcomes,
    ):
        async for outcome in outcomes:
            assert outcome.ok
            times.append(anyio.current_time())
    # Not when the source has the next one, and not at its end.
    assert times == [pytest.approx(10 * n + 1, abs=0.1) for n in range(1, 6)]


@on_each_api
async def test_update_many_gives_outcomes_in_the_order_in_which_they_settle() -> None:
    wire = Wire(takes=1)
    wire.script(503, dialog_id="d-0")
    wire.script(400, dialog_id="d-1")
    async with client_of(wire, retry=every(10)) as client:
        outcomes = [outcome async for outcome in client.update_many(rows_of(4))]
    assert outcomes[-1].index == 0
    assert {outcome.index for outcome in outcomes[:3]} == {1, 2, 3}
    failed = next(outcome for outcome in outcomes if outcome.index == 1)
    assert isinstance(failed.error, BadRequestError)
    assert failed.update is not None
    assert "BadRequestError" in repr(failed)
    assert "ok" in repr(outcomes[-1])


@on_each_api
async def test_update_many_takes_the_payload_when_the_row_is_taken() -> None:
    wire = Wire(takes=1)
    row: dict[str, Any] = {"dialog_id": "d", "session": {"a": [1]}}

    def reusing() -> Iterator[dict[str, Any]]:
        for number in range(5):
            row["session"]["a"] = [number]
            yield row

    async with client_of(wire) as client:
        assert [outcome.ok async for outcome in client.update_many(reusing())] == [True] * 5
        row["session"]["a"] = [99]
    assert [sent.session["a"] for sent in wire.sent] == [[0], [1], [2], [3], [4]]


# Leaving.


@on_each_api
@pytest.mark.parametrize("make", [list, slowly, Source], ids=["sync", "async", "iterator"])
@pytest.mark.parametrize("most", [0, 1, 3])
async def test_update_many_left_early_withdraws_what_was_not_sent(make: Any, most: int) -> None:
    wire = Wire(takes=1)
    async with client_of(wire, max_in_flight=2) as client:
        async with client.update_many(make(rows_of(500))) as outcomes:
            read = 0
            while read < most:
                assert (await anext(outcomes)).ok
                read += 1
        sent = len(wire.sent)
        assert sent <= most + 3
        await anyio.sleep(20)
        # What was in flight has ended, and nothing else was sent.
        assert len(wire.sent) == sent == len(wire.applied)
        assert wire.torn_down == 0
        assert client.metrics.pending == 0
        assert client.metrics.applied == sent
        # Looking again finds nothing.
        assert [outcome async for outcome in outcomes] == []
        await client.update("d", session={"a": 1})


@on_each_api
async def test_update_many_left_by_an_exception_or_a_cancellation() -> None:
    wire = Wire(takes=1)
    async with client_of(wire, max_in_flight=2) as client:
        with pytest.raises(KeyError):
            async with client.update_many(slowly(rows_of(100))) as outcomes:
                async for _ in outcomes:
                    raise KeyError
        with anyio.move_on_after(5.5):
            async with client.update_many(rows_of(100)) as outcomes:
                async for _ in outcomes:
                    pass
        await anyio.sleep(10)
        assert client.metrics.pending == 0
        assert len(wire.sent) == len(wire.applied) <= 4 + 2 * 6
        assert wire.torn_down == 0


@on_each_api
@pytest.mark.parametrize("make", [list, slowly], ids=["sync", "async"])
async def test_update_many_ends_the_generator_that_it_was_given(make: Any) -> None:
    ended: list[str] = []

    def rows() -> Iterator[dict[str, Any]]:
        try:
            yield from rows_of(500)
        finally:
            ended.append("sync")

    async def slow_rows() -> AsyncIterator[dict[str, Any]]:
        try:
            for row in rows_of(500):
                yield row
        finally:
            await anyio.sleep(0.1)
            ended.append("async")

    async with client_of(Wire(), max_in_flight=2) as client:
        async with client.update_many(rows() if make is list else slow_rows()) as outcomes:
            await anext(outcomes)
            assert ended == []
        # Not some time later, by the garbage collector and in nobody's task.
        assert len(ended) == 1


@on_each_api
@pytest.mark.parametrize("make", [list, slowly, Source], ids=["sync", "async", "iterator"])
async def test_update_many_left_early_leaks_no_task(make: Any, anyio_backend_name: str) -> None:
    import trio

    def tasks() -> int:
        if anyio_backend_name == "trio":
            return trio.lowlevel.current_statistics().tasks_living
        return len(asyncio.all_tasks())

    async with client_of(Wire(takes=1), max_in_flight=4) as client:
        await client.update("d", session={"a": 1})
        before = tasks()
        for _ in range(5):
            async with client.update_many(make(rows_of(100))) as outcomes:
                async for _ in outcomes:
                    break
            await client.flush()
            await turns(5)
            assert tasks() == before


@on_each_api
async def test_update_many_left_while_the_source_waits() -> None:
    async def stuck() -> AsyncIterator[dict[str, Any]]:
        yield rows_of(1)[0]
        await anyio.sleep_forever()

    async with client_of(Wire()) as client:
        with anyio.fail_after(5):
            async with client.update_many(stuck()) as outcomes:
                assert (await anext(outcomes)).ok
        # Waiting for the next one can be given up without leaving.
        async with client.update_many(slowly(rows_of(3), pause=10)) as outcomes:
            with anyio.move_on_after(5):
                await anext(outcomes)
            assert len([outcome async for outcome in outcomes]) == 3


@on_each_api
@pytest.mark.parametrize("make", [list, slowly], ids=["sync", "async"])
async def test_update_many_used_without_leaving_carries_out_what_it_accepted(make: Any) -> None:
    wire = Wire(takes=1)
    async with client_of(wire, max_in_flight=2, max_pending=20) as client:
        stream = client.update_many(make(rows_of(100)))
        assert (await anext(stream)).ok
        taken = client.metrics.pending + client.metrics.applied
        del stream
        gc.collect()
        await anyio.sleep(50)
        assert client.metrics.applied == len(wire.applied) >= taken
        assert client.metrics.pending == 0


@on_each_api
async def test_update_many_closed_before_it_began_takes_nothing() -> None:
    wire = Wire()
    async with client_of(wire) as client:
        for source in (rows_of(3), slowly(rows_of(3))):
            async with client.update_many(source) as outcomes:
                pass
            assert [outcome async for outcome in outcomes] == []
        assert wire.sent == []
        stream = client.update_many(rows_of(3))
        await stream.aclose()
        await stream.aclose()
        assert [outcome async for outcome in stream] == []


# Rows that were not sent are reported.


NONE_TAKEN = (
    "0 rows were taken from the input, 0 of them were not sent; the rest of the input was not read."
)


def unsent_lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [one.getMessage() for one in caplog.records if "left early" in one.getMessage()]


async def read_none(_: UpdateStream) -> None:
    """Leave the stream at once."""


async def read_one(stream: UpdateStream) -> None:
    async for _ in stream:
        break


async def read_one_and_fail(stream: UpdateStream) -> None:
    await anext(stream)
    raise KeyError


@pytest.mark.parametrize(
    ("make", "read", "count"),
    [
        (list, read_none, "200 of 200 rows were not sent."),
        (list, read_one, "196 of 200 rows were not sent."),
        (list, read_one_and_fail, "196 of 200 rows were not sent."),
        (
            lambda rows: (row for row in rows),
            read_none,
            NONE_TAKEN,
        ),
        (
            slowly,
            read_none,
            NONE_TAKEN,
        ),
    ],
    ids=["pass", "break", "exception", "generator", "async"],
)
async def test_update_many_left_early_says_how_many_rows_were_not_sent(
    make: Any, read: Any, count: str, caplog: pytest.LogCaptureFixture
) -> None:
    wire = Wire(takes=1)
    async with client_of(wire, max_in_flight=2) as client:
        with suppress(KeyError):
            async with client.update_many(make(rows_of(200))) as stream:
                await read(stream)
        await stream.aclose()
        sent = len(wire.sent)
        await client.flush()
        assert len(wire.sent) == sent == (4 if count.startswith("196") else 0)
    del stream
    gc.collect()
    [line] = unsent_lines(caplog)
    assert line.startswith(f"update_many was left early: {count}")
    assert "call its `drain()`" in line
    assert {one.levelno for one in caplog.records if one.getMessage() == line} == {logging.WARNING}


@pytest.mark.parametrize("began", [False, True])
async def test_update_many_dropped_without_a_block_says_how_many_rows_were_not_sent(
    began: bool, caplog: pytest.LogCaptureFixture
) -> None:
    wire = Wire()
    async with client_of(wire, max_in_flight=1) as client:
        stream = client.update_many(rows_of(200))
        if began:
            await anext(stream)
        del stream
        await client.flush()
        gc.collect()
        [line] = unsent_lines(caplog)
        left = 200 - len(wire.sent)
        assert f"early: {left} of 200 rows were not sent." in line
    assert 0 < left < 200 if began else left == 200


async def test_update_many_left_early_counts_rows_that_are_invalid_and_were_not_read(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with client_of(Wire()) as client, client.update_many([{}, {}, {}]) as stream:
        await anext(stream)
    assert "2 of 3 rows were not sent." in unsent_lines(caplog)[0]


@pytest.mark.parametrize("stops", [False, True])
async def test_update_many_left_early_tells_of_failures_that_nobody_read(
    stops: bool, caplog: pytest.LogCaptureFixture
) -> None:
    wire = Wire(takes=1)
    for number in (1, 2, 5):
        wire.script(400, dialog_id=f"d-{number}")
    async with client_of(wire, max_in_flight=4) as client:
        async with client.update_many(rows_of(200)) as stream:
            first = await anext(stream)
            await anyio.sleep(0.5)
            if stops:
                stream.stop()
        sent = len(wire.sent)
        await client.flush()
    lines = unsent_lines(caplog)
    assert client.close_report is not None
    failures = client.close_report.failed - (not first.ok)
    assert failures >= 1
    assert sent < 200
    told = [int(re.findall(r"([0-9]+) failed. The first: .*d-", line)[0]) for line in lines]
    assert sum(told) == failures
    assert all("BadRequestError" in line or "400" in line for line in lines)


async def test_update_many_left_with_requests_in_flight_tells_of_their_failures(
    caplog: pytest.LogCaptureFixture,
) -> None:
    wire = Wire(takes=1)
    wire.script(400, dialog_id="d-1")
    async with client_of(wire, max_in_flight=2) as client:
        async with client.update_many(rows_of(2)) as stream:
            with anyio.move_on_after(0.5):
                await anext(stream)
        assert unsent_lines(caplog) == []
    [line] = unsent_lines(caplog)
    assert "Of 2 unread outcomes, 1 failed. The first: " in line
    assert "d-1" in line


async def left_by_stop(stream: UpdateStream) -> None:
    await anext(stream)
    stream.stop()


async def left_at_the_last_row(stream: UpdateStream) -> None:
    for _ in range(20):
        await anext(stream)


async def read_to_the_end(stream: UpdateStream) -> None:
    async for _ in stream:
        pass


async def drained(stream: UpdateStream) -> None:
    await stream.drain()


@pytest.mark.parametrize("make", [list, slowly], ids=["sync", "async"])
@pytest.mark.parametrize("read", [left_by_stop, left_at_the_last_row, read_to_the_end, drained])
async def test_update_many_without_unsent_rows_or_stopped_on_purpose_says_nothing(
    make: Any, read: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async with client_of(Wire()) as client:
        async with client.update_many(make(rows_of(20))) as stream:
            await read(stream)
            await anyio.sleep(1)
        del stream
        gc.collect()
    assert unsent_lines(caplog) == []


@on_each_api
@pytest.mark.parametrize("make", [list, slowly, Source], ids=["sync", "async", "iterator"])
async def test_drain_sends_all_remaining_rows_and_counts_their_outcomes(make: Any) -> None:
    wire = Wire()
    wire.script(400, dialog_id="d-107")
    wire.script(DROPPED, dialog_id="d-108")
    rows = [*rows_of(200), {"dialog_id": "d", "session": {"not a name": 1}}]
    async with client_of(wire, retry=RetryPolicy(ambiguous="raise")) as client:
        async with client.update_many(make(rows)) as stream:
            assert (await anext(stream)).ok
            report = await stream.drain()
            assert (report.applied, report.failed, report.ambiguous) == (197, 2, 1)
            failures = {outcome.index: type(outcome.error) for outcome in report.failures}
            assert failures == {
                107: BadRequestError,
                108: AmbiguousUpdateError,
                200: UpdateValidationError,
            }
            assert not [outcome async for outcome in stream]
        assert len(wire.applied) == 198
        # No block is needed.
        report = await client.update_many(make(rows_of(5))).drain()
        assert repr(report) == "<DrainReport 5 applied, 0 failed, 0 ambiguous>"


async def test_drain_keeps_the_first_failures_of_a_long_input_only() -> None:
    async with client_of(Wire()) as client:
        report = await client.update_many({} for _ in range(300)).drain()
    assert report.failed == 300
    assert [outcome.index for outcome in report.failures] == list(range(100))


async def test_drain_raises_what_the_input_raises() -> None:
    def rows() -> Iterator[dict[str, Any]]:
        yield from rows_of(10)
        raise KeyError("broken")

    wire = Wire()
    async with client_of(wire) as client:
        with pytest.raises(KeyError, match="broken"):
            await client.update_many(rows()).drain()
        assert len(wire.applied) == 10


async def test_update_many_awaited_says_what_to_write_instead(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with client_of(Wire()) as client:
        stream: Any = client.update_many(rows_of(3))
        with pytest.raises(TypeError, match=r"async with client\.update_many.*stream\.drain\(\)"):
            await stream
        del stream
        gc.collect()
    assert unsent_lines(caplog) == []


# Beside others.


@on_each_api
async def test_update_many_several_at_once_and_live_updates() -> None:
    wire = Wire(takes=1)
    async with client_of(wire, max_in_flight=4) as client:

        async def bulk(name: str) -> list[bool]:
            rows = [{"dialog_id": f"{name}-{n % 7}", "session": {"seq": n}} for n in range(60)]
            return [outcome.ok async for outcome in client.update_many(rows)]

        async def live(number: int) -> list[bool]:
            await anyio.sleep(number)
            began = anyio.current_time()
            await client.update(f"live-{number}", session={"a": 1})
            # Ahead of everything that streams have in stock.
            assert anyio.current_time() - began <= 2.1
            return [True]

        outcomes = await all_of(
            *(partial(bulk, name) for name in "abc"), *(partial(live, n) for n in range(10))
        )
    assert [sum(one) for one in outcomes if not isinstance(one, Exception)] == [60] * 3 + [1] * 10
    for name in (f"{letter}-{n}" for letter in "abc" for n in range(7)):
        seqs = [sent.seq for sent in wire.writes(name)]
        assert seqs == sorted(seqs)


@on_each_api
async def test_update_many_with_room_for_one() -> None:
    wire = Wire(takes=0.1)
    async with client_of(wire, max_pending=1) as client:
        for make in (list, slowly):
            stream = client.update_many(make(rows_of(5)))
            assert [outcome.ok async for outcome in stream] == [True] * 5


@on_each_api
async def test_update_many_while_live_updates_have_all_the_room() -> None:
    wire = Wire(takes=1)
    async with client_of(wire, max_pending=3, max_in_flight=3) as client:

        async def live(number: int) -> None:
            for _ in range(10):
                await client.update(f"live-{number}", session={"a": 1})

        async def bulk(make: Any) -> list[bool]:
            return [outcome.ok async for outcome in client.update_many(make(rows_of(5)))]

        outcomes = await all_of(
            *(partial(live, n) for n in range(5)), partial(bulk, list), partial(bulk, slowly)
        )
    assert not [outcome for outcome in outcomes if isinstance(outcome, Exception)]
    assert outcomes[-2:] == [[True] * 5] * 2


@on_each_api
@pytest.mark.parametrize("make", [list, slowly], ids=["sync", "async"])
async def test_update_many_of_a_client_that_closes_says_that_it_is_not_complete(make: Any) -> None:
    wire = Wire(takes=1)
    told: Counter[str] = Counter()
    client = client_of(wire, max_in_flight=2)
    async with client, anyio.create_task_group() as tasks:

        async def bulk() -> None:
            try:
                async for outcome in client.update_many(make(rows_of(300))):
                    told[type(outcome.error).__name__] += 1
            except ClientClosedError:
                told["the end"] += 1

        tasks.start_soon(bulk)
        await anyio.sleep(3.5)
        await client.aclose()
    assert told["the end"] == 1
    assert 4 <= told["NoneType"] < 300
    assert client.metrics.applied == told["NoneType"]


@on_each_api
async def test_update_many_with_a_handle_that_is_withdrawn_beside_it() -> None:
    wire = Wire(takes=1)
    async with client_of(wire, max_in_flight=1) as client:
        handle = None

        async def bulk() -> list[bool]:
            return [outcome.ok async for outcome in client.update_many(rows_of(6, dialogs=1))]

        async def other() -> None:
            nonlocal handle
            await until(lambda: wire.sent)
            handle = client.submit_nowait({"dialog_id": "d-0", "session": {"seq": 99}})
            handle.withdraw()

        outcomes = await all_of(bulk, other)
        assert outcomes[0] == [True] * 6
        assert handle is not None
        assert isinstance(await outcome_of(handle), UpdateWithdrawnError)
    assert [sent.seq for sent in wire.sent] == list(range(6))


@on_each_api
async def test_update_many_policy_of_one_stream() -> None:
    wire = Wire(answer=500)
    async with client_of(wire) as client:
        policy = at_once(max_attempts=1)
        outcomes = [o async for o in client.update_many(rows_of(20), retry=policy)]
    assert all(not outcome.ok for outcome in outcomes)
    assert len(wire.sent) == 20


@on_each_api
@pytest.mark.parametrize("kind", ["raises", "yields", "dawdles"])
@pytest.mark.parametrize("asynchronous", [False, True])
async def test_update_many_left_although_the_source_cannot_be_closed(
    asynchronous: bool, kind: str
) -> None:
    class ClosingError(Exception):
        pass

    def rows() -> Iterator[dict[str, Any]]:
        try:
            yield from rows_of(500)
        finally:
            if kind == "raises":
                raise ClosingError
            if kind == "yields":
                yield rows_of(1)[0]

    async def slow_rows() -> AsyncIterator[dict[str, Any]]:
        try:
            for row in rows_of(500):
                yield row
        finally:
            if kind == "raises":
                raise ClosingError
            if kind == "yields":
                yield rows_of(1)[0]
            await anyio.sleep(1000)

    wire = Wire(takes=1)
    async with client_of(wire, max_in_flight=2) as client:
        stream = client.update_many(slow_rows() if asynchronous else rows())
        with anyio.fail_after(60):
            assert (await anext(stream)).ok
            # Whether its complaint is passed on or not, the stream is left in order.
            error = await outcome_of(stream.aclose())
            assert error is None or isinstance(error, ClosingError | RuntimeError | CognigyError)
            sent = len(wire.sent)
            await client.flush()
            assert len(wire.sent) == sent
            await client.update("d", session={"a": 1})
    assert client.metrics.pending == 0
