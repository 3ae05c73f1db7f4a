"""The virtual clocks that all other tests rely on."""

from __future__ import annotations

import asyncio
import math
import socket
import threading
import time

import anyio
import anyio.to_thread
import pytest

from cognigy_async.testing.virtual_time import Backend, DeadlockError, VirtualClockLoop, run

BACKENDS: list[Backend] = ["asyncio", "trio"]


async def test_the_clock_starts_at_zero_and_an_hour_takes_no_time() -> None:
    assert anyio.current_time() < 1e-3
    real = time.monotonic()
    await anyio.sleep(3600)
    assert anyio.current_time() == pytest.approx(3600, abs=1e-3)
    assert time.monotonic() - real < 1


async def test_timers_fire_in_their_order_and_at_their_time() -> None:
    woken: list[tuple[float, float]] = []

    async def sleeper(delay: float) -> None:
        await anyio.sleep(delay)
        woken.append((delay, round(anyio.current_time(), 6)))

    async with anyio.create_task_group() as group:
        for delay in (3.0, 0.001, 86_400 * 3.5, 1.0, 2.0):
            group.start_soon(sleeper, delay)
    assert woken == [(delay, delay) for delay in (0.001, 1.0, 2.0, 3.0, 302_400.0)]


async def test_ready_tasks_hold_the_clock() -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(anyio.sleep, 10)
        for _ in range(1000):
            await anyio.lowlevel.checkpoint()
        assert anyio.current_time() < 1e-3


async def test_timeouts_expire_in_virtual_time() -> None:
    with anyio.move_on_after(60) as scope:
        await anyio.sleep_forever()
    assert scope.cancelled_caught
    assert anyio.current_time() == pytest.approx(60, abs=1e-3)


async def test_sleeping_forever_does_not_make_time_run() -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(anyio.sleep_forever)
        group.start_soon(anyio.sleep, math.inf)
        await anyio.to_thread.run_sync(time.sleep, 0.01)
        assert anyio.current_time() < 1e-3
        group.cancel_scope.cancel()


async def test_timers_still_fire_after_years() -> None:
    years = 20 * 365 * 86_400
    await anyio.sleep(years)
    await anyio.sleep(0.5)
    with anyio.move_on_after(1e-9):
        await anyio.sleep_forever()
    assert anyio.current_time() == pytest.approx(years + 0.5, abs=1e-3)


async def test_a_thread_wakes_the_loop() -> None:
    assert await anyio.to_thread.run_sync(threading.get_ident) != threading.get_ident()


async def test_what_has_arrived_on_a_socket_goes_before_the_next_timer() -> None:
    here, there = socket.socketpair()
    async with await anyio.abc.SocketStream.from_socket(here) as stream:
        with there, anyio.fail_after(5):
            there.send(b"now")
            assert await stream.receive() == b"now"
    assert anyio.current_time() < 1e-3


@pytest.mark.real_time
async def test_a_mark_gives_real_time() -> None:
    before, real = anyio.current_time(), time.monotonic()
    await anyio.sleep(0.02)
    assert anyio.current_time() - before >= 0.02
    assert time.monotonic() - real >= 0.02


@pytest.mark.parametrize("backend", BACKENDS)
def test_run_gives_each_run_a_clock_of_its_own(backend: Backend) -> None:
    async def nap(seconds: float) -> float:
        await anyio.sleep(seconds)
        return anyio.current_time()

    assert run(nap, 7, backend=backend) == pytest.approx(7, abs=1e-3)
    assert run(nap, 7, backend=backend) == pytest.approx(7, abs=1e-3)


def test_a_deadlock_is_an_error_that_names_who_waits() -> None:
    async def stuck_for_good() -> None:
        await asyncio.Event().wait()

    with (
        asyncio.Runner(loop_factory=lambda: VirtualClockLoop(deadlock_after=0.05)) as runner,
        pytest.raises(DeadlockError, match="stuck_for_good"),
    ):
        runner.run(stuck_for_good())


def test_a_thread_that_comes_in_time_is_no_deadlock() -> None:
    async def wait() -> str:
        loop = asyncio.get_running_loop()
        answer = loop.create_future()
        timer = threading.Timer(0.05, loop.call_soon_threadsafe, [answer.set_result, "came"])
        timer.start()
        return str(await answer)

    with asyncio.Runner(loop_factory=lambda: VirtualClockLoop(deadlock_after=5)) as runner:
        assert runner.run(wait()) == "came"


def test_a_watched_socket_is_no_deadlock() -> None:
    async def read() -> bytes:
        here, there = socket.socketpair()
        reader, writer = await asyncio.open_connection(sock=here)
        timer = threading.Timer(0.1, there.send, [b"late"])
        timer.start()
        data = await reader.read(4)
        timer.join()
        writer.close()
        await writer.wait_closed()
        there.close()
        return data

    with asyncio.Runner(loop_factory=lambda: VirtualClockLoop(deadlock_after=0.01)) as runner:
        assert runner.run(read()) == b"late"


def test_time_can_be_pushed_but_not_back() -> None:
    async def push() -> list[str]:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualClockLoop)
        fired: list[str] = []
        loop.call_later(5, fired.append, "due")
        loop.jump(5)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        with pytest.raises(ValueError, match="backwards"):
            loop.jump(-1)
        assert loop.time() == 5
        return fired

    with asyncio.Runner(loop_factory=VirtualClockLoop) as runner:
        assert runner.run(push()) == ["due"]
