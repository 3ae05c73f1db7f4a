"""Deliveries: order, batches, failures, pauses, dead letters."""

from __future__ import annotations

import gc
import logging
import os
import random
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import anyio
import pytest

from cognigy_async import TargetStatus, UpdateEvent
from cognigy_async.crm import (
    DeliveryError,
    EventRejectedError,
    Outbox,
    TargetGoneError,
    TargetUnavailableError,
)
from cognigy_async.crm import recorder as recording
from tests.unit._builders import CANARY
from tests.unit.crm._driver import Client, Collector, collecting, eventually, let_pass, opened

DAY = 24 * 3600.0


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "outbox"


def spread(events: int, dialogs: int) -> list[tuple[str, str]]:
    """Return dialogs and update ids, such that each dialog has its ids in order."""
    return [(f"d-{number % dialogs}", f"u-{number:06}") for number in range(events)]


async def fill(client: Client, ids: Sequence[tuple[str, str]]) -> None:
    for first in range(0, len(ids), 500):
        await client.apply_many(ids[first : first + 500])


def check_order(target: Collector, ids: Sequence[tuple[str, str]]) -> None:
    """Check that each event arrived, the last times in the order of its dialog."""
    by_dialog: dict[str, list[str]] = {}
    for dialog, key in ids:
        by_dialog.setdefault(dialog, []).append(key)
    found: dict[str, dict[str, None]] = {}
    for event in reversed(target.events):
        found.setdefault(event.dialog_id, {}).setdefault(event.update_id)
    assert {dialog: list(keys)[::-1] for dialog, keys in found.items()} == by_dialog


def status(outbox: Outbox) -> TargetStatus:
    (found,) = outbox.status()
    return found


@pytest.mark.parametrize("dialogs", [1, 7, 300])
@pytest.mark.parametrize(("batch_size", "concurrency"), [(1, 16), (10, 1), (25, 3)])
async def test_events_arrive_in_the_order_of_their_dialog(
    folder: Path, dialogs: int, batch_size: int, concurrency: int
) -> None:
    outbox = Outbox(folder)
    target = Collector(batch_size=batch_size, concurrency=concurrency, delay=0.01)
    collecting(outbox, target)
    ids = spread(600, dialogs)
    async with opened(outbox) as client:
        await fill(client, ids)
        await target.until(lambda: len(target.events) == len(ids))
        assert target.most <= concurrency
        await anyio.sleep(1)
        assert (status(outbox).depth, status(outbox).delivered) == (0, 600)
        assert status(outbox).oldest_age == 0.0
    check_order(target, ids)
    assert len(target.events) == len(ids)


@pytest.mark.parametrize(
    "dialogs",
    [
        pytest.param(30_000, marks=pytest.mark.thorough),
        pytest.param(10_000, marks=pytest.mark.thorough),
        2_000,
    ],
)
async def test_batches_are_full_when_the_backlog_is_large(folder: Path, dialogs: int) -> None:
    ids = spread(30_000, dialogs)
    outbox = Outbox(folder)
    down = Collector(batch_size=100)
    down.raises = lambda _: (_ for _ in ()).throw(TargetUnavailableError("down", 3600))
    collecting(outbox, down)
    async with opened(outbox) as client:
        await fill(client, ids)
    outbox = Outbox(folder)
    target = collecting(outbox, Collector(batch_size=100, concurrency=4, delay=0.05, linger=1.0))
    async with opened(outbox):
        await target.until(lambda: len(target.events) == len(ids))
    check_order(target, ids)
    assert len(target.calls) <= 310


async def test_a_batch_lingers_until_it_is_full_or_its_oldest_event_is_old(folder: Path) -> None:
    outbox = Outbox(folder)
    target = collecting(outbox, Collector(batch_size=3, linger=2.0))
    async with opened(outbox) as client:
        await client.apply("d-1", "u-1")
        began = anyio.current_time()
        await target.until(lambda: len(target.events) == 1)
        assert target.times[0] >= began + 1.9
        await client.apply_many([("d-1", "u-2"), ("d-2", "u-3"), ("d-3", "u-4")])
        await target.until(lambda: len(target.events) == 4)
    assert target.calls == [["u-1"], ["u-2", "u-3", "u-4"]]


async def test_a_failed_event_is_repeated_before_those_behind_it(folder: Path) -> None:
    outbox = Outbox(folder)

    def answer(event: UpdateEvent, count: int) -> DeliveryError | None:
        return DeliveryError("no") if event.update_id == "u-2" and count < 4 else None

    target = collecting(outbox, Collector(batch_size=2, concurrency=4, answer=answer))
    ids = [("d-1", "u-1"), ("d-1", "u-2"), ("d-2", "u-3"), ("d-1", "u-4"), ("d-1", "u-5")]
    async with opened(outbox) as client:
        await client.apply_many(ids)
        await target.until(lambda: "u-3" in target.ids())
        assert target.ids("d-1") == ["u-1"]
        await target.until(lambda: len(target.ids()) == 5)
        assert status(outbox).failed == 3
    check_order(target, ids)
    times = [time for time, call in zip(target.times, target.calls, strict=True) if "u-2" in call]
    pauses = [after - before for before, after in pairwise(times)]
    for pause, longest in zip(pauses, (1, 2, 4), strict=True):
        assert longest / 2 <= pause


async def test_what_follows_a_failure_in_its_batch_is_repeated_in_order(folder: Path) -> None:
    outbox = Outbox(folder)

    def answer(event: UpdateEvent, count: int) -> DeliveryError | None:
        return DeliveryError("no") if (event.update_id, count) == ("u-1", 1) else None

    target = collecting(outbox, Collector(batch_size=10, answer=answer))
    async with opened(outbox) as client:
        await client.apply_many([("d-1", "u-1"), ("d-1", "u-2")])
        await target.until(lambda: len(target.events) == 3)
        await eventually(lambda: status(outbox).depth == 0)
        assert status(outbox).delivered == 2
    # The target got the second one first, and then both in order.
    assert [event.update_id for event in target.events] == ["u-2", "u-1", "u-2"]


@pytest.mark.parametrize("in_list", [False, True])
async def test_a_rejected_event_becomes_a_dead_letter_at_once(folder: Path, in_list: bool) -> None:
    outbox = Outbox(folder)
    error = EventRejectedError("it has no address")
    target = collecting(outbox, Collector())
    if in_list:
        target.answer = lambda event, _: error if event.update_id == "u-1" else None
    else:

        def reject(events: Sequence[UpdateEvent]) -> None:
            if events[0].update_id == "u-1":
                raise error

        target.raises = reject
    async with opened(outbox) as client:
        await client.apply_many([("d-1", "u-1"), ("d-1", "u-2")])
        await target.until(lambda: len(target.events) == 1)
        found = status(outbox)
        assert (found.dead_letters, found.failed, found.delivered) == (1, 1, 1)
    assert target.ids() == ["u-2"]
    # It stays one, also for the next process.
    async with opened(outbox):
        await anyio.sleep(5)
        assert (status(outbox).dead_letters, status(outbox).depth) == (1, 0)
    assert len(target.calls) == 2


async def test_an_event_that_fails_for_max_age_becomes_a_dead_letter(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outbox = Outbox(folder, max_age=DAY / 4)
    target = collecting(outbox, Collector(answer=lambda *_: DeliveryError("no")))
    monkeypatch.setattr(recording, "clock", lambda: 1e9 + anyio.current_time())
    async with opened(outbox) as client:
        await client.apply("d-1", "u-1")
        await let_pass(DAY / 4)
        await eventually(lambda: status(outbox).dead_letters == 1)
        calls = len(target.calls)
        await let_pass(3600)
        assert len(target.calls) == calls
    # At most every two and a half minutes. Time is not exact while threads are at work.
    assert 5 < calls < target.times[-1] / 150 + 20


@pytest.mark.parametrize("in_list", [False, True])
async def test_a_target_that_is_down_for_a_day_gets_everything(folder: Path, in_list: bool) -> None:
    outbox = Outbox(folder)
    ids = spread(3_000, 500)
    target = Collector(batch_size=50, concurrency=8, linger=1.0)
    error = TargetUnavailableError("down")
    is_down = True

    def fail(_: Sequence[UpdateEvent]) -> None:
        if is_down and not in_list:
            raise error

    def answer(_: UpdateEvent, count: int) -> DeliveryError | None:
        return error if is_down and in_list else None

    target.raises, target.answer = fail, answer
    healthy = Collector(name="healthy")
    collecting(outbox, target)
    collecting(outbox, healthy)
    async with opened(outbox) as client:
        await fill(client, ids[:1500])
        await let_pass(DAY)
        await fill(client, ids[1500:])
        await healthy.until(lambda: len(healthy.events) == len(ids))
        down, _ = outbox.status()
        assert (down.depth, down.failed, down.dead_letters) == (len(ids), 0, 0)
        assert 5 < len(target.calls) < DAY / 150 + 20
        calls = len(target.calls)
        is_down = False
        await target.until(lambda: len(target.ids()) == len(ids))
        assert outbox.status()[0].halted is None
    check_order(target, ids)
    assert len(target.calls) - calls <= len(ids) / 50 + 10


async def test_one_call_shows_that_a_target_is_back(folder: Path) -> None:
    in_flight: list[int] = []

    def fail(_: Sequence[UpdateEvent]) -> None:
        in_flight.append(target.in_flight)
        if len(in_flight) < 20:
            raise TargetUnavailableError("down")

    outbox = Outbox(folder)
    target = collecting(outbox, Collector(concurrency=8, delay=1.0, raises=fail))
    async with opened(outbox) as client:
        await client.apply_many(spread(50, 50))
        await target.until(lambda: len(target.events) == 50)
    assert max(in_flight[:8]) > 1
    assert in_flight[8:20] == [1] * 12
    assert max(in_flight[20:]) > 1


async def test_retry_after_is_honoured_up_to_an_hour(folder: Path) -> None:
    waits = iter([40.0, 7200.0, 0.0])

    def throttle(_: Sequence[UpdateEvent]) -> None:
        if (wait := next(waits, None)) is not None:
            raise TargetUnavailableError("too many", wait)

    outbox = Outbox(folder)
    target = collecting(outbox, Collector(raises=throttle))
    async with opened(outbox) as client:
        await client.apply("d-1", "u-1")
        await target.until(lambda: bool(target.calls))
        await anyio.sleep(1)
        assert status(outbox).halted is not None
        await target.until(lambda: bool(target.events))
        assert status(outbox).halted is None
    first, second, third, fourth = target.times
    assert 40 <= second - first < 50
    assert 3600 <= third - second < 3700
    assert 1 <= fourth - third < 10


@pytest.mark.parametrize("in_list", [False, True])
async def test_a_target_that_is_gone_stops_until_the_next_start(
    folder: Path, in_list: bool
) -> None:
    outbox = Outbox(folder)
    error = TargetGoneError("410 Gone. Correct the address.")
    target = Collector()
    if in_list:
        target.answer = lambda *_: error
    else:

        def fail(_: Sequence[UpdateEvent]) -> None:
            raise error

        target.raises = fail
    collecting(outbox, target)
    async with opened(outbox) as client:
        await client.apply("d-1", "u-1")
        await let_pass(3600)
        await client.apply("d-1", "u-2")
        await let_pass(3600)
        assert status(outbox).halted == str(error)
        assert status(outbox).depth == 2
    assert len(target.calls) == 1
    target.answer = lambda *_: None
    target.raises = lambda _: None
    async with opened(outbox):
        await target.until(lambda: len(target.events) == 2)
    assert target.ids() == ["u-1", "u-2"]


async def test_thousands_of_failing_dialogs_do_not_stop_the_others(folder: Path) -> None:
    outbox = Outbox(folder)

    def answer(event: UpdateEvent, _: int) -> DeliveryError | None:
        return DeliveryError("no") if event.dialog_id.startswith("bad") else None

    target = collecting(outbox, Collector(batch_size=50, concurrency=4, answer=answer))
    bad = [(f"bad-{number % 5000}", f"b-{number:05}") for number in range(10_000)]
    good = [(f"d-{number % 100}", f"u-{number:05}") for number in range(300)]
    async with opened(outbox) as client:
        await fill(client, bad)
        await let_pass(60)
        for first in range(0, len(good), 10):
            await client.apply_many(good[first : first + 10])
            await target.until(lambda: len(target.ids()) == first + 10)  # noqa: B023
        assert status(outbox).depth == len(bad)
        (delivery,) = outbox._session.deliveries  # type: ignore[union-attr]
        assert len(delivery._dialogs) <= 5000 + 100
        assert len(delivery._due) <= 5000 + 100
        assert len(delivery._buffer) <= 300
        target.answer = lambda *_: None
        await target.until(lambda: len(target.ids()) == len(bad) + len(good))
    check_order(target, bad + good)


@pytest.mark.parametrize("seed", range(3))
async def test_a_faulty_target_misses_nothing(folder: Path, seed: int) -> None:
    chance = random.Random(seed)
    rejected: set[str] = set()

    def answer(event: UpdateEvent, _: int) -> DeliveryError | None:
        if (kind := chance.random()) < 0.05:
            return DeliveryError("no")
        if kind < 0.06:
            return TargetUnavailableError("throttled")
        if kind < 0.07:
            rejected.add(event.update_id)
            return EventRejectedError("never")
        return None

    def raises(_: Sequence[UpdateEvent]) -> None:
        if (kind := chance.random()) < 0.03:
            raise ValueError(CANARY)
        if kind < 0.05:
            raise TargetUnavailableError("down", 3)

    outbox = Outbox(folder)
    target = Collector(batch_size=10, concurrency=5, delay=0.1, answer=answer, raises=raises)
    collecting(outbox, target)
    ids = spread(1_000, 60)
    async with opened(outbox) as client:
        await fill(client, ids)
        while status(outbox).depth:
            await target.changed.wait()
        assert status(outbox).dead_letters > 0
    # An answer "never" may have come for an event that waited behind a failed one.
    dead = dead_letters_of(folder)
    assert {key for _, key in ids} - set(target.ids()) <= dead <= rejected
    target.events = [event for event in target.events if event.update_id not in dead]
    check_order(target, [each for each in ids if each[1] not in dead])


def dead_letters_of(folder: Path) -> set[str]:
    (path,) = folder.glob("outbox-*.sqlite3")
    with closing(sqlite3.connect(path)) as connection:
        return {key for (key,) in connection.execute("SELECT update_id FROM entries WHERE dead")}


async def test_wrong_answers_of_a_target_are_failures(folder: Path) -> None:
    class Short(Collector):
        async def deliver(self, events: Sequence[UpdateEvent]) -> Sequence[DeliveryError | None]:
            found = await super().deliver(events)
            return found[1:] if len(self.calls) == 1 else found

    outbox = Outbox(folder)
    target = collecting(outbox, Short())
    async with opened(outbox) as client:
        await client.apply("d-1", "u-1")
        await target.until(lambda: len(target.calls) == 2)
    assert target.ids() == ["u-1"]


async def test_closing_lets_calls_end_within_the_timeout(folder: Path) -> None:
    outbox = Outbox(folder)
    target = collecting(outbox, Collector(concurrency=1, delay=5.0))
    async with opened(outbox, timeout=9.0) as client:
        await client.apply_many([("d-1", "u-1"), ("d-2", "u-2")])
        await target.until(lambda: target.in_flight == 1)
    assert target.ids() == ["u-1"]
    target.delay = 50.0
    async with opened(outbox, timeout=9.0):
        await target.until(lambda: target.in_flight == 1)
    assert target.ids() == ["u-1"]
    assert target.closed == 2
    target.delay = 0.0
    async with opened(outbox):
        await target.until(lambda: len(target.ids()) == 2)


async def test_a_target_that_cannot_be_opened_is_opened_again(folder: Path) -> None:
    class Closed(Collector):
        async def open(self) -> None:
            await super().open()
            if self.opened < 3:
                raise TargetUnavailableError("no name server", 9)

    outbox = Outbox(folder)
    target = collecting(outbox, Closed())
    async with opened(outbox) as client:
        await client.apply("d-1", "u-1")
        await target.until(lambda: bool(target.events))
    assert (target.opened, target.closed) == (3, 1)


async def test_neither_logs_nor_dead_letters_have_values(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    outbox = Outbox(folder, max_age=0)

    def fail(events: Sequence[UpdateEvent]) -> None:
        raise ValueError(f"cannot handle {events[0].payload}")

    target = collecting(outbox, Collector(raises=fail))
    async with opened(outbox) as client:
        await client.apply("d-1", "u-1", session={"card": CANARY})
        await target.until(lambda: bool(target.calls))
        await anyio.sleep(1)
        assert status(outbox).dead_letters == 1
        assert CANARY not in repr(status(outbox))
    assert "ValueError" in caplog.text
    assert CANARY not in caplog.text
    assert CANARY not in repr(outbox)


@pytest.mark.thorough
@pytest.mark.parametrize("dialogs", [200, 50_000])
async def test_a_large_backlog_stays_out_of_the_memory(folder: Path, dialogs: int) -> None:
    outbox = Outbox(folder)
    error = TargetUnavailableError("down")
    target = collecting(outbox, Collector(batch_size=100, concurrency=4, answer=lambda *_: error))
    ids = spread(50_000, dialogs)
    async with opened(outbox) as client:
        await client.apply("d-0", "first")
        resident = resident_memory()
        await fill(client, ids)
        await eventually(lambda: len(target.calls) > 10)
        grown = resident_memory() - resident
        assert status(outbox).depth == len(ids) + 1
    assert grown < 30_000_000


def resident_memory() -> int:
    """Return the bytes of memory in use, without those that are free again."""
    gc.collect()
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
