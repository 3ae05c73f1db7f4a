"""Responses of the emulator."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic_core import to_json

from .throttle import Header, Notice

JSON: Header = (b"content-type", b"application/json")


@dataclass(slots=True)
class HttpResponse:
    """An HTTP response; `notice` is the throttling that it announces."""

    status: int
    content: bytes
    headers: tuple[Header, ...] = (JSON,)
    notice: Notice | None = None

    def truncate(self) -> None:
        """Drop the second half of the content, which is then no longer valid JSON."""
        self.content = self.content[: len(self.content) // 2]


def json_response(status: int, body: object, *headers: Header) -> HttpResponse:
    """Return a response with `body` as JSON."""
    return HttpResponse(status, to_json(body), (JSON, *headers))
