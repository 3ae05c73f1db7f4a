"""Settings: their sources, and the messages for invalid ones."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cognigy_async import (
    ApiKey,
    AsyncStateClient,
    ConfigurationError,
    Endpoint,
    Limits,
    OAuthTokenProvider,
    RateLimit,
    RuntimeApi,
    SessionsApi,
    TenantProfile,
    UnsupportedByApiError,
)
from cognigy_async.integrations.settings import (
    TOGETHER,
    Credentials,
    Settings,
    TemporalSettings,
    join_by_source,
    setting_sources,
)

SECRET = "correct-horse-battery-staple"
KEY = {"COGNIGY_BASE_URL": "https://api.example.com", "COGNIGY_API_KEY": SECRET}
OAUTH = {
    "COGNIGY_BASE_URL": "https://api.example.com/",
    "COGNIGY_CLIENT_ID": "someone",
    "COGNIGY_CLIENT_SECRET": SECRET,
}
ADDRESSES = {
    "COGNIGY_BASE_URL": "https://planted.example",
    "COGNIGY_TOKEN_URL": "https://planted.example/token",
    "COGNIGY_PROXY": "http://planted.example:3128",
    "COGNIGY_CA_FILE": "planted.pem",
    "COGNIGY_ALLOW_INSECURE": "true",
    "COGNIGY_ENDPOINT_URL": "https://planted.example/endpoint",
}
NOBODY = 65534

as_root = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can give a file away"
)


@pytest.fixture(autouse=True)
def _nothing_is_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.upper().startswith("COGNIGY_"):
            monkeypatch.delenv(name)


def put(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


def write(path: Path, variables: dict[str, str]) -> Path:
    """Write a file of settings that only its owner may change, whatever the umask is."""
    path.write_text("".join(f"{name}={value}\n" for name, value in variables.items()))
    path.chmod(0o600)
    return path


def first_unused_descriptor() -> int:
    number = os.open(os.devnull, os.O_RDONLY)
    os.close(number)
    return number


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


# Credentials and addresses of two sources.


@pytest.mark.parametrize("name", sorted(ADDRESSES))
def test_an_address_of_the_file_never_gets_credentials_of_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    put(monkeypatch, {other: value for other, value in OAUTH.items() if other != name})
    write(tmp_path / ".env", {name: ADDRESSES[name]})
    message = refusal()
    assert message.startswith("Credentials and addresses must come all from the environment or")
    assert "environment: " in message
    assert "COGNIGY_CLIENT_ID, COGNIGY_CLIENT_SECRET; " in message
    assert f"file .env: {name}. Set them all in" in message
    assert "planted" not in message


@pytest.mark.parametrize("name", sorted(ADDRESSES))
def test_an_address_of_the_environment_never_gets_credentials_of_the_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    write(tmp_path / ".env", {other: value for other, value in OAUTH.items() if other != name})
    put(monkeypatch, {name: ADDRESSES[name]})
    message = refusal()
    assert f"environment: {name}; file .env: " in message
    assert "planted" not in message


@pytest.mark.parametrize("name", sorted(OAUTH))
def test_halves_of_the_credentials_are_not_put_together(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    put(monkeypatch, {other: value for other, value in OAUTH.items() if other != name})
    write(tmp_path / ".env", {name: OAUTH[name]})
    assert f"file .env: {name}." in refusal()


@pytest.mark.parametrize("spelling", ["cognigy_token_url", "export COGNIGY_TOKEN_URL"])
def test_the_spelling_of_a_name_makes_no_difference(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, spelling: str
) -> None:
    put(monkeypatch, OAUTH)
    write(tmp_path / ".env", {spelling: ADDRESSES["COGNIGY_TOKEN_URL"]})
    assert "file .env: COGNIGY_TOKEN_URL." in refusal()


def test_an_empty_variable_of_the_environment_is_no_address(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    put(monkeypatch, OAUTH | {"COGNIGY_TOKEN_URL": ""})
    write(tmp_path / ".env", {"COGNIGY_TOKEN_URL": ADDRESSES["COGNIGY_TOKEN_URL"]})
    assert "file .env: COGNIGY_TOKEN_URL." in refusal()
    write(tmp_path / ".env", OAUTH | {"COGNIGY_PROXY": ""})
    for name in OAUTH:
        monkeypatch.setenv(name, "")
    assert Settings().client_id == "someone"


def test_credentials_and_addresses_of_the_environment_hide_those_of_the_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write(tmp_path / ".env", dict.fromkeys(OAUTH, "planted"))
    put(monkeypatch, OAUTH)
    settings = Settings()
    assert (settings.base_url, settings.client_id) == ("https://api.example.com/", "someone")


def test_other_settings_of_the_file_go_with_those_of_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    put(monkeypatch, OAUTH | {"COGNIGY_API": "sessions"})
    others = {"COGNIGY_USER_ID": "u-1", "COGNIGY_INJECT": "replace", "COGNIGY_AUDIT_KEY": "key"}
    write(tmp_path / ".env", others)
    settings = Settings()
    assert (settings.user_id, settings.inject, settings.client_id) == ("u-1", "replace", "someone")


@pytest.mark.parametrize("kind", [str, Path])
def test_a_named_file_may_be_mixed_with_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: Callable[[str], str | Path]
) -> None:
    put(monkeypatch, OAUTH)
    path = write(tmp_path / ".env", {"COGNIGY_TOKEN_URL": "https://login.example.com/token"})
    path.chmod(0o666)
    assert Settings(env_file=kind(".env")).token_endpoint == "https://login.example.com/token"


def test_a_reference_does_not_take_a_secret_out_of_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("VAULT_TOKEN", SECRET)
    monkeypatch.setenv("COGNIGY_AUDIT_KEY", SECRET)
    for reference in ("${VAULT_TOKEN}", "u-${COGNIGY_AUDIT_KEY}", "${NOTHING:-u-1}", "'${A}'"):
        path = write(tmp_path / ".env", KEY | {"COGNIGY_USER_ID": reference})
        assert "${...}, in COGNIGY_USER_ID. They are replaced only in a file named" in refusal()
        if "VAULT" in reference:
            assert Settings(env_file=path).user_id == SECRET
    write(path, KEY | {"COGNIGY_USER_ID": "$VAULT_TOKEN ${", "OTHER": "${VAULT_TOKEN}"})
    assert Settings().user_id == "$VAULT_TOKEN ${"


def test_every_address_and_credential_is_among_those_that_belong_together() -> None:
    secrets = {"COGNIGY_API_KEY", "COGNIGY_CLIENT_ID", "COGNIGY_CLIENT_SECRET"}
    secrets.add("COGNIGY_ENDPOINT_TOKEN")
    harmless = {"API", "AUDIT_KEY", "SCOPES", "RATE_LIMIT", "CONTEXT_LIMIT"}
    harmless |= {"USER_ID", "INJECT", "READS_STATE"}
    # The environment alone says where the cluster is.
    harmless |= {"TASK_QUEUE", "QUOTA_SHARE", "TEMPORAL_KEY"}
    # A profile chooses between two paths of the base URL, and no host.
    harmless |= {"TENANT"}
    everything = set(setting_sources(None))
    assert everything - {f"COGNIGY_{name}" for name in harmless} == TOGETHER
    assert secrets | set(ADDRESSES) == TOGETHER


# Files of others.


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666, 0o664])
def test_a_file_that_others_can_write_is_refused(tmp_path: Path, mode: int) -> None:
    path = write(tmp_path / ".env", KEY)
    path.chmod(mode)
    unused = first_unused_descriptor()
    message = refusal()
    assert first_unused_descriptor() == unused, "the file is closed"
    assert message.startswith(".env can be changed by other users; ")
    assert "chmod go-w .env" in message
    with pytest.raises(ConfigurationError, match=r"^\.env can be changed"):
        Credentials()
    with pytest.raises(ConfigurationError, match=r"^\.env can be changed"):
        setting_sources()
    assert Settings(env_file=path).api_key is not None
    path.chmod(0o644)
    assert Settings().api_key is not None


@as_root
def test_a_file_of_another_user_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / ".env", KEY)
    os.chown(path, NOBODY, NOBODY)
    assert refusal().startswith(f".env belongs to another user (id {NOBODY}, this process has 0). ")
    assert Settings(env_file=path).api_key is not None


@as_root
def test_a_link_counts_as_what_it_leads_to_and_as_itself(tmp_path: Path) -> None:
    target = write(tmp_path / "target", KEY)
    link = tmp_path / ".env"
    link.symlink_to(target)
    assert Settings().api_key is not None
    os.lchown(link, NOBODY, NOBODY)
    assert refusal().startswith(f".env is a link of another user (id {NOBODY}, this process has 0)")
    os.lchown(link, 0, 0)
    os.chown(target, NOBODY, NOBODY)
    assert refusal().startswith(f".env belongs to another user (id {NOBODY}, ")


def test_a_link_to_a_file_that_others_can_write_is_refused(tmp_path: Path) -> None:
    target = write(tmp_path / "target", KEY)
    (tmp_path / ".env").symlink_to(target)
    assert Settings().api_key is not None
    target.chmod(0o622)
    assert refusal().startswith(".env can be changed by other users")


def test_a_pipe_is_refused_without_waiting_for_a_writer(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / ".env", 0o600)
    assert refusal().startswith(".env is not a regular file. ")


def test_the_null_device_stands_for_no_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    put(monkeypatch, KEY)
    write(tmp_path / ".env", {"COGNIGY_RATE_LIMIT": "auto"})
    assert Settings(env_file=os.devnull).rate_limit is None


def test_a_folder_is_no_file_of_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".env").mkdir()
    put(monkeypatch, KEY)
    assert Settings().api_key is not None


# Sources.


def test_the_source_of_each_setting(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    put(monkeypatch, KEY | {"COGNIGY_SCOPES": ""})
    write(tmp_path / ".env", KEY | {"COGNIGY_RATE_LIMIT": "auto", "COGNIGY_OTHER": "1"})
    elsewhere = write(tmp_path / "staging", {"cognigy_token_url": "nonsense"})
    sources = setting_sources()
    assert {name: source for name, source in sources.items() if source != "default"} == {
        "COGNIGY_API_KEY": "environment",
        "COGNIGY_BASE_URL": "environment",
        "COGNIGY_RATE_LIMIT": "file .env",
    }
    assert len(sources) == len(Settings.model_fields)
    assert setting_sources(elsewhere)["COGNIGY_TOKEN_URL"] == f"file {elsewhere}"
    assert setting_sources(None)["COGNIGY_RATE_LIMIT"] == "default"


def test_names_are_joined_by_source() -> None:
    assert join_by_source({"C": "file .env", "B": "environment", "A": "environment"}) == (
        "environment: A, B; file .env: C"
    )


# Values.


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
    lines = f"COGNIGY_PASSWORD={SECRET}\nSOMETHING_ELSE=1\n'COGNIGY_X\n\x1b[2JERROR'=1\n"
    (tmp_path / ".env").write_text(lines)
    with caplog.at_level(logging.WARNING, "cognigy_async"):
        Settings()
    assert [record.getMessage() for record in caplog.records] == [
        "COGNIGY_APIKEY is not a setting and has no effect",
        "COGNIGY_PASSWORD is not a setting and has no effect",
        r"'COGNIGY_X\n\x1b[2JERROR' is not a setting and has no effect",
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


@pytest.mark.parametrize(
    ("path", "problem"),
    [("x" * 300, "cannot be read: .*too long"), ("x\0", "cannot be read: its name is invalid")],
)
def test_a_file_that_cannot_be_read(path: str, problem: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"^x+\0? {problem}") as caught:
        Settings(env_file=path)
    assert caught.value.__context__ is None


def test_a_named_file_that_is_missing_counts_as_empty(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"^Settings are missing"):
        Settings(env_file=tmp_path / "nothing")


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


@pytest.mark.parametrize("api", ["runtime", "sessions"])
@pytest.mark.parametrize(
    ("text", "size"),
    [("", None), ("default", 65_000), ("app", 1_500_000), ("300000", 300_000)],
)
def test_the_context_limit(
    monkeypatch: pytest.MonkeyPatch, api: str, text: str, size: int | None
) -> None:
    put(monkeypatch, KEY | {"COGNIGY_API": api, "COGNIGY_CONTEXT_LIMIT": text})
    usual = Limits() if api == "runtime" else Limits.cognigy_saas()
    expected = usual if size is None else replace(usual, max_context_bytes=size)
    client = AsyncStateClient(**Settings().client_arguments())
    assert client.limits == expected
    # An argument of the client takes precedence.
    given = AsyncStateClient(**Settings().client_arguments(), limits=Limits(max_depth=1))
    assert given.limits == Limits(max_depth=1)


def test_the_context_limit_of_app_is_the_preset(monkeypatch: pytest.MonkeyPatch) -> None:
    put(monkeypatch, KEY | {"COGNIGY_API": "sessions", "COGNIGY_CONTEXT_LIMIT": "app"})
    assert Settings().state_api().limits == Limits.cognigy_app()


@pytest.mark.parametrize("text", [SECRET, "0", "-1", "1.5", "1.5MB", "²", "9" * 5000])
def test_an_invalid_context_limit(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    put(monkeypatch, KEY | {"COGNIGY_CONTEXT_LIMIT": text})
    problem = "must be default, app or a number of bytes, for example 300000."
    assert refusal() == f"COGNIGY_CONTEXT_LIMIT: {problem}"


@pytest.mark.parametrize("limit", [RateLimit(7, per=1), [RateLimit(7, per=1)], "auto", None])
def test_an_argument_takes_precedence_over_the_settings(
    monkeypatch: pytest.MonkeyPatch, limit: Any
) -> None:
    put(monkeypatch, KEY | {"COGNIGY_RATE_LIMIT": "1000/300"})
    auth, api = ApiKey("another"), SessionsApi(user_id="u")
    arguments = Settings().client_arguments(
        rate_limit=limit, base_url="http://other.example", auth=auth, api=api, allow_insecure=True
    )
    expected = (RateLimit(7, per=1),) if isinstance(limit, RateLimit | list) else limit
    assert arguments == {
        "base_url": "http://other.example",
        "auth": auth,
        "api": api,
        "allow_insecure": True,
        "rate_limit": expected,
        "endpoint": None,
    }
    AsyncStateClient(**arguments)


def test_an_argument_that_settings_do_not_provide_belongs_to_the_client(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    put(monkeypatch, KEY)
    with pytest.raises(TypeError, match="do not provide timeout; pass it to the client"):
        Settings().client_arguments(timeout=3.0)  # type: ignore[call-arg]


URL = "https://endpoint.example"


def test_the_endpoint_for_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    put(monkeypatch, KEY | {"COGNIGY_ENDPOINT_URL": f"{URL}/", "COGNIGY_ENDPOINT_TOKEN": SECRET})
    settings = Settings()
    assert SECRET not in repr(settings)
    endpoint = settings.client_arguments()["endpoint"]
    assert repr(endpoint) == f"<Endpoint {URL}>"
    assert AsyncStateClient(**settings.client_arguments()).endpoint is not None
    other = Endpoint("https://other.example", "t")
    assert settings.client_arguments(endpoint=other)["endpoint"] is other


@pytest.mark.parametrize(
    ("variables", "problem"),
    [
        ({"COGNIGY_ENDPOINT_URL": URL}, "COGNIGY_ENDPOINT_TOKEN go together"),
        ({"COGNIGY_ENDPOINT_TOKEN": SECRET}, "COGNIGY_ENDPOINT_TOKEN go together"),
        (
            {"COGNIGY_ENDPOINT_URL": URL, "COGNIGY_ENDPOINT_TOKEN": f"{SECRET}/"},
            "COGNIGY_ENDPOINT_TOKEN has other characters",
        ),
        (
            {"COGNIGY_ENDPOINT_URL": f"{URL}/{SECRET}", "COGNIGY_ENDPOINT_TOKEN": SECRET},
            "COGNIGY_ENDPOINT_URL contains the token",
        ),
        (
            {"COGNIGY_ENDPOINT_URL": "http://e.example", "COGNIGY_ENDPOINT_TOKEN": SECRET},
            "COGNIGY_ENDPOINT_URL uses http://",
        ),
    ],
)
def test_an_endpoint_that_cannot_be_used(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], problem: str
) -> None:
    put(monkeypatch, KEY | variables)
    text = refusal()
    assert problem in text
    assert SECRET not in text


# Tenant profiles.


def profile(**sections: Any) -> TenantProfile:
    return TenantProfile(**{"api": "sessions"} | sections)


def use(monkeypatch: pytest.MonkeyPatch, tenant: TenantProfile, **variables: str) -> Settings:
    """Return settings with a profile, and with an API key unless they have other credentials."""
    Path("tenant.json").write_text(tenant.to_json())
    oauth = "COGNIGY_CLIENT_ID" in variables
    put(monkeypatch, ({} if oauth else KEY) | {"COGNIGY_TENANT": "tenant.json"} | variables)
    return Settings()


def test_a_tenant_profile_sets_what_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    tenant = profile(
        writes={"inject": "replace", "merged_levels": 0, "merges_lists": False},
        reads={"works": True},
        rate_limit={"headers": "ietf", "requests": 100, "seconds": 60},
        body={"accepted_bytes": 30_000},
    )
    settings = use(monkeypatch, tenant, COGNIGY_USER_ID="u-1")
    assert (settings.api, settings.inject, settings.reads_state) == ("sessions", "replace", True)
    assert settings.rate_limit == (RateLimit(100, per=60),)
    arguments = settings.client_arguments()
    api = arguments["api"]
    assert isinstance(api, SessionsApi)
    assert (api.user_id, api.inject, api.merged_values) == ("u-1", "replace", "none")
    assert api.limits.safe_payload_bytes == 30_000
    assert arguments["rate_limit"] == (RateLimit(100, per=60),)
    assert AsyncStateClient(**arguments).limits.safe_payload_bytes == 30_000
    assert settings.tenant == tenant


@pytest.mark.parametrize("api", ["runtime", "sessions"])
def test_the_context_limit_of_a_tenant_with_a_profile(
    monkeypatch: pytest.MonkeyPatch, api: str
) -> None:
    tenant = profile(api=api, body={"accepted_bytes": 50_000})
    limits = use(monkeypatch, tenant, COGNIGY_CONTEXT_LIMIT="300000").state_api().limits
    assert limits == replace(tenant.limits, max_context_bytes=300_000)
    assert limits.safe_payload_bytes == 50_000


def test_settings_take_precedence_over_a_tenant_profile(monkeypatch: pytest.MonkeyPatch) -> None:
    tenant = profile(
        writes={"inject": "replace"},
        reads={"works": True},
        rate_limit={"headers": "ietf", "requests": 100, "seconds": 60},
    )
    settings = use(
        monkeypatch,
        tenant,
        COGNIGY_INJECT="merge",
        COGNIGY_READS_STATE="false",
        COGNIGY_RATE_LIMIT="5/1",
    )
    api = settings.state_api()
    assert isinstance(api, SessionsApi)
    assert (api.inject, settings.reads_state) == ("merge", False)
    with pytest.raises(UnsupportedByApiError):
        api.check_use("get_state")
    assert settings.rate_limit == (RateLimit(5, per=1),)


def test_a_tenant_profile_of_the_runtime_api(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tenant = profile(
        api="runtime",
        reads={"works": True, "delay_seconds": 1.5},
        etags={"kind": "weak", "if_match": "ignored"},
        rate_limit={"headers": "x", "requests": 100},
    )
    settings = use(monkeypatch, tenant)
    api = settings.state_api()
    assert isinstance(api, RuntimeApi)
    assert (api.conditional_writes, api.read_delay) == (False, 1.5)
    # Without the window, the limit is learned from the headers.
    assert settings.rate_limit == "auto"
    assert caplog.text == ""


def test_a_limit_that_no_header_names_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    assert use(monkeypatch, profile(rate_limit={"headers": "none"})).rate_limit is None


@pytest.mark.parametrize("measured", ["/oauth/token", "/auth/oauth2/token"])
@pytest.mark.parametrize("api", ["runtime", "sessions"])
def test_a_tenant_profile_chooses_a_known_path_for_tokens(
    monkeypatch: pytest.MonkeyPatch, api: str, measured: str
) -> None:
    """It never chooses a host: settings decide where credentials go."""
    token = {"url": "https://planted.example/token", "path": measured, "client_auth": "post"}
    settings = use(monkeypatch, profile(api=api, token=token), **OAUTH)
    assert settings.token_endpoint == f"https://api.example.com{measured}"
    basic = "authorization" in {
        name.lower()
        for name in settings.token_provider()._endpoint.request.headers  # type: ignore[attr-defined]
    }
    assert basic == (measured == "/oauth/token")
    monkeypatch.setenv("COGNIGY_TOKEN_URL", "https://other.example/t")
    assert Settings().token_endpoint == "https://other.example/t"
    monkeypatch.delenv("COGNIGY_TOKEN_URL")
    unknown = profile(api=api, token=token | {"path": None})
    usual = "/oauth/token" if api == "runtime" else "/auth/oauth2/token"
    assert use(monkeypatch, unknown, **OAUTH).token_endpoint == f"https://api.example.com{usual}"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "COGNIGY_TENANT: tenant.json cannot be read: No such file"),
        ("{}", "COGNIGY_TENANT: tenant.json is not a tenant profile; write one with"),
        ("x" * 2_000_000, "COGNIGY_TENANT: tenant.json is not a tenant profile"),
    ],
)
def test_a_profile_that_cannot_be_used(
    monkeypatch: pytest.MonkeyPatch, content: str | None, message: str
) -> None:
    if content is not None:
        Path("tenant.json").write_text(content)
    put(monkeypatch, KEY | {"COGNIGY_TENANT": "tenant.json"})
    assert message in refusal()


def test_a_profile_of_the_other_api(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("tenant.json").write_text(profile(writes={"inject": "replace"}).to_json())
    put(monkeypatch, KEY | {"COGNIGY_TENANT": "tenant.json", "COGNIGY_API": "runtime"})
    message = refusal()
    assert "COGNIGY_TENANT has the profile of the sessions API; remove COGNIGY_API" in message


# Temporal.


def test_settings_of_a_cluster_need_no_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    assert TemporalSettings().task_queue == "cognigy"
    assert TemporalSettings().temporal_keys == ()
    put(
        monkeypatch,
        {
            "COGNIGY_TASK_QUEUE": "shop",
            "COGNIGY_QUOTA_SHARE": "1/4",
            "COGNIGY_TEMPORAL_KEY": "new old",
        },
    )
    settings = TemporalSettings()
    assert (settings.task_queue, settings.quota_share) == ("shop", 0.25)
    assert settings.temporal_keys == ("new", "old")
    assert "old" not in repr(settings)


@pytest.mark.parametrize("share", ["0", "2", "1/0", "a quarter", "nan"])
def test_an_invalid_share_is_refused(monkeypatch: pytest.MonkeyPatch, share: str) -> None:
    put(monkeypatch, {"COGNIGY_QUOTA_SHARE": share})
    with pytest.raises(ConfigurationError, match="COGNIGY_QUOTA_SHARE: must be a share"):
        TemporalSettings()
