"""Send the requests of a target, and say what a failure means for its deliveries."""

from __future__ import annotations

import json
import re
import time
from typing import Any

from pydantic import SecretStr

from cognigy_async import (
    ConfigurationError,
    HttpxTransport,
    NoResponseError,
    NotSentError,
    Request,
    Response,
    Transport,
)
from cognigy_async._utils.arguments import validate_timeout
from cognigy_async.spi import retry_after

from .target import DeliveryError, TargetUnavailableError

MAX_RETRY_AFTER = 3600.0
"""Seconds after which a target is asked again, even if it named a later time."""
MAX_RESPONSE_BYTES = 4 * 1024 * 1024

PATIENCE = 3
"""Faults in a row of one request, with no answer to any other one, before it counts as its own."""
MAX_SUSPECTS = 1_000

THROTTLED = (429, 502, 503, 504)
"""Statuses by which a server asks for fewer requests, whatever their content."""

NAME = re.compile(r"[A-Za-z]\w{0,254}", re.ASCII)
VISIBLE_ASCII = re.compile(r"[\x21-\x7e]+")
CODE = re.compile(r"[A-Z][A-Z0-9_]{0,63}")


class Sender:
    """Sends the requests of one target, each once.

    A status of 500 and a missing response may mean that the server is down, or that it fails at
    this request. They pause the target, until the server answers other requests or the same request
    has failed `PATIENCE` times in a row.

    Args:
        service: name in messages.
        transport: None to open an `HttpxTransport`, which `aclose` closes.
        timeout: seconds for one request.
    """

    def __init__(self, service: str, transport: Transport | None, timeout: float) -> None:
        self.service = service
        self._given = transport
        self._timeout = validate_timeout(timeout)
        self._transport: Transport | None = None
        self._answers = 0
        self._suspects: dict[str, tuple[int, int]] = {}
        """Number of answers at the first fault of a request, and its faults, by its name."""

    async def open(self) -> Transport:
        """Return the transport, which belongs to the running event loop."""
        self._transport = self._given or HttpxTransport(max_response_bytes=MAX_RESPONSE_BYTES)
        return self._transport

    async def aclose(self) -> None:
        """Close the transport that `open` made."""
        transport, self._transport = self._transport, None
        if transport is not None and transport is not self._given:
            await transport.aclose()

    async def send(self, request: Request, name: str) -> Response:
        """Send a request and return its response, whatever the status.

        Args:
            name: the same for each repetition of the request.

        Raises:
            DeliveryError: no response came.
        """
        if self._transport is None:
            raise DeliveryError(f"the target for {self.service} is not open")
        try:
            response = await self._transport.send(request, timeout=self._timeout)
        except NotSentError as error:
            raise TargetUnavailableError(f"{self.service} could not be reached") from error
        except NoResponseError as error:
            raise self._fault(name, "sent no response", None) from error
        if response.status < 500:
            self._answers += 1
            self._suspects.pop(name, None)
        return response

    def failure(self, response: Response, name: str) -> DeliveryError | None:
        """Return the failure that a status stands for, by the rules of HTTP; None for 2xx."""
        status, wait = response.status, wait_of(response)
        if 200 <= status <= 299:
            return None
        if status in THROTTLED:
            return TargetUnavailableError(f"{self.service} responded with {status}", wait)
        if status >= 500:
            return self._fault(name, f"responded with {status}", wait)
        if 300 <= status <= 399:
            problem = f"responded with {status}, a redirect, which is not followed; correct the URL"
            return DeliveryError(f"{self.service} {problem}")
        return DeliveryError(f"{self.service} responded with {status}")

    def _fault(self, name: str, problem: str, wait: float | None) -> DeliveryError:
        answers, faults = self._suspects.pop(name, (self._answers, 0))
        blamed = self._answers > answers or faults + 1 >= PATIENCE
        if len(self._suspects) >= MAX_SUSPECTS:
            del self._suspects[next(iter(self._suspects))]
        self._suspects[name] = (answers, 0 if blamed else faults + 1)
        text = f"{self.service} {problem}"
        return DeliveryError(text) if blamed else TargetUnavailableError(text, wait)


def wait_of(response: Response) -> float | None:
    """Return the seconds of Retry-After, bounded; None without them."""
    seconds = retry_after(response.headers, time.time())
    return None if seconds is None else min(seconds, MAX_RETRY_AFTER)


def json_of(response: Response) -> Any:
    """Return the parsed body of a response; None if it is unusable."""
    try:
        return None if response.body_error else json.loads(response.content)
    except (ValueError, RecursionError):
        return None


def objects(value: object) -> list[dict[str, Any]]:
    """Return the objects in a list of a response; empty if it is something else."""
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def code(value: object) -> str:
    """Return an error code of a response, or a question mark for what may be something else."""
    return value if isinstance(value, str) and CODE.fullmatch(value) else "?"


def encode(value: object) -> bytes:
    """Return JSON without spaces."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode("ascii")


def validate_secret(name: str, secret: str | SecretStr) -> SecretStr:
    """Return a secret for a header; raise `ConfigurationError`, which does not show it."""
    text = secret.get_secret_value() if isinstance(secret, SecretStr) else secret
    if not VISIBLE_ASCII.fullmatch(text or ""):
        raise ConfigurationError(
            f"{name}: must be visible ASCII without spaces; if it is from the environment, set it"
        )
    return SecretStr(text)


def validate_name(name: str, value: str) -> str:
    """Return a name of the API for a path; raise `ConfigurationError` if it is none."""
    if not NAME.fullmatch(value):
        raise ConfigurationError(f"{name}={value!r}: must be a name of letters, digits and _")
    return value
