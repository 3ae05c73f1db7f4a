"""`cognigy-async init`: ask for the settings, test them, and write them into a file."""

from __future__ import annotations

import io
import os
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import anyio
import typer
from dotenv import dotenv_values

from cognigy_async import ConfigurationError
from cognigy_async._utils.arguments import validate_base_url
from cognigy_async._utils.private_files import staged_file
from cognigy_async.integrations.settings import ENVIRONMENT, Settings, setting_sources

from ._connection import connections
from ._options import DebugOption, VerboseOption
from ._output import note, say, write_result
from ._run import INTERRUPTED, NOT_APPLIED, report_errors
from ._streams import is_terminal
from .doctor.apis import API_PATH, INTERFACE
from .doctor.checks import NO_DIALOG, Connections, run_checks
from .doctor.command import print_finding

SHARED_HOST = re.compile(
    r"api(-trial|-app|-app-[a-z0-9]+)?\.cognigy\.ai|cognigy-api-[a-z0-9-]+\.nicecxone\.com"
)
"""Hosts of the API on shared SaaS (docs.cognigy.com, "API and CLI"), and the tutorial's host."""
APP_HOST = re.compile(r"api-app(-[a-z0-9]+)?\.cognigy\.ai|cognigy-api-[a-z0-9-]+\.nicecxone\.com")
"""Those among them whose contexts may have the size of App: shared SaaS except Trial
(docs.cognigy.com, "Quotas and Limits")."""
SHARED_RATE = "1000/300"
"""Requests in 5 minutes of one calling address (docs.cognigy.com, "Quotas and Limits")."""

TOKEN_PATHS = {"runtime": "/oauth/token", "sessions": "/auth/oauth2/token"}
PLAIN = re.compile(r"[\w./:@%+,~=-]*", re.ASCII)
"""Values that need no quotes, not even in a shell."""


def init(
    env_file: Annotated[
        Path, typer.Option("--env-file", metavar="PATH", help="File to write.")
    ] = Path(".env"),
    verbose: VerboseOption = False,
    debug: DebugOption = False,
) -> None:
    """Ask for settings, test them, write .env.

    The test reads from the server and changes nothing on it. The command replaces an existing
    file only if you answer yes. The new file has mode 0600: only you can read it. Run the other
    commands in the folder of the file.

    Exit status: 0 file written, 1 not written, 2 no terminal or invalid settings, 130 interrupted.
    """
    with report_errors(debug=debug, verbose=verbose, log=False):
        try:
            _check_surroundings(env_file)
            existed = os.path.lexists(env_file)
            written = not existed or _confirm(f"{env_file} exists. Replace it?")
            written = written and _ask_and_write(env_file, may_replace=existed)
        except (typer.Abort, KeyboardInterrupt):
            say("")
            say("Interrupted. Nothing was written.")
            raise typer.Exit(INTERRUPTED) from None
        if not written:
            say("Nothing was written.")
            raise typer.Exit(NOT_APPLIED)


def _check_surroundings(path: Path) -> None:
    """Raise `ConfigurationError` if nobody can answer, or if the file would have no effect."""
    if sys.stdin is None or not is_terminal(sys.stdin) or not is_terminal(sys.stderr):
        raise ConfigurationError(
            "init asks questions and needs a terminal. In a script, set the variables in the "
            "environment or write the file .env yourself"
        )
    hiding = [
        name
        for name, source in setting_sources(None).items()
        if source == ENVIRONMENT and name != "COGNIGY_AUDIT_KEY"
    ]
    if hiding:
        raise ConfigurationError(
            f"{', '.join(hiding)}: set in the environment, which overrides the file that init "
            "writes. To test these settings, run: cognigy-async doctor. To write a file, unset "
            "these variables first"
        )
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        raise ConfigurationError(f"{path} cannot be written; name another file with --env-file")


def _ask_and_write(path: Path, *, may_replace: bool) -> bool:
    """Ask for settings, test them and write them; return whether they were written."""
    variables = _ask()
    with staged_file(path, _format(variables).encode()) as staged:
        settings = Settings(env_file=staged)
        say("")
        if not anyio.run(_test, settings) and not _confirm("Write these settings all the same?"):
            return False
        if not may_replace and os.path.lexists(path):
            raise ConfigurationError(
                f"{path} was created meanwhile and was not replaced; run init again, or name "
                "another file with --env-file"
            )
        os.replace(staged, path)
    write_result(f"Wrote {path}.")
    note("It contains a secret: keep it out of version control.")
    if "COGNIGY_RATE_LIMIT" in variables:
        note(f"It sets the rate limit of this server: {SHARED_RATE} (requests/seconds).")
    if "COGNIGY_CONTEXT_LIMIT" in variables:
        note("It sets the largest context of this server: 1.5 MB (app).")
    command = "get ID"
    if settings.api == "sessions":
        user = "" if settings.user_id else " --user-id USER"
        command = f"update ID{user} --session NAME=VALUE"
    option = "" if path == Path(".env") else f" --env-file {path}"
    note(f"Next: cognigy-async {command}{option}")
    return True


def _ask() -> dict[str, str]:
    """Return the answers as variables by name."""
    say("Press Enter to accept an answer in brackets. Ctrl-C ends without writing anything.")
    say("")
    say("Every tenant has the sessions API, the public REST API. Some have the runtime API.")
    api = _prompt("API: sessions or runtime", _one_of("sessions", "runtime"), default="sessions")
    base_url = _prompt("Address of the API, such as https://api-trial.cognigy.ai", _address)
    variables = {"COGNIGY_BASE_URL": base_url, "COGNIGY_API": api}
    say("")
    say("An API key belongs to a user of Cognigy.AI, OAuth client credentials to a program.")
    usual_login = "key" if api == "sessions" else "client"
    login = _prompt("Log in with: key or client", _one_of("key", "client"), default=usual_login)
    if login == "key":
        variables["COGNIGY_API_KEY"] = _prompt("API key (not shown)", _text, hidden=True)
    else:
        variables["COGNIGY_CLIENT_ID"] = _prompt("Client id", _text)
        secret = _prompt("Client secret (not shown)", _text, hidden=True)
        variables["COGNIGY_CLIENT_SECRET"] = secret
        usual = base_url + TOKEN_PATHS[api]
        token_url = _prompt("Address for tokens", _address, default=usual)
        if token_url != usual:
            variables["COGNIGY_TOKEN_URL"] = token_url
    if api == "sessions":
        say("")
        say("Each session belongs to a user. An update may name it, or use this one.")
        user_id = _prompt("User id, or - for none", _text, default="-")
        if user_id != "-":
            variables["COGNIGY_USER_ID"] = user_id
    return variables | _documented_limits(api, base_url)


def _documented_limits(api: str, base_url: str) -> dict[str, str]:
    """Return the limits that the vendor documents for a host of shared SaaS."""
    host = urlsplit(base_url).hostname or ""
    limits = {}
    if SHARED_HOST.fullmatch(host):
        limits["COGNIGY_RATE_LIMIT"] = SHARED_RATE
    if api == "sessions" and APP_HOST.fullmatch(host):
        limits["COGNIGY_CONTEXT_LIMIT"] = "app"
    return limits


def _prompt(
    text: str, parse: Callable[[str], str], *, default: str | None = None, hidden: bool = False
) -> str:
    """Return an answer; ask again until `parse` accepts it."""
    answer: str = typer.prompt(text, default, hide_input=hidden, value_proc=parse, err=True)
    return answer


def _confirm(question: str) -> bool:
    return typer.confirm(question, err=True)


def _one_of(*choices: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        choice = text.strip().lower()
        if choice not in choices:
            raise typer.BadParameter(f"answer {' or '.join(choices)}")
        return choice

    return parse


def _text(text: str) -> str:
    text = text.strip()
    if not text or not text.isprintable():
        raise typer.BadParameter("the answer is empty, or has invisible characters")
    return text


def _address(text: str) -> str:
    text = API_PATH.sub("", text.strip())
    if "://" not in text:
        text = f"https://{text}"
    try:
        address = validate_base_url(text)
        host = urlsplit(address).hostname or ""
        if not INTERFACE.fullmatch(host):
            return address
        problem = f"is that of the user interface; the API is at https://api-{host}"
    except ConfigurationError as error:
        problem = str(error).removeprefix("base_url ")
    # Raised outside of `except`, so that the message stands alone.
    raise typer.BadParameter(f"the address {problem}")


def _format(variables: Mapping[str, str]) -> str:
    """Return the content of a file with these variables.

    Raises:
        ConfigurationError: a value cannot be written in such a file.
    """
    lines = ["# Settings of cognigy-async. Keep this file secret."]
    for name, value in variables.items():
        # In single quotes, a shell reads it as it is.
        quotes = "" if PLAIN.fullmatch(value) or "'" in value or "\\" in value else "'"
        line = f"{name}={quotes}{value}{quotes}"
        if dotenv_values(stream=io.StringIO(line)) != {name: value}:
            raise ConfigurationError(
                f"{name} has characters that a file .env cannot hold; set the variables in the "
                "environment instead"
            )
        lines.append(line)
    return "\n".join(lines) + "\n"


async def _test(settings: Settings) -> bool:
    """Print the findings of the doctor; return whether no check failed."""
    ways = Connections(*connections(settings))
    passed = True
    async for finding in run_checks(settings, ways, NO_DIALOG):
        print_finding(finding)
        passed = passed and finding.status != "failed"
    return passed
