"""`cognigy-async get`: read the state of one dialog."""

from __future__ import annotations

from typing import Annotated

import typer

from cognigy_async import AsyncStateClient, DialogState

from .output import write_json
from .over import Loop, Over
from .running import Debug, reported, with_client


def get(
    dialog_id: Annotated[str, typer.Argument(metavar="ID", help="The dialog.")],
    transport: Over = None,
    loop: Loop = None,
    debug: Debug = False,
) -> None:
    """Print the state of a dialog as JSON."""

    async def read(client: AsyncStateClient) -> DialogState:
        return await client.get_state(dialog_id)

    with reported(debug=debug):
        state = with_client(read, transport, loop)
        write_json(
            {
                "dialog_id": state.dialog_id,
                "session": dict(state.session),
                "user": dict(state.user),
                "next_step": state.next_step,
                "etag": state.etag,
                "version": state.version,
            }
        )
