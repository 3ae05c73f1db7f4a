"""Decompression of many members, and of a small input with a large output."""

from __future__ import annotations

import gzip
import random
import time
import zlib

import pytest

from cognigy_async._utils.decompression import MAX_MEMBERS, SLICE, decompressed

CONTENT = b'{"version": 3}'


def gzipped(content: bytes) -> bytes:
    return gzip.compress(content, mtime=0)


@pytest.mark.parametrize("gzip", [True, False])
def test_more_than_the_limit_is_not_decompressed(gzip: bool) -> None:
    content = gzipped(bytes(10_000)) if gzip else zlib.compress(bytes(10_000))
    assert decompressed(content, 10_000, gzip=gzip) == bytes(10_000)
    assert decompressed(content, 9_999, gzip=gzip) == bytes(10_000)
    assert decompressed(content, 100, gzip=gzip) == bytes(101)


def test_a_large_body_in_several_members() -> None:
    parts = [bytes([number]) * (3 * SLICE + number) for number in range(5)]
    content = b"".join(map(gzipped, parts))
    assert decompressed(content, 16 * SLICE, gzip=True) == b"".join(parts)


def test_a_member_of_random_bytes_ends_at_any_place_of_a_slice() -> None:
    chance = random.Random(3)
    for size in range(SLICE - 40, SLICE + 3):
        first = chance.randbytes(size)
        content = gzipped(first) + gzipped(CONTENT)
        assert decompressed(content, 2 * SLICE, gzip=True) == first + CONTENT


def test_endless_empty_members_are_not_all_decompressed() -> None:
    content = gzipped(b"") * (40 * MAX_MEMBERS)
    began = time.process_time()
    with pytest.raises(ValueError, match=r"^$"):
        decompressed(content, 100, gzip=True)
    assert time.process_time() - began < 1
