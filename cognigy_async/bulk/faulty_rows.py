"""A CSV file of the rows that could not be read, for the user to correct and to run again."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from cognigy_async._utils.private_files import open_private

from .input.encoding import BYTE_ORDER_MARKS
from .input.row import IN_PART, RAW_BEGIN

MARK = next(mark for mark, name in BYTE_ORDER_MARKS.items() if name == "utf-8")
"""First bytes of the file. Without them, Excel takes UTF-8 for another encoding."""
OTHER_CONTENT = (
    "it has other content than this job would write, perhaps your corrections, and was left as it "
    "is. To write it anew, move it away and run the job again"
)


def write_faulty_rows(path: Path, header: bytes, dead_letters: Path) -> int:
    """Write the rows of CSV that could not be read below their header; return their number.

    A file that an earlier run wrote is continued. Without such rows, no file is made.

    Args:
        header: Lines of the header in UTF-8.
        dead_letters: File of all rows that were not applied.

    Raises:
        OSError: The file has other content, or cannot be written.
    """
    rows = _rows(dead_letters)
    first = next(rows, None)
    if first is None:
        return 0
    count = -1
    with os.fdopen(open_private(path, os.O_RDWR), "r+b") as file:
        for row in chain([MARK + header, first], rows):
            line = row.rstrip(b"\r\n") + b"\n"
            found = file.read(len(line))
            if not line.startswith(found):
                raise OSError(errno.EEXIST, OTHER_CONTENT, str(path))
            file.write(line[len(found) :])
            count += 1
    return count


def _rows(dead_letters: Path) -> Iterator[bytes]:
    with dead_letters.open("rb") as file:
        for line in file:
            if line.startswith(RAW_BEGIN):
                letter = json.loads(line)
                # What a dead letter has only in part might be valid by chance.
                if not any(text in letter["_error"]["message"] for text in IN_PART):
                    yield letter["_raw"].encode()
