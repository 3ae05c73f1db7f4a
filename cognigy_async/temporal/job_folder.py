"""The folder of a job: its rows in partitions, and its dead letters.

The folder is a path or a URL of fsspec, such as ``s3://bucket/jobs/7``, that all workers can
use. In it::

    .../rows/003-000012.jsonl            rows of chunk 12 of partition 3
    .../dead-letters/003-000012.jsonl    those of its rows that were not applied
    .../dead-letters/input-000000.jsonl  rows of the input that are not valid
    .../sends/003-000012.0.2             rows that attempt 2 sent and must not send twice

An attempt to split the input has a folder of its own, because it may still run when the next one
has begun. Objects are written whole. All but `sends` have the same content if they are written
again, and are read once the workflow knows that they are complete.
"""

from __future__ import annotations

import errno
import os
import secrets
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from zlib import crc32

import fsspec
from fsspec.implementations.local import LocalFileSystem

from cognigy_async import AsyncStateClient
from cognigy_async.bulk import InputError, JobOptions
from cognigy_async.bulk.input.reader import open_input
from cognigy_async.bulk.input.row import Row, dead_letter
from cognigy_async.bulk.input.row_reader import RowReader
from cognigy_async.bulk.journal.schema import Failure

from .bulk_job import Split

CHUNK_ROWS = 2000
"""Most rows in a chunk: few enough to be read at once, and so many that they cost few events."""
CHUNK_BYTES = 1 << 22
"""Bytes after which a chunk ends."""
INPUT_LETTERS = "input"
NO_OPTIONS = JobOptions()


def partition_of(dialog_id: str, partitions: int) -> int:
    """Return the partition of a dialog, the same on all machines."""
    return crc32(dialog_id.encode()) % partitions


def split_input(
    source: str,
    folder: str,
    client: AsyncStateClient,
    partitions: int,
    is_stopped: Callable[[], bool] = lambda: False,
    options: JobOptions = NO_OPTIONS,
) -> Split:
    """Check the rows of an input as a run of `BulkJob` does, and write them to a folder.

    Args:
        source: Path or URL of the input.
        folder: Path or URL of an empty folder.
        client: Client with the API and the limits that the rows must fit.
        is_stopped: Asked now and then: True ends the split.
        options: How to read the input, and which rows.

    Raises:
        InputError: The input cannot be read.
        OSError: The folder cannot be written, or a URL cannot be read for now.
        InterruptedError: `is_stopped` returned True.
    """
    parts = [_Chunks(f"{folder}/rows/{number:03}") for number in range(partitions)]
    letters = _Chunks(f"{folder}/dead-letters/{INPUT_LETTERS}")
    faulty = repeated = 0
    with local_file(source) as path:
        try:
            reader = open_input(path, format=options.format, table=options.table_with_texts)
            rows = RowReader(reader, options, client.limits, client.api)
            try:
                for row in rows.rows():
                    if is_stopped():
                        raise InterruptedError("the split of the input was stopped")
                    if row.error is not None:
                        faulty += 1
                        letters.add(dead_letter(row.line, row.source, Failure.of(row.error)))
                    elif row.duplicate_of is not None:
                        repeated += 1
                    else:
                        assert row.dialog_id is not None
                        parts[partition_of(row.dialog_id, partitions)].add(_line_of(row))
            finally:
                rows.close()
        except InputError as error:
            # The user knows the input by its URL. Unlike a run, the job uses no rows of it.
            text = str(error).replace(str(path), source)
            raise InputError(text.replace("have been used", "are not applied")) from error
    letters.end()
    for part in parts:
        part.end()
    notes = [note.replace(str(path), source) for note in reader.notes]
    if not rows.count:
        notes.append(rows.none_found)
    return Split(folder, [part.count for part in parts], rows.count, faulty, repeated, notes)


def read_rows(folder: str, name: str) -> list[tuple[int, bytes]]:
    """Return the rows of a chunk: their lines in the input, and their content.

    Raises:
        OSError: The chunk cannot be read.
    """
    content = read_object(f"{folder}/rows/{name}.jsonl")
    if content is None:
        raise FileNotFoundError(errno.ENOENT, "is missing", f"{folder}/rows/{name}.jsonl")
    fields = (line.partition(b" ") for line in content.split(b"\n")[:-1])
    return [(int(number), source) for number, _, source in fields]


def write_letters(folder: str, name: str, letters: bytes) -> None:
    """Write the dead letters of a chunk.

    Raises:
        OSError: They cannot be written.
    """
    write_object(f"{folder}/dead-letters/{name}.jsonl", letters)


def read_letters(folder: str) -> Iterator[bytes]:
    """Yield the dead letters of the input and of all chunks that are done, as lines of JSON.

    Raises:
        OSError: They cannot be read.
    """
    files, root = fsspec.core.url_to_fs(folder)
    names = []
    with suppress(FileNotFoundError):
        names = sorted(files.find(root))
    for name in names:
        if name.endswith(".jsonl"):
            yield from files.cat_file(name).splitlines(keepends=True)


def write_object(url: str, content: bytes) -> None:
    """Write a file or an object: whole, or not at all."""
    files, path = fsspec.core.url_to_fs(url)
    if not isinstance(files, LocalFileSystem):
        files.pipe_file(path, content)
        return
    os.makedirs(os.path.dirname(path), exist_ok=True)
    # Others may write the same file at the same time.
    part = f"{path}.{secrets.token_hex(4)}"
    with open(part, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)


def read_object(url: str) -> bytes | None:
    """Read a file or an object; return None if there is none."""
    files, path = fsspec.core.url_to_fs(url)
    with suppress(FileNotFoundError):
        content: bytes = files.cat_file(path)
        return content
    return None


@contextmanager
def local_file(url: str) -> Iterator[Path]:
    """Return a file with the content of a URL, under the same name, which tells its format.

    Raises:
        InputError: There is no such file, or no such kind of URL.
        OSError: It cannot be read for now.
    """
    try:
        files, path = fsspec.core.url_to_fs(url)
    except ValueError as error:
        # Another attempt would find the same.
        raise InputError(f"{url} cannot be opened: {error}") from error
    if isinstance(files, LocalFileSystem):
        yield Path(path)
        return
    with tempfile.TemporaryDirectory(prefix="cognigy-") as folder:
        copy = Path(folder, Path(path).name)
        try:
            files.get_file(path, str(copy))
        except FileNotFoundError as error:
            raise InputError(f"{url} cannot be opened: there is no such file") from error
        yield copy


def _line_of(row: Row) -> bytes:
    return b"%d %b\n" % (row.line, row.source)


@dataclass(slots=True)
class _Chunks:
    """Writes lines to objects of limited size, which have numbers."""

    prefix: str
    count: int = 0
    _lines: list[bytes] = field(default_factory=list)
    _size: int = 0

    def add(self, line: bytes) -> None:
        self._lines.append(line)
        self._size += len(line)
        if len(self._lines) == CHUNK_ROWS or self._size >= CHUNK_BYTES:
            self.end()

    def end(self) -> None:
        if self._lines:
            write_object(f"{self.prefix}-{self.count:06}.jsonl", b"".join(self._lines))
            self.count += 1
            self._lines.clear()
            self._size = 0
