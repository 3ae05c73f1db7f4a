"""File locks, on this system and as on Windows."""

from __future__ import annotations

import errno
import importlib
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from cognigy_async._utils import locks


@pytest.fixture
def descriptors(tmp_path: Path) -> Iterator[list[int]]:
    """Two descriptors of one file."""
    path = tmp_path / "file"
    opened = [locks.open_lockable(path, 0o600) for _ in range(2)]
    yield opened
    for descriptor in opened:
        os.close(descriptor)


def test_two_descriptors_of_one_process_exclude_each_other(descriptors: list[int]) -> None:
    one, other = descriptors
    assert locks.try_lock(one)
    assert not locks.try_lock(other)


def test_closing_the_descriptor_releases_the_lock(tmp_path: Path) -> None:
    one = locks.open_lockable(tmp_path / "file", 0o600)
    other = locks.open_lockable(tmp_path / "file", 0o600)
    assert locks.try_lock(one)
    os.close(one)
    assert locks.try_lock(other)
    os.close(other)


def test_waiting_ends_when_the_lock_is_free(tmp_path: Path) -> None:
    one = locks.open_lockable(tmp_path / "file", 0o600)
    other = locks.open_lockable(tmp_path / "file", 0o600)
    assert locks.try_lock(one)
    waiter = threading.Thread(target=locks.wait_for_lock, args=(other,))
    waiter.start()
    waiter.join(0.05)
    assert waiter.is_alive()
    os.close(one)
    waiter.join(5)
    assert not waiter.is_alive()
    os.close(other)


@pytest.mark.parametrize("content", [b"longer than before", b"short", b""])
def test_the_content_is_replaced_whole(descriptors: list[int], content: bytes) -> None:
    one, other = descriptors
    locks.replace_content(one, b"first content")
    locks.replace_content(one, content)
    assert locks.read_content(other) == locks.read_content(one) == content


class FakeMsvcrt(ModuleType):
    """Locks bytes of files at the descriptor's position, as `msvcrt.locking` does."""

    LK_NBLCK = 2

    def __init__(self) -> None:
        super().__init__("msvcrt")
        self.locked: dict[tuple[int, int], int] = {}
        self.failure = errno.EACCES

    def locking(self, descriptor: int, mode: int, count: int) -> None:
        assert (mode, count) == (self.LK_NBLCK, 1)
        at = (os.fstat(descriptor).st_ino, os.lseek(descriptor, 0, os.SEEK_CUR))
        if self.locked.setdefault(at, descriptor) != descriptor:
            raise OSError(self.failure, "locked")


@pytest.fixture
def windows(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeMsvcrt]:
    """The module as it is on Windows."""
    msvcrt = FakeMsvcrt()
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "msvcrt", msvcrt)
        patch.setitem(sys.modules, "fcntl", None)  # type: ignore[arg-type]
        patch.setattr(sys, "platform", "win32")
        importlib.reload(locks)
        yield msvcrt
    importlib.reload(locks)


def test_on_windows_the_locked_byte_is_none_of_the_content(
    windows: FakeMsvcrt, descriptors: list[int]
) -> None:
    one, other = descriptors
    locks.replace_content(one, b"x" * 10_000)
    os.lseek(one, 7, os.SEEK_SET)
    assert locks.try_lock(one)
    assert not locks.try_lock(other)
    [(_, position)] = windows.locked
    assert 10_000 < position < 2**31
    # The lock moves no position, and leaves the content to readers.
    assert os.lseek(one, 0, os.SEEK_CUR) == 7
    assert len(locks.read_content(other)) == 10_000


def test_on_windows_waiting_polls(
    windows: FakeMsvcrt, descriptors: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = descriptors
    assert locks.try_lock(one)
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 3:
            windows.locked.clear()

    monkeypatch.setattr(locks.time, "sleep", sleep)
    locks.wait_for_lock(other)
    assert slept == [locks.POLL_INTERVAL] * 3


def test_on_windows_another_failure_is_no_lock_of_others(
    windows: FakeMsvcrt, descriptors: list[int]
) -> None:
    one, other = descriptors
    assert locks.try_lock(one)
    windows.failure = errno.EIO
    with pytest.raises(OSError, match="locked"):
        locks.try_lock(other)


def test_no_function_is_needed_that_windows_lacks(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("pread", "pwrite", "O_CLOEXEC"):
        monkeypatch.delattr(os, name, raising=False)
    descriptor: Any = locks.open_lockable(tmp_path / "file", 0o600)
    locks.replace_content(descriptor, b"content")
    assert locks.read_content(descriptor) == b"content"
    os.close(descriptor)
