"""Where the command writes: results to stdout, everything else to stderr."""

from __future__ import annotations

import json
import logging
import os
import shutil
import sys
from contextlib import suppress
from typing import Any

from rich.console import Console
from rich.json import JSON


class _Console(Console):
    """Goes on in silence where nobody reads any more, as after ``| head -1``.

    What the command does does not depend on who looks on, nor does its exit status.
    """

    def on_broken_pipe(self) -> None:
        self.quiet = True
        # What is still in the buffer of the file is flushed at exit.
        devnull = os.open(os.devnull, os.O_WRONLY)
        os.dup2(devnull, self.file.fileno())
        os.close(devnull)


def console(*, stderr: bool = False) -> Console:
    """Writes to stdout or stderr as they are now; no colours where they are not wanted."""
    made = _Console(stderr=stderr, highlight=False, emoji=False)
    if made.is_dumb_terminal:
        # rich does not ask these for their width.
        made.width = shutil.get_terminal_size().columns
    return made


def write_result(text: str) -> None:
    """One text on stdout, at once and as it is."""
    console().out(text, highlight=False)


def write_json(value: Any) -> None:
    """A value as JSON on stdout, in colours on a terminal."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    text = json.dumps(value, indent=2, ensure_ascii=not encoding.lower().startswith("utf"))
    out = console()
    if out.is_terminal:
        out.print(JSON(text, ensure_ascii=False), soft_wrap=True)
    else:
        out.out(text, highlight=False)


def say(text: str, *, style: str | None = None) -> None:
    """One message on stderr; lines are left to the terminal to break."""
    console(stderr=True).print(text, style=style, markup=False, soft_wrap=True)


def say_if_seen(text: str, *, style: str | None = None) -> None:
    """Write one message on stderr, if that is possible; what follows does not depend on it."""
    with suppress(OSError):
        say(text, style=style)


def log_to_stderr(*, everything: bool) -> None:
    """Show what the library logs: why it waits, or everything."""
    logger = logging.getLogger("cognigy_async")
    for old in [handler for handler in logger.handlers if isinstance(handler, _Handler)]:
        logger.removeHandler(old)
    handler = _Handler()
    if everything:
        handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    else:
        handler.addFilter(_is_news)
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG if everything else logging.INFO)


class _Handler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        say(self.format(record), style="dim")


def _is_news(record: logging.LogRecord) -> bool:
    """What a user waits for, and settings without effect; failures are told by their error."""
    return hasattr(record, "seconds") or hasattr(record, "variable")
