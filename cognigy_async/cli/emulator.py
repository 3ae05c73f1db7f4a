"""`cognigy-async emulator`: serve the emulator until it is told to stop."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Annotated, Self

import typer

from cognigy_async import ConfigurationError
from cognigy_async.emulator import Emulator, Faults, run
from cognigy_async.integrations.settings import Credentials

from .assignments import parse_assignments
from .output import say, write_result
from .running import Debug, reported


def emulator(
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port; 0 takes a free one.")] = 0,
    api_key: Annotated[
        str | None, typer.Option(metavar="KEY", help="An API key to accept.")
    ] = None,
    client_id: Annotated[
        str | None, typer.Option(metavar="ID", help="Who may have tokens; with --client-secret.")
    ] = None,
    client_secret: Annotated[
        str | None, typer.Option(metavar="SECRET", help="The secret of that client.")
    ] = None,
    token_lifetime: Annotated[
        float, typer.Option(metavar="SECONDS", help="How long a token is valid.")
    ] = 3600.0,
    quota: Annotated[
        str | None,
        typer.Option(metavar="N/SECONDS", help="Requests beyond this are answered 429."),
    ] = None,
    fault: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE",
            help="What goes wrong: a probability as in error_503=0.1 or drop_after=0.05, or "
            "seconds as in latency=0.2. Repeatable.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", help="Of all chance.")] = 0,
    debug: Debug = False,
) -> None:
    """Serve an emulator of the runtime and the sessions API; its first line on stdout says where.

    Without credentials it accepts those of the settings, else its own, and says which.
    """
    faults = _faults(fault or ())
    tenant_quota = _quota(quota)
    with reported(debug=debug):
        accepted = _Accepted.of(api_key, client_id, client_secret)
        try:
            app = Emulator(
                client_id=accepted.client_id,
                client_secret=accepted.client_secret,
                api_key=accepted.api_key,
                token_lifetime=token_lifetime,
                tenant_quota=tenant_quota,
                faults=faults,
                seed=seed,
            )
        except ValueError as error:
            raise typer.BadParameter(str(error)) from None

        def announce(base_url: str) -> None:
            write_result(f"listening on {base_url}")
            say(f"A client needs these settings:\n  COGNIGY_BASE_URL={base_url}")
            for line in accepted.advice:
                say(f"  {line}")
            say("  COGNIGY_API=sessions and COGNIGY_USER_ID, for the sessions API")
            say("Ctrl-C stops it.")

        run(app, host=host, port=port, on_listening=announce)
        say(f"Stopped. Requests: {app.stats.requests}, dialogs: {len(app.dialogs)}.")


@dataclass(frozen=True)
class _Accepted:
    """The credentials that are accepted, and how a client comes by them: never the secrets."""

    api_key: str | None
    client_id: str
    client_secret: str
    advice: tuple[str, ...]

    @classmethod
    def of(cls, api_key: str | None, client_id: str | None, client_secret: str | None) -> Self:
        """Those of the options, else of the settings, else the emulator's own.

        Raises:
            typer.BadParameter, ConfigurationError: half of a pair.
        """
        if "" in (api_key, client_id, client_secret):
            raise typer.BadParameter("credentials must not be empty")
        if (client_id is None) != (client_secret is None):
            raise typer.BadParameter("--client-id and --client-secret go together")
        source = "as given by the option"
        if api_key is None and client_id is None:
            source = "as set in the environment or in .env"
            settings = Credentials()
            if (settings.client_id is None) != (settings.client_secret is None):
                raise ConfigurationError("COGNIGY_CLIENT_ID and COGNIGY_CLIENT_SECRET go together.")
            client_id = settings.client_id
            if settings.api_key is not None:
                api_key = settings.api_key.get_secret_value()
            if settings.client_secret is not None:
                client_secret = settings.client_secret.get_secret_value()
        advice = []
        if api_key is not None:
            advice.append(f"COGNIGY_API_KEY, {source}")
        if client_id is not None:
            alone = "or " if advice else ""
            advice.append(f"{alone}COGNIGY_CLIENT_ID and COGNIGY_CLIENT_SECRET, {source}")
        if not advice:
            advice += [f"COGNIGY_CLIENT_ID={OWN_ID}", f"COGNIGY_CLIENT_SECRET={OWN_SECRET}"]
        return cls(api_key, client_id or OWN_ID, client_secret or OWN_SECRET, tuple(advice))


OWN_ID = "emulator-client"
OWN_SECRET = "emulator-secret"
"""Known to everybody, and good for the emulator alone."""


def _faults(assignments: Iterable[str]) -> Faults:
    given = parse_assignments("--fault", assignments)
    names = [field.name for field in fields(Faults)]
    for name in given:
        if name not in names:
            raise typer.BadParameter(f"--fault {name!r}: there are {', '.join(names)}")
    try:
        return Faults.of(given)
    except ValueError as error:
        raise typer.BadParameter(f"--fault: {error}") from None


def _quota(text: str | None) -> tuple[int, float] | None:
    if text is None:
        return None
    number, _, seconds = text.partition("/")
    try:
        quota = int(number), float(seconds)
    except ValueError:
        quota = 0, 0.0
    if quota[0] < 1 or not 0 < quota[1] < math.inf:
        raise typer.BadParameter("--quota: write it as N/SECONDS, for example 1000/300")
    return quota
