"""Settings: their sources, and the messages for invalid ones."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from cognigy_async import (
    ApiKey,
    AsyncStateClient,
    ConfigurationError,
    OAuthTokenProvider,
    RateLimit,
    RuntimeApi,
    SessionsApi,
)
from cognigy_async.integrations.settings import Credentials, Settings

SECRET = "correct-horse-battery-staple"
KEY = {"COGNIGY_BASE_URL": "https://api.example.com", "COGNIGY_API_KEY": SECRET}
OAUTH = {
    "COGNIGY_BASE_URL": "https://api.example.com/",
    "COGNIGY_CLIENT_ID": "someone",
    "COGNIGY_CLIENT_SECRET": SECRET,
}


@pytest.fixture(autouse=True)
def _nothing_is_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.upper().startswith("COGNIGY_"):
            monkeypatch.delenv(name)


def put(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


def refusal() -> str:
    """Return the message about the current settings; check that it has no secret."""
    with pytest.raises(ConfigurationError) as caught:
        Settings()
    error = caught.value
    assert SECRET not in f"{error}{error!r}"
    # What came before it in pydantic knows the input, and must not be reachable.
    assert error.__context__ is None
    assert error.__cause__ is None
    return str(error)


def test_an_api_key(monkeypatch: pytest.MonkeyPatch) -> None:
    put(monkeypatch, KEY)
    settings = Settings()
    assert (settings.base_url, settings.api) == ("https://api.example.com", "runtime")
    assert isinstance(settings.token_provider(), ApiKey)


async def test_the_key_is_the_one_that_was_set(monkeypatch: pytest.MonkeyPatch) -> None:
    put(monkeypatch, KEY)
    token = await Settings().token_provider().get_token()
    assert (token.header, token.value) == ("X-API-Key", SECRET)


def test_oauth_with_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    put(monkeypatch, OAUTH)
    settings = Settings()
    assert settings.scopes == ("runtime:write", "session:manage", "dialog:read")
    provider = settings.token_provider()
    assert isinstance(provider, OAuthTokenProvider)
    assert " https://api.example.com/oauth/token " in repr(provider)


def test_oauth_with_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    put(monkeypatch, OAUTH)
    monkeypatch.setenv("COGNIGY_API", "runtime")
    monkeypatch.setenv("COGNIGY_SCOPES", " runtime:write   dialog:read ")
    monkeypatch.setenv("COGNIGY_TOKEN_URL", "https://login.example.com/token")
    settings = Settings()
    assert settings.scopes == ("runtime:write", "dialog:read")
    assert " https://login.example.com/token " in repr(settings.token_provider())


def test_the_arguments_make_a_client(monkeypatch: pytest.MonkeyPatch) -> None:
    put(monkeypatch, OAUTH)
    client = AsyncStateClient(**Settings().client_arguments(), max_in_flight=4)
    assert "https://api.example.com not open" in repr(client)


def test_the_sessions_api(monkeypatch: pytest.MonkeyPatch) -> None:
    put(monkeypatch, OAUTH | {"COGNIGY_API": "sessions"})
    settings = Settings()
    assert " https://api.example.com/auth/oauth2/token " in repr(settings.token_provider())
    # What scopes it has is not documented: the server gives what there is.
    assert settings._oauth_config().scopes == ()
    assert settings._oauth_config().client_auth == "post"
    api = settings.client_arguments()["api"]
    assert isinstance(api, SessionsApi)
    assert (api.user_id, api.inject) == (None, "merge")
    put(
        monkeypatch,
        {
            "COGNIGY_USER_ID": "u-1",
            "COGNIGY_INJECT": "replace",
            "COGNIGY_READS_STATE": "true",
            "COGNIGY_SCOPES": "a b",
        },
    )
    settings = Settings()
    api = settings.client_arguments()["api"]
    assert isinstance(api, SessionsApi)
    assert (api.user_id, api.inject) == ("u-1", "replace")
    api.check_use("get_state")
    assert settings._oauth_config().scopes == ("a", "b")


def test_settings_of_the_sessions_api_are_ignored_for_runtime_with_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    put(monkeypatch, KEY | {"COGNIGY_USER_ID": "u-1"})
    with caplog.at_level(logging.WARNING):
        assert isinstance(Settings().client_arguments()["api"], RuntimeApi)
    assert caplog.messages == ["COGNIGY_USER_ID has no effect without COGNIGY_API=sessions"]


def test_a_url_without_tls_has_to_be_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    put(monkeypatch, KEY | {"COGNIGY_BASE_URL": "http://api.example.com"})
    message = refusal()
    assert message.startswith("COGNIGY_BASE_URL uses http://")
    assert "COGNIGY_ALLOW_INSECURE=true" in message
    monkeypatch.setenv("COGNIGY_ALLOW_INSECURE", "true")
    AsyncStateClient(**Settings().client_arguments())


def test_a_token_url_without_tls_has_to_be_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    put(monkeypatch, OAUTH | {"COGNIGY_TOKEN_URL": "http://auth.example.com/oauth/token"})
    message = refusal()
    assert message.startswith("COGNIGY_TOKEN_URL: uses http://")
    assert "COGNIGY_ALLOW_INSECURE=true" in message
    monkeypatch.setenv("COGNIGY_ALLOW_INSECURE", "true")
    AsyncStateClient(**Settings().client_arguments())


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("COGNIGY_USER_ID", " ", "COGNIGY_USER_ID: is empty"),
        ("COGNIGY_INJECT", "deep", "COGNIGY_INJECT: must be 'merge' or 'replace', or left out"),
        ("COGNIGY_READS_STATE", "perhaps", "COGNIGY_READS_STATE: must be true or false"),
        ("COGNIGY_ALLOW_INSECURE", "perhaps", "COGNIGY_ALLOW_INSECURE: must be true or false"),
    ],
)
def test_invalid_settings_of_the_sessions_api(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, expected: str
) -> None:
    put(monkeypatch, KEY | {"COGNIGY_API": "sessions", variable: value})
    assert refusal().startswith(expected)


def test_each_provider_is_a_new_one(monkeypatch: pytest.MonkeyPatch) -> None:
    put(monkeypatch, OAUTH)
    settings = Settings()
    assert settings.token_provider() is not settings.token_provider()


@pytest.mark.parametrize("variables", [KEY, OAUTH], ids=["key", "oauth"])
def test_no_secret_is_shown(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    put(monkeypatch, variables)
    settings = Settings()
    assert SECRET not in f"{settings} {settings!r} {settings.model_dump_json()}"


def test_a_file_in_the_working_directory(tmp_path: Path) -> None:
    lines = ["# staging", *(f"{name}='{value}'" for name, value in OAUTH.items())]
    (tmp_path / ".env").write_text("\n".join(lines))
    assert Settings().client_id == "someone"


def test_a_file_elsewhere_or_none(tmp_path: Path) -> None:
    lines = [f"{name}={value}" for name, value in KEY.items()]
    elsewhere = tmp_path / "staging.env"
    elsewhere.write_text("\n".join(lines))
    assert Settings(env_file=elsewhere).base_url == "https://api.example.com"
    (tmp_path / ".env").write_text("\n".join(lines))
    with pytest.raises(ConfigurationError, match="missing"):
        Settings(env_file=None)


def test_a_file_with_a_byte_order_mark(tmp_path: Path) -> None:
    lines = [f"{name}={value}" for name, value in KEY.items()]
    (tmp_path / ".env").write_text("\n".join(lines), encoding="utf-8-sig")
    assert Settings().base_url == "https://api.example.com"


def test_the_environment_takes_precedence_over_the_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / ".env").write_text("COGNIGY_BASE_URL=https://file.example.com\n")
    put(monkeypatch, KEY)
    assert Settings().base_url == "https://api.example.com"


def test_an_empty_variable_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    put(monkeypatch, OAUTH)
    monkeypatch.setenv("COGNIGY_API_KEY", "")
    monkeypatch.setenv("COGNIGY_SCOPES", "")
    settings = Settings()
    assert settings.api_key is None
    assert len(settings.scopes) == 3


def test_names_without_the_prefix_are_ignored(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / ".env").write_text("API_KEY=other\nCLIENT_ID=other\nBASE_URL=http://other\n")
    put(monkeypatch, OAUTH)
    settings = Settings()
    assert (settings.api_key, settings.client_id) == (None, "someone")


def test_an_unknown_name_is_logged_without_its_value(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    put(monkeypatch, KEY)
    monkeypatch.setenv("COGNIGY_APIKEY", SECRET)
    (tmp_path / ".env").write_text(f"COGNIGY_PASSWORD={SECRET}\nSOMETHING_ELSE=1\n")
    with caplog.at_level(logging.WARNING, "cognigy_async"):
        Settings()
    assert [record.getMessage() for record in caplog.records] == [
        "COGNIGY_APIKEY is not a setting and has no effect",
        "COGNIGY_PASSWORD is not a setting and has no effect",
    ]


def test_nothing_is_set() -> None:
    message = refusal()
    for name in ("BASE_URL", "CLIENT_ID", "CLIENT_SECRET", "API_KEY"):
        assert f"COGNIGY_{name}" in message
    assert "environment" in message
    assert ".env" in message


@pytest.mark.parametrize("missing", sorted(OAUTH))
def test_one_is_missing(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    put(monkeypatch, OAUTH)
    monkeypatch.delenv(missing)
    assert refusal().startswith(f"Settings are missing: {missing}. Set them")


def test_two_kinds_of_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    put(monkeypatch, KEY | OAUTH)
    message = refusal()
    for name in ("CLIENT_ID", "CLIENT_SECRET", "API_KEY"):
        assert f"COGNIGY_{name}" in message
    assert "only one kind" in message


def test_a_key_and_half_of_a_pair(monkeypatch: pytest.MonkeyPatch) -> None:
    put(monkeypatch, KEY)
    monkeypatch.setenv("COGNIGY_CLIENT_SECRET", SECRET)
    message = refusal()
    assert "COGNIGY_API_KEY and COGNIGY_CLIENT_SECRET are set" in message
    assert "missing" not in message


def test_an_unknown_api(monkeypatch: pytest.MonkeyPatch) -> None:
    put(monkeypatch, KEY)
    monkeypatch.setenv("COGNIGY_API", SECRET)
    assert refusal() == "COGNIGY_API: must be 'runtime' or 'sessions', or left out."


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("api.example.com", "must be absolute"),
        ("ftp://api.example.com", "must be absolute"),
        ("http://", "must be absolute"),
        ("http://api.example.com:0", "must be absolute"),
        ("http://api.example.com:99999", "is not a URL"),
        ("http://[::1", "is not a URL"),
        ("http://api.example.com/ ", "has spaces"),
        (f"http://someone:{SECRET}@api.example.com", "must not hold credentials"),
        (f"http://api.example.com?key={SECRET}", "neither query nor fragment"),
        ("http://api.example.com/#", "must not have a fragment"),
    ],
)
def test_an_invalid_base_url(monkeypatch: pytest.MonkeyPatch, url: str, expected: str) -> None:
    put(monkeypatch, OAUTH)
    monkeypatch.setenv("COGNIGY_BASE_URL", url)
    message = refusal()
    assert message.startswith("COGNIGY_BASE_URL ")
    assert expected in message


def test_a_key_that_cannot_be_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    put(monkeypatch, KEY)
    monkeypatch.setenv("COGNIGY_API_KEY", f"{SECRET}\n")
    assert refusal().startswith("COGNIGY_API_KEY: the key must be visible ASCII")


def test_each_fault_of_oauth_names_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    put(monkeypatch, OAUTH)
    monkeypatch.setenv("COGNIGY_TOKEN_URL", f"login?{SECRET}")
    monkeypatch.setenv("COGNIGY_CLIENT_SECRET", f"{SECRET}\n")
    monkeypatch.setenv("COGNIGY_SCOPES", f'read "{SECRET}"')
    message = refusal()
    assert "COGNIGY_TOKEN_URL: must be absolute" in message
    assert "; COGNIGY_CLIENT_SECRET: has line ends" in message
    assert "; COGNIGY_SCOPES: a scope is visible ASCII" in message
    assert "OAuthConfig" not in message


def test_a_file_that_is_not_utf_8(tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(b"COGNIGY_API_KEY=" + SECRET.encode() + b"\xff\n")
    assert refusal() == ".env is not UTF-8; save it as UTF-8."


def test_a_file_that_cannot_be_read() -> None:
    with pytest.raises(ConfigurationError, match=r"^x+ cannot be read: .*too long") as caught:
        Settings(env_file="x" * 300)
    assert caught.value.__context__ is None


def test_credentials_alone_need_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Credentials().api_key is None
    monkeypatch.setenv("COGNIGY_API_KEY", SECRET)
    monkeypatch.setenv("COGNIGY_CLIENT_ID", "someone")
    credentials = Credentials()
    assert credentials.client_id == "someone"
    assert SECRET not in repr(credentials)


@pytest.mark.parametrize(
    ("text", "limits"),
    [
        ("", None),
        ("auto", "auto"),
        ("1000/300", (RateLimit(1000, per=300),)),
        (" 60/2  1000/300 ", (RateLimit(60, per=2), RateLimit(1000, per=300))),
        ("5/0.5", (RateLimit(5, per=0.5),)),
    ],
)
def test_the_rate_limit(monkeypatch: pytest.MonkeyPatch, text: str, limits: object) -> None:
    put(monkeypatch, KEY | {"COGNIGY_RATE_LIMIT": text})
    assert Settings().client_arguments()["rate_limit"] == limits
    AsyncStateClient(**Settings().client_arguments())


@pytest.mark.parametrize("text", [SECRET, "1000", "0/300", "10/-1", "1.5/2", "10/nan", "10/x"])
def test_an_invalid_rate_limit(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    put(monkeypatch, KEY | {"COGNIGY_RATE_LIMIT": text})
    problem = "must be requests/seconds, for example 1000/300, both positive, or auto."
    assert refusal() == f"COGNIGY_RATE_LIMIT: {problem}"
