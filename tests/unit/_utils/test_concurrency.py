"""Tasks, cancellation and clocks on both event loops."""

from __future__ import annotations

import asyncio
import os
import time
from contextvars import ContextVar

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
import sniffio

from cognigy_async._utils.concurrency import (
    BackgroundTask,
    CompletionTracker,
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


async def test_a_waiter_wakes_when_all_its_items_are_done() -> None:
    tracker: CompletionTracker[int] = CompletionTracker()
    woken: list[str] = []

    async def wait(name: str, *items: int) -> None:
        await tracker.wait(items)
        woken.append(name)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait, "one", 1)
        tasks.start_soon(wait, "both", 1, 2)
        tasks.start_soon(wait, "none")
        await anyio.wait_all_tasks_blocked()
        assert woken == ["none"]
        tracker.mark_done(1)
        await anyio.wait_all_tasks_blocked()
        assert woken == ["none", "one"]
        tracker.mark_done(3)
        tracker.mark_done(2)
    assert woken == ["none", "one", "both"]
    assert not tracker.waiters


async def test_a_cancelled_waiter_is_forgotten() -> None:
    tracker: CompletionTracker[int] = CompletionTracker()
    with anyio.move_on_after(1):
        await tracker.wait([1])
    assert not tracker.waiters


async def test_after_the_close_nobody_waits() -> None:
    tracker: CompletionTracker[int] = CompletionTracker()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(tracker.wait, [1])
        await anyio.wait_all_tasks_blocked()
        tracker.close()
    with anyio.fail_after(1):
        await tracker.wait([2])
