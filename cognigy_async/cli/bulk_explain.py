"""`cognigy-async bulk explain`: the timeline of one dialog."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from cognigy_async.bulk import JournalRefusedError, explain_dialog

from .output import say, write_result
from .running import NOT_APPLIED, Debug, reported

__all__ = ["explain"]


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
        for moment in moments:
            until = "" if moment.until is None else f", waits until {_time(moment.until)}"
            write_result(f"{_time(moment.at)}  line {moment.line}: {moment.what}{until}")


def _time(at: float) -> str:
    return datetime.fromtimestamp(at).astimezone().strftime("%H:%M:%S.%f")[:-3]
