"""Columns of a table.

A column is named `dialog_id`, `next_step`, `update_id`, `if_match`, or like a variable or a part of
a message, `session.cart_total` or `inject.text`, or it is renamed so. A column that begins with `_`
is passed over.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from itertools import zip_longest
from typing import Any, TypeAlias

from cognigy_async import Fault

from ..errors import InputError
from .row import Source, given_twice
from .table_options import CONTEXTS, TableOptions, is_field

Record: TypeAlias = tuple[int, Source, Fault | None]
"""Line number, content, and a fault that the reader has already found."""

MOST_COLUMNS = 1 << 14
"""As many as a sheet of Excel may have."""
FAULTS_SHOWN = 10
MOST_MAPPED = 40
"""Columns for which a message has a ready `--map`."""
UNNAMED = Fault(
    "row", "has a cell in a column without a name", "name the column, or empty the cell"
)
ZERO_WIDTH = "\u200b\u200c\u200d\u2060\ufeff"


@dataclass(slots=True)
class Findings:
    """Remarks and facts that reading an input brings to light, besides its records.

    Attributes:
        notes: Remarks for the user. They are not faults.
        records: Number of records of the whole input; None if only reading tells.
        columns: Columns of a table, once its header was read.
        header: Lines of the header of CSV, in UTF-8, once they were read.
    """

    notes: list[str] = field(default_factory=list)
    records: int | None = None
    columns: Columns | None = None
    header: bytes | None = None


class Columns:
    """The columns of a table.

    Args:
        header: Names of the columns in the table.
        name: Name of the input, for messages.
        options: New names of columns, and types of columns that have to exist.

    Attributes:
        header: Names of the columns in the table, without white space around them.
        names: Fields that the columns have, or names that begin with `_`.
        dot_groups: Fields whose numbers have a dot that was read as decimal, and whether the dots
            of all of them may group thousands. Those of the rows read so far.

    Raises:
        InputError: Some columns are unknown, doubled or missing; they are named.
    """

    def __init__(self, header: Sequence[str], name: str, options: TableOptions) -> None:
        self.header = tuple(map(stripped, header))
        self.names = tuple(options.columns.get(text, text) for text in self.header)
        unknown = [text for text in self.names if text and not is_field(text)]
        faults = []
        if unknown:
            more = f" and {len(unknown) - FAULTS_SHOWN:,} more" * (len(unknown) > FAULTS_SHOWN)
            named = ", ".join(map(repr, unknown[:FAULTS_SHOWN]))
            faults.append(f"these columns are not fields of an update: {named}{more}")
        faults += [f"column {at} has no name" for at, text in enumerate(self.names, 1) if not text]
        missing = options.columns.keys() - set(self.header)
        faults += [
            f"there is no column {text!r} to map{_near(text, self.header)}"
            for text in sorted(missing)
        ]
        for text in sorted(options.types.keys() - set(self.names)):
            new = options.columns.get(text)
            hint = f" after --map: its name is {new!r}" if new else _near(text, self.names)
            faults.append(f"there is no column {text!r}{hint}")
        faults += [
            f"column {text!r} is there twice"
            for text, number in Counter(self.names).items()
            if number > 1 and text[:1] not in ("", "_")
        ]
        if len(faults) > FAULTS_SHOWN:
            faults[FAULTS_SHOWN:] = [f"{len(faults) - FAULTS_SHOWN:,} more faults"]
        if "dialog_id" not in self.names:
            faults.append("there is no column 'dialog_id'")
        if len(self.names) > MOST_COLUMNS:
            faults = [f"there are {len(self.names):,} columns, more than {MOST_COLUMNS:,}"]
        if faults:
            given = [f"--map {f'{text}=_'!r}" for text in unknown[:MOST_MAPPED] or ["Remark"]]
            raise InputError(
                f"{name}: {'; '.join(faults)}. Columns may be dialog_id, next_step, update_id, and "
                "variables like session.cart_total; a column that begins with _ is ignored. Map "
                "other columns to these with --map 'Customer=dialog_id' and "
                f"--map 'Price=session.price', or ignore them: {' '.join(given)}"
            )
        self.id_in_header = self.header[self.names.index("dialog_id")]
        """Name of the column of dialog ids in the table."""
        self.dot_groups: dict[str, bool] = {}
        self._places = [_place(text) for text in self.names]

    def fields(self, values: Sequence[Any]) -> tuple[dict[str, Any], Fault | None]:
        """Return the fields of a row from its values that are not None, and its fault."""
        fields: dict[str, Any] = {}
        fault: Fault | None = None
        for (name, variable), value in zip(self._places, values, strict=True):
            if value is None:
                continue
            if variable is None and not (name in CONTEXTS and isinstance(value, dict)):
                fields[name] = value
                continue
            context = fields.setdefault(name, {})
            if not isinstance(context, dict):
                # The row is refused for this value of the column `session` or `user`.
                continue
            given = value if variable is None else {variable: value}
            if context and (twice := context.keys() & given.keys()):
                fault = given_twice(f"{name}.{min(twice)}")
            context.update(given)
        return fields, fault

    def fault_of_header(self, cells: Sequence[str], where: str) -> Fault | None:
        """Return the fault of a row that repeats the header, as in files that were joined.

        Raises:
            InputError: The row is a header of other columns.
        """
        texts = tuple(map(stripped, cells))
        moved = [text for text, name in zip_longest(texts, self.header) if text and text != name]
        known = set(self.header)
        if (
            moved
            and self.id_in_header in texts
            and all(text in known or is_field(text) for text in texts if text)
        ):
            raise InputError(
                f"{where} is a header of other columns, so a second table begins there. Only the "
                "rows before it were used. Put each table into a file of its own."
            )
        at = self.header.index(self.id_in_header)
        if texts[at : at + 1] != (self.id_in_header,):
            return None
        return Fault("row", "repeats the header", "remove it")


def _near(name: str, names: Sequence[str]) -> str:
    """Return a question whether the most similar of some names was meant; "" if none is similar."""
    plain = {text.casefold(): text for text in names}
    found = get_close_matches(name.casefold(), plain, 1)
    return f" (did you mean {plain[found[0]]!r}?)" if found else ""


def without_cleared(names: list[str]) -> list[str]:
    """Return the names of a header without the columns at its end that Excel keeps when cleared."""
    used = [number for number, name in enumerate(names, 1) if stripped(name)]
    return names[: max(used, default=1)]


def _place(name: str) -> tuple[str, str | None]:
    """Return a field, or a context and its variable."""
    context, dot, variable = name.partition(".")
    return (context, variable) if dot and context in CONTEXTS else (name, None)


def stripped(name: str) -> str:
    """Return a name without white space and zero-width characters around it."""
    return name.strip().strip(ZERO_WIDTH).strip()
