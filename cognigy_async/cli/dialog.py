"""`cognigy-async get` and `cognigy-async update`: the state of one dialog."""

from __future__ import annotations

from typing import Annotated

import typer

from cognigy_async import AsyncStateClient, DialogState, UpdateResult

from ._options import (
    DebugOption,
    EnvFileOption,
    LoopOption,
    QuietOption,
    TransportOption,
    UserOption,
    VerboseOption,
    parse_assignments,
)
from ._output import write_json
from ._run import report_errors, run_with_client

DialogArgument = Annotated[str, typer.Argument(metavar="ID", help="Dialog id.")]


def get(
    dialog_id: DialogArgument,
    transport: TransportOption = None,
    loop: LoopOption = None,
    env_file: EnvFileOption = None,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
    debug: DebugOption = False,
) -> None:
    """Print the state of a dialog as JSON.

    Exit status: 0 state printed, 1 state not read, 2 invalid usage or settings, 130 interrupted.
    """

    async def read(client: AsyncStateClient) -> DialogState:
        return await client.get_state(dialog_id)

    with report_errors(debug=debug, quiet=quiet, verbose=verbose):
        state = run_with_client(read, transport, loop, env_file)
        variables = {"session": dict(state.session), "user": dict(state.user)}
        others = {name: getattr(state, name) for name in ("next_step", "etag", "version")}
        write_json({"dialog_id": state.dialog_id} | variables | others)


def update(
    dialog_id: DialogArgument,
    session: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE",
            help="Session variable to assign. VALUE is JSON, or text if it is not valid JSON. "
            "Repeatable.",
        ),
    ] = None,
    user: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE", help="User variable to assign, as JSON or text. Repeatable."
        ),
    ] = None,
    next_step: Annotated[
        str | None, typer.Option(metavar="STEP", help="Flow node to move the dialog to.")
    ] = None,
    if_match: Annotated[
        str | None,
        typer.Option(
            metavar="ETAG",
            help="Write only if the state still has this etag. Copy the etag with its quotes from "
            "the output of get.",
        ),
    ] = None,
    user_id: UserOption = None,
    profile_id: Annotated[
        str | None,
        typer.Option(
            metavar="PROFILE",
            help="Contact profile that --user writes to. Only with COGNIGY_API=sessions.",
        ),
    ] = None,
    transport: TransportOption = None,
    loop: LoopOption = None,
    env_file: EnvFileOption = None,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
    debug: DebugOption = False,
) -> None:
    """Assign variables of a dialog, or move it.

    The command prints the result as JSON.

    Exit status: 0 update applied, 1 not applied, 2 invalid usage or settings, 130 interrupted.
    """
    session_variables = parse_assignments("--session", session or ())
    user_variables = parse_assignments("--user", user or ())
    if not session_variables and not user_variables and next_step is None:
        raise typer.BadParameter("nothing to write: give --session, --user or --next-step")

    async def write(client: AsyncStateClient) -> UpdateResult:
        return await client.update(
            dialog_id,
            session=session_variables or None,
            user=user_variables or None,
            next_step=next_step,
            if_match=if_match,
            user_id=user_id,
            profile_id=profile_id,
        )

    with report_errors(debug=debug, quiet=quiet, verbose=verbose):
        result = run_with_client(write, transport, loop, env_file)
        names = ("update_id", "dialog_id", "status", "etag", "version", "attempts")
        record = {name: getattr(result, name) for name in names}
        write_json(record | {"latency": round(result.latency, 6)})
