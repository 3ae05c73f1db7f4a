"""Lock that lets one job at a time use a journal. It names its process and ends with it."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from pathlib import Path
from typing import Any

from cognigy_async._utils.locks import try_lock

from ..errors import JournalRefusedError


class JournalLock:
    """The lock of a journal, held until `release`.

    Raises:
        JournalRefusedError: Another process holds the lock, or its file cannot be written.
    """

    def __init__(self, journal: Path) -> None:
        self._path = _lock_path(journal)
        while True:
            try:
                self._file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
            except OSError as error:
                raise JournalRefusedError(
                    f"journal {journal} cannot be created or written: {error.strerror}. Choose a "
                    "folder that can be written, with --journal."
                ) from error
            try:
                locked = try_lock(self._file)
            except OSError as error:
                os.close(self._file)
                raise JournalRefusedError(
                    f"journal {journal} cannot be locked: {error.strerror}. Choose a folder on a "
                    "local disk, with --journal."
                ) from error
            if not locked:
                owner = _read_owner(self._file)
                os.close(self._file)
                raise JournalRefusedError(
                    f"journal {journal} is in use by {_description(owner)}. Wait for that job, or "
                    "interrupt it; this one has sent nothing."
                )
            # The last owner may have removed the file before it was locked here.
            if self._is_in_place():
                break
            os.close(self._file)
        owner = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.time()}
        try:
            os.ftruncate(self._file, 0)
            os.write(self._file, json.dumps(owner).encode())
        except OSError as error:
            self.release()
            raise JournalRefusedError(
                f"journal {journal} cannot be written: {error.strerror}. Make room, or choose "
                "another folder, with --journal."
            ) from error

    def _is_in_place(self) -> bool:
        try:
            return os.path.samestat(os.fstat(self._file), self._path.stat())
        except OSError:
            return False

    def release(self) -> None:
        """Release the lock and remove its file."""
        with contextlib.suppress(OSError):
            self._path.unlink()
        os.close(self._file)


def lock_owner(journal: Path) -> dict[str, Any] | None:
    """Return the process that uses a journal, or None."""
    try:
        file = os.open(_lock_path(journal), os.O_RDWR)
    except OSError:
        return None
    try:
        return None if try_lock(file) else _read_owner(file)
    finally:
        os.close(file)


def _lock_path(journal: Path) -> Path:
    # All links to a journal share the lock.
    real = Path(os.path.realpath(journal))
    return real.with_name(f"{real.name}.lock")


def _read_owner(file: int) -> dict[str, Any]:
    try:
        owner = json.loads(os.read(file, 4096))
    except (OSError, ValueError):
        return {}
    return owner if isinstance(owner, dict) else {}


def _description(owner: dict[str, Any]) -> str:
    since = owner.get("since")
    began = (
        time.strftime(" since %Y-%m-%d %H:%M:%S", time.localtime(since))
        if isinstance(since, int | float)
        else ""
    )
    return f"process {owner.get('pid', '?')} on host {owner.get('host', '?')}{began}"
