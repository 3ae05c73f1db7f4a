"""Identity of an input: its size, its modification time and hashes of its content.

A mark is the hash of everything before an offset. A resumed job compares the content up to each
mark before it uses that content.
"""

from __future__ import annotations

import hashlib
import os
import selectors
import stat
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

from ..errors import InputError, OtherInputError

FIRST_MARKS = (4096, 65_536)
MARK_EVERY = 1 << 18
"""Bytes between marks. The first marks are closer together, for slow pipes."""

# select() is limited to descriptors below 1,024; poll() fails on terminals of some systems.
_Selector = selectors.PollSelector if sys.platform == "linux" else selectors.SelectSelector


@dataclass(frozen=True, slots=True)
class Mark:
    """The hash of everything before `offset`. `last` is true if the input ends there."""

    offset: int
    digest: str
    last: bool


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """Size in bytes and modification time of an input; None for a pipe."""

    size: int | None
    modified_ns: int | None

    @classmethod
    def of(cls, file: BinaryIO) -> Fingerprint:
        """Return the fingerprint of an open file."""
        return cls.from_stat(os.fstat(file.fileno()))

    @classmethod
    def from_stat(cls, found: os.stat_result) -> Fingerprint:
        """Return the fingerprint of a file with this status."""
        if not stat.S_ISREG(found.st_mode):
            return cls(None, None)
        return cls(found.st_size, found.st_mtime_ns)

    def change(self, now: Fingerprint) -> str | None:
        """Describe the difference to a later fingerprint. Return None if both are equal."""
        if self == now:
            return None
        if self.size != now.size:
            return f"its size went from {_bytes(self.size)} to {_bytes(now.size)}"
        return "it was written to"


def _bytes(size: int | None) -> str:
    return "unknown" if size is None else f"{size:,} bytes"


class HashedFile:
    """A binary file that is hashed while it is read.

    Args:
        known: Marks of an earlier reading, in order. A difference from them raises an error.
    """

    def __init__(self, file: BinaryIO, name: str, known: Sequence[Mark] = ()) -> None:
        self._file = file
        self._name = name
        self._known = list(reversed(known))
        self.fingerprint = Fingerprint.of(file)
        self._pipe = PipeReader(file) if self.fingerprint.size is None else None
        self._read = file.read if self._pipe is None else self._pipe.read
        self._hash = hashlib.sha256()
        self._offsets = _mark_offsets()
        self._next_mark = next(self._offsets)
        self._buffer = b""
        self.offset = 0
        """Bytes read so far."""
        self.marks: list[Mark] = []
        """Marks computed so far. The owner of the file may remove them."""
        self._end_mark: Mark | None = None
        self._ended = False

    def read(self, size: int = -1) -> bytes:
        """Return at most `size` bytes, at least one unless the file has ended.

        Raises:
            InputError: The file changed since it was opened, or differs from the earlier reading.
        """
        if size < 0:
            size = MARK_EVERY
        if not self._buffer:
            self._buffer = self._next_bytes(size)
        taken, self._buffer = self._buffer[:size], self._buffer[size:]
        return taken

    def peek(self, size: int) -> bytes:
        """Return the next `size` bytes without consuming them; fewer at the end."""
        while len(self._buffer) < size:
            more = self._next_bytes(size - len(self._buffer))
            if not more:
                break
            self._buffer += more
        return self._buffer[:size]

    def compare(self) -> None:
        """Compare the content up to the last mark of the earlier reading.

        Raises:
            InputError: The content differs.
        """
        while self._known:
            self._next_bytes(MARK_EVERY)

    def stop(self) -> None:
        """End a read from a pipe that is waiting in another thread."""
        if self._pipe is not None:
            self._pipe.stop()

    def _next_bytes(self, size: int) -> bytes:
        if self._ended:
            return b""
        if self._known:
            return self._compared(self._known[-1])
        if self._pipe is not None:
            # Do not read on to a mark: that could block while rows are available.
            data = self._hashed(size)
            self._mark_end()
            return data
        # Return only content that a mark covers: read to the next mark or to the end.
        size = self._next_mark - self.offset
        data = self._hashed(size)
        if 0 < len(data) < size:
            self._hashed(1)
        return data

    def _compared(self, mark: Mark) -> bytes:
        """Read up to a known mark, compare the hash, and return the bytes read."""
        began = self.offset
        parts = []
        while self.offset < mark.offset:
            data = self._hashed(mark.offset - self.offset)
            if not data:
                break
            parts.append(data)
        at_end = mark.last and self.offset == mark.offset and not self._hashed(1)
        same = self.offset == mark.offset and self._hash.hexdigest() == mark.digest
        if not same or mark.last != at_end:
            raise OtherInputError(
                f"{self._name} is not the input that this job began with: the difference lies "
                f"after its first {began:,} bytes. Give the same input, or start a new job with "
                "another journal."
            )
        self._known.pop()
        return b"".join(parts)

    def _hashed(self, size: int) -> bytes:
        try:
            data: bytes = self._read(size)
        except OSError as error:
            raise InputError(f"{self._name}: cannot be read: {error.strerror}") from error
        if self._pipe is None:
            change = self.fingerprint.change(Fingerprint.of(self._file))
            if change is not None:
                raise InputError(
                    f"{self._name} changed while it was being read: {change}. Nothing more of it "
                    "is used. If its content is unchanged, run the same command again; otherwise "
                    "start a new job with a file that nobody writes to."
                )
        self._note(data)
        return data

    def _note(self, data: bytes) -> None:
        if not data:
            self._ended = True
            self.marks.append(Mark(self.offset, self._hash.hexdigest(), last=True))
            return
        view = memoryview(data)
        while view:
            part = view[: self._next_mark - self.offset]
            view = view[len(part) :]
            self._hash.update(part)
            self.offset += len(part)
            if self.offset == self._next_mark:
                self.marks.append(Mark(self.offset, self._hash.hexdigest(), last=False))
                self._next_mark = next(self._offsets)

    def _mark_end(self) -> None:
        """Mark the end of what was read of a pipe, because its rows are used before the next mark.

        The new mark replaces the last one of this kind if its owner has not taken that one.
        """
        if self.marks and self.marks[-1].offset == self.offset:
            return
        if self.marks and self.marks[-1] is self._end_mark:
            self.marks.pop()
        self._end_mark = Mark(self.offset, self._hash.hexdigest(), last=False)
        self.marks.append(self._end_mark)


def _mark_offsets() -> Iterator[int]:
    yield from FIRST_MARKS
    offset = MARK_EVERY
    while True:
        yield offset
        offset += MARK_EVERY


class PipeReader:
    """A reader of a pipe or terminal. Another thread can end its waiting read.

    It bypasses Python's buffer of the file, so nothing else may read the file.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file: Any = file
        self._reading = threading.Lock()
        self._stopped = False
        self._wake: tuple[int, int] | None = None
        if sys.platform != "win32":  # On Windows select() takes sockets only.
            self._wake = os.pipe()

    def read(self, size: int) -> bytes:
        """Wait for data and return at most `size` bytes; b"" at the end or after `stop`."""
        with self._reading:
            if self._wake is None:
                read = getattr(self._file, "read1", self._file.read)
                data: bytes = read(size)
                return data
            if self._stopped:
                return b""
            number = self._file.fileno()
            with _Selector() as selector:
                selector.register(number, selectors.EVENT_READ)
                selector.register(self._wake[0], selectors.EVENT_READ)
                ready = [key.fd for key, _ in selector.select()]
            return os.read(number, size) if number in ready else b""

    def stop(self) -> None:
        """End a waiting read, and wait until it has ended."""
        if self._stopped:
            return
        self._stopped = True
        if self._wake is None:
            return
        os.write(self._wake[1], b"x")
        with self._reading:
            for number in self._wake:
                os.close(number)
