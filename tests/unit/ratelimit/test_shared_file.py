"""A limiter that leases its slots from a file. Processes are in the integration tests."""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import anyio
import pytest

from cognigy_async import ConfigurationError, RateLimit, SharedQuotaError
from cognigy_async._utils.locks import try_lock
from cognigy_async._utils.private_files import open_private
from cognigy_async._utils.waker import Waker
from cognigy_async.ratelimit.shared_file import SharedFileLimiter
from cognigy_async.ratelimit.shared_ledger import BATCHES_PER_WINDOW

pytestmark = pytest.mark.real_time

BATCH = 3
N = BATCH * BATCHES_PER_WINDOW


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "quota"


def limiter(path: Path, *, per: float = 300) -> SharedFileLimiter:
    return SharedFileLimiter(RateLimit(N, per=per, shared=path))


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


@pytest.mark.skipif(
    sys.platform == "win32" or os.geteuid() != 0, reason="only root can give files to other users"
)
def test_several_users_may_share_a_file_that_not_everybody_may_write(path: Path) -> None:
    path.touch()
    os.chown(path, 12345, -1)
    path.chmod(0o660)
    limiter(path)
    assert path.stat().st_mode & 0o777 == 0o660
    path.chmod(0o666)
    with pytest.raises(ConfigurationError, match="it belongs to another user, with the id 12345"):
        limiter(path)


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
    assert json.loads(content_of(path))["clients"] == {}


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


# A file that cannot be used.

FAULTS: dict[str, Callable[[Path], object]] = {
    "removed": Path.unlink,
    "blank": lambda path: path.write_bytes(b"\0" * 100),
    "emptied": lambda path: path.write_bytes(b""),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:40]),
    "infinite": lambda path: path.write_bytes(path.read_bytes().replace(b": [3,", b": [1e999,")),
    "replaced": lambda path: replace_by(path, Path.touch),
    "foreign": lambda path: path.write_bytes(b"my notes"),
    "link": lambda path: replace_by(path, lambda at: at.symlink_to(at.with_name("notes"))),
    "hard link": lambda path: replace_by(path, lambda at: at.hardlink_to(at.with_name("notes"))),
    "directory": lambda path: replace_by(path, Path.mkdir),
    "pipe": lambda path: replace_by(path, os.mkfifo),
    "no directory": lambda path: path.parent.rename(path.parent.with_name("elsewhere")),
    "locked": lambda path: HOLDS.append(lock_of(path)),
}
HEALS = {"removed", "blank", "emptied", "cut", "infinite", "replaced"}
"""Faults after which the file is made anew."""
HOLDS: list[int] = []


def replace_by(path: Path, create: Callable[[Path], object]) -> None:
    path.unlink()
    create(path)


def lock_of(path: Path) -> int:
    descriptor = open_private(path)
    while not try_lock(descriptor):
        time.sleep(0.0001)
    return descriptor


@contextmanager
def locked(path: Path) -> Iterator[None]:
    lock = lock_of(path)
    yield
    os.close(lock)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    made = tmp_path / "folder"
    made.mkdir()
    (made / "notes").write_bytes(b"my notes")
    yield made
    while HOLDS:
        os.close(HOLDS.pop())


async def until_it_fails(shared: SharedFileLimiter) -> SharedQuotaError:
    while (error := shared.bulk_refusal()) is None:
        shared.next_bulk_slot_at(time.monotonic())
        await anyio.sleep(0.001)
    return error


def content_of(path: Path) -> bytes:
    return path.read_bytes()


async def until(condition: Callable[[], object]) -> None:
    while not condition():  # noqa: ASYNC110
        await anyio.sleep(0.001)


def answered(shared: SharedFileLimiter, now: float, *, bulk: bool = False) -> None:
    shared.start(now, bulk=bulk)
    shared.finish(now, time.monotonic())


@pytest.mark.parametrize("fault", FAULTS)
async def test_without_the_file_live_work_has_its_share_and_bulk_work_none(
    folder: Path, fault: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cognigy_async.ratelimit.shared_file.CHECK_INTERVAL", 0.02)
    path = folder / "quota"
    shared = limiter(path)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(shared.run, time.monotonic, Waker())
        with anyio.fail_after(10):
            answered(shared, await until_it_has_slots(shared))
            # Two more clients are open.
            with locked(path):
                content = json.loads(path.read_bytes())
                content["clients"] |= {"1-a": time.monotonic(), "2-a": time.monotonic()}
                path.write_bytes(json.dumps(content).encode())
            while shared._clients < 3:
                answered(shared, await until_it_has_slots(shared))
            with nullcontext() if fault == "locked" else locked(path):
                FAULTS[fault](path)
            error = await until_it_fails(shared)
        # It looks at the file again several times, and says nothing more.
        await anyio.sleep(0.2)
        sent = shared._started
        used = shared.usage(time.monotonic())[0]
        assert (used.n, used.used) == (N // 3, sent)
        now = time.monotonic()
        assert shared.next_slot_at(now, False) == shared.next_bulk_slot_at(now) == math.inf
        while shared.next_slot_at(now := time.monotonic(), True) <= now:
            answered(shared, now)
        assert shared._started == N // 3
        assert now + 200 < shared.next_slot_at(now, True) < now + 302
        tasks.cancel_scope.cancel()
    assert error.path == str(path)
    assert str(path) in str(error)
    assert ("Try again in 30" in str(error)) is (fault in HEALS)
    [warning] = caplog.messages
    assert f"shared quota file {path} {error.problem}" in warning
    assert f"live work goes on with {N // 3} of {N} requests per 300 s" in warning
    elsewhere = folder.with_name("elsewhere")
    notes = (elsewhere if fault == "no directory" else folder) / "notes"
    assert content_of(notes) == b"my notes"
    if fault == "foreign":
        assert content_of(path) == b"my notes"
    if fault in HEALS:
        # What was sent without the file is in it now, too.
        assert {N, N // 3 - sent} <= set(slots_in(path))


async def test_before_the_file_was_read_ten_clients_are_assumed(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    FAULTS["foreign"](path)
    shared = limiter(path)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(shared.run, time.monotonic, Waker())
        with anyio.fail_after(5):
            # It looks before it is asked for slots.
            await until(shared.bulk_refusal)
        assert shared.usage(0.0)[0].n == N // 10
        tasks.cancel_scope.cancel()
    assert content_of(path) == b"my notes"
    assert len(caplog.messages) == 1


async def test_a_file_that_was_made_anew_is_used_again_after_a_window(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    one, other = limiter(path, per=1), limiter(path, per=1)
    async with anyio.create_task_group() as tasks:
        for each in (one, other):
            tasks.start_soon(each.run, time.monotonic, Waker())
        with anyio.fail_after(10):
            for each in (one, other):
                answered(each, await until_it_has_slots(each))
            FAULTS["removed"](path)
            removed = time.monotonic()
            # Both find out without being asked for slots.
            await until(lambda: one.bulk_refusal() and other.bulk_refusal())
            await until(lambda: not (one.bulk_refusal() and other.bulk_refusal()))
            assert time.monotonic() > removed + 1
            await until(lambda: not (one.bulk_refusal() or other.bulk_refusal()))
            for each in (one, other):
                answered(each, await until_it_has_slots(each, live=False), bulk=True)
        tasks.cancel_scope.cancel()
    kinds = ["used again" if "used again" in text else "stops" for text in caplog.messages]
    assert sorted(kinds) == ["stops", "stops", "used again", "used again"]


async def test_a_new_client_lets_a_file_that_was_made_anew_count_as_full(path: Path) -> None:
    FAULTS["blank"](path)
    one = limiter(path)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(one.run, time.monotonic, Waker())
        with anyio.fail_after(5):
            await until_it_fails(one)
        late = limiter(path)
        tasks.start_soon(late.run, time.monotonic, Waker())
        with anyio.fail_after(5):
            assert "Try again in 30" in str(await until_it_fails(late))
        tasks.cancel_scope.cancel()


@pytest.mark.quick("trio")
async def test_a_lock_that_is_free_again_is_used_again(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shared = limiter(path)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(shared.run, time.monotonic, Waker())
        with anyio.fail_after(10):
            answered(shared, await until_it_has_slots(shared))
            lock = lock_of(path)
            await until_it_fails(shared)
            answered(shared, await until_it_has_slots(shared))
            os.close(lock)
            await until(lambda: not shared.bulk_refusal())
            await until_it_has_slots(shared)
            # One slot of the first batch and the one without a lease.
            assert shared.usage(0.0)[0].used >= 2
        tasks.cancel_scope.cancel()
    assert sorted(slots_in(path)) == [1, 1]
    assert ["locked" in text for text in caplog.messages] == [True, False]


async def test_a_lock_that_is_held_for_ever_does_not_hold_up_the_end(path: Path) -> None:
    shared = limiter(path)
    lock = lock_of(path)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(shared.run, time.monotonic, Waker())
        shared.next_slot_at(time.monotonic(), True)
        await anyio.sleep(0.1)
        began = time.monotonic()
        tasks.cancel_scope.cancel()
    assert time.monotonic() - began < 4
    os.close(lock)


@pytest.mark.parametrize("kind", ["link", "directory", "pipe"])
def test_a_path_that_is_no_regular_file_is_an_error_with_a_remedy(path: Path, kind: str) -> None:
    path.touch()
    FAULTS[kind](path)
    with pytest.raises(ConfigurationError, match=r"shared=\.\.\..*quota cannot be used.*must be a"):
        limiter(path)
