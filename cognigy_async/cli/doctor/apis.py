"""Find out by reads which APIs a host serves.

A host answers a path of an API that it lacks as it answers any path that does not exist. So each
answer is compared with the answer to such a path.
"""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from cognigy_async import Request, Response

INTERFACE = re.compile(r"(trial|app|app-[a-z0-9]+)\.cognigy\.ai")
"""Hosts of the user interface, which people copy from their browser."""
API_PATH = re.compile(r"/(new(/v2\.0)?|openapi)(?=/*$)")
"""Paths that people copy with the address of the API. The vendor's page "API and CLI" has one."""
NO_PATH = "/cognigy-async-doctor"
"""A path that no API has."""
COMPARED = ("code", "error", "message", "title", "type", "detail")
"""Members of an error whose values depend neither on the time nor on the request."""
REFUSED = (401, 403)
"""Statuses of refused credentials."""


class Answer(NamedTuple):
    """The answer to a GET request."""

    request: Request
    response: Response

    @property
    def path(self) -> str:
        """The path of the request."""
        return urlsplit(self.request.url).path

    def __str__(self) -> str:
        return f"GET {self.path} was answered HTTP {self.response.status}"


class Served(NamedTuple):
    """A conclusion about a host and an API: True, False or None if unknown, with its reason."""

    is_served: bool | None
    detail: str


def find_out(answer: Answer, nothing: Answer) -> Served:
    """Conclude from an answer whether the host serves an API.

    Args:
        answer: Answer to a read of the API.
        nothing: Answer to `NO_PATH`.
    """
    status, body = answer.response.status, json_object(answer.response)
    alike = _content(answer) == _content(nothing)
    if alike:
        known = False if status == 404 else None
        reason = f", as {NO_PATH} was"
    elif body is not None and (status == 200 or 400 <= status < 500):
        known = True
        reason = ", which refuses these credentials" if status in REFUSED else ""
    else:
        known = False if status == 404 else None
        reason = ", with a body that is not of this API" if body is None else ""
    verdict = {True: "served", False: "not found", None: "unknown"}[known]
    return Served(known, f"{verdict}: {answer}{reason}")


def _content(answer: Answer) -> tuple[int, dict[str, str] | None]:
    body = json_object(answer.response)
    if body is None:
        return answer.response.status, None
    # A text may quote the path.
    texts = {name: str(body[name]).replace(answer.path, "") for name in COMPARED if name in body}
    return answer.response.status, texts


def json_object(response: Response) -> dict[str, Any] | None:
    """Return the body of a response; None if it is not a JSON object."""
    try:
        body = json.loads(response.content)
    except (RecursionError, ValueError):
        return None
    return body if isinstance(body, dict) else None
