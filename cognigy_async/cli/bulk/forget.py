"""`cognigy-async bulk forget`: forget dialogs in a baseline, so that a job sends them again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cognigy_async.bulk import JournalRefusedError, forget_dialogs

from .._options import DebugOption
from .._output import counted, write_result
from .._run import NOT_APPLIED, report_errors


def forget(
    baseline: Annotated[
        Path, typer.Argument(metavar="FILE", help="File that --baseline of bulk run names.")
    ],
    dialog_ids: Annotated[
        list[str], typer.Argument(metavar="ID", help="Ids of the dialogs to forget.")
    ],
    debug: DebugOption = False,
) -> None:
    """Forget what a baseline knows of dialogs.

    The next job with the baseline sends all of their variables.

    Exit status: 0 forgotten, 1 the baseline knew nothing of the dialogs, 2 invalid usage or
    baseline.
    """
    with report_errors(debug=debug, log=False, usage=(JournalRefusedError,)):
        known = forget_dialogs(baseline, dialog_ids)
        if not known:
            one = len(dialog_ids) == 1
            which = "this dialog" if one else f"these {len(dialog_ids):,} dialogs"
            write_result(f"The baseline knows no variable of {which}; nothing was forgotten.")
            raise typer.Exit(NOT_APPLIED)
        write_result(
            f"{counted(known, 'variable')} of {counted(len(dialog_ids), 'dialog')} forgotten"
        )
