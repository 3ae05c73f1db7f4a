"""`cognigy-async bench` against an emulator of its own and a tenant on this machine; bad usage."""

from __future__ import annotations

import io
import json
import os
import pty
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import anyio
import pytest

from cognigy_async import ApiKey, AsyncStateClient, Request, Response, RuntimeApi
from cognigy_async._utils.arguments import is_loopback
from cognigy_async.cli import _options
from cognigy_async.cli._options import LoopName, TransportName
from cognigy_async.cli.bench.load import Load, parse_dialogs
from cognigy_async.cli.bench.runner import (
    BenchOptions,
    Measurement,
    Runner,
    resident_bytes,
    warm_up_count,
)
from cognigy_async.cli.bench.server import available_cores, emulator_process
from cognigy_async.emulator import Emulator, Faults
from cognigy_async.integrations.settings import ClientArguments

from .commands import CommandProcess, command_environment
from .conftest import SECRET, Command
from .services import wait_for

TENANT = ("bench", "--target", "tenant", "--rounds", "1")
ROOT = str(Path(__file__).parents[2])
AWAY = "https://tenant.invalid"


def cores_of_this_process() -> set[int]:
    return os.sched_getaffinity(0) if sys.platform == "linux" else set()


def is_there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.fixture
def servers(monkeypatch: pytest.MonkeyPatch) -> list[subprocess.Popen[str]]:
    """Emulators that were started."""
    started: list[subprocess.Popen[str]] = []
    start = subprocess.Popen

    def noted(*arguments: Any, **options: Any) -> subprocess.Popen[str]:
        process = start(*arguments, **options)
        if "cognigy_async.cli.bench.server" in arguments[0]:
            started.append(process)
        return process

    monkeypatch.setattr(subprocess, "Popen", noted)
    return started


@pytest.fixture
def unset(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No settings, neither in the environment nor in a file."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.upper().startswith("COGNIGY_")]:
        monkeypatch.delenv(name)


# The emulator.


@pytest.mark.real_time
@pytest.mark.parametrize("mode", ["update", "update_many"])
def test_without_settings_it_measures_an_emulator_of_its_own(
    command: Command, servers: list[subprocess.Popen[str]], unset: None, mode: str
) -> None:
    options = ("--count", "40", "--rounds", "2", "--max-in-flight", "1,4", "--mode", mode)
    cores = cores_of_this_process()
    assert command("bench", *options, "--json") == 0
    assert cores_of_this_process() == cores
    result = command.json
    assert [(row["in_flight"], row["rounds"]) for row in result["rows"]] == [(1, 2), (4, 2)]
    for row in result["rows"]:
        assert (row["succeeded"], row["failed"], row["ambiguous"]) == (80, 0, 0)
        assert row["requests"] == 80 + row["retries"]
        assert 0 < row["per_second_lowest"] <= row["per_second"] <= row["per_second_highest"]
        latency = row["latency"]
        assert 0 < latency["p50"] <= latency["p95"] <= latency["p99"] <= latency["max"]
        assert row["cpu_us"] > 0
        assert row["quota_utilisation"] is None
    assert (result["target"], result["mode"], result["payload_bytes"]) == ("emulator", mode, 200)
    assert (result["transport"], result["loop"]) == ("pyreqwest", "uvloop")
    assert {"python", "cognigy-async", "pyreqwest", "uvloop"} <= set(result["versions"])
    assert result["machine"]["cores"] == os.cpu_count()
    assert "round 2 of 2, 1 in flight: " in command.err
    (server,) = servers
    assert server.returncode == 0


@pytest.mark.real_time
def test_a_table_and_a_description_of_the_load(command: Command) -> None:
    chosen = ("--transport", "httpx", "--loop", "asyncio")
    assert command("bench", "--count", "5", "--rounds", "1", "--dialogs", "3", *chosen) == 0
    lines = command.out.splitlines()
    assert lines[0].split("  ")[0] == "in flight"
    assert lines[1].split()[0] == "32"
    assert lines[2].startswith("python ")
    assert "httpx " in lines[2]
    assert "uvloop" not in lines[2]
    assert "Target: emulator on " in command.err
    assert (
        "Load: update over httpx on asyncio, bodies of 200 bytes, 3 dialogs, 1 round of 5 updates"
        in command.err
    )
    assert "At most 3 of 32 requests will be in flight" in command.err


def test_an_emulator_that_cannot_be_started_is_an_error(
    command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "uvicorn.py").write_text("raise ImportError('No module named uvicorn')")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    assert command("bench", "--count", "1") == 2
    assert "Error: the emulator does not start: serving the emulator needs uvicorn" in command.err
    assert "pip install 'cognigy-async[emulator]'" in command.err
    assert "--target tenant" in command.err


@pytest.mark.real_time
@pytest.mark.usefixtures("unset")
def test_nothing_of_the_working_directory_is_run(command: Command) -> None:
    for name in ("anyio", "typing", "uvicorn"):
        Path(f"{name}.py").write_text("open('was_run', 'w')\nraise SystemExit\n")
    assert command("bench", "--count", "5", "--rounds", "1") == 0
    assert not Path("was_run").exists()


@pytest.mark.real_time
def test_the_emulator_ends_with_its_client(servers: list[subprocess.Popen[str]]) -> None:
    before, cores = cores_of_this_process(), available_cores()
    with emulator_process(cores) as base_url:
        assert base_url.startswith("http://127.0.0.1:")
        (server,) = servers
        assert server.poll() is None
        if cores:
            assert cores.server != cores.client
            assert os.sched_getaffinity(server.pid) == {cores.server}
            assert os.sched_getaffinity(0) == {cores.client}
            assert available_cores() is None
    assert server.returncode == 0
    assert cores_of_this_process() == before


@pytest.mark.real_time
def test_without_two_cores_nothing_is_pinned(servers: list[subprocess.Popen[str]]) -> None:
    before = cores_of_this_process()
    with emulator_process(None):
        (server,) = servers
        if sys.platform == "linux":
            assert os.sched_getaffinity(server.pid) == before
        assert cores_of_this_process() == before


def test_two_cores_are_chosen_where_there_are_two(monkeypatch: pytest.MonkeyPatch) -> None:
    available = len(cores_of_this_process())
    assert (available_cores() is None) is (available < 2)
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    assert available_cores() is None


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux reports it")
def test_the_resident_memory_of_this_process() -> None:
    resident = resident_bytes()
    assert resident is not None
    assert 10e6 < resident < 10e9


# A tenant.


def test_a_tenant_of_the_settings(
    emulator: Emulator, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert command(*TENANT, "--dialog-prefix", "try-", "--max-in-flight", "8", "--json") == 0
    (row,) = command.json["rows"]
    assert row["succeeded"] == 100
    assert set(emulator.dialogs) == {f"try-{number}" for number in range(100)}
    dialog = emulator.dialogs["try-99"]
    assert set(dialog.session) == {"bench"}
    assert not dialog.user
    assert dialog.session["bench"]["text"] not in command.out + command.err
    assert emulator.stats.writes == 120
    assert emulator.stats.in_flight_max <= 8
    assert not emulator.stats.violations()
    monkeypatch.setenv("COGNIGY_RATE_LIMIT", "1000/1")
    assert command(*TENANT, "--count", "10", "--json") == 0
    assert command.json["rate"] == "1000/1"
    assert command.json["rows"][0]["quota_utilisation"] > 0
    assert command(*TENANT, "--count", "10", "--rate", "2000/2", "--json") == 0
    assert command.json["rate"] == "2000/2"


def test_a_session_of_the_sessions_api(
    emulator: Emulator, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COGNIGY_API", "sessions")
    assert command(*TENANT, "--count", "10") == 2
    assert "Settings are missing: COGNIGY_USER_ID." in command.messages
    monkeypatch.setenv("COGNIGY_USER_ID", "u-1")
    assert command(*TENANT, "--count", "10", "--dialogs", "2") == 0
    assert emulator.dialogs["bench-1"].session["bench"]["n"] % 2 == 1
    assert command(*TENANT, "--payload-bytes", "70000") == 2
    assert "--payload-bytes 70000: too large for one request to this API" in command.messages


def test_dialogs_of_a_file(emulator: Emulator, command: Command) -> None:
    Path("ids").write_text("d-1\n\n  d-2  \n")
    emulator_only = ("--count", "10", "--dialogs", "ids")
    assert command(*TENANT, *emulator_only) == 0
    assert set(emulator.dialogs) == {"d-1", "d-2"}
    assert command(*TENANT, *emulator_only, "--dialog-prefix", "x") == 2
    assert "--dialog-prefix needs a number of dialogs, not a file" in command.messages


def test_dialogs_that_the_tenant_does_not_have(emulator: Emulator, command: Command) -> None:
    emulator.faults = Faults(fail_status=404)
    assert command(*TENANT, "--count", "10") == 1
    assert "Name existing dialogs with --dialogs FILE, one id per line." in command.err
    assert "DialogNotFoundError: " in command.err
    assert command.out == ""


def test_one_percent_is_refused(emulator: Emulator, command: Command) -> None:
    options = (*TENANT, "--count", "100", "--dialogs", "100", "--max-in-flight", "8")
    emulator.script(403, dialog_id="bench-77")
    assert command(*options) == 1
    assert "8 in flight: 99 applied, 1 failed, 0 ambiguous; first error: Permission" in command.out
    assert "dialog 'bench-77'" in command.out
    emulator.script(403, dialog_id="bench-77")
    assert command(*options, "--json") == 1
    (row,) = command.json["rows"]
    assert (row["succeeded"], row["failed"]) == (99, 1)
    assert row["first_error"]["type"] == "PermissionDeniedError"
    assert row["first_error"]["status"] == 403


def test_retries_by_reason(emulator: Emulator, command: Command) -> None:
    emulator.script(503, dialog_id="bench-77")
    assert command(*TENANT, "--count", "100", "--max-in-flight", "8") == 0
    assert "retries: 1 (unavailable (503): 1)" in command.out


def test_refused_credentials(
    emulator: Emulator, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COGNIGY_CLIENT_SECRET", "not-" + SECRET[::-1])
    assert command(*TENANT) == 1
    assert command.out == ""
    assert "AuthenticationError: " in command.err
    assert SECRET[::-1] not in command.err


@pytest.mark.parametrize("mode", ["update", "update_many"])
def test_a_server_that_is_not_there(
    emulator: Emulator, command: Command, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    monkeypatch.setenv("COGNIGY_API_KEY", SECRET)
    monkeypatch.delenv("COGNIGY_CLIENT_ID")
    monkeypatch.delenv("COGNIGY_CLIENT_SECRET")
    # Nobody listens on the port of TCP's own multiplexer.
    monkeypatch.setenv("COGNIGY_BASE_URL", "http://127.0.0.1:1")
    assert command(*TENANT, "--mode", mode) == 1
    assert command.out == ""
    assert "NotSentError: No connection to 127.0.0.1:1" in command.err


def test_a_round_in_which_no_update_completes(emulator: Emulator, command: Command) -> None:
    emulator.faults = Faults(latency=0.5)
    options = ("--seconds", "0.1", "--max-in-flight", "20")
    assert command(*TENANT, *options) == 1
    assert "No update completed within a round. Give it more time with --seconds." in command.err


# Writing to another machine needs confirmation.


def test_another_machine_needs_yes(
    emulator: Emulator, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COGNIGY_BASE_URL", AWAY)
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    options = ("--max-in-flight", "8,16", "--count", "50", "--rounds", "3")
    assert command("bench", "--target", "tenant", *options) == 2
    for message in (
        f"This writes to {AWAY}: the session variable 'bench'",
        "50 dialogs from bench-0 to bench-49, which is not removed afterwards",
        # 3 rounds of 50 with a warm-up of 20, and of 50 with one of 32
        "456 requests without retries, which count against the quota.",
        "--rate 1000/300",
        "Add --yes to confirm. Nothing was sent.",
    ):
        assert message in command.messages, message
    seconds = ("--seconds", "2", "--dialogs", "1", "--rate", "9/9")
    assert command("bench", "--target", "tenant", *seconds) == 2
    assert "the dialog bench-0, which is not removed afterwards" in command.messages
    assert "192 requests without retries to warm up, then as many as fit in 6 s" in command.messages
    assert "1000/300" not in command.messages
    Path("ids").write_text("a\nb\nc\n")
    assert command("bench", "--target", "tenant", "--dialogs", "ids") == 2
    assert "3 dialogs from a to c" in command.messages
    # The name leads nowhere; that it is tried is what --yes is for.
    monkeypatch.setenv("COGNIGY_TOKEN_URL", "http://127.0.0.1:1/oauth/token")
    assert command("bench", "--target", "tenant", "--count", "1", "--yes") == 1
    assert "This writes to" in command.err
    assert "Nothing was sent" not in command.err


@pytest.mark.parametrize(
    ("host", "is_here"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("localhost", True),
        ("here.localhost", True),
        ("127.0.0.1.example.com", False),
        ("api.cognigy.ai", False),
        ("10.0.0.1", False),
        ("", False),
    ],
)
def test_loopback_hosts(host: str, is_here: bool) -> None:
    assert is_loopback(host) is is_here


@pytest.mark.real_time
@pytest.mark.parametrize("interrupted", [False, True])
def test_it_asks_for_confirmation_on_a_terminal(tmp_path: Path, interrupted: bool) -> None:
    ours, theirs = pty.openpty()
    settings = {"COGNIGY_BASE_URL": AWAY, "COGNIGY_API_KEY": SECRET}
    process = subprocess.Popen(
        [sys.executable, "-m", "cognigy_async", *TENANT],
        stdin=theirs,
        stdout=subprocess.DEVNULL,
        stderr=theirs,
        cwd=tmp_path,
        env=command_environment(**settings),
    )
    shown = b""
    try:
        while b"Continue?" not in shown:
            shown += os.read(ours, 1000)
        if interrupted:
            process.send_signal(signal.SIGINT)
        # Also ends a read that began just when the signal came.
        os.write(ours, b"\n")
        while b"Nothing was sent." not in shown:
            shown += os.read(ours, 1000)
        assert process.wait(20) == (130 if interrupted else 1)
    finally:
        process.kill()
        process.wait()
        os.close(ours)
        os.close(theirs)
    assert b"This writes to" in shown
    assert SECRET.encode() not in shown


# Bad usage.


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--max-in-flight", "0"], "--max-in-flight '0': must be a number from 1 to 10,000"),
        (["--max-in-flight", "10001"], "must be a number from 1 to 10,000"),
        (["--max-in-flight", "9" * 5000], "must be a number from 1 to 10,000"),
        (["--max-in-flight", "1,,2"], "--max-in-flight '': must be a number from 1 to 10,000"),
        (["--max-in-flight", "-1"], "--max-in-flight"),
        (["--count", "5", "--seconds", "1"], "exclude each other; give one of them"),
        (["--count", "0"], "--count"),
        (["--seconds", "nan"], "--seconds: must be a positive number"),
        (["--seconds", "-1"], "--seconds: must be a positive number"),
        (["--rounds", "0"], "--rounds"),
        (["--rate", "5"], "--rate 5: must be requests/seconds, for example 1000/300"),
        (["--payload-bytes", "63"], "--payload-bytes"),
        (["--payload-bytes", "600000"], "--payload-bytes 600000: too large for one request"),
        (["--payload-bytes", "99999999999"], "--payload-bytes"),
        (["--dialogs", "0"], "--dialogs '0': must be a number from 1 to 1,000,000,000"),
        (["--dialogs", "9" * 20], "must be a number from 1 to 1,000,000,000"),
        (["--dialogs", "no-such-file"], "--dialogs no-such-file: cannot be read: No such file"),
        (["--dialog-prefix", "x" * 300], "dialog_id: has 303 characters, more than 256"),
        (["--mode", "batch"], "--mode"),
        (["--target", "prod"], "--target"),
        (["--transport", "carrier-pigeon"], "--transport"),
        (["--target", "tenant"], "Settings are missing: COGNIGY_BASE_URL"),
    ],
)
def test_bad_usage(
    command: Command,
    servers: list[subprocess.Popen[str]],
    unset: None,
    options: list[str],
    message: str,
) -> None:
    assert command("bench", *options) == 2
    assert message in command.messages
    assert command.out == ""
    assert servers == []


def test_an_option_that_is_not_installed_is_an_error(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_options, "find_spec", lambda name: None)
    for option, extra in (("--transport", "pyreqwest"), ("--loop", "uvloop")):
        assert command("bench", option, extra) == 2
        assert f"pip install 'cognigy-async[{extra}]'" in command.messages


def test_a_file_of_dialogs(tmp_path: Path, command: Command) -> None:
    path = tmp_path / "ids"
    path.write_bytes(b"\xef\xbb\xbfa\r\n\nb")
    assert parse_dialogs(str(path)) == ["a", "b"]
    for content, message in (
        (b"\n\n", "no dialog id found; write one id per line"),
        (b"\xff", "not UTF-8"),
        (b"a\n" + b"x" * 300, "line 2: "),
    ):
        path.write_bytes(content)
        assert command("bench", "--dialogs", str(path)) == 2
        assert message in command.messages


def test_bodies_have_the_requested_size() -> None:
    for size in (64, 200, 100_000):
        load = Load(range(3), "b-", payload_bytes=size, count=1)
        numbers = (0, 9, 10, 123_456_789)
        for number, row in zip(numbers, load.rows(numbers), strict=True):
            body = json.dumps({"session": row["session"]}, separators=(",", ":"))
            assert len(body) == size
            assert row["dialog_id"] == f"b-{number % 3}"


# An interrupt.


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Callable[..., CommandProcess]]:
    """Starts the command as a process, which writes to the file `output.err`."""
    (tmp_path / "output.err").touch()
    with ExitStack() as stack:

        def start(*arguments: str) -> CommandProcess:
            settings = {
                name: os.environ[name] for name in os.environ if name.startswith("COGNIGY_")
            }
            variables = command_environment(**settings)
            process = CommandProcess(arguments, tmp_path, variables, tmp_path / "output")
            stack.callback(process.end)
            return process

        yield start


@pytest.mark.real_time
def test_an_interrupt_on_the_terminal_shows_the_results_so_far(unset: None, tmp_path: Path) -> None:
    endless = ("--count", "20", "--rounds", "100000", "--max-in-flight", "4")
    output = tmp_path / "output.err"
    with (
        output.open("w") as err,
        subprocess.Popen(
            [sys.executable, "-m", "cognigy_async", "bench", *endless, "--json"],
            stdout=subprocess.PIPE,
            stderr=err,
            text=True,
            env=command_environment(),
            start_new_session=True,
        ) as process,
    ):
        try:
            wait_for(lambda: "round 3 of" in output.read_text(), output.read_text)
            # A terminal sends it to every process of the group.
            os.killpg(process.pid, signal.SIGINT)
            out, _ = process.communicate(timeout=20)
        finally:
            process.kill()
    assert process.returncode == 130
    result = json.loads(out)
    assert result["interrupted"] is True
    (row,) = result["rows"]
    assert row["rounds"] >= 3
    assert row["retries"] == row["failed"] == row["ambiguous"] == 0
    shown = output.read_text()
    assert "Interrupted: completing requests in flight, sending no more.\n" in shown
    assert "Traceback" not in shown
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", int(result["base_url"].rpartition(":")[2])))


@pytest.mark.real_time
@pytest.mark.skipif(sys.platform != "linux", reason="children are found in /proc")
@pytest.mark.thorough
def test_a_bench_that_is_killed_leaves_no_emulator(
    started: Callable[..., CommandProcess], unset: None, tmp_path: Path
) -> None:
    process = started("bench", "--count", "20", "--rounds", "100000")
    wait_for(lambda: "round 1 of" in (tmp_path / "output.err").read_text())
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert len(children) == 1
    process.kill()
    wait_for(lambda: not is_there(int(children[0])))


@pytest.mark.real_time
def test_an_interrupt_lets_a_request_end(
    emulator: Emulator, started: Callable[..., CommandProcess]
) -> None:
    emulator.faults = Faults(latency=0.3)
    process = started(*TENANT, "--count", "1000", "--max-in-flight", "20")
    wait_for(lambda: emulator.stats.writes > warm_up_count(20))
    process.send_signal(signal.SIGTERM)
    status, _, err = process.result(20)
    assert status == 130
    assert emulator.stats.abandoned == 0
    assert emulator.stats.applied == emulator.stats.writes < 200
    assert "Interrupted" in err


@pytest.mark.real_time
def test_rounds_that_are_shorter_than_a_millisecond_are_measured() -> None:
    class Immediate:
        async def send(self, request: Request, *, timeout: float) -> Response:
            return Response(200, {}, b"{}")

        async def aclose(self) -> None:
            pass

    arguments = ClientArguments(
        base_url="https://api.test",
        auth=ApiKey(SECRET),
        api=RuntimeApi(),
        allow_insecure=False,
        rate_limit=None,
    )
    load = Load(range(1), "b-", payload_bytes=64, count=1)
    over = TransportName.HTTPX, LoopName.UVLOOP
    runner = Runner(BenchOptions("emulator", "update", load, [1], 20, *over, arguments))
    measurement = Measurement(1)

    async def measure() -> None:
        async with AsyncStateClient(**arguments, transport=Immediate()) as client:
            for _ in range(20):
                await runner.measure(client, measurement)

    anyio.run(measure, backend_options=LoopName.UVLOOP.options)
    assert len(measurement.per_second) == 20
