"""Options of tables: how their text is read, and the names and types of their columns."""

from __future__ import annotations

import codecs
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias, get_args

from cognigy_async import ConfigurationError

from ..errors import InputError

Format: TypeAlias = Literal["jsonl", "csv", "parquet", "excel"]
ColumnType: TypeAlias = Literal["text", "integer", "number", "boolean", "json"]

TYPES = get_args(ColumnType)
DELIMITERS = {"comma": ",", "semicolon": ";", "tab": "\t", "\\t": "\t", "pipe": "|"}
"""Names of delimiters that are hard to type in a shell."""
TEXTS = frozenset(
    {
        *("dialog_id", "expires_at", "if_match", "next_step", "profile_id", "update_id"),
        *("user_id", "inject.text", "notify.text"),
    }
)
CONTEXTS = ("session", "user", "inject", "notify")
"""Fields with variables or parts, each of which may have a column."""
PARTS = frozenset({"inject.data", "notify.data", "notify.attachments"})
"""Parts of messages besides their text."""

FORMATS = {"jsonl": "JSON Lines", "csv": "CSV", "parquet": "Parquet", "excel": "an Excel workbook"}
USES: dict[str, tuple[str, str, tuple[Format, ...]]] = {
    "delimiter": ("CSV files", "--delimiter is", ("csv",)),
    "encoding": ("CSV and JSON Lines", "--encoding is", ("csv", "jsonl")),
    "columns": ("CSV, Excel and Parquet", "--map is", ("csv", "excel", "parquet")),
    "types": (
        "CSV files and Excel workbooks",
        "--type and --text-column are",
        ("csv", "excel"),
    ),
    "sheet": ("Excel workbooks", "--sheet is", ("excel",)),
}
"""Kind of input that each option needs, its names, and the formats that use it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TableOptions:
    """Options of tables (CSV, Excel, Parquet).

    Args:
        delimiter: Separator of the cells of CSV: one character, or ``"comma"``, ``"semicolon"``,
            ``"tab"`` or ``"pipe"``. By default the one that the header has.
        encoding: Encoding of CSV or JSON Lines, such as ``"cp1252"``. By default UTF-8, or UTF-16
            if a byte-order mark says so.
        columns: Fields of an update by the names of their columns, such as
            ``{"Customer": "dialog_id", "Price": "session.price", "Remark": "_"}``. A field that
            begins with ``_`` is passed over.
        types: Types of columns by their fields, such as ``{"session.price": "number"}``. They are
            ``"text"``, ``"integer"``, ``"number"``, ``"boolean"`` and ``"json"``. A cell that does
            not fit is a fault of its row. Cells of CSV without a type are JSON where they parse,
            else text.
        decimal: Decimal separator of columns with the type integer or number. If it is a comma, a
            dot groups thousands.
        sheet: Name of the sheet of a workbook. By default the only one that is visible.

    Raises:
        ConfigurationError: An option is not valid.
    """

    delimiter: str | None = None
    encoding: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict, hash=False)
    types: Mapping[str, ColumnType] = field(default_factory=dict, hash=False)
    decimal: Literal[".", ","] = "."
    sheet: str | None = None

    def __post_init__(self) -> None:
        if self.delimiter is not None:
            object.__setattr__(self, "delimiter", _delimiter(self.delimiter))
        if self.encoding is not None:
            object.__setattr__(self, "encoding", _encoding(self.encoding))
        for name in ("columns", "types"):
            object.__setattr__(self, name, dict(sorted(dict(getattr(self, name)).items())))
        for column, target in self.columns.items():
            if not is_field(target):
                raise ConfigurationError(
                    f"column {column!r} cannot be mapped to {target!r}: name a field such as "
                    "dialog_id, next_step or session.price, or _ to ignore the column"
                )
        for target, kind in self.types.items():
            if kind not in TYPES:
                raise ConfigurationError(
                    f"the type of {target!r} cannot be {kind!r}: must be {', '.join(TYPES)}"
                )
            if (target in TEXTS and kind != "text") or (target in CONTEXTS and kind != "json"):
                fixed = "a text" if target in TEXTS else "an object"
                raise ConfigurationError(f"{target} is always {fixed}; leave its type out")
        if self.decimal not in (".", ","):
            raise ConfigurationError(f"decimal={self.decimal!r}: must be a dot or a comma")
        if self.decimal == "," and not {"integer", "number"} & set(self.types.values()):
            raise ConfigurationError(
                "a decimal comma needs a column of numbers: add --type session.price=number for "
                "each of them, or leave --decimal out"
            )

    def with_texts(self, columns: Collection[str]) -> TableOptions:
        """Return the options with the type text for some more columns.

        Raises:
            ConfigurationError: One of them has another type.
        """
        for name in columns:
            if self.types.get(name, "text") != "text":
                raise ConfigurationError(
                    f"column {name!r} cannot be a text column and of the type {self.types[name]}; "
                    "leave one of them out"
                )
        return replace(self, types={**self.types, **dict.fromkeys(columns, "text")})

    def record(self) -> dict[str, Any]:
        """Return the options that were given, by name, as the journal keeps them."""
        record = {
            "delimiter": self.delimiter,
            "encoding": self.encoding,
            "map": self.columns,
            "type": self.types,
            "decimal": None if self.decimal == "." else self.decimal,
            "sheet": self.sheet,
        }
        return {name: value for name, value in record.items() if value}

    def refuse_unused(self, kind: Format, name: str) -> None:
        """Raise an InputError if a given option has no use for a format."""
        for option, (what, names, kinds) in USES.items():
            if getattr(self, option) and kind not in kinds:
                raise InputError(f"{name} is {FORMATS[kind]}, and {names} only for {what}; omit it")


NO_OPTIONS = TableOptions()
"""Options of a table that needs none."""


def is_field(name: str) -> bool:
    """Return whether a column may have this name."""
    if name in TEXTS or name in CONTEXTS or name in PARTS:
        return True
    return name.startswith(("_", "session.", "user."))


def _delimiter(text: str) -> str:
    character = DELIMITERS.get(text, text)
    if len(character) != 1 or character in '"\r\n':
        raise ConfigurationError(
            f"delimiter={text!r}: must be one character, or comma, semicolon, tab or pipe"
        )
    return character


def _encoding(name: str) -> str:
    """Return the name that Python has for an encoding."""
    try:
        # Fails if it is no encoding of texts.
        bytes(8).decode(name)
        codecs.getincrementaldecoder(name)
        return codecs.lookup(name).name
    except (LookupError, ValueError):
        raise ConfigurationError(
            f"encoding={name!r}: Python has no encoding of this name; common ones are cp1252, "
            "latin-1 and utf-16"
        ) from None
