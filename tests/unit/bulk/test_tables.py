"""CSV and Parquet."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import pytest

from cognigy_async.bulk import InputError, TableOptions
from cognigy_async.bulk.input.row import dead_letter
from cognigy_async.bulk.journal.schema import Failure

from ._rows import dry, row_reader, rows_of, written

CSV = """dialog_id,session.cart_total,session.zip,user.tags,next_step,update_id,_note
d-1,149.99,01234,"[1, 2]",pay,u-1,x

d-2,,00001,"a, ""b""
c",,,
d-3,true,null,{},7,8,
"""


def test_csv_cells_are_json_where_they_parse_and_empty_ones_assign_nothing(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("\ufeff" + CSV, encoding="utf-8")
    rows = rows_of(path, table=TableOptions(types={"session.zip": "text"}))
    assert [row.line for row in rows] == [2, 4, 6]
    updates = [row.update for row in rows]
    assert all(updates)
    found = [update.fields() for update in updates if update]
    assert found[0] == {
        "dialog_id": "d-1",
        "session": {"cart_total": 149.99, "zip": "01234"},
        "user": {"tags": [1, 2]},
        "next_step": "pay",
        "update_id": "u-1",
    }
    assert found[1] == {
        "dialog_id": "d-2",
        "session": {"zip": "00001"},
        "user": {"tags": 'a, "b"\nc'},
    }
    assert found[2]["session"] == {"cart_total": True, "zip": "null"}
    assert (found[2]["next_step"], found[2]["update_id"]) == ("7", "8")


def test_faults_of_csv_have_the_column_of_the_table(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(b"dialog_id,session.a,session.b-c\nd,1,2\nd,1\nd,9007199254740993,\nd,\xff,\n")
    found, faults = dry(path)
    assert (found.rows, found.faulty) == (4, 4)
    assert [(fault.line, fault.column, fault.path) for fault in faults] == [
        (2, 3, "session.b-c"),
        (3, 1, "row"),
        (4, 2, "session.a"),
        (5, 2, "session.a"),
    ]


@pytest.mark.parametrize(
    ("header", "texts", "message"),
    [
        (
            "id,session.a",
            (),
            "these columns are not fields of an update: 'id'; .*no column 'dialog_id'",
        ),
        (
            "id,a,dialog_id",
            (),
            "these columns are not fields of an update: 'id', 'a'. Columns may be",
        ),
        (
            ",".join(f"c{n}" for n in range(14)),
            (),
            r"'c9' and 4 more; .*or ignore them: --map 'c0=_' .*--map 'c13=_'$",
        ),
        ("dialog_id:session.a", (), "not fields of an update: 'dialog_id:session.a'"),
        ("dialog_id,session.a,session.a", (), "column 'session.a' is there twice"),
        ("dialog_id,session.a", ("session.b",), "no column 'session.b'"),
    ],
)
def test_a_header_that_cannot_be_used_is_refused(
    tmp_path: Path, header: str, texts: tuple[str, ...], message: str
) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(f"{header}\nd,1\n")
    with pytest.raises(InputError, match=message):
        rows_of(path, table=TableOptions().with_texts(texts))


def test_a_cell_of_csv_may_be_as_long_as_a_variable(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(f"dialog_id,session.a\nd-1,{'x' * 400_000}\n")
    (row,) = rows_of(path)
    assert row.error is None
    assert row.update is not None
    assert len(row.update.payload()["session"]["a"]) == 400_000


def test_an_unclosed_quote_is_reported_with_the_lines_it_consumes(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text('dialog_id,session.a\nd-1,1\nd-2,"a\nd-3,3\nd-4,4\n')
    found, faults = dry(path)
    assert (found.rows, found.faulty) == (2, 1)
    assert faults[0].line == 3
    assert "is not CSV up to line 5: " in faults[0].problem


def test_a_header_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "rows.csv", b"dialog_id,session.na\xefve", b"d-1,1")
    message = "the header, line 1, is not UTF-8; save the file as UTF-8"
    with pytest.raises(InputError, match=message):
        rows_of(path)


@pytest.mark.parametrize("row", ["", ",,", ",", " , ,\t", '"","",""', "\u00a0,,", ",,,,,"])
def test_a_row_without_content_is_passed_over(tmp_path: Path, row: str) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(f"{row}\ndialog_id,session.a,next_step\n{row}\nd-1,1,\n{row}\n{row}", "utf-8")
    found, faults = dry(path)
    assert (found.rows, faults) == (1, [])


@pytest.mark.parametrize("column", ["dialog_id", "session.a", "next_step", "update_id", "if_match"])
@pytest.mark.parametrize(
    "cell", ["null", "NULL", " NULL ", r"\N", "NaN", "NA", "#REF!", "-Infinity"]
)
def test_a_cell_that_stands_for_no_value_is_a_fault(tmp_path: Path, column: str, cell: str) -> None:
    row = {"dialog_id": "d-1", "user.b": "2", column: cell}
    path = tmp_path / "rows.csv"
    path.write_text(f"{','.join(row)}\n{','.join(row.values())}\n")
    found, faults = dry(path)
    assert (found.rows, len(faults)) == (1, 1)
    assert (faults[0].path, faults[0].column) == (column, list(row).index(column) + 1)
    assert faults[0].problem == f"is {cell.strip()}, which stands for no value"
    (row_of_text,) = rows_of(path, table=TableOptions().with_texts([column]))
    if cell == cell.strip() or column in ("session.a", "next_step"):
        assert row_of_text.update is not None
        # Each of these texts may be in a header of HTTP.
        expected = cell if column != "session.a" else {"a": cell}
        assert row_of_text.update.fields()[column.partition(".")[0]] == expected


@pytest.mark.parametrize("cell", ["TRUE", "False"])
def test_a_boolean_in_capitals_is_a_text_with_a_note(tmp_path: Path, cell: str) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(f"dialog_id,session.a,session.b\nd-1,{cell},true\nd-2,{cell},{cell}\n")
    found, faults = dry(path)
    assert not faults
    looks = [note.partition(". ")[0] for note in found.notes if "look like" in note]
    assert looks == [
        f"The column 'session.{name}' has values that look like booleans, such as yes, nein or "
        f"TRUE, from line {line} on"
        for name, line in (("a", 2), ("b", 3))
    ]
    first, _ = rows_of(path)
    assert first.update is not None
    assert first.update.session == {"a": cell, "b": True}
    found, _ = dry(path, text_columns=["session.a", "session.b"])
    assert not found.notes


def test_a_null_within_a_cell_is_a_fault_as_in_json(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text('dialog_id,session\nd-1,"{""a"": null, ""b"": 1}"\nd-1,"{""b"": NaN}"\n')
    _, faults = dry(path)
    assert [(fault.path, fault.line) for fault in faults] == [("session.a", 2), ("session.b", 3)]


def test_whatever_is_in_a_column_that_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    cells = [b"\xff\xfe", b"NULL", b"\0", b'"{""a"": 1, ""a"": 2}"', b"x" * 2_000_000, b"\xe2\x80"]
    path.write_bytes(
        b"dialog_id,_note,session.a\n" + b"".join(b"d-1,%s,1\n" % cell for cell in cells)
    )
    rows = rows_of(path)
    assert [row.error for row in rows] == [None] * len(cells)
    letter = json.loads(dead_letter(2, rows[0].source, Failure("X", "m", None)))
    assert letter["_note"] == "\ufffd\ufffd"


@pytest.mark.parametrize(
    "header",
    [
        "dialog_id,session.a,_x",
        "\ufeffdialog_id,session.a,_x",
        '"dialog_id", session.a ,_x',
        "dialog_id,,",
    ],
)
def test_a_header_among_the_rows_is_a_fault(tmp_path: Path, header: str) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(f"dialog_id,session.a,_x\nd-1,1,\n{header}\nd-2,2,\n", "utf-8")
    found, faults = dry(path)
    assert (found.rows, found.dialogs) == (3, 2)
    assert [(fault.line, fault.problem) for fault in faults] == [(3, "repeats the header")]


def test_a_header_of_other_columns_ends_the_input(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    rows = ["dialog_id,session.a,session.b", "d-1,1,2", "dialog_id,session.b,session.a", "d-2,1,2"]
    path.write_text("\n".join(rows))
    reader = row_reader(path)
    lines: list[int] = []
    with pytest.raises(InputError, match="line 3 is a header of other columns"):
        for row in reader.rows():
            lines.append(row.line)
    reader.close()
    assert lines == [2]


def test_dialogs_may_be_named_like_a_column(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("session.a,dialog_id\ndialog_id,d-1\nx dialog_id,dialog_id-2\n")
    assert [row.dialog_id for row in rows_of(path)] == ["d-1", "dialog_id-2"]


@pytest.mark.parametrize(
    ("header", "row", "fault"),
    [
        ("dialog_id,session,session.a", 'd,"{""a"": 1}",2', "session.a: is given twice"),
        ("dialog_id,session.a,session", 'd,2,"{""a"": 1}"', "session.a: is given twice"),
        ("dialog_id,session,session.a", "d,5,2", "session: is of type int"),
        ("dialog_id,session.a,session", "d,2,5", "session: is of type int"),
        ("dialog_id,session.a", 'd,"{""b"": 1, ""b"": 2}"', "session.a.b: is given twice"),
        (
            "dialog_id,session.a",
            'd,"[{}, {""_b"": 1, ""_b"": 2}]"',
            "session.a[1]._b: is given twice",
        ),
        ("dialog_id,session", 'd,"{""a"": 1, ""a"": 2}"', "session.a: is given twice"),
    ],
)
def test_a_variable_given_twice_is_a_fault(
    tmp_path: Path, header: str, row: str, fault: str
) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(f"{header}\n{row}\n")
    _, faults = dry(path)
    assert [f"{one.path}: {one.problem}" for one in faults] == [fault]


def test_the_dead_letter_of_a_row_with_a_bad_cell_is_no_row(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(
        'dialog_id,session.a,session.b\n{"dialog_id":"d","next_step":"s"}\nd-1,NULL,2\n'
    )
    for row in rows_of(path):
        assert row.error is not None
        letter = dead_letter(row.line, row.source, Failure("X", "m", None))
        (again,) = rows_of(written(tmp_path / "dead.jsonl", letter.rstrip()))
        assert again.update is None
        assert json.loads(letter)["_raw"] == path.read_text().splitlines()[row.line - 1]


def test_a_row_of_long_cells_is_a_fault(tmp_path: Path) -> None:
    cells = ["x" * 900_000] * 4
    quoted = ['"' + "x\n" * 450_000 + '"'] * 4
    path = tmp_path / "rows.csv"
    header = "dialog_id," + ",".join(f"session.v{n}" for n in range(4))
    rows = [header, *(",".join(["d", *row]) for row in (cells, ["1"] * 4, quoted, ["2"] * 4))]
    path.write_text("\n".join(rows) + "\n")
    found, faults = dry(path)
    assert found.rows == 4
    assert [fault.line for fault in faults] == [2, 4]
    assert faults[0].problem == "is longer than 2,621,440 bytes"
    assert faults[1].problem == "is longer than 2,621,440 bytes up to line 1800004"


def test_the_cells_of_a_row_that_is_too_long_are_no_rows(tmp_path: Path) -> None:
    line = b"d-2,2\n"
    path = tmp_path / "rows.csv"
    path.write_bytes(b'dialog_id,session.a\nd-1,"' + line * 600_000 + b'"\nd-3,3\n')
    found, faults = dry(path)
    assert (found.rows, len(faults)) == (2, 1)
    path.write_bytes(
        b'dialog_id,session.a\nd-1,"' + line + b"x" * 3_000_000 + b'""\n' + line + b'"\nd-3,3\n'
    )
    found, faults = dry(path)
    assert (found.rows, len(faults)) == (2, 1)


def test_a_header_of_too_many_columns_is_refused_soon(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("dialog_id" + "".join(f",session.v{n}" for n in range(17_000)) + "\n")
    with pytest.raises(InputError, match="there are 17,001 columns, more than 16,384"):
        rows_of(path)
    path.write_text("".join(f"v{n}," for n in range(5_000)) + "\n")
    with pytest.raises(InputError, match="'v9' and 4,990 more; ") as caught:
        rows_of(path)
    assert len(str(caught.value)) < 2000


def test_ids_with_invisible_ends_are_faults(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("dialog_id,session.a\n d-1,1\nd-2\u200b,2\n", "utf-8")
    _, faults = dry(path)
    assert [fault.problem for fault in faults] == [
        "begins with U+0020, space",
        "ends with U+200B, zero width space",
    ]


@pytest.mark.parametrize(
    ("name", "header", "row"),
    [
        ("comma", "dialog_id,session.a", "d-1,5"),
        ("semicolon", "dialog_id;session.a", "d-1;5"),
        ("tab", "dialog_id\tsession.a", "d-1\t5"),
        ("pipe", "dialog_id|session.a", "d-1|5"),
        ("commas in a cell", '"_a,b,c,d";dialog_id;session.a', "x;d-1;5"),
        ("delimiters in a cell", '"_a;b|c\t,";dialog_id;session.a', "x;d-1;5"),
        ("a line in a cell", '"_a\n,,,";dialog_id;session.a', "x;d-1;5"),
        ("lines without content", ";;\n\n \ndialog_id;session.a", "d-1;5"),
        ("other names", "Nr, alt;session.a", "d-1;5"),
        ("quoted", '"dialog_id";"session.a"', '"d-1";"5"'),
        ("hint", "sep=;\ndialog_id;session.a", "d-1;5"),
        ("hint of another one", '"sep=:"\r\ndialog_id:session.a', "d-1:5"),
    ],
)
def test_the_delimiter_is_that_of_the_header(
    tmp_path: Path, name: str, header: str, row: str
) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(f"{header}\n{row}\n")
    table = TableOptions(columns={"Nr, alt": "dialog_id"} if name == "other names" else {})
    (found,) = rows_of(path, table=table)
    assert found.update is not None
    assert found.update.fields() == {"dialog_id": "d-1", "session": {"a": 5}}
    assert found.line == header.count("\n") + 2
    notes = dry(path, table)[0].notes
    expected = {"comma": (), "hint": (), "hint of another one": ()}
    what = "tabs" if name == "tab" else "bars" if name == "pipe" else "semicolons"
    assert notes == expected.get(name, (f"The columns are separated by {what}.",))


def test_a_delimiter_that_is_given_is_used(tmp_path: Path) -> None:
    path = tmp_path / "rows.tsv"
    path.write_text("dialog_id^session.a\nd-1^5\n")
    (row,) = rows_of(path, table=TableOptions(delimiter="^"))
    assert row.update is not None
    assert row.update.session == {"a": 5}
    path.write_text("sep=,\ndialog_id,session.a\n")
    with pytest.raises(InputError, match="begins with sep=,, so leave --delimiter out"):
        rows_of(path, table=TableOptions(delimiter=";"))


def test_a_row_with_other_cells_names_the_delimiter(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("dialog_id;session.a\nd-1;5;6\n")
    _, faults = dry(path)
    assert [fault.remedy for fault in faults] == ["quote cells that hold semicolons or newlines"]
    path.write_text('dialog_id; session.a\nd-1; "a;b"\n')
    _, faults = dry(path)
    assert [fault.remedy for fault in faults] == [
        "remove the space before the quote: a quote counts only at the beginning of a cell"
    ]


@pytest.mark.quick("300000")
@pytest.mark.parametrize("lines", [300_000, 3_000_000])
def test_lines_without_content_before_a_header_take_no_memory(tmp_path: Path, lines: int) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(b";;\n" * lines + b"dialog_id;session.a;\nd-1;5;\n")
    tracemalloc.start()
    try:
        (row,) = rows_of(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert row.line == lines + 2
    assert peak < 20_000_000
