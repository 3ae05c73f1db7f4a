"""`cognigy-async outbox`: look at an outbox, deliver dead letters again, drop events."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from cognigy_async import OutboxError, UpdateEvent
from cognigy_async.crm import inspection
from cognigy_async.crm.inspection import Entry, FolderStatus, TargetSummary

from ._options import DebugOption, JsonOption, example
from ._output import counted, duration, say, write_json, write_result
from ._run import NOT_APPLIED, report_errors

app = typer.Typer(
    help="Look at an outbox, and correct it. The client may use it meanwhile.",
    no_args_is_help=True,
)

FolderArgument = Annotated[
    Path, typer.Argument(metavar="FOLDER", help="Folder of the outbox, as Outbox(...) names it.")
]
DialogOption = Annotated[
    str | None, typer.Option("--dialog", metavar="ID", help="Only events of this dialog.")
]
TargetOption = Annotated[
    str | None, typer.Option("--target", metavar="NAME", help="Only events for this target.")
]


@app.command(epilog=example("outbox status crm-outbox"))
def status(folder: FolderArgument, as_json: JsonOption = False, debug: DebugOption = False) -> None:
    """Print the state of each target.

    It shows how many events wait, how old they are, and how many are dead letters.

    Exit status: 0 nothing is a dead letter, 1 there are dead letters, 2 invalid usage or folder.
    """
    with report_errors(debug=debug, log=False, usage=(OutboxError,)):
        found = inspection.status(folder)
        if as_json:
            write_json(_status_record(found))
        else:
            for line in _status_lines(found):
                write_result(line)
        if any(target.dead_letters for target in found.targets):
            raise typer.Exit(NOT_APPLIED)


def _age(target: TargetSummary) -> float:
    return 0.0 if target.oldest_at is None else max(0.0, time.time() - target.oldest_at)


def _status_record(found: FolderStatus) -> dict[str, Any]:
    targets = [
        {
            "name": target.name,
            "depth": target.depth,
            "oldest_age": round(_age(target), 3),
            "dead_letters": target.dead_letters,
        }
        for target in found.targets
    ]
    return {
        "targets": targets,
        "unresolved": found.unresolved,
        "processes": found.processes,
        "abandoned": found.abandoned,
        "bytes": found.size,
    }


def _status_lines(found: FolderStatus) -> Iterator[str]:
    for target in found.targets:
        oldest = f", the oldest for {duration(_age(target))}" if target.depth else ""
        yield (
            f"{target.name}: {counted(target.depth, 'event')} waiting{oldest}; "
            f"{counted(target.dead_letters, 'dead letter')}"
        )
    if not found.targets:
        yield "no client has used the outbox yet"
    if found.unresolved:
        yield f"{counted(found.unresolved, 'update')} without an outcome yet"
    used = f"used by {counted(found.processes, 'process', 'processes')}"
    yield f"{used if found.processes else 'no process uses it'}; {found.size:,} bytes"
    if found.abandoned:
        files = counted(found.abandoned, "file")
        yield f"{files} of ended processes: the next client that uses the folder goes on with them"


@app.command("list", epilog=example("outbox list crm-outbox --dead", "outbox list crm-outbox"))
def list_entries(
    folder: FolderArgument,
    dialog: DialogOption = None,
    target: TargetOption = None,
    dead: Annotated[bool, typer.Option("--dead", help="Only dead letters.")] = False,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Print waiting events and dead letters.

    The output has no value of a variable. With --json, each line is a JSON object.

    Exit status: 0 events printed, 1 there are none, 2 invalid usage or folder.
    """
    with report_errors(debug=debug, log=False, usage=(OutboxError,)):
        found = False
        for entry in inspection.entries(folder, dialog=dialog, target=target):
            if dead and not entry.dead:
                continue
            found = True
            write_result(json.dumps(_entry_record(entry)) if as_json else _entry_line(entry))
        if not found:
            say("The outbox has no such events.")
            raise typer.Exit(NOT_APPLIED)


def _entry_record(entry: Entry) -> dict[str, Any]:
    dead = [
        {"target": each.target, "attempts": each.attempts, "error": each.error, "at": each.at}
        for each in entry.dead
    ]
    return {
        "update_id": entry.update_id,
        "dialog_id": entry.dialog_id,
        "state": entry.state,
        "recorded_at": entry.recorded_at,
        "settled_at": entry.settled_at,
        "pending": list(entry.pending),
        "dead": dead,
    }


def _entry_line(entry: Entry) -> str:
    at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(entry.settled_at or entry.recorded_at))
    parts = [f"{at}  {entry.dialog_id}  {entry.update_id}  {entry.state}"]
    if entry.pending:
        parts.append(f"waits for {', '.join(entry.pending)}")
    parts += [
        f"dead letter for {each.target} after {counted(each.attempts, 'attempt')}: {each.error}"
        for each in entry.dead
    ]
    return "; ".join(parts)


@app.command(
    epilog=example("outbox show crm-outbox 6f1c-2a", "outbox show crm-outbox 6f1c-2a --values")
)
def show(
    folder: FolderArgument,
    update_id: Annotated[str, typer.Argument(metavar="UPDATE_ID", help="Id of the update.")],
    values: Annotated[
        bool, typer.Option("--values", help="Print the values of variables, too.")
    ] = False,
    debug: DebugOption = False,
) -> None:
    """Print one event as JSON.

    Exit status: 0 event printed, 1 there is no such event, 2 invalid usage or folder.
    """
    with report_errors(debug=debug, log=False, usage=(OutboxError,)):
        found = inspection.show(folder, update_id)
        if found is None:
            say(f"The outbox has no event of update {update_id!r}; it may have been delivered.")
            raise typer.Exit(NOT_APPLIED)
        entry, event = found
        write_json(_entry_record(entry) | _event_record(event, values=values))


def _event_record(event: UpdateEvent, *, values: bool) -> dict[str, Any]:
    payload = event.payload
    record: dict[str, Any] = {
        "payload": payload
        if values
        else {part: sorted(payload[part]) for part in ("session", "user") if part in payload},
        "metadata": dict(event.metadata) if values else sorted(event.metadata),
    }
    if event.result is not None:
        record["status"] = event.result.status
    if event.error is not None:
        record["error"] = {"type": type(event.error).__name__, "message": str(event.error)}
    return record


@app.command(epilog=example("outbox retry crm-outbox --target hubspot"))
def retry(
    folder: FolderArgument,
    dialog: DialogOption = None,
    target: TargetOption = None,
    debug: DebugOption = False,
) -> None:
    """Deliver dead letters again.

    A running client notices them within seconds. Newer events of a dialog may have been delivered
    before: a target that keeps the last value then gets an older one.

    Exit status: 0 dead letters will be delivered, 1 there are none, 2 invalid usage or folder.
    """
    with report_errors(debug=debug, log=False, usage=(OutboxError,)):
        number = inspection.retry(folder, dialog=dialog, target=target)
        write_result(f"{counted(number, 'dead letter')} to be delivered again")
        if not number:
            raise typer.Exit(NOT_APPLIED)


@app.command(
    epilog=example("outbox drop crm-outbox --dialog d-8f3a", "outbox drop crm-outbox --all")
)
def drop(
    folder: FolderArgument,
    dialog: DialogOption = None,
    target: TargetOption = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Needed to drop the events of all dialogs and targets.")
    ] = False,
    debug: DebugOption = False,
) -> None:
    """Give up waiting events and dead letters.

    This cannot be undone.

    Exit status: 0 events dropped, 1 there are none, 2 invalid usage or folder.
    """
    with report_errors(debug=debug, log=False, usage=(OutboxError,)):
        if dialog is None and target is None and not everything:
            raise typer.BadParameter("name a --dialog or a --target, or confirm with --all")
        number = inspection.drop(folder, dialog=dialog, target=target)
        write_result(f"{counted(number, 'delivery', 'deliveries')} dropped")
        if not number:
            raise typer.Exit(NOT_APPLIED)
