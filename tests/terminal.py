"""What a person sees on a terminal: the screen that a text with escape codes makes."""

from __future__ import annotations

import codecs
import io
import os
import re
from contextlib import suppress

CODES = re.compile(r"\x1b\[(\??[\d;]*)([A-Za-z])|[\r\n]|[^\x1b\r\n]")


class Screen(io.StringIO):
    """A terminal of some columns, as tall as needed, as a stream that is one.

    It knows the codes of rich and refuses others.
    """

    def __init__(self, columns: int) -> None:
        super().__init__()
        self.columns = columns
        self._lines: list[list[str]] = [[]]
        self._row = 0
        self._column = 0

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        """Show a text."""
        end = 0
        for found in CODES.finditer(text):
            assert found.start() == end, f"unknown code: {text[end : found.end()]!r}"
            end = found.end()
            self._show(found)
        assert end == len(text), f"unknown code: {text[end:]!r}"
        return len(text)

    @property
    def lines(self) -> list[str]:
        """The lines on the screen without trailing spaces, up to the last that has text."""
        lines = ["".join(line).rstrip() for line in self._lines]
        while lines and not lines[-1]:
            lines.pop()
        return lines

    def _show(self, found: re.Match[str]) -> None:
        if found[0] == "\r":
            self._column = 0
        elif found[0] == "\n":
            self._go_to(self._row + 1)
            self._column = 0
        elif found[2] is None:
            if self._column == self.columns:
                self._go_to(self._row + 1)
                self._column = 0
            line = self._lines[self._row]
            line.extend(" " * (self._column + 1 - len(line)))
            line[self._column] = found[0]
            self._column += 1
        elif found[2] == "A":
            self._go_to(self._row - int(found[1] or 1))
        elif found[2] == "K" and found[1] == "2":
            self._lines[self._row].clear()
        else:
            # Colours, and whether the cursor is shown.
            assert found[2] == "m" or found[0] in ("\x1b[?25l", "\x1b[?25h"), found[0]

    def _go_to(self, row: int) -> None:
        assert row >= 0
        self._row = row
        while len(self._lines) <= row:
            self._lines.append([])


def read_screens(master: int, columns: int) -> tuple[Screen, list[str]]:
    """Read a pseudo-terminal to its end, and close it.

    Returns:
        The last screen, and the text of the screen after each piece that was read.
    """
    screen, screens = Screen(columns), []
    decode = codecs.getincrementaldecoder("utf-8")().decode
    with suppress(OSError):  # Linux ends a pseudo-terminal like this.
        while data := os.read(master, 65536):
            screen.write(decode(data))
            screens.append("\n".join(screen.lines))
    os.close(master)
    return screen, screens
