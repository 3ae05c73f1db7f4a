"""`cognigy-async bulk status`: the progress that a journal records."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Group
from rich.live import Live
from rich.text import Text

from cognigy_async.bulk import JournalRefusedError, JournalSummary, read_summary

from .._options import DebugOption, JsonOption
from .._output import console, counted, duration, printable, write_json, write_result
from .._run import report_errors
from .progress import LINE, REFRESH, Rate, bar

SHARE = 10
"""Reading a journal takes at most one second in this many, because a large journal takes long."""

JournalArgument = Annotated[
    Path, typer.Argument(metavar="JOURNAL", help="File that records the progress of the job.")
]


def status(
    journal: JournalArgument,
    watch: Annotated[
        bool,
        typer.Option(
            "--watch",
            help="Show the progress until the job ends: live on a terminal, else a line every "
            f"{LINE} seconds.",
        ),
    ] = False,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Print the progress of a job.

    The command reads the progress from the journal, even while the job is running. With --watch and
    --json, each line of the output is a JSON object.

    Exit status: 0 progress printed, 2 invalid options or journal, 130 interrupted.
    """
    with report_errors(debug=debug, log=False, usage=(JournalRefusedError,)):
        summary = read_summary(journal)
        if watch:
            summary = _watch(journal, summary, as_json=as_json)
        if watch and as_json:
            _write_now(json.dumps(summary.record()))
        elif as_json:
            write_json(summary.record())
        else:
            for line in _lines(summary):
                write_result(line)


def _watch(journal: Path, summary: JournalSummary, *, as_json: bool) -> JournalSummary:
    """Show the progress until the job has ended; return its last summary."""
    out, rates = console(), Rate()
    if out.is_interactive and not as_json:
        with Live(console=out, auto_refresh=False, transient=True) as live:
            while summary.owner is not None:
                live.update(_panel(summary, rates), refresh=True)
                summary = _next(journal)
        return summary
    latest = -math.inf
    while summary.owner is not None:
        line = json.dumps(summary.record()) if as_json else _line(summary, rates)
        if time.monotonic() >= latest + LINE:
            latest = time.monotonic()
            _write_now(line)
        summary = _next(journal)
    return summary


def _next(journal: Path) -> JournalSummary:
    """Return the summary of a moment later."""
    time.sleep(REFRESH)
    began = time.monotonic()
    summary = read_summary(journal)
    time.sleep((SHARE - 1) * (time.monotonic() - began))
    return summary


def _write_now(line: str) -> None:
    """Write a line to stdout, and end the command if its reader has left."""
    try:
        sys.stdout.write(f"{printable(line)}\n")
        sys.stdout.flush()
    except BrokenPipeError:
        raise typer.Exit from None


def _panel(summary: JournalSummary, rates: Rate) -> Group:
    top = bar(summary.total, summary.totals.completed, _left(summary) or "running")
    return Group(top, Text(_numbers(summary, rates)), Text(_spent(summary), style="dim"))


def _line(summary: JournalSummary, rates: Rate) -> str:
    return ", ".join(filter(None, (_numbers(summary, rates), _left(summary), _spent(summary))))


def _left(summary: JournalSummary) -> str:
    """Return how many rows are left; "" if that is unknown."""
    if summary.left is None:
        return ""
    return f"{'' if summary.counted else 'about '}{counted(summary.left, 'row')} left"


def _numbers(summary: JournalSummary, rates: Rate) -> str:
    totals = summary.totals
    rate = rates.update(time.monotonic(), totals.completed)
    more = f", {totals.ambiguous:,} ambiguous" if totals.ambiguous else ""
    more += f", {totals.unchanged:,} unchanged" if totals.unchanged else ""
    return f"{totals.succeeded:,} applied, {totals.failed:,} failed{more}, {rate:.1f} rows/s"


def _spent(summary: JournalSummary) -> str:
    totals = summary.totals
    retries = sum(totals.retries.values())
    return f"{counted(totals.requests, 'request')}, {retries:,} retries"


def _lines(summary: JournalSummary) -> Iterator[str]:
    totals = summary.totals
    yield f"job {summary.job_id}, input {summary.source}"
    unchanged = f", {totals.unchanged} unchanged" if totals.unchanged else ""
    yield (
        f"{totals.succeeded} applied, {totals.failed} failed, {totals.ambiguous} ambiguous"
        f"{unchanged}"
    )
    if left := _left(summary):
        yield left
    yield (
        f"{totals.requests} requests, {sum(totals.retries.values())} retries "
        f"in {duration(totals.elapsed)}, {counted(len(summary.runs), 'run')}"
    )
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
