"""The command as a process: signals, closed pipes, credentials, output streams."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shlex
import signal
import socket
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from anyio.from_thread import start_blocking_portal

from cognigy_async import TenantProfile
from cognigy_async.emulator import Emulator, Faults, serve
from tests.integration.commands import command_environment
from tests.terminal import read_screens

SECRET = "correct-horse-battery-staple"

UNSET: Mapping[str, str] = {}

Process = subprocess.Popen[str]


class Commands:
    """Starts the command in a directory of its own, with a clean environment."""

    def __init__(self, directory: Path, stack: ExitStack) -> None:
        self.directory = directory
        self.stack = stack
        self.environment = command_environment(PYTHONWARNINGS="error")

    def start(
        self,
        *arguments: str,
        stdout: int | None = None,
        stderr: int | None = None,
        variables: Mapping[str, str] = UNSET,
        encoding: str = "utf-8",
    ) -> Process:
        process = subprocess.Popen(
            [sys.executable, "-m", "cognigy_async", *arguments],
            stdout=subprocess.PIPE if stdout is None else stdout,
            stderr=subprocess.PIPE if stderr is None else stderr,
            text=True,
            encoding=encoding,
            cwd=self.directory,
            env={**self.environment, **variables},
        )
        self.stack.callback(_end, process)
        return process

    def run(self, *arguments: str, variables: Mapping[str, str] = UNSET) -> tuple[int, str, str]:
        process = self.start(*arguments, variables=variables)
        out, err = process.communicate(timeout=50)
        return process.returncode, out, err


def _end(process: Process) -> None:
    with process:
        process.kill()


@pytest.fixture
def commands(tmp_path: Path) -> Iterator[Commands]:
    with ExitStack() as stack:
        yield Commands(tmp_path, stack)


@pytest.fixture
def emulator(commands: Commands) -> Iterator[Emulator]:
    """Serve an emulator that the settings of the commands name."""
    emulator = Emulator(api_key=SECRET)
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(serve(emulator)) as base_url,
    ):
        commands.environment |= {"COGNIGY_BASE_URL": base_url, "COGNIGY_API_KEY": SECRET}
        yield emulator


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, "it does not happen"
        time.sleep(0.01)


def first_line(process: Process) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


# All of it.


def test_the_version(commands: Commands) -> None:
    status, out, err = commands.run("--version")
    assert (status, err) == (0, "")
    assert out.startswith("cognigy-async")
    assert out.count("\n") == 1


def test_without_the_extra_the_message_names_it(commands: Commands) -> None:
    program = (
        "import sys; sys.modules['typer'] = None; sys.argv = ['cognigy-async', 'demo']\n"
        "from cognigy_async.cli import main\nmain()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env=commands.environment,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "typer" in done.stderr
    assert "pip install 'cognigy-async[cli]'" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.quick("arguments0")
@pytest.mark.parametrize("arguments", [["get", "d-1"], ["update", "d-1", "--session", "a=1"]])
def test_a_closed_stdout_changes_nothing(
    commands: Commands, emulator: Emulator, arguments: list[str]
) -> None:
    read, write = os.pipe()
    os.close(read)
    process = commands.start(*arguments, stdout=write)
    os.close(write)
    _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (0, "")
    assert emulator.stats.requests == 1


WITH_RESULTS = {
    "get": ["get", "d-1"],
    "update": ["update", "d-1", "--session", "a=1"],
    "bulk run": ["bulk", "run", "rows.jsonl", "--json"],
    "bulk run --dry-run": ["bulk", "run", "rows.jsonl", "--dry-run", "--json"],
    "audit verify": ["audit", "verify", "audit.jsonl"],
    "doctor": ["doctor", "--json"],
    "--version": ["--version"],
    "--help": ["--help"],
}


@pytest.mark.quick("get", "bulk run", "--help")
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
@pytest.mark.parametrize("arguments", WITH_RESULTS.values(), ids=WITH_RESULTS)
def test_a_result_that_cannot_be_written_is_an_error(
    commands: Commands, emulator: Emulator, arguments: list[str]
) -> None:
    (commands.directory / "rows.jsonl").write_text('{"dialog_id": "d-1", "session": {"a": 1}}\n')
    (commands.directory / "audit.jsonl").touch()
    with open("/dev/full", "w") as full:
        process = commands.start(*arguments, stdout=full.fileno())
        _, err = process.communicate(timeout=30)
    assert (process.returncode, err.splitlines()[-1]) == (1, "Error: No space left on device")
    assert "Traceback" not in err


@pytest.mark.quick("missing.*")
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
@pytest.mark.parametrize(("name", "status"), [("rows.jsonl", 0), ("missing.jsonl", 2)])
def test_messages_that_cannot_be_written_change_no_status(
    commands: Commands, emulator: Emulator, name: str, status: int
) -> None:
    (commands.directory / "rows.jsonl").write_text('{"dialog_id": "d-1", "session": {"a": 1}}\n')
    with open("/dev/full", "w") as full:
        process = commands.start("bulk", "run", name, "--json", stderr=full.fileno())
        process.communicate(timeout=30)
    assert process.returncode == status


@pytest.mark.quick("arguments0")
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
@pytest.mark.parametrize("arguments", [["nonsense"], ["get"], ["get", "d-1", "--nonsense"]])
def test_bad_usage_that_cannot_be_printed_has_its_status(
    commands: Commands, arguments: list[str]
) -> None:
    with open("/dev/full", "w") as full:
        process = commands.start(*arguments, stderr=full.fileno())
        process.communicate(timeout=30)
    assert process.returncode == 2


# Closed streams. A shell or a daemon starts a command like this; the first descriptors that the
# event loop opens would get their numbers.


def start_closed(commands: Commands, closed: str, *arguments: str) -> Process:
    """Start the command with standard streams closed, such as `2>&-`."""
    process = subprocess.Popen(
        ["sh", "-c", f'exec "$0" "$@" {closed}', sys.executable, "-m", "cognigy_async", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        cwd=commands.directory,
        env=commands.environment,
    )
    commands.stack.callback(_end, process)
    return process


@pytest.mark.quick("bulk run-*-[<2]&-", "bulk run-uvloop-* *", "get-asyncio-*")
@pytest.mark.parametrize(
    ("name", "loop", "closed"),
    [
        ("get", "uvloop", "<&-"),
        ("get", "uvloop", "2>&-"),
        ("get", "asyncio", ">&-"),
        ("update", "uvloop", ">&-"),
        ("bulk run", "uvloop", "<&-"),
        ("bulk run", "uvloop", ">&-"),
        ("bulk run", "asyncio", "2>&-"),
        *((name, "uvloop", "<&- >&- 2>&-") for name in ("get", "update", "bulk run", "doctor")),
    ],
)
def test_closed_streams_change_nothing(
    commands: Commands, emulator: Emulator, name: str, loop: str, closed: str
) -> None:
    (commands.directory / "rows.jsonl").write_text('{"dialog_id": "d-1", "session": {"a": 1}}\n')
    arguments = WITH_RESULTS[name] + ([] if name == "doctor" else ["--loop", loop])
    process = start_closed(commands, closed, *arguments)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (0, "")
    assert (out == "") == (">&-" in closed.split())
    if out:
        json.loads(out)
    # `doctor` asks which APIs are there, by three reads, and reads a state.
    assert emulator.stats.requests == (4 if name == "doctor" else 1)
    # The journal and the sockets got no number of a standard stream, so nothing was written there.
    assert sorted(path.suffix for path in commands.directory.iterdir()) in (
        [".jsonl"],
        [".journal", ".jsonl"],
        [".journal", ".jsonl", ".lock"],
    )


@pytest.mark.parametrize("arguments", [["get", "d-1", "--nonsense"], ["bulk", "run", "missing"]])
def test_an_error_has_its_status_with_closed_streams(
    commands: Commands, arguments: list[str]
) -> None:
    process = start_closed(commands, "<&- >&- 2>&-", *arguments)
    assert process.communicate(timeout=30) == ("", "")
    assert process.returncode == 2


def test_a_closed_standard_input_is_not_an_empty_one(
    commands: Commands, emulator: Emulator
) -> None:
    process = start_closed(commands, "<&-", "bulk", "run", "-")
    _, err = process.communicate(timeout=30)
    assert (process.returncode, "standard input is closed" in err) == (2, True)
    commands.environment["COGNIGY_BASE_URL"] = "https://api.example.com"
    process = start_closed(commands, "<&-", "bench", "--target", "tenant")
    _, err = process.communicate(timeout=30)
    assert (process.returncode, "Add --yes to confirm" in err) == (2, True)


@pytest.mark.quick("2>&-")
@pytest.mark.parametrize("closed", [">&-", "2>&-"])
def test_children_inherit_no_closed_stream(commands: Commands, closed: str) -> None:
    arguments = ["bench", "--count", "5", "--rounds", "1", "--json"]
    process = start_closed(commands, closed, *arguments)
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    assert closed == ">&-" or json.loads(out)["rows"]


@pytest.mark.quick("arguments0")
@pytest.mark.parametrize("arguments", [["--help"], ["bulk", "run", "--help"], ["--version"]])
def test_a_help_text_whose_reader_has_left(commands: Commands, arguments: list[str]) -> None:
    read, write = os.pipe()
    os.close(read)
    process = commands.start(*arguments, stdout=write)
    os.close(write)
    _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (0, "")


@pytest.mark.quick("arguments0")
@pytest.mark.parametrize("arguments", [["nonsense"], ["get"], ["get", "d-1", "--nonsense"]])
def test_bad_usage_whose_reader_has_left(commands: Commands, arguments: list[str]) -> None:
    read, write = os.pipe()
    os.close(read)
    process = commands.start(*arguments, stderr=write)
    os.close(write)
    out, _ = process.communicate(timeout=30)
    assert (process.returncode, out) == (2, "")


# Colours and characters.


@pytest.mark.quick("*-get", "*-bulk run")
@pytest.mark.parametrize(
    ("variable", "name"),
    [
        ("FORCE_COLOR", "get"),
        ("FORCE_COLOR", "bulk run"),
        ("TTY_COMPATIBLE", "update"),
        ("TTY_COMPATIBLE", "bulk run --dry-run"),
        ("TTY_INTERACTIVE", "doctor"),
        ("TTY_INTERACTIVE", "bulk run"),
    ],
)
def test_json_in_a_pipe_is_json_whatever_is_set(
    commands: Commands, emulator: Emulator, variable: str, name: str
) -> None:
    (commands.directory / "rows.jsonl").write_text('{"dialog_id": "d-1", "session": {"a": 1}}\n')
    status, out, err = commands.run(*WITH_RESULTS[name], variables={variable: "1"})
    assert (status, err) == (0, "")
    assert json.loads(out)
    assert "\x1b" not in out


HOSTILE = "\x1b[2J\x9b31m\x07\u202e\u2066\u200f\u2028\x7f\ud83d\ude00é\u3000"


@pytest.mark.quick("cp1252")
@pytest.mark.parametrize("encoding", ["utf-8", "cp1252"])
def test_no_character_of_a_server_or_a_file_ends_a_command(
    commands: Commands, emulator: Emulator, encoding: str
) -> None:
    variables = {"PYTHONIOENCODING": encoding}
    value = json.dumps(HOSTILE)
    name = "größe-\u202e-\u03b1.jsonl"
    (commands.directory / name).write_text(
        f'{{"dialog_id": "d-\u03b1", "session": {{"a": {value}}}}}\n'
        f'{{"dialog_id": "d-\u03b1", "session": {{"a\u202e": 1}}}}\n',
        encoding="utf-8",
    )
    for arguments, expected in (
        (["update", "d-\u03b1", "--session", f"a={value}"], 0),
        (["get", "d-\u03b1"], 0),
        (["bulk", "run", name, "--dry-run"], 1),
        (["bulk", "run", name], 1),
        (["bulk", "status", f"{name}.journal"], 0),
        (["bulk", "explain", f"{name}.journal", "d-\u03b1"], 0),
        (["bulk", "explain", f"{name}.journal", "d-\u03b2\u202e"], 1),
        (["doctor", "--dialog", "d-\u202e\u03b1"], 0),
    ):
        process = commands.start(*arguments, variables=variables, encoding=encoding)
        out, err = process.communicate(timeout=30)
        assert process.returncode == expected, (arguments, err)
        assert "Traceback" not in err
        for line in f"{out}\n{err}".splitlines():
            assert all(c.isprintable() or c == "\u3000" for c in line), (arguments, line)
        if arguments[0] == "get":
            assert json.loads(out)["session"] == {"a": json.loads(value)}


def test_a_terminal_gets_colours_and_no_character_of_a_server(
    commands: Commands, emulator: Emulator
) -> None:
    commands.run("update", "d-1", "--session", f"a={json.dumps(HOSTILE)}")
    master, slave = os.openpty()
    process = commands.start("get", "d-1", stdout=slave, variables={"TERM": "xterm-256color"})
    os.close(slave)
    _, err = process.communicate(timeout=30)
    shown = b""
    with suppress(OSError):  # it ends like this on Linux
        while chunk := os.read(master, 65536):
            shown += chunk
    os.close(master)
    assert (process.returncode, err) == (0, "")
    text = re.sub(r"\x1b\[[0-9;]*m", "", shown.decode())
    assert text != shown.decode(), "there are colours"
    assert text.replace("\r\n", "").replace("\u3000", "").isprintable()
    assert json.loads(text)["session"] == {"a": json.loads(json.dumps(HOSTILE))}


def test_a_job_on_a_terminal_shows_rows_applied_of_all(
    commands: Commands, emulator: Emulator
) -> None:
    emulator.faults = Faults(latency=0.1)
    rows = (f'{{"dialog_id": "d-{n}", "session": {{"a": 1}}}}\n' for n in range(200))
    (commands.directory / "rows.jsonl").write_text("".join(rows))
    master, slave = os.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 60, 0, 0))
    arguments = ["bulk", "run", "rows.jsonl", "--max-in-flight", "8"]
    process = commands.start(*arguments, stderr=slave, variables={"TERM": "xterm-256color"})
    os.close(slave)
    screen, screens = read_screens(master, 60)
    out, _ = process.communicate(timeout=30)
    assert (process.returncode, screen.lines) == (0, [])
    assert out.startswith("200 of 200 rows applied; 200 requests in ")
    line = r"(\d+) of 200 applied, 0 failed, \d+\.\d rows/s, [\w. ]+ left"
    seen = [found for each in screens if (found := re.search(line, each, re.MULTILINE))]
    assert len(seen) >= 3
    assert any(0 < int(found[1]) < 200 for found in seen)


# An interrupt.


def test_an_interrupt_while_the_answer_is_awaited(commands: Commands, emulator: Emulator) -> None:
    emulator.faults = Faults(hang=1)
    process = commands.start("update", "d-1", "--session", "a=1")
    wait_for(lambda: emulator.stats.writes == 1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=10)
    assert (process.returncode, out) == (130, "")
    assert err == (
        "The update may have been applied. Read the state before you send it again.\nInterrupted.\n"
    )


def test_an_interrupt_lets_a_request_end(commands: Commands, emulator: Emulator) -> None:
    emulator.faults = Faults(latency=1)
    process = commands.start("update", "d-1", "--session", "a=1")
    wait_for(lambda: emulator.stats.writes == 1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=10)
    assert (process.returncode, out) == (130, "")
    assert err == "The update was applied.\nInterrupted.\n"
    assert emulator.dialogs["d-1"].version == 1


def test_an_interrupt_between_attempts(commands: Commands, emulator: Emulator) -> None:
    emulator.faults = Faults(fail_status=503, retry_after_503=30)
    process = commands.start("update", "d-1", "--session", "a=1")
    wait_for(lambda: emulator.stats.answers[503] == 1)
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=10)
    assert (process.returncode, out) == (130, "")
    assert err.endswith("The update was not applied.\nInterrupted.\n")
    assert emulator.stats.writes == 1


def test_an_interrupt_while_there_is_no_token(commands: Commands, emulator: Emulator) -> None:
    emulator.faults = Faults(token_failure=1)
    del commands.environment["COGNIGY_API_KEY"]
    commands.environment |= {
        "COGNIGY_CLIENT_ID": "emulator-client",
        "COGNIGY_CLIENT_SECRET": "emulator-secret",
    }
    process = commands.start("update", "d-1", "--session", "a=1")
    wait_for(lambda: emulator.stats.token_requests >= 1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=10)
    assert (process.returncode, out) == (130, "")
    assert err.endswith("The update was not applied.\nInterrupted.\n")


def test_an_interrupt_of_a_read(commands: Commands, emulator: Emulator) -> None:
    emulator.faults = Faults(hang=1)
    process = commands.start("get", "d-1")
    wait_for(lambda: emulator.stats.reads == 1)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=10) == ("", "Interrupted.\n")
    assert process.returncode == 130


def test_an_interrupt_of_the_demo(commands: Commands) -> None:
    process = commands.start("demo")
    assert first_line(process).startswith("cognigy-async demo on the emulator http://")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=10)
    assert (process.returncode, err) == (130, "Interrupted.\n")


# The emulator.


def listening(process: Process) -> str:
    words = first_line(process).split(" ")
    assert words[:2] == ["listening", "on"]
    base_url = words[2].removesuffix("\n")
    assert base_url.startswith("http://127.0.0.1:")
    return base_url


def stop(process: Process, number: signal.Signals = signal.SIGTERM) -> str:
    """End a process; return its stderr."""
    process.send_signal(number)
    out, err = process.communicate(timeout=10)
    assert (process.returncode, out) == (0, "")
    assert "Traceback" not in err
    return err


def key_works(base_url: str, key: str) -> bool:
    url = f"{base_url}/runtime/v2/dialogs/d-1/state"
    return httpx.get(url, headers={"X-API-Key": key}, trust_env=False).status_code == 200


def secret_works(base_url: str, client_id: str, secret: str) -> bool:
    form = {"grant_type": "client_credentials"}
    url, auth = f"{base_url}/oauth/token", (client_id, secret)
    return httpx.post(url, data=form, auth=auth, trust_env=False).status_code == 200


@pytest.mark.quick("15")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_emulator_prints_its_url_and_ends_on_a_signal(
    commands: Commands, number: signal.Signals
) -> None:
    process = commands.start("emulator")
    base_url = listening(process)
    assert secret_works(base_url, "emulator-client", "emulator-secret")
    err = stop(process, number)
    for line in (
        f"export COGNIGY_BASE_URL={base_url}",
        "COGNIGY_CLIENT_ID=emulator-client",
        "COGNIGY_CLIENT_SECRET=emulator-secret",
        f"COGNIGY_ENDPOINT_URL={base_url}",
        "COGNIGY_ENDPOINT_TOKEN=emulator-url-token",
        "Stopped after 0 requests to 0 dialogs.",
    ):
        assert line in err.splitlines()


@pytest.mark.quick("file")
@pytest.mark.parametrize("place", ["shell", "file"])
def test_the_settings_that_the_emulator_prints_can_be_pasted(
    commands: Commands, place: str
) -> None:
    process = commands.start("emulator")
    base_url = listening(process)
    assert process.stderr is not None
    lines = [process.stderr.readline() for _ in range(12)]
    assert "shell" in lines[0]
    assert ".env" in lines[6]
    update = [sys.executable, "-m", "cognigy_async", "update", "d-1", "--session", "a=1"]
    if place == "file":
        (commands.directory / ".env").write_text("".join(lines[7:12]))
        script = shlex.join(update)
    else:
        script = "".join(lines[1:6]) + shlex.join(update)
    done = subprocess.run(
        ["sh", "-ec", script],
        capture_output=True,
        text=True,
        env=commands.environment,
        cwd=commands.directory,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    state = httpx.get(f"{base_url}/_emulator/stats", trust_env=False).json()
    assert state["writes"] == 1


def test_an_emulator_behaves_like_a_measured_tenant(commands: Commands) -> None:
    """It has the same profile, but for what an option says otherwise."""
    sections: dict[str, Any] = {
        "writes": {"inject": "replace", "merged_levels": 0, "merges_lists": False},
        "reads": {"works": False, "delay_seconds": 0.0},
        "rate_limit": {
            "headers": "ietf",
            "requests": 900,
            "seconds": 300.0,
            "reset_seconds": 300.0,
        },
        "clock": {"skew_seconds": 3600.0},
    }
    token = {"url": "https://e/t", "path": "/oauth/token", "client_auth": "basic"}
    made = TenantProfile(
        api="sessions", **sections | {"token": token | {"lifetime_seconds": 900.0}}
    )
    (commands.directory / "tenant.json").write_text(made.to_json())
    options = ("--quota", "800/60", "--token-lifetime", "60")
    for given, quota, lifetime in (((), (900, 300), 900), (options, (800, 60), 60)):
        process = commands.start("emulator", "--like", "tenant.json", *given)
        variables = {
            "COGNIGY_BASE_URL": listening(process),
            "COGNIGY_CLIENT_ID": "emulator-client",
            "COGNIGY_CLIENT_SECRET": "emulator-secret",
            "COGNIGY_API": "sessions",
            "COGNIGY_USER_ID": "u-1",
        }
        probe = ("probe", "--session", "s-1", "--force", "--output", "again.json")
        status, _, err = commands.run(*probe, variables=variables)
        assert status == 0, err
        again = json.loads((commands.directory / "again.json").read_text())
        limit, seconds = quota
        limits = {"requests": limit, "seconds": seconds, "reset_seconds": seconds}
        assert again["writes"] == sections["writes"]
        assert again["reads"] == sections["reads"]
        assert again["rate_limit"] == {"headers": "ietf"} | limits
        assert again["clock"]["skew_seconds"] == pytest.approx(3600, abs=1)
        assert (again["token"]["path"], again["token"]["lifetime_seconds"]) == (
            "/oauth/token",
            lifetime,
        )
        stop(process)
    (commands.directory / "tenant.json").write_text("{}")
    status, _, err = commands.run("emulator", "--like", "tenant.json")
    assert status == 2
    assert "--like: tenant.json is not a tenant profile" in err


def test_a_quiet_emulator_prints_its_url_alone(commands: Commands) -> None:
    process = commands.start("emulator", "-q")
    assert key_works(listening(process), "k") is False
    assert stop(process) == ""


def test_a_strict_emulator_knows_only_the_dialogs_that_were_added(commands: Commands) -> None:
    base_url = listening(commands.start("emulator", "--strict", "--api-key", SECRET))
    headers = {"X-API-Key": SECRET}
    with httpx.Client(base_url=base_url, headers=headers, trust_env=False) as http:
        path = "/runtime/v2/dialogs/d-1/state"
        assert http.patch(path, json={"session": {"a": 1}}).status_code == 404
        assert http.put("/_emulator/dialogs/d-1", json={"user": {"b": 2}}).status_code == 200
        assert http.patch(path, json={"session": {"a": 1}}).status_code == 200
        assert http.get(path).json()["user"] == {"b": 2}


def test_credentials_by_options(commands: Commands) -> None:
    options = ["--api-key", SECRET, "--client-id", "someone", "--client-secret", f"{SECRET}!"]
    process = commands.start("emulator", *options, variables={"COGNIGY_API_KEY": "other"})
    base_url = listening(process)
    assert key_works(base_url, SECRET)
    assert not key_works(base_url, "other")
    assert secret_works(base_url, "someone", f"{SECRET}!")
    assert not secret_works(base_url, "emulator-client", "emulator-secret")
    err = stop(process)
    assert SECRET not in err
    # It stands among lines that are pasted.
    assert (
        "\n# Also set COGNIGY_API_KEY, or COGNIGY_CLIENT_ID and COGNIGY_CLIENT_SECRET, as given by "
        "the option.\n# For the sessions API also set " in err
    )


def test_credentials_of_the_environment_are_accepted_and_not_shown(commands: Commands) -> None:
    process = commands.start(
        "emulator",
        variables={
            "COGNIGY_API_KEY": SECRET,
            "COGNIGY_CLIENT_ID": "someone",
            "COGNIGY_CLIENT_SECRET": f"{SECRET}!",
        },
    )
    base_url = listening(process)
    assert key_works(base_url, SECRET)
    assert secret_works(base_url, "someone", f"{SECRET}!")
    err = stop(process)
    assert SECRET not in err
    assert "Also set COGNIGY_API_KEY, or COGNIGY_CLIENT_ID and COGNIGY_CLIENT_SECRET, as set" in err
    assert "as set in the environment or in .env." in err


def test_credentials_of_a_file(commands: Commands) -> None:
    (commands.directory / ".env").write_text(f"COGNIGY_API_KEY={SECRET}\n")
    process = commands.start("emulator")
    assert key_works(listening(process), SECRET)
    assert SECRET not in stop(process)
    (commands.directory / ".env").rename(commands.directory / "staging.env")
    process = commands.start("emulator", "--env-file", "staging.env")
    assert key_works(listening(process), SECRET)
    err = stop(process)
    assert SECRET not in err
    assert "COGNIGY_API_KEY, as set in the environment or in staging.env" in err


def test_secrets_of_files_are_not_in_the_list_of_processes(commands: Commands) -> None:
    (commands.directory / "key").write_text(f"{SECRET}\n")
    (commands.directory / "secret").write_text(f"{SECRET}!\r\n")
    process = commands.start(
        "emulator",
        *("--api-key-file", "key", "--client-id", "someone", "--client-secret-file", "secret"),
        variables={"COGNIGY_API_KEY": "other"},
    )
    base_url = listening(process)
    assert key_works(base_url, SECRET)
    assert not key_works(base_url, "other")
    assert secret_works(base_url, "someone", f"{SECRET}!")
    if (line := Path(f"/proc/{process.pid}/cmdline")).exists():
        assert b"--client-secret-file" in line.read_bytes()
        assert SECRET.encode() not in line.read_bytes()
    assert SECRET not in stop(process)


def test_a_container_is_reached_by_the_name_that_is_allowed(commands: Commands) -> None:
    process = commands.start("emulator", "--host", "0.0.0.0", "--allowed-host", "emulator")
    base_url = listening(process)
    url = f"{base_url}/_emulator/stats"
    with httpx.Client(trust_env=False) as http:
        statuses = [
            http.get(url, headers={"Host": host}).status_code
            for host in ("emulator:8321", "EMULATOR", "localhost", "emulator.example", "10.1.2.3")
        ]
    assert statuses == [200, 200, 200, 403, 403]
    stop(process)


def test_faults_quota_and_lifetime(commands: Commands) -> None:
    options = ["--fault", "fail_status=503", "--fault", "retry_after_503=7", "--quota", "1/60"]
    options += ["--fault", "latency=.05"]
    process = commands.start("emulator", "--api-key", "k", "--token-lifetime", "5", *options)
    base_url = listening(process)
    url, headers = f"{base_url}/runtime/v2/dialogs/d-1/state", {"X-API-Key": "k"}
    with httpx.Client(trust_env=False) as http:
        answer = http.patch(url, json={"session": {"a": 1}}, headers=headers)
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "7")
        http.put(f"{base_url}/_emulator/faults", json={})
        statuses = [http.get(url, headers=headers).status_code for _ in range(2)]
        form = {"grant_type": "client_credentials"}
        auth = ("emulator-client", "emulator-secret")
        token = http.post(f"{base_url}/oauth/token", data=form, auth=auth).json()
    assert statuses == [200, 429]
    assert token["expires_in"] == 5
    assert "Stopped after 3 requests" in stop(process)


@pytest.mark.quick("options0-*", "options7-*", "options15-*")
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--fault", "nope=1"], "--fault 'nope' is unknown; use one of latency, "),
        (["--fault", "error_500=2"], "must be a probability"),
        (["--fault", "error_500=x"], "must be a number"),
        (["--fault", "error_500"], "write it as NAME=VALUE"),
        (["--quota", "5"], "--quota 5: must be requests/seconds"),
        (["--quota", "0/1"], "must be requests/seconds"),
        (["--quota", "1/nan"], "must be requests/seconds"),
        (["--client-id", "someone"], "go together"),
        (["--client-secret", SECRET], "go together"),
        (["--api-key", ""], "must not be empty"),
        (["--api-key-file", "none"], "'none' does not exist"),
        (["--api-key-file", "/dev/null"], "must contain the key or secret"),
        (["--client-secret-file", "/dev/null", "--client-secret", SECRET], "give either"),
        (["--allowed-host", "http://emulator"], "must be a host name or an address"),
        (["--token-lifetime", "0"], "token_lifetime"),
        (["--port", "65536"], "65535"),
    ],
)
def test_bad_usage_of_the_emulator(commands: Commands, options: list[str], expected: str) -> None:
    status, out, err = commands.run("emulator", *options)
    assert (status, out) == (2, "")
    assert expected in " ".join(err.replace("│", " ").split())
    assert SECRET not in err
    assert "Traceback" not in err


def test_half_of_a_pair_in_the_environment(commands: Commands) -> None:
    status, out, err = commands.run("emulator", variables={"COGNIGY_CLIENT_SECRET": SECRET})
    assert (status, out) == (2, "")
    assert err == "Error: COGNIGY_CLIENT_ID and COGNIGY_CLIENT_SECRET go together; give both\n"


def test_a_port_that_is_taken(commands: Commands) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        status, out, err = commands.run("emulator", "--port", str(port))
    assert (status, out) == (1, "")
    assert err == (
        f"Error: cannot listen on 127.0.0.1:{port}: Address already in use; choose another "
        "address or port; port 0 takes a free one\n"
    )


# The demo.


def test_the_demo_does_the_main_job_in_time(commands: Commands) -> None:
    began = time.monotonic()
    status, out, err = commands.run("demo")
    assert (status, err) == (0, ""), out
    assert time.monotonic() - began < 20
    assert out.endswith("\nEvery promise was kept.\n")
    text = " ".join(out.split())
    for check in ("overlapping writes", "reordered", "lost", "doubled", "early", "unsettled"):
        assert f" {check} 0," in text, check
    for reason in ("conflict (409)", "no response", "throttled (429)", "credentials refused (401)"):
        assert f" {reason}" in text, reason
    assert "19 applied, 1 ambiguous" in text


@pytest.mark.parametrize("columns", ["60", "200"])
def test_the_demo_on_narrow_and_on_wide_terminals(commands: Commands, columns: str) -> None:
    terminal = {"COLUMNS": columns, "TERM": "dumb", "NO_COLOR": "1"}
    size = ["--dialogs", "2", "--updates", "2"]
    status, out, _ = commands.run("demo", *size, variables=terminal)
    assert status == 0
    assert "\x1b" not in out
    assert max(map(len, out.splitlines())) <= min(int(columns), 100)
    assert all(line == line.rstrip() for line in out.splitlines())


def test_the_demo_for_a_reader_that_leaves(commands: Commands) -> None:
    process = commands.start("demo", "--dialogs", "2", "--updates", "2")
    assert first_line(process).startswith("cognigy-async demo on the emulator http://")
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    err = process.stderr.read()
    assert (process.wait(timeout=30), err) == (0, "")
