"""The checks of `cognigy-async doctor`, from the settings to the server.

All of them use the connections of the other commands: the same proxies and certificates.
"""

from __future__ import annotations

import os
import socket
import ssl
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime
from typing import Any, Literal, NamedTuple
from urllib.parse import urlsplit

import anyio
import httpx

from cognigy_async import (
    AsyncStateClient,
    AuthenticationError,
    CognigyError,
    DialogNotFoundError,
    DialogState,
    HttpxTransport,
    PermissionDeniedError,
    Request,
    Response,
    RetryPolicy,
    RuntimeApi,
    SessionsApi,
    StateApi,
    Transport,
    UpdateValidationError,
    probe_inject,
)
from cognigy_async._utils.arguments import is_loopback
from cognigy_async.integrations.settings import Settings, name_settings
from cognigy_async.spi import RATE_LIMIT_PREFIXES

from .._connection import CA_FILES, Connection
from .._options import choose_transport
from .apis import API_PATH, INTERFACE, NO_PATH, Answer, Served, find_out, json_object

TIMEOUT = 10.0
"""Seconds for each check."""
EXPIRES_SOON = 14 * 86_400.0
"""Warn if a certificate expires within this number of seconds."""
MAX_SKEW = 5.0
"""Seconds. The clock matters only for a `Retry-After` date in a response without `Date`."""
CREDENTIAL_HEADERS = ("authorization", "x-api-key")
NO_DIALOG = "cognigy-async-doctor"
"""Id of a dialog that does not exist."""
NO_PROFILE = "cognigyasyncdoctor000000"
"""Id of a contact profile that does not exist."""
OVERLOADED = (429, 503)
"""Statuses after which no further request is sent."""
APIS: tuple[Literal["runtime", "sessions"], ...] = ("runtime", "sessions")
ENDPOINT_SERVICE = (
    "not asked: the endpoint service has an address of its own, and its requests change something"
)
LIMIT_HEADERS = ("ratelimit", "retry-after", *RATE_LIMIT_PREFIXES)


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check, without secrets."""

    check: str
    status: Literal["ok", "warning", "failed", "skipped"]
    detail: str
    remedy: str | None = None
    """Instructions for the user; None if nothing has to be done."""


@dataclass
class RecordingTransport:
    """A transport that records the last response, and the skew of this machine's clock."""

    inner: Transport
    response: Response | None = None
    credentials: tuple[str, ...] = ()
    """Secrets in the headers of the last request."""
    skew: float | None = None
    """Seconds that this machine's clock is ahead of the server's; None if unknown."""

    async def send(self, request: Request, *, timeout: float) -> Response:
        """Send a request and record its response."""
        began = time.time()
        self.response = response = await self.inner.send(request, timeout=timeout)
        self.credentials = tuple(
            value.split()[-1]
            for name, value in request.headers.items()
            if name.lower() in CREDENTIAL_HEADERS and value.strip()
        )
        try:
            date = parsedate_to_datetime(response.headers["date"]).timestamp()
        except (KeyError, ValueError, TypeError):
            return response
        # The header is in whole seconds and was written at some time during the request.
        self.skew = max(0.0, began - date - 1) - max(0.0, date - time.time())
        return response

    async def aclose(self) -> None:
        """Close the inner transport."""
        await self.inner.aclose()


class Connections(NamedTuple):
    """The connections to the two servers."""

    api: Connection
    tokens: Connection

    def transport(self) -> Transport:
        """Return a new transport to the API, of the kind that the other commands use."""
        return self.api.transport(choose_transport(None, with_openssl=self.api.needs_openssl))

    def token_transport(self) -> Transport:
        """Return a new transport to the token endpoint."""
        return self.tokens.token_transport() or HttpxTransport()


class ProfileReads(SessionsApi):
    """The sessions API where the state of a session cannot be read: it reads a contact profile."""

    def read(self, base_url: str, dialog_id: str) -> Request:
        """Return a GET of a profile; its id is not that of a dialog."""
        url = f"{base_url}/new/v2.0/profiles/{NO_PROFILE}"
        return Request("GET", url, {"accept": "application/json"})

    def state(self, dialog_id: str, response: Response) -> DialogState | None:
        """Return an empty state if the response is a profile, else None."""
        if json_object(response) is None:
            return None
        return DialogState(dialog_id, session={}, user={}, next_step=None, etag=None, version=None)


async def run_checks(
    settings: Settings, ways: Connections, dialog_id: str, session_id: str | None = None
) -> AsyncIterator[Finding]:
    """Yield the findings one after the other; skip checks that depend on a failed one.

    The dialog is read. The session, unless it is None, is written to.
    """
    for finding in settings_findings(settings):
        yield finding
    reachable = True
    for url, connection in _servers(settings, ways):
        for finding in (await check_dns(url, connection), await check_tls(url, connection)):
            yield finding
            if finding.status == "failed":
                reachable = False
                break
    if not reachable:
        for check in ("token", "read", *APIS, "clock", "throttling"):
            yield Finding(check, "skipped", "the server cannot be reached")
        return
    token = await check_token(settings, ways)
    yield token
    transport = RecordingTransport(ways.transport())
    if token.check == "token" and token.status == "failed":
        yield Finding("read", "skipped", "credentials not verified: no token")
    else:
        found = await check_read(settings, ways, transport, dialog_id)
        # The probe is the remedy of a success, which does not verify writes.
        probes = found.status == "ok" and session_id is not None
        yield replace(found, remedy=None) if probes else found
    if session_id is not None and token.status == "ok":
        # The client of the read has closed its transport.
        transport = RecordingTransport(ways.transport())
        yield await check_inject(settings, ways, transport, session_id)
    for finding in await check_apis(settings, ways, dialog_id, transport.response):
        yield finding
    yield Finding("endpoint", "skipped", ENDPOINT_SERVICE)
    yield check_clock(transport)
    yield check_throttling(transport)


def settings_findings(settings: Settings) -> list[Finding]:
    """Describe the settings, and warn of a base URL that people copy from elsewhere."""
    detail = f"{settings.base_url}, API key"
    if settings.api_key is None:
        scopes = " ".join(settings.asked_scopes) or "chosen by the server"
        detail = f"{settings.base_url}, OAuth client credentials, scopes {scopes}"
    remedy = None
    if settings.api == "sessions" and settings.user_id is None:
        detail += ", no user id"
        remedy = "Name the user with each update, or set COGNIGY_USER_ID."
    findings = [Finding("settings", "ok", detail, remedy)]
    host = urlsplit(settings.base_url).hostname or ""
    if INTERFACE.fullmatch(host):
        detail, remedy = f"{host} is the host of the user interface", f"https://api-{host}"
    elif copied := API_PATH.search(settings.base_url):
        detail = f"COGNIGY_BASE_URL ends with {copied[0]}, which is not part of it"
        remedy = settings.base_url[: copied.start()]
    else:
        return findings
    return [*findings, Finding("settings", "warning", detail, f"Set COGNIGY_BASE_URL={remedy}.")]


def _servers(settings: Settings, ways: Connections) -> Iterator[tuple[str, Connection]]:
    """Yield the URL of each server in use with the connection to it, without duplicates."""
    urls = [(settings.base_url, ways.api)]
    if settings.token_endpoint is not None:
        urls.append((settings.token_endpoint, ways.tokens))
    seen = set()
    for url, connection in urls:
        parts = urlsplit(url)
        server = (parts.scheme, *_address(url), connection.proxy)
        if server not in seen:
            seen.add(server)
            yield url, connection


def _address(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    return parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)


async def check_dns(url: str, connection: Connection) -> Finding:
    """Resolve the name of a server, or that of the proxy before it."""
    proxy = connection.proxy
    host, port = _address(url) if proxy is None else proxy.address
    through = "" if proxy is None else f", the {proxy}"
    try:
        with anyio.fail_after(TIMEOUT):
            answers = await anyio.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except TimeoutError:
        remedy = "Check the DNS servers of this machine."
        return Finding("dns", "failed", f"{host}{through}: no answer within {TIMEOUT:g} s", remedy)
    except (OSError, UnicodeError):
        remedy = "Check the spelling of the host, and the DNS servers of this machine."
        return Finding("dns", "failed", f"{host}{through} has no address", remedy)
    addresses = sorted({answer[4][0] for answer in answers})
    return Finding("dns", "ok", f"{host}{through} resolves to {', '.join(addresses[:4])}")


async def check_tls(url: str, connection: Connection) -> Finding:
    """Connect to a server, with TLS unless its scheme is http."""
    host, port = _address(url)
    through = "" if connection.proxy is None else f" through the {connection.proxy}"
    server = f"{host}:{port}{through}"
    try:
        with anyio.fail_after(TIMEOUT):
            handshake = await _handshake(url, connection)
    except TimeoutError:
        problem = f"no answer within {TIMEOUT:g} s"
        remedy = "Check firewalls, and whether a proxy is needed (COGNIGY_PROXY or HTTPS_PROXY)."
    except httpx.HTTPError as error:
        problem, remedy = _problem(error)
    else:
        if not url.startswith("https:"):
            if is_loopback(host):
                return Finding("tls", "ok", f"{server} accepts connections; no TLS needed here")
            detail = f"{server} is used without TLS, which sends credentials unencrypted"
            return Finding("tls", "warning", detail, "Use https://.")
        if handshake is None:
            return Finding("tls", "ok", f"{server} accepts TLS connections")
        left = ssl.cert_time_to_seconds(handshake.certificate["notAfter"]) - time.time()
        detail = f"{host}{through}: {handshake.version}, "
        detail += f"certificate valid for {left / 86_400:.0f} days"
        if left >= EXPIRES_SOON:
            return Finding("tls", "ok", detail)
        return Finding("tls", "warning", detail, "Ask the operator of the server to renew it.")
    return Finding("tls", "failed", f"{server}: {problem}", remedy)


class _Handshake(NamedTuple):
    """The version of TLS, and the certificate as the module `ssl` describes it."""

    version: str | None
    certificate: Any


async def _handshake(url: str, connection: Connection) -> _Handshake | None:
    """Connect as a request does, and send nothing to the server; return its TLS handshake.

    Raises:
        httpx.HTTPError: there is no connection.
    """
    event = "connection.connect_tcp.complete"
    if url.startswith("https:"):
        # A proxy with https:// has a handshake of its own, which is that of the connection.
        step = "connection" if connection.proxy is None else "proxy"
        event = f"{step}.start_tls.complete"
    found: list[_Handshake | None] = []

    async def stop(name: str, info: Mapping[str, Any]) -> None:
        if name == event and not found:
            tls = info["return_value"].get_extra_info("ssl_object")
            found.append(tls and _Handshake(tls.version(), tls.getpeercert()))
            # The request ends here: it finds a connection that is closed.
            await info["return_value"].aclose()

    async with connection.httpx_client() as client:
        extensions = {"trace": stop}
        request = client.build_request("HEAD", url, timeout=TIMEOUT, extensions=extensions)
        try:
            await client.send(request)
        except httpx.HTTPError:
            if not found:
                raise
    return found[0] if found else None


def _problem(error: httpx.HTTPError) -> tuple[str, str]:
    """Return the problem of a connection and its remedy."""
    if isinstance(error, httpx.ProxyError):
        remedy = "Check the URL of the proxy, and whether it needs user and password."
        return f"the proxy answers {str(error)[:80]}", remedy
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, OSError):
        cause = cause.__cause__ or cause.__context__
    if isinstance(cause, ssl.SSLCertVerificationError):
        files = " or ".join(CA_FILES)
        return (
            cause.verify_message,
            f"Check the host name, and that its issuer is trusted here ({files}).",
        )
    if isinstance(cause, ssl.SSLError):
        remedy = "Check that the port speaks TLS, and whether a proxy is in between."
        return cause.reason or "TLS failed", remedy
    if isinstance(cause, OSError) and isinstance(cause.__cause__, OSError):
        cause = cause.__cause__
    remedy = "Check host and port, and that the server is up."
    if isinstance(cause, OSError) and cause.errno:
        return os.strerror(cause.errno), remedy
    return str(cause or error) or type(error).__name__, remedy


async def check_token(settings: Settings, ways: Connections) -> Finding:
    """Request a token, and compare its scopes with the requested ones."""
    if settings.api_key is not None:
        return Finding("token", "ok", "not needed; the read shows whether the API key works")
    transport = RecordingTransport(ways.token_transport())
    provider = settings.token_provider(transport=transport)
    try:
        await provider.get_token()
    except CognigyError as error:
        return _failed("token", error)
    finally:
        with anyio.CancelScope(shield=True):
            await provider.aclose()
            await transport.aclose()
    answer = {} if transport.response is None else json_object(transport.response)
    granted = (answer or {}).get("scope")
    if not isinstance(granted, str):
        # RFC 6749, section 5.1: the server may omit the scope if it granted the requested one.
        return Finding("token", "ok", "received, with the requested scopes")
    missing = [scope for scope in settings.asked_scopes if scope not in granted.split()]
    if missing:
        remedy = "Grant them to the client id, or remove them from COGNIGY_SCOPES."
        return Finding("scopes", "failed", f"not granted: {' '.join(missing)}", remedy)
    return Finding("token", "ok", f"received, with scopes {granted}")


async def check_read(
    settings: Settings, ways: Connections, transport: RecordingTransport, dialog_id: str
) -> Finding:
    """Read the state of a dialog, or a contact profile where the API cannot read states.

    The answer shows whether the server accepts the credentials.
    """
    reads_state = settings.api == "runtime" or bool(settings.reads_state)
    api = settings.state_api() if reads_state else ProfileReads(reads_state=True)
    accepted = "the server did not refuse the credentials; this API cannot read a session's state"
    remedy = "To check writes too, use --probe-session ID with a spare session."
    try:
        async with _client(settings, ways, transport, api) as client:
            state = await client.get_state(dialog_id)
    except DialogNotFoundError:
        if transport.response is None or json_object(transport.response) is None:
            detail = "credentials not verified: HTTP 404 with a body that is not of this API"
            remedy = "Check COGNIGY_BASE_URL and COGNIGY_API, or name a dialog with --dialog."
            return Finding("read", "failed", detail, remedy)
        if not reads_state:
            return Finding("read", "ok", accepted, remedy)
        remedy = "Name an existing one with --dialog, to be sure that this is the API."
        return Finding("read", "warning", f"dialog {dialog_id} does not exist", remedy)
    except (AuthenticationError, PermissionDeniedError, UpdateValidationError) as error:
        return _failed("read", error)
    except CognigyError as error:
        return _failed("read", error, "credentials not verified: ")
    if not reads_state:
        return Finding("read", "ok", accepted, remedy)
    if state.etag is None and settings.api == "runtime":
        detail = f"dialog {dialog_id} was read, but the response has no ETag"
        remedy = "modify() and if_match need it and do not work with this server."
        return Finding("read", "warning", detail, remedy)
    return Finding("read", "ok", f"dialog {dialog_id} was read")


async def check_inject(
    settings: Settings, ways: Connections, transport: RecordingTransport, session_id: str
) -> Finding:
    """Write to a session to find out whether the server's inject merges or replaces."""
    try:
        async with _client(settings, ways, transport, settings.state_api()) as client:
            found = await probe_inject(client, session_id)
    except CognigyError as error:
        return _failed("inject", error)
    if found is None:
        return Finding("inject", "warning", "the responses do not contain the context")
    wanted = "replace" if found == "replace" else "merge"
    detail = f"behaviour of the server's inject: {found}"
    if wanted == (settings.inject or "merge"):
        return Finding("inject", "ok", detail)
    return Finding("inject", "failed", detail, f"Set COGNIGY_INJECT={wanted}.")


async def check_apis(
    settings: Settings, ways: Connections, dialog_id: str, last: Response | None
) -> list[Finding]:
    """Find out by three reads which APIs the base URL serves.

    Args:
        dialog_id: Dialog to read from the runtime API.
        last: Response to the last request; None if there was none.
    """
    if last is None:
        return [Finding(api, "skipped", "no response to the read") for api in APIS]
    base_url = settings.base_url.rstrip("/")
    requests = (
        Request("GET", f"{base_url}{NO_PATH}", {"accept": "application/json"}),
        RuntimeApi().read(base_url, dialog_id),
        ProfileReads(reads_state=True).read(base_url, dialog_id),
    )
    transport, token_transport = ways.transport(), ways.token_transport()
    provider = settings.token_provider(transport=token_transport)
    answers: list[Answer] = []
    try:
        token = await provider.get_token()
        for request in requests:
            if last.status not in OVERLOADED:
                request.headers[token.header] = token.value
                last = await transport.send(request, timeout=TIMEOUT)
                answers.append(Answer(request, last))
    except CognigyError as error:
        return [replace(_failed(api, error), status="skipped") for api in APIS]
    finally:
        with anyio.CancelScope(shield=True):
            await provider.aclose()
            await token_transport.aclose()
            await transport.aclose()
    if last.status in OVERLOADED:
        detail = f"unknown: the server answered HTTP {last.status}, so it was not asked further"
        return [Finding(api, "skipped", detail) for api in APIS]
    nothing, *others = answers
    return _findings_of_apis(settings.api, [find_out(answer, nothing) for answer in others])


def _findings_of_apis(chosen: str, served: Sequence[Served]) -> list[Finding]:
    """Return a finding for each API; warn if the chosen one is not there."""
    findings = []
    for api, (is_served, detail) in zip(APIS, served, strict=True):
        if is_served is None:
            findings.append(Finding(api, "skipped", detail))
        elif is_served or api != chosen:
            findings.append(Finding(api, "ok", detail))
        else:
            remedy = "Check COGNIGY_BASE_URL."
            if api == "runtime":
                remedy = "Check COGNIGY_BASE_URL, or name an existing dialog with --dialog."
            others = [other for other, found in zip(APIS, served, strict=True) if found.is_served]
            if others:
                remedy = f"Set COGNIGY_API={others[0]}, if the credentials are for this API."
            findings.append(Finding(api, "warning", detail, remedy))
    return findings


def check_clock(transport: RecordingTransport) -> Finding:
    """Compare this machine's clock with the server's clock in the last response."""
    skew = transport.skew
    if skew is None:
        return Finding("clock", "skipped", "no response with a Date header")
    if abs(skew) <= MAX_SKEW:
        return Finding("clock", "ok", "the clocks of this machine and of the server agree")
    direction = "ahead of" if skew > 0 else "behind"
    detail = f"this machine's clock is {abs(skew):.0f} s {direction} the server's"
    remedy = "Synchronise it (NTP); timestamps in audit records and logs are wrong."
    return Finding("clock", "warning", detail, remedy)


def check_throttling(transport: RecordingTransport) -> Finding:
    """Show the rate-limit headers of the last response, but none that quotes a secret."""
    if transport.response is None:
        return Finding("throttling", "skipped", "no response")
    limits = [
        f"{name}: {value[:80]}"
        for name, value in sorted(transport.response.headers.items())
        if name.startswith(LIMIT_HEADERS)
        and value.isprintable()
        and not any(secret in value for secret in transport.credentials)
    ]
    if limits:
        return Finding("throttling", "ok", "; ".join(limits))
    detail = "no rate-limit headers, and the vendor documents none"
    return Finding("throttling", "ok", detail)


def _client(
    settings: Settings, ways: Connections, transport: RecordingTransport, api: StateApi
) -> AsyncStateClient:
    arguments = settings.client_arguments(token_transport=ways.tokens.token_transport())
    arguments["api"] = api
    return AsyncStateClient(
        **arguments,
        transport=transport,
        max_in_flight=1,
        retry=RetryPolicy(max_attempts=1, max_elapsed=0.0, max_retry_after=0.0),
        timeout=TIMEOUT,
    )


def _failed(check: str, error: CognigyError, prefix: str = "") -> Finding:
    """Return the finding for an error, with its remedy separated from its detail."""
    if isinstance(error, UpdateValidationError):
        fault = error.faults[0]
        detail = f"{fault.path}: {fault.problem}"
        return Finding(check, "failed", detail, name_settings(fault.remedy))
    remedy: str | None = getattr(error, "remedy", None)
    detail = str(error).removesuffix(remedy or "").strip()
    if isinstance(error, AuthenticationError) and (error.detail or "").startswith("invalid_client"):
        remedy = "Check COGNIGY_CLIENT_ID and COGNIGY_CLIENT_SECRET: the server rejects them."
    remedy = None if remedy is None else name_settings(remedy)
    return Finding(check, "failed", prefix + detail, remedy)
