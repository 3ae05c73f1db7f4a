"""Write events to the contacts of HubSpot."""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import anyio
from pydantic import SecretStr

from cognigy_async import ConfigurationError, Request, Response, Transport, UpdateEvent

from .batch import Record, RefusedError, deliver_records
from .mapping import FieldMapping, FieldSource, join_options
from .sending import Sender, code, encode, json_of, objects, validate_name, validate_secret, wait_of
from .target import DeliveryError, EventRejectedError, TargetGoneError, TargetUnavailableError

ORIGIN = "https://api.hubapi.com"

# The lowest limits of "API usage guidelines and limits", until a response names others.
BURST = 100
WINDOW = 10.0
SHARE = 0.9
"""Part of the burst limit that is used: requests may reach HubSpot closer together than sent."""

WAITS = {"SECONDLY": 1.0, "TEN_SECONDLY_ROLLING": 10.0, "DAILY": 3600.0}
"""Seconds to wait after a 429, by its policy, if it has no Retry-After.

The daily limit resets at midnight of the account's time zone, which is not known here.
"""

LOCKED, MIGRATING = 423, 477
LOCK = 2.0
"""Seconds that a lock lasts after a 423."""

SETTINGS = {"PROPERTY_DOESNT_EXIST", "READ_ONLY_VALUE"}
INVALID = "Property values were not valid: "
CORRELATION = re.compile(r"[0-9a-fA-F-]{8,64}")


class HubSpot:
    """Creates and updates contacts of HubSpot, up to 100 in a request.

    Each contact is identified by a property with unique values. Create one for this purpose, for
    example `cognigy_dialog`, or use `"email"`. HubSpot says that it does not support partial
    upserts by email: then map only fields that each update sets.

    Only applied updates are written. Events of one contact in one batch are merged, later values
    win. Numbers and booleans are sent as texts, lists of texts with semicolons, as HubSpot has
    them; all other values as JSON.

    If HubSpot refuses a batch because of one contact (400, 409, 413), the batch is sent again in
    halves, and the contact's event becomes a dead letter. An unknown property (400), 401, 404 and
    missing scopes (403) stop the target. 423, 429, 477, 5xx and failed connections pause it.

    The rules are in the pages "Create or update a batch of contacts by unique property values",
    "Error handling" and "API usage guidelines and limits" of https://developers.hubspot.com/docs

    Args:
        token: access token of an app with the scopes to read and write contacts.
        mapping: which variables go to which property; see `FieldMapping`.
        id_property: property that identifies a contact, mapped as well.
        api_version: date of the API's version, or `"v3"` for the paths before 2026-03.
        timeout: seconds for one request.
        transport: how requests are sent, by default an `HttpxTransport`. You close it yourself.

    Raises:
        ConfigurationError: an argument cannot work.
    """

    name = "hubspot"
    batch_size = 100
    linger = 1.0
    concurrency = 4

    def __init__(
        self,
        token: str | SecretStr,
        mapping: Mapping[str, FieldSource],
        *,
        id_property: str,
        api_version: str = "2026-03",
        timeout: float = 30.0,
        transport: Transport | None = None,
    ) -> None:
        if not re.fullmatch(r"\d{4}-\d{2}|v3", api_version, re.ASCII):
            raise ConfigurationError('HubSpot: api_version must be like "2026-03", or "v3"')
        path = "crm/v3/objects" if api_version == "v3" else f"crm/objects/{api_version}"
        self._url = f"{ORIGIN}/{path}/contacts/batch/upsert"
        self._token = validate_secret("HubSpot: the token", token)
        self._id_property = validate_name("id_property", id_property)
        self._mapping = FieldMapping("HubSpot", mapping, id_property)
        self._sender = Sender("HubSpot", transport, timeout)
        self._pace = _Pace()

    def __repr__(self) -> str:
        return f"<HubSpot contacts by {self._id_property}>"

    async def open(self) -> None:
        """Open the transport in the event loop that delivers."""
        await self._sender.open()
        self._pace = _Pace()

    async def aclose(self) -> None:
        """Close the connections."""
        await self._sender.aclose()

    async def deliver(self, events: Sequence[UpdateEvent]) -> Sequence[DeliveryError | None]:
        """Write events to their contacts, and return the outcome of each."""
        return await deliver_records(events, self._mapping, self._key_of, self._upsert)

    def _key_of(self, value: Any) -> str:
        key = _text_of(value)
        return key.strip().lower() if self._id_property == "email" else key

    async def _upsert(self, records: Sequence[Record]) -> Sequence[DeliveryError | None]:
        inputs = [
            {
                "id": record.key,
                "idProperty": self._id_property,
                "objectWriteTraceId": str(index),
                "properties": {
                    name: record.key if name == self._id_property else _text_of(value)
                    for name, value in record.fields.items()
                },
            }
            for index, record in enumerate(records)
        ]
        headers = {
            "Authorization": f"Bearer {self._token.get_secret_value()}",
            "Content-Type": "application/json",
        }
        name = records[0].items[0].event.update_id
        await self._pace.wait()
        response = await self._sender.send(
            Request("POST", self._url, headers, encode({"inputs": inputs})), name
        )
        self._pace.learn(response.headers)
        if response.status == 207:
            return self._partial(response, len(records))
        failure = self._failure(response) or self._sender.failure(response, name)
        if failure is not None:
            raise failure
        return [None] * len(records)

    def _failure(self, response: Response) -> Exception | None:
        """Return the failure that a status stands for at HubSpot, if it has its own meaning."""
        status, body = response.status, json_of(response)
        body = body if isinstance(body, dict) else {}
        reason = f"{status} {code(body.get('category'))}"
        correlation = body.get("correlationId")
        if isinstance(correlation, str) and CORRELATION.fullmatch(correlation):
            reason += f", correlation id {correlation}"
        if status == 401:
            return _gone(f"the token is not valid ({reason}); pass a new one")
        if status == 403 and body.get("category") == "MISSING_SCOPES":
            return _gone(f"the token lacks a scope ({reason}); grant the scopes for contacts")
        if status == 404:
            return _gone(f"the API was not found ({reason}); check api_version")
        wait = wait_of(response)
        if status == 429:
            wait = wait or WAITS.get(str(body.get("policyName")).upper(), WINDOW)
            return TargetUnavailableError(f"HubSpot throttles: {reason}", wait)
        if status in (403, LOCKED, MIGRATING):
            wait = wait or (LOCK if status == LOCKED else None)
            return TargetUnavailableError(f"HubSpot responded with {reason}", wait)
        if status == 400:
            self._check_settings(body, reason)
        if status in (400, 413):
            return RefusedError(_rejected(reason))
        if status == 409:
            return RefusedError(DeliveryError(f"HubSpot reports a conflict ({reason})"))
        return None

    def _partial(self, response: Response, count: int) -> Sequence[DeliveryError | None]:
        """Return the outcomes in a 207; each error names the traces of its inputs."""
        body = json_of(response)
        errors = objects(body.get("errors")) if isinstance(body, dict) else []
        outcomes: dict[str, DeliveryError | None] = {str(index): None for index in range(count)}
        named = 0
        for error in errors:
            reason = f"207 {code(error.get('category'))}"
            self._check_settings(error, reason)
            context = error.get("context")
            traces = context.get("objectWriteTraceId") if isinstance(context, dict) else None
            found = [each for each in outcomes if isinstance(traces, list) and each in traces]
            if error.get("category") == "VALIDATION_ERROR":
                outcomes |= dict.fromkeys(found, _rejected(reason))
            else:
                conflict = DeliveryError(f"HubSpot did not write the contact ({reason})")
                outcomes |= dict.fromkeys(found, conflict)
            named += bool(found)
        if not errors or named < len(errors):
            raise RefusedError(DeliveryError("HubSpot did not write a contact, without a reason"))
        return list(outcomes.values())

    def _check_settings(self, error: Mapping[str, Any], reason: str) -> None:
        """Raise TargetGoneError if each contact would fail, because of the mapping."""
        faults = [(each.get("code"), each.get("context")) for each in objects(error.get("errors"))]
        message = error.get("message")
        if isinstance(message, str) and message.startswith(INVALID):
            try:
                listed = objects(json.loads(message.removeprefix(INVALID)))
            except (ValueError, RecursionError):
                listed = []
            faults += [(each.get("error"), each.get("name")) for each in listed]
        for fault, where in faults:
            if fault in SETTINGS:
                named = [each for each in self._mapping.fields if f'"{each}"' in json.dumps(where)]
                raise _gone(f"it refuses a property ({fault} {', '.join(named)}; {reason})")
        if isinstance(message, str) and message.startswith("Unable to perform update/upsert by"):
            raise _gone(f"{self._id_property} is no property with unique values ({reason})")


class _Pace:
    """Keeps the requests of this process under the burst limit of HubSpot."""

    def __init__(self) -> None:
        self._limit, self._window = int(BURST * SHARE), WINDOW
        self._sent: deque[float] = deque()
        self._not_before = 0.0

    async def wait(self) -> None:
        """Wait for the turn of one request, and count it."""
        now = anyio.current_time()
        while self._sent and self._sent[0] <= now - self._window:
            self._sent.popleft()
        at = max(now, self._not_before)
        if len(self._sent) >= self._limit:
            at = max(at, self._sent[-self._limit] + self._window)
        self._sent.append(at)
        await anyio.sleep(at - now)

    def learn(self, headers: Mapping[str, str]) -> None:
        """Take over the limit that a response names, and slow down where others use it too."""
        limit = _number(headers, "max")
        if limit:
            self._limit = max(1, int(limit * SHARE))
            self._window = _number(headers, "interval-milliseconds") / 1000 or WINDOW
            if _number(headers, "remaining", limit) < limit * (1 - SHARE):
                self._not_before = anyio.current_time() + self._window / 10


def _number(headers: Mapping[str, str], name: str, default: float = 0.0) -> float:
    text = headers.get(f"x-hubspot-ratelimit-{name}", "")
    return float(text) if text.isascii() and text.isdecimal() and len(text) < 10 else default


def _gone(problem: str) -> TargetGoneError:
    return TargetGoneError(f"HubSpot: {problem}, then start again")


def _rejected(reason: str) -> EventRejectedError:
    return EventRejectedError(
        f"HubSpot refused the contact ({reason}); correct the value, then retry the dead letter"
    )


def _text_of(value: Any) -> str:
    """Return a value as HubSpot has it."""
    value = join_options(value)
    return value if isinstance(value, str) else json.dumps(value)
