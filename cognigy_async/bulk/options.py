"""Options of a job."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from cognigy_async import ConfigurationError
from cognigy_async._utils.arguments import validate_seconds

from .input.table_options import NO_OPTIONS, Format, TableOptions


@dataclass(frozen=True, kw_only=True, slots=True)
class JobOptions:
    """Options of a job.

    Args:
        on_failure: ``"continue"`` applies all other rows; ``"pause-dialog"`` holds back rows after
            a failed row of the same dialog; ``"stop"`` takes no more rows.
        max_failures: Stop the job when more rows than this were not applied.
        canary: Apply this many rows first, and all others only if the first rows succeed:
            ``"1%"``, ``0.01`` or a number of rows.
        max_failure_rate: Share of the canary's rows that may fail; by default no row may fail. A
            given share also limits the failures among all rows, as soon as 100 rows are done and
            the canary, if there is one, is over.
        coalesce: Send waiting rows of the same dialog as one request.
        limit: Apply only this many rows from the beginning.
        only_dialogs: Apply only rows of these dialogs.
        session_ttl: Seconds after which the sessions have ended, counted from the begin of the
            job's first run. A row that was not sent by then is not sent any more. A row may name
            an earlier end in `expires_at`.
        format: Format of the input; by default taken from its name and first bytes.
        text_columns: Columns with the type text; see `TableOptions`.
        table: Options for reading CSV, Excel and Parquet.
        baseline: File that knows what was last applied through it, created if missing. Session
            variables that would change nothing are not sent.
        baseline_max_age: Seconds after which what the baseline knows does not count any more.

    Raises:
        ConfigurationError: An option is not valid.
    """

    on_failure: Literal["continue", "pause-dialog", "stop"] = "continue"
    max_failures: int | None = None
    canary: str | float | None = None
    max_failure_rate: str | float | None = None
    coalesce: bool = False
    limit: int | None = None
    only_dialogs: Iterable[str] = ()
    session_ttl: float | None = None
    format: Format | None = None
    text_columns: Iterable[str] = ()
    table: TableOptions = NO_OPTIONS
    baseline: str | Path | None = None
    baseline_max_age: float | None = None
    table_with_texts: TableOptions = field(init=False, repr=False, default=NO_OPTIONS)
    """The options of tables, with the type text for the text columns."""
    canary_rows: int | None = field(init=False, repr=False, default=None)
    """The canary, if it is a number of rows."""
    canary_share: float | None = field(init=False, repr=False, default=None)
    """The canary, if it is a share of all rows."""
    allowed_rate: float | None = field(init=False, repr=False, default=None)
    """The failure rate as a number. None allows no failure in the canary and any after it."""

    def __post_init__(self) -> None:
        if self.on_failure not in ("continue", "pause-dialog", "stop"):
            raise ConfigurationError(
                f"on_failure={self.on_failure!r}: must be continue, pause-dialog or stop"
            )
        for name, least in (("max_failures", 0), ("limit", 1)):
            number = getattr(self, name)
            if number is not None and (type(number) is not int or number < least):
                raise ConfigurationError(
                    f"{name}={number!r}: must be an integer of at least {least}"
                )
        if self.session_ttl is not None:
            ttl = validate_seconds("session_ttl", self.session_ttl)
            if ttl <= 0:
                raise ConfigurationError(
                    f"session_ttl={self.session_ttl!r}: must be a positive number of seconds; "
                    "leave it out for sessions that never end"
                )
            object.__setattr__(self, "session_ttl", ttl)
        if self.format not in (None, "jsonl", "csv", "parquet", "excel"):
            raise ConfigurationError(
                f"format={self.format!r}: must be jsonl, csv, parquet or excel"
            )
        for name in ("only_dialogs", "text_columns"):
            value = getattr(self, name)
            if isinstance(value, str):
                raise ConfigurationError(f"{name}: must be a sequence of strings, not a string")
            object.__setattr__(self, name, tuple(sorted(set(value))))
        age = self.baseline_max_age
        if age is not None and not age > 0:
            raise ConfigurationError(
                f"baseline_max_age={age!r}: must be a number of seconds above 0"
            )
        if age is not None and self.baseline is None:
            raise ConfigurationError("baseline_max_age needs a baseline: name its file")
        texts = tuple(self.text_columns)
        table = self.table.with_texts(texts) if texts else self.table
        object.__setattr__(self, "table_with_texts", table)
        self._parse_canary()
        if self.max_failure_rate is not None:
            rate, _ = _number(self.max_failure_rate)
            if not 0 <= rate <= 1:
                raise ConfigurationError(
                    f"max_failure_rate={self.max_failure_rate!r}: must be a share like 5% or 0.05"
                )
            object.__setattr__(self, "allowed_rate", rate)

    def _parse_canary(self) -> None:
        if self.canary is None:
            return
        number, is_percent = _number(self.canary)
        if not is_percent and number >= 1 and number.is_integer():
            object.__setattr__(self, "canary_rows", int(number))
        elif 0 < number <= 1:
            object.__setattr__(self, "canary_share", number)
        else:
            raise ConfigurationError(
                f"canary={self.canary!r}: must be a share like 1% or 0.01, or a number of rows"
            )

    @property
    def renews_keys(self) -> bool:
        """Return whether a run that goes on gives variables that it sends again another key.

        It may leave out other variables, or merge other rows, than the run before it. A server that
        remembers keys would apply some of these requests again, and not the later ones.
        """
        return self.coalesce or self.baseline is not None

    def record(self) -> dict[str, Any]:
        """Return the options by name, as the journal keeps them."""
        record = asdict(self)
        rows, share = record.pop("canary_rows"), record.pop("canary_share")
        if self.canary is not None:
            record["canary"] = str(rows) if share is None else f"{share:g}"
        record["max_failure_rate"] = record.pop("allowed_rate")
        del record["table"], record["table_with_texts"]
        if self.table is not NO_OPTIONS:
            record |= self.table.record()
        # Journals of jobs without a baseline are as they were before there were baselines.
        if self.baseline is None:
            del record["baseline"], record["baseline_max_age"]
        else:
            record["baseline"] = str(self.baseline)
        return {
            name: list(value) if type(value) is tuple else value for name, value in record.items()
        }


def _number(text: str | float) -> tuple[float, bool]:
    """Return ``"5%"`` or ``0.05`` as a number (NaN if invalid), and whether it had a "%" sign."""
    plain = str(text).strip()
    try:
        number = float(plain.removesuffix("%"))
    except ValueError:
        return math.nan, False
    return (number / 100, True) if plain.endswith("%") else (number, False)
