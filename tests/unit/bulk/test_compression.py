"""Compressed inputs: recognised by their content, used up to where they are cut off."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from cognigy_async.bulk import InputError

from ._rows import row_reader, rows_of


@pytest.mark.parametrize("how", ["plain", "gzip", "zstd", "zstd-frames"])
def test_compression_is_recognised_by_the_first_bytes(tmp_path: Path, how: str) -> None:
    content = b"".join(
        json.dumps({"dialog_id": f"d-{n}", "session": {"n": n}}).encode() + b"\n"
        for n in range(5000)
    )
    path = tmp_path / "rows"
    if how == "gzip":
        path.write_bytes(gzip.compress(content))
    elif how == "plain":
        path.write_bytes(content)
    else:
        zstandard = pytest.importorskip("zstandard")
        parts = [content] if how == "zstd" else [content[:100_000], content[100_000:]]
        path.write_bytes(b"".join(zstandard.compress(part) for part in parts))
    rows = rows_of(path)
    assert [row.line for row in rows] == list(range(1, 5001))
    assert all(row.update is not None and row.update.session["n"] == row.line - 1 for row in rows)


@pytest.mark.parametrize("how", ["gzip", "zstd", "zstd-frames"])
def test_the_rows_of_a_truncated_file_are_used_up_to_its_end(tmp_path: Path, how: str) -> None:
    content = b"\n".join(b'{"dialog_id": "d%d", "next_step": "go"}' % n for n in range(20_000))
    path = tmp_path / "rows"
    if how == "gzip":
        packed = gzip.compress(content)
    else:
        zstandard = pytest.importorskip("zstandard")
        parts = [content] if how == "zstd" else [content[:400_000], content[400_000:]]
        packed = b"".join(zstandard.compress(part) for part in parts)
    path.write_bytes(packed[:-1000])
    reader = row_reader(path)
    seen = 0
    with pytest.raises(InputError, match=r"was cut off: .* ends early, at about line \d+"):
        for _ in reader.rows():
            seen += 1
    assert seen > 0
    reader.close()
