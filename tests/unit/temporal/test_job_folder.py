"""Partitions and dead letters of a job folder."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from cognigy_async import ApiKey, AsyncStateClient
from cognigy_async.bulk import InputError
from cognigy_async.temporal import job_folder
from cognigy_async.temporal.bulk_job import Split
from cognigy_async.temporal.job_folder import (
    partition_of,
    read_letters,
    read_rows,
    split_input,
    write_letters,
)

CLIENT = AsyncStateClient("http://127.0.0.1", auth=ApiKey("key"))


@pytest.fixture
def memory() -> Iterator[str]:
    """The URL of a folder in memory."""
    yield "memory://jobs"
    fsspec.filesystem("memory").rm("/", recursive=True)


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def rows_of(split: Split) -> dict[tuple[int, int], list[tuple[int, bytes]]]:
    return {
        (partition, number): read_rows(split.folder, f"{partition:03}-{number:06}")
        for partition, chunks in enumerate(split.chunks)
        for number in range(chunks)
    }


def test_each_dialog_has_one_partition_which_keeps_the_order(
    tmp_path: Path, memory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_folder, "CHUNK_ROWS", 7)
    rows: list[dict[str, Any]] = [
        {"dialog_id": f"d-{n % 13}", "session": {"seq": n}} for n in range(200)
    ]
    split = split_input(write(tmp_path / "rows.jsonl", rows), memory, CLIENT, 4)
    chunks = rows_of(split)
    assert (split.rows, split.faulty, split.repeated, split.notes) == (200, 0, 0, [])
    assert all(0 < len(chunk) <= 7 for chunk in chunks.values())
    lines = [line for chunk in chunks.values() for line, _ in chunk]
    assert sorted(lines) == list(range(1, 201))
    for (partition, _), chunk in chunks.items():
        for line, source in chunk:
            assert json.loads(source) == rows[line - 1]
            assert partition_of(rows[line - 1]["dialog_id"], 4) == partition
    for partition in range(4):
        of_one = [line for key, chunk in chunks.items() if key[0] == partition for line, _ in chunk]
        assert of_one == sorted(of_one)


def test_the_partition_of_a_dialog_is_the_same_on_all_machines() -> None:
    assert [partition_of(name, 16) for name in ("d-1", "d-2", "ü")] == [11, 1, 5]


def test_a_chunk_is_short_in_bytes_as_well(
    tmp_path: Path, memory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_folder, "CHUNK_BYTES", 150)
    rows = [{"dialog_id": "d", "session": {"seq": n, "text": "x" * 60}} for n in range(5)]
    split = split_input(write(tmp_path / "rows.jsonl", rows), memory, CLIENT, 1)
    assert [len(chunk) for chunk in rows_of(split).values()] == [2, 2, 1]


def test_bad_rows_become_dead_letters_as_in_a_run(tmp_path: Path, memory: str) -> None:
    path = tmp_path / "rows.jsonl"
    same = b'{"dialog_id":"d-1","session":{"a":1},"update_id":"u"}\n'
    path.write_bytes(same + b"no json\n" + same + b'{"dialog_id":"d-2","session":{"_user":1}}')
    split = split_input(str(path), memory, CLIENT, 2)
    assert (split.rows, split.faulty, split.repeated) == (4, 2, 1)
    assert [line for chunk in rows_of(split).values() for line, _ in chunk] == [1]
    letters = [json.loads(line) for line in read_letters(f"{split.folder}/dead-letters")]
    assert [letter["_error"]["line"] for letter in letters] == [2, 4]
    assert [letter["_error"]["type"] for letter in letters] == ["UpdateValidationError"] * 2
    assert letters[0]["_raw"] == "no json"
    assert "no newline at its end" in split.notes[0]


def test_dead_letters_of_the_input_come_with_those_of_chunks(tmp_path: Path, memory: str) -> None:
    (tmp_path / "rows.jsonl").write_bytes(b'{"dialog_id":"d"}\nno json\n')
    split = split_input(str(tmp_path / "rows.jsonl"), memory, CLIENT, 2)
    write_letters(split.folder, "001-000000", b'{"_error": 1}\n{"_error": 2}\n')
    assert list(read_letters(f"{split.folder}/dead-letters"))[:2] == [
        b'{"_error": 1}\n',
        b'{"_error": 2}\n',
    ]
    assert len(list(read_letters(f"{split.folder}/dead-letters"))) == 4


def test_a_folder_without_dead_letters_has_none(memory: str) -> None:
    assert list(read_letters(f"{memory}/none")) == []


def test_a_url_is_read_like_a_file_of_the_same_name(tmp_path: Path, memory: str) -> None:
    with fsspec.open(f"{memory}/in/rows.csv.gz", "wb") as file:
        file.write(gzip.compress(b"dialog_id,session.a\nd-1,1\nd-2,x\n"))
    split = split_input(f"{memory}/in/rows.csv.gz", str(tmp_path / "job"), CLIENT, 1)
    assert [json.loads(source) for _, source in rows_of(split)[0, 0]] == [
        {"dialog_id": "d-1", "session": {"a": 1}},
        {"dialog_id": "d-2", "session": {"a": "x"}},
    ]


def test_a_repeated_split_gives_the_same(tmp_path: Path, memory: str) -> None:
    rows: list[dict[str, Any]] = [{"dialog_id": f"d-{n}", "session": {"n": n}} for n in range(50)]
    source = write(tmp_path / "rows.jsonl", [*rows, {"dialog_id": 3}])
    first = split_input(source, memory, CLIENT, 3)
    before = rows_of(first), list(read_letters(f"{memory}/dead-letters"))
    assert split_input(source, memory, CLIENT, 3) == first
    assert (rows_of(first), list(read_letters(f"{memory}/dead-letters"))) == before


@pytest.mark.parametrize("name", ["{}/none.jsonl", "memory://none.jsonl", "unknown://x/none.jsonl"])
def test_a_missing_input_is_named(tmp_path: Path, memory: str, name: str) -> None:
    source = name.format(tmp_path)
    with pytest.raises(InputError, match=f"{source} cannot be opened"):
        split_input(source, memory, CLIENT, 1)


def test_a_damaged_input_is_named_by_its_url(memory: str) -> None:
    with fsspec.open(f"{memory}/rows.jsonl.gz", "wb") as file:
        file.write(gzip.compress(b'{"dialog_id":"d-1","session":{"a":1}}\n' * 99)[:-9])
    with pytest.raises(InputError, match=f"^{memory}/rows.jsonl.gz was cut off"):
        split_input(f"{memory}/rows.jsonl.gz", memory, CLIENT, 1)


def test_a_split_can_be_stopped(tmp_path: Path, memory: str) -> None:
    source = write(tmp_path / "rows.jsonl", [{"dialog_id": "d", "session": {"a": 1}}])
    with pytest.raises(InterruptedError, match="stopped"):
        split_input(source, memory, CLIENT, 1, lambda: True)


def test_an_input_without_rows_is_noted(tmp_path: Path, memory: str) -> None:
    source = write(tmp_path / "rows.jsonl", [])
    assert split_input(source, memory, CLIENT, 2).notes == ["The input has no rows."]
