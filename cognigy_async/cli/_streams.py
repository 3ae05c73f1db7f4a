"""Standard streams that may be full, closed, or without a reader."""

from __future__ import annotations

import io
import os
import sys
from contextlib import suppress
from typing import IO, TextIO


def prepare() -> None:
    """Open closed standard streams on the null device, and write each character somehow.

    A socket or a file of an event loop would else get the number of a closed stream, which ends the
    process, or receives its output. Standard input stays closed to readers.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # The null device gets the lowest free number, and child processes inherit it.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            # Never closed, so that the interpreter has nothing to warn of at its end.
            null = os.open(os.devnull, os.O_WRONLY)
            setattr(sys, name, open(null, "w", encoding="utf-8", closefd=False))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper):
            # A code page or a locale may lack characters of a name or a message.
            stream.reconfigure(errors="backslashreplace")


def is_terminal(stream: TextIO) -> bool:
    """Return whether a stream ends at a terminal, whatever the environment says of colours."""
    try:
        return stream.isatty()
    except ValueError:
        return False  # it is closed


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
