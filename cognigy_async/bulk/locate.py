"""Where in a line of JSON the value is that a path names. Slow, and only for what is wrong."""

from __future__ import annotations

import json

__all__ = ["column_of"]

SPACE = " \t\r\n"
DECODER = json.JSONDecoder()


def column_of(line: bytes, path: str) -> int:
    """The column, from 1, of the innermost part of the path that the line has.

    Args:
        path: as in `Fault.path`: ``session.cart.items[3]``.
    """
    text = line.decode(errors="replace")
    try:
        return _descend(text, _skip(text, 0), path) + 1
    except (ValueError, IndexError, RecursionError):
        return 1


def _descend(text: str, at: int, path: str) -> int:
    """The position of what `path` names, of the value that begins at `at`."""
    if not path:
        return at
    if text[at] == "[" and path[0] == "[":
        return _item(text, at, path)
    if text[at] == "{":
        return _member(text, at, path.removeprefix("."))
    return at


def _item(text: str, at: int, path: str) -> int:
    number, _, rest = path[1:].partition("]")
    here = _skip(text, at + 1)
    for _ in range(int(number)):
        here = _skip(text, DECODER.raw_decode(text, here)[1])
        here = _skip(text, here + 1)
    return _descend(text, here, rest)


def _member(text: str, at: int, path: str) -> int:
    here = _skip(text, at + 1)
    while text[here] == '"':
        name, end = DECODER.raw_decode(text, here)
        value = _skip(text, _skip(text, end) + 1)
        rest = path.removeprefix(name)
        if path.startswith(name) and (not rest or rest[0] in ".["):
            return _descend(text, value, rest) if rest else here
        here = _skip(text, DECODER.raw_decode(text, value)[1])
        if text[here] != ",":
            break
        here = _skip(text, here + 1)
    return at


def _skip(text: str, at: int) -> int:
    while text[at] in SPACE:
        at += 1
    return at
