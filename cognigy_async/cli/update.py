"""`cognigy-async update`: write to one dialog."""

from __future__ import annotations

from typing import Annotated

import typer

from cognigy_async import AsyncStateClient, UpdateResult

from .assignments import parse_assignments
from .output import write_json
from .over import Loop, Over
from .running import Debug, reported, with_client


def update(
    dialog_id: Annotated[str, typer.Argument(metavar="ID", help="The dialog.")],
    session: Annotated[
        list[str] | None,
        typer.Option(
            "--session",
            metavar="NAME=VALUE",
            help="A session variable: JSON where the value parses as JSON, else text. Repeatable.",
        ),
    ] = None,
    user: Annotated[
        list[str] | None,
        typer.Option("--user", metavar="NAME=VALUE", help="A user variable, likewise."),
    ] = None,
    next_step: Annotated[
        str | None, typer.Option("--next-step", metavar="STEP", help="The flow node to go to.")
    ] = None,
    if_match: Annotated[
        str | None,
        typer.Option(
            "--if-match",
            metavar="ETAG",
            help="Write only if the state still has this etag, as `get` tells it, with its quotes.",
        ),
    ] = None,
    transport: Over = None,
    loop: Loop = None,
    user_id: Annotated[
        str | None,
        typer.Option(
            "--user-id",
            metavar="USER",
            help="Whose session it is; with COGNIGY_API=sessions, instead of COGNIGY_USER_ID.",
        ),
    ] = None,
    profile_id: Annotated[
        str | None,
        typer.Option(
            "--profile-id",
            metavar="PROFILE",
            help="The contact profile that --user is written to; with COGNIGY_API=sessions.",
        ),
    ] = None,
    debug: Debug = False,
) -> None:
    """Assign variables of a dialog, perhaps move it, and print the result as JSON."""
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

    with reported(debug=debug):
        result = with_client(write, transport, loop)
        write_json(
            {
                "update_id": result.update_id,
                "dialog_id": result.dialog_id,
                "status": result.status,
                "etag": result.etag,
                "version": result.version,
                "attempts": result.attempts,
                "latency": round(result.latency, 6),
            }
        )
