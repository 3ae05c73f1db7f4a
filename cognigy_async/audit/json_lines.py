"""`JsonLinesAudit`: records as JSON Lines in a hash chain, with rotation and recovery."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Sequence
from contextlib import suppress
from logging import WARNING
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakSet

from pydantic import SecretBytes

from .._utils.arguments import validate_count
from .._utils.locks import try_lock
from .._utils.logging import log
from .._utils.private_files import open_private
from ..errors import AuditError, ConfigurationError
from .hash_chain import (
    START,
    Position,
    format_line,
    is_torn,
    key_bytes,
    parse_line,
    unverified_position,
)
from .sinks import AuditSink

if TYPE_CHECKING:
    from pydantic import SecretStr

    from .records import AuditRecord

MAX_FILES = 1000
"""Maximum number of files for one path. Each process that writes at the same time needs one."""

TAIL = 64 * 1024
MAX_TAIL = 64 * 1024 * 1024
"""The last line is searched in the last `TAIL` bytes of a file, then in up to this many."""


class JsonLinesAudit(AuditSink):
    """Appends records to a file, each with a hash over the record and the previous record.

    The sink continues an existing file, and removes a record at its end that a crash cut off. A
    process that finds the file in use writes to `NAME.2.SUFFIX` beside it. The next process writes
    to `NAME.3.SUFFIX`. Each process has its own chain of hashes. The sink may be created before a
    fork. `verify_audit` and `cognigy-async audit verify` check the files.

    Example: `AsyncStateClient(base_url, auth=auth, audit=JsonLinesAudit("audit.jsonl"))`

    Args:
        path: the file, in an existing directory. The sink creates hidden lock files beside it.
        key: key of HMACs. With a key, the hashes are HMACs, which nobody can compute without the
            key. All records of a chain have the same key.
        max_bytes: size at which the sink renames a full file and continues the chain in a new file.
            The first full file becomes `PATH.1`, the second `PATH.2` and so on. The sink never
            deletes a file. The records of one write, at most 64, stay in one file.
        fsync: wait for the disk after each write, so that a power failure loses no written record.
        strict, max_queue: see `AuditSink`.

    Raises:
        ConfigurationError: an argument is invalid.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        key: str | bytes | SecretStr | None = None,
        max_bytes: int = 100_000_000,
        fsync: bool = False,
        strict: bool = False,
        max_queue: int = 10_000,
    ) -> None:
        # Absolute, so that a later change of directory does not move the file.
        self._configured_path = Path(path).absolute()
        if not self._configured_path.name:
            raise ConfigurationError(f"path={str(path)!r}: must name a file")
        secret = key_bytes(key)
        self._key = None if secret is None else SecretBytes(secret)
        self._max_bytes = validate_count("max_bytes", max_bytes)
        self._fsync = fsync
        self.strict = strict
        self.max_queue = validate_count("max_queue", max_queue)
        self._reset()
        _sinks.add(self)

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._process_path: Path | None = None
        self._file_lock: int | None = None
        self._file: int | None = None
        self._inode = (0, 0)
        self._size = 0
        self._position = START

    def __repr__(self) -> str:
        return f"<JsonLinesAudit {self.path.name}>"

    @property
    def path(self) -> Path:
        """The file that this process writes to. The name may change until the sink is open."""
        return self._configured_path if self._process_path is None else self._process_path

    @property
    def chain_id(self) -> str | None:
        """Id of the chain that this process writes; known once the sink was open."""
        return self._position.chain_id

    @property
    def head(self) -> str | None:
        """Hash of the last written record. Save the hash elsewhere to detect a later truncation."""
        return self._position.head if self._position.seq else None

    def open(self) -> None:
        """Open a file and find its last record, whose hash the next record continues.

        Raises:
            OSError: the file cannot be opened, or is a link, or belongs to another user.
            AuditError: the file is no audit file, or was written with another key.
        """
        with self._lock:
            self._ensure_open()

    def write(self, records: Sequence[AuditRecord], /) -> None:
        """Append records. If this raises, no record was written.

        Raises:
            OSError, AuditError: for the reasons of `open`, or because the disk is full.
        """
        if not records:
            return
        with self._lock:
            self._ensure_open()
            lines = []
            position = self._position
            for record in records:
                line, position = format_line(position, record.fields(), self._secret)
                lines.append(line)
            data = b"".join(lines)
            if self._size and self._size + len(data) > self._max_bytes:
                self._rotate()
            self._append(data)
            self._position = position

    def close(self) -> None:
        """Close the file and release its lock. A later `write` opens it again."""
        with self._lock:
            self._release()

    @property
    def _secret(self) -> bytes | None:
        return None if self._key is None else self._key.get_secret_value()

    # Everything below is called with the lock held.

    def _ensure_open(self) -> None:
        """Open the file, or open a new one if it was removed or renamed."""
        if self._file_lock is None:
            try:
                self._open()
            except BaseException:
                self._release()
                raise
        elif not self._is_in_place():
            if self._file is not None:
                # The new file begins in the middle of the chain, which shows that records are gone.
                log(WARNING, "audit file %s is gone; continuing its chain in a new one", self.path)
                os.close(self._file)
                self._file = None
            self._open_next_file()
        assert self._file is not None
        size = os.fstat(self._file).st_size
        if size != self._size:
            message = "audit file %s was changed by another program: %d bytes instead of %d"
            log(WARNING, message, self.path, size, self._size)
            self._size = size

    def _open(self) -> None:
        path = self._configured_path
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        self._process_path, self._file_lock = _lock_process_file(path)
        self._open_file()
        self._position = self._recover().with_id()

    def _open_file(self) -> None:
        self._file = open_private(self.path, os.O_RDWR | os.O_APPEND)
        status = os.fstat(self._file)
        self._inode = (status.st_dev, status.st_ino)
        self._size = status.st_size

    def _open_next_file(self) -> None:
        """Open the file that continues the chain; another program may have put its own there."""
        self._open_file()
        try:
            last, torn = _last_line(self.path) if self._size else (b"", b"")
            if torn or (last and unverified_position(last) is None):
                raise self._not_continuable("it has content of another program")
        except BaseException:
            _close(self._file)
            self._file = None
            raise

    def _is_in_place(self) -> bool:
        if self._file is None:
            return False
        try:
            status = os.lstat(self.path)
        except FileNotFoundError:
            return False
        return (status.st_dev, status.st_ino) == self._inode

    def _release(self) -> None:
        descriptors = self._file, self._file_lock
        self._file = self._file_lock = self._process_path = None
        _close(*descriptors)

    def _append(self, data: bytes) -> None:
        """Write all of `data`. If that fails, write nothing and raise."""
        assert self._file is not None
        left = memoryview(data)
        try:
            while left:
                left = left[os.write(self._file, left) :]
            if self._fsync:
                os.fsync(self._file)
        except BaseException:
            # Remove the partial record that a full disk accepted; it would break the chain.
            os.ftruncate(self._file, self._size)
            raise
        self._size += len(data)

    def _rotate(self) -> None:
        """Rename the full file to the next number and open a new one."""
        assert self._file is not None
        number = max(self._rotated_numbers(), default=0) + 1
        os.close(self._file)
        self._file = None
        try:
            self.path.rename(f"{self.path}.{number}")
        finally:
            self._open_next_file()

    def _rotated_numbers(self) -> list[int]:
        prefix = f"{self.path.name}."
        names = (entry.name for entry in self.path.parent.iterdir())
        numbers = [name[len(prefix) :] for name in names if name.startswith(prefix)]
        return [int(number) for number in numbers if number.isascii() and number.isdecimal()]

    def _recover(self) -> Position:
        """Return the end of the chain in the existing files, after repairing a torn last line."""
        last, torn = _last_line(self.path)
        if torn and not is_torn(torn):
            raise self._not_continuable("it does not end with an audit record")
        if not last and (numbers := self._rotated_numbers()):
            last, _ = _last_line(Path(f"{self.path}.{max(numbers)}"))
        position = START
        if last:
            try:
                _, position = parse_line(last, self._secret)
            except ValueError as error:
                raise self._not_continuable(f"its last line cannot be used: {error}") from None
        return self._repair(position, torn) if torn else position

    def _repair(self, position: Position, torn: bytes) -> Position:
        """Complete a torn line that lacks only its line end, or remove it."""
        assert self._file is not None
        try:
            _, after = parse_line(torn + b"\n", self._secret)
        except ValueError:
            message = "audit file %s: removed %d bytes of an incomplete record at its end"
            log(WARNING, message, self.path, len(torn))
            os.ftruncate(self._file, self._size - len(torn))
            self._size -= len(torn)
            return position
        self._append(b"\n")
        return after

    def _not_continuable(self, problem: str) -> AuditError:
        return AuditError(
            f"audit file {self.path} cannot be continued: {problem}. "
            "Check the key, or move the file away."
        )

    def _reset_after_fork(self) -> None:
        """Close the parent's file in this forked process, so that it opens a file of its own."""
        descriptors = self._file, self._file_lock
        self._reset()
        _close(*descriptors)


def _close(*descriptors: int | None) -> None:
    for descriptor in descriptors:
        if descriptor is not None:
            with suppress(OSError):
                os.close(descriptor)


_sinks: WeakSet[JsonLinesAudit] = WeakSet()


def _reset_all_after_fork() -> None:
    for sink in list(_sinks):
        sink._reset_after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset_all_after_fork)


def _lock_process_file(path: Path) -> tuple[Path, int]:
    """Lock the first free file of `path`, `stem.2.suffix`, `stem.3.suffix` and so on.

    The file of an ended process is used again, and its chain is continued. Return the file and the
    descriptor of its lock. A forked child that closes its copy does not release the lock.

    Raises:
        OSError: a lock file cannot be opened.
        AuditError: all files are in use.
    """
    for number in range(1, MAX_FILES + 1):
        own = path if number == 1 else path.with_name(f"{path.stem}.{number}{path.suffix}")
        lock = open_private(own.with_name(f".{own.name}.lock"))
        try:
            locked = try_lock(lock)
        except BaseException:
            os.close(lock)
            raise
        if locked:
            return own, lock
        os.close(lock)
    raise AuditError(f"{MAX_FILES} processes already write to {path}; use another path.")


def _last_line(path: Path) -> tuple[bytes, bytes]:
    """Return the last complete line, empty if there is none, and the bytes after it."""
    with os.fdopen(open_private(path, os.O_RDONLY, create=False), "rb") as file:
        size = file.seek(0, os.SEEK_END)
        length = TAIL
        while True:
            start = max(0, size - length)
            file.seek(start)
            before, newline, rest = file.read(size - start).rpartition(b"\n")
            begin = before.rfind(b"\n")
            if begin >= 0 or start == 0:
                return before[begin + 1 :] + newline, rest
            if length >= MAX_TAIL:
                raise AuditError(
                    f"{path} is not an audit file: its last line is too long. Use another path."
                )
            length *= 4
