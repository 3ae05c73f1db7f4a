"""Timeline of one dialog, read from a journal."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .reading import open_to_read
from .schema import HOOK, Status

WAITS = {
    "conflict": "conflict: another client wrote the dialog",
    "fault": "500",
    "gateway": "502 or 504",
    "no_response": "no answer",
    "not_sent": "the server could not be reached",
    "throttled": "429",
    "unauthorized": "401: the token was refused",
    "unavailable": "503",
}


@dataclass(frozen=True, slots=True)
class Moment:
    """One event of a row, with its time in seconds of the epoch.

    `until` is the end of a wait; None if the row did not wait.
    """

    at: float
    line: int
    what: str
    until: float | None = None


def explain_dialog(journal: str | os.PathLike[str], dialog_id: str) -> list[Moment]:
    """Return what happened to the rows of one dialog, in order.

    The dialog ``""`` has the rows that could not be read and name no dialog.

    Raises:
        JournalRefusedError: The journal does not exist or is damaged.
    """
    path = Path(journal)
    with open_to_read(path) as connection:
        moments = [*_outcomes(connection, dialog_id), *_sends(connection, dialog_id)]
        moments += _events(connection, dialog_id)
    order = {"queued": 0, "sent": 1}
    # Events of one row within a millisecond are ordered by kind.
    return sorted(
        moments, key=lambda one: (int(one.at * 1000), one.line, order.get(one.what, 2), one.at)
    )


def _outcomes(connection: sqlite3.Connection, dialog_id: str) -> Iterator[Moment]:
    rows = connection.execute(
        "SELECT line, status, queued, sent, settled, attempts, refers, type, http, message"
        " FROM outcomes LEFT JOIN failures USING (line) WHERE coalesce(dialog, '') = ?",
        (dialog_id,),
    )
    for line, status, queued, sent, settled, attempts, refers, kind, http, message in rows:
        if queued is not None:
            yield Moment(queued, line, "queued")
        alone = refers is None or refers == line or status == Status.REPEATED
        merged = "" if alone else f", with line {refers}"
        if sent is not None:
            yield Moment(sent, line, f"sent{merged}")
        outcome = _outcome(status, attempts, refers, kind, http)
        # Messages about requests say less than the journal does.
        fault = f": {message}" if message and kind == "UpdateValidationError" else ""
        yield Moment(settled, line, outcome + fault)


def _outcome(
    status: int, attempts: int, refers: int | None, kind: str | None, http: int | None
) -> str:
    requests = "" if attempts == 1 else f" after {attempts} requests" if attempts else ", not sent"
    if status == Status.AMBIGUOUS and not attempts:
        # The run that was cut off sent the requests, so their number is unknown.
        requests = ""
    if status == Status.SUCCEEDED and not attempts:
        # See `IS_UNCHANGED`.
        return "settled: unchanged, not sent"
    if status == Status.SUCCEEDED:
        return f"settled: applied{requests}"
    if status == Status.REPEATED:
        return f"settled: the same update as line {refers}"
    name = "ambiguous" if status == Status.AMBIGUOUS else "failed"
    code = "" if http is None else f" {http}"
    return f"settled: {name}, {kind}{code}{requests}"


def _sends(connection: sqlite3.Connection, dialog_id: str) -> Iterator[Moment]:
    """Yield sends whose time no outcome holds, because their run was cut off."""
    rows = connection.execute(
        "SELECT line, sends.at, status FROM sends LEFT JOIN outcomes USING (line)"
        " WHERE sends.dialog = ? AND open AND sent IS NULL",
        (dialog_id,),
    )
    for line, at, status in rows:
        yield Moment(at, line, "sent, and no outcome is recorded" if status is None else "sent")


def _events(connection: sqlite3.Connection, dialog_id: str) -> Iterator[Moment]:
    rows = connection.execute(
        "SELECT line, at, what, seconds FROM events WHERE dialog = ?", (dialog_id,)
    )
    for line, at, what, seconds in rows:
        text: str = WAITS.get(what) or what
        yield Moment(at, line, text, None if text.startswith(HOOK) else at + seconds)
