"""Running a command: the client, interrupts, and errors as messages and exit status."""

from __future__ import annotations

import signal
import traceback
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import anyio
import typer

from cognigy_async import (
    AsyncStateClient,
    CognigyError,
    ConfigurationError,
    UpdateError,
    UpdateValidationError,
)
from cognigy_async.integrations.settings import Settings, name_settings

from ._connection import connections
from ._options import (
    LoopName,
    TransportName,
    choose_loop,
    choose_transport,
    settings_file,
)
from ._output import Detail, log_to_stderr, say_if_possible, set_detail

NOT_APPLIED = 1
USAGE = 2
INTERRUPTED = 130

INTERRUPTS: tuple[signal.Signals, ...] = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)
"""Signals that end a long command early but in order."""

GRACE = 2.0
"""Seconds that a request in flight may still take after an interrupt."""

T = TypeVar("T")


@contextmanager
def report_errors(
    *,
    debug: bool,
    quiet: bool = False,
    verbose: bool = False,
    log: bool = True,
    usage: tuple[type[CognigyError], ...] = (),
) -> Iterator[None]:
    """Turn an error into a message on stderr and an exit status.

    Args:
        debug: write the whole log, and tracebacks instead of messages.
        quiet: write no message but errors.
        verbose: write the log without its details.
        log: write log lines that explain a wait, if neither is asked for.
        usage: types of errors with the exit status of invalid usage.
    """
    if quiet and (verbose or debug):
        raise typer.BadParameter("--quiet excludes --verbose and --debug; drop one of them")
    chosen = [(debug, Detail.DEBUG), (verbose, Detail.VERBOSE), (quiet, Detail.QUIET)]
    detail = next((detail for given, detail in chosen if given), Detail.NORMAL)
    set_detail(detail)
    log_to_stderr(detail, waits=log)
    try:
        yield
    except KeyboardInterrupt:
        say_if_possible("Interrupted.")
        raise typer.Exit(INTERRUPTED) from None
    except (CognigyError, OSError, ImportError) as error:
        if debug:
            for line in "".join(traceback.format_exception(error)).rstrip().split("\n"):
                say_if_possible(line)
        else:
            say_if_possible(name_settings(_message(error)), style="red")
        is_usage = isinstance(error, (ConfigurationError, UpdateValidationError, *usage))
        raise typer.Exit(USAGE if is_usage else NOT_APPLIED) from None


def _message(error: Exception) -> str:
    """Return the type of an error, its text, and its first cause unless the text has it."""
    if isinstance(error, OSError):
        return f"Error: {error.strerror or error}"
    if not isinstance(error, CognigyError) or isinstance(error, ConfigurationError):
        return f"Error: {error}"
    cause: BaseException = error
    while isinstance(cause.__cause__, UpdateError):
        cause = cause.__cause__
    message = f"{type(error).__name__}: {error}"
    if isinstance(cause, UpdateError) and cause.message not in message:
        message += f" Cause: {cause.message}."
    return message


def run_with_client(
    use: Callable[[AsyncStateClient], Awaitable[T]],
    transport: TransportName | None,
    loop: LoopName | None,
    env_file: Path | None,
) -> T:
    """Return the result of `use`, called with a client that is made from the settings.

    After an interrupt, a request in flight may end within `GRACE`; then the outcome of the update
    is printed.
    """
    settings = Settings(env_file=settings_file(env_file))
    api, tokens = connections(settings)
    arguments = settings.client_arguments(token_transport=tokens.token_transport())
    sender = api.transport(choose_transport(transport, with_openssl=api.needs_openssl))

    async def run() -> T:
        client = AsyncStateClient(**arguments, max_in_flight=1, transport=sender)
        try:
            async with client:
                try:
                    return await use(client)
                except anyio.get_cancelled_exc_class():
                    with anyio.CancelScope(shield=True):
                        await client.aclose(drain=False, timeout=GRACE)
                    raise
        except anyio.get_cancelled_exc_class():
            _say_outcome(client)
            raise

    return anyio.run(run, backend_options=choose_loop(loop).options)


def _say_outcome(client: AsyncStateClient) -> None:
    report = client.close_report
    if report is not None and report.applied:
        say_if_possible("The update was applied.")
    elif report is not None and report.ambiguous:
        say_if_possible(
            "The update may have been applied. Read the state before you send it again."
        )
    elif client.metrics.withdrawn or (report is not None and (report.failed or report.unsent)):
        say_if_possible("The update was not applied.")
