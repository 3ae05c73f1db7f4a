"""Settings of the environment, of `.env` and of `--env-file`: which servers get credentials."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from anyio.from_thread import start_blocking_portal

from cognigy_async.emulator import Emulator, serve

from .commands import CommandProcess, command_environment
from .conftest import SECRET, Command

OTHER = 65533
NOBODY = 65534

ROW = '{"dialog_id": "d-1", "session": {"a": 1}}\n'
COMMANDS = [
    ["get", "d-1"],
    ["update", "d-1", "--session", "a=1"],
    ["doctor"],
    ["bulk", "run", "rows.jsonl"],
    ["bench", "--target", "tenant", "--count", "1", "--dialogs", "ids", "--rounds", "1", "--yes"],
]


@pytest.fixture(autouse=True)
def _inputs(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(ROW)
    (tmp_path / "ids").write_text("d-1\n")


@pytest.fixture
def planted() -> Iterator[tuple[Emulator, str]]:
    """Serve what a stranger's `.env` names; return it with its URL."""
    emulator = Emulator(client_secret=SECRET)
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(serve(emulator)) as url,
    ):
        yield emulator, url


def write(path: Path, **variables: str) -> Path:
    path.write_text("".join(f"COGNIGY_{name}={value}\n" for name, value in variables.items()))
    path.chmod(0o600)
    return path


@pytest.mark.parametrize("arguments", COMMANDS, ids=lambda arguments: arguments[0])
@pytest.mark.parametrize(
    ("name", "path"), [("TOKEN_URL", "/oauth/token"), ("PROXY", "")], ids=["token_url", "proxy"]
)
def test_a_planted_file_gets_no_credentials_of_the_environment(
    emulator: Emulator,
    planted: tuple[Emulator, str],
    command: Command,
    tmp_path: Path,
    arguments: list[str],
    name: str,
    path: str,
) -> None:
    stranger, url = planted
    write(tmp_path / ".env", **{name: url + path})
    assert command(*arguments) == 2
    message = command.out if arguments == ["doctor"] else command.messages
    assert "Credentials and addresses must come all from the environment or all from" in message
    assert f"file .env: COGNIGY_{name}." in message
    assert "--env-file" in message
    assert "Settings(" not in message
    assert stranger.stats.requests == stranger.stats.token_requests == 0
    assert emulator.stats.requests == emulator.stats.token_requests == 0


@pytest.mark.parametrize("arguments", COMMANDS, ids=lambda arguments: arguments[0])
def test_a_named_file_is_mixed_with_the_environment(
    emulator: Emulator,
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    arguments: list[str],
) -> None:
    path = write(tmp_path / "staging.env", BASE_URL=os.environ["COGNIGY_BASE_URL"])
    monkeypatch.delenv("COGNIGY_BASE_URL")
    path.chmod(0o664)
    # The implicit file is not even looked at.
    (tmp_path / ".env").write_bytes(b"\xff")
    assert command("update", "d-1", "--session", "a=1", "--env-file", "staging.env") == 0
    assert command(*arguments, "--env-file", "staging.env") == 0
    assert emulator.stats.token_requests >= 2
    assert command(*arguments) == 2
    assert ".env is not UTF-8" in command.out + command.messages
    assert command(*arguments, "--env-file", "nothing") == 2
    assert "--env-file" in command.messages


def test_a_dry_run_shows_the_fault_and_reads_a_named_file(
    emulator: Emulator, command: Command, tmp_path: Path
) -> None:
    path = write(tmp_path / ".env", TOKEN_URL="https://login.example.com/token")
    run = ("bulk", "run", "rows.jsonl", "--dry-run")
    assert command(*run) == 0
    assert "do not allow a real run yet. Credentials and addresses" in command.messages
    assert "name a file with --env-file" in command.messages
    assert command(*run, "--env-file", str(path)) == 0
    assert command.err == ""


def test_doctor_names_the_source_of_each_setting(
    emulator: Emulator, command: Command, tmp_path: Path
) -> None:
    write(tmp_path / ".env", RATE_LIMIT="10/1")
    assert command("doctor") == 0
    first = command.out.splitlines()[0]
    assert first.endswith(
        " (environment: COGNIGY_BASE_URL, COGNIGY_CLIENT_ID, COGNIGY_CLIENT_SECRET; "
        "file .env: COGNIGY_RATE_LIMIT; default: all others)"
    )
    assert command("doctor", "--json") == 0
    sources = command.json["sources"]
    assert sources["COGNIGY_BASE_URL"] == "environment"
    assert sources["COGNIGY_RATE_LIMIT"] == "file .env"
    assert sources["COGNIGY_TOKEN_URL"] == sources["COGNIGY_SCOPES"] == "default"
    write(tmp_path / "staging", SCOPES="dialog:read")
    assert command("doctor", "--json", "--env-file", "staging") == 0
    assert command.json["sources"] == sources | {
        "COGNIGY_RATE_LIMIT": "default",
        "COGNIGY_SCOPES": "file staging",
    }


def test_doctor_names_the_sources_of_invalid_settings(
    emulator: Emulator, command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write(tmp_path / ".env", API="other")
    assert command("doctor") == 2
    assert "; file .env: COGNIGY_API; default: all others)" in command.out
    assert command("doctor", "--json") == 2
    assert command.json["sources"]["COGNIGY_API"] == "file .env"
    (tmp_path / ".env").chmod(0o666)
    assert command("doctor", "--json") == 2
    assert command.json["sources"] == {}
    (found,) = command.json["checks"]
    assert found["detail"].startswith(".env can be changed by other users")
    assert "--env-file" in found["detail"] + found["remedy"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["bench", "--count", "1"],
        ["audit", "verify", "rows", "--key-file", "rows"],
        ["emulator", "--api-key", "other"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_a_named_file_without_use_is_an_error(
    emulator: Emulator, command: Command, tmp_path: Path, arguments: list[str]
) -> None:
    write(tmp_path / "rows", API="runtime")
    assert command(*arguments, "--env-file", "rows") == 2
    assert "--env-file" in command.messages


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0,
    reason="only root can start a process of another user",
)
def test_a_file_of_another_user_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    folder.chmod(0o755)
    path = write(folder / ".env", API_KEY=SECRET)
    path.chmod(0o644)
    os.chown(path, OTHER, OTHER)

    def run(*arguments: str) -> tuple[int, str, str]:
        variables = command_environment()
        process = CommandProcess(arguments, folder, variables, tmp_path / "output", user=NOBODY)
        try:
            return process.result(timeout=30)
        finally:
            process.end()

    status, _, err = run("get", "d-1")
    assert status == 2
    assert err.startswith(
        f"Error: .env belongs to another user (id {OTHER}, this process has {NOBODY})"
    )
    status, _, err = run("get", "d-1", "--env-file", ".env")
    assert (status, err.partition(". ")[0]) == (2, "Error: Settings are missing: COGNIGY_BASE_URL")
    # That of the administrator is trusted: an image of a container has such files.
    for user in (NOBODY, 0):
        os.chown(path, user, user)
        status, _, err = run("get", "d-1")
        missing = "Error: Settings are missing: COGNIGY_BASE_URL"
        assert (status, err.partition(". ")[0]) == (2, missing)
