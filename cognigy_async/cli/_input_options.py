"""Options that say how to read the rows of an input, and which of them."""

from __future__ import annotations

from typing import Annotated, Any, Literal, cast

import typer

from cognigy_async import ConfigurationError
from cognigy_async.bulk import TableOptions

RowLimitOption = Annotated[
    int | None, typer.Option(metavar="N", min=1, help="Process only the first N rows.")
]
OnlyDialogOption = Annotated[
    list[str] | None,
    typer.Option(metavar="ID", help="Process only this dialog. Repeatable."),
]
FormatOption = Annotated[
    Literal["jsonl", "csv", "parquet", "excel"] | None,
    typer.Option("--format", help="Input format. Default: detected from FILE."),
]
TextColumnOption = Annotated[
    list[str] | None,
    typer.Option(metavar="FIELD", help="Short for --type FIELD=text. Repeatable."),
]
ColumnTypeOption = Annotated[
    list[str] | None,
    typer.Option(
        "--type",
        metavar="FIELD=TYPE",
        help="Type of a column of CSV or Excel: text, integer, number, boolean or json, e.g. "
        "session.price=number. Repeatable.",
    ),
]
DecimalOption = Annotated[
    Literal[".", ","],
    typer.Option(
        help="Decimal separator in columns of type integer or number. If it is a comma, dots "
        "group thousands."
    ),
]
ColumnMapOption = Annotated[
    list[str] | None,
    typer.Option(
        "--map",
        metavar="COLUMN=FIELD",
        help="Map a column to a field, e.g. Customer=dialog_id or Price=session.price. The "
        "field _ ignores the column. Repeatable.",
    ),
]
DelimiterOption = Annotated[
    str | None,
    typer.Option(
        metavar="CHARACTER",
        help="Separator of CSV cells: a character, or comma, semicolon, tab or pipe. Default: "
        "detected from the header.",
    ),
]
EncodingOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Encoding of CSV or JSON Lines, e.g. cp1252. Default: the encoding of the "
        "byte-order mark, else UTF-8.",
    ),
]
SheetOption = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Sheet to read from an Excel workbook."),
]


def table_options(
    column_map: ColumnMapOption,
    column_type: ColumnTypeOption,
    decimal: DecimalOption,
    delimiter: DelimiterOption,
    encoding: EncodingOption,
    sheet: SheetOption,
) -> TableOptions:
    """Return the options of tables.

    Raises:
        ConfigurationError: An option is not valid.
    """
    return TableOptions(
        delimiter=delimiter,
        encoding=encoding,
        columns=_pairs("--map", "COLUMN=FIELD", column_map),
        types=cast("dict[str, Any]", _pairs("--type", "FIELD=TYPE", column_type)),
        decimal=decimal,
        sheet=sheet,
    )


def _pairs(option: str, form: str, given: list[str] | None) -> dict[str, str]:
    """Return the arguments of an option by the part before their last equals sign."""
    pairs: dict[str, str] = {}
    for text in given or ():
        name, equals, value = text.rpartition("=")
        if not (equals and name and value):
            raise ConfigurationError(f"{option} {text!r}: write it as {form}")
        if name in pairs:
            raise ConfigurationError(f"{option} {name!r} is given twice; give it once")
        pairs[name] = value
    return pairs
