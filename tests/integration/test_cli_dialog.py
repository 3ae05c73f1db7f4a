"""`cognigy-async get` and `update` against an emulator: what they print, and their exit status."""

from __future__ import annotations

import asyncio
import io
import sys
from importlib.util import find_spec
from typing import Any

import pytest
import typer

from cognigy_async import (
    AiohttpTransport,
    AmbiguousUpdateError,
    PyreqwestTransport,
    Request,
    Response,
    ServerError,
    Transport,
)
from cognigy_async.cli import _options
from cognigy_async.cli._run import report_errors
from cognigy_async.emulator import Emulator, Faults

from .conftest import SECRET, Command


def test_an_update_and_the_state_after_it(emulator: Emulator, command: Command) -> None:
    assert command("update", "d-1", "--session", "cart_total=149.99", "--next-step", "pay") == 0
    assert command.err == ""
    result = command.json
    assert list(result) == [
        "update_id",
        "dialog_id",
        "status",
        "etag",
        "version",
        "attempts",
        "latency",
    ]
    assert (result["dialog_id"], result["status"]) == ("d-1", 200)
    assert (result["etag"], result["version"], result["attempts"]) == ('"1"', 1, 1)
    assert 0 < result["latency"] < 30
    assert result["update_id"] == emulator.dialogs["d-1"].history[0].key
    assert command("get", "d-1") == 0
    assert command.json == {
        "dialog_id": "d-1",
        "session": {"cart_total": 149.99},
        "user": {},
        "next_step": "pay",
        "etag": '"1"',
        "version": 1,
    }
    assert command.err == ""


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1),
        ("-2.5", -2.5),
        ("true", True),
        ('"5"', "5"),
        ('{"a": [null, "ö"]}', {"a": [None, "ö"]}),
        ("Zoë", "Zoë"),
        ("", ""),
        ("a=b", "a=b"),
        ("True", "True"),
        ("NaN", "NaN"),
        ("Infinity", "Infinity"),
        ("-Infinity", "-Infinity"),
        ("01", "01"),
    ],
)
def test_a_value_is_json_if_it_parses_as_json(
    emulator: Emulator, command: Command, text: str, value: object
) -> None:
    assert command("update", "d-1", "--user", f"v={text}") == 0
    written = emulator.dialogs["d-1"].user["v"]
    assert (type(written), written) == (type(value), value)
    assert command.err == ""


def test_invalid_json_is_sent_as_text_with_a_note(emulator: Emulator, command: Command) -> None:
    assert command("update", "d-1", "--session", "cart={total: 5}") == 0
    assert emulator.dialogs["d-1"].session["cart"] == "{total: 5}"
    assert command.messages.startswith("Note: --session 'cart' is not valid JSON")


def test_several_variables_in_their_order(emulator: Emulator, command: Command) -> None:
    given = ["--session", "b=1", "--user", "c=3", "--session", "a=2"]
    assert command("update", "d-1", *given) == 0
    dialog = emulator.dialogs["d-1"]
    assert (list(dialog.session.items()), dialog.user) == ([("b", 1), ("a", 2)], {"c": 3})


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "nothing to write"),
        (["--if-match", '"1"'], "nothing to write"),
        (["--session", "a"], "write it as NAME=VALUE"),
        (["--session", ""], "write it as NAME=VALUE"),
        (["--session", "=1"], "write it as NAME=VALUE"),
        (["--session", "a=1", "--session", "a=1"], "--session 'a' is given twice"),
        (["--user", 'a={"b": 1, "b": 2}'], "--user 'a': an object has a duplicate key"),
        (["--user", "a=" + "[" * 100_000], "--user 'a' is nested too deeply"),
        (["--session", "a=null"], "session.a: a variable cannot be None"),
        (["--session", "a=1e999"], "session.a: NaN and infinity are not JSON"),
        (["--session", "a-b=1"], "session.a-b: a variable's name must be an identifier"),
        (["--next-step", ""], "next_step: "),
        (["--session", "a=1", "--if-match", ""], "if_match: "),
        (["--sesion", "a=1"], "No such option"),
    ],
)
def test_invalid_usage_sends_nothing(
    emulator: Emulator, command: Command, arguments: list[str], expected: str
) -> None:
    assert command("update", "d-1", *arguments) == 2
    assert expected in command.messages
    assert command.out == ""
    assert emulator.stats.requests == 0


def test_a_dialog_without_an_id(emulator: Emulator, command: Command) -> None:
    assert command("get", "") == 2
    assert "dialog_id: " in command.messages
    assert command("get") == 2
    assert "Missing argument 'ID'" in command.messages


def test_a_condition_that_does_not_hold(emulator: Emulator, command: Command) -> None:
    assert command("update", "d-1", "--session", "a=1", "--if-match", '"0"') == 0
    assert command("update", "d-1", "--session", "a=2", "--if-match", '"0"') == 1
    assert command.err.startswith("StateConflictError: ")
    for part in ("'d-1'", "HTTP 409", "emulator-1", "Read the state"):
        assert part in command.err
    assert command.err.count("\n") == 1
    assert command.out == ""
    assert emulator.dialogs["d-1"].session == {"a": 1}


def test_a_dialog_that_does_not_exist(emulator: Emulator, command: Command) -> None:
    emulator.script(404, method="GET")
    assert command("get", "d-1") == 1
    assert command.err.startswith("DialogNotFoundError: ")


def test_debug_shows_the_traceback_and_the_log(emulator: Emulator, command: Command) -> None:
    emulator.script(400)
    assert command("update", "d-1", "--session", f"a={SECRET}", "--debug") == 1
    assert "INFO update failed: BadRequestError" in command.err
    assert "Traceback (most recent call last):" in command.err
    assert "cognigy_async.errors.BadRequestError: " in command.err


def test_a_retry_is_logged_on_stderr_only(emulator: Emulator, command: Command) -> None:
    emulator.script(503)
    assert command("update", "d-1", "--session", "a=1") == 0
    assert command.json["attempts"] == 2
    assert command.err.startswith("unavailable (503); retrying in ")
    assert command.err.count("\n") == 1


def test_a_wrong_secret(
    emulator: Emulator, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COGNIGY_CLIENT_SECRET", f"not-{SECRET}")
    assert command("get", "d-1") == 1
    assert command.err.startswith("AuthenticationError: the token endpoint http://127.0.0.1:")
    assert "invalid_client" in command.err


def test_no_settings(emulator: Emulator, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("BASE_URL", "CLIENT_ID", "CLIENT_SECRET"):
        monkeypatch.delenv(f"COGNIGY_{name}")
    assert command("get", "d-1") == 2
    assert command.err.startswith("Error: Settings are missing: COGNIGY_BASE_URL, ")


def test_unknown_settings_are_logged(
    emulator: Emulator, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COGNIGY_COLOUR", "1/1")
    assert command("get", "d-1") == 0
    assert command.err == "COGNIGY_COLOUR is not a setting and has no effect\n"


@pytest.mark.parametrize("oauth", [False, True], ids=["key", "oauth"])
def test_a_port_where_nobody_listens(
    emulator: Emulator, command: Command, monkeypatch: pytest.MonkeyPatch, oauth: bool
) -> None:
    # So that it backs off for no time.
    monkeypatch.setattr("random.uniform", lambda least, most: least)
    monkeypatch.setenv("COGNIGY_BASE_URL", "http://127.0.0.1:1")
    if not oauth:
        monkeypatch.delenv("COGNIGY_CLIENT_ID")
        monkeypatch.delenv("COGNIGY_CLIENT_SECRET")
        monkeypatch.setenv("COGNIGY_API_KEY", "k")
    assert command("update", "d-1", "--session", "a=1") == 1
    last = command.err.splitlines()[-1]
    assert last.startswith("AuthenticationError: " if oauth else "NotSentError: ")
    assert "127.0.0.1:1" in last
    assert "Connection refused" in last


def test_text_beyond_ascii(
    emulator: Emulator, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    emulator.add_dialog("d-1", session={"name": "Zoë"})
    assert command("get", "d-1") == 0
    assert '"Zoë"' in command.out
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))
    assert command("get", "d-1") == 0
    assert b'"Zo\\u00eb"' in written.getvalue()


def test_an_ambiguous_update_names_its_cause(emulator: Emulator, command: Command) -> None:
    emulator.faults = Faults(drop_after=1)
    assert command("update", "d-1", "--session", "a=1", "--next-step", "pay") == 1
    assert command.err.startswith("AmbiguousUpdateError: ")
    assert "Read the state" in command.err
    assert "Cause: No complete response" in command.err


def test_a_cause_in_the_message_of_the_error_is_not_repeated(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(typer.Exit), report_errors(debug=False):
        raise AmbiguousUpdateError("No answer: connection reset") from ServerError(
            "connection reset"
        )
    assert capsys.readouterr().err.count("connection reset") == 1


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("transport", ["httpx", "aiohttp", "pyreqwest"])
def test_over_each_transport_and_loop(
    emulator: Emulator, command: Command, transport: str, loop: str
) -> None:
    chosen = ("--transport", transport, "--loop", loop)
    assert command("update", "d-1", "--session", "a=1", *chosen) == 0
    assert command("get", "d-1", *chosen) == 0
    assert command.json["session"] == {"a": 1}


@pytest.mark.parametrize("missing", [(), ("pyreqwest",)], ids=["all installed", "no pyreqwest"])
def test_the_fastest_library_and_uvloop_are_the_default(
    emulator: Emulator,
    command: Command,
    missing: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        _options, "find_spec", lambda name: None if name in missing else find_spec(name)
    )
    fastest: Any = AiohttpTransport if missing else PyreqwestTransport
    seen: list[tuple[str, str]] = []
    send = fastest.send

    async def noted(self: Transport, request: Request, *, timeout: float) -> Response:
        seen.append((request.method, type(asyncio.get_running_loop()).__module__))
        response: Response = await send(self, request, timeout=timeout)
        return response

    monkeypatch.setattr(fastest, "send", noted)
    assert command("get", "d-1") == 0
    assert seen == [("GET", "uvloop")]
    seen.clear()
    assert command("get", "d-1", "--transport", "httpx") == 0
    assert seen == []


def test_a_chosen_library_that_is_not_installed(
    emulator: Emulator, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_options, "find_spec", lambda name: None)
    assert command("get", "d-1") == 0
    assert command("get", "d-1", "--loop", "uvloop") == 2
    assert "cognigy-async[uvloop]" in command.messages
    for name in ("aiohttp", "pyreqwest"):
        assert command("get", "d-1", "--transport", name) == 2
        assert f"--transport {name} needs {name}" in command.messages
        assert f"cognigy-async[{name}]" in command.messages


# The sessions API.


def test_update_and_get_of_a_session(
    emulator: Emulator, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COGNIGY_API", "sessions")
    profile = "0123456789abcdef01234567"
    arguments = ["s-1", "--session", "a=1", "--user", "b=2", "--next-step", "pay"]
    assert command("update", *arguments, "--profile-id", profile) == 2
    assert "user_id: is missing" in command.messages
    assert "or once as COGNIGY_USER_ID" in command.messages
    assert command("update", *arguments, "--user-id", "u-1") == 2
    assert "user: user variables are stored in a contact profile" in command.messages
    assert emulator.stats.requests == 0
    assert command("update", *arguments, "--user-id", "u-1", "--profile-id", profile) == 0
    assert (command.json["status"], command.json["attempts"]) == (204, 3)
    assert emulator.dialogs["s-1"].user_id == "u-1"
    assert emulator.profiles[profile].profile == {"b": 2}
    assert command("get", "s-1") == 2
    assert "get_state(): is not documented" in command.messages
    assert "use COGNIGY_READS_STATE=true" in command.messages
    monkeypatch.setenv("COGNIGY_READS_STATE", "true")
    assert command("get", "s-1") == 0
    assert (command.json["session"], command.json["next_step"]) == ({"a": 1}, "pay")
