"""Where in a line of JSON the value is that a path names. Slow, and only for what is wrong."""

from __future__ import annotations

import json
import re

DECODER = json.JSONDecoder()
SPACE = re.compile(r"[ \t\r\n]*")


def column_of(line: bytes, path: str) -> int:
    """The column, from 1, of the innermost part of the path that the line has.

    Args:
        path: as in `Fault.path`: ``session.cart.items[3]``.
    """
    text = line.decode(errors="replace")
    try:
        return _found(text, _skip(text, 0), path) + 1
    except (ValueError, IndexError, RecursionError):
        return 1


def _found(text: str, at: int, path: str) -> int:
    """The position of what `path` names, of the value that begins at `at`."""
    if not path or text[at] not in "{[":
        return at
    wanted = path.removeprefix(".")
    here, index = _skip(text, at + 1), 0
    while text[here] not in "}]":
        begun, name = here, f"[{index}]"
        if text[at] == "{":
            name, end = DECODER.raw_decode(text, here)
            here = _skip(text, _skip(text, end) + 1)
        rest = wanted.removeprefix(name)
        if wanted.startswith(name) and (not rest or rest[0] in ".["):
            return _found(text, here, rest) if rest else begun
        here = _skip(text, DECODER.raw_decode(text, here)[1])
        if text[here] != ",":
            break
        here, index = _skip(text, here + 1), index + 1
    return at


def _skip(text: str, at: int) -> int:
    space = SPACE.match(text, at)
    return space.end() if space else at
