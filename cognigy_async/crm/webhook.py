"""Send each event to a URL, signed by Standard Webhooks."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

from pydantic import SecretStr

from cognigy_async import ConfigurationError, Request, Transport, UpdateEvent
from cognigy_async._utils.arguments import (
    UNENCRYPTED,
    leaves_unencrypted,
    url_problem,
    validate_count,
)

from .mapping import FieldMapping, FieldSource
from .sending import Sender, encode
from .target import DeliveryError, TargetGoneError

MIN_SECRET_BYTES = 24

APPLIED = "dialog.updated"
FAILED = "dialog.update_failed"


class Webhook:
    """Sends each event to a URL as a POST request, signed by Standard Webhooks 1.0.

    The header ``webhook-id`` is the `update_id`, the same for each repetition: the receiver must
    ignore an id that it has handled. ``webhook-timestamp`` is the time of the attempt in seconds
    since 1970, ``webhook-signature`` the HMAC-SHA256 of both and the body. The body is a JSON
    object with ``type``, `"dialog.updated"` or `"dialog.update_failed"`, ``timestamp``, the time of
    the attempt in ISO 8601, and ``data``.

    Without `fields`, ``data`` has ``dialog_id``, ``update_id``, ``metadata``, ``session`` and
    ``user`` with the variables that the update sets, ``transition``, ``inject`` or ``notify`` if
    the update has one, and ``version`` of the state if the server sent it. With `fields` it has
    these only. A failed update has the ``error`` besides, with its ``type`` and ``message``.

    A status of 2xx means delivered. 410 stops the target. 429, 502, 503 and 504 pause it, for the
    time in Retry-After, as does a connection that fails. After any other status the event is sent
    again later. Redirects are not followed. The body of a response is ignored.

    The rules are in
    https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md

    Args:
        url: absolute URL; https, or http on this machine.
        secret: ``whsec_`` and the base64 of at least 24 random bytes, which the receiver knows too.
        fields: which variables go to which member of ``data``; see `FieldMapping`. Events that set
            none of them are not sent. None to send all variables of the update.
        concurrency: requests side by side, for different dialogs.
        timeout: seconds for one request.
        transport: how requests are sent, by default an `HttpxTransport`. You close it yourself.
        allow_insecure: allow http:// to another machine, on a network that you trust.

    Raises:
        ConfigurationError: an argument cannot work.
        ImportError: the extra ``crm`` is not installed.
    """

    name = "webhook"
    batch_size = 1
    linger = 0.0

    def __init__(
        self,
        url: str,
        secret: str | SecretStr,
        *,
        fields: Mapping[str, FieldSource] | None = None,
        concurrency: int = 16,
        timeout: float = 20.0,
        transport: Transport | None = None,
        allow_insecure: bool = False,
    ) -> None:
        problem = url_problem(url, "https://crm.example/events")
        if problem is None and not url.isascii():
            problem = "must be ASCII"
        if problem is None and not allow_insecure and leaves_unencrypted(url):
            problem = UNENCRYPTED.format("values of variables")
        if problem is not None:
            raise ConfigurationError(f"Webhook: the URL {problem}")
        self.concurrency = validate_count("concurrency", concurrency)
        self._url = url
        self._mapping = None if fields is None else FieldMapping("Webhook", fields)
        self._signer = _signer_of(secret)
        # Path and query of a URL may be a secret.
        self._origin = f"{urlsplit(url).scheme}://{urlsplit(url).netloc}"
        self._sender = Sender(f"the webhook at {self._origin}", transport, timeout)

    def __repr__(self) -> str:
        return f"<Webhook {self._origin}>"

    async def open(self) -> None:
        """Open the transport in the event loop that delivers."""
        await self._sender.open()

    async def aclose(self) -> None:
        """Close the connections."""
        await self._sender.aclose()

    async def deliver(self, events: Sequence[UpdateEvent]) -> Sequence[DeliveryError | None]:
        """Send an event; `batch_size` is 1.

        Raises:
            DeliveryError: the event was not delivered.
        """
        for event in events:
            await self._deliver(event)
        return [None] * len(events)

    async def _deliver(self, event: UpdateEvent) -> None:
        data = self._data_of(event)
        if data is None:
            return
        now = datetime.now(UTC)
        body = {"type": APPLIED, "timestamp": now.isoformat(timespec="milliseconds"), "data": data}
        if event.error is not None:
            body["type"] = FAILED
            data["error"] = {"type": type(event.error).__name__, "message": str(event.error)}
        content = encode(body)
        headers = {
            "Content-Type": "application/json",
            "webhook-id": event.update_id,
            "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": self._signer.sign(event.update_id, now, content.decode("ascii")),
        }
        request = Request("POST", self._url, headers, content)
        response = await self._sender.send(request, event.update_id)
        if response.status == 410:
            raise TargetGoneError(
                f"{self._sender.service} responded with 410: it takes no more events; correct the "
                "URL, then start again"
            )
        failure = self._sender.failure(response, event.update_id)
        if failure is not None:
            raise failure

    def _data_of(self, event: UpdateEvent) -> dict[str, Any] | None:
        if self._mapping is not None:
            return self._mapping.read(event)
        data = {"dialog_id": event.dialog_id, "update_id": event.update_id, **event.payload}
        data["metadata"] = dict(event.metadata)
        version = None if event.result is None else event.result.version
        return data if version is None else data | {"version": version}


def _signer_of(secret: str | SecretStr) -> Any:
    """Return the signer for a secret, which no error shows."""
    try:
        # The extra may be missing, and only this target needs it.
        from standardwebhooks import Webhook as Signer
    except ImportError:
        raise ImportError(
            "Webhook needs an extra: pip install 'cognigy-async[crm]'", name="standardwebhooks"
        ) from None
    text = secret.get_secret_value() if isinstance(secret, SecretStr) else secret
    try:
        # The package ignores characters that are no base64, and so would sign with another key.
        key = base64.b64decode(str(text).removeprefix("whsec_"), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) < MIN_SECRET_BYTES:
        raise ConfigurationError(
            f"Webhook: the secret must be whsec_ and the base64 of at least {MIN_SECRET_BYTES} "
            "random bytes"
        )
    return Signer(key)
