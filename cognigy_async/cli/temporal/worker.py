"""`cognigy-async worker`: send what the clients of a Temporal cluster hand in."""

from __future__ import annotations

from typing import Annotated

import typer

from cognigy_async.integrations.settings import Settings

from .._connection import connections
from .._options import (
    DebugOption,
    EnvFileOption,
    QuietOption,
    TransportOption,
    VerboseOption,
    choose_transport,
    settings_file,
)
from .._output import note
from .._run import report_errors
from ._loop import run


def worker(
    max_in_flight: Annotated[
        int,
        typer.Option(metavar="N", min=1, help="Maximum number of concurrent requests."),
    ] = 32,
    coalesce: Annotated[
        bool,
        typer.Option(
            "--coalesce",
            help="Merge waiting updates of a dialog into one request if the resulting state is the "
            "same.",
        ),
    ] = False,
    transport: TransportOption = None,
    env_file: EnvFileOption = None,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
    debug: DebugOption = False,
) -> None:
    """Send what a Temporal cluster has accepted.

    The command is one of any number of workers, and runs until it is interrupted.
    Temporal's own variables name the cluster, such as TEMPORAL_ADDRESS, TEMPORAL_NAMESPACE and
    TEMPORAL_API_KEY. After SIGTERM or Ctrl-C the worker completes requests in flight and leaves the
    rest to other workers.

    Exit status: 0 drained, 2 invalid usage or settings.
    """
    with report_errors(debug=debug, quiet=quiet, verbose=verbose):
        settings = Settings(env_file=settings_file(env_file))
        run(_run, settings, transport, max_in_flight, coalesce)


async def _run(settings: Settings, transport: TransportOption, most: int, coalesce: bool) -> None:
    from cognigy_async.temporal import StateWorker, connect

    api, tokens = connections(settings)
    cluster = await connect(settings)
    arguments = settings.client_arguments(token_transport=tokens.token_transport())
    async with StateWorker(
        cluster,
        task_queue=settings.task_queue,
        quota_share=settings.quota_share,
        transport=api.transport(choose_transport(transport, with_openssl=api.needs_openssl)),
        max_in_flight=most,
        coalesce=coalesce,
        **arguments,
    ) as state_worker:
        note(f"Working on task queue {settings.task_queue}; Ctrl-C drains.")
        await state_worker.run()
    note(f"Drained: {state_worker.close_report!r}")
