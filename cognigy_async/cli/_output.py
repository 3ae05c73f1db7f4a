"""Output of the commands: results to stdout, messages to stderr.

Texts may quote servers and files. No control or bidirectional character of theirs is written.
"""

from __future__ import annotations

import json
import logging
import shutil
import sys
import unicodedata
from contextlib import suppress
from contextvars import ContextVar
from enum import IntEnum
from typing import Any

from rich.console import Console
from rich.highlighter import JSONHighlighter

from ._streams import discard, is_terminal

REASONS = {
    "conflict": "conflict (409)",
    "fault": "server fault (500)",
    "gateway": "gateway error (502, 504)",
    "no_response": "no response",
    "not_sent": "could not connect",
    "throttled": "throttled (429)",
    "unauthorized": "credentials refused (401)",
    "unavailable": "unavailable (503)",
}
"""Reasons for a retry, by their names in the metrics."""


class Detail(IntEnum):
    """The messages on stderr that the user wants; errors are always printed."""

    QUIET = 0
    NORMAL = 1
    VERBOSE = 2
    DEBUG = 3


_detail = ContextVar("detail", default=Detail.NORMAL)


def set_detail(detail: Detail) -> None:
    """Set the detail of all messages from now on."""
    _detail.set(detail)


def is_quiet() -> bool:
    """Return True if only results and errors are printed."""
    return _detail.get() is Detail.QUIET


def is_verbose() -> bool:
    """Return True if everything is printed."""
    return _detail.get() in (Detail.VERBOSE, Detail.DEBUG)


class _Console(Console):
    """A console that stays silent once its reader has left, as after ``| head -1``.

    The command does its work, and its exit status stays the same.
    """

    def on_broken_pipe(self) -> None:
        self.quiet = True
        discard(self.file)


def console(*, stderr: bool = False) -> Console:
    """Return a console for the current stdout or stderr; it draws anew on terminals only."""
    interactive = None if is_terminal(sys.stderr if stderr else sys.stdout) else False
    made = _Console(stderr=stderr, highlight=False, emoji=False, force_interactive=interactive)
    if made.is_dumb_terminal:
        # rich does not detect the width of dumb terminals.
        made.width = shutil.get_terminal_size().columns
    return made


def printable(text: str) -> str:
    """Return a text with escapes in place of controls, marks of direction and surrogates."""
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() or unicodedata.category(c) == "Zs" else _escape(c) for c in text
    )


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def write_result(line: str) -> None:
    """Write a line to stdout."""
    console().out(printable(line), highlight=False)


def write_json(value: Any) -> None:
    """Write a value to stdout as JSON, in colours on a terminal."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    text = json.dumps(value, indent=2, ensure_ascii=not encoding.lower().startswith("utf"))
    # Line ends are those of the indentation.
    text = "\n".join(
        line if line.isprintable() else _json_escaped(line) for line in text.split("\n")
    )
    out = console()
    if is_terminal(sys.stdout):
        out.print(JSONHighlighter()(text), soft_wrap=True)
    else:
        out.out(text, highlight=False)


def _json_escaped(line: str) -> str:
    """Return a line of JSON with the same value, whose characters are all printable."""
    return "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in line)


def say(line: str, *, style: str | None = None) -> None:
    """Write a line to stderr; a terminal wraps it."""
    console(stderr=True).print(printable(line), style=style, markup=False, soft_wrap=True)


def note(line: str) -> None:
    """Write a line to stderr that the user may miss: none with ``--quiet``, and no error."""
    if not is_quiet():
        say_if_possible(line)


def say_if_possible(line: str, *, style: str | None = None) -> None:
    """Write a line to stderr; ignore the error if stderr cannot be written."""
    with suppress(OSError):
        say(line, style=style)


def log_to_stderr(detail: Detail, *, waits: bool) -> None:
    """Write log lines of the library to stderr, as many as the detail asks for.

    Args:
        waits: in normal detail, write the lines that explain a wait or a setting; else none.
    """
    logger = logging.getLogger("cognigy_async")
    for old in [handler for handler in logger.handlers if isinstance(handler, _Handler)]:
        logger.removeHandler(old)
    handler = _Handler()
    logger.addHandler(handler)
    if detail is Detail.DEBUG:
        handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
        logger.setLevel(logging.DEBUG)
    elif detail is Detail.VERBOSE or (waits and detail is Detail.NORMAL):
        logger.setLevel(logging.INFO)
        if detail is Detail.NORMAL:
            handler.addFilter(_explains)
    else:
        # A handler that takes nothing: without any, the library would write warnings by itself.
        handler.setLevel(logging.CRITICAL + 1)


class _Handler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        reason = getattr(record, "reason", None)
        if reason in REASONS and self.formatter is None:
            seconds: float = getattr(record, "seconds", 0.0)
            say_if_possible(f"{REASONS[reason]}; retrying in {duration(seconds)}", style="dim")
            return
        for line in self.format(record).split("\n"):
            say_if_possible(line, style="dim")


def _explains(record: logging.LogRecord) -> bool:
    """Return True for a wait and for a setting without effect; errors are reported elsewhere."""
    return hasattr(record, "seconds") or hasattr(record, "variable")


def counted(number: int, noun: str, plural: str = "") -> str:
    """Return a number with its noun in the singular or the plural, by default with an s."""
    return f"{number:,} {noun if number == 1 else plural or f'{noun}s'}"


def duration(seconds: float) -> str:
    """Return a duration in its most readable unit."""
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
