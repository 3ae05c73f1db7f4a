"""Access tokens: who may have one, which scopes it carries, how long it lives."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from hmac import compare_digest
from random import Random
from urllib.parse import parse_qsl, unquote_plus

from .expiring import Expiring

FORM = b"application/x-www-form-urlencoded"


class TokenError(Exception):
    """A token request is refused, by RFC 6749 section 5.2."""

    def __init__(self, status: int, error: str, description: str) -> None:
        self.status = status
        self.error = error
        self.description = description


@dataclass(frozen=True, slots=True)
class Token:
    """A token that was issued; `expires` by the clock of the event loop."""

    text: str = field(repr=False)
    scopes: tuple[str, ...]
    expires: float


class Tokens:
    """Issues tokens and knows them again. `lifetime` is in seconds."""

    def __init__(
        self,
        client_id: str,
        client_secret: str,
        api_key: str | None,
        scopes: Collection[str],
        lifetime: float,
        seed: int,
    ) -> None:
        self._client = (client_id.encode(), client_secret.encode())
        self._api_key = None if api_key is None else api_key.encode()
        self._scopes = tuple(scopes)
        self.lifetime = lifetime
        self._seed = seed
        self.reset()

    def reset(self) -> None:
        """As at the beginning: no token issued."""
        self._random = Random(f"tokens of {self._seed}")
        self._issued = Expiring[bytes, Token](lambda token, now: token.expires <= now)

    def revoke_all(self) -> None:
        """No token issued so far is valid any longer."""
        self._issued.clear()

    def revoke(self, headers: Mapping[bytes, bytes]) -> None:
        """The token that these headers carry is valid no longer."""
        self._issued.pop(_bearer(headers) or b"", None)

    def scopes_of(self, headers: Mapping[bytes, bytes], now: float) -> tuple[str, ...] | None:
        """The scopes that a request may use; None where its credentials are not valid."""
        token = self._issued.get(_bearer(headers) or b"")
        if token is not None and now < token.expires:
            return token.scopes
        key = headers.get(b"x-api-key")
        if key is not None and self._api_key is not None and compare_digest(key, self._api_key):
            return self._scopes
        return None

    def issue(self, headers: Mapping[bytes, bytes], content: bytes, now: float) -> Token:
        """A token for a client that authenticates itself by HTTP Basic or form fields.

        Raises:
            TokenError: the request is refused.
        """
        form = _form(headers, content)
        self._authenticate(headers, form)
        grant = form.get("grant_type")
        if grant is None:
            raise TokenError(400, "invalid_request", "grant_type is missing")
        if grant != "client_credentials":
            raise TokenError(400, "unsupported_grant_type", "only client_credentials is supported")
        asked = form.get("scope", "").split()
        granted = tuple(scope for scope in self._scopes if not asked or scope in asked)
        if not granted:
            raise TokenError(400, "invalid_scope", "none of the scopes asked for may be granted")
        text = f"{self._random.getrandbits(256):064x}"
        token = Token(text, granted, now + self.lifetime)
        self._issued.put(text.encode(), token, now)
        return token

    def _authenticate(self, headers: Mapping[bytes, bytes], form: Mapping[str, str]) -> None:
        scheme, _, credentials = headers.get(b"authorization", b"").partition(b" ")
        if scheme.lower() == b"basic":
            if "client_secret" in form:
                raise TokenError(400, "invalid_request", "use either HTTP Basic or form fields")
            try:
                pair = b64decode(credentials.strip(), validate=True).decode()
            except ValueError:
                raise TokenError(401, "invalid_client", "HTTP Basic does not parse") from None
            # RFC 6749 section 2.3.1: both are form-urlencoded before they are joined.
            client_id, _, secret = pair.partition(":")
            client = (unquote_plus(client_id).encode(), unquote_plus(secret).encode())
        else:
            client = (form.get("client_id", "").encode(), form.get("client_secret", "").encode())
        if not all(map(compare_digest, client, self._client)):
            raise TokenError(401, "invalid_client", "client id or client secret is wrong")


def _form(headers: Mapping[bytes, bytes], content: bytes) -> dict[str, str]:
    kind = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
    if kind != FORM:
        raise TokenError(400, "invalid_request", f"the body must be {FORM.decode()}")
    try:
        pairs = parse_qsl(content.decode(), keep_blank_values=True, errors="strict")
    except ValueError:
        raise TokenError(400, "invalid_request", "the form does not parse") from None
    form = dict(pairs)
    if len(form) < len(pairs):
        raise TokenError(400, "invalid_request", "a field is there twice")
    return form


def _bearer(headers: Mapping[bytes, bytes]) -> bytes | None:
    scheme, _, text = headers.get(b"authorization", b"").partition(b" ")
    return text.strip() if scheme.lower() == b"bearer" else None
