"""`cognigy-async bulk explain`: the timeline of one dialog."""

from __future__ import annotations

from datetime import date, datetime
from pathlib import Path
from typing import Annotated

import typer

from cognigy_async.bulk import JournalRefusedError, explain_dialog

from .output import say, write_result
from .running import NOT_APPLIED, Debug, reported


def explain(
    journal: Annotated[Path, typer.Argument(metavar="J", help="The journal.")],
    dialog_id: Annotated[str, typer.Argument(metavar="DIALOG", help="The dialog.")],
    debug: Debug = False,
) -> None:
    """Print what happened to the rows of one dialog, in order."""
    with reported(debug=debug, news=False, usage=(JournalRefusedError,)):
        moments = explain_dialog(journal, dialog_id)
        if not moments:
            say(f"The journal has nothing of dialog {dialog_id!r}.")
            raise typer.Exit(NOT_APPLIED)
        day = datetime.now().astimezone().date()
        for moment in moments:
            at = datetime.fromtimestamp(moment.at).astimezone()
            if at.date() != day:
                day = at.date()
                write_result(f"{day}:")
            until = "" if moment.until is None else f", waits until {_told(moment.until, day)}"
            write_result(f"{_time(at)}  line {moment.line}: {moment.what}{until}")


def _told(until: float, day: date) -> str:
    """With its date where that is not the day of what is told."""
    at = datetime.fromtimestamp(until).astimezone()
    return _time(at) if at.date() == day else f"{at.date()} {_time(at)}"


def _time(at: datetime) -> str:
    return at.strftime("%H:%M:%S.%f")[:-3]
