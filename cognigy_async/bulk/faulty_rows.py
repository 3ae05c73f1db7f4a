"""A CSV file of the rows that are not valid, for the user to correct and to run again."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cognigy_async._utils.private_files import open_private

from .input.columns import Findings
from .input.encoding import BYTE_ORDER_MARKS
from .input.row import ERROR, IN_PART, RAW, RAW_BEGIN

MARK = next(mark for mark, name in BYTE_ORDER_MARKS.items() if name == "utf-8")
"""First bytes of the file. Without them, Excel takes UTF-8 for another encoding."""


@dataclass(slots=True)
class FaultyRows:
    """Writes the faulty rows of a table of CSV below their header.

    A file that an earlier run wrote is continued. Without such rows, no file is made. A file with
    other content is left as it is.

    Attributes:
        findings: Has the header of the input.
        count: Number of rows that are in the file, or were before the user changed it.
        notes: What kept rows from being written, at most one note.
        end: Bytes of the file that this run wrote, or found as it would write them.
        is_changed: True if the file has other content.
    """

    path: Path
    findings: Findings
    count: int = 0
    notes: list[str] = field(default_factory=list)
    end: int = 0
    is_changed: bool = False

    def take(self, letters: list[bytes]) -> list[bytes]:
        """Write the rows of some dead letters, and return the other dead letters."""
        header = self.findings.header
        if header is None:
            return letters
        rows = list(map(_row_of, letters))
        lines = [row.rstrip(b"\r\n") + b"\n" for row in rows if row is not None]
        if lines and not self.notes:
            begin = [] if self.end else [MARK + header.rstrip(b"\r\n") + b"\n"]
            try:
                self._write(begin + lines)
            except OSError as error:
                self._note(f"{error.strerror}. The rows that it lacks are among the dead letters")
        if self.notes and not self.is_changed:
            return letters
        self.count += len(lines)
        return [letter for letter, row in zip(letters, rows, strict=True) if row is None]

    def _write(self, lines: Sequence[bytes]) -> None:
        """Write lines unless they are in the file, which may have rows of an earlier run."""
        with os.fdopen(open_private(self.path, os.O_RDWR), "r+b") as file:
            if file.seek(0, os.SEEK_END) < self.end:
                raise OSError(errno.ENOENT, "it was moved or cut off while the job ran")
            file.seek(self.end)
            for line in lines:
                found = file.read(len(line))
                if not line.startswith(found):
                    self.is_changed = True
                    self._note(
                        "it has other content than this job would write, perhaps your corrections, "
                        "and was left as it is. To write it anew, move it away and run the job "
                        "again"
                    )
                    return
                file.write(line[len(found) :])
            self.end = file.tell()

    def _note(self, problem: str) -> None:
        self.notes.append(f"The file of faulty rows {self.path}: {problem}.")


def _row_of(letter: bytes) -> bytes | None:
    """Return the row of a dead letter that has nothing but the whole text of its row."""
    if not letter.startswith(RAW_BEGIN):
        return None
    fields = json.loads(letter)
    # What a dead letter has only in part might be valid by chance.
    is_part = any(text in fields[ERROR]["message"] for text in IN_PART)
    return None if is_part or fields.keys() != {RAW, ERROR} else fields[RAW].encode()
