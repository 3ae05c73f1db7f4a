"""The page "CSV and spreadsheets": its commands, with the file that it describes."""

from __future__ import annotations

import itertools
import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from cognigy_async.emulator import Emulator
from tests.unit.bulk._sheets import workbook

from .commands import ROOT
from .conftest import Command
from .test_snippets import snippets

PAGE = snippets(ROOT / "docs" / "spreadsheets.md")


def write_export() -> list[str]:
    """Write the file with the program of the page; return its lines."""
    exec(compile(PAGE[0].text, PAGE[0].title, "exec"), {"__name__": "__main__"})
    return Path("kunden.csv").read_bytes().decode("cp1252").splitlines()


def commands() -> list[tuple[list[str], str]]:
    """Return the arguments of each command that reads the file, and what it prints."""
    found = []
    for snippet, output in itertools.pairwise(PAGE):
        words = shlex.split(snippet.text.replace("\\\n", "")) if snippet.language == "sh" else []
        if words[:4] == ["cognigy-async", "bulk", "run", "kunden.csv"]:
            found.append((words[1:], output.text))
    return found


def test_the_commands_of_the_page_print_what_it_says(emulator: Emulator, command: Command) -> None:
    write_export()
    runs = commands()
    assert len(runs) == 4
    for arguments, output in runs:
        status = command(*arguments)
        assert status == (2 if output.startswith("InputError") else 0)
        printed = (command.err + command.out).splitlines()
        for expected in output.splitlines():
            pattern = re.escape(expected).replace(r"\.\.\.", ".*")
            pattern = re.sub(r"in\\ [\d.\\]+\\ s$", r"in [\\d.]+ m?s", pattern)  # how long it took
            assert any(re.fullmatch(pattern, line) for line in printed), (expected, printed)
    assert len(emulator.dialogs) == 5000
    first, second = emulator.dialogs["K-00001"], emulator.dialogs["K-00002"]
    assert first.session == {
        "name": "Müller",
        "revenue": 1234.5,
        "last_order": "31.12.2024",
        "zip": "01067",
    }
    assert first.user == {"orders": 12, "newsletter": True}
    assert second.session == {"name": "Jäger", "zip": "10115"}
    assert command(*runs[-1][0]) == 0
    assert "5000 done before" in command.out
    other = [word.replace("session.zip=text", "session.zip=integer") for word in runs[-1][0]]
    assert command(*other) == 2
    assert 'belongs to a job with other options: type: {"session.revenue"' in command.messages


def test_a_workbook_takes_the_same_options(emulator: Emulator, command: Command) -> None:
    rows = [line.split(";")[:7] for line in write_export()[:4]]
    workbook(Path("kunden.xlsx"), *([cell or None for cell in row] for row in rows))
    arguments = [
        word.replace("kunden.csv", "kunden.xlsx")
        for word in commands()[-1][0]
        if word not in ("--encoding", "cp1252")
    ]
    at = arguments.index("Bemerkung=_")
    del arguments[at - 1 : at + 1]
    assert command(*arguments, "--json") == 0
    assert emulator.dialogs["K-00001"].session["revenue"] == 1234.5
    assert emulator.dialogs["K-00001"].session["zip"] == "01067"


def test_the_summary_for_programs(emulator: Emulator, command: Command) -> None:
    Path("rows.csv").write_text("dialog_id;session.a;_b\nd-1;1;x\nd-2;2.5;y\nd-3;z;\n")
    assert command("bulk", "run", "rows.csv", "--dry-run", "--json") == 0
    assert command.json["columns"][1] == {
        "name": "session.a",
        "field": "session.a",
        "type": "number, text",
        "types": {"integer": 1, "number": 1, "text": 1},
        "first_lines": {"integer": 2, "number": 3, "text": 4},
        "examples": ["1", "2.5", "z"],
        "decimal_comma": None,
    }
    assert [column["type"] for column in command.json["columns"]] == ["text", "number, text", ""]


@pytest.mark.parametrize("number", [3, 70])
def test_the_table_fits_and_has_no_control_characters(
    emulator: Emulator, command: Command, number: int
) -> None:
    names = [f"session.v{n}" for n in range(number)]
    cells = ["\x1b]0;x\x07\u202eevil", "x" * 100, "漢字", *["1"] * (number - 3)]
    lines = [["dialog_id", *names], ["d-1", *cells]]
    Path("rows.csv").write_text("\n".join(map(",".join, lines)), encoding="utf-8")
    assert command("bulk", "run", "rows.csv", "--dry-run") == 0
    printed = command.out.splitlines()
    assert re.search(r" text +\\x1b\]0;x\\x07\\u202eevil$", printed[2])
    assert printed[3].endswith("x" * 30 + "...")
    assert len(printed) == 3 + min(number + 1, 51)
    assert ("and 21 more columns, which --json has" in printed) == (number == 70)
    assert all(line.isprintable() for line in printed)


def test_a_dry_run_says_how_long_it_takes(
    emulator: Emulator, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COGNIGY_RATE_LIMIT", raising=False)
    lines = [json.dumps({"dialog_id": f"d{n}", "session": {"a": 1}}) for n in range(2000)]
    Path("rows.jsonl").write_text("\n".join(lines) + "\n")
    dry = ("bulk", "run", "rows.jsonl", "--dry-run")
    assert command(*dry) == 0
    assert (
        "2,000 requests; no faults\nIt takes 10 min 3 s at 1,000 requests in 5 minutes.\n"
        in command.out
    )
    assert command(*dry, "--rate", "1000/60") == 0
    assert "2,000 requests, 2 min 1 s under the rate limit; no faults" in command.out
    assert command(*dry, "--json") == 0
    assert (command.json["seconds"], command.json["measured_seconds"]) == (None, None)
    assert round(command.json["saas_seconds"]) == 603
    assert command("bulk", "run", "rows.jsonl", "--limit", "50") == 0
    Path("few.jsonl").write_text(lines[0] + "\n")
    assert command("bulk", "run", "few.jsonl", "--dry-run") == 0
    assert command.out.endswith("\nIt does not have to wait at 1,000 requests in 5 minutes.\n")
    assert command(*dry) == 0
    assert re.search(
        r"5 minutes, [\d.]+ (ms|s) at the [\d.,e+]+ requests/s of earlier", command.out
    )
    assert command(*dry, "--json") == 0
    assert 0 < command.json["measured_seconds"] < 600


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--map", "Name"), "--map 'Name': write it as COLUMN=FIELD"),
        (("--type", "session.a="), "--type 'session.a=': write it as FIELD=TYPE"),
        (("--map", "a=_", "--map", "a=session.a"), "--map 'a' is given twice"),
        (("--map", "a=b"), "column 'a' cannot be 'b': name a field such as dialog_id"),
        (("--type", "session.a=float"), "must be text, integer, number, boolean, json"),
        (("--encoding", "windows"), "Python has no encoding of this name"),
        (("--decimal", ","), "a decimal comma needs a column of numbers"),
        (("--sheet", "A"), "rows.csv is CSV and no workbook, which --sheet is for"),
    ],
)
def test_wrong_options_are_named(
    emulator: Emulator, command: Command, arguments: tuple[str, ...], message: str
) -> None:
    Path("rows.csv").write_text("dialog_id,session.a\nd-1,1\n")
    assert command("bulk", "run", "rows.csv", *arguments) == 2
    assert message in command.messages


def test_a_table_from_a_pipe(
    emulator: Emulator, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("in.csv").write_bytes("id;umsatz\nd-1;1,5\nd-2;Größe\n".encode("cp1252"))
    options = ["--encoding", "cp1252", "--map", "id=dialog_id", "--map", "umsatz=session.umsatz"]
    options += ["--type", "session.umsatz=number", "--decimal", ","]
    with Path("in.csv").open() as file:
        monkeypatch.setattr("sys.stdin", file)
        assert command("bulk", "run", "-", "--format", "csv", "--journal", "j", *options) == 1
    assert emulator.dialogs["d-1"].session == {"umsatz": 1.5}
    letter: dict[str, Any] = json.loads(Path("j.dead.jsonl").read_text())
    assert letter["_raw"] == "d-2;Größe"
