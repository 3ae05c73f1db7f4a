"""Whatever a token endpoint answers: a token that can be used, or an error without a secret."""

from __future__ import annotations

import json
import math

from hypothesis import given, settings
from hypothesis import strategies as st

from cognigy_async import AuthenticationError, Response
from cognigy_async.auth.token_endpoint import IssuedToken, OAuthEndpoint

from .token_server import EVERY_FORM_OF_THE_SECRET, all_text_of, config

SECRETS = st.sampled_from(EVERY_FORM_OF_THE_SECRET)
NUMBERS = st.integers() | st.floats() | st.sampled_from(["3600", "1e999", "-0", "9" * 400])
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text() | SECRETS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
MEMBERS = {
    "access_token": st.sampled_from(["t0ken", "a b", "\u00e9", ""]) | VALUES,
    "token_type": st.sampled_from(["Bearer", "bearer", "mac"]) | VALUES,
    "expires_in": NUMBERS | VALUES,
    "error": st.sampled_from(["invalid_client", "access_denied"]) | VALUES,
    "error_description": VALUES,
    "message": VALUES,
}
BODIES: st.SearchStrategy[bytes] = st.one_of(
    st.binary(max_size=50),
    VALUES.map(lambda value: json.dumps(value).encode()),
    st.fixed_dictionaries({}, optional=MEMBERS).map(lambda body: json.dumps(body).encode()),
    # Deeper than any parser goes, and longer than any token.
    st.sampled_from(
        [b"[" * 100_000, b'{"a":' * 100_000, b'{"access_token": "%b"}' % (b"x" * 10**6)]
    ),
)
HEADERS = st.dictionaries(
    st.sampled_from(
        ["retry-after", "ratelimit-reset", "x-ratelimit-reset", "date", "content-type"]
    ),
    st.text(max_size=30) | st.sampled_from(["1e999", "-1", "9" * 400, "text/html"]) | SECRETS,
)
STATUSES = st.sampled_from([200, 201, 204, 302, 400, 401, 403, 404, 429, 500, 503, 599])


@given(status=STATUSES, headers=HEADERS, body=BODIES, cut_off=st.booleans())
@settings(deadline=None, max_examples=100)
def test_any_answer_is_a_token_or_an_error_without_a_secret(
    status: int, headers: dict[str, str], body: bytes, cut_off: bool
) -> None:
    response = Response(status, headers, body, "the body is cut off" if cut_off else None)
    found = parsed(response)
    if isinstance(found, IssuedToken):
        assert 0 < found.lifetime < math.inf
        assert 10.0 < found.expires_at < math.inf
        # It fits in a header.
        assert found.access.value.isascii()
        assert found.access.value.isprintable()
    else:
        texts = all_text_of(found)
        assert not [secret for secret in EVERY_FORM_OF_THE_SECRET if secret in texts]
        assert len(str(found)) < 2000
        assert found.retry_after is None or 0 < found.retry_after < math.inf


def parsed(response: Response) -> IssuedToken | AuthenticationError:
    try:
        return OAuthEndpoint(config()).parse(response, 10.0, 1e9)
    except AuthenticationError as error:
        return error
