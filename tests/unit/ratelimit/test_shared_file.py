"""A limiter that leases its slots from a file. Processes are in the integration tests."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path

import anyio
import pytest

from cognigy_async import ConfigurationError, RateLimit
from cognigy_async._utils.waker import Waker
from cognigy_async.ratelimit.shared_file import SharedFileLimiter
from cognigy_async.ratelimit.shared_ledger import BATCHES_PER_WINDOW

pytestmark = pytest.mark.real_time

BATCH = 3
N = BATCH * BATCHES_PER_WINDOW


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "quota"


def limiter(path: Path) -> SharedFileLimiter:
    return SharedFileLimiter(RateLimit(N, per=300, shared=path))


def slots_in(path: Path) -> list[int]:
    return [count for count, _, _ in json.loads(path.read_bytes())["batches"].values()]


async def until_it_has_slots(shared: SharedFileLimiter, *, live: bool = True) -> float:
    while shared.next_slot_at(now := time.monotonic(), live) > now:  # noqa: ASYNC110
        await anyio.sleep(0.001)
    return now


def test_a_new_file_is_created_for_its_owner_alone(path: Path) -> None:
    limiter(path)
    assert path.read_bytes() == b""
    assert path.stat().st_mode & 0o077 == 0


def test_a_folder_that_is_missing_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"shared=\.\.\..*directory must exist"):
        limiter(tmp_path / "nowhere" / "quota")


async def test_slots_are_leased_when_they_are_wanted_and_returned_at_the_end(path: Path) -> None:
    shared, waker = limiter(path), Waker()
    worker = anyio.Event()
    waker.idle.append(worker)
    assert shared.next_slot_at(0.0, True) == math.inf
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(shared.run, time.monotonic, waker)
        with anyio.fail_after(5):
            await worker.wait()
        now = time.monotonic()
        assert shared.next_slot_at(now, True) == now
        assert slots_in(path) == [BATCH]
        shared.start(now, bulk=False)
        tasks.cancel_scope.cancel()
    assert slots_in(path) == [1]
    assert shared.usage(now)[0].used == 1


async def test_two_limiters_share_the_slots(path: Path) -> None:
    one, other = limiter(path), limiter(path)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(one.run, time.monotonic, Waker())
        tasks.start_soon(other.run, time.monotonic, Waker())
        with anyio.fail_after(10):
            for shared in (one, other) * (N // 2):
                shared.start(await until_it_has_slots(shared), bulk=False)
            await anyio.sleep(0.01)
        now = time.monotonic()
        assert one.next_slot_at(now, True) > now < other.next_slot_at(now, True)
        tasks.cancel_scope.cancel()
    assert sum(slots_in(path)) == N


async def test_bulk_work_leaves_the_slots_that_live_work_leased(path: Path) -> None:
    shared = limiter(path)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(shared.run, time.monotonic, Waker())
        with anyio.fail_after(5):
            now = await until_it_has_slots(shared)
            assert shared.next_bulk_slot_at(now) == math.inf
            while shared.next_bulk_slot_at(now := time.monotonic()) > now:  # noqa: ASYNC110
                await anyio.sleep(0.001)
        shared.start(now, bulk=True)
        assert all(batch.left == BATCH for batch in shared._batches if batch.live)
        tasks.cancel_scope.cancel()
