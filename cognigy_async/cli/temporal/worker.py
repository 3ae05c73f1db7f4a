"""`cognigy-async worker`: send what the clients of a Temporal cluster hand in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from cognigy_async import ConfigurationError
from cognigy_async.integrations.settings import Settings

from .._connection import connections
from .._options import (
    DebugOption,
    EnvFileOption,
    QuietOption,
    TransportOption,
    VerboseOption,
    choose_transport,
    import_object,
    settings_file,
)
from .._output import note
from .._run import report_errors
from ._loop import run

if TYPE_CHECKING:
    from cognigy_async.crm.target import Target


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
    targets: Annotated[
        str | None,
        typer.Option(
            metavar="MODULE:NAME",
            help="Targets for applied updates: a list of cognigy_async.crm targets, or a function "
            "that returns one. The same for all workers.",
        ),
    ] = None,
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
        found = () if targets is None else _targets(targets)
        run(_run, settings, transport, max_in_flight, coalesce, found)


def _targets(path: str) -> Sequence[Target]:
    found = import_object("--targets", path, "MODULE:NAME, for example shop:targets")
    if callable(found):
        try:
            found = found()
        except Exception as error:
            raise ConfigurationError(
                f"--targets {path}: the function failed ({type(error).__name__}: {error})"
            ) from error
    if not isinstance(found, list | tuple) or not all(hasattr(each, "deliver") for each in found):
        raise ConfigurationError(
            f"--targets {path}: it is no list of targets, such as [Webhook(url, secret)]"
        )
    return found


async def _run(
    settings: Settings,
    transport: TransportOption,
    most: int,
    coalesce: bool,
    targets: Sequence[Target],
) -> None:
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
        targets=targets,
        **arguments,
    ) as state_worker:
        note(f"Working on task queue {settings.task_queue}; Ctrl-C drains.")
        await state_worker.run()
    note(f"Drained: {state_worker.close_report!r}")
