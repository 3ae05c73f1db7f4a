"""How a command runs: over what, and from what happened to a message and an exit status."""

from __future__ import annotations

import signal
import traceback
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, TypeVar

import anyio
import typer

from cognigy_async import (
    AsyncStateClient,
    CognigyError,
    ConfigurationError,
    UpdateError,
    UpdateValidationError,
)
from cognigy_async.integrations.settings import Settings

from .output import log_to_stderr, say, say_if_seen
from .over import LoopName, TransportName, loop_of, transport_of
from .wording import as_settings

NOT_APPLIED = 1
USAGE = 2
INTERRUPTED = 130

INTERRUPTS: tuple[signal.Signals, ...] = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)
"""Signals that end long work early, with what was done so far."""

GRACE = 2.0
"""Seconds that a request in flight is given to end after an interrupt."""

T = TypeVar("T")

Debug = Annotated[
    bool, typer.Option("--debug", help="Log everything, and show the traceback of an error.")
]


@contextmanager
def reported(
    *, debug: bool, news: bool = True, usage: tuple[type[CognigyError], ...] = ()
) -> Iterator[None]:
    """Turn an error into one message on stderr and an exit status.

    Args:
        news: tell of retries.
        usage: errors that are bad usage as well.
    """
    if debug or news:
        log_to_stderr(everything=debug)
    try:
        yield
    except KeyboardInterrupt:
        say("Interrupted.")
        raise typer.Exit(INTERRUPTED) from None
    except (CognigyError, OSError, ImportError) as error:
        bad_usage = isinstance(error, (ConfigurationError, UpdateValidationError, *usage))
        raise _told(error, USAGE if bad_usage else NOT_APPLIED, debug) from None


def _told(error: Exception, status: int, debug: bool) -> typer.Exit:
    if debug:
        say_if_seen("".join(traceback.format_exception(error)).rstrip())
    else:
        what = error.strerror or error if isinstance(error, OSError) else error
        say_if_seen(as_settings(f"{_kind(error)}: {what}{_root(error)}"), style="red")
    return typer.Exit(status)


def _root(error: BaseException) -> str:
    """What it came from, where the error itself does not say so."""
    first = error
    while isinstance(error.__cause__, UpdateError):
        error = error.__cause__
    if error is first or not isinstance(error, UpdateError) or error.message in str(first):
        return ""
    return f" The cause: {error.message}."


def _kind(error: Exception) -> str:
    named = isinstance(error, CognigyError) and not isinstance(error, ConfigurationError)
    return type(error).__name__ if named else "Error"


def with_client(
    use: Callable[[AsyncStateClient], Awaitable[T]],
    over: TransportName | None = None,
    loop: LoopName | None = None,
) -> T:
    """Run `use` with a client made of the settings.

    Interrupted, it gives a request in flight a moment to end, and says what became of an update.

    Raises:
        ConfigurationError: the settings cannot work, or what was chosen is not installed.
    """
    settings = Settings()
    transport = transport_of(over).made()
    options = loop_of(loop).options

    async def run() -> T:
        client = AsyncStateClient(
            **settings.client_arguments(), max_in_flight=1, transport=transport
        )
        try:
            async with client:
                try:
                    return await use(client)
                except anyio.get_cancelled_exc_class():
                    with anyio.CancelScope(shield=True):
                        await client.aclose(drain=False, timeout=GRACE)
                    raise
        except anyio.get_cancelled_exc_class():
            _say_what_became(client)
            raise

    return anyio.run(run, backend_options=options)


def _say_what_became(client: AsyncStateClient) -> None:
    report = client.close_report
    if report is not None and report.applied:
        say("The update was applied.")
    elif report is not None and report.ambiguous:
        say("The update may have been applied: read the state before sending it again.")
    elif client.metrics.withdrawn or (report is not None and (report.failed or report.unsent)):
        say("The update was not applied.")
