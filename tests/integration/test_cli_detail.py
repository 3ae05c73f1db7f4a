"""How much the commands print: `--quiet`, `--verbose` and `--debug`."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from cognigy_async.emulator import Emulator, Faults

from .conftest import Command

UPDATE = ["update", "d-1", "--session", "a=1"]
WAIT = "unavailable (503); retrying in"


@pytest.mark.parametrize(
    ("options", "shown"), [([], True), (["-q"], False), (["--quiet"], False), (["-v"], True)]
)
def test_a_wait_is_shown_unless_it_is_quiet(
    emulator: Emulator, command: Command, options: list[str], shown: bool
) -> None:
    emulator.script("error_503")
    assert command(*UPDATE, *options) == 0
    assert command.json["attempts"] == 2
    assert (WAIT in command.err) == shown
    assert shown or command.err == ""


def test_an_error_is_printed_although_it_is_quiet(emulator: Emulator, command: Command) -> None:
    emulator.faults = Faults(fail_status=403)
    assert command(*UPDATE, "-q") == 1
    assert command.err.startswith("PermissionDeniedError: ")


def test_verbose_shows_what_the_library_logs_and_debug_shows_all(
    emulator: Emulator, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COGNIGY_SCOPE", "a")
    logger = logging.getLogger("cognigy_async")
    sends = type(emulator).__call__

    async def logging_too(self: Emulator, *arguments: object) -> None:
        logger.debug("a detail")
        logger.info("a message")
        await sends(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(type(emulator), "__call__", logging_too)
    seen = {}
    for option in ("--quiet", "--json", "--verbose", "--debug"):
        arguments = ["doctor"] if option == "--json" else ["doctor", "--json", option]
        command(*arguments, "--dialog", "d-1")
        lines = ("a message", "a detail", "COGNIGY_SCOPE is not a setting")
        seen[option] = [line in command.err for line in lines]
    assert seen == {
        "--quiet": [False, False, False],
        "--json": [False, False, False],
        "--verbose": [True, False, True],
        "--debug": [True, True, True],
    }


@pytest.mark.parametrize("other", ["-v", "--debug"])
@pytest.mark.parametrize("name", ["get", "update", "doctor", "bulk run", "bench", "emulator"])
def test_quiet_excludes_the_others(
    emulator: Emulator, command: Command, name: str, other: str
) -> None:
    arguments = {"get": ["d-1"], "update": UPDATE[1:], "bulk run": ["rows.jsonl"]}.get(name, [])
    assert command(*name.split(), *arguments, "-q", other) == 2
    assert "--quiet excludes --verbose and --debug; drop one of them" in command.messages
    assert emulator.stats.requests == 0


def test_a_quiet_doctor_prints_what_needs_attention(
    emulator: Emulator, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert command("doctor", "-q") == 0
    assert command.out == ""
    monkeypatch.setenv("COGNIGY_CLIENT_SECRET", "canary-secret")
    assert command("doctor", "-q") == 1
    lines = command.out.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("failed  token")
    assert command("doctor", "-q", "--json") == 1
    assert len(command.json["checks"]) > 1


def test_a_quiet_job_prints_its_result_and_what_needs_attention(
    emulator: Emulator, command: Command
) -> None:
    # The byte order mark is worth a note.
    Path("rows.jsonl").write_text(
        '{"dialog_id": "d-1", "session": {"a": 1}}\n', encoding="utf-8-sig"
    )
    assert command("bulk", "run", "rows.jsonl", "--journal", "a") == 0
    assert "Note: " in command.err
    assert command("bulk", "run", "rows.jsonl", "--journal", "b", "-q") == 0
    assert (command.out.startswith("1 of 1 rows applied"), command.err) == (True, "")
    emulator.faults = Faults(fail_status=403)
    assert command("bulk", "run", "rows.jsonl", "--journal", "c", "-q") == 1
    assert command.err != ""


def test_a_quiet_benchmark_prints_its_table_alone(command: Command) -> None:
    arguments = ["bench", "--count", "5", "--rounds", "1"]
    assert command(*arguments) == 0
    assert "Target: emulator" in command.err
    assert command(*arguments, "-q") == 0
    assert command.err == ""
    assert "updates/s" in command.out
