"""Reading what may keep its reader waiting: a pipe, a terminal."""

from __future__ import annotations

import os
import selectors
import sys
import threading
from typing import Any, BinaryIO

# select() knows the first 1,024 open files only; poll() does not know every terminal elsewhere.
_Selector = selectors.PollSelector if sys.platform == "linux" else selectors.SelectSelector


class PipeReader:
    """Reads from one thread, until another one says that nobody wants it any more.

    What Python has buffered of the file already is not seen: nothing else may read it.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file: Any = file
        self._reading = threading.Lock()
        self._stopped = False
        self._wake: tuple[int, int] | None = None
        if sys.platform != "win32":  # There only sockets can be waited for.
            self._wake = os.pipe()

    def read(self, size: int) -> bytes:
        """What there is, at most `size` bytes, waiting for one; none at the end or once stopped."""
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
        """End a read that waits, and wait until it has ended."""
        if self._stopped:
            return
        self._stopped = True
        if self._wake is None:
            return
        os.write(self._wake[1], b"x")
        with self._reading:
            for number in self._wake:
                os.close(number)
