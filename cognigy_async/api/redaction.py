"""Whether a text of the server repeats what a request keeps private: values and credentials.

A server may quote a value whole or in part, escaped, in other letters, or rounded. So texts are
compared by their letters and digits alone, in runs of `RUN`, and numbers by their value. When in
doubt a text counts as private: it is lost to whoever reads the message, which is the lesser evil.
"""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Iterator
from urllib.parse import unquote

from ..models.http import Request
from ..models.results import parse_json

RUN = 6
"""So many letters and digits in a row are no coincidence."""
WORD = 3
"""A shorter value has to be a word of its own."""

VARIABLES = ("session", "user", "context", "profile")
"""The members of a body that hold variables."""
OPEN_HEADERS = ("accept", "content-type", "idempotency-key", "if-match", "traceparent")

CODED = re.compile(r"\\u([0-9a-fA-F]{4})")
NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?")
ALONE = re.compile(rf"(?<![^\W_]){NUMBER.pattern}(?![^\W_])")


class PrivateValues:
    """What a request keeps private."""

    def __init__(self, request: Request) -> None:
        self._numbers: set[float] = set()
        self._words: set[str] = set()
        long: list[str] = []
        for text in _texts(request, self._numbers):
            folded = _folded(text)
            if len(folded) >= RUN:
                long.append(folded)
            elif folded:
                self._words.add(folded)
        self._long = "\0".join(long)

    def occur_in(self, text: str, *, is_id: bool = False) -> bool:
        """Whether `text` repeats any of it.

        An id has digits of its own: there a number counts that is long, or stands alone and is no
        shorter than a word.
        """
        plain = _unescaped(text)
        if self._numbers:
            found: list[str] = NUMBER.findall(plain)
            if is_id:
                found = [n for n in found if len(n) >= RUN]
                found += [n for n in ALONE.findall(plain) if len(n) >= WORD]
            if any(float(n) in self._numbers for n in found):
                return True
        folded = _folded(plain)
        words = {_folded(word) for word in re.split(r"[\W_]+", plain)}
        if any(word in words or (len(word) >= WORD and word in folded) for word in self._words):
            return True
        runs = {folded[at : at + RUN] for at in range(len(folded) - RUN + 1)}
        return any(run in self._long for run in runs)


def _texts(request: Request, numbers: set[float]) -> Iterator[str]:
    """The private texts of a request; its numbers go into `numbers`."""
    for name, value in request.headers.items():
        if name.lower() not in OPEN_HEADERS:
            # Of credentials with a scheme, as in "Bearer ...", the scheme is no secret.
            yield value.split(" ", 1)[-1]
    sent = parse_json(request.content)
    if isinstance(sent, dict):
        for member in VARIABLES:
            variables = sent.get(member)
            for value in variables.values() if isinstance(variables, dict) else ():
                yield from _leaves(value, numbers)


def _leaves(value: object, numbers: set[float]) -> Iterator[str]:
    """The texts in a variable's value, the keys of its objects included."""
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


def _unescaped(text: str) -> str:
    """Without what JSON, HTML and URLs put in place of a character."""
    decoded = CODED.sub(lambda match: chr(int(match[1], 16)), text)
    return html.unescape(unquote(decoded)).replace("\\", "")


def _folded(text: str) -> str:
    """Letters and digits alone, in one case."""
    return "".join(filter(str.isalnum, unicodedata.normalize("NFKC", text).casefold()))
