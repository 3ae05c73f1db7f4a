"""`UpdateWatch` and `UpdateStream.stop`: what a program needs that keeps a record of updates."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio
import pytest

from cognigy_async import (
    CallbackError,
    CognigyError,
    DeadLetter,
    StateUpdate,
    UpdateEvent,
    UpdateOutcome,
    UpdateWithdrawnError,
)
from cognigy_async.spi import DeliveryReceipt
from tests.simulation.world import DROPPED, Wire, client_of, every, never, turns


class Watch:
    """Writes down what it is told, in order with what the wire sees."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self.told: list[tuple[Any, ...]] = []
        self.hold: anyio.Event | None = None
        self.fault: Callable[[int], Exception | None] = lambda _: None

    async def before_send(self, indexes: tuple[int, ...], key: str, etag: str | None) -> None:
        (index,) = indexes
        self.told.append(("before", index, etag, len(self._wire.writes())))
        if self.hold is not None:
            await self.hold.wait()
        error = self.fault(index)
        if error is not None:
            raise error

    def retrying(self, index: int, reason: str, seconds: float, applied_parts: int) -> None:
        self.told.append(("retrying", index, reason, seconds))

    def published(self, index: int, callback: str) -> DeliveryReceipt | None:
        return None


async def all_outcomes(stream: Any) -> dict[int, UpdateOutcome]:
    return {outcome.index: outcome async for outcome in stream}


async def test_it_is_asked_before_each_request_that_must_not_be_repeated_blindly() -> None:
    wire = Wire()
    watch = Watch(wire)
    rows = [
        {"dialog_id": "d", "session": {"seq": 0}},
        {"dialog_id": "d", "next_step": "go"},
        StateUpdate("d", session={"seq": 2}, if_match='"2"'),
        {"dialog_id": "d", "session": {"seq": 3}},
    ]
    async with client_of(wire) as client:
        outcomes = await all_outcomes(client.update_many(rows, watch=watch))
    assert all(outcome.ok for outcome in outcomes.values())
    assert watch.told == [("before", 1, '"1"', 1), ("before", 2, '"2"', 2)]


async def test_it_is_asked_again_before_each_attempt_and_told_of_each_wait() -> None:
    wire = Wire()
    wire.script(503, 409)
    watch = Watch(wire)
    async with client_of(wire, retry=every(2.0)) as client:
        stream = client.update_many([{"dialog_id": "d", "next_step": "go"}], watch=watch)
        outcomes = await all_outcomes(stream)
    assert outcomes[0].ok
    assert watch.told == [
        ("before", 0, None, 0),
        ("retrying", 0, "unavailable", 2.0),
        ("before", 0, None, 1),
        ("retrying", 0, "conflict", 2.0),
        ("before", 0, '"0"', 2),
    ]


async def test_it_is_told_of_repeats_of_what_is_harmless() -> None:
    wire = Wire()
    wire.script(DROPPED)
    watch = Watch(wire)
    async with client_of(wire, retry=every(1.0)) as client:
        await all_outcomes(
            client.update_many([{"dialog_id": "d", "session": {"seq": 1}}], watch=watch)
        )
    assert watch.told == [("retrying", 0, "no_response", 1.0)]


async def test_of_a_split_update_only_the_part_that_moves_the_dialog_waits_for_it() -> None:
    wire = Wire()
    watch = Watch(wire)
    large = {f"v{n}": "x" * 200_000 for n in range(4)}
    async with client_of(wire) as client:
        stream = client.update_many(
            [{"dialog_id": "d", "session": large, "next_step": "go"}], watch=watch
        )
        await all_outcomes(stream)
    sent = len(wire.writes())
    assert sent > 1
    assert watch.told == [("before", 0, f'"{sent - 1}"', sent - 1)]


async def test_what_it_raises_fails_the_update_which_is_not_sent_and_holds_up_nobody() -> None:
    class FullError(CognigyError):
        pass

    wire = Wire()
    watch = Watch(wire)
    watch.fault = lambda index: FullError("no room") if index == 0 else None
    rows = [{"dialog_id": "d", "next_step": "a"}, {"dialog_id": "d", "next_step": "b"}]
    async with client_of(wire) as client:
        outcomes = await all_outcomes(client.update_many(rows, watch=watch))
    assert isinstance(outcomes[0].error, FullError)
    assert outcomes[1].ok
    assert [sent.body["transition"]["nextStep"] for sent in wire.writes()] == ["b"]


async def test_what_waits_for_it_is_withdrawn_by_stop_and_never_sent() -> None:
    wire = Wire()
    watch = Watch(wire)
    watch.hold = anyio.Event()
    rows = [{"dialog_id": "d", "next_step": step} for step in "ab"]
    async with client_of(wire) as client:
        stream = client.update_many(rows, watch=watch)
        async with anyio.create_task_group() as tasks:

            async def stop_soon() -> None:
                await turns(50)
                stream.stop()
                await turns(5)
                assert watch.hold is not None
                watch.hold.set()

            tasks.start_soon(stop_soon)
            outcomes = await all_outcomes(stream)
    assert [type(outcomes[n].error) for n in (0, 1)] == [UpdateWithdrawnError] * 2
    assert watch.told == [("before", 0, None, 0)]
    assert wire.sent == []


async def test_what_waits_for_it_when_the_client_is_closed_is_returned_unsent() -> None:
    wire = Wire()
    watch = Watch(wire)
    watch.hold = anyio.Event()
    client = client_of(wire)
    async with client:
        stream = client.update_many([{"dialog_id": "d", "next_step": "a"}], watch=watch)
        with anyio.move_on_after(1.0):
            await anext(stream)
        report = await client.aclose(drain=False, timeout=1.0)
    assert [update.next_step for update in report.unsent] == ["a"]
    assert (report.failed, report.ambiguous) == (0, 0)
    assert wire.sent == []


async def test_a_watch_that_fails_in_another_way_fails_the_update_alone() -> None:
    wire = Wire()
    watch = Watch(wire)
    watch.fault = lambda _: RuntimeError("a value")
    async with client_of(wire) as client:
        stream = client.update_many([{"dialog_id": "d", "next_step": "a"}], watch=watch)
        outcomes = await all_outcomes(stream)
    assert str(outcomes[0].error) == (
        "the update watch raised RuntimeError before the request was sent"
    )


async def test_while_one_waits_for_it_other_dialogs_go_on() -> None:
    wire = Wire()
    watch = Watch(wire)
    watch.hold = anyio.Event()
    rows = [{"dialog_id": "slow", "next_step": "a"}] + [
        {"dialog_id": f"d-{n}", "session": {"seq": n}} for n in range(20)
    ]
    async with (
        client_of(wire, max_in_flight=4) as client,
        client.update_many(rows, watch=watch) as stream,
    ):
        seen = [(await anext(stream)).index for _ in range(20)]
        assert sorted(seen) == list(range(1, 21))
        watch.hold.set()
        assert (await anext(stream)).index == 0


@pytest.mark.parametrize("how", ["list", "async"])
async def test_stop_withdraws_what_was_not_sent_and_lets_the_rest_end(how: str) -> None:
    wire = Wire(takes=1.0)
    rows = [{"dialog_id": f"d-{n % 3}", "session": {"seq": n}} for n in range(500)]

    async def arriving() -> Any:
        for row in rows:
            yield row

    async with client_of(wire, max_in_flight=2) as client:
        async with client.update_many(rows if how == "list" else arriving()) as stream:
            first = await anext(stream)
            stream.stop()
            rest = [outcome async for outcome in stream]
        await client.flush()
    outcomes = [first, *rest]
    applied = sorted(outcome.index for outcome in outcomes if outcome.ok)
    withdrawn = [o for o in outcomes if isinstance(o.error, UpdateWithdrawnError)]
    assert len(applied) + len(withdrawn) == len(outcomes)
    assert len(applied) == len(wire.writes()) <= 4
    assert withdrawn
    assert len({outcome.index for outcome in outcomes}) == len(outcomes)


async def test_stop_before_the_first_outcome_takes_nothing() -> None:
    wire = Wire()

    async def arriving() -> Any:
        yield {"dialog_id": "d", "session": {"seq": 1}}

    async with client_of(wire) as client:
        stream = client.update_many(arriving())
        stream.stop()
        assert await all_outcomes(stream) == {}
    assert wire.sent == []


async def test_stop_ends_what_waits_to_be_repeated_with_its_last_failure() -> None:
    wire = Wire(answer=503)
    async with client_of(wire, retry=every(1000.0)) as client:
        stream = client.update_many([{"dialog_id": "d", "session": {"seq": 1}}])
        async with anyio.create_task_group() as tasks:

            async def stop_soon() -> None:
                await anyio.sleep(1.0)
                stream.stop()

            tasks.start_soon(stop_soon)
            outcomes = await all_outcomes(stream)
    assert getattr(outcomes[0].error, "status", None) == 503
    assert len(wire.sent) == 1


async def test_stop_while_the_input_waits_for_more() -> None:
    wire = Wire()

    async def arriving() -> Any:
        yield {"dialog_id": "d", "session": {"seq": 1}}
        await anyio.sleep_forever()

    async with client_of(wire) as client, client.update_many(arriving()) as stream:
        assert (await anext(stream)).ok
        stream.stop()
        assert await all_outcomes(stream) == {}


async def test_a_request_that_hangs_still_ends_by_its_timeout_after_stop() -> None:
    wire = Wire(answer=never)
    async with client_of(wire, timeout=5.0) as client:
        stream = client.update_many([{"dialog_id": "d", "session": {"seq": 1}}])
        async with anyio.create_task_group() as tasks:

            async def stop_soon() -> None:
                await turns(50)
                stream.stop()

            tasks.start_soon(stop_soon)
            outcomes = await all_outcomes(stream)
        assert anyio.current_time() == pytest.approx(5.0)
    assert not outcomes[0].ok


class GroupWatch(Watch):
    def __init__(self, wire: Wire) -> None:
        super().__init__(wire)
        self.keys: list[str] = []

    async def before_send(self, indexes: tuple[int, ...], key: str, etag: str | None) -> None:
        self.told.append(("before", indexes))
        self.keys.append(key)
        if self.hold is not None:
            await self.hold.wait()


def rows_of_one_dialog(count: int) -> list[dict[str, Any]]:
    return [{"dialog_id": "d", "session": {"seq": n}} for n in range(count)]


async def test_it_is_asked_for_all_that_share_a_request_which_stays_as_it_was() -> None:
    wire = Wire()
    wire.script(DROPPED)
    watch = GroupWatch(wire)
    async with client_of(wire, retry=every(1.0)) as client:
        stream = client.update_many(rows_of_one_dialog(5), coalesce=True, watch=watch)
        outcomes = await all_outcomes(stream)
    assert all(outcome.ok for outcome in outcomes.values())
    told = [asked[1] for asked in watch.told if asked[0] == "before"]
    assert told[0] == told[1]
    assert len(told[0]) > 1
    assert [sent.key for sent in wire.writes()[:2]] == watch.keys[:2]
    assert watch.keys[0] == watch.keys[1]


async def test_a_group_that_waits_for_it_is_withdrawn_by_stop() -> None:
    wire = Wire()
    watch = GroupWatch(wire)
    watch.hold = anyio.Event()
    async with client_of(wire) as client:
        stream = client.update_many(rows_of_one_dialog(5), coalesce=True, watch=watch)
        async with anyio.create_task_group() as tasks:

            async def stop_soon() -> None:
                await turns(50)
                stream.stop()
                assert watch.hold is not None
                watch.hold.set()

            tasks.start_soon(stop_soon)
            outcomes = await all_outcomes(stream)
    assert {type(outcome.error) for outcome in outcomes.values()} == {UpdateWithdrawnError}
    assert wire.sent == []


async def test_a_group_that_waits_for_it_when_the_client_is_closed_is_returned_unsent() -> None:
    wire = Wire()
    watch = GroupWatch(wire)
    watch.hold = anyio.Event()
    client = client_of(wire)
    async with client:
        stream = client.update_many(rows_of_one_dialog(5), coalesce=True, watch=watch)
        with anyio.move_on_after(1.0):
            await anext(stream)
        report = await client.aclose(drain=False, timeout=1.0)
    assert [update.session["seq"] for update in report.unsent] == list(range(5))
    assert (report.failed, report.ambiguous) == (0, 0)


# Deliveries.


class Receipts(Watch):
    """Writes down what became of each event."""

    def published(self, index: int, callback: str) -> DeliveryReceipt | None:
        def receipt(error: CallbackError | None, calls: int) -> None:
            self.told.append((index, callback.rpartition(".")[2], str(error), calls))

        self.told.append((index, callback.rpartition(".")[2]))
        return receipt


@pytest.mark.parametrize("way", ["update_many", "submit", "submit_nowait"])
async def test_it_is_told_of_each_event_and_what_a_callback_did_with_it(way: str) -> None:
    wire = Wire()
    watch = Receipts(wire)
    client = client_of(wire)
    calls = 0

    @client.on_state_updated
    async def taken(_: UpdateEvent) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise ConnectionError

    @client.on_state_updated(retries=0)
    async def lost(_: UpdateEvent) -> None:
        raise ConnectionError

    @client.on_update_failed
    async def not_for_this(_: UpdateEvent) -> None:
        raise AssertionError

    row = {"dialog_id": "d", "session": {"seq": 1}}
    index = -1
    async with client:
        if way == "update_many":
            index = 0
            await all_outcomes(client.update_many([row], watch=watch))
        elif way == "submit":
            await (await client.submit(row, watch=watch))
        else:
            await client.submit_nowait(row, watch=watch)
        await client.update("d", session={"seq": 2})
        await client.flush()
    assert watch.told[:2] == [(index, "taken"), (index, "lost")]
    assert watch.told[2:] == [
        (index, "lost", f"the callback {lost.__qualname__} failed with ConnectionError", 1),
        (index, "taken", "None", 2),
    ]


async def test_no_event_is_told_of_where_there_is_none() -> None:
    wire = Wire()
    watch = Receipts(wire)
    client = client_of(wire)
    client.on_state_updated(lambda _: None)
    client.on_update_failed(lambda _: None)
    async with client:
        pending = await client.submit({"dialog_id": "d", "session": {"seq": 1}}, watch=watch)
        assert pending.withdraw()
        await client.flush()
    assert watch.told == []


async def test_each_event_is_decided_when_a_client_closes() -> None:
    wire = Wire()
    watch = Receipts(wire)
    client = client_of(wire)

    async def hang(_: DeadLetter) -> None:
        await anyio.sleep_forever()

    @client.on_state_updated(timeout=1000.0, on_dead_letter=hang)
    async def first(_: UpdateEvent) -> None:
        await anyio.sleep_forever()

    client.on_state_updated(first, timeout=1000.0)
    async with client:
        await all_outcomes(
            client.update_many(
                [{"dialog_id": "d", "session": {"seq": n}} for n in (1, 2)], watch=watch
            )
        )
        report = await client.aclose(timeout=1.0)
    closed = "the client was closed before the event was delivered"
    assert [told[2:] for told in watch.told[4:]] == [(closed, 1), (closed, 0)] * 2
    assert report.undelivered == 4


async def test_one_that_fails_there_harms_nothing(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Watch):
        def published(self, index: int, callback: str) -> DeliveryReceipt | None:
            if index:
                raise RuntimeError("canary-51")

            def receipt(error: CallbackError | None, calls: int) -> None:
                raise RuntimeError("canary-51")

            return receipt

    wire = Wire()
    client = client_of(wire)
    seen: list[str] = []

    @client.on_state_updated
    async def see(event: UpdateEvent) -> None:
        seen.append(event.dialog_id)

    rows = [{"dialog_id": f"d{n}", "session": {"seq": n}} for n in range(2)]
    async with client:
        outcomes = await all_outcomes(client.update_many(rows, watch=Broken(wire)))
        await client.flush()
    assert all(outcome.ok for outcome in outcomes.values())
    assert sorted(seen) == ["d0", "d1"]
    told = [one.getMessage() for one in caplog.records if "observer" in one.getMessage()]
    assert sorted(told) == [
        "delivery observer Broken raised RuntimeError",
        "delivery observer function raised RuntimeError",
    ]
    assert "canary" not in caplog.text
