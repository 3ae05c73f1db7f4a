"""File locks, on this system and as on Windows."""

from __future__ import annotations

import errno
import importlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from cognigy_async._utils import locks
from cognigy_async._utils.private_files import open_private


@pytest.fixture
def descriptors(tmp_path: Path) -> Iterator[list[int]]:
    """Two descriptors of one file."""
    path = tmp_path / "file"
    opened = [open_private(path) for _ in range(2)]
    yield opened
    for descriptor in opened:
        os.close(descriptor)


def test_two_descriptors_of_one_process_exclude_each_other(descriptors: list[int]) -> None:
    one, other = descriptors
    assert locks.try_lock(one)
    assert not locks.try_lock(other)


def test_closing_the_descriptor_releases_the_lock(tmp_path: Path) -> None:
    one = open_private(tmp_path / "file")
    other = open_private(tmp_path / "file")
    assert locks.try_lock(one)
    os.close(one)
    assert locks.try_lock(other)
    os.close(other)


def test_a_lock_is_never_waited_for(descriptors: list[int]) -> None:
    one, other = descriptors
    assert locks.try_lock(one)
    began = time.monotonic()
    for _ in range(100):
        assert not locks.try_lock(other)
    assert time.monotonic() - began < 5


def test_a_file_is_in_place_until_it_is_removed_or_replaced(tmp_path: Path) -> None:
    path = tmp_path / "file"
    descriptor = open_private(path)
    assert locks.is_in_place(descriptor, path)
    path.rename(tmp_path / "other")
    assert not locks.is_in_place(descriptor, path)
    path.write_text("")
    assert not locks.is_in_place(descriptor, path)
    path.unlink()
    path.symlink_to(tmp_path / "other")
    assert not locks.is_in_place(descriptor, path)
    os.close(descriptor)


@pytest.mark.parametrize("content", [b"longer than before", b"short", b""])
def test_the_content_is_replaced_whole(descriptors: list[int], content: bytes) -> None:
    one, other = descriptors
    locks.replace_content(one, b"first content", b"")
    locks.replace_content(one, content, b"first content")
    assert locks.read_content(other, 100) == locks.read_content(one, 100) == content
    assert locks.read_content(one, 3) == content[:3]


FULL_DISK = """
import os, resource, sys
from cognigy_async._utils.locks import read_content, replace_content
from cognigy_async._utils.private_files import open_private
file = open_private(sys.argv[1])
replace_content(file, b"x" * 60, b"")
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
try:
    replace_content(file, b"y" * 200, b"x" * 60)
except OSError as error:
    print(error.strerror, read_content(file, 1000) == b"x" * 60)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="the system has no such limit")
def test_content_for_which_there_is_no_room_leaves_the_old_one(tmp_path: Path) -> None:
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path / "file")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "File too large True\n"


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
    locks.replace_content(one, b"x" * 10_000, b"")
    os.lseek(one, 7, os.SEEK_SET)
    assert locks.try_lock(one)
    assert not locks.try_lock(other)
    [(_, position)] = windows.locked
    assert 10_000 < position < 2**31
    # The lock moves no position, and leaves the content to readers.
    assert os.lseek(one, 0, os.SEEK_CUR) == 7
    assert len(locks.read_content(other, 20_000)) == 10_000


def test_on_windows_another_failure_is_no_lock_of_others(
    windows: FakeMsvcrt, descriptors: list[int]
) -> None:
    one, other = descriptors
    assert locks.try_lock(one)
    windows.failure = errno.EIO
    with pytest.raises(OSError, match="locked"):
        locks.try_lock(other)


def test_no_function_is_needed_that_windows_lacks(
    monkeypatch: pytest.MonkeyPatch, descriptors: list[int]
) -> None:
    with monkeypatch.context() as patch:
        for name in ("pread", "pwrite"):
            patch.delattr(os, name, raising=False)
        importlib.reload(locks)
        locks.replace_content(descriptors[0], b"content", b"")
        assert locks.read_content(descriptors[1], 100) == b"content"
    importlib.reload(locks)
