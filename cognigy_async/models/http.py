"""HTTP requests and responses as values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import SecretStr

REDACTED = "REDACTED"
"""Stands for a secret in the path of a URL."""


@dataclass(slots=True, repr=False, eq=False)
class Request:
    """One HTTP request. Its repr omits headers and content, which may hold secrets.

    Attributes:
        url: absolute and percent-encoded.
        idempotent: True if sending it twice in a row has the same effect as once, so that it may be
            repeated if its response is lost.
        url_token: secret at the end of the path, only of a request to an `Endpoint`. The path ends
            in ``REDACTED`` instead, but in the request that a transport gets.
    """

    method: str
    url: str
    headers: dict[str, str]
    content: bytes = b""
    idempotent: bool = True
    url_token: SecretStr | None = None

    def __repr__(self) -> str:
        url = self.url if self.url_token is None else redacted(self.url)
        return f"<Request {self.method} {url} {len(self.content)} bytes>"


@dataclass(slots=True, repr=False, eq=False)
class Response:
    """One HTTP response: header values by lower-case name, and the decoded body.

    Attributes:
        content: the body; empty if there is none, or none that can be used.
        body_error: reason why the body cannot be used, without any part of it; None if it can.
            Status and headers are complete in either case.
    """

    status: int
    headers: Mapping[str, str]
    content: bytes = b""
    body_error: str | None = None

    def __repr__(self) -> str:
        return f"<Response {self.status} {len(self.content)} bytes>"


def redacted(url: str) -> str:
    """Return a URL with `REDACTED` in place of the last segment of its path."""
    return f"{url.rpartition('/')[0]}/{REDACTED}"
