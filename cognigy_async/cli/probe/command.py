"""The command `cognigy-async probe`."""

from __future__ import annotations

import errno
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import anyio
import typer

from cognigy_async import (
    ConfigurationError,
    HttpxTransport,
    RuntimeApi,
    SessionsApi,
    TenantProfile,
    Transport,
)
from cognigy_async._utils.private_files import staged_file
from cognigy_async.integrations.settings import Settings

from .._connection import connections
from .._options import (
    DebugOption,
    EnvFileOption,
    JsonOption,
    QuietOption,
    TransportName,
    TransportOption,
    UserOption,
    VerboseOption,
    choose_transport,
    settings_file,
)
from .._output import counted, note, write_json, write_result
from .._run import report_errors
from .measure import MOST_REQUESTS, MOST_SIZE_REQUESTS, Measurement
from .session import ProbedSession, Target
from .tally import Tally, TallyTransport
from .token import measure_token


def probe(
    session_id: Annotated[
        str,
        typer.Option(
            "--session",
            metavar="ID",
            help="Session to write to; for the runtime API, a dialog. Give one that nobody uses.",
        ),
    ],
    user_id: UserOption = None,
    output: Annotated[
        Path, typer.Option(metavar="PATH", help="File to write the profile to.")
    ] = Path("tenant.json"),
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
    sizes: Annotated[
        bool,
        typer.Option(
            "--sizes",
            help=f"Also find the size at which a body is refused, with up to {MOST_SIZE_REQUESTS} "
            "more requests of up to 4 MiB.",
        ),
    ] = False,
    transport: TransportOption = None,
    env_file: EnvFileOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
    debug: DebugOption = False,
) -> None:
    """Measure your tenant, write tenant.json.

    The command says what it will do before each step, and takes at most 15 requests. It writes
    session variables named probe_... and, with COGNIGY_API=sessions, injects a state. Then it
    restores the session as far as the API allows. With COGNIGY_TENANT=tenant.json, clients and
    jobs follow the profile; emulator --like tenant.json behaves like the tenant.

    Exit status: 0 profile written, 1 not written, 2 invalid usage or settings, 130 interrupted.
    """
    with report_errors(debug=debug, quiet=quiet, verbose=verbose, log=False):
        if os.path.lexists(output) and not force:
            raise ConfigurationError(
                f"{output} exists; replace it with --force, or name another file with --output"
            )
        _check_folder(output)
        settings = Settings(env_file=settings_file(env_file))
        if settings.api == "runtime" and user_id is not None:
            raise typer.BadParameter("--user-id requires COGNIGY_API=sessions")
        run = _Run(settings, transport, session_id, user_id, sizes)
        profile = anyio.run(run.measure)
        with staged_file(output, profile.to_json().encode()) as staged:
            os.replace(staged, output)
        if as_json:
            write_json(json.loads(profile.to_json()))
        else:
            for name, text in describe(profile):
                write_result(f"{name:11}{text}")
            requests = counted(profile.requests or 0, "request")
            write_result(f"Wrote {output} after {requests}.")
        note(f"Use it with COGNIGY_TENANT={output}, and: cognigy-async emulator --like {output}")


def _check_folder(output: Path) -> None:
    """Raise `ConfigurationError` if the profile could not be written after the measurement."""
    try:
        if output.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        with staged_file(output, b""):
            return
    except OSError as error:
        reason = error.strerror
    raise ConfigurationError(
        f"--output {output}: cannot be written: {reason}; name a file in a folder that can be "
        "written"
    )


@dataclass(frozen=True)
class _Run:
    settings: Settings
    transport: TransportName | None
    session_id: str
    user_id: str | None
    sizes: bool

    async def measure(self) -> TenantProfile:
        """Measure the tenant of the settings."""
        settings = self.settings
        api, tokens = connections(settings)
        tally = Tally(MOST_REQUESTS + (MOST_SIZE_REQUESTS if self.sizes else 0))
        transport = api.transport(choose_transport(self.transport, with_openssl=api.needs_openssl))
        sender = TallyTransport(transport, tally)
        inner: Transport = tokens.token_transport() or HttpxTransport()
        token_sender = TallyTransport(inner, tally)
        try:
            provider, token = await measure_token(settings, token_sender, note)
            try:
                session = ProbedSession(self._target(), provider, sender)
                return await Measurement(session, tally, note).run(token, sizes=self.sizes)
            finally:
                with anyio.CancelScope(shield=True):
                    await provider.aclose()
        finally:
            with anyio.CancelScope(shield=True):
                await sender.aclose()
                await token_sender.aclose()

    def _target(self) -> Target:
        base_url, settings = self.settings.base_url.rstrip("/"), self.settings
        if settings.api == "runtime":
            return Target(base_url, RuntimeApi(), self.session_id)
        user_id = self.user_id or settings.user_id
        return Target(base_url, SessionsApi(reads_state=True), self.session_id, user_id)


def describe(profile: TenantProfile) -> list[tuple[str, str]]:
    """Return a line for each section of a profile, with its name."""
    lines = [("variables", _variables(profile)), ("reads", _reads(profile))]
    if profile.states is not None:
        changes = profile.states.changes
        effect = "" if not changes else f"; it changes the {' and the '.join(changes)}"
        lines.append(("states", f"an unknown state is {profile.states.unknown_state}{effect}"))
    if profile.etags is not None:
        kind, if_match = profile.etags.kind, profile.etags.if_match
        fate = "" if if_match is None else f"; If-Match is {if_match}"
        lines.append(("etags", f"{kind}{fate}"))
    limit = profile.rate_limit
    if limit is None or limit.requests is None:
        lines.append(("limits", "no rate-limit headers"))
    else:
        window = "" if limit.seconds is None else f" in {limit.seconds:g} s"
        lines.append(("limits", f"{limit.requests} requests{window}, by headers ({limit.headers})"))
    skew = None if profile.clock is None else profile.clock.skew_seconds
    clock = "answers have no Date" if skew is None else _clock(skew)
    lines.append(("clock", clock))
    if profile.token is not None:
        lifetime = profile.token.lifetime_seconds
        lives = "no lifetime named" if lifetime is None else f"lives {lifetime:g} s"
        lines.append(("token", f"from {profile.token.url}, {lives}"))
    if profile.body is not None:
        body: Any = profile.body
        end = "" if body.refused_bytes is None else f", {body.refused_bytes:,} are refused"
        lines.append(("body", f"{body.accepted_bytes:,} bytes are accepted{end}"))
    return lines


def _variables(profile: TenantProfile) -> str:
    writes = profile.writes
    if writes is None or writes.inject is None:
        return "unknown: neither an answer nor a read shows them"
    if writes.inject == "replace":
        return "a write drops the variables that it does not name (replace)"
    levels = writes.merged_levels
    objects = f"objects are merged ({levels} levels)" if levels else "objects are replaced"
    lists = "merged" if writes.merges_lists else "replaced"
    return f"a write keeps the variables that it does not name (merge); {objects}, lists {lists}"


def _reads(profile: TenantProfile) -> str:
    reads = profile.reads
    if reads is None or not reads.works:
        return "the state cannot be read, or reads do not show what was written"
    if reads.delay_seconds:
        return f"a read shows a write after up to {reads.delay_seconds:g} s"
    return "a read shows a write at once"


def _clock(skew: float) -> str:
    if not skew:
        return "the clocks of the server and of this machine agree"
    direction = "ahead of" if skew > 0 else "behind"
    return f"the server's clock is {abs(skew):g} s {direction} that of this machine"
