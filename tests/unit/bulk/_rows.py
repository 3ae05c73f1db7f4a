"""Inputs and rows for the tests of jobs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cognigy_async import Limits, RuntimeApi
from cognigy_async.bulk import DryRun, JobOptions, RowFault, TableOptions, dry_run
from cognigy_async.bulk.input.reader import open_input
from cognigy_async.bulk.input.row import Row
from cognigy_async.bulk.input.row_reader import RowReader

GOOD = b'{"dialog_id": "d", "session": {"n": 1}}'


def row_reader(path: Path | str, **options: Any) -> RowReader:
    """Return a reader of all rows; options are those of `open_input`."""
    return RowReader(open_input(path, **options), JobOptions(), Limits())


def rows_of(path: Path | str, **options: Any) -> list[Row]:
    reader = row_reader(path, **options)
    try:
        return list(reader.rows())
    finally:
        reader.close()


def written(path: Path, *lines: bytes, end: bytes = b"\n") -> Path:
    path.write_bytes(b"\n".join(lines) + end)
    return path


def dry(
    path: Path, table: TableOptions | None = None, **options: Any
) -> tuple[DryRun, list[RowFault]]:
    faults: list[RowFault] = []
    given = JobOptions(table=table or TableOptions(), **options)
    found = dry_run(path, given, api=RuntimeApi(), on_fault=faults.append)
    return found, faults
