"""The token request, and the responses of a token endpoint."""

from __future__ import annotations

import json
import logging
from typing import Any

import anyio
import anyio.to_thread
import pytest
from pydantic import BaseModel, SecretStr, ValidationError

from cognigy_async.auth.oauth import OAuthTokenProvider
from cognigy_async.auth.token_endpoint import OAuthConfig
from cognigy_async.errors import (
    AuthenticationError,
    ConfigurationError,
    NotSentError,
)
from cognigy_async.models.http import Request, Response
from cognigy_async.transports.base import Transport

from .token_server import (
    CLIENT_ID,
    EVERY_FORM_OF_THE_SECRET,
    SECRET,
    Answer,
    Endpoint,
    all_text_of,
    answer,
    basic_of,
    config,
    failure_of,
    form_of,
    provider,
    token,
    value_of,
)


async def test_basic_authentication_is_form_urlencoded_first() -> None:
    endpoint = Endpoint()
    assert await value_of(provider(endpoint)) == "Bearer t1"
    (request,) = endpoint.requests
    assert (request.method, request.url) == ("POST", "https://api.cognigy.test/oauth/token")
    assert basic_of(request) == (CLIENT_ID, SECRET)
    assert request.headers["Authorization"] == f"Basic {EVERY_FORM_OF_THE_SECRET[-1]}"
    assert request.headers["Accept"] == "application/json"
    assert request.headers["Content-Type"] == "application/x-www-form-urlencoded"
    assert request.content == (
        b"grant_type=client_credentials&scope=runtime%3Awrite+session%3Amanage+dialog%3Aread"
    )
    assert endpoint.timeouts == [10.0]


async def test_post_authentication_sends_form_fields() -> None:
    endpoint = Endpoint()
    await provider(endpoint, client_auth="post").get_token()
    (request,) = endpoint.requests
    assert "Authorization" not in request.headers
    assert form_of(request) == {
        "grant_type": "client_credentials",
        "scope": "runtime:write session:manage dialog:read",
        "client_id": CLIENT_ID,
        "client_secret": SECRET,
    }


async def test_non_ascii_credentials_are_sent_as_utf8() -> None:
    for how in ("basic", "post"):
        endpoint = Endpoint()
        await provider(endpoint, client_auth=how, client_id="é:ö", client_secret="日本").get_token()
        (request,) = endpoint.requests
        if how == "basic":
            assert basic_of(request) == ("é:ö", "日本")
        else:
            assert form_of(request)["client_secret"] == "日本"


async def test_without_scopes_the_form_has_no_scope() -> None:
    endpoint = Endpoint()
    await provider(endpoint, scopes=()).get_token()
    assert form_of(endpoint.requests[0]) == {"grant_type": "client_credentials"}


def test_scopes_are_a_sequence_or_a_string() -> None:
    for scopes in (["a", "b"], ("a", "b"), "a b", " a  b "):
        assert config(scopes=scopes).scopes == ("a", "b")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("token_url", "/oauth/token"),
        ("token_url", "ftp://c4nary/token"),
        ("token_url", "https://"),
        ("token_url", "https://user:c4nary@host/token"),
        ("token_url", "https://c4nary@host/token"),
        ("token_url", "https://host/token#c4nary"),
        ("token_url", "https://host/c4n ary"),
        ("token_url", "https://host/c4n\nary"),
        ("token_url", "https://[c4nary"),
        ("token_url", "https://host:99999/"),
        ("token_url", "https://[::1].c4nary/token"),
        ("token_url", "http://c4nary/token"),
        ("token_url", "http://[::1].c4nary/token"),
        ("token_url", "http://localhost.c4nary/token"),
        ("allow_insecure", "c4nary"),
        ("client_id", ""),
        ("client_id", "c4nary\n"),
        ("client_secret", ""),
        ("client_secret", "c4nary\n"),
        ("client_secret", "c4nary\ud800"),
        ("client_secret", 4711),
        ("scopes", ["c4nary c4nary"]),
        ("scopes", ['c4nary"']),
        ("scopes", [""]),
        ("scopes", 4711),
        ("client_auth", "c4nary"),
        ("default_lifetime", 0),
        ("default_lifetime", -1),
        ("default_lifetime", float("nan")),
        ("default_lifetime", float("inf")),
        ("refresh_margin", -1),
        ("refresh_margin", float("nan")),
        ("secret", "c4nary"),
    ],
)
def test_an_invalid_setting_is_named_without_its_value(field: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=f"^OAuthConfig: {field}") as caught:
        config(**{field: value})
    assert isinstance(caught.value, ValueError)
    text = all_text_of(caught.value)
    assert "c4n" not in text
    assert "4711" not in text


def test_tokens_are_requested_in_clear_text_only_where_that_is_allowed() -> None:
    url = "http://auth.example/oauth/token"
    with pytest.raises(ConfigurationError) as caught:
        config(token_url=url)
    assert str(caught.value) == (
        "OAuthConfig: token_url: uses http://, which sends credentials and tokens unencrypted; "
        "use https://, or allow_insecure=True on a network that you trust"
    )
    assert config(token_url=url, allow_insecure=True).token_url == url
    for host in ("localhost:8080", "127.0.0.1", "[::1]"):
        assert config(token_url=f"http://{host}/oauth/token")


class Settings(BaseModel):
    auth: OAuthConfig


@pytest.mark.parametrize("client_secret", [SECRET + "\n", 4711, [SECRET]])
def test_a_config_in_another_model_shows_no_value_either(client_secret: Any) -> None:
    given = {"token_url": SECRET, "client_id": "a", "client_secret": client_secret}
    with pytest.raises(ValidationError) as caught:
        Settings.model_validate({"auth": given})
    error = caught.value
    assert "control characters" in str(error)
    for text in (str(error), repr(error), error.json(), repr(error.errors())):
        assert "c4n" not in text
        assert "4711" not in text
    good = given | {"token_url": "https://h/t", "client_secret": SECRET}
    assert Settings.model_validate({"auth": good}).auth == OAuthConfig(**good)


def test_a_missing_setting_is_named_without_the_other_values() -> None:
    with pytest.raises(ConfigurationError, match="token_url: Field required") as caught:
        OAuthConfig(client_id="a", client_secret=SECRET)  # type: ignore[call-arg]
    assert SECRET not in all_text_of(caught.value)


def test_a_config_is_frozen_and_hides_its_secret() -> None:
    for secret in (SECRET, SecretStr(SECRET)):
        made = config(client_secret=secret)
        assert made.client_secret.get_secret_value() == SECRET
        assert SECRET not in repr(made) + str(made) + made.model_dump_json()
        with pytest.raises(ValidationError):
            made.client_id = "other"


@pytest.mark.parametrize(
    ("body", "lifetime"),
    [
        ({}, 3600),
        ({"token_type": "bearer"}, 3600),
        ({"token_type": "BEARER "}, 3600),
        ({"token_type": "BearerToken"}, 3600),
        ({"token_type": "bearer_token"}, 3600),
        ({"token_type": "Bearer Token"}, 3600),
        ({"token_type": "urn:example:token-type:bearer"}, 3600),
        ({"token_type": ""}, 3600),
        ({"token_type": " "}, 3600),
        ({"token_type": None}, 3600),
        ({"expires_in": 60}, 60),
        ({"expires_in": 60.5}, 60.5),
        ({"expires_in": "60"}, 60),
        ({"expires_in": "60.5"}, 60.5),
        ({"expires_in": 10 * 365 * 86_400}, 10 * 365 * 86_400),
        ({"expires_in": None}, 1234),
        ({"refresh_token": "ignored", "scope": ["ignored"]}, 3600),
    ],
)
async def test_a_valid_response(body: dict[str, Any], lifetime: float) -> None:
    tokens = provider(Endpoint(token("t", **body)), default_lifetime=1234)
    assert await value_of(tokens) == "Bearer t"
    assert tokens.statistics().expires_in == pytest.approx(lifetime)


async def test_a_token_without_expires_in_has_the_default_lifetime() -> None:
    assert config().default_lifetime == 3600
    for lifetime in (3600, 42):
        tokens = provider(Endpoint(answer(access_token="t")), default_lifetime=lifetime)
        await tokens.get_token()
        assert tokens.statistics().expires_in == pytest.approx(lifetime)


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        (b"", "no JSON object|is not a JSON object"),
        (b"<html>c4nary</html>", "is not a JSON object"),
        (b'"c4nary"', "is not a JSON object"),
        (b'["c4nary"]', "is not a JSON object"),
        (b"null", "is not a JSON object"),
        (b'{"access_token": "c4nary"', "is not a JSON object"),
        (b"\xff\xfe", "is not a JSON object"),
        (b"[" * 100_000, "is not a JSON object"),
        ({"access_token": None}, "no usable access_token"),
        ({"access_token": ""}, "no usable access_token"),
        ({"access_token": 4711}, "no usable access_token"),
        ({"access_token": ["c4nary"]}, "no usable access_token"),
        ({"access_token": "c4nary c4nary"}, "no usable access_token"),
        ({"access_token": "c4nary\r\nX-Evil: 1"}, "no usable access_token"),
        ({"access_token": "c4nary\n"}, "no usable access_token"),
        ({"access_token": "c4naryé"}, "no usable access_token"),
        ({"token_type": "mac"}, "the token_type 'mac' instead of bearer"),
        ({"token_type": "DPoP"}, "the token_type 'DPoP' instead of bearer"),
        ({"token_type": " PoP\n"}, "the token_type 'PoP' instead of bearer"),
        ({"token_type": "N_A"}, "the token_type 'N_A' instead of bearer"),
        ({"token_type": "urn:example:token-type:mac"}, "the token_type 'mac' instead of bearer"),
        ({"token_type": "c4nary-as-long-as-a-token"}, "a token_type instead of bearer"),
        ({"token_type": "c4nary c4nary"}, "a token_type instead of bearer"),
        ({"token_type": "c4nary\x1b[31m"}, "a token_type instead of bearer"),
        ({"token_type": 4711}, "a token_type instead of bearer"),
        ({"token_type": ["Bearer"]}, "a token_type instead of bearer"),
        ({"token_type": False}, "a token_type instead of bearer"),
        ({"expires_in": 0}, "expires_in"),
        ({"expires_in": -4711}, "expires_in"),
        ({"expires_in": True}, "expires_in"),
        ({"expires_in": float("nan")}, "expires_in"),
        ({"expires_in": float("inf")}, "expires_in"),
        ({"expires_in": 10 * 365 * 86_400 + 1}, "expires_in"),
        ({"expires_in": 10**400}, "expires_in"),
        ({"expires_in": "c4nary"}, "expires_in"),
        ({"expires_in": ""}, "expires_in"),
        ({"expires_in": "-5"}, "expires_in"),
        ({"expires_in": "nan"}, "expires_in"),
        ({"expires_in": "1_000"}, "expires_in"),
        ({"expires_in": "٣"}, "expires_in"),
        ({"expires_in": [60]}, "expires_in"),
    ],
)
async def test_an_invalid_response_names_the_field_without_its_value(body: Any, fault: str) -> None:
    bad = Response(200, {}, body) if isinstance(body, bytes) else token("c4nary", **body)
    endpoint = Endpoint(bad)
    tokens = provider(endpoint)
    error = await failure_of(tokens)
    assert error.status == 200
    assert not error.transient
    with pytest.raises(AuthenticationError, match=fault):
        raise error
    text = all_text_of(error)
    assert "c4nary" not in text
    assert "4711" not in text
    assert len(endpoint.requests) == 1
    assert await value_of(tokens) == "Bearer t1"


@pytest.mark.parametrize("status", [200, 201, 202, 203])
async def test_each_status_of_success_brings_a_token(status: int) -> None:
    endpoint = Endpoint(Response(status, {}, token("t").content))
    assert await value_of(provider(endpoint)) == "Bearer t"
    assert len(endpoint.requests) == 1


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
async def test_a_token_in_each_encoding_of_unicode(encoding: str) -> None:
    content = json.dumps({"access_token": "t", "note": "é"}, ensure_ascii=False).encode(encoding)
    assert await value_of(provider(Endpoint(Response(200, {}, content)))) == "Bearer t"


async def test_a_byte_that_is_not_unicode_spoils_its_text_only() -> None:
    content = b'{"error": "invalid_client", "error_description": "unbekannter Schl\xfcssel"}'
    error = await failure_of(provider(Endpoint(Response(400, {}, content))))
    assert error.detail == "invalid_client: unbekannter Schl\ufffdssel"
    content = b'{"access_token": "c4nary\xfc"}'
    error = await failure_of(provider(Endpoint(Response(200, {}, content))))
    assert "no usable access_token" in str(error)
    assert "c4nary" not in all_text_of(error)


async def test_a_token_type_that_is_refused_has_a_remedy_of_its_own() -> None:
    error = await failure_of(provider(Endpoint(token("t", token_type="mac"))))
    assert error.remedy.startswith("Let the server issue bearer tokens")


async def test_an_error_with_status_200_is_reported() -> None:
    error = await failure_of(provider(Endpoint(answer(error="bad_verification_code"))))
    assert error.detail == "bad_verification_code"


async def test_the_lifetime_counts_from_before_the_request() -> None:
    endpoint = Endpoint(takes=4, lifetime=100)
    tokens = provider(endpoint, refresh_margin=10)
    await anyio.sleep(1000)
    await tokens.get_token()
    assert tokens.statistics().expires_in == pytest.approx(96)
    await anyio.sleep(85.9)
    await tokens.get_token()
    assert len(endpoint.requests) == 1
    await anyio.sleep(0.2)
    await tokens.get_token()
    await anyio.wait_all_tasks_blocked()
    assert endpoint.times == [1000, pytest.approx(1090.1)]
    await tokens.aclose()


@pytest.mark.parametrize("status", [400, 401])
async def test_a_rejected_client_is_an_error_without_a_retry(status: int) -> None:
    body = answer(status, error="invalid_client", error_description="Unknown client.")
    endpoint = Endpoint(body)
    error = await failure_of(provider(endpoint))
    assert (error.status, error.transient, error.attempts) == (status, False, 1)
    assert error.detail == "invalid_client: Unknown client."
    assert "invalid_client" in str(error)
    assert "https://api.cognigy.test/oauth/token" in str(error)
    assert len(endpoint.requests) == 1


PAGE = b"\xef\xbb\xbf\n<!DOCTYPE html><html>c4nary</html>"
ISSUED = token("c4nary", expires_in=5).content


@pytest.mark.parametrize(
    ("status", "content", "problem"),
    [
        (204, b"", "sent a response that is not a JSON object"),
        (200, PAGE, "sent a response that is not a JSON object"),
        *[(status, ISSUED, "responded with a redirect") for status in (301, 302, 303, 307, 308)],
        (404, b"", "was not found"),
        (404, ISSUED, "was not found"),
        (404, PAGE, "was not found"),
        (405, b"", "does not accept POST requests"),
        (407, PAGE, "was not reached, because the proxy requires user and password"),
        (501, PAGE, "does not accept POST requests"),
        (410, b"", "was removed"),
        (400, PAGE, "responded with a web page"),
        (403, PAGE, "responded with a web page"),
    ],
)
async def test_an_answer_of_no_token_endpoint_names_the_setting(
    status: int, content: bytes, problem: str
) -> None:
    endpoint = Endpoint(Response(status, {"location": "https://c4nary.test"}, content))
    error = await failure_of(provider(endpoint))
    assert (error.status, error.transient, len(endpoint.requests)) == (status, False, 1)
    assert f"https://api.cognigy.test/oauth/token {problem}" in str(error)
    assert error.remedy.startswith("Check OAuthConfig(token_url=...): ")
    assert str(error).endswith(error.remedy)
    assert "c4nary" not in all_text_of(error)


@pytest.mark.parametrize(
    ("status", "content"), [(403, ISSUED), (418, b""), (401, PAGE), (400, b'{"error": "x"}')]
)
async def test_a_rejection_may_be_due_to_any_of_the_settings(status: int, content: bytes) -> None:
    endpoint = Endpoint(Response(status, {}, content))
    error = await failure_of(provider(endpoint))
    assert (error.status, error.transient, len(endpoint.requests)) == (status, False, 1)
    assert error.remedy == AuthenticationError.remedy


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
async def test_a_failure_that_will_pass_is_retried(status: int) -> None:
    endpoint = Endpoint(Response(status, {}, PAGE))
    assert await value_of(provider(endpoint)) == "Bearer t1"
    assert len(endpoint.requests) == 2


async def test_a_token_that_was_cut_off_is_requested_again() -> None:
    cut_off = Response(200, {}, body_error="the body is cut off")
    endpoint = Endpoint(cut_off, token("t2"))
    assert await value_of(provider(endpoint)) == "Bearer t2"
    endpoint = Endpoint(cut_off, cut_off, cut_off)
    error = await failure_of(provider(endpoint))
    assert (error.status, error.transient, error.attempts) == (200, True, 3)
    assert "sent a response without a token: the body is cut off" in str(error)


@pytest.mark.parametrize(("status", "requests"), [(400, 1), (503, 3)])
async def test_a_rejection_without_a_usable_body(status: int, requests: int) -> None:
    endpoint = Endpoint(*[Response(status, {}, body_error="the body is cut off")] * requests)
    error = await failure_of(provider(endpoint))
    assert error.status == status
    assert "; the body is cut off" in str(error)
    assert len(endpoint.requests) == requests


async def test_the_error_text_of_the_server_is_cleaned_and_cut() -> None:
    echoes = " ".join([*EVERY_FORM_OF_THE_SECRET, CLIENT_ID, SECRET.upper()])
    body = answer(400, error="bad\r\n\x1b[31m", error_description=f"{echoes} {'x' * 500}")
    error = await failure_of(provider(Endpoint(body)))
    assert error.detail is not None
    assert len(error.detail) == 200
    assert error.detail.isprintable()
    text = all_text_of(error)
    for secret in (*EVERY_FORM_OF_THE_SECRET, SECRET.upper(), CLIENT_ID):
        assert secret not in text


async def test_a_secret_at_the_cut_is_not_shown_in_part() -> None:
    body = answer(400, error="x" * 190, error_description=SECRET)
    error = await failure_of(provider(Endpoint(body)))
    assert SECRET[:4] not in str(error)


@pytest.mark.parametrize("body", [b"", b"<html>", b"[1]", b'{"error": 5}', b'{"error": ""}'])
async def test_a_rejection_without_a_reason(body: bytes) -> None:
    error = await failure_of(provider(Endpoint(Response(400, {}, body))))
    assert (error.status, error.detail) == (400, None)


class LeakyTransport:
    """Raises exceptions that contain the whole request."""

    async def send(self, request: Request, *, timeout: float) -> Response:
        try:
            raise ValueError(f"bad header {request.headers}")
        except ValueError as error:
            raise NotSentError(f"cannot send {request.content!r}") from error

    async def aclose(self) -> None:
        pass


class WildTransport(LeakyTransport):
    async def send(self, request: Request, *, timeout: float) -> Response:
        raise LookupError(dict(request.headers), request.content)


@pytest.mark.parametrize("client_auth", ["basic", "post"])
async def test_p13_no_secret_is_shown(client_auth: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    echo: dict[str, Any] = {
        "error": "invalid_client",
        "error_description": " ".join(EVERY_FORM_OF_THE_SECRET),
    }
    issued = "t0ken-c4nary"
    answers: list[Answer] = [
        answer(401, **echo),
        answer(503, **echo),
        answer(503, **echo),
        answer(503, **echo),
        token(issued, expires_in="soon"),
        token(f"{issued} {issued}"),
        token(issued),
    ]
    transports: list[Transport] = [Endpoint(*answers), LeakyTransport(), WildTransport()]
    texts: list[str] = []
    for transport in transports:
        made = config(client_auth=client_auth)
        tokens = OAuthTokenProvider(made, transport=transport, clock=anyio.current_time)
        for _ in range(5):
            try:
                access = await tokens.get_token()
                texts += [repr(access), str(access)]
            except AuthenticationError as error:
                texts.append(all_text_of(error))
                texts.append(repr(error.__reduce__()))
            texts += [repr(tokens), str(tokens), repr(tokens.statistics()), repr(made)]
        texts.append(repr(tokens.__dict__))
    assert sum("AuthenticationError" in text for text in texts) >= 12
    texts += [
        record.getMessage() + json.dumps(record.__dict__, default=repr) for record in caplog.records
    ]
    assert caplog.records
    for text in texts:
        for secret in (*EVERY_FORM_OF_THE_SECRET, issued, "s3cret"):
            assert secret not in text


async def test_p13_a_cause_without_secrets_is_kept() -> None:
    cause = NotSentError("no route to host")
    error = await failure_of(provider(Endpoint(cause, cause, cause)))
    assert error.__cause__ is cause
