"""`cognigy-async init` on a terminal: its questions, its test, and the file that it writes."""

from __future__ import annotations

import os
import re
import signal
import stat
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from anyio.from_thread import start_blocking_portal
from dotenv import dotenv_values

from cognigy_async import ConfigurationError
from cognigy_async.cli.init import SHARED_HOST, _address, _documented_limits, _format
from cognigy_async.emulator import Emulator, serve
from cognigy_async.integrations.settings import Settings

from .commands import command_environment
from .conftest import SECRET, Command

API = "API: sessions or runtime"
ADDRESS = "Address of the API"
LOGIN = "Log in with: key or client"
KEY, CLIENT, CLIENT_SECRET = "API key (not shown)", "Client id", "Client secret (not shown)"
TOKENS = "Address for tokens"
USER = "User id, or - for none"
ANYWAY = "Write these settings all the same?"


class Terminal:
    """The command on a terminal."""

    def __init__(
        self, folder: Path, *arguments: str, stdin: int | None = None, **variables: str
    ) -> None:
        self._master, slave = os.openpty()
        self.shown = ""
        self._read = 0
        self.process = subprocess.Popen(
            [sys.executable, "-m", "cognigy_async", *arguments],
            stdin=slave if stdin is None else stdin,
            stdout=slave,
            stderr=slave,
            cwd=folder,
            env=command_environment(TERM="dumb", COLUMNS="80", **variables),
            # Without a terminal of its own, a question for a secret goes to this one.
            start_new_session=True,
        )
        os.close(slave)

    def answer(self, question: str, answer: str) -> None:
        """Wait for a question and type the answer."""
        self.wait_for(question)
        self._read = len(self.shown)
        os.write(self._master, f"{answer}\n".encode())

    def wait_for(self, question: str) -> None:
        """Wait for a question, and for the terminal to hide the answer if it is a secret."""
        end = time.monotonic() + 30
        while question not in self.shown[self._read :] or not self.shown.endswith(": "):
            assert time.monotonic() < end, self.shown
            self.shown += os.read(self._master, 65536).decode()
        if "not shown" in question:
            while termios.tcgetattr(self._master)[3] & termios.ECHO:
                assert time.monotonic() < end, "the terminal shows what is typed"
                time.sleep(0.01)

    def interrupt(self) -> None:
        """Interrupt it, again if it was just about to read: Python notices that after the read."""
        for _ in range(5):
            self.process.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(timeout=5)
                return

    def end(self) -> int:
        """Wait for the end; return the exit status."""
        with suppress(OSError):  # it ends like this on Linux
            while data := os.read(self._master, 65536):
                self.shown += data.decode()
        return self.process.wait(timeout=30)

    def close(self) -> None:
        with self.process:
            self.process.kill()
        os.close(self._master)


@pytest.fixture
def terminals(tmp_path: Path) -> Iterator[list[Terminal]]:
    started: list[Terminal] = []
    yield started
    for terminal in started:
        terminal.close()


@pytest.fixture
def server() -> Iterator[tuple[Emulator, str]]:
    """Serve an emulator; return it with its URL."""
    emulator = Emulator(client_secret=SECRET, api_key=SECRET)
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(serve(emulator)) as url,
    ):
        yield emulator, url


def test_client_credentials_are_asked_for_tested_and_written(
    server: tuple[Emulator, str], terminals: list[Terminal], tmp_path: Path
) -> None:
    emulator, url = server
    terminals.append(terminal := Terminal(tmp_path, "init"))
    terminal.answer(API, "runtime")
    terminal.answer(ADDRESS, f"{url}/")
    terminal.answer(LOGIN, "")
    terminal.answer(CLIENT, "emulator-client")
    terminal.answer(CLIENT_SECRET, SECRET)
    terminal.answer(TOKENS, "")
    assert terminal.end() == 0, terminal.shown
    assert SECRET not in terminal.shown
    assert "Wrote .env." in terminal.shown
    assert re.search(r"ok +token", terminal.shown)
    path = tmp_path / ".env"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert dotenv_values(path) == {
        "COGNIGY_BASE_URL": url,
        "COGNIGY_API": "runtime",
        "COGNIGY_CLIENT_ID": "emulator-client",
        "COGNIGY_CLIENT_SECRET": SECRET,
    }
    assert [entry.name for entry in tmp_path.iterdir()] == [".env"]
    assert emulator.dialogs == {}, "nothing is written to the server"
    assert (emulator.stats.reads, emulator.stats.writes) == (3, 0)
    done = subprocess.run(
        [sys.executable, "-m", "cognigy_async", "update", "d-1", "--session", "a=1"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=command_environment(),
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_an_answer_that_is_wrong_is_asked_for_again(
    server: tuple[Emulator, str], terminals: list[Terminal], tmp_path: Path
) -> None:
    _, url = server
    terminals.append(terminal := Terminal(tmp_path, "init", "--env-file", "test.env"))
    terminal.answer(API, "graph")
    terminal.answer(API, "")
    terminal.answer(ADDRESS, "http://api.example.com")
    terminal.answer(ADDRESS, "trial.cognigy.ai")
    terminal.answer(ADDRESS, url)
    terminal.answer(LOGIN, "")
    terminal.answer(KEY, SECRET)
    terminal.answer(USER, "u-1")
    assert terminal.end() == 0, terminal.shown
    assert "Error: answer sessions or runtime" in terminal.shown
    assert "Error: the address uses http://" in terminal.shown
    assert "the API is at https://api-trial.cognigy.ai" in terminal.shown
    assert "cognigy-async update ID --session NAME=VALUE --env-file test.env" in terminal.shown
    assert dotenv_values(tmp_path / "test.env") == {
        "COGNIGY_BASE_URL": url,
        "COGNIGY_API": "sessions",
        "COGNIGY_API_KEY": SECRET,
        "COGNIGY_USER_ID": "u-1",
    }


def test_without_a_user_the_next_command_names_one(
    server: tuple[Emulator, str], terminals: list[Terminal], tmp_path: Path
) -> None:
    terminals.append(terminal := Terminal(tmp_path, "init"))
    for question, answer in ((API, ""), (ADDRESS, server[1]), (LOGIN, ""), (KEY, SECRET)):
        terminal.answer(question, answer)
    terminal.answer(USER, "")
    assert terminal.end() == 0, terminal.shown
    next_command = "Next: cognigy-async update ID --user-id USER --session NAME=VALUE"
    assert next_command in " ".join(terminal.shown.split())


@pytest.mark.parametrize(("answer", "status"), [("n", 1), ("y", 0)])
def test_settings_that_fail_are_written_only_after_a_yes(
    server: tuple[Emulator, str],
    terminals: list[Terminal],
    tmp_path: Path,
    answer: str,
    status: int,
) -> None:
    _, url = server
    terminals.append(terminal := Terminal(tmp_path, "init"))
    terminal.answer(API, "runtime")
    terminal.answer(ADDRESS, url)
    terminal.answer(LOGIN, "key")
    terminal.answer(KEY, "canary-wrong-key")
    terminal.answer(ANYWAY, answer)
    assert terminal.end() == status
    assert "canary-wrong-key" not in terminal.shown
    assert re.search(r"failed +read", terminal.shown)
    assert ("Nothing was written." in terminal.shown) == (status == 1)
    assert len(list(tmp_path.iterdir())) == (1 if status == 0 else 0)


@pytest.mark.parametrize("answer", ["", "n", "y"])
def test_a_file_is_replaced_only_after_a_yes(
    server: tuple[Emulator, str], terminals: list[Terminal], tmp_path: Path, answer: str
) -> None:
    _, url = server
    path, other = tmp_path / ".env", tmp_path / "other"
    other.write_text("A=1\n")
    path.symlink_to(other)
    terminals.append(terminal := Terminal(tmp_path, "init"))
    terminal.answer(".env exists. Replace it?", answer)
    if answer == "y":
        terminal.answer(API, "runtime")
        terminal.answer(ADDRESS, url)
        terminal.answer(LOGIN, "key")
        terminal.answer(KEY, SECRET)
        assert terminal.end() == 0
        assert not path.is_symlink()
        assert dotenv_values(path)["COGNIGY_API_KEY"] == SECRET
    else:
        assert terminal.end() == 1
        assert terminal.shown.endswith("Nothing was written.\r\n")
        assert path.is_symlink()
    assert other.read_text() == "A=1\n"


def test_a_file_that_is_created_meanwhile_is_kept(
    server: tuple[Emulator, str], terminals: list[Terminal], tmp_path: Path
) -> None:
    _, url = server
    terminals.append(terminal := Terminal(tmp_path, "init"))
    terminal.answer(API, "runtime")
    terminal.answer(ADDRESS, url)
    terminal.answer(LOGIN, "key")
    (tmp_path / ".env").write_text("A=1\n")
    terminal.answer(KEY, SECRET)
    assert terminal.end() == 2
    assert "was created meanwhile" in terminal.shown
    assert [(entry.name, entry.read_text()) for entry in tmp_path.iterdir()] == [(".env", "A=1\n")]


@pytest.mark.parametrize("question", [ADDRESS, KEY])
def test_an_interrupt_writes_nothing(
    terminals: list[Terminal], tmp_path: Path, question: str
) -> None:
    terminals.append(terminal := Terminal(tmp_path, "init"))
    terminal.answer(API, "runtime")
    if question == KEY:
        terminal.answer(ADDRESS, "https://api.example.com")
        terminal.answer(LOGIN, "key")
    terminal.wait_for(question)
    terminal.interrupt()
    assert terminal.end() == 130
    assert "Interrupted. Nothing was written." in terminal.shown
    assert list(tmp_path.iterdir()) == []


def test_without_a_terminal_it_says_what_to_do(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert command("init") == 2
    assert command.messages == (
        "Error: init asks questions and needs a terminal. In a script, set the variables in the "
        "environment or write the file .env yourself"
    )
    assert list(tmp_path.iterdir()) == []


def test_answers_from_a_pipe_are_not_taken(terminals: list[Terminal], tmp_path: Path) -> None:
    terminals.append(terminal := Terminal(tmp_path, "init", stdin=subprocess.DEVNULL))
    assert terminal.end() == 2
    assert "init asks questions and needs a terminal" in terminal.shown


def test_settings_of_the_environment_are_named(terminals: list[Terminal], tmp_path: Path) -> None:
    terminal = Terminal(tmp_path, "init", COGNIGY_API_KEY="canary-key", COGNIGY_AUDIT_KEY="k")
    terminals.append(terminal)
    assert terminal.end() == 2
    assert "COGNIGY_API_KEY: set in the environment" in terminal.shown
    assert "AUDIT" not in terminal.shown
    assert "canary" not in terminal.shown


def test_a_folder_is_no_file(terminals: list[Terminal], tmp_path: Path) -> None:
    (tmp_path / ".env").mkdir()
    for arguments in ([], ["--env-file", "missing/.env"]):
        terminals.append(terminal := Terminal(tmp_path, "init", *arguments))
        assert terminal.end() == 2
        assert "cannot be written; name another file with --env-file" in terminal.shown


@pytest.mark.parametrize(
    "secret",
    ["a#b", "a b", "a #b", '"a"', "$HOME", "a$b", "!", "a\\", "`a`", "é", "a'b", "=", "a\\n"],
)
def test_a_secret_is_read_as_it_was_typed(tmp_path: Path, secret: str) -> None:
    path = tmp_path / "file"
    variables = {
        "COGNIGY_BASE_URL": "https://api.example.com",
        "COGNIGY_CLIENT_ID": "id",
        "COGNIGY_CLIENT_SECRET": secret,
    }
    path.write_text(_format(variables), encoding="utf-8")
    found = Settings(env_file=path).client_secret
    assert found is not None
    assert found.get_secret_value() == secret
    if "'" in secret or "\\" in secret:
        return
    done = subprocess.run(
        ["sh", "-ec", '. ./file; printf %s "$COGNIGY_CLIENT_SECRET"'],
        capture_output=True,
        cwd=tmp_path,
        check=False,
    )
    assert done.stdout.decode() == secret


@pytest.mark.parametrize("secret", ["${HOME}", "' #", "'\\"])
def test_a_secret_that_a_file_cannot_hold_is_refused(secret: str) -> None:
    with pytest.raises(ConfigurationError, match="COGNIGY_API_KEY has characters") as caught:
        _format({"COGNIGY_API_KEY": secret})
    assert secret not in str(caught.value)


@pytest.mark.parametrize(
    ("host", "shared"),
    [
        ("api-trial.cognigy.ai", True),
        ("api-app.cognigy.ai", True),
        ("api-app-us.cognigy.ai", True),
        ("cognigy-api-na1.nicecxone.com", True),
        ("api-example.cognigy.cloud", False),
        ("api-trial.cognigy.ai.example.com", False),
        ("cognigy.example.com", False),
    ],
)
def test_which_hosts_are_shared(host: str, shared: bool) -> None:
    assert bool(SHARED_HOST.fullmatch(host)) == shared


@pytest.mark.parametrize(
    ("api", "host", "limit"),
    [
        ("sessions", "api-trial.cognigy.ai", None),
        ("sessions", "api-app.cognigy.ai", "app"),
        ("sessions", "api-app-us.cognigy.ai", "app"),
        ("sessions", "cognigy-api-na1.nicecxone.com", "app"),
        ("sessions", "api-example.cognigy.cloud", None),
        ("sessions", "api-app.cognigy.ai.example.com", None),
        ("runtime", "api-app.cognigy.ai", None),
        ("runtime", "api.cognigy.ai", None),
    ],
)
def test_app_allows_larger_contexts(tmp_path: Path, api: str, host: str, limit: str | None) -> None:
    limits = _documented_limits(api, f"https://{host}")
    assert limits.get("COGNIGY_CONTEXT_LIMIT") == limit
    variables = {"COGNIGY_BASE_URL": f"https://{host}", "COGNIGY_API": api}
    path = tmp_path / "file"
    path.write_text(_format(variables | {"COGNIGY_API_KEY": "k"} | limits), encoding="utf-8")
    size = Settings(env_file=path).state_api().limits.max_context_bytes
    assert size == {"sessions": 65_000, "runtime": 2**20}[api] if limit is None else 1_500_000


@pytest.mark.parametrize(
    "text",
    [
        "api-trial.cognigy.ai",
        " https://api-trial.cognigy.ai/ ",
        "https://api-trial.cognigy.ai/new/",
        "https://api-trial.cognigy.ai/new/v2.0",
        "https://api-trial.cognigy.ai/openapi",
    ],
)
def test_addresses_as_people_copy_them(text: str) -> None:
    assert _address(text) == "https://api-trial.cognigy.ai"
