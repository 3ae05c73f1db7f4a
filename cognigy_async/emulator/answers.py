"""Answers of the emulator: JSON with its headers, and errors with a trace id."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from itertools import count
from typing import TypeAlias

from pydantic_core import to_json

from .throttle import Notice

Header: TypeAlias = tuple[bytes, bytes]

STATUSES = frozenset(HTTPStatus)
CODES = {404: 1002, 405: 1013, 409: 1004, 500: 1008}
"""Statuses whose errors have a code of their own in the sessions API."""

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
        body = self._body(status, message, next(self._numbers))
        answer = answer_json(status, {**body, **(members or {})}, *headers)
        if 300 <= status < 400:
            answer.headers += ((b"location", b"/elsewhere"),)
        if notice is not None:
            answer.headers += notice.headers
            answer.notice = notice
        return answer

    def _body(self, status: int, message: str, number: int) -> dict[str, object]:
        return {"message": message, "traceId": f"emulator-{number}"}


class Problems(Errors):
    """The same by RFC 7807, with the members that the sessions API adds.

    `code` is that of the status where the members do not say otherwise, the trace id
    ``api--emulator-<n>``.
    """

    def _body(self, status: int, message: str, number: int) -> dict[str, object]:
        title = HTTPStatus(status).phrase if status in STATUSES else "Error"
        return {
            "type": title,
            "title": title,
            "status": status,
            "detail": message,
            "instance": "/new/v2.0",
            "code": CODES.get(status, status),
            "traceId": f"api--emulator-{number}",
            "details": {},
        }
