"""Access tokens and the endpoint that issues them: ``POST /oauth/token``."""

from __future__ import annotations

import hashlib
from base64 import b64decode
from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from urllib.parse import parse_qsl, unquote_plus

import anyio

from cognigy_async._utils.purging import ExpiringDict

from .faults import FaultInjector
from .recorder import Recorder
from .responses import HttpResponse, json_response
from .rules import Rules
from .server.asgi import HttpRequest
from .throttle import Header

FORM = b"application/x-www-form-urlencoded"
MAX_FORM_BYTES = 64 * 1024
NO_STORE: Header = (b"cache-control", b"no-store")


class TokenRequestError(Exception):
    """A token request was refused, as in RFC 6749 section 5.2."""

    def __init__(self, status: int, error: str, description: str, *headers: Header) -> None:
        self.response = json_response(
            status, {"error": error, "error_description": description}, NO_STORE, *headers
        )


@dataclass(frozen=True, slots=True)
class Token:
    """The rights of an issued token; `expires` is by the clock of the event loop."""

    scopes: tuple[str, ...]
    expires: float


class Tokens:
    """Credentials of clients, and the tokens issued to them. Only hashes of them are kept.

    Args:
        client: OAuth client id and client secret.
        api_key: API key to accept; None for none.
        rules: Scopes and lifetime of tokens.
        seed: Seed of the tokens' texts.
    """

    def __init__(
        self, client: tuple[str, str], api_key: str | None, rules: Rules, seed: int
    ) -> None:
        self._client = (_hash(client[0].encode()), _hash(client[1].encode()))
        self._api_key = None if api_key is None else _hash(api_key.encode())
        self._scopes = tuple(rules.scopes)
        self._seed = seed
        self.lifetime = rules.token_lifetime
        self.reset()

    def reset(self) -> None:
        """Forget all tokens and restore the random seed."""
        self._random = Random(f"tokens of {self._seed}")
        self._issued = ExpiringDict[bytes, Token](_is_expired)

    def revoke_all(self) -> None:
        """Revoke all tokens."""
        self._issued.clear()

    def revoke(self, headers: Mapping[bytes, bytes]) -> None:
        """Revoke the token in these request headers."""
        self._issued.pop(_hash(_bearer_token(headers)), None)

    def scopes_of(self, headers: Mapping[bytes, bytes], now: float) -> tuple[str, ...] | None:
        """Return the scopes of the request's credentials, or None if those are invalid."""
        if b"authorization" in headers:
            token = self._issued.get(_hash(_bearer_token(headers)))
            if token is not None and now < token.expires:
                return token.scopes
        key = headers.get(b"x-api-key")
        if key is not None and _hash(key) == self._api_key:
            return self._scopes
        return None

    def issue(
        self, headers: Mapping[bytes, bytes], content: bytes, now: float
    ) -> tuple[str, Token]:
        """Return a token and its rights, for a client that authenticates by Basic or form fields.

        Raises:
            TokenRequestError: The request is refused.
        """
        form = _parse_form(headers, content)
        self._authenticate(headers, form)
        grant = form.get("grant_type")
        if grant is None:
            raise TokenRequestError(400, "invalid_request", "grant_type is missing")
        if grant != "client_credentials":
            raise TokenRequestError(
                400, "unsupported_grant_type", "only client_credentials is supported"
            )
        requested = form.get("scope", "").split()
        granted = tuple(scope for scope in self._scopes if not requested or scope in requested)
        if not granted:
            raise TokenRequestError(400, "invalid_scope", "none of the scopes can be granted")
        text = f"{self._random.getrandbits(256):064x}"
        token = Token(granted, now + self.lifetime)
        self._issued.put(_hash(text.encode()), token, now)
        return text, token

    def _authenticate(self, headers: Mapping[bytes, bytes], form: Mapping[str, str]) -> None:
        scheme, _, credentials = headers.get(b"authorization", b"").partition(b" ")
        if scheme.lower() == b"basic":
            if "client_secret" in form:
                raise TokenRequestError(
                    400, "invalid_request", "use either HTTP Basic or form fields"
                )
            try:
                pair = b64decode(credentials.strip(), validate=True).decode()
            except ValueError:
                raise _invalid_client("HTTP Basic does not parse") from None
            # RFC 6749 section 2.3.1: both are form-urlencoded before they are joined.
            client_id, _, secret = pair.partition(":")
            client_id, secret = unquote_plus(client_id), unquote_plus(secret)
        else:
            client_id, secret = form.get("client_id", ""), form.get("client_secret", "")
        if (_hash(client_id.encode()), _hash(secret.encode())) != self._client:
            raise _invalid_client("client id or client secret is wrong")


class TokenEndpoint:
    """The token endpoint, with the latency and the failures of `Faults`."""

    def __init__(self, tokens: Tokens, faults: FaultInjector, recorder: Recorder) -> None:
        self._tokens = tokens
        self._faults = faults
        self._recorder = recorder

    async def handle(self, request: HttpRequest) -> None:
        """Answer one request."""
        content = await request.read(MAX_FORM_BYTES)
        arrival = self._recorder.begin_token_request(request.connection)
        try:
            fails = self._faults.next_token_request_fails()
            await request.delay(self._faults.faults.token_latency)
            response = self._fail() if fails else self._issue(request, content)
        finally:
            self._recorder.end(arrival)
        self._recorder.stats.token_answers[response.status] += 1
        await request.answer(response)

    def _fail(self) -> HttpResponse:
        self._recorder.stats.faults["token_failure"] += 1
        return json_response(500, {"error": "server_error"}, NO_STORE)

    def _issue(self, request: HttpRequest, content: bytes | None) -> HttpResponse:
        try:
            if request.method != "POST":
                raise TokenRequestError(
                    405, "invalid_request", "tokens are requested by POST", (b"allow", b"POST")
                )
            if content is None:
                raise TokenRequestError(413, "invalid_request", "the form is too large")
            text, token = self._tokens.issue(request.headers, content, anyio.current_time())
        except TokenRequestError as error:
            return error.response
        self._recorder.stats.tokens_issued += 1
        lifetime = self._tokens.lifetime
        body = {
            "access_token": text,
            "token_type": "Bearer",
            "expires_in": int(lifetime) if lifetime == int(lifetime) else lifetime,
            "scope": " ".join(token.scopes),
        }
        return json_response(200, body, NO_STORE)


def _hash(secret: bytes) -> bytes:
    return hashlib.sha256(secret).digest()


def _parse_form(headers: Mapping[bytes, bytes], content: bytes) -> dict[str, str]:
    media_type = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
    if media_type != FORM:
        raise TokenRequestError(400, "invalid_request", f"the body must be {FORM.decode()}")
    try:
        pairs = parse_qsl(content.decode(), keep_blank_values=True, errors="strict")
    except ValueError:
        raise TokenRequestError(400, "invalid_request", "the form does not parse") from None
    form = dict(pairs)
    if len(form) < len(pairs):
        raise TokenRequestError(400, "invalid_request", "a field is there twice")
    return form


def _bearer_token(headers: Mapping[bytes, bytes]) -> bytes:
    scheme, _, text = headers.get(b"authorization", b"").partition(b" ")
    return text.strip() if scheme.lower() == b"bearer" else b""


def _invalid_client(description: str) -> TokenRequestError:
    challenge = (b"www-authenticate", b'Basic realm="emulator"')
    return TokenRequestError(401, "invalid_client", description, challenge)


def _is_expired(token: Token, now: float) -> bool:
    return token.expires <= now
