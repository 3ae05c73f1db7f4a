"""One job at a time on a journal: a lock that says whose it is, and goes with its owner's death."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from pathlib import Path
from typing import Any

from cognigy_async._utils.locks import try_lock

from .errors import JournalRefusedError


class JournalLock:
    """Held from its making to `release`.

    Raises:
        JournalRefusedError: another process has it, or the file cannot be made.
    """

    def __init__(self, journal: Path) -> None:
        self._path = _path(journal)
        while True:
            try:
                self._file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
            except OSError as error:
                raise JournalRefusedError(
                    f"journal {journal} cannot be made or written: {error.strerror}. Choose a "
                    "folder that can be written, with --journal."
                ) from error
            if not try_lock(self._file):
                owner = _read(self._file)
                os.close(self._file)
                raise JournalRefusedError(
                    f"journal {journal} is in use by {_told(owner)}. Wait for it, or interrupt it "
                    "there; nothing was sent from here."
                )
            # Its last owner may have removed the file between the two steps.
            if self._is_in_place():
                break
            os.close(self._file)
        owner = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.time()}
        try:
            os.ftruncate(self._file, 0)
            os.pwrite(self._file, json.dumps(owner).encode(), 0)
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
        """Let others have it."""
        with contextlib.suppress(OSError):
            self._path.unlink()
        os.close(self._file)


def owner_of(journal: Path) -> dict[str, Any] | None:
    """The process that works on a journal now; None where there is none."""
    try:
        file = os.open(_path(journal), os.O_RDWR)
    except OSError:
        return None
    try:
        return None if try_lock(file) else _read(file)
    finally:
        os.close(file)


def _path(journal: Path) -> Path:
    # Whatever link leads to it.
    real = Path(os.path.realpath(journal))
    return real.with_name(f"{real.name}.lock")


def _read(file: int) -> dict[str, Any]:
    try:
        owner = json.loads(os.pread(file, 4096, 0))
    except (OSError, ValueError):
        return {}
    return owner if isinstance(owner, dict) else {}


def _told(owner: dict[str, Any]) -> str:
    since = owner.get("since")
    began = (
        time.strftime(" since %Y-%m-%d %H:%M:%S", time.localtime(since))
        if isinstance(since, int | float)
        else ""
    )
    return f"process {owner.get('pid', '?')} on host {owner.get('host', '?')}{began}"
