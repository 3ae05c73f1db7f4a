"""`cognigy-async emulator`: serve the emulator until it is interrupted."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import fields, replace
from pathlib import Path
from typing import Annotated

import typer

from cognigy_async import ConfigurationError
from cognigy_async.emulator import Emulator, Faults, Rules, Throttling, run
from cognigy_async.integrations.settings import Credentials, read_tenant_profile

from ._options import (
    DebugOption,
    EnvFileOption,
    QuietOption,
    VerboseOption,
    parse_assignments,
    parse_rate,
    read_secret,
    settings_file,
)
from ._output import counted, note, write_result
from ._run import report_errors

DEFAULT_ID = "emulator-client"
DEFAULT_SECRET = "emulator-secret"
"""Client secret that is public and that only emulators accept."""
DEFAULT_URL_TOKEN = "emulator-url-token"
"""URL token that is public and that only emulators accept."""

VISIBLE = "Other users can see it in the list of processes; prefer the settings or a file."


def emulator(
    host: Annotated[
        str, typer.Option(help="Address to listen on.", metavar="ADDRESS")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(metavar="N", min=0, max=65535, help="Port; 0 chooses a free one.")
    ] = 0,
    allowed_host: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Name or address by which clients reach this server, such as the name of a "
            "container. Not needed for loopback and --host. Repeatable.",
        ),
    ] = None,
    api_key: Annotated[
        str | None,
        typer.Option(metavar="KEY", help=f"API key to accept. {VISIBLE}"),
    ] = None,
    api_key_file: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH", help="File with the API key to accept.", exists=True, dir_okay=False
        ),
    ] = None,
    client_id: Annotated[
        str | None,
        typer.Option(metavar="ID", help="OAuth client id to accept (requires a client secret)."),
    ] = None,
    client_secret: Annotated[
        str | None,
        typer.Option(metavar="SECRET", help=f"OAuth client secret to accept. {VISIBLE}"),
    ] = None,
    client_secret_file: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH", help="File with the OAuth client secret.", exists=True, dir_okay=False
        ),
    ] = None,
    like: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help="Behave like the tenant of a profile, such as tenant.json, that probe has "
            "written. --quota and --token-lifetime override it.",
            exists=True,
            dir_okay=False,
        ),
    ] = None,
    token_lifetime: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", help="Lifetime of a token.  [default: 3600]"),
    ] = None,
    quota: Annotated[
        str | None,
        typer.Option(
            metavar="N/SECONDS", help="Answer requests beyond this rate, e.g. 1000/300, with 429."
        ),
    ] = None,
    fault: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE",
            help="Inject a fault, with a probability (error_503=0.1, drop_after=0.05) or with a "
            "time in seconds (latency=0.2). Repeatable.",
        ),
    ] = None,
    strict: Annotated[
        bool,
        typer.Option(
            "--strict",
            help="Answer 404 for a dialog that was not added by PUT /_emulator/dialogs/ID.",
        ),
    ] = False,
    seed: Annotated[int, typer.Option(metavar="N", help="Random seed of the faults.")] = 0,
    env_file: EnvFileOption = None,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
    debug: DebugOption = False,
) -> None:
    """Serve a test server until Ctrl-C.

    The server has the runtime and the sessions API. The command prints the URL on the first line of
    stdout. By default the server accepts the credentials of your settings. If your settings have no
    credentials, the command prints some that the server accepts. The server refuses requests that a
    web page may have made.

    Exit status: 0 stopped, 1 the server cannot listen, 2 invalid usage or settings.
    """
    with report_errors(debug=debug, quiet=quiet, verbose=verbose):
        key = _secret("--api-key", api_key, api_key_file)
        secret = _secret("--client-secret", client_secret, client_secret_file)
        accepted, settings, unnamed = _credentials(key, client_id, secret, env_file)
        url_token = Credentials(env_file=settings_file(env_file)).endpoint_token
        rate = None if quota is None else parse_rate(quota, "--quota")[0]
        tenant = None if like is None else read_tenant_profile(like, "--like")
        try:
            rules = Rules() if tenant is None else Rules.like(tenant)
            if token_lifetime is not None:
                rules = replace(rules, token_lifetime=token_lifetime)
            throttling = Throttling() if tenant is None else Throttling.like(tenant)
            if rate is not None:
                throttling = replace(throttling, tenant_quota=(rate.n, rate.per))
            app = Emulator(
                client_id=accepted.get("client_id", DEFAULT_ID),
                client_secret=accepted.get("client_secret", DEFAULT_SECRET),
                api_key=accepted.get("api_key"),
                url_token=(
                    DEFAULT_URL_TOKEN if url_token is None else url_token.get_secret_value()
                ),
                rules=rules,
                throttling=throttling,
                faults=_parse_faults(fault or ()),
                strict=strict,
                seed=seed,
            )
        except ValueError as error:
            raise typer.BadParameter(str(error)) from None

        def announce(base_url: str) -> None:
            write_result(f"listening on {base_url}")
            assignments = [f"COGNIGY_BASE_URL={base_url}", *settings]
            assignments.append(f"COGNIGY_ENDPOINT_URL={base_url}")
            if url_token is None:
                assignments.append(f"COGNIGY_ENDPOINT_TOKEN={DEFAULT_URL_TOKEN}")
            note("Settings of a client. Paste these lines into a shell:")
            for line in assignments:
                note(f"export {line}")
            note("or these into a file .env:")
            for line in assignments:
                note(line)
            for line in unnamed:
                note(f"# {line}")
            note("# For the sessions API also set COGNIGY_API=sessions and COGNIGY_USER_ID.")
            note("Press Ctrl-C to stop.")

        run(app, host=host, port=port, allowed_hosts=allowed_host or (), on_listening=announce)
        dialogs = counted(len(app.dialogs), "dialog")
        note(f"Stopped after {counted(app.stats.requests, 'request')} to {dialogs}.")


def _secret(option: str, secret: str | None, file: Path | None) -> str | None:
    if file is None:
        return secret
    if secret is not None:
        raise typer.BadParameter(f"give either {option} or {option}-file, not both")
    try:
        return read_secret(f"{option}-file", file).decode()
    except UnicodeDecodeError:
        raise ConfigurationError(f"{option}-file {file} is not UTF-8") from None


def _credentials(
    api_key: str | None,
    client_id: str | None,
    client_secret: str | None,
    env_file: Path | None,
) -> tuple[dict[str, str], list[str], list[str]]:
    """Return the credentials to accept, a client's settings, and sentences about secret ones.

    The options come first, then the settings of the environment.
    """
    given = {"api_key": api_key, "client_id": client_id, "client_secret": client_secret}
    if "" in given.values():
        raise typer.BadParameter("credentials must not be empty")
    pair, source = "--client-id and --client-secret or its file", "as given by the option"
    if not any(given.values()):
        pair = "COGNIGY_CLIENT_ID and COGNIGY_CLIENT_SECRET"
        file = settings_file(env_file)
        source = f"as set in the environment or in {file}"
        settings = Credentials(env_file=file)
        given["client_id"] = settings.client_id
        for name, secret in (
            ("api_key", settings.api_key),
            ("client_secret", settings.client_secret),
        ):
            given[name] = None if secret is None else secret.get_secret_value()
    elif env_file is not None:
        raise typer.BadParameter("give credentials by options or by --env-file, not both")
    accepted = {name: value for name, value in given.items() if value is not None}
    if ("client_id" in accepted) != ("client_secret" in accepted):
        raise ConfigurationError(f"{pair} go together; give both")
    if not accepted:
        public = [f"COGNIGY_CLIENT_ID={DEFAULT_ID}", f"COGNIGY_CLIENT_SECRET={DEFAULT_SECRET}"]
        return accepted, public, []
    names = []
    if "api_key" in accepted:
        names.append("COGNIGY_API_KEY")
    if "client_id" in accepted:
        names.append("COGNIGY_CLIENT_ID and COGNIGY_CLIENT_SECRET")
    return accepted, [], [f"Also set {', or '.join(names)}, {source}."]


def _parse_faults(assignments: Iterable[str]) -> Faults:
    values = parse_assignments("--fault", assignments)
    names = [field.name for field in fields(Faults)]
    for name in values:
        if name not in names:
            raise typer.BadParameter(f"--fault {name!r} is unknown; use one of {', '.join(names)}")
        if isinstance(values[name], str):
            with suppress(ValueError):  # `.5` is a number, although it is not JSON
                values[name] = float(values[name])
    try:
        return Faults(**values)
    except ValueError as error:
        raise typer.BadParameter(f"--fault {error}") from None
