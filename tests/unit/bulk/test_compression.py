"""Compressed inputs: recognised by their content, used up to where they are cut off."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from cognigy_async.bulk import InputError
from cognigy_async.bulk.input.compression import FORMATS, DamagedError, Decompressed

from ._rows import dry, row_reader, rows_of


def zstd(content: bytes) -> bytes:
    zstandard = pytest.importorskip("zstandard")
    packed: bytes = zstandard.compress(content)
    return packed


COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "bz2": bz2.compress,
    "gz": gzip.compress,
    "xz": lzma.compress,
    "zst": zstd,
}
SKIPPABLE = struct.pack("<II", 0x184D2A5A, 5) + b"notes"
ROWS = b"".join(b'{"dialog_id": "d-%d", "session": {"n": %d}}\n' % (n, n) for n in range(4_000))


def unpacked(packed: bytes, into: bytearray | None = None) -> bytes:
    [compression] = [kind for magic, kind in FORMATS.items() if magic.match(packed)]
    source = Decompressed(io.BytesIO(packed), compression)
    content = bytearray() if into is None else into
    while part := source.read(10_000):
        assert len(part) <= 10_000
        content += part
    return bytes(content)


def rows_before_the_fault(path: Path, message: str) -> int:
    """Return the number of rows that are used of a file that cannot be read to its end."""
    reader = row_reader(path)
    number = 0
    with pytest.raises(InputError, match=message):
        for row in reader.rows():
            number += 1
            assert row.update is not None
            assert row.update.session["n"] == row.line - 1
    reader.close()
    return number


@pytest.mark.parametrize("kind", COMPRESS)
def test_compression_is_recognised_by_the_first_bytes(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "rows"
    path.write_bytes(COMPRESS[kind](ROWS))
    rows = rows_of(path)
    assert [row.line for row in rows] == list(range(1, 4_001))
    assert all(row.update is not None and row.update.session["n"] == row.line - 1 for row in rows)


@pytest.mark.parametrize("kind", COMPRESS)
def test_a_file_may_have_several_members(kind: str) -> None:
    compress = COMPRESS[kind]
    parts = [ROWS[:100_000], b"", ROWS[100_000:]]
    assert unpacked(b"".join(map(compress, parts))) == ROWS


@pytest.mark.parametrize("suffix", ["bz2", "gz", "xz", "zst"])
def test_a_compressed_table_is_recognised_by_its_name(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"rows.csv.{suffix}"
    path.write_bytes(COMPRESS[suffix](b"dialog_id,session.n\nd-1,1\n"))
    (row,) = rows_of(path)
    assert row.update is not None
    assert row.update.session == {"n": 1}


def test_a_skippable_frame_of_zstd_has_no_rows() -> None:
    content = zstd(b"row\n")
    assert unpacked(SKIPPABLE + content) == b"row\n"
    assert unpacked(content + SKIPPABLE + content) == b"row\nrow\n"
    assert unpacked(SKIPPABLE) == b""


@pytest.mark.parametrize("kind", COMPRESS)
def test_the_rows_of_a_truncated_file_are_used_up_to_its_end(tmp_path: Path, kind: str) -> None:
    compress = COMPRESS[kind]
    packed = (compress(ROWS[:100_000]) + compress(ROWS[100_000:]))[:-10]
    content = bytearray()
    with pytest.raises(EOFError):
        unpacked(packed, content)
    path = tmp_path / "rows"
    path.write_bytes(packed)
    number = rows_before_the_fault(path, r"was cut off: .* ends early, at about line \d+")
    assert number == content.count(b"\n")
    assert len(content) >= 100_000


@pytest.mark.parametrize("kind", COMPRESS)
@pytest.mark.parametrize("rest", [b"\0" * 512, b"no member at all"], ids=["zeros", "text"])
def test_what_follows_compressed_content_ends_the_input(
    tmp_path: Path, kind: str, rest: bytes
) -> None:
    path = tmp_path / "rows"
    path.write_bytes(COMPRESS[kind](ROWS) + rest)
    message = "cannot be decompressed further at about line 4001: there are bytes after its end"
    assert rows_before_the_fault(path, message) == 4_000


@pytest.mark.parametrize("kind", COMPRESS)
def test_damage_ends_the_input(tmp_path: Path, kind: str) -> None:
    packed = bytearray(COMPRESS[kind](ROWS))
    at = len(packed) * 9 // 10
    packed[at : at + 50] = bytes(50)
    path = tmp_path / "rows"
    path.write_bytes(packed)
    rows_before_the_fault(path, "cannot be decompressed further at about line")


def test_a_file_cut_off_within_a_quoted_cell_keeps_the_rows_before(tmp_path: Path) -> None:
    content = b"dialog_id,session.n\n" + b"d,0\n" * 9 + b'd,"' + b"a\n" * 200_000
    path = tmp_path / "rows.csv.gz"
    path.write_bytes(gzip.compress(content)[:-10])
    reader = row_reader(path)
    lines: list[int] = []
    with pytest.raises(InputError, match="was cut off"):
        for row in reader.rows():
            lines.append(row.line)
    reader.close()
    assert lines == list(range(2, 11))


def test_a_file_that_needs_too_much_memory_is_refused(tmp_path: Path) -> None:
    filters = [{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 28}]
    (tmp_path / "rows.xz").write_bytes(lzma.compress(ROWS, filters=filters))
    zstandard = pytest.importorskip("zstandard")
    parameters = zstandard.ZstdCompressionParameters(window_log=28)
    frame = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    (tmp_path / "rows.zst").write_bytes(frame.compress(ROWS) + frame.flush())
    for name in ("rows.xz", "rows.zst"):
        with pytest.raises(InputError, match="its compression needs too much memory"):
            rows_of(tmp_path / name)


def test_the_highest_presets_can_be_read() -> None:
    assert unpacked(lzma.compress(ROWS, preset=9 | lzma.PRESET_EXTREME)) == ROWS
    zstandard = pytest.importorskip("zstandard")
    parameters = zstandard.ZstdCompressionParameters(window_log=26)
    assert unpacked(zstandard.ZstdCompressor(22).compress(ROWS)) == ROWS
    assert unpacked(zstandard.ZstdCompressor(compression_params=parameters).compress(ROWS)) == ROWS


def test_a_damaged_frame_says_why() -> None:
    with pytest.raises(DamagedError, match="there are bytes after its end that are not gzip"):
        unpacked(gzip.compress(b"x") + b"\n\n")


def test_a_dry_run_counts_the_rows_of_each_kind(tmp_path: Path) -> None:
    for kind, compress in COMPRESS.items():
        path = tmp_path / f"rows.{kind}"
        path.write_bytes(compress(json.dumps({"dialog_id": "d", "next_step": "s"}).encode()))
        found, _ = dry(path)
        assert found.rows == 1
        assert "no newline at its end" in found.notes[0]
