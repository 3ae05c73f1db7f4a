"""`cognigy-async bulk explain`: the timeline of one dialog."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import typer

from cognigy_async.bulk import JournalRefusedError, explain_dialog

from .._options import DebugOption
from .._output import say, write_result
from .._run import NOT_APPLIED, report_errors
from .status import JournalArgument

MOST_LINES = 10
"""Most lines of rows without a dialog that are named."""


def explain(
    journal: JournalArgument,
    dialog_id: Annotated[str, typer.Argument(metavar="DIALOG", help="Dialog id.")],
    debug: DebugOption = False,
) -> None:
    """Print what happened to the rows of a dialog.

    Exit status: 0 rows printed, 1 the journal has no row of the dialog, 2 invalid usage or journal.
    """
    with report_errors(debug=debug, log=False, usage=(JournalRefusedError,)):
        moments = explain_dialog(journal, dialog_id)
        if not moments:
            say(f"The journal has no row of dialog {dialog_id!r}.")
            if unknown := explain_dialog(journal, ""):
                lines = ", ".join(str(moment.line) for moment in unknown[:MOST_LINES])
                more = " and more" if len(unknown) > MOST_LINES else ""
                say(
                    f"Some rows could not be read and name no dialog: those of line {lines}{more}. "
                    "An empty DIALOG, '', explains them."
                )
            raise typer.Exit(NOT_APPLIED)
        day = datetime.now().astimezone().date()
        for moment in moments:
            at = datetime.fromtimestamp(moment.at).astimezone()
            if at.date() != day:
                day = at.date()
                write_result(f"{day}:")
            wait = ""
            if moment.until is not None:
                until = datetime.fromtimestamp(moment.until).astimezone()
                date = "" if until.date() == day else f"{until.date()} "
                wait = f", waits until {date}{_time(until)}"
            write_result(f"{_time(at)}  line {moment.line}: {moment.what}{wait}")


def _time(at: datetime) -> str:
    return at.strftime("%H:%M:%S.%f")[:-3]
