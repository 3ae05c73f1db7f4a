"""Tasks, cancellation and clocks on both event loops."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import threading
import time
from contextvars import ContextVar

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
import sniffio
from anyio.abc import TaskGroup
from anyio.from_thread import start_blocking_portal

from cognigy_async._utils.concurrency import (
    BackgroundTask,
    CompletionTracker,
    ItemsOfThread,
    current_loop_getter,
    fork_counter,
    is_failure,
    monotonic_clock,
    run_to_completion,
    spawn_detached,
)

variable: ContextVar[str] = ContextVar("variable", default="unset")


# Where code runs.


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_fork_is_counted_in_the_child_alone() -> None:
    before = fork_counter.count
    pid = os.fork()
    if pid == 0:
        os._exit(fork_counter.count - before)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 1
    assert fork_counter.count == before


async def test_the_clock_is_that_of_the_event_loop() -> None:
    clock = monotonic_clock()
    before = clock()
    await anyio.sleep(10)
    assert clock() - before == pytest.approx(10, abs=0.1)
    assert clock() == pytest.approx(anyio.current_time(), abs=0.1)


@pytest.mark.real_time
async def test_the_clock_moves_while_a_task_runs() -> None:
    clock = monotonic_clock()
    before = clock()
    time.sleep(0.01)  # noqa: ASYNC251
    assert clock() - before >= 0.01


async def test_a_loop_is_identified_and_outside_any_loop_it_is_an_error() -> None:
    loop = current_loop_getter()
    assert loop() is loop()
    with pytest.raises(RuntimeError):
        await anyio.to_thread.run_sync(loop)


# Cancellation.


async def test_exceptions_are_failures_and_the_end_of_the_process_is_none() -> None:
    assert is_failure(ValueError())
    assert not is_failure(KeyboardInterrupt())
    assert not is_failure(SystemExit())
    assert not is_failure(GeneratorExit())


async def test_a_cancelled_task_has_not_failed() -> None:
    with anyio.CancelScope() as scope:
        scope.cancel()
        with pytest.raises(anyio.get_cancelled_exc_class()) as caught:
            await anyio.sleep(1)
        assert not is_failure(caught.value)


async def test_a_stray_cancelled_error_is_a_failure() -> None:
    if sniffio.current_async_library() != "asyncio":
        return
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    future.cancel()
    with pytest.raises(asyncio.CancelledError) as caught:
        await future
    assert is_failure(caught.value)


async def test_it_runs_to_its_end_although_the_scope_is_cancelled() -> None:
    done = False

    async def main() -> None:
        nonlocal done
        await anyio.sleep(5)
        done = True

    with anyio.move_on_after(1):
        await run_to_completion(main)
    assert done


async def test_it_runs_to_its_end_although_asyncio_cancels_the_task() -> None:
    if sniffio.current_async_library() != "asyncio":
        return
    done = False

    async def main() -> None:
        nonlocal done
        await anyio.sleep(5)
        done = True

    task = asyncio.create_task(run_to_completion(main))
    for _ in range(3):
        await anyio.sleep(1)
        task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert done


async def test_an_exception_goes_before_a_cancellation() -> None:
    async def main() -> None:
        await anyio.sleep(5)
        raise ValueError("failed")

    async def cancelled() -> None:
        with anyio.CancelScope() as scope:
            scope.cancel()
            with pytest.raises(ValueError, match="failed"):
                await run_to_completion(main)

    await cancelled()


# Tasks.


async def test_joining_a_task_is_not_cut_short_by_asyncio() -> None:
    if sniffio.current_async_library() != "asyncio":
        pytest.skip("a nursery cannot be left before its tasks")
    done = False

    async def main() -> None:
        nonlocal done
        await anyio.sleep(5)
        done = True

    background = BackgroundTask()
    await background.start(main)
    joining = asyncio.create_task(background.join())
    for _ in range(3):
        await anyio.sleep(1)
        joining.cancel()
    with pytest.raises(asyncio.CancelledError):
        await joining
    assert done


async def test_a_background_task_outlives_the_scope_that_started_it() -> None:
    done = anyio.Event()

    async def main() -> None:
        await anyio.sleep(1)
        done.set()

    task = BackgroundTask()
    await task.start(main)
    await task.join()
    assert done.is_set()
    # A second join has nothing to wait for.
    await task.join()


async def test_joining_raises_what_the_task_raised() -> None:
    async def main() -> None:
        raise ValueError("failed")

    task = BackgroundTask()
    with pytest.raises((ValueError, ExceptionGroup)) as caught:
        await task.start(main)
        await task.join()
    error = caught.value
    while isinstance(error, ExceptionGroup):
        [error] = error.exceptions
    assert str(error) == "failed"


def test_on_trio_an_interrupt_within_a_background_task_reaches_the_program_alone() -> None:
    async def background() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(interrupted)

    async def interrupted() -> None:
        raise KeyboardInterrupt

    async def main() -> None:
        task = BackgroundTask()
        await task.start(background)
        await task.join()

    with pytest.raises(KeyboardInterrupt):
        anyio.run(main, backend="trio")


async def test_a_detached_task_has_neither_the_cancellation_nor_the_context_of_its_caller() -> None:
    seen: list[str] = []
    done = anyio.Event()

    async def main() -> None:
        await anyio.sleep(1)
        seen.append(variable.get())
        done.set()

    variable.set("of the caller")
    with anyio.CancelScope() as scope:
        spawn_detached(main, "detached")
        scope.cancel()
        await anyio.lowlevel.checkpoint()
    await done.wait()
    assert seen == ["unset"]


# Waiting for items.


class Items:
    """Items with serials, and tasks that wait for those that are open."""

    def __init__(self, tasks: TaskGroup) -> None:
        self.tracker = CompletionTracker()
        self.open: set[int] = set()
        self.last = 0
        self.woken: list[str] = []
        self._tasks = tasks
        self._scopes: dict[str, anyio.CancelScope] = {}

    def add(self) -> int:
        self.last += 1
        self.open.add(self.last)
        return self.last

    def finish(self, serial: int) -> None:
        self.open.remove(serial)
        self.tracker.mark_done(serial)

    def reopen(self, serial: int) -> None:
        self.open.add(serial)
        self.tracker.mark_open(serial)

    async def wait(self, name: str) -> None:
        """Begin to wait."""
        self._tasks.start_soon(self._wait, name)
        await anyio.wait_all_tasks_blocked()

    def cancel(self, name: str) -> None:
        self._scopes[name].cancel()

    async def _wait(self, name: str) -> None:
        with anyio.CancelScope() as self._scopes[name]:
            await self.tracker.wait(self.last, len(self.open))
            self.woken.append(name)


async def test_a_task_waits_for_what_is_open_and_not_for_what_comes_later() -> None:
    async with anyio.create_task_group() as tasks:
        items = Items(tasks)
        await items.wait("none")
        first, second = items.add(), items.add()
        await items.wait("both")
        third = items.add()
        await items.wait("all")
        items.finish(third)
        items.finish(first)
        await items.wait("one")
        await anyio.wait_all_tasks_blocked()
        assert items.woken == ["none"]
        items.add()
        items.finish(second)
    assert items.woken[0] == "none"
    assert set(items.woken[1:]) == {"both", "all", "one"}
    assert not items.tracker.waits


async def test_an_item_that_is_opened_again_is_waited_for_again() -> None:
    async with anyio.create_task_group() as tasks:
        items = Items(tasks)
        first, second = items.add(), items.add()
        await items.wait("both")
        items.finish(first)
        items.reopen(first)
        items.finish(second)
        await anyio.wait_all_tasks_blocked()
        assert items.woken == []
        items.finish(first)
    assert items.woken == ["both"]


@pytest.mark.parametrize("cancelled", [0, 1, 2])
async def test_a_cancelled_task_is_forgotten_and_the_others_wait_on(cancelled: int) -> None:
    async with anyio.create_task_group() as tasks:
        items = Items(tasks)
        serials = []
        for number in range(3):
            serials.append(items.add())
            await items.wait(f"{number}")
        items.cancel(f"{cancelled}")
        await anyio.wait_all_tasks_blocked()
        assert len(items.tracker.waits) == 2
        # What it waited for counts for those who wait for later items as well.
        for serial in reversed(serials):
            await anyio.wait_all_tasks_blocked()
            assert items.woken == []
            items.finish(serial)
    assert sorted(items.woken) == [f"{number}" for number in range(3) if number != cancelled]
    assert not items.tracker.waits


async def test_when_all_are_cancelled_nothing_is_counted() -> None:
    tracker = CompletionTracker()
    for serial in range(1, 4):
        with anyio.move_on_after(1):
            await tracker.wait(serial, serial)
        assert not tracker.waits
    with anyio.move_on_after(1) as scope:
        await tracker.wait(3, 0)
    assert not scope.cancelled_caught


async def test_after_the_close_nobody_waits() -> None:
    tracker = CompletionTracker()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(tracker.wait, 1, 1)
        await anyio.wait_all_tasks_blocked()
        tracker.close()
    with anyio.fail_after(1):
        await tracker.wait(2, 2)


@pytest.mark.parametrize("seed", range(30))
async def test_whatever_happens_a_wait_ends_with_the_last_item_that_it_was_for(seed: int) -> None:
    chance = random.Random(seed)
    async with anyio.create_task_group() as tasks:
        items = Items(tasks)
        finished: list[int] = []
        expected: dict[str, set[int]] = {}
        waited: dict[str, int] = {}
        for step in range(200):
            what = chance.choice(["add", "add", "finish", "finish", "reopen", "wait", "cancel"])
            if what == "add":
                items.add()
            elif what == "wait":
                name = f"{step}"
                expected[name], waited[name] = set(items.open), items.last
                await items.wait(name)
            elif what == "cancel" and expected:
                name = chance.choice(sorted(expected))
                items.cancel(name)
                del expected[name]
            elif what == "finish" and items.open:
                serial = chance.choice(sorted(items.open))
                items.finish(serial)
                finished.append(serial)
                for missing in expected.values():
                    missing.discard(serial)
            elif what == "reopen" and finished:
                serial = finished.pop(chance.randrange(len(finished)))
                items.reopen(serial)
                for name, missing in expected.items():
                    if missing and serial <= waited[name]:
                        missing.add(serial)
            await anyio.wait_all_tasks_blocked()
            over = {name for name, missing in expected.items() if not missing}
            assert over <= set(items.woken)
            assert not (expected.keys() - over) & set(items.woken)
            for name in over:
                del expected[name]
        tasks.cancel_scope.cancel()


@pytest.mark.real_time
@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="there is no pthread_kill")
def test_no_item_of_a_thread_is_lost_or_doubled_by_interrupts() -> None:
    items = ItemsOfThread(iter(range(3_000)))
    is_armed = False

    def interrupt(*_: object) -> None:
        nonlocal is_armed
        if is_armed:
            is_armed = False
            raise KeyboardInterrupt

    async def consume() -> list[int]:
        return [item async for item in items]

    def press() -> None:
        while not received.done():
            signal.pthread_kill(main, signal.SIGINT)
            time.sleep(0.0002)

    main = threading.get_ident()
    interrupts = 0
    before = signal.signal(signal.SIGINT, interrupt)
    try:
        with start_blocking_portal() as portal:
            received = portal.start_task_soon(consume)
            received.add_done_callback(items.wake)
            pressing = threading.Thread(target=press)
            pressing.start()
            while not received.done():
                try:
                    is_armed = True
                    items.serve(received)
                    is_armed = False
                except KeyboardInterrupt:
                    interrupts += 1
            pressing.join()
    finally:
        signal.signal(signal.SIGINT, before)
    assert received.result() == list(range(3_000))
    assert interrupts > 50
