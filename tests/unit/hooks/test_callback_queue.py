"""`CallbackQueue`: order, concurrency, retries, dead letters and receipts of one callback."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from cognigy_async import CallbackError, DeadLetter, UpdateEvent
from cognigy_async.hooks.callback_queue import CallbackQueue, _backoff
from cognigy_async.hooks.options import CallbackOptions
from cognigy_async.hooks.registry import CallbackRegistry, Register
from tests.unit.hooks._events import event, publish, registry, running


def queue_of(hooks: CallbackRegistry) -> CallbackQueue:
    return hooks._queues[0]


async def test_events_of_a_dialog_are_in_order_and_dialogs_side_by_side() -> None:
    hooks, _, _ = registry()
    log: list[str] = []

    @Register(hooks, failures=False)(concurrency=2)
    async def slow(of: UpdateEvent) -> None:
        log.append(f"start {of.dialog_id} {of.update_id}")
        await anyio.sleep(1)
        log.append(f"end {of.dialog_id} {of.update_id}")

    async with running(hooks):
        for number in range(2):
            for dialog_id in "abc":
                publish(hooks, event(dialog_id, number))
        queue = queue_of(hooks)
        assert (queue.used, hooks._tasks.unfinished) == (6, 6)
        await hooks.wait_delivered()
        assert anyio.current_time() == pytest.approx(3.0)
    for dialog_id in "abc":
        own = [line for line in log if f" {dialog_id} " in line]
        assert own == [
            f"{what} {dialog_id} u-{number}" for number in range(2) for what in ("start", "end")
        ]
    running_now = peak = 0
    for line in log:
        running_now += 1 if line.startswith("start") else -1
        peak = max(peak, running_now)
    assert peak == 2
    assert (queue.used, hooks._tasks.unfinished) == (0, 0)


async def test_a_failed_call_is_repeated_after_a_backoff() -> None:
    hooks, metrics, _ = registry()
    calls: list[float] = []

    @Register(hooks, failures=False)(retries=2)
    async def fails_twice(_: UpdateEvent) -> None:
        calls.append(anyio.current_time())
        if len(calls) < 3:
            raise ValueError("canary")

    async with running(hooks):
        publish(hooks, event())
        await hooks.wait_delivered()
    assert (metrics.events_failed, metrics.events_delivered, metrics.events_dropped) == (2, 1, 0)
    first, second = calls[1] - calls[0], calls[2] - calls[1]
    assert 0.25 <= first <= 0.5 <= second <= 0.75


async def test_the_next_event_waits_for_the_retries_of_the_one_before() -> None:
    hooks, _, _ = registry()
    seen: list[str] = []

    @Register(hooks, failures=False)(retries=1)
    async def fails_once(of: UpdateEvent) -> None:
        seen.append(of.update_id)
        if len(seen) == 1:
            raise ValueError

    async with running(hooks):
        publish(hooks, event(number=1))
        publish(hooks, event(number=2))
        await hooks.wait_delivered()
    assert seen == ["u-1", "u-1", "u-2"]


async def test_an_event_that_fails_for_good_is_a_dead_letter(
    caplog: pytest.LogCaptureFixture,
) -> None:
    hooks, metrics, waker = registry()
    letters: list[DeadLetter] = []

    async def bury(letter: DeadLetter) -> None:
        letters.append(letter)

    @Register(hooks, failures=False)(retries=1, max_queue=1, on_dead_letter=bury)
    async def broken(_: UpdateEvent) -> None:
        raise ValueError("canary")

    async with running(hooks):
        publish(hooks, event(number=7))
        assert hooks.full
        await hooks.wait_delivered()
    (letter,) = letters
    assert (letter.event.update_id, letter.attempts) == ("u-7", 2)
    assert isinstance(letter.error.__cause__, ValueError)
    assert (metrics.events_failed, metrics.events_dropped) == (2, 1)
    assert waker.woken > 0
    (line,) = [one for one in caplog.records if "was not delivered" in one.message]
    assert line.message.startswith("event of update u-7 of dialog 'd' was not delivered: the call")
    facts = vars(line)
    assert (facts["dialog_id"], facts["update_id"], facts["attempt"]) == ("d", "u-7", 2)
    assert "canary" not in caplog.text


async def test_a_failed_call_is_logged_with_the_update_and_the_time_of_the_next_call(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", "cognigy_async")
    hooks, _, _ = registry()
    calls: list[float] = []

    @Register(hooks, failures=False)(retries=1)
    async def broken(_: UpdateEvent) -> None:
        calls.append(anyio.current_time())
        raise ValueError("canary")

    async with running(hooks):
        publish(hooks, event(number=7))
        await hooks.wait_delivered()
    first, last = [one for one in caplog.records if one.levelname == "INFO"]
    seconds = vars(first)["seconds"]
    assert calls[1] - calls[0] == pytest.approx(seconds)
    failed = "broken failed with ValueError for update u-7 of dialog 'd'"
    assert first.message.endswith(f"{failed} (call 1 of 2); next call in {seconds:.1f} s")
    assert last.message.endswith(f"{failed} (call 2 of 2); that was the last call")
    assert "seconds" not in vars(last)
    assert "canary" not in caplog.text


async def test_an_event_whose_retries_a_close_cuts_off_has_the_error_of_the_callback(
    caplog: pytest.LogCaptureFixture,
) -> None:
    hooks, _, _ = registry()
    letters: list[DeadLetter] = []

    async def bury(letter: DeadLetter) -> None:
        letters.append(letter)

    @Register(hooks, failures=False)(on_dead_letter=bury, timeout=9.0)
    async def fails_then_hangs(_: UpdateEvent) -> None:
        if not caplog.records:
            raise ValueError("canary")
        await anyio.sleep_forever()

    caplog.set_level("INFO", "cognigy_async")
    async with running(hooks):
        publish(hooks, event("failed"))
        await anyio.sleep(1)
        publish(hooks, event("unanswered"))
        await anyio.sleep(1)
    await hooks.dead_letter_rest()
    failed, unanswered = letters
    assert (failed.event.dialog_id, unanswered.event.dialog_id) == ("failed", "unanswered")
    assert isinstance(failed.error.__cause__, ValueError)
    assert unanswered.error.__cause__ is None
    lines = [one.message for one in caplog.records if one.levelname == "ERROR"]
    closed = "the client was closed before the event was delivered"
    assert closed in lines[0]
    assert lines[0].endswith("fails_then_hangs had failed with ValueError")
    assert lines[1].endswith(closed)
    assert "canary" not in caplog.text


async def test_a_full_queue_that_does_not_wait_drops_all_but_those_of_callbacks() -> None:
    hooks, metrics, _ = registry()
    letters: list[DeadLetter] = []
    seen: list[str] = []

    async def bury(letter: DeadLetter) -> None:
        letters.append(letter)

    @Register(hooks, failures=False)(max_queue=1, overflow="dead_letter", on_dead_letter=bury)
    async def slow(of: UpdateEvent) -> None:
        await anyio.sleep(1)
        seen.append(of.update_id)

    async with running(hooks):
        publish(hooks, event(number=1))
        publish(hooks, event(number=2))
        publish(hooks, event(number=3), from_callback=True)
        assert not hooks.full
        await hooks.wait_delivered()
    assert seen == ["u-1", "u-3"]
    assert [letter.event.update_id for letter in letters] == ["u-2"]
    assert "is full" in str(letters[0].error)
    assert metrics.events_dropped == 1


async def test_dead_letters_beyond_the_size_of_the_queue_are_dropped() -> None:
    hooks, metrics, _ = registry()
    release = anyio.Event()
    letters: list[DeadLetter] = []

    async def slow(letter: DeadLetter) -> None:
        await release.wait()
        letters.append(letter)

    @Register(hooks, failures=False)(
        retries=0, max_queue=2, overflow="dead_letter", on_dead_letter=slow
    )
    async def broken(_: UpdateEvent) -> None:
        raise ValueError

    async with running(hooks):
        for number in range(4):
            publish(hooks, event(number=number))
            await anyio.sleep(1)
        release.set()
        await hooks.wait_delivered()
    assert [letter.event.update_id for letter in letters] == ["u-0", "u-1"]
    assert metrics.events_dropped == 4


async def test_a_dead_letter_handler_that_fails_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    hooks, _, _ = registry()

    async def broken(_: Any) -> None:
        raise ValueError("canary")

    Register(hooks, failures=False)(broken, retries=0, on_dead_letter=broken)
    async with running(hooks):
        publish(hooks, event())
        await hooks.wait_delivered()
    assert any("dead-letter handler of" in one and "ValueError" in one for one in caplog.messages)
    assert "canary" not in caplog.text


class Watch:
    """Notes what became of each event; `failing` names what raises."""

    def __init__(self, failing: str = "") -> None:
        self.receipts: list[tuple[int, str, bool, int]] = []
        self._failing = failing

    def published(self, index: int, callback: str) -> Callable[[CallbackError | None, int], None]:
        if self._failing == "published":
            raise RuntimeError("canary")

        def receipt(error: CallbackError | None, calls: int) -> None:
            self.receipts.append((index, callback.rpartition(".")[2], error is None, calls))
            if self._failing == "receipt":
                raise RuntimeError("canary")

        return receipt


@pytest.mark.parametrize("failing", ["", "published", "receipt"])
async def test_a_watch_gets_a_receipt_of_each_event(
    failing: str, caplog: pytest.LogCaptureFixture
) -> None:
    hooks, _, _ = registry()
    watch = Watch(failing)

    @Register(hooks, failures=False)(retries=0)
    async def picky(of: UpdateEvent) -> None:
        if of.dialog_id == "bad":
            raise ValueError

    async with running(hooks):
        publish(hooks, event("good"), watch=watch, index=1)
        publish(hooks, event("bad"), watch=watch, index=2)
        await hooks.wait_delivered()
    expected = [] if failing == "published" else [(1, "picky", True, 1), (2, "picky", False, 1)]
    assert sorted(watch.receipts) == expected
    raised = [one for one in caplog.messages if "delivery observer" in one]
    assert len(raised) == (2 if failing else 0)
    assert "canary" not in caplog.text


async def test_the_repr_says_what_it_holds() -> None:
    hooks, _, _ = registry()

    @Register(hooks, failures=False)
    async def hang(_: UpdateEvent) -> None:
        await anyio.sleep_forever()

    async with running(hooks):
        publish(hooks, event("a"))
        publish(hooks, event("a"))
        hooks.reserve()
        assert "queued=2 running=1 reserved=1>" in repr(queue_of(hooks))


def test_the_table_of_the_documentation_has_the_sums_of_the_waits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    page = (Path(__file__).parents[3] / "docs" / "hooks.md").read_text(encoding="utf-8")
    row = re.compile(r"^\| (\d+) \| (\d+) \| ([\d.]+) to ([\d.]+) s \| (\d+) s \|$", re.MULTILINE)
    rows = row.findall(page)
    defaults = CallbackOptions()
    assert str(defaults.retries) in [retries for retries, *_ in rows]
    for retries, calls, shortest, longest, hanging in rows:
        waits = []
        for jitter in (min, max):
            monkeypatch.setattr(random, "uniform", jitter)
            waits.append(sum(map(_backoff, range(1, int(retries) + 1))))
        assert int(calls) == int(retries) + 1
        assert waits == [float(shortest), float(longest)]
        assert float(hanging) == int(int(calls) * defaults.timeout + waits[0] + 0.5)


def test_the_backoff_is_bounded_however_often_a_callback_fails() -> None:
    waits = [_backoff(attempts) for attempts in (1, 6, 7, 100, 1025, 10**9)]
    assert waits[0] <= 0.5
    assert all(8.0 <= wait <= 10.25 for wait in waits[1:])
