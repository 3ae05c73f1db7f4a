"""One HTTP request and one answer, as values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(slots=True, repr=False, eq=False)
class Request:
    """One HTTP request. Its repr has neither headers nor content, which may hold secrets.

    Attributes:
        idempotent: carried out twice in a row, it leaves what it leaves once, so that it may be
            repeated when its answer is lost.
    """

    method: str
    url: str
    headers: dict[str, str]
    content: bytes = b""
    idempotent: bool = True

    def __repr__(self) -> str:
        return f"<Request {self.method} {self.url} {len(self.content)} bytes>"


@dataclass(slots=True, repr=False, eq=False)
class Response:
    """One whole HTTP answer; header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    content: bytes = b""

    def __repr__(self) -> str:
        return f"<Response {self.status} {len(self.content)} bytes>"
