"""Texts and values of JSON: what a parser passes over, and what it needs to say more of."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any

from pydantic_core import from_json, to_json

DECODER = json.JSONDecoder()
SPACE = re.compile(r"[ \t\r\n]*")
PART_END = re.compile(r"[.\[]|\Z")
MOST_LEVELS = 100
"""Levels of nesting that dead letters keep."""
EXTENDED = frozenset(
    (
        *("$binary", "$date", "$maxKey", "$minKey", "$oid", "$regularExpression", "$timestamp"),
        *("$numberDecimal", "$numberDouble", "$numberInt", "$numberLong", "$undefined", "$uuid"),
    )
)
"""Names by which MongoDB's extended JSON (v2) tells the type of a value."""


def parse_json(text: str | bytes) -> Any:
    """Return the value of a JSON text.

    NaN, infinity and lone surrogates are accepted here: an update that uses them is not valid.

    Raises:
        ValueError: The text is not JSON.
    """
    try:
        return from_json(text, allow_inf_nan=False)
    except ValueError as error:
        try:
            plain = text if isinstance(text, str) else text.decode()
            return json.loads(plain, parse_int=_integer)
        except (ValueError, RecursionError):
            raise error from None


def _integer(text: str) -> int | float:
    try:
        return int(text)
    except ValueError:
        # It has more digits than Python converts.
        return math.inf


def member_given_twice(
    text: str | bytes, value: dict[str, Any] | list[Any], *, passes_over: bool = False
) -> str | None:
    """Return the path of a member that an object has twice, as ``.name[3].name``, or None.

    Args:
        text: A JSON text.
        value: Its value.
        passes_over: Pass over the members of `value` whose names begin with an underscore.
    """
    # A text has a colon for each member that it gives, and no others but those in texts.
    colons = text.count(":") if isinstance(text, str) else text.count(b":")
    if type(value) is dict:
        members = len(value)
        for inner in value.values():
            if type(inner) is dict:
                members += len(inner)
        if colons == members:
            return None
    plain = text if isinstance(text, str) else text.decode()
    try:
        if colons == _colons([value]) and "\\u003" not in plain:
            return None
        parsed = json.loads(
            plain, object_pairs_hook=_paths_given_twice, parse_int=len, parse_float=len
        )
        paths = [path for path in _paths_in(parsed) if not (passes_over and path[1:2] == "_")]
    except RecursionError:
        # The update is refused for its nesting.
        return None
    return paths[0] if paths else None


def _colons(values: Iterable[Any]) -> int:
    """Return the number of members and of colons in texts."""
    number = 0
    for value in values:
        kind = type(value)
        if kind is str:
            number += value.count(":")
        elif kind is dict:
            number += len(value) + "".join(value).count(":") + _colons(value.values())
        elif kind is list:
            number += _colons(value)
    return number


def _paths_given_twice(members: list[tuple[str, Any]]) -> tuple[str, ...]:
    """Return the paths of members given twice in an object and in the objects within it.

    The parser gets them in place of the object, so that it takes no memory.
    """
    paths: list[str] = []
    if len(dict(members)) < len(members):
        counts = Counter(name for name, _ in members)
        paths += (f".{name}" for name, number in counts.items() if number > 1)
    for name, value in members:
        if value and type(value) in (list, tuple):
            paths += (f".{name}{path}" for path in _paths_in(value))
    return tuple(paths)


def _paths_in(value: Any) -> Iterator[str]:
    if type(value) is tuple:
        yield from value
    elif type(value) is list:
        for index, item in enumerate(value):
            if item and type(item) in (list, tuple):
                yield from (f"[{index}]{path}" for path in _paths_in(item))


def extended_json(value: Any) -> str | None:
    """Return the path of a value that is extended JSON of MongoDB, as ``.name[3]``, or None."""
    try:
        return next(_paths_of_extended(value, ""), None)
    except RecursionError:
        # The update is refused for its nesting.
        return None


def _paths_of_extended(value: Any, path: str) -> Iterator[str]:
    if type(value) is dict:
        if EXTENDED & value.keys():
            yield path
        for name, inner in value.items():
            yield from _paths_of_extended(inner, f"{path}.{name}")
    elif type(value) is list:
        for index, inner in enumerate(value):
            yield from _paths_of_extended(inner, f"{path}[{index}]")


def parse_with_bytes(text: str) -> dict[str, Any] | None:
    """Return the object of a line whose bytes that are not UTF-8 are all in members passed over.

    Args:
        text: The line, with a surrogate for each of these bytes.
    """
    try:
        fields: dict[str, Any] = json.loads(text, parse_int=_integer)
        to_json({name: value for name, value in fields.items() if name[:1] != "_"})
    except (ValueError, AttributeError, RecursionError):
        return None
    else:
        return fields


def encode(fields: Mapping[str, Any]) -> bytes:
    """Return an object as one line of JSON."""
    try:
        return to_json(fields)
    except ValueError:
        # For a lone surrogate, this error handler writes the escape sequence of JSON.
        text = json.dumps(fields, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        return text.encode(errors="backslashreplace")


def is_json(value: Any, levels: int = MOST_LEVELS) -> bool:
    """Return whether a value is the same after it was written as JSON and read again."""
    kind = type(value)
    if kind is dict or kind is list:
        members = value.values() if kind is dict else value
        return levels > 0 and all(is_json(member, levels - 1) for member in members)
    if kind is float:
        return math.isfinite(value)
    return value is None or kind in (str, int, bool)


def begins_of(path: str) -> Iterator[str]:
    """Yield the texts that may be the first name of a path. Names may have dots and brackets."""
    for end in PART_END.finditer(path):
        yield path[: end.start()]


class Columns:
    """The columns of the parts of a line of JSON. Each object and each array is read once."""

    def __init__(self, line: bytes) -> None:
        self._text = line.decode(errors="replace")
        self._members: dict[int, dict[str, tuple[int, int]]] = {}

    def of(self, path: str) -> int:
        """Follow a path into the line as far as it exists; return its column, from 1.

        Args:
            path: As in `Fault.path`: ``session.cart.items[3]``.
        """
        at = _skip_space(self._text, 0)
        while path:
            wanted = path.removeprefix(".")
            members = self._members_of(at)
            name = next((begin for begin in begins_of(wanted) if begin in members), None)
            if name is None:
                break
            begun, value = members[name]
            path = wanted[len(name) :]
            at = value if path else begun
        return at + 1

    def _members_of(self, at: int) -> dict[str, tuple[int, int]]:
        """Return where each member of the value at a position begins, and where its value does."""
        members = self._members.get(at)
        if members is None:
            members = self._members[at] = {}
            with suppress(ValueError, IndexError, RecursionError):
                self._read_members(at, members)
        return members

    def _read_members(self, at: int, members: dict[str, tuple[int, int]]) -> None:
        text = self._text
        if text[at] not in "{[":
            return
        here = _skip_space(text, at + 1)
        while text[here] not in "}]":
            begun, name = here, f"[{len(members)}]"
            if text[at] == "{":
                name, end = DECODER.raw_decode(text, here)
                here = _skip_space(text, _skip_space(text, end) + 1)
            members.setdefault(name, (begun, here))
            here = _skip_space(text, DECODER.raw_decode(text, here)[1])
            if text[here] != ",":
                break
            here = _skip_space(text, here + 1)


def _skip_space(text: str, at: int) -> int:
    space = SPACE.match(text, at)
    return space.end() if space else at
