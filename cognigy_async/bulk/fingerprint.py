"""What an input was: size, time and a hash of what was read, taken while it is read.

The hash is noted at certain places. Read again by a job that is resumed, each stretch between two
of them is compared before anything of it is used.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO

from .errors import InputError
from .pipes import PipeReader

FIRST_STRETCHES = (4096, 65_536)
STRETCH = 1 << 18
"""Bytes between two marks; fewer at the beginning, so that a pipe has some early."""


@dataclass(frozen=True, slots=True)
class Mark:
    """The hash of everything before `offset`; `last` where the input ends there."""

    offset: int
    digest: str
    last: bool


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What is known of an input before it is read; None for a pipe."""

    size: int | None
    modified_ns: int | None

    @classmethod
    def of(cls, file: BinaryIO) -> Fingerprint:
        """Of an open file."""
        return cls.from_stat(os.fstat(file.fileno()))

    @classmethod
    def from_stat(cls, found: os.stat_result) -> Fingerprint:
        """Of a file that was looked at."""
        if not stat.S_ISREG(found.st_mode):
            return cls(None, None)
        return cls(found.st_size, found.st_mtime_ns)

    def change(self, now: Fingerprint) -> str | None:
        """What is different now, None where nothing is."""
        if self == now:
            return None
        if self.size != now.size:
            return f"its size went from {_size(self.size)} to {_size(now.size)}"
        return "it was written to"


def _size(size: int | None) -> str:
    return "unknown" if size is None else f"{size:,} bytes"


def _boundaries() -> Iterator[int]:
    yield from FIRST_STRETCHES
    offset = STRETCH
    while True:
        yield offset
        offset += STRETCH


class HashedFile:
    """Reads a binary file and hashes it.

    Args:
        known: the marks of an earlier reading, in order; what differs from them raises.
    """

    def __init__(self, file: BinaryIO, name: str, known: Sequence[Mark] = ()) -> None:
        self._file = file
        self._name = name
        self._known = list(reversed(known))
        self.fingerprint = Fingerprint.of(file)
        # A pipe gives what it has; waiting for more would keep rows back.
        self._pipe = PipeReader(file) if self.fingerprint.size is None else None
        self._read = file.read if self._pipe is None else self._pipe.read
        self._hash = hashlib.sha256()
        self._boundaries = _boundaries()
        self._boundary = next(self._boundaries)
        self._buffer = b""
        self.offset = 0
        """Bytes read so far."""
        self.marks: list[Mark] = []
        """Marks of this reading that nobody has taken yet."""
        self.ended = False

    def read(self, size: int = -1) -> bytes:
        """At most `size` bytes, at least one unless the file has ended.

        Raises:
            InputError: the file changed since it was opened, or differs from the earlier reading.
        """
        if size < 0:
            size = STRETCH
        if not self._buffer:
            self._fill(size)
        taken, self._buffer = self._buffer[:size], self._buffer[size:]
        return taken

    def stop(self) -> None:
        """Let nobody wait for what a pipe does not have yet."""
        if self._pipe is not None:
            self._pipe.stop()

    def _fill(self, size: int) -> None:
        if self.ended:
            return
        if self._known:
            # Nothing of a stretch is used before all of it was compared.
            self._buffer = self._stretch(self._known[-1])
            return
        if self.fingerprint.size is None:
            self._buffer = self._raw(size)
            return
        # To the next mark, or to the end, which has one: all that was read is before a mark.
        size = self._boundary - self.offset
        self._buffer = self._raw(size)
        if 0 < len(self._buffer) < size:
            self._raw(1)

    def _raw(self, size: int) -> bytes:
        try:
            data: bytes = self._read(size)
        except OSError as error:
            raise InputError(f"{self._name}: cannot be read: {error.strerror}") from error
        self._look()
        self._update(data)
        return data

    def _look(self) -> None:
        if self.fingerprint.size is None:
            return
        change = self.fingerprint.change(Fingerprint.of(self._file))
        if change is not None:
            raise InputError(
                f"{self._name} changed while it was being read: {change}. Nothing more of it is "
                "used. Where its content is as it was, run the same command again; else start a "
                "new job with a file that nobody writes to."
            )

    def _update(self, data: bytes) -> None:
        if not data:
            self.ended = True
            self.marks.append(Mark(self.offset, self._hash.hexdigest(), last=True))
            return
        view = memoryview(data)
        while view:
            part = view[: self._boundary - self.offset]
            view = view[len(part) :]
            self._hash.update(part)
            self.offset += len(part)
            if self.offset == self._boundary:
                self.marks.append(Mark(self.offset, self._hash.hexdigest(), last=False))
                self._boundary = next(self._boundaries)

    def _stretch(self, mark: Mark) -> bytes:
        began = self.offset
        parts = []
        while self.offset < mark.offset:
            data = self._raw(mark.offset - self.offset)
            if not data:
                break
            parts.append(data)
        at_end = mark.last and self.offset == mark.offset and not self._raw(1)
        same = self.offset == mark.offset and self._hash.hexdigest() == mark.digest
        if not same or mark.last != at_end:
            raise InputError(
                f"{self._name} is not the input that this job began with: the difference lies "
                f"after its first {began:,} bytes. Give the same input, or start a new job with "
                "another journal."
            )
        self._known.pop()
        return b"".join(parts)


def compare_beginning(file: BinaryIO, name: str, known: Sequence[Mark]) -> None:
    """Compare the beginning of a file with an earlier reading, and go back to its start.

    Raises:
        InputError: it differs.
    """
    hashed = HashedFile(file, name, known)
    while hashed._known:
        hashed._buffer = b""
        hashed._fill(STRETCH)
    file.seek(0)
