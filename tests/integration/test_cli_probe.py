"""`cognigy-async probe`: the file it writes, and the commands that follow it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from anyio.from_thread import start_blocking_portal

from cognigy_async import TenantProfile
from cognigy_async.cli.probe.measure import NAMES
from cognigy_async.emulator import Emulator, Rules, Throttling, serve

from .conftest import SECRET, Command

SESSIONS = {"COGNIGY_API": "sessions", "COGNIGY_USER_ID": "u-1"}


@pytest.fixture
def on_sessions(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> Emulator:
    for name, value in SESSIONS.items():
        monkeypatch.setenv(name, value)
    return emulator


def profile() -> TenantProfile:
    return TenantProfile.from_json(Path("tenant.json").read_bytes())


def test_a_probe_of_the_sessions_api(on_sessions: Emulator, command: Command) -> None:
    on_sessions.add_dialog("s-1", session={"visits": 3}, next_step="checkout")
    assert command("probe", "--session", "s-1") == 0
    found = profile()
    assert found.api == "sessions"
    assert found.base_url == os.environ["COGNIGY_BASE_URL"]
    assert found.writes is not None
    assert (found.writes.inject, found.writes.merged_levels) == ("merge", 0)
    assert found.token is not None
    assert found.token.path == "/auth/oauth2/token"
    assert (found.token.client_auth, found.token.lifetime_seconds) == ("post", 3600)
    sent = on_sessions.stats.requests + on_sessions.stats.token_requests
    assert found.requests == sent <= 15
    assert on_sessions.dialogs["s-1"].session == {"visits": 3}
    assert on_sessions.dialogs["s-1"].next_step == "checkout"
    # Each step is said before it is made, and the result afterwards.
    assert command.err.startswith("Request a token from ")
    assert "Read the state, which changes nothing: 1 request." in command.err
    assert [line.split()[0] for line in command.out.splitlines()] == [
        *("variables", "reads", "states", "limits", "clock", "token", "Wrote"),
    ]
    assert f"Wrote tenant.json after {sent} requests." in command.out
    assert os.environ["COGNIGY_CLIENT_ID"] not in Path("tenant.json").read_text()


def test_a_probe_of_the_runtime_api(emulator: Emulator, command: Command) -> None:
    assert command("probe", "--session", "d-1", "--output", "other.json", "--json") == 0
    found = TenantProfile.from_json(Path("other.json").read_bytes())
    assert command.json == json.loads(found.to_json())
    assert found.etags is not None
    assert (found.etags.kind, found.etags.if_match) == ("strong", "honoured")
    assert found.states is None
    assert found.token is not None
    assert (found.token.path, found.token.client_auth) == ("/oauth/token", "basic")
    assert set(emulator.dialogs["d-1"].session) == set(NAMES)


def test_an_existing_file_is_kept(emulator: Emulator, command: Command) -> None:
    Path("tenant.json").write_text("mine")
    assert command("probe", "--session", "d-1") == 2
    assert "tenant.json exists; replace it with --force" in command.messages
    assert emulator.stats.requests == emulator.stats.token_requests == 0
    assert command("probe", "--session", "d-1", "--force", "--quiet") == 0
    assert command.err == ""
    assert profile().api == "runtime"


@pytest.mark.parametrize("output", ["missing/tenant.json", "."])
def test_a_file_that_cannot_be_written_is_refused_first(
    emulator: Emulator, command: Command, output: str
) -> None:
    assert command("probe", "--session", "d-1", "--output", output, "--force") == 2
    assert f"--output {output}: cannot be written: " in command.messages
    assert "name a file in a folder that can be written" in command.messages
    assert emulator.stats.requests == emulator.stats.token_requests == 0
    assert [path.name for path in Path().iterdir()] == []


def test_a_failed_probe_writes_no_file(emulator: Emulator, command: Command) -> None:
    emulator.script("ok", 503)
    assert command("probe", "--session", "d-1") == 1
    assert "ServerError" in command.messages
    assert os.listdir() == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "Missing option '--session'"),
        (("--session", ""), "dialog_id: is empty"),
        (("--session", "d", "--user-id", "u"), "--user-id requires COGNIGY_API=sessions"),
    ],
)
def test_invalid_usage(
    emulator: Emulator, command: Command, arguments: tuple[str, ...], message: str
) -> None:
    assert command("probe", *arguments) == 2
    assert message in command.messages
    assert emulator.stats.requests == 0


def test_a_missing_user_id(
    on_sessions: Emulator, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COGNIGY_USER_ID")
    assert command("probe", "--session", "s-1") == 2
    assert "user_id is missing" in command.messages.replace(":", "")
    assert on_sessions.stats.requests == 0
    assert command("probe", "--session", "s-1", "--user-id", "u-2") == 0
    assert on_sessions.dialogs["s-1"].user_id == "u-2"


def test_the_size_of_a_body(on_sessions: Emulator, command: Command) -> None:
    assert command("probe", "--session", "s-1", "--sizes") == 0
    assert "body       59," in command.out
    found = profile()
    assert found.body is not None
    assert found.body.refused_status == 413


@pytest.fixture
def odd(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Serve a tenant that does much otherwise, and name it in the settings."""
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.upper().startswith("COGNIGY_"):
            monkeypatch.delenv(name)
    rules = Rules(
        merge="recursive",
        token_paths=("/oauth/token",),
        token_lifetime=900.0,
        flow_nodes=("default", "checkout"),
    )
    throttling = Throttling(tenant_quota=(1000, 300.0), quota_headers="ietf", dates=True)
    server = Emulator(client_secret=SECRET, rules=rules, throttling=throttling)
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(serve(server)) as base_url,
    ):
        monkeypatch.setenv("COGNIGY_BASE_URL", base_url)
        monkeypatch.setenv("COGNIGY_CLIENT_ID", "emulator-client")
        monkeypatch.setenv("COGNIGY_CLIENT_SECRET", SECRET)
        for name, value in SESSIONS.items():
            monkeypatch.setenv(name, value)
        yield server


def test_jobs_and_other_commands_follow_the_profile(
    odd: Emulator, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without it, the token endpoint is not even found."""
    Path("rows.jsonl").write_text(
        "".join(
            json.dumps({"dialog_id": "s-2", "session": {"cart": {f"v{n}": n}}}) + "\n"
            for n in range(20)
        )
    )
    assert command("bulk", "run", "rows.jsonl") == 1
    assert command("probe", "--session", "s-1") == 0
    assert "HTTP 404: there is no token endpoint." in command.err
    found = profile()
    assert found.token is not None
    assert (found.token.path, found.token.lifetime_seconds) == ("/oauth/token", 900)
    assert found.states is not None
    assert found.states.known_states == ("default",)

    monkeypatch.setenv("COGNIGY_TENANT", "tenant.json")
    Path("rows.jsonl").rename("again.jsonl")
    assert command("bulk", "run", "again.jsonl", "--coalesce", "--json") == 0
    assert command.json["succeeded"] == 20
    # Objects are merged here, so that no two share a request.
    assert command.json["requests"] == 20
    assert odd.dialogs["s-2"].session == {"cart": {f"v{n}": n for n in range(20)}}
    assert command("get", "s-2") == 0
    assert command.json["session"]["cart"]["v3"] == 3
    assert command("doctor") == 0
    assert "dialog cognigy-async-doctor was read" in command.out
