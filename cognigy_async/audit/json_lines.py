"""`JsonLinesAudit`: records as JSON Lines, in files that show whether they were changed."""

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

from .._utils.arguments import validate_count
from .._utils.logging import log
from ..errors import AuditError, ConfigurationError
from .hash_chain import START, Position, is_torn, key_bytes, link, read_line
from .process_files import take_slot
from .sinks import AuditSink

if TYPE_CHECKING:
    from pydantic import SecretStr

    from .records import AuditRecord

FLAGS = os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0)
TAIL = 64 * 1024
LONGEST_TAIL = 64 * 1024 * 1024
"""Bytes that are looked through for the last line of a file."""


class JsonLinesAudit(AuditSink):
    """Appends records to a file, each with a hash over itself and the one before.

    It continues the chain of the file that is there. What a crash cut short at its end is cut off.
    A process that finds the file in use by another one writes to ``NAME.2.SUFFIX`` beside it, the
    next one to ``NAME.3.SUFFIX``; each of these is a chain of its own. It may be made before a
    fork. `verify_audit` and ``cognigy-async audit verify`` say whether a chain is whole.

    Args:
        path: the file; its directory must be there. A hidden file beside it serves as a lock.
        key: makes the hashes HMACs, which cannot be computed without it. A chain keeps its key.
        max_bytes: before it would grow beyond this, a file is renamed to ``PATH.1``, the next one
            to ``PATH.2``, and so on, and the chain goes on in a new one. Nothing is ever deleted.
            What is written at once, at most 64 records, is not divided.
        fsync: wait for the disk after each write, so that a power failure loses nothing written.
        strict, max_queue: see `AuditSink`.

    Raises:
        ConfigurationError: an argument that cannot work.
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
        # Where the process goes afterwards must not move the file.
        self._base = Path(path).absolute()
        if not self._base.name:
            raise ConfigurationError(f"path={str(path)!r}: must name a file")
        self._key = key_bytes(key)
        self._max_bytes = validate_count("max_bytes", max_bytes)
        self._fsync = fsync
        self.strict = strict
        self.max_queue = validate_count("max_queue", max_queue)
        self._forget()
        _sinks.add(self)

    def _forget(self) -> None:
        self._lock = threading.Lock()
        self._mine: Path | None = None
        self._slot: int | None = None
        self._file: int | None = None
        self._identity = (0, 0)
        self._size = 0
        self._position = START

    def __repr__(self) -> str:
        return f"<JsonLinesAudit {self.path.name}>"

    @property
    def path(self) -> Path:
        """The file that this process writes to; known for certain once it is open."""
        return self._base if self._mine is None else self._mine

    @property
    def head(self) -> str | None:
        """The hash of the last record written. Kept elsewhere, it later shows a cut end."""
        return self._position.head if self._position.seq else None

    def open(self) -> None:
        """Take a file and find the end of its chain.

        Raises:
            OSError: it cannot be opened.
            AuditError: it is no audit file, or has another key.
        """
        with self._lock:
            self._ready()

    def write(self, records: Sequence[AuditRecord], /) -> None:
        """Append records.

        Raises:
            OSError, AuditError: nothing was written.
        """
        if not records:
            return
        with self._lock:
            self._ready()
            lines = []
            position = self._position
            for record in records:
                line, position = link(position, record.fields(), self._key)
                lines.append(line)
            data = b"".join(lines)
            if self._size and self._size + len(data) > self._max_bytes:
                self._rotate()
            self._append(data)
            self._position = position

    def close(self) -> None:
        """Let go of the file; a further `write` takes it again."""
        with self._lock:
            self._release()

    # All of this under the lock.

    def _ready(self) -> int:
        """An open file at the end of our chain."""
        if self._slot is None:
            try:
                self._open()
            except BaseException:
                self._release()
                raise
        elif not self._is_in_place():
            if self._file is not None:
                # What was written is out of reach; that the new file begins in the middle of
                # the chain tells so.
                log(WARNING, "audit file %s is gone; the chain goes on in a new one", self.path)
                os.close(self._file)
                self._file = None
            self._open_file()
        assert self._file is not None
        size = os.fstat(self._file).st_size
        if size != self._size:
            log(
                WARNING,
                "audit file %s was changed by somebody else: %d bytes instead of %d",
                self.path,
                size,
                self._size,
            )
            self._size = size
        return self._file

    def _open(self) -> None:
        if self._base.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(self._base))
        self._mine, self._slot = take_slot(self._base)
        self._open_file()
        self._position = self._end_of_chain()

    def _open_file(self) -> None:
        self._file = os.open(self.path, FLAGS, 0o600)
        status = os.fstat(self._file)
        self._identity = (status.st_dev, status.st_ino)
        self._size = status.st_size

    def _is_in_place(self) -> bool:
        if self._file is None:
            return False
        try:
            status = os.stat(self.path)
        except FileNotFoundError:
            return False
        return (status.st_dev, status.st_ino) == self._identity

    def _release(self) -> None:
        open_ = self._file, self._slot
        self._file = self._slot = self._mine = None
        _close(*open_)

    def _append(self, data: bytes) -> None:
        """All of it, or nothing."""
        assert self._file is not None
        left = memoryview(data)
        try:
            while left:
                left = left[os.write(self._file, left) :]
            if self._fsync:
                os.fsync(self._file)
        except BaseException:
            # What a full disk took of it would stand in the middle of the chain.
            os.ftruncate(self._file, self._size)
            raise
        self._size += len(data)

    def _rotate(self) -> None:
        """Put the full file away under the next number."""
        assert self._file is not None
        number = max(self._numbers(), default=0) + 1
        os.close(self._file)
        self._file = None
        try:
            self.path.rename(f"{self.path}.{number}")
        finally:
            self._open_file()

    def _numbers(self) -> list[int]:
        """Of the files that were put away."""
        beginning = f"{self.path.name}."
        names = (entry.name for entry in self.path.parent.iterdir())
        endings = [name[len(beginning) :] for name in names if name.startswith(beginning)]
        return [int(ending) for ending in endings if ending.isascii() and ending.isdecimal()]

    def _end_of_chain(self) -> Position:
        """Where the chain of the files that are there has got to, with its end mended."""
        last, torn = _last_line(self.path)
        if torn and not is_torn(torn):
            raise self._foreign("it does not end with a whole line")
        if not last and (numbers := self._numbers()):
            last, _ = _last_line(Path(f"{self.path}.{max(numbers)}"))
        position = START
        if last:
            try:
                position = read_line(last, self._key).after
            except ValueError as error:
                raise self._foreign(f"of its last line, {error}") from None
        return self._mend(position, torn) if torn else position

    def _mend(self, position: Position, torn: bytes) -> Position:
        """Make what was not written to its end a line, if only that is missing, or cut it off."""
        assert self._file is not None
        try:
            whole = read_line(torn + b"\n", self._key)
        except ValueError:
            log(
                WARNING,
                "audit file %s: %d bytes of a record that was not written to its end are cut off",
                self.path,
                len(torn),
            )
            os.ftruncate(self._file, self._size - len(torn))
            self._size -= len(torn)
            return position
        self._append(b"\n")
        return whole.after

    def _foreign(self, problem: str) -> AuditError:
        return AuditError(
            f"{self.path} cannot be continued: {problem}. Check the key, or move the file away."
        )

    def _forked(self) -> None:
        """In a child: the parent goes on with the file, and this process takes another."""
        open_ = self._file, self._slot
        self._forget()
        _close(*open_)


def _close(*descriptors: int | None) -> None:
    for each in descriptors:
        if each is not None:
            with suppress(OSError):
                os.close(each)


_sinks: WeakSet[JsonLinesAudit] = WeakSet()


def _forget_all() -> None:
    for sink in list(_sinks):
        sink._forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)


def _last_line(path: Path) -> tuple[bytes, bytes]:
    """The last whole line, if there is one, and what stands after it."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        length = TAIL
        while True:
            start = max(0, size - length)
            file.seek(start)
            before, newline, rest = file.read(size - start).rpartition(b"\n")
            begin = before.rfind(b"\n")
            if begin >= 0 or start == 0:
                return before[begin + 1 :] + newline, rest
            if length >= LONGEST_TAIL:
                raise AuditError(f"{path} is no audit file: it has no lines. Use another path.")
            length *= 4
