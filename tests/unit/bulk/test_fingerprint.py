"""Hashes of what was read, and reading from pipes."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from cognigy_async.bulk import InputError
from cognigy_async.bulk.errors import OtherInputError
from cognigy_async.bulk.input.fingerprint import HashedFile, Mark, PipeReader


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere select() is what there is")
def test_a_pipe_is_read_while_a_thousand_other_files_are_open() -> None:
    import resource

    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(before[1], 4096), before[1]))
    with ExitStack() as stack:
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, before)
        while (number := os.open(os.devnull, os.O_RDONLY)) < 1024:
            stack.callback(os.close, number)
        stack.callback(os.close, number)
        ours, theirs = os.pipe()
        stack.callback(os.close, ours)
        reader = PipeReader(os.fdopen(ours, "rb", closefd=False))
        os.write(theirs, b"row")
        os.close(theirs)
        assert [reader.read(10), reader.read(10)] == [b"row", b""]
        reader.stop()


class Opener:
    """Files that are closed at the end of a test."""

    def __init__(self, path: Path, stack: ExitStack) -> None:
        self._path = path
        self._stack = stack

    def __call__(self, data: bytes, known: list[Mark] | None = None) -> HashedFile:
        self._path.write_bytes(data)
        return HashedFile(self._stack.enter_context(self._path.open("rb")), "rows", known or [])


@pytest.fixture
def hashed(tmp_path: Path) -> Iterator[Opener]:
    with ExitStack() as stack:
        yield Opener(tmp_path / "rows", stack)


def drain(file: HashedFile) -> bytes:
    return b"".join(iter(lambda: file.read(1000), b""))


@pytest.mark.parametrize("size", [0, 1, 4096, 4097, 3_000_000])
def test_the_same_input_has_the_same_marks(hashed: Opener, size: int) -> None:
    data = bytes(index * 31 % 251 for index in range(size))
    first = hashed(data)
    assert drain(first) == data
    assert first.marks[-1].last
    again = hashed(data, first.marks)
    assert drain(again) == data
    assert again.marks == first.marks


@pytest.mark.parametrize("at", [0, 5000, 2_999_999])
def test_nothing_before_a_mark_that_differs_is_used(hashed: Opener, at: int) -> None:
    data = bytearray(index * 31 % 251 for index in range(3_000_000))
    first = hashed(bytes(data))
    drain(first)
    data[at] ^= 1
    again = hashed(bytes(data), first.marks)
    used = b""
    with pytest.raises(InputError, match="not the input that this job began with"):
        while piece := again.read(1000):
            used += piece
    assert len(used) <= at


@pytest.mark.parametrize("much", [1, 4096, 5000, 700_000])
def test_all_that_was_read_lies_before_a_mark(hashed: Opener, much: int) -> None:
    first = hashed(b"x" * 3_000_000)
    read = 0
    while read < much:
        read += len(first.read(1000))
        assert first.marks[-1].offset >= read


def test_a_file_read_to_its_end_has_a_last_mark(hashed: Opener) -> None:
    first = hashed(b"x" * 5000)
    assert [first.read(4096), first.read(904)] == [b"x" * 4096, b"x" * 904]
    assert first.marks[-1].last


@pytest.mark.parametrize("change", [-1, 1])
def test_an_input_that_is_shorter_or_longer_differs(hashed: Opener, change: int) -> None:
    data = b"x" * 10_000
    first = hashed(data)
    drain(first)
    again = hashed(data[:change] if change < 0 else data + b"y", first.marks)
    with pytest.raises(InputError, match="not the input"):
        drain(again)


@pytest.mark.parametrize("size", [0, 3, 4, 5000])
def test_peeking_consumes_nothing(hashed: Opener, size: int) -> None:
    data = b"x" * size
    file = hashed(data)
    assert file.peek(4) == data[:4]
    assert drain(file) == data
    assert file.peek(4) == b""


def test_a_comparison_ends_where_the_earlier_reading_did(hashed: Opener) -> None:
    first = hashed(b"x" * 10_000)
    first.read(4096)
    again = hashed(b"x" * 4096 + b"y" * 5904, first.marks)
    again.compare()
    assert again.offset == 4096


def test_what_was_read_of_a_pipe_ends_with_a_mark() -> None:
    pieces = [b"x" * 100, b"y" * 5000, b"z" * 10]
    reader, writer = os.pipe()
    with open(reader, "rb", buffering=0) as raw:
        file = HashedFile(raw, "pipe")
        for piece in pieces:
            os.write(writer, piece)
            assert file.read(1 << 18) == piece
        # An end that nothing but another end follows is not kept.
        assert [mark.offset for mark in file.marks] == [100, 4096, 5110]
        file.stop()
    os.close(writer)
    read = b"".join(pieces)

    def again(content: bytes) -> bytes:
        reader, writer = os.pipe()
        os.write(writer, content)
        os.close(writer)
        with open(reader, "rb", buffering=0) as raw:
            other = HashedFile(raw, "pipe", file.marks)
            try:
                return drain(other)
            finally:
                other.stop()

    assert again(read + b"more") == read + b"more"
    for changed in (read[:-1] + b"!", read[:-1]):
        with pytest.raises(OtherInputError, match="after its first 4,096 bytes"):
            again(changed)
