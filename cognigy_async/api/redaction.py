"""Detect values and credentials of a request in texts of the server.

A server may quote a value in full or in part, escaped, in another case, or rounded. So texts are
compared by letters and digits only, in runs of `RUN_LENGTH`, and numbers by value. In doubt, a text
counts as private: losing a message is better than a leak.
"""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Iterator
from urllib.parse import unquote

from ..models.http import Request
from ..models.results import parse_json

RUN_LENGTH = 6
"""Length of a run of matching letters and digits that counts as a leak."""
WORD_LENGTH = 3
"""Shorter values count as a leak only if they match a whole word."""

VARIABLE_MEMBERS = ("session", "user", "context", "profile")
"""Members of a request body that hold variables."""
MESSAGE_MEMBERS = ("text", "data", "attachments")
"""Members of a request to an endpoint that hold values."""
PUBLIC_HEADERS = ("accept", "content-type", "idempotency-key", "if-match", "traceparent")

_ESCAPE = re.compile(r"\\u([0-9a-fA-F]{4})")
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?")
_NUMBER_WORD = re.compile(rf"(?<![^\W_]){_NUMBER.pattern}(?![^\W_])")


class PrivateValues:
    """The variables and credentials of one request."""

    def __init__(self, request: Request) -> None:
        self._numbers: set[float] = set()
        self._words: set[str] = set()
        long: list[str] = []
        for text in _private_texts(request, self._numbers):
            folded = _fold(text)
            if len(folded) >= RUN_LENGTH:
                long.append(folded)
            elif folded:
                self._words.add(folded)
        self._long = "\0".join(long)

    def occur_in(self, text: str, *, is_id: bool = False) -> bool:
        """Return whether a text of the server repeats any of the values.

        With `is_id`, a number in the text counts only if it has `RUN_LENGTH` or more characters,
        or stands alone and has `WORD_LENGTH` or more: ids contain digits by chance.
        """
        plain = _unescape(text)
        if self._numbers:
            found: list[str] = _NUMBER.findall(plain)
            if is_id:
                found = [n for n in found if len(n) >= RUN_LENGTH]
                found += [n for n in _NUMBER_WORD.findall(plain) if len(n) >= WORD_LENGTH]
            if any(float(n) in self._numbers for n in found):
                return True
        folded = _fold(plain)
        words = {_fold(word) for word in re.split(r"[\W_]+", plain)}
        if any(
            word in words or (len(word) >= WORD_LENGTH and word in folded) for word in self._words
        ):
            return True
        runs = {folded[at : at + RUN_LENGTH] for at in range(len(folded) - RUN_LENGTH + 1)}
        return any(run in self._long for run in runs)


def _private_texts(request: Request, numbers: set[float]) -> Iterator[str]:
    """Yield the private texts of a request, and add its numbers to `numbers`."""
    for name, value in request.headers.items():
        if name.lower() not in PUBLIC_HEADERS:
            # Drop the scheme, such as "Bearer": it is not a secret.
            yield value.split(" ", 1)[-1]
    body = parse_json(request.content)
    if request.url_token is not None:
        yield request.url_token.get_secret_value()
        if isinstance(body, dict):
            yield from _leaves([body.get(member) for member in MESSAGE_MEMBERS], numbers)
    elif isinstance(body, dict):
        for member in VARIABLE_MEMBERS:
            variables = body.get(member)
            for value in variables.values() if isinstance(variables, dict) else ():
                yield from _leaves(value, numbers)
        yield from _leaves(body.get("contactIds"), numbers)


def _leaves(value: object, numbers: set[float]) -> Iterator[str]:
    """Yield the texts and keys inside a value, and add its numbers to `numbers`."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield name
            yield from _leaves(inner, numbers)
    elif isinstance(value, list):
        for inner in value:
            yield from _leaves(inner, numbers)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        numbers.add(float(value))
    elif isinstance(value, str):
        yield value


def _unescape(text: str) -> str:
    """Resolve the escapes of JSON, HTML and URLs."""
    decoded = _ESCAPE.sub(lambda match: chr(int(match[1], 16)), text)
    return html.unescape(unquote(decoded)).replace("\\", "")


def _fold(text: str) -> str:
    """Return the letters and digits of a text, case-folded."""
    return "".join(filter(str.isalnum, unicodedata.normalize("NFKC", text).casefold()))
