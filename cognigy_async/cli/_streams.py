"""Standard streams that may be full, closed, or without a reader."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import IO, TextIO


def flush(stream: TextIO, status: int | str | None) -> int | str | None:
    """Flush a standard stream; return the exit status, which is 1 if a result was not written."""
    try:
        stream.flush()
    except BrokenPipeError:
        # The reader, such as `head`, has closed the pipe.
        discard(stream)
    except OSError as error:
        discard(stream)
        if stream is sys.stdout and not status:
            return report(error)
    return status


def report(error: OSError) -> int:
    """Write an error to stderr, if that is possible. Return the exit status."""
    with suppress(OSError):
        sys.stderr.write(f"Error: {error.strerror or error}\n")
    return 1


def discard(stream: IO[str]) -> None:
    """Send the buffered and all later output of a stream to the null device."""
    with suppress(OSError), open(os.devnull, "w") as devnull:
        os.dup2(devnull.fileno(), stream.fileno())
        stream.flush()
