"""What `cognigy-async doctor` looks at, from the settings outwards; each check tells what to do."""

from __future__ import annotations

import json
import os
import socket
import ssl
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any, Literal
from urllib.parse import urlsplit

import anyio
from anyio.streams.tls import TLSAttribute

from cognigy_async import (
    AsyncStateClient,
    AuthenticationError,
    CognigyError,
    DialogNotFoundError,
    HttpxTransport,
    Request,
    Response,
    RetryPolicy,
    Transport,
    UpdateValidationError,
    probe_inject,
)
from cognigy_async.checks import is_loopback
from cognigy_async.integrations.settings import Settings

from .wording import as_settings

Status = Literal["ok", "warning", "failed", "skipped"]

PATIENCE = 10.0
"""Seconds for each step."""
NEAR_EXPIRY = 14 * 86_400.0
"""Seconds before its end at which a certificate is worth a warning."""
TOLERATED_SKEW = 5.0
"""Seconds. Only a `Retry-After` as a date without a `Date` beside it depends on the clock."""

CREDENTIALS = ("authorization", "x-api-key")
"""Names of the headers that hold them."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found.

    Attributes:
        check: its name.
        status: ``"warning"`` does not make the whole fail.
        detail: what was found; never a secret.
        remedy: what to do, where there is something to do.
    """

    check: str
    status: Status
    detail: str
    remedy: str | None = None


@dataclass
class _Listener:
    """A transport that keeps the last answer and how far the server's clock is off."""

    inner: Transport = field(default_factory=HttpxTransport)
    response: Response | None = None
    credentials: tuple[str, ...] = ()
    """What the last request proved who we are with."""
    skew: float | None = None

    async def send(self, request: Request, *, timeout: float) -> Response:
        began = time.time()
        response = await self.inner.send(request, timeout=timeout)
        self.response = response
        self.credentials = tuple(
            value.split()[-1]
            for name, value in request.headers.items()
            if name.lower() in CREDENTIALS and value.strip()
        )
        try:
            told = parsedate_to_datetime(response.headers["date"]).timestamp()
        except (KeyError, ValueError, TypeError):
            return response
        # The header has whole seconds, and was written at some moment of the request.
        ended = time.time()
        self.skew = max(0.0, began - told - 1) - max(0.0, told - ended)
        return response

    async def aclose(self) -> None:
        await self.inner.aclose()


async def examine(
    settings: Settings, dialog_id: str, session_id: str | None = None
) -> AsyncIterator[Finding]:
    """Look at one thing after the other; what depends on a failure is skipped.

    Args:
        settings: valid ones.
        dialog_id: the dialog that is read.
        session_id: the session that is written to, to see what inject does; None writes nothing.
    """
    places = _places(settings)
    yield Finding("settings", "ok", f"{settings.base_url}, {_credentials(settings)}")
    reachable = True
    for place in places:
        for finding in (await _dns(*place), await _tls(*place)):
            reachable = reachable and finding.status != "failed"
            yield finding
            if finding.status == "failed":
                break
    if not reachable:
        for check in ("token", "read", "clock", "throttling"):
            yield Finding(check, "skipped", "the server cannot be reached")
        return
    listener = _Listener()
    try:
        token = await _token(settings)
        yield token
        if token.check == "token" and token.status == "failed":
            yield Finding("read", "skipped", "there is no token")
        elif settings.api == "sessions" and not settings.reads_state:
            remedy = "Use --probe-session ID with a session to spare, which it writes to."
            detail = "this API reads no state, so that nothing shows whether the server accepts us"
            yield Finding("read", "skipped", detail, None if session_id else remedy)
        else:
            yield await _read(settings, listener, dialog_id)
        if session_id is not None and token.status == "ok":
            # The client before has closed its transport.
            listener = _Listener()
            yield await _inject(settings, listener, session_id)
    finally:
        with anyio.CancelScope(shield=True):
            await listener.aclose()
    yield _clock(listener)
    yield _throttling(listener)


def _credentials(settings: Settings) -> str:
    if settings.api_key is not None:
        return "an API key"
    return f"OAuth client credentials for {' '.join(settings.asked_scopes) or 'no named scope'}"


def _places(settings: Settings) -> list[tuple[str, str, int]]:
    """Scheme, host and port of the servers that are asked, each once."""
    urls = [settings.base_url]
    if settings.api_key is None and settings.token_url is not None:
        urls.append(settings.token_url)
    found: dict[tuple[str, str, int], None] = {}
    for url in urls:
        parts = urlsplit(url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        found[parts.scheme, parts.hostname or "", port] = None
    return list(found)


async def _dns(scheme: str, host: str, port: int) -> Finding:
    try:
        with anyio.fail_after(PATIENCE):
            answers = await anyio.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except TimeoutError:
        remedy = "Check the name servers of this machine."
        return Finding("dns", "failed", f"{host}: no answer in {PATIENCE:g} s", remedy)
    except (OSError, UnicodeError):
        remedy = "Check the spelling of the host, and that this machine has name servers."
        return Finding("dns", "failed", f"{host} has no address", remedy)
    addresses = sorted({answer[4][0] for answer in answers})
    return Finding("dns", "ok", f"{host} is {', '.join(addresses[:4])}")


async def _tls(scheme: str, host: str, port: int) -> Finding:
    try:
        with anyio.fail_after(PATIENCE):
            if scheme == "http":
                await (await anyio.connect_tcp(host, port)).aclose()
                return _without_tls(host, port)
            context = ssl.create_default_context()
            stream = await anyio.connect_tcp(
                host, port, ssl_context=context, tls_standard_compatible=False
            )
            version = stream.extra(TLSAttribute.tls_version)
            certificate = stream.extra(TLSAttribute.peer_certificate)
            await anyio.aclose_forcefully(stream)
    except TimeoutError:
        remedy = "Check firewall and proxy: this connection is made without a proxy."
        return Finding("tls", "failed", f"{host}:{port} does not answer", remedy)
    except ssl.SSLCertVerificationError as error:
        remedy = "Check the host's name, and that its issuer is trusted here (SSL_CERT_FILE)."
        return Finding("tls", "failed", f"{host}:{port}: {error.verify_message}", remedy)
    except ssl.SSLError as error:
        remedy = "Check that the port speaks TLS, and which proxy stands between."
        return Finding("tls", "failed", f"{host}:{port}: {error.reason or 'TLS failed'}", remedy)
    except OSError as error:
        cause = error.__cause__ if isinstance(error.__cause__, OSError) else error
        told = os.strerror(cause.errno) if cause.errno else str(cause)
        remedy = "Check host and port, and that the server is up."
        return Finding("tls", "failed", f"{host}:{port}: {told}", remedy)
    return _certificate(host, version, certificate)


def _without_tls(host: str, port: int) -> Finding:
    if is_loopback(host):
        return Finding("tls", "ok", f"{host}:{port} accepts connections; no TLS on this machine")
    return Finding(
        "tls",
        "warning",
        f"{host}:{port} accepts connections, and credentials go there in clear text",
        "Use https.",
    )


def _certificate(host: str, version: str, certificate: Any) -> Finding:
    left = ssl.cert_time_to_seconds(certificate["notAfter"]) - time.time()
    detail = f"{host}: {version}, the certificate is valid for {left / 86_400:.0f} days"
    if left < NEAR_EXPIRY:
        return Finding("tls", "warning", detail, "Have it renewed by whoever runs the server.")
    return Finding("tls", "ok", detail)


async def _token(settings: Settings) -> Finding:
    if settings.api_key is not None:
        return Finding("token", "ok", "none is needed; the read shows whether the API key works")
    listener = _Listener()
    provider = settings.token_provider(transport=listener)
    try:
        await provider.get_token()
    except CognigyError as error:
        return Finding("token", "failed", *_of_error(error))
    finally:
        with anyio.CancelScope(shield=True):
            await provider.aclose()
            await listener.aclose()
    return _scopes(settings, listener.response)


def _scopes(settings: Settings, response: Response | None) -> Finding:
    try:
        answer = json.loads(response.content) if response is not None else {}
    except ValueError:
        answer = {}
    told = answer.get("scope") if isinstance(answer, dict) else None
    if not isinstance(told, str):
        # RFC 6749, 5.1: it may be left out where it is what was asked for.
        return Finding("token", "ok", "there is one; the server grants what was asked for")
    missing = [scope for scope in settings.asked_scopes if scope not in told.split()]
    if missing:
        remedy = "Grant them to the client id, or take them out of COGNIGY_SCOPES."
        return Finding("scopes", "failed", f"not granted: {' '.join(missing)}", remedy)
    return Finding("token", "ok", f"there is one, for {told}")


async def _read(settings: Settings, listener: _Listener, dialog_id: str) -> Finding:
    try:
        async with _client(settings, listener) as client:
            state = await client.get_state(dialog_id)
    except DialogNotFoundError:
        remedy = "Give one that there is with --dialog, to be sure that this is the API."
        return Finding("read", "warning", f"there is no dialog {dialog_id}", remedy)
    except CognigyError as error:
        return Finding("read", "failed", *_of_error(error))
    detail = f"dialog {dialog_id} could be read"
    if state.etag is None and settings.api == "runtime":
        remedy = "modify() and if_match need versions, and do not work with this server."
        return Finding("read", "warning", f"{detail}, and the answer has no ETag", remedy)
    return Finding("read", "ok", detail)


def _client(settings: Settings, listener: _Listener) -> AsyncStateClient:
    patient = RetryPolicy(max_attempts=1, max_retry_after=0.0)
    return AsyncStateClient(
        **settings.client_arguments(),
        transport=listener,
        max_in_flight=1,
        retry=patient,
        timeout=PATIENCE,
    )


async def _inject(settings: Settings, listener: _Listener, session_id: str) -> Finding:
    try:
        async with _client(settings, listener) as client:
            found = await probe_inject(client, session_id)
    except CognigyError as error:
        return Finding("inject", "failed", *_of_error(error))
    if found is None:
        return Finding("inject", "warning", "the answers do not tell the context")
    wanted = "replace" if found == "replace" else "merge"
    detail = f"the server's inject does {found}"
    if wanted == (settings.inject or "merge"):
        return Finding("inject", "ok", detail)
    return Finding("inject", "failed", detail, f"Set COGNIGY_INJECT={wanted}.")


def _of_error(error: CognigyError) -> tuple[str, str | None]:
    """What happened and what to do, one apart from the other."""
    if isinstance(error, UpdateValidationError) and error.faults:
        fault = error.faults[0]
        return f"{fault.path}: {fault.problem}", as_settings(fault.remedy)
    remedy = getattr(error, "remedy", None)
    detail = str(error)
    if remedy:
        detail = detail.removesuffix(remedy).strip()
    if isinstance(error, AuthenticationError) and (error.detail or "").startswith("invalid_client"):
        remedy = "Check COGNIGY_CLIENT_ID and COGNIGY_CLIENT_SECRET: the server knows no such pair."
    elif isinstance(error, AuthenticationError) and not error.transient and _is_elsewhere(error):
        remedy = "Check COGNIGY_BASE_URL and COGNIGY_TOKEN_URL: a token endpoint answers otherwise."
    return detail, None if remedy is None else as_settings(remedy)


def _is_elsewhere(error: AuthenticationError) -> bool:
    """Whether something answers that gives no tokens: a page, a redirect, another API."""
    return error.status is not None and error.status not in (400, 401, 403)


def _clock(listener: _Listener) -> Finding:
    if listener.skew is None:
        return Finding("clock", "skipped", "the server does not tell its time")
    if abs(listener.skew) <= TOLERATED_SKEW:
        return Finding("clock", "ok", "this clock and the server's agree")
    way = "ahead of" if listener.skew > 0 else "behind"
    return Finding(
        "clock",
        "warning",
        f"this clock is {abs(listener.skew):.0f} s {way} the server's",
        "Synchronise it (NTP); times in audit records and logs are wrong.",
    )


def _throttling(listener: _Listener) -> Finding:
    if listener.response is None:
        return Finding("throttling", "skipped", "nothing was read")
    told = "; ".join(
        f"{name}: {value[:80]}"
        for name, value in _limits(listener.response.headers)
        if not any(secret in value for secret in listener.credentials)
    )
    if told:
        return Finding("throttling", "ok", told)
    return Finding("throttling", "ok", "the server tells no limit; it is found out by 429s")


def _limits(headers: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    for name, value in sorted(headers.items()):
        if name.startswith(("ratelimit", "x-ratelimit", "retry-after")) and value.isprintable():
            yield name, value
