"""`cognigy-async bulk status`: the progress that a journal records."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from cognigy_async.bulk import JournalRefusedError, JournalSummary, read_summary

from .._options import DebugOption, JsonOption
from .._output import counted, duration, write_json, write_result
from .._run import report_errors

JournalArgument = Annotated[
    Path, typer.Argument(metavar="JOURNAL", help="File that records the progress of the job.")
]


def status(
    journal: JournalArgument, as_json: JsonOption = False, debug: DebugOption = False
) -> None:
    """Print the progress of a job, running or not, from its journal."""
    with report_errors(debug=debug, log=False, usage=(JournalRefusedError,)):
        summary = read_summary(journal)
        if as_json:
            write_json(summary.record())
        else:
            for line in _lines(summary):
                write_result(line)


def _lines(summary: JournalSummary) -> Iterator[str]:
    totals = summary.totals
    yield f"job {summary.job_id}, input {summary.source}"
    yield f"{totals.succeeded} applied, {totals.failed} failed, {totals.ambiguous} ambiguous"
    yield (
        f"{totals.requests} requests, {sum(totals.retries.values())} retries "
        f"in {duration(totals.elapsed)}, {counted(len(summary.runs), 'run')}"
    )
    if summary.size:
        yield f"{min(1.0, summary.read / summary.size):.0%} of the input read"
    for reason, count in sorted(totals.retries.items()):
        yield f"retries: {reason}: {count}"
    owner, last = summary.owner, summary.runs[-1] if summary.runs else None
    if owner is not None:
        yield f"running: process {owner.get('pid', '?')} on host {owner.get('host', '?')}"
    elif last is None:
        yield "not started"
    elif last.ended is None:
        at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(last.latest))
        yield f"not running; the last run was cut off, last activity at {at}"
    else:
        yield f"not running; the last run ended: {last.ended}"
