"""Files as programs export them: no traceback, no silent change, no wrong count."""

from __future__ import annotations

import bz2
import datetime
import decimal
import gzip
import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from cognigy_async.bulk import InputError

from ._rows import dry, rows_of


class Export(NamedTuple):
    """A file and what becomes of it.

    Attributes:
        content: The file, or a function that writes it.
        rows, faulty: Counts of its rows.
        message: Text of the refusal or of the first fault.
        first: Session of the first valid row.
    """

    content: bytes | str | Callable[[Path], None]
    rows: int = 0
    faulty: int = 0
    message: str = ""
    first: dict[str, Any] | None = None


def windows(text: str) -> str:
    return text.replace("\n", "\r\n")


SHEET = 'dialog_id,session.total,session.name,next_step\nd-1,149.99,Zoë,\nd-2,20.5,"A, B",pay\n'
ZOE = {"total": 149.99, "name": "Zoë"}
JSON = (
    '{"dialog_id":"d-1","session":{"total":149.99,"name":"Zoë"}}\n'
    '{"dialog_id":"d-2","next_step":"x"}\n'
)
ARRAY = "[\n" + JSON.replace("}\n{", "},\n{") + "]\n"
MANY = b"".join(b'{"dialog_id":"d-%d","session":{"n":%d}}\n' % (n, n) for n in range(3000))


def zipped(*names: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name in names:
            archive.writestr(name, JSON)
    return file.getvalue()


def parquet_of_spark(path: Path) -> None:
    """Write a table as old versions of Spark do: texts are binary, times have 96 bits."""
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    columns = {
        "dialog_id": [b"d-1", b"d-2"],
        "session.total": [decimal.Decimal("149.90"), None],
        "session.rate": arrow.array([149.99, None], arrow.float32()),
        "session.at": [None, datetime.datetime(2024, 5, 6)],
    }
    parquet.write_table(arrow.table(columns), path, use_deprecated_int96_timestamps=True)


def parquet_of_pandas(path: Path) -> None:
    """Write a data frame with its index."""
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    columns = {
        "dialog_id": arrow.array(["d-1", "d-2"]).dictionary_encode(),
        "session.total": [149.99, None],
        "session": [{"tags": ["a"], "address": {"city": None}}, None],
        "next_step": [None, "x"],
        "__index_level_0__": [7, 9],
    }
    parquet.write_table(arrow.table(columns), path)


EXPORTS: dict[str, Export] = {
    # Spreadsheets.
    "excel utf-8.csv": Export("\ufeff" + windows(SHEET) + windows(",,,\n,,,\n"), 2, 0, "", ZOE),
    "excel semicolons.csv": Export("\ufeff" + windows(SHEET.replace(",", ";")), 2, 0, "", ZOE),
    "excel tabs.csv": Export(SHEET.replace(",", "\t"), 2, 0, "", ZOE),
    "excel windows-1252.csv": Export(
        windows(SHEET).encode("cp1252"),
        2,
        1,
        "session.name: is not UTF-8",
        {"total": 20.5, "name": "A, B"},
    ),
    "excel dos.csv": Export(windows(SHEET).encode("cp437"), 2, 1, "session.name: is not UTF-8"),
    "excel unicode text.txt": Export(
        windows(SHEET.replace(",", "\t")).encode("utf-16"), message="add --format csv"
    ),
    "excel macintosh.csv": Export(SHEET.replace("\n", "\r"), message="carriage return"),
    "excel separator.csv": Export("sep=,\n" + SHEET, 2, 0, "", ZOE),
    "excel separators.csv": Export("sep=;\n" + SHEET.replace(",", ";"), 2, 0, "", ZOE),
    "excel cleared columns.csv": Export(
        "dialog_id,session.a,,\nd-1,1,,\nd-2,2,, \nd-3,3,,x\nd-4,4\nd-5,5,,,\n,,,\n",
        5,
        3,
        "has a cell in a column without a name",
        {"a": 1},
    ),
    "excel errors.csv": Export(
        "dialog_id,session.a\n"
        "d,#REF!\nd,#N/A\nd,#DIV/0!\nd,#SPILL!\nd,#NV\nd,#WERT!\nd,#NOM?\nd,#¡VALOR!\nd,#####\n"
        "d-1,#1\nd-2,#42!\nd-3,#yes!\n",
        12,
        9,
        "is #REF!, which stands for no value",
        {"a": "#1"},
    ),
    "excel texts as formulas.csv": Export(
        'dialog_id,session.a\n"=""17""",1\nd-1,"=""01234"""\nd-2,=1+1\n',
        3,
        2,
        "dialog_id: is a formula of a spreadsheet",
        {"a": "=1+1"},
    ),
    "excel ids.csv": Export(
        'dialog_id,session.a\nd-1,1\n4.91512E+12,1\n"4,9E+12",2\n4E12,3\n491.00,4\n',
        5,
        3,
        "rounded by a spreadsheet",
    ),
    "pandas ids.csv": Export(
        "dialog_id,session.a\n17.0,1\n1e+20,2\n4.9e+16,3\nv1.0,4\n1.5,5\n",
        5,
        3,
        "dialog_id: was rounded by a spreadsheet, or written as a number; take the id",
    ),
    "libreoffice errors.csv": Export(
        "dialog_id,session.a\nd-1,Err:502\nd-2,Err\n", 2, 1, "no value", {"a": "Err"}
    ),
    "javascript.csv": Export(
        "dialog_id,session.a\nundefined,1\nd-1,[object Object]\nd-2,x\n",
        3,
        2,
        "no value",
        {"a": "x"},
    ),
    "powershell objects.csv": Export(
        'dialog_id,session.a\n"d-1","System.Object[]"\n"d-2","x"\n', 2, 1, "no value", {"a": "x"}
    ),
    "macintosh.jsonl": Export(
        JSON.replace("\n", "\r"), 1, 1, "has a carriage return without a newline"
    ),
    "joined with marks.jsonl": Export(
        ("\ufeff" + JSON) * 2, 4, 1, "line 3, column 1: row: begins with a byte-order mark", ZOE
    ),
    "postgres infinity.csv": Export(
        "dialog_id,session.a\nd-1,infinity\nd-2,-infinity\nd-3,1\n", 3, 2, "no value", {"a": 1}
    ),
    "mongoexport canonical.jsonl": Export(
        '{"_id":{"$oid":"65a"},"dialog_id":"d-1","session":{"a":1,"link":{"$ref":"x"}}}\n'
        '{"dialog_id":"d-2","session":{"items":[{"total":{"$numberDecimal":"149.99"}}]}}\n'
        '{"dialog_id":{"$oid":"65b"},"session":{"a":1}}\n',
        3,
        2,
        "line 2, column 41: session.items[0].total: is extended JSON of MongoDB",
        {"a": 1, "link": {"$ref": "x"}},
    ),
    "mongoexport canonical.csv": Export(
        'dialog_id,session.a\nd-1,"{""$numberLong"": ""5""}"\nd-2,1\n',
        2,
        1,
        "line 2, column 2: session.a: is extended JSON of MongoDB",
        {"a": 1},
    ),
    "excel.xlsx": Export(
        zipped("[Content_Types].xml", "xl/workbook.xml"),
        message="cannot be read as an Excel workbook",
    ),
    "excel as csv.csv": Export(
        zipped("[Content_Types].xml", "xl/workbook.xml"), message="a workbook"
    ),
    "libreoffice.csv": Export(
        ',,\n"dialog_id","session.total","session.name"\n"d-1",149.99,"Zoë"\n,,\n', 1, 0, "", ZOE
    ),
    # Databases.
    "mysql outfile.txt": Export("d-1\t149.99\tZoë\t\\N\n", message="not JSON Lines"),
    "mysql.csv": Export(
        'dialog_id,session.name,next_step\n"d-1","a \\"b\\"",x\n"d-2","Zoë",\\N\n"d-3","Zoë",x\n',
        3,
        2,
        "is not CSV",
        {"name": "Zoë"},
    ),
    "postgres.csv": Export(
        'dialog_id,session.total,session.j,session.ok\nd-1,149.99,"{""a"": 1}",t\nd-2,NaN,,f\n',
        2,
        1,
        "is NaN",
        {"total": 149.99, "j": {"a": 1}, "ok": "t"},
    ),
    "psql.txt": Export(
        " dialog_id | session.a \n-----------+---\n d-1 | 1\n(1 row)\n", message="not JSON Lines"
    ),
    "psql.csv": Export("dialog_id,session.a\nd-1,1\n(1 row)\n", 2, 1, "has 1 cells", {"a": 1}),
    "sql server.csv": Export(
        "\ufeff" + windows("dialog_id,session.a,next_step\nd-1,1,NULL\nd-2,NULL,x\nd-3,3,\n"),
        3,
        2,
        "is NULL",
        {"a": 3},
    ),
    "sqlcmd.csv": Export(
        "dialog_id,session.a\n---------,---\nd-1,1\n", 2, 1, "line of dashes", {"a": 1}
    ),
    "fixed width.csv": Export(
        "dialog_id,session.a\nd-1       ,1\n", 1, 1, "ends with U+0020, space"
    ),
    "without header.csv": Export("d-1,149.99\nd-2,1\n", message="no column 'dialog_id'"),
    "sqlite.json": Export(ARRAY, message="a JSON array"),
    "sqlite.db": Export(b"SQLite format 3\0\x10\0", message="a database"),
    "snowflake.csv.gz": Export(
        gzip.compress(b"dialog_id,session.a,next_step\nd-1,1,\\N\nd-2,2,\n"),
        2,
        1,
        r"is \N",
        {"a": 2},
    ),
    "bigquery.jsonl": Export(
        '{"dialog_id":"d-1","session":{"n":"5","tags":[]},"next_step":null}\n{"dialog_id":"d-2","session":{"n":null}}\n',
        2,
        1,
        "session.n: a variable cannot be None",
        {"n": "5", "tags": []},
    ),
    # Data frames and clusters.
    "pandas.csv": Export(
        'dialog_id,session.total,session.name\nd-1,149.99,"line\nbreak"\nd-2,7.0,\n',
        2,
        0,
        "",
        {"total": 149.99, "name": "line\nbreak"},
    ),
    "pandas index.csv": Export(",dialog_id,session.a\n0,d-1,1\n", message="column 1 has no name"),
    "pandas.csv.bz2": Export(bz2.compress(SHEET.encode()), 2, 0, "", ZOE),
    "pandas records.json": Export(json.dumps(json.loads(ARRAY)), message="a JSON array"),
    "pandas columns.json": Export(
        '{"dialog_id":{"0":"d-1"},"session":{"0":{}}}', 1, 1, "is of type dict"
    ),
    "pandas.parquet": Export(
        parquet_of_pandas, 2, 0, "", {"total": 149.99, "tags": ["a"], "address": {"city": None}}
    ),
    "pandas.pkl": Export(b"\x80\x05\x95\x1b\x02\0\0\0\0\0\0\x8c\x11pandas", message="no text"),
    "python nan.jsonl": Export(
        '{"dialog_id":"d-1","session":{"a":NaN}}\n{"dialog_id":"d-2","session":{"a":1},"_score":NaN}\n',
        2,
        1,
        "NaN and infinity",
        {"a": 1},
    ),
    "python repr.jsonl": Export("{'dialog_id': 'd-1'}\n", 1, 1, "is not JSON"),
    "r row names.csv": Export(
        '"","dialog_id","session.a"\n"1","d-1",1\n', message="column 1 has no name"
    ),
    "r.csv": Export('"dialog_id","session.a"\n"d-1",1\n"d-2",NA\n', 2, 1, "is NA", {"a": 1}),
    "spark.snappy.parquet": Export(
        parquet_of_spark, 2, 1, "datetime is not a type", {"total": 149.9, "rate": 149.99}
    ),
    "spark part.json": Export(JSON, 2, 0, "", ZOE),
    "spark parts.csv": Export(SHEET + SHEET, 5, 1, "repeats the header", ZOE),
    "spark parts.jsonl.gz": Export(gzip.compress(JSON.encode()) * 2, 4, 0, "", ZOE),
    "_SUCCESS": Export(b""),
    # Windows.
    "powershell.csv": Export(
        '#TYPE Custom\r\n"dialog_id"\r\n"d-1"\r\n', message="no column 'dialog_id'"
    ),
    "powershell out-file.jsonl": Export(windows(JSON).encode("utf-16"), 2, 0, "", ZOE),
    "powershell ansi.jsonl": Export(windows(JSON).encode("cp1252"), 2, 1, "is not UTF-8"),
    "powershell utf8.jsonl": Export(b"\xef\xbb\xbf" + windows(JSON).encode(), 2, 0, "", ZOE),
    "powershell convertto-json.json": Export(
        '{\r\n    "dialog_id":  "d-1"\r\n}\r\n', message="over several lines"
    ),
    "windows.zip": Export(zipped("rows.jsonl"), message="a zip archive"),
    "copy a+b.csv": Export(windows(SHEET) + "\x1a", 2, 0, "", ZOE),
    # Downloads.
    "cut.jsonl": Export(MANY[:1010], 26, 1, "is not JSON"),
    "cut.jsonl.gz": Export(gzip.compress(MANY)[:-500], message="was cut off"),
    "padded.jsonl": Export(JSON.encode() + bytes(4096), 3, 1, "is not JSON", ZOE),
    "padded.jsonl.gz": Export(
        gzip.compress(MANY) + bytes(512), message="line 3001: there are bytes after"
    ),
    "error page.jsonl": Export("<!DOCTYPE html><html>Sign in</html>", message="HTML or XML"),
    "error.jsonl": Export('{"error":{"code":403}}', 1, 1, "error: is not a field of an update"),
    "joined.jsonl": Export(JSON.rstrip() + JSON, 3, 1, "is not JSON", ZOE),
}


@pytest.mark.parametrize("name", EXPORTS)
def test_an_export_is_applied_or_named(tmp_path: Path, name: str) -> None:
    export = EXPORTS[name]
    path = tmp_path / name
    if callable(export.content):
        export.content(path)
    else:
        content = export.content
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    if export.message and not export.rows:
        with pytest.raises(InputError) as caught:
            dry(path)
        assert export.message in str(caught.value)
        assert str(caught.value).startswith(str(path))
        return
    found, faults = dry(path)
    assert (found.rows, found.faulty) == (export.rows, export.faulty)
    assert bool(faults) == bool(export.message)
    if faults:
        assert export.message in str(faults[0])
    if export.first is not None:
        row = next(row for row in rows_of(path) if row.update is not None)
        assert row.update is not None
        assert row.update.session == export.first
