"""What a job is asked to do."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from cognigy_async import ConfigurationError

from .intake import Selection
from .readers import STDIN, Format

SETTLED_BEFORE_RATE = 100
"""Rows that must be done before a failure rate says anything, where there is no canary."""


@dataclass(frozen=True, slots=True)
class Share:
    """A part of an input: a number of rows, or a share of all of them.

    Raises:
        ConfigurationError: it is none.
    """

    rows: int | None = None
    share: float | None = None

    @classmethod
    def parse(cls, name: str, text: str | float) -> Share:
        """``"1%"``, ``0.01`` or ``500``."""
        number, is_percent = _number(text)
        if not is_percent and number >= 1 and number.is_integer():
            return cls(rows=int(number))
        if 0 < number <= 1:
            return cls(share=number)
        raise ConfigurationError(
            f"{name}={text!r}: must be a share like 1% or 0.01, or a number of rows"
        )

    def __str__(self) -> str:
        return f"{self.rows}" if self.share is None else f"{self.share:g}"


def _number(text: str | float) -> tuple[float, bool]:
    """``"5%"`` or ``0.05`` as a number, NaN where it is none, and whether it was in percent."""
    plain = str(text).strip()
    try:
        number = float(plain.removesuffix("%"))
    except ValueError:
        return math.nan, False
    return (number / 100, True) if plain.endswith("%") else (number, False)


def _failure_rate(name: str, text: str | float) -> float:
    """A share of failures between 0 and 1.

    Raises:
        ConfigurationError: it is none.
    """
    number, _ = _number(text)
    if not 0 <= number <= 1:
        raise ConfigurationError(f"{name}={text!r}: must be a share like 5% or 0.05")
    return number


@dataclass(frozen=True, kw_only=True, slots=True)
class JobOptions:
    """What a job is asked to do.

    Args:
        on_failure: ``"continue"`` with the other rows; ``"pause-dialog"`` holds back what follows
            a failed row of the same dialog; ``"stop"`` takes no further row.
        max_failures: the job stops when more rows than that were not applied.
        canary: so many rows come first, and the others only when those went well: ``"1%"``,
            ``0.01`` or a number of rows.
        max_failure_rate: the share of failures that the canary may have; where it is not given,
            none. Where it is, and without a canary or after it, also the share of all rows that are
            done, once those are 100.
        coalesce: rows that wait for the same dialog are sent as one request.
        limit: only so many rows from the beginning.
        only_dialogs: only rows of these dialogs.
        format: of the input; by default what its name and first bytes tell.
        text_columns: columns of CSV whose cells are not taken for JSON.

    Raises:
        ConfigurationError: something of it cannot work.
    """

    on_failure: Literal["continue", "pause-dialog", "stop"] = "continue"
    max_failures: int | None = None
    canary: str | float | None = None
    max_failure_rate: str | float | None = None
    coalesce: bool = False
    limit: int | None = None
    only_dialogs: Iterable[str] = ()
    format: Format | None = None
    text_columns: Iterable[str] = ()
    first: Share | None = field(init=False, repr=False)
    """The canary, parsed."""
    rate: float | None = field(init=False, repr=False)
    """The failure rate that is allowed, parsed; None for any, and for none in the canary."""

    def __post_init__(self) -> None:
        if self.on_failure not in ("continue", "pause-dialog", "stop"):
            raise ConfigurationError(
                f"on_failure={self.on_failure!r}: must be continue, pause-dialog or stop"
            )
        for name, least in (("max_failures", 0), ("limit", 1)):
            number = getattr(self, name)
            if number is not None and (type(number) is not int or number < least):
                raise ConfigurationError(f"{name}={number!r}: must be an integer from {least}")
        if self.format not in (None, "jsonl", "csv", "parquet"):
            raise ConfigurationError(f"format={self.format!r}: must be jsonl, csv or parquet")
        for name in ("only_dialogs", "text_columns"):
            value = getattr(self, name)
            if isinstance(value, str):
                raise ConfigurationError(f"{name} takes several texts, not one")
            object.__setattr__(self, name, tuple(sorted(set(value))))
        first = None if self.canary is None else Share.parse("canary", self.canary)
        allowed = self.max_failure_rate
        object.__setattr__(self, "first", first)
        object.__setattr__(
            self, "rate", None if allowed is None else _failure_rate("max_failure_rate", allowed)
        )

    @property
    def selection(self) -> Selection:
        """Which rows belong to the job."""
        return Selection(self.limit, frozenset(self.only_dialogs))

    def record(self) -> dict[str, Any]:
        """What a resumed run has to have in common with the one before, by name."""
        told = asdict(self)
        del told["first"], told["rate"]
        told["canary"] = None if self.first is None else str(self.first)
        told["max_failure_rate"] = self.rate
        return {
            name: list(value) if type(value) is tuple else value for name, value in told.items()
        }


def default_journal(source: str | Path) -> Path:
    """Where the journal of an input is unless somebody says otherwise: beside it."""
    return Path("stdin.journal") if source == STDIN else Path(f"{source}.journal")


def default_letters(journal: Path) -> Path:
    """Where the dead letters of a journal are unless somebody says otherwise: beside it."""
    return journal.with_name(f"{journal.name.removesuffix('.journal')}.dead.jsonl")
