"""Journals as a crash leaves them."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from cognigy_async.bulk.journal.journal import Batch, Journal
from cognigy_async.bulk.journal.schema import Status


def wal(path: Path) -> Path:
    return path.with_name(f"{path.name}-wal")


def copied(path: Path, name: str, *, with_wal: bool) -> Path:
    """Copy a journal, open or not, as `cp` would. A descriptor of this process would unlock it."""
    copy = path.with_name(name)
    for source in (path, wal(path))[: 1 + with_wal]:
        code = "import shutil, sys; shutil.copyfile(*sys.argv[1:])"
        target = copy if source == path else wal(copy)
        subprocess.run([sys.executable, "-c", code, source, target], check=True)
    return copy


def outcome(line: int, status: Status = Status.SUCCEEDED) -> tuple[object, ...]:
    return (line, "d", int(status), 1, 1.0, 2.0, 3.0, 1, None)


def cut_off(path: Path) -> Path:
    """Make a journal whose run was killed after it recorded two rows."""
    origin = path.with_name("origin")
    with Journal(origin) as journal:
        journal.begin_run({"input": '{"name": "rows", "size": 9}'}, same_input=False)
        journal.write(Batch(outcomes=[outcome(1), outcome(2)]))
        copied(origin, path.name, with_wal=True)
    origin.unlink()
    return path


def main_file_only(path: Path) -> Path:
    """Make a copy of such a journal without its `-wal`."""
    cut_off(path)
    shutil.move(wal(path), path.with_name("lost-wal"))
    return path
