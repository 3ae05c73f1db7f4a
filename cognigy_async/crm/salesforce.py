"""Write events to records of Salesforce."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import anyio
from pydantic import SecretStr

from cognigy_async import (
    AuthenticationError,
    ConfigurationError,
    OAuthConfig,
    OAuthTokenProvider,
    Request,
    Response,
    Transport,
    UpdateEvent,
)
from cognigy_async._utils.arguments import validate_base_url, validate_timeout, validate_type

from .batch import Record, RefusedError, deliver_records
from .mapping import FieldMapping, FieldSource, join_options
from .sending import Sender, code, encode, json_of, objects, validate_name
from .target import DeliveryError, EventRejectedError, TargetGoneError, TargetUnavailableError

SESSION = 900.0
"""Seconds after which a token is renewed: the shortest session that Salesforce can be set to."""

SHARE = 0.95
"""Part of the organization's daily requests after which the rest is left to others."""
PAUSE = 900.0
"""Seconds until usage is looked at again. Salesforce counts the last 24 hours."""
CONCURRENT_PAUSE = 10.0

USAGE = re.compile(r"(?:^|[\s;,])api-usage=(\d{1,12})/(\d{1,12})")

TRANSIENT = frozenset(
    {
        "DUPLICATE_VALUE",
        "REQUEST_RUNNING_TOO_LONG",
        "SERVER_UNAVAILABLE",
        "UNABLE_TO_LOCK_ROW",
        "UNKNOWN_EXCEPTION",
    }
)
"""Errors of a record that may pass. Two requests that create one record end in DUPLICATE_VALUE."""

SETTINGS = frozenset({"INVALID_FIELD", "INVALID_TYPE", "NOT_FOUND", "API_DISABLED_FOR_ORG"})
"""Errors of a request that each request would have."""


READ_ONLY = "INVALID_FIELD_FOR_INSERT_UPDATE"
"""Error of a record that each record with this field would have."""


class SalesforceAuth:
    """The credentials of an external client app, for the OAuth 2.0 client credentials flow.

    The flow is in the page "OAuth 2.0 Client Credentials Flow for Server-to-Server Integration" of
    https://help.salesforce.com. The records are written as the user that the app names.

    Args:
        domain_url: the organization's My Domain, ``https://NAME.my.salesforce.com``. It issues the
            tokens and receives the records.
        client_id, client_secret: consumer key and consumer secret of the app.
        allow_insecure: allow http:// to another machine, on a network that you trust.

    Raises:
        ConfigurationError: an argument cannot work.
    """

    def __init__(
        self,
        domain_url: str,
        client_id: str,
        client_secret: str | SecretStr,
        *,
        allow_insecure: bool = False,
    ) -> None:
        self.domain_url = validate_base_url(
            domain_url, allow_insecure=allow_insecure, example="https://acme.my.salesforce.com"
        )
        self._config = OAuthConfig(
            token_url=f"{self.domain_url}/services/oauth2/token",
            client_id=client_id,
            client_secret=client_secret,
            client_auth="post",
            default_lifetime=SESSION,
            refresh_margin=60.0,
            allow_insecure=allow_insecure,
        )

    def __repr__(self) -> str:
        return f"<SalesforceAuth for {self.domain_url}>"

    def provider(self, transport: Transport, timeout: float) -> OAuthTokenProvider:
        """Return a source of tokens, which requests one token at a time."""
        return OAuthTokenProvider(self._config, transport=transport, timeout=timeout)


class Salesforce:
    """Creates and updates records of Salesforce by an external id, up to 200 in a request.

    Only applied updates are written. Events of one record in one batch are merged, later values
    win, because an external id may stand only once in a request.

    A record that Salesforce refuses becomes a dead letter; the others of its request are written.
    UNABLE_TO_LOCK_ROW and other errors that may pass are repeated. If a value has a type that the
    field cannot have, Salesforce refuses the request (400), which is sent again in halves. An
    expired token is renewed once. An unknown field or object, 401 with a new token, and missing
    permissions stop the target. REQUEST_LIMIT_EXCEEDED, 429, 5xx and failed connections pause it,
    as does a usage of 95% of the organization's daily requests (`Sforce-Limit-Info`).

    The rules are in the pages "Upsert Records Using sObject Collections", "Status Codes and Error
    Responses" and "Limit Info Header" of the REST API Developer Guide,
    https://developer.salesforce.com/docs

    Args:
        auth: organization and credentials.
        mapping: which variables go to which field; see `FieldMapping`.
        external_id: field that identifies a record, an external id with unique values, mapped as
            well.
        sobject: API name of the object.
        api_version: version of the API, at least v46.0.
        timeout: seconds for one request.
        transport: how requests are sent, by default an `HttpxTransport`. You close it yourself.

    Raises:
        ConfigurationError: an argument cannot work.
    """

    name = "salesforce"
    batch_size = 200
    linger = 1.0
    concurrency = 2

    def __init__(
        self,
        auth: SalesforceAuth,
        mapping: Mapping[str, FieldSource],
        *,
        external_id: str,
        sobject: str = "Contact",
        api_version: str = "v66.0",
        timeout: float = 60.0,
        transport: Transport | None = None,
    ) -> None:
        if not re.fullmatch(r"v\d{2,3}\.0", api_version, re.ASCII):
            raise ConfigurationError('Salesforce: api_version must be like "v66.0"')
        self._auth = validate_type("auth", auth, SalesforceAuth)
        self._external_id = validate_name("external_id", external_id)
        self._sobject = validate_name("sobject", sobject)
        path = f"services/data/{api_version}/composite/sobjects/{sobject}/{external_id}"
        self._url = f"{auth.domain_url}/{path}"
        self._mapping = FieldMapping("Salesforce", mapping, external_id)
        self._timeout = validate_timeout(timeout)
        self._sender = Sender("Salesforce", transport, timeout)
        self._tokens: OAuthTokenProvider | None = None
        self._paused_until = 0.0

    def __repr__(self) -> str:
        return f"<Salesforce {self._sobject} by {self._external_id} at {self._auth.domain_url}>"

    async def open(self) -> None:
        """Open the transport in the event loop that delivers."""
        self._tokens = self._auth.provider(await self._sender.open(), self._timeout)
        self._paused_until = 0.0

    async def aclose(self) -> None:
        """Close the connections."""
        tokens, self._tokens = self._tokens, None
        try:
            if tokens is not None:
                await tokens.aclose()
        finally:
            await self._sender.aclose()

    async def deliver(self, events: Sequence[UpdateEvent]) -> Sequence[DeliveryError | None]:
        """Write events to their records, and return the outcome of each."""
        return await deliver_records(events, self._mapping, str, self._upsert)

    async def _upsert(self, records: Sequence[Record]) -> Sequence[DeliveryError | None]:
        pause = self._paused_until - anyio.current_time()
        if pause > 0:
            raise TargetUnavailableError("Salesforce: its daily requests are nearly used up", pause)
        body = {
            "allOrNone": False,
            "records": [
                {
                    **{name: join_options(value) for name, value in record.fields.items()},
                    "attributes": {"type": self._sobject},
                    self._external_id: record.key,
                }
                for record in records
            ],
        }
        response = await self._send(encode(body), records[0].items[0].event.update_id)
        used = USAGE.search(response.headers.get("sforce-limit-info", ""))
        if used is not None and int(used[1]) >= SHARE * int(used[2]):
            self._paused_until = anyio.current_time() + PAUSE
        results = objects(json_of(response))
        if len(results) != len(records):
            raise DeliveryError("Salesforce responded without a result for each record")
        return [None if each.get("success") is True else self._error(each) for each in results]

    async def _send(self, content: bytes, name: str) -> Response:
        """Send a request, once more if the token has expired, and return a response of 2xx."""
        tokens, renewed = self._tokens, False
        if tokens is None:
            raise DeliveryError("the target for Salesforce is not open")
        while True:
            try:
                token = await tokens.get_token()
            except AuthenticationError as error:
                if error.transient:
                    problem = "Salesforce issues no token at present"
                    raise TargetUnavailableError(problem, error.retry_after) from error
                raise _gone("issues no token; check the app and its credentials") from error
            headers = {token.header: token.value, "Content-Type": "application/json"}
            response = await self._sender.send(Request("PATCH", self._url, headers, content), name)
            if response.status == 401 and not renewed:
                tokens.invalidate(token)
                renewed = True
                continue
            failure = self._failure(response) or self._sender.failure(response, name)
            if failure is None:
                return response
            raise failure

    def _failure(self, response: Response) -> Exception | None:
        """Return the failure that a status stands for at Salesforce, if it has its own meaning."""
        status = response.status
        if status not in (400, 401, 403, 404, 413):
            return None
        errors = objects(json_of(response))
        fault = code(errors[0].get("errorCode")) if errors else "?"
        reason = f"{status} {fault}"
        if fault == "REQUEST_LIMIT_EXCEEDED":
            concurrent = str(errors[0].get("message")).startswith("Concurrent")
            pause = CONCURRENT_PAUSE if concurrent else PAUSE
            return TargetUnavailableError(f"Salesforce throttles: {reason}", pause)
        if status == 401:
            return _gone(f"does not accept a new token ({reason}); check the app and its user")
        if status == 403:
            return _gone(f"denies access ({reason}); check the permissions of the app's user")
        if status == 404 or fault in SETTINGS:
            return _gone(f"does not know an object or a field ({reason}); check the mapping")
        return RefusedError(_rejected(reason))

    def _error(self, result: Mapping[str, Any]) -> DeliveryError:
        errors = objects(result.get("errors"))
        codes = [code(each.get("statusCode")) for each in errors]
        names = {name for each in errors for name in self._mapping.fields if _names(each, name)}
        reason = ", ".join([*dict.fromkeys(codes), *sorted(names)]) or "no reason"
        if READ_ONLY in codes:
            return _gone(f"refuses to write a field ({reason}); check permissions and mapping")
        if not codes or TRANSIENT.intersection(codes):
            return DeliveryError(f"Salesforce did not write the record ({reason})")
        return _rejected(reason)


def _names(error: Mapping[str, Any], field: str) -> bool:
    fields = error.get("fields")
    return isinstance(fields, list) and field in fields


def _gone(problem: str) -> TargetGoneError:
    return TargetGoneError(f"Salesforce {problem}, then start again")


def _rejected(reason: str) -> EventRejectedError:
    return EventRejectedError(
        f"Salesforce refused the record ({reason}); correct the value, then retry the dead letter"
    )
