"""`cognigy-async bulk status`: what a journal says, also while its job runs."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from cognigy_async.bulk import JournalRefusedError, JournalSummary, read_summary

from .bulk_progress import duration
from .output import write_json, write_result
from .running import Debug, reported


def status(
    journal: Annotated[Path, typer.Argument(metavar="J", help="The journal.")],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
    debug: Debug = False,
) -> None:
    """Tell what a journal says, also while its job runs. Changes nothing."""
    with reported(debug=debug, news=False, usage=(JournalRefusedError,)):
        summary = read_summary(journal)
        if as_json:
            write_json(summary.record())
        else:
            write_result(_told(summary))


def _told(summary: JournalSummary) -> str:
    totals = summary.totals
    lines = [
        f"job {summary.job_id}, input {summary.source}",
        f"{totals.succeeded} applied, {totals.failed} failed, {totals.ambiguous} ambiguous",
        f"{totals.requests} requests, {sum(totals.retries.values())} retries "
        f"in {duration(totals.elapsed)}, {len(summary.runs)} run{'s' * (len(summary.runs) != 1)}",
    ]
    if summary.size:
        lines.append(f"{min(1.0, summary.read / summary.size):.0%} of the input read")
    lines += [f"retries: {reason}: {count}" for reason, count in sorted(totals.retries.items())]
    owner, last = summary.owner, summary.runs[-1] if summary.runs else None
    if owner is not None:
        lines.append(f"running: process {owner.get('pid', '?')} on host {owner.get('host', '?')}")
    elif last is None:
        lines.append("not begun")
    elif last.ended is None:
        at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(last.latest))
        lines.append(f"not running; the last run was cut off, last heard of at {at}")
    else:
        lines.append(f"not running; the last run ended: {last.ended}")
    return "\n".join(lines)
