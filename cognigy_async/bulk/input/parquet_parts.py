"""Row groups of Parquet with many columns of texts, of which few are read at a time.

The dictionary and a page of a column usually have a MiB each, however short its texts are. Where
all columns together need too much memory, some columns after the others are decoded into temporary
files, which are then read side by side.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from tempfile import TemporaryFile
from typing import Any, BinaryIO, TypeAlias, cast

MOST_PARTS = 32
"""Most temporary files to have at a time."""
MOST_ON_DISK = 1 << 30
"""Bytes that the temporary files may take together."""

MOST_IN_MEMORY = 24 << 20
"""Bytes that a batch of all parts may take."""

ReadColumns: TypeAlias = Callable[[Sequence[str]], Iterator[Any]]
"""Returns the batches of some columns of a row group, by their names."""


class TooLargeError(Exception):
    """A row group that takes too much to read; the text says how much."""


def leaves_by_column(paths: Mapping[int, str], names: Sequence[str]) -> dict[str, list[int]]:
    """Return the numbers of the leaves of each column; none if a name leaves the column open.

    Args:
        paths: Paths of leaves by their numbers: of `session.a` or of `a` within `session`.
    """
    leaves: dict[str, list[int]] = {name: [] for name in names}
    for number, path in paths.items():
        found = [prefix for prefix in prefixes(path) if prefix in leaves]
        if len(found) != 1:
            return {}
        leaves[found[0]].append(number)
    return leaves


def prefixes(path: str) -> Iterator[str]:
    """Return the names that the column of a leaf may have."""
    parts = path.split(".")
    return (".".join(parts[:end]) for end in range(1, len(parts) + 1))


def parts_of(costs: Mapping[str, int], most: int) -> list[list[str]]:
    """Divide columns into parts whose costs are at most `most` bytes each.

    Args:
        costs: Bytes that reading each column may take.

    Raises:
        TooLargeError: One column takes more, or there are too many parts.
    """
    parts: list[list[str]] = []
    left = 0
    for name, cost in costs.items():
        if cost > most:
            raise TooLargeError(
                f"may take {cost >> 20:,} MiB to read in column {name}, and the limit is "
                f"{most >> 20} MiB"
            )
        if cost > left:
            parts.append([])
            left = most
        parts[-1].append(name)
        left -= cost
    if len(parts) > MOST_PARTS:
        total = sum(costs.values())
        raise TooLargeError(f"may take {total >> 20:,} MiB to read, in too many columns")
    return parts


def batches_of_parts(parts: Sequence[Sequence[str]], read: ReadColumns) -> Iterator[Any]:
    """Yield the batches of all parts side by side.

    Raises:
        TooLargeError: They take too much memory, or too much of the disk.
    """
    from pyarrow import ipc

    with ExitStack() as files:
        streams: list[Iterator[Any]] = []
        in_memory = on_disk = 0
        for names in parts:
            file = cast("BinaryIO", files.enter_context(TemporaryFile()))
            largest = _write(file, read(names), MOST_ON_DISK - on_disk)
            in_memory += largest
            on_disk += file.tell()
            if in_memory > MOST_IN_MEMORY:
                raise TooLargeError(
                    f"have {in_memory >> 20:,} MiB in a few of them, and the limit is "
                    f"{MOST_IN_MEMORY >> 20} MiB"
                )
            file.seek(0)
            streams.append(iter(ipc.open_stream(file)))
        yield from _side_by_side(streams)


def _write(file: BinaryIO, batches: Iterator[Any], room: int) -> int:
    """Write batches, of which there is at least one, and return the bytes of the largest."""
    from pyarrow import ipc

    largest = 0
    batch = next(batches)
    with ipc.new_stream(file, batch.schema) as stream:
        while batch is not None:
            largest = max(largest, batch.get_total_buffer_size())
            stream.write_batch(batch)
            if file.tell() > room:
                most = f"{MOST_ON_DISK >> 20:,} MiB"
                raise TooLargeError(f"take more than {most} in temporary files")
            batch = next(batches, None)
    return largest


def _side_by_side(streams: Sequence[Iterator[Any]]) -> Iterator[Any]:
    """Yield batches with the columns of all streams; these may be divided at other rows."""
    import pyarrow as arrow

    heads: list[Any] = [next(stream, None) for stream in streams]
    while all(head is not None for head in heads):
        rows = min(head.num_rows for head in heads)
        names = [name for head in heads for name in head.schema.names]
        columns = [column for head in heads for column in head.slice(0, rows).columns]
        if rows:
            yield arrow.RecordBatch.from_arrays(columns, names)
        heads = [
            head.slice(rows) if head.num_rows > rows else next(stream, None)
            for head, stream in zip(heads, streams, strict=True)
        ]
