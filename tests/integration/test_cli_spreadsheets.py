"""The page "CSV and spreadsheets": its commands, with the file that it describes."""

from __future__ import annotations

import itertools
import json
import re
import shlex
from pathlib import Path

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
    assert 'belongs to a job with other options: type: {"session.last_order"' in command.messages


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
    assert command.out.endswith("2,000 requests, 2 min 1 s under the rate limit; no faults\n")
    assert command(*dry, "--rate", "100000/60") == 0
    assert "It takes about 6.2 s at 100 ms a request and 32 in flight.\n" in command.out
    assert command(*dry, "--rate", "1000/1", "--max-in-flight", "4") == 0
    assert (
        "It takes about 50.0 s at 100 ms a request and 4 in flight, and at least 2.0 s under the "
        "rate limit.\n" in command.out
    )
    assert command(*dry, "--json") == 0
    assert (command.json["seconds"], command.json["measured_seconds"]) == (None, None)
    assert round(command.json["saas_seconds"]) == 603
    assert command("bulk", "run", "rows.jsonl", "--limit", "50") == 0
    Path("few.jsonl").write_text(lines[0] + "\n")
    assert command("bulk", "run", "few.jsonl", "--dry-run") == 0
    few = "\nIt takes less than a second at 100 ms a request and 1 in flight.\n"
    assert command.out.endswith(few)
    assert command("bulk", "run", "few.jsonl", "--dry-run", "--rate", "1000/300") == 0
    assert command.out.endswith(few)
    # The requests of one dialog follow each other.
    Path("one.jsonl").write_text(f"{lines[0]}\n" * 50)
    assert command("bulk", "run", "one.jsonl", "--dry-run") == 0
    assert command.out.endswith("\nIt takes about 5.0 s at 100 ms a request and 1 in flight.\n")
    assert command(*dry) == 0
    assert re.search(
        r"5 minutes, (less than a second|about [\d.]+ s) at the [\d.,e+]+ requests/s of earlier",
        command.out,
    )
    assert command(*dry, "--json") == 0
    measured = command.json["measured_seconds"]
    assert 0 < measured < 600
    # A run without anything left to send measures nothing.
    assert command("bulk", "run", "rows.jsonl", "--limit", "50") == 0
    assert command(*dry, "--json") == 0
    assert command.json["measured_seconds"] == measured


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--map", "Name"), "--map 'Name': write it as COLUMN=FIELD"),
        (("--type", "session.a="), "--type 'session.a=': write it as FIELD=TYPE"),
        (("--map", "a=_", "--map", "a=session.a"), "--map 'a' is given twice"),
        (("--map", "a=b"), "column 'a' cannot be mapped to 'b': name a field such as dialog_id"),
        (("--type", "session.a=float"), "must be text, integer, number, boolean, json"),
        (("--encoding", "windows"), "Python has no encoding of this name"),
        (("--decimal", ","), "a decimal comma needs a column of numbers"),
        (("--sheet", "A"), "rows.csv is CSV, and --sheet is only for Excel workbooks"),
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
    assert Path("j.faulty.csv").read_text(encoding="utf-8-sig") == "id;umsatz\nd-2;Größe\n"


FAULTY = """Kunde;Umsatz;Newsletter;Notiz
d-1;1.234,50;ja;"eine Zeile
und noch eine"
d-2;ca. 5 €;vielleicht;Größe
d-3;7,00;nein

;6,00;nein;ohne Nummer
d-4;"8,00;nein;
"""
MAPPED = [
    *("--map", "Kunde=dialog_id", "--map", "Umsatz=session.umsatz", "--map", "Notiz=_"),
    *("--map", "Newsletter=session.news", "--decimal", ",", "--type", "session.umsatz=number"),
    *("--type", "session.news=boolean"),
]


def test_faulty_rows_are_corrected_and_run_again(emulator: Emulator, command: Command) -> None:
    Path("rows.csv").write_text(FAULTY, encoding="cp1252")
    run = ("bulk", "run", "rows.csv", *MAPPED, "--encoding", "cp1252")
    assert command(*run, "--rate", "1000/1") == 1
    said = re.search(
        r"4 faulty rows are in rows.csv.faulty.csv, .*: cognigy-async (.*)",
        command.messages,
    )
    assert said is not None
    again = shlex.split(said[1])
    assert again == ["bulk", "run", "rows.csv.faulty.csv", "--rate", "1000/1", *again[5:]]
    faulty = Path("rows.csv.faulty.csv")
    head, *lines = FAULTY.splitlines(keepends=True)
    assert faulty.stat().st_mode & 0o777 == 0o600
    kept = head + "".join([*lines[2:4], *lines[5:]])
    assert faulty.read_text(encoding="utf-8-sig") == kept
    assert not Path("rows.csv.dead.jsonl").exists()
    # As they are, the rows are refused again.
    assert command(*again, "--journal", "same.journal") == 1
    assert set(emulator.dialogs) == {"d-1"}
    # The command of the job leaves corrections alone.
    correct = kept.replace("ca. 5 €;vielleicht", "5;ja").replace("nein\n", "nein;\n")
    correct = correct.replace('"8', "8").replace("\n;6", "\nd-5;6")
    faulty.write_text(correct, encoding="utf-8-sig")
    assert command(*run) == 1
    assert "rows.csv.faulty.csv: it has other content" in command.messages
    assert "4 faulty rows are in rows.csv.faulty.csv" in command.messages
    assert not Path("rows.csv.dead.jsonl").exists()
    assert command(*again) == 0
    assert emulator.dialogs["d-2"].session == {"umsatz": 5, "news": True}
    assert emulator.dialogs["d-3"].session == {"umsatz": 7, "news": False}
    assert emulator.dialogs["d-4"].session == {"umsatz": 8, "news": False}
    assert emulator.dialogs["d-5"].session == {"umsatz": 6, "news": False}


def test_a_dry_run_names_all_faults_of_a_row_as_the_table_does(
    emulator: Emulator, command: Command
) -> None:
    Path("rows.csv").write_text(FAULTY, encoding="utf-8")
    assert command("bulk", "run", "rows.csv", *MAPPED, "--dry-run") == 1
    first, second, third, fourth, *_ = command.out.splitlines()
    assert first.startswith("line 4, column 2: session.umsatz: is not a number with a decimal")
    assert first.endswith(" (column 'Umsatz', row 3, dialog 'd-2')")
    assert second.startswith("line 4, column 3: session.news: is not a boolean")
    assert second.endswith(" (column 'Newsletter', row 3, dialog 'd-2')")
    assert third.startswith("line 5, column 1: row: has 3 cells, and the header has 4")
    assert third.endswith(" (row 4)")
    assert fourth.startswith("line 7, column 1: dialog_id: is missing")
    fourth = command.out.splitlines()[4]
    assert fourth.startswith("line 8, column 1: row: is not CSV")
    assert fourth.endswith(" (row 7)")


def test_explain_knows_rows_that_could_not_be_read(emulator: Emulator, command: Command) -> None:
    Path("rows.csv").write_text(FAULTY, encoding="utf-8")
    assert command("bulk", "run", "rows.csv", *MAPPED) == 1
    assert command("bulk", "explain", "rows.csv.journal", "d-2") == 0
    assert "line 4: settled: failed, UpdateValidationError, not sent: dialog 'd-2': " in command.out
    assert "session.news: is not a boolean" in command.out
    assert command("bulk", "explain", "rows.csv.journal", "d-3") == 1
    assert "could not be read and name no dialog: those of line 5, 7, 8." in command.messages
    assert command("bulk", "explain", "rows.csv.journal", "") == 0
    assert "line 5: settled: failed, UpdateValidationError, not sent: row: has 3" in command.out
    # What a run kept only in part might be valid by chance.
    Path("other.csv").write_text("dialog_id;session.a\nd-1;Größe\n", encoding="cp1252")
    assert command("bulk", "run", "other.csv") == 1
    assert not Path("other.csv.faulty.csv").exists()
    assert "are in other.csv.dead.jsonl. Correct them if need be and run: " in command.messages


def test_a_dry_run_counts_faults_of_one_kind(emulator: Emulator, command: Command) -> None:
    rows = "".join(f"d-{number};Müller;x\n" for number in range(5000))
    Path("rows.csv").write_text(f"Id;Name;Preis\n{rows}", encoding="cp1252")
    dry = ["bulk", "run", "rows.csv", "--dry-run", "--map", "Id=dialog_id"]
    dry += ["--map", "Name=session.name", "--map", "Preis=session.price"]
    dry += ["--type", "session.price=number"]
    assert command(*dry) == 1
    lines = [line for line in command.out.splitlines() if "more faults" in line]
    assert lines == [
        "4,997 more faults like that of line 2 in the column 'Name': is not UTF-8; save the file "
        "as UTF-8, or name its encoding, as in --encoding cp1252. --verbose lists all of them.",
        "4,997 more faults like that of line 2 in the column 'Preis': is not a number; correct it, "
        "or read the column as text: --type session.price=text. --verbose lists all of them.",
    ]
    assert command.out.count("\nline ") + command.out.startswith("line ") == 6
    assert "5,000 rows with 10,000 faults" in command.out
    assert command(*dry, "--verbose") == 1
    assert command.out.count("dialog 'd-") == 10_000
    assert "more faults" not in command.out


def test_a_dry_run_names_settings_also_where_it_counts(
    emulator: Emulator, command: Command
) -> None:
    rows = [f'{{"dialog_id": "d-{n}", "inject": {{"text": "ready"}}}}' for n in range(4)]
    Path("rows.jsonl").write_text("\n".join(rows))
    assert command("bulk", "run", "rows.jsonl", "--dry-run") == 1
    assert command.out.count("set COGNIGY_ENDPOINT_URL and COGNIGY_ENDPOINT_TOKEN") == 4
    assert "1 more fault like that of line 1 in inject: " in command.out
    assert "Endpoint(" not in command.out


def test_the_page_corrects_faulty_rows_as_the_command_says(
    emulator: Emulator, command: Command
) -> None:
    at = next(at for at, snippet in enumerate(PAGE) if snippet.title == "nachtrag.csv")
    table, run, output, correction = PAGE[at : at + 4]
    Path("nachtrag.csv").write_text(table.text, encoding="utf-8")
    assert command(*shlex.split(run.text.replace("\\\n", ""))[1:]) == 1
    said, printed = output.text.splitlines()
    assert said in command.messages
    assert command.out.partition(";")[0] == printed.partition(";")[0]
    again = correction.text.replace("\\\n", "").splitlines()[1]
    assert shlex.split(again) == shlex.split(said.partition("and run: ")[2])
