"""`cognigy-async bulk` in this process, against an emulator."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from cognigy_async import HttpxTransport, PyreqwestTransport, Request, Response
from cognigy_async.cli import _options
from cognigy_async.emulator import Emulator, Faults

from .conftest import Command

BAD = [
    b"this is no JSON",
    b'{"dialog_id": "x", "session": {"n": 1}',
    b'["dialog_id"]',
    b'"x"',
    b'{"session": {"n": 1}}',
    b'{"dialog_id": "", "session": {"n": 1}}',
    b'{"dialog_id": "x", "session": {"_cognigy_n": 1}}',
    b'{"dialog_id": "x", "session": {"a-b": 1}}',
    b'{"dialog_id": "x", "session": {"n": 9007199254740992}}',
    b'{"dialog_id": "x", "session": {"a": {"b": {"c": {"d": {"e": 1}}}}}}',
    b'{"dialog_id": "x"}',
    b'{"dialog_id": "x", "session": {"n": "\xff"}}',
]


def write_rows(count: int, dialogs: int = 20, name: str = "rows.jsonl") -> Path:
    path = Path(name)
    path.write_text(
        "".join(
            json.dumps({"dialog_id": f"d{n % dialogs}", "session": {"seq": n}}) + "\n"
            for n in range(count)
        )
    )
    return path


def test_a_run_its_status_and_its_end(emulator: Emulator, command: Command) -> None:
    write_rows(100)
    assert command("bulk", "run", "rows.jsonl", "--json") == 0
    result = command.json
    fields = "inputs succeeded failed ambiguous skipped requests retries elapsed quota_utilisation"
    assert set(fields.split()) <= set(result)
    assert (result["inputs"], result["succeeded"], result["requests"]) == (100, 100, 100)
    assert not Path("rows.dead.jsonl").exists()
    assert command("bulk", "status", "rows.jsonl.journal") == 0
    assert "100 applied, 0 failed, 0 ambiguous" in command.out
    assert "the last run ended: complete" in command.out
    assert command("bulk", "status", "rows.jsonl.journal", "--json") == 0
    assert command.json["succeeded"] == 100
    assert command("bulk", "explain", "rows.jsonl.journal", "d7") == 0
    assert command.out.count("settled: applied") == 5
    assert command("bulk", "explain", "rows.jsonl.journal", "nobody") == 1
    assert command("bulk", "run", "rows.jsonl") == 0
    assert "100 of 100 rows applied, 100 done before; nothing was left to do" in command.out


def test_a_run_over_pyreqwest_on_uvloop_or_as_chosen(
    emulator: Emulator, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: set[tuple[str, str]] = set()

    def note(of: type[PyreqwestTransport] | type[HttpxTransport]) -> None:
        send = of.send

        async def noted(self: Any, request: Request, *, timeout: float) -> Response:
            seen.add((of.__name__, type(asyncio.get_running_loop()).__module__.split(".")[0]))
            return await send(self, request, timeout=timeout)

        monkeypatch.setattr(of, "send", noted)

    note(PyreqwestTransport)
    note(HttpxTransport)
    write_rows(10)
    assert command("bulk", "run", "rows.jsonl", "--journal", "1") == 0
    # The token is asked for over httpx in any case.
    assert ("PyreqwestTransport", "uvloop") in seen
    seen.clear()
    chosen = ("--transport", "httpx", "--loop", "asyncio")
    assert command("bulk", "run", "rows.jsonl", "--journal", "2", *chosen) == 0
    assert seen == {("HttpxTransport", "asyncio")}
    monkeypatch.setattr(_options, "find_spec", lambda name: None)
    assert command("bulk", "run", "rows.jsonl", "--journal", "3", "--loop", "uvloop") == 2
    assert "pip install 'cognigy-async[uvloop]'" in command.messages


def test_rows_that_are_too_late_are_told_before_the_job(
    emulator: Emulator, command: Command
) -> None:
    path = write_rows(4)
    late = {"dialog_id": "late", "session": {"seq": 1}, "expires_at": "2026-01-01T00:00:00Z"}
    with path.open("a") as file:
        file.write(json.dumps(late) + "\n")
    assert command("bulk", "run", "rows.jsonl", "--dry-run") == 0
    assert "Too late: 1 row cannot be sent before its session ends, at 1,000" in command.out
    assert command("bulk", "run", "rows.jsonl", "--dry-run", "--rate", "9/1", "--json") == 0
    assert command.json["late"] == {"rows": 1, "ended": 1, "first_line": 5, "assumed": False}
    assert command("bulk", "run", "rows.jsonl", "--session-ttl", "10m") == 1
    assert "Note: 1 row cannot be sent before its session ends" in command.messages
    assert "4 of 5 rows applied, 1 failed; 4 requests" in command.out
    # The next job begins later, so it has another time.
    assert command.messages.endswith("run: cognigy-async bulk run rows.jsonl.dead.jsonl")
    assert set(emulator.dialogs) == {f"d{n}" for n in range(4)}
    (letter,) = Path("rows.jsonl.dead.jsonl").read_text().splitlines()
    assert json.loads(letter)["expires_at"] == late["expires_at"]
    assert "2026-01-01T00:00:00" in json.loads(letter)["_error"]["message"]
    assert command("bulk", "run", "rows.jsonl", "--session-ttl", "0") == 2
    assert "--session-ttl '0': write a number above 0 with s, m, h or d" in command.messages


def test_dry_run_and_run_name_the_same_rows(emulator: Emulator, command: Command) -> None:
    good = write_rows(40).read_bytes().splitlines()
    lines: list[bytes] = []
    bad_at = []
    for number, row in enumerate(good):
        if number % 3 == 1 and len(bad_at) < len(BAD):
            lines.append(BAD[len(bad_at)])
            bad_at.append(len(lines))
        lines.append(row)
    Path("mixed.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    assert command("bulk", "run", "mixed.jsonl", "--dry-run") == 1
    reported = [line for line in command.out.splitlines() if line.startswith("line ")]
    assert sorted({int(line.split()[1].rstrip(",")) for line in reported}) == bad_at
    assert "Invalid: 52 rows, 20 dialogs, 40 requests; 12 rows with 12 faults" in command.out
    assert not Path("mixed.jsonl.journal").exists()
    assert emulator.stats.requests == 0
    assert command("bulk", "run", "mixed.jsonl", "--dead-letters", "dead.jsonl", "--json") == 1
    result = command.json
    assert (result["inputs"], result["succeeded"], result["failed"]) == (52, 40, 12)
    letters = [json.loads(line) for line in Path("dead.jsonl").read_text().splitlines()]
    assert sorted(letter["_error"]["line"] for letter in letters) == bad_at
    assert sum("_raw" in letter for letter in letters) == 5
    assert command("bulk", "run", "dead.jsonl", "--json") == 1
    assert command.json["failed"] == 12


@pytest.mark.parametrize("api", ["runtime", "sessions"])
def test_three_percent_of_each_fault_lose_nothing(
    emulator: Emulator, command: Command, monkeypatch: pytest.MonkeyPatch, api: str
) -> None:
    monkeypatch.setenv("COGNIGY_API", api)
    if api == "sessions":
        monkeypatch.setenv("COGNIGY_USER_ID", "u-1")
    share = 0.03
    emulator.faults = Faults(
        error_500=share,
        error_503=share,
        drop_before=share,
        drop_after=share,
        conflict=share,
        # Everybody in flight loses the token with the one whose request expires it.
        token_expiry=0.01,
    )
    write_rows(400, dialogs=50)
    status = command("bulk", "run", "rows.jsonl", "--json", "--max-in-flight", "8")
    # In one run of a hundred, a row meets a fault that counts at each of its five attempts.
    unlucky = set()
    dead_letters = Path("rows.jsonl.dead.jsonl")
    for line in dead_letters.read_text().splitlines() if dead_letters.exists() else ():
        letter = json.loads(line)
        attempts = re.search(r", (\d+) attempts", letter["_error"]["message"])
        assert attempts is not None
        assert int(attempts[1]) >= 5
        unlucky.add(letter["session"]["seq"])
    assert len(unlucky) < 4
    assert status == (1 if unlucky else 0)
    assert command.json["succeeded"] == 400 - len(unlucky)
    for dialog in range(50):
        last = next(seq for seq in range(350 + dialog, -1, -50) if seq not in unlucky)
        assert emulator.dialogs[f"d{dialog}"].session["seq"] in (last, 350 + dialog)
    assert emulator.stats.overlapping_writes == 0


def test_bad_usage_and_bad_input(emulator: Emulator, command: Command) -> None:
    write_rows(1)
    for arguments, expected in (
        (["no-such-file"], "no-such-file cannot be opened"),
        (["rows.jsonl", "--journal", "rows.jsonl"], "the input and the journal are one file"),
        (["rows.jsonl", "--dead-letters", "rows.jsonl"], "are one file"),
        (["rows.jsonl", "--report", "rows.jsonl"], "would overwrite a file of the job"),
        (["rows.jsonl", "--report", "no/r.html"], "does not exist"),
        (["rows.jsonl", "--report", "."], "--report . cannot be written"),
        (["rows.jsonl", "--canary", "x"], "canary='x': must be a share"),
        (["rows.jsonl", "--max-failure-rate", "2"], "must be a share like 5%"),
        (["rows.jsonl", "--text-column", "a"], "only for CSV files"),
        (["rows.jsonl", "--on-failure", "explode"], "Invalid value for '--on-failure'"),
    ):
        assert command("bulk", "run", *arguments) == 2, arguments
        assert expected in command.messages, arguments
    assert command("bulk", "status", "none") == 2
    assert emulator.stats.requests == 0


def test_a_limit_that_was_reached_is_raised_by_force(emulator: Emulator, command: Command) -> None:
    Path("rows.jsonl").write_text('{"dialog_id": "d"}\n' + '{"dialog_id": "d", "next_step": "s"}\n')
    assert command("bulk", "run", "rows.jsonl", "--max-failures", "0") == 1
    assert "Stopped: 1 row was not applied, more than max_failures=0" in command.messages
    assert (
        "1 row is not done. All progress is in the journal. To continue anyway, with a higher "
        "limit for failures: cognigy-async bulk run rows.jsonl --max-failures 0 --force"
    ) in command.messages
    assert command("bulk", "run", "rows.jsonl", "--max-failures", "1", "--force", "--json") == 1
    assert (command.json["succeeded"], command.json["ended"]) == (1, "complete")


def test_a_job_at_its_limit_with_nothing_left_says_how_to_resume(
    emulator: Emulator, command: Command
) -> None:
    Path("rows.jsonl").write_text('{"dialog_id": "d"}\n')
    for _ in range(2):
        assert command("bulk", "run", "rows.jsonl", "--max-failures", "0") == 1
        assert (
            "All progress is in the journal. To continue anyway, with a higher limit for failures: "
            "cognigy-async bulk run"
        ) in command.messages
        assert "not done" not in command.messages


def test_other_options_are_refused_and_forced(emulator: Emulator, command: Command) -> None:
    write_rows(10)
    assert command("bulk", "run", "rows.jsonl") == 0
    assert command("bulk", "run", "rows.jsonl", "--coalesce") == 2
    assert "coalesce: false before, true now" in command.messages
    assert command("bulk", "run", "rows.jsonl", "--coalesce", "--force") == 0


def test_a_job_is_resumed_more_gently_and_otherwise(emulator: Emulator, command: Command) -> None:
    write_rows(10)
    run = ["bulk", "run", "rows.jsonl"]
    assert command(*run, "--limit", "5", "--rate", "1000/60") == 0
    more = ["--max-in-flight", "4", "--rate", "500/60", "--transport", "httpx"]
    assert command(*run, *more, "--loop", "asyncio", "--limit", "8", "--json") == 0
    assert (command.json["succeeded"], command.json["skipped"]) == (8, 5)
    assert command(*run) == 0
    assert "10 of 10 rows applied, 8 done before" in command.out


@pytest.fixture
def pipe(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[bytes], None]]:
    """Make standard input a pipe with a content."""
    with ExitStack() as stack:

        def fill(content: bytes) -> None:
            reader, writer = os.pipe()
            with open(writer, "wb") as file:
                file.write(content)
            monkeypatch.setattr(sys, "stdin", stack.enter_context(open(reader)))

        yield fill


def lines(*dialogs: str) -> bytes:
    return b"".join(b'{"dialog_id": "%s", "session": {"n": 1}}\n' % d.encode() for d in dialogs)


@pytest.mark.quick("*-1", "longer-500")
@pytest.mark.parametrize("count", [1, 500])
@pytest.mark.parametrize("change", ["other", "shorter", "longer"])
def test_another_pipe_in_the_same_folder_is_refused_and_can_be_another_job(
    emulator: Emulator,
    command: Command,
    pipe: Callable[[bytes], None],
    count: int,
    change: str,
) -> None:
    first = lines(*(f"d{n}" for n in range(count)), "a-b c") + b"{}\n"
    second = {
        "other": lines("x") + first[len(lines("d0")) :],
        "shorter": first[: -len(b"{}\n")],
        "longer": first + lines("x"),
    }[change]
    pipe(first)
    assert command("bulk", "run", "-") == 1
    letters = Path("stdin.dead.jsonl").read_bytes()
    assert letters.count(b"\n") == 1
    pipe(second)
    assert command("bulk", "run", "-") == 2
    assert command.out == ""
    assert "journal stdin.journal belongs to another input: standard input is" in command.messages
    assert len(emulator.dialogs) == count + 1
    if count == 1:
        assert Path("stdin.dead.jsonl").read_bytes() == letters
    pipe(first)
    assert command("bulk", "run", "-") == 1
    assert f"{count + 1} of {count + 2} rows applied, 1 failed" in command.out
    assert Path("stdin.dead.jsonl").read_bytes() == letters
    pipe(second)
    assert command("bulk", "run", "-", "--journal", "second") == (0 if change == "shorter" else 1)
    assert ("x" in emulator.dialogs) == (change != "shorter")


def test_csv_from_standard_input(
    emulator: Emulator, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("in.csv").write_text("dialog_id,session.zip,session.n\nd-1,01234,5\nd-2,,\n")
    with Path("in.csv").open() as file:
        monkeypatch.setattr(sys, "stdin", file)
        arguments = ["bulk", "run", "-", "--format", "csv", "--text-column", "session.zip"]
        assert command(*arguments, "--journal", "j", "--json") == 1
    assert emulator.dialogs["d-1"].session == {"zip": "01234", "n": 5}
    faulty = Path("j.faulty.csv").read_text(encoding="utf-8-sig")
    assert faulty == "dialog_id,session.zip,session.n\nd-2,,\n"


@pytest.mark.parametrize("more", [(), ("--quiet",), ("--dry-run",)])
def test_an_input_without_rows_is_no_success(
    emulator: Emulator, command: Command, monkeypatch: pytest.MonkeyPatch, more: tuple[str, ...]
) -> None:
    Path("rows.jsonl").write_text("")
    assert command("bulk", "run", "rows.jsonl", *more) == 1
    assert "The input has no rows." in command.messages
    with Path("rows.jsonl").open() as file:
        monkeypatch.setattr(sys, "stdin", file)
        assert command("bulk", "run", "-", *more) == 1
    assert "The input has no rows." in command.messages


def test_a_dry_run_works_without_settings_and_names_the_missing_ones(
    command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    write_rows(3)
    assert command("bulk", "run", "rows.jsonl", "--dry-run") == 0
    assert "Settings are missing: COGNIGY_BASE_URL" in command.messages
    assert "OK: 3 rows, 3 dialogs, 3 requests; no faults" in command.out
    assert command("bulk", "run", "rows.jsonl", "--dry-run", "--json") == 0
    assert command.json["rows"] == 3
    assert command("bulk", "run", "rows.jsonl") == 2


MODEL = """
from pydantic import BaseModel

class MySession(BaseModel):
    visits: int
    name: str

class Other(BaseModel):
    unfinished: "Missing"

number = 5
"""


def test_rows_that_do_not_fit_a_model_are_dead_letters(
    emulator: Emulator, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [part for part in sys.path if part])
    Path("typed_shop.py").write_text(MODEL)
    rows = [{"visits": 1}, {"visits": "2"}, {"name": "x"}, {"visist": 4}, {"visits": 5}]
    lines = [json.dumps({"dialog_id": f"d-{n}", "session": row}) for n, row in enumerate(rows)]
    Path("rows.jsonl").write_text("\n".join(lines))
    model = ("--model", "typed_shop:MySession")
    assert command("bulk", "run", "rows.jsonl", *model, "--dry-run") == 1
    assert "line 2, column 34: session.visits: does not fit" in command.out
    assert "line 4, column 34: session.visist: MySession has no variable" in command.out
    assert "2 rows with 2 faults" in command.out
    assert emulator.stats.requests == 0
    assert command("bulk", "run", "rows.jsonl", *model, "--dead-letters", "dead.jsonl") == 1
    letters = [json.loads(line) for line in Path("dead.jsonl").read_text().splitlines()]
    assert [letter["session"] for letter in letters] == [{"visits": "2"}, {"visist": 4}]
    assert set(emulator.dialogs) == {"d-0", "d-2", "d-4"}
    assert command("bulk", "run", "rows.jsonl") == 2
    assert 'model: "typed_shop:MySession" before, not set now' in command.messages


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("typed_store", "write it as MODULE:CLASS"),
        ("typed_missing:MySession", "cannot be imported (ModuleNotFoundError"),
        ("typed_store:MySesion", "cannot be imported (AttributeError"),
        ("typed_store:number", "must be a class of pydantic's BaseModel"),
        ("typed_store:Other", "Other has no fields that can be checked"),
    ],
)
def test_what_is_no_model_is_refused_before_anything_is_sent(
    emulator: Emulator,
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
    model: str,
    message: str,
) -> None:
    monkeypatch.setattr(sys, "path", [part for part in sys.path if part])
    Path("typed_store.py").write_text(MODEL)
    write_rows(1)
    for dry in ((), ("--dry-run",)):
        assert command("bulk", "run", "rows.jsonl", "--model", model, *dry) == 2
        assert message in command.messages
        assert not Path("rows.jsonl.journal").exists()
    assert emulator.stats.requests == 0


def test_the_quota_of_an_option(emulator: Emulator, command: Command) -> None:
    write_rows(50)
    assert command("bulk", "run", "rows.jsonl", "--dry-run", "--rate", "10/60") == 0
    assert "50 requests, 5 min" in command.out
    assert command("bulk", "run", "rows.jsonl", "--rate", "1000/60", "--json") == 0
    assert 0 < command.json["quota_utilisation"] <= 1
    assert command("bulk", "run", "rows.jsonl", "--rate", "ten") == 2
    assert "must be requests/seconds" in command.messages


@pytest.mark.parametrize("way", ["option", "setting"])
def test_a_context_that_the_tenant_allows_is_sent(
    emulator: Emulator, command: Command, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    monkeypatch.setenv("COGNIGY_API", "sessions")
    monkeypatch.setenv("COGNIGY_USER_ID", "u-1")
    large = {f"v{n}": "x" * 1000 for n in range(70)}
    Path("rows.jsonl").write_text(json.dumps({"dialog_id": "s-1", "session": large}) + "\n")
    assert command("bulk", "run", "rows.jsonl", "--dry-run") == 1
    assert "or raise COGNIGY_CONTEXT_LIMIT if your tenant allows more" in command.out
    option = ["--context-limit", "app"] if way == "option" else []
    if way == "setting":
        monkeypatch.setenv("COGNIGY_CONTEXT_LIMIT", "100000")
    assert command("bulk", "run", "rows.jsonl", *option, "--dry-run") == 0
    assert "OK: 1 row, 1 dialog, 2 requests" in command.out
    assert command("bulk", "run", "rows.jsonl", *option) == 0
    assert emulator.dialogs["s-1"].session == large
    assert emulator.stats.writes == 2


def test_a_context_limit_of_an_option_takes_precedence(
    emulator: Emulator, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COGNIGY_CONTEXT_LIMIT", "app")
    Path("rows.jsonl").write_text('{"dialog_id": "d-1", "session": {"a": "12345"}}\n')
    for dry in ((), ("--dry-run",)):
        assert command("bulk", "run", "rows.jsonl", "--context-limit", "9", *dry) == 1
        assert command("bulk", "run", "rows.jsonl", "--context-limit", "much", *dry) == 2
        assert "--context-limit much: must be default, app or a number of bytes" in command.messages
    assert emulator.stats.requests == 0


def test_a_baseline_saves_requests_and_forgets(emulator: Emulator, command: Command) -> None:
    write_rows(40, dialogs=40)
    nightly = ("bulk", "run", "rows.jsonl", "--baseline", "nightly")
    assert command(*nightly, "--journal", "1") == 0
    assert "40 of 40 rows applied; 40 requests" in command.out
    text = Path("rows.jsonl").read_text()
    Path("rows.jsonl").write_text(text.replace('"seq": 17}', '"seq": -17}'))
    assert command(*nightly, "--dry-run") == 0
    assert "OK: 40 rows, 40 dialogs, 1 request, 39 saved by the baseline; no faults" in command.out
    assert command(*nightly, "--journal", "2") == 0
    assert "1 of 40 rows applied, 39 unchanged; 1 request in" in command.out
    assert command("bulk", "status", "2") == 0
    assert "1 applied, 0 failed, 0 ambiguous, 39 unchanged\n" in command.out
    assert command("bulk", "forget", "nightly", "d1", "d2") == 0
    assert command.out == "2 variables of 2 dialogs forgotten\n"
    assert command("bulk", "forget", "nightly", "d1") == 1
    assert command.out == "The baseline knows no variable of this dialog; nothing was forgotten.\n"
    assert command("bulk", "forget", "nightly", "d1", "d2") == 1
    assert command.out.startswith("The baseline knows no variable of these 2 dialogs; nothing")
    assert command("bulk", "forget", "none", "d1") == 2
    assert "there is no baseline none" in command.err
    assert command(*nightly, "--journal", "3", "--baseline-max-age", "7d") == 0
    assert "2 of 40 rows applied, 38 unchanged; 2 requests in" in command.out
    assert emulator.dialogs["d17"].session == {"seq": -17}


def test_dead_letters_are_run_with_the_baseline(emulator: Emulator, command: Command) -> None:
    Path("rows.jsonl").write_text('{"dialog_id": "d", "session": {"a-b": 1}}\n')
    command("bulk", "run", "rows.jsonl", "--baseline", "nightly", "--baseline-max-age", "12h")
    again = "run rows.jsonl.dead.jsonl --baseline nightly --baseline-max-age 12h"
    assert again in " ".join(command.err.split())


@pytest.mark.parametrize("age", ["", "0", "-1h", "1w", "h", "nan", "inf"])
def test_an_age_that_is_none_is_refused(emulator: Emulator, command: Command, age: str) -> None:
    write_rows(1)
    options = ("--baseline", "nightly", "--baseline-max-age", age)
    assert command("bulk", "run", "rows.jsonl", *options) == 2
    assert "write a number above 0 with s, m, h or d behind it" in " ".join(command.err.split())


def test_an_age_needs_a_baseline_of_its_own(emulator: Emulator, command: Command) -> None:
    write_rows(1)
    assert command("bulk", "run", "rows.jsonl", "--baseline-max-age", "1d") == 2
    assert "baseline_max_age needs a baseline" in command.err
    assert command("bulk", "run", "rows.jsonl", "--baseline", "rows.jsonl") == 2
    assert "the input and the baseline are one file" in command.err
