"""Answers of the emulator: JSON with its headers, and errors with a trace id."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count
from typing import TypeAlias

from pydantic_core import to_json

from .throttle import Notice

__all__ = ["Answer", "Errors", "Header", "answer_json"]

Header: TypeAlias = tuple[bytes, bytes]

JSON: Header = (b"content-type", b"application/json")


@dataclass(slots=True)
class Answer:
    """One HTTP answer; `notice` is what it tells the client to wait for."""

    status: int
    content: bytes
    headers: tuple[Header, ...] = (JSON,)
    notice: Notice | None = None

    def cut(self) -> None:
        """Lose the second half of the content, so that it is JSON no longer."""
        self.content = self.content[: len(self.content) // 2]


def answer_json(status: int, body: object, *headers: Header) -> Answer:
    """An answer whose content is `body` as JSON."""
    return Answer(status, to_json(body), (JSON, *headers))


class Errors:
    """Makes ``{"message": ..., "traceId": "emulator-<n>"}``, counting n from 1."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Count from 1 again."""
        self._numbers = count(1)

    def __call__(
        self,
        status: int,
        message: str,
        *headers: Header,
        notice: Notice | None = None,
        members: Mapping[str, object] | None = None,
    ) -> Answer:
        """An error answer; `members` stand in the body besides the message."""
        trace_id = f"emulator-{next(self._numbers)}"
        body = {"message": message, "traceId": trace_id, **(members or {})}
        answer = answer_json(status, body, *headers)
        if 300 <= status < 400:
            answer.headers += ((b"location", b"/elsewhere"),)
        if notice is not None:
            answer.headers += notice.headers
            answer.notice = notice
        return answer
