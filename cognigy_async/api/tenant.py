"""`TenantProfile`: the behaviour of a tenant, as `cognigy-async probe` measured it.

The vendor documents little of it. A profile is kept as JSON, usually in a file `tenant.json`, which
people may read and edit. It holds no secret.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, TypeAlias, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ..errors import ConfigurationError
from ..models.limits import Limits
from .runtime import RuntimeApi
from .sessions import SessionsApi

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

    from .base import MergedValues, StateApi

TokenPath: TypeAlias = Literal["/oauth/token", "/auth/oauth2/token"]
"""Paths below the base URL where token endpoints are known to be."""

Format: TypeAlias = Literal["cognigy-async tenant profile"]
FORMAT: Format = get_args(Format)[0]
VERSION: Literal[1] = 1

Count = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class _Measured(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class MeasuredWrites(_Measured):
    """Effect of a write of session variables.

    Attributes:
        inject: ``"merge"`` keeps the variables that a write does not name, ``"replace"`` drops
            them; None if unknown.
        merged_levels: levels of an object whose members are merged into the earlier value of the
            variable: 0 if it is replaced whole, ``"all"`` if those of three levels are merged; None
            if unknown.
        merges_lists: True if a list does not replace an earlier list; None if unknown.
    """

    inject: Literal["merge", "replace"] | None = None
    merged_levels: Literal[0, 1, 2, "all"] | None = None
    merges_lists: bool | None = None


class MeasuredReads(_Measured):
    """Reads of a state.

    Attributes:
        works: True if a read returns the state, and shows a write after some seconds at most.
        delay_seconds: seconds after a write until a read showed it, rounded up; 0 if at once.
    """

    works: bool
    delay_seconds: Seconds = 0.0


class MeasuredStates(_Measured):
    """Effect of the sessions API's state/inject.

    Attributes:
        unknown_state: fate of a state whose name no flow has.
        status: HTTP status of the answer to it.
        changes: parts of the session that the accepted state changed, ``"state"`` and
            ``"context"``; None if the session could not be read.
        known_states: states that were accepted. Add those of your flow: where unknown states are
            refused, an emulator like this tenant accepts no others.
    """

    unknown_state: Literal["accepted", "refused"]
    status: int | None = None
    changes: tuple[Literal["state", "context"], ...] | None = None
    known_states: tuple[str, ...] = ()


class MeasuredEtags(_Measured):
    """Versions of a state in the runtime API.

    Attributes:
        kind: kind of the header `ETag` of an answer.
        if_match: fate of a write whose `If-Match` is an earlier version: ``"honoured"`` if it is
            refused and one with the current version is not, ``"ignored"`` if it is applied,
            ``"refused"`` if no version is accepted; None if there is no version.
    """

    kind: Literal["strong", "weak", "none"]
    if_match: Literal["honoured", "ignored", "refused"] | None = None


class MeasuredRateLimit(_Measured):
    """Rate limit that the headers of answers announce.

    Attributes:
        headers: family of the headers: `RateLimit-Policy` and `RateLimit` are ``"ietf"``,
            `RateLimit-Limit` is ``"ietf-early"``, `X-RateLimit-Limit` is ``"x"``.
        requests: requests in a window.
        seconds: length of the window; None if no header names it.
        reset_seconds: longest time until the end of a window that was named.
    """

    headers: Literal["none", "ietf", "ietf-early", "x"] = "none"
    requests: Count | None = None
    seconds: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    reset_seconds: Seconds | None = None


class MeasuredClock(_Measured):
    """The clock of the server.

    Attributes:
        skew_seconds: seconds that it is ahead of the clock of the machine that measured it, by the
            header `Date`; None if answers have no such header.
    """

    skew_seconds: Annotated[float, Field(allow_inf_nan=False)] | None = None


class MeasuredToken(_Measured):
    """The token endpoint.

    Attributes:
        url: its URL, without a query.
        path: its path, if it is one of the known paths below the base URL. `Settings` use it
            instead of the usual path. They never use `url`: settings decide where credentials go.
        client_auth: see `OAuthConfig`.
        lifetime_seconds: seconds until a token expires; None if the answer does not say it.
    """

    url: str
    path: TokenPath | None = None
    client_auth: Literal["basic", "post"]
    lifetime_seconds: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None


class MeasuredBody(_Measured):
    """Size of a request, measured with `--sizes`.

    Attributes:
        accepted_bytes: largest body that was accepted.
        refused_bytes: smallest body that was refused; None if none was.
        refused_status: status of its answer; None if there was no answer.
    """

    accepted_bytes: Count
    refused_bytes: Count | None = None
    refused_status: int | None = None


class TenantProfile(_Measured):
    """Behaviour of a tenant. A section is None if it was not measured.

    `cognigy-async probe` writes a profile, the setting `COGNIGY_TENANT` names its file. Without
    settings::

        tenant = TenantProfile.from_json(Path("tenant.json").read_bytes())
        client = AsyncStateClient(url, auth=ApiKey(key), api=tenant.state_api())
        emulator = Emulator(rules=Rules.like(tenant), throttling=Throttling.like(tenant))

    Attributes:
        measured_at: time of the measurement, in ISO 8601.
        base_url: URL of the API that was measured. Nothing is sent to it because of the profile.
        api: API that was measured.
        requests: number of requests that the measurement took.
        writes, reads, states, etags, rate_limit, clock, token, body: sections.
    """

    format: Format = FORMAT
    version: Literal[1] = VERSION
    measured_at: str | None = None
    base_url: str | None = None
    api: Literal["runtime", "sessions"]
    requests: int | None = None
    writes: MeasuredWrites | None = None
    reads: MeasuredReads | None = None
    states: MeasuredStates | None = None
    etags: MeasuredEtags | None = None
    rate_limit: MeasuredRateLimit | None = None
    clock: MeasuredClock | None = None
    token: MeasuredToken | None = None
    body: MeasuredBody | None = None

    @classmethod
    def from_json(cls, content: str | bytes) -> Self:
        """Return the profile in the content of a file.

        Raises:
            ConfigurationError: the content is no profile, or one of a later version.
        """
        try:
            found: Any = json.loads(content)
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict) or found.get("format") != FORMAT:
            raise ConfigurationError(
                "is not a tenant profile; write one with: cognigy-async probe --session ID"
            )
        version = found.get("version")
        if version != VERSION:
            raise ConfigurationError(
                f"is a tenant profile of version {str(version)[:20]}, and this program reads "
                f"version {VERSION}; write a new one with: cognigy-async probe --session ID"
            )
        try:
            return cls.model_validate(found)
        except ValidationError as error:
            faults = [
                f"{'.'.join(map(str, line['loc']))}: {_problem(line)}"
                for line in error.errors(include_url=False, include_input=False)
            ]
        # Raise outside of `except`, so that the error's context holds no values.
        raise ConfigurationError(
            f"is not a valid tenant profile: {'; '.join(faults)}; correct it, or write a new one "
            "with: cognigy-async probe --session ID"
        )

    def to_json(self) -> str:
        """Return the content of a file."""
        return self.model_dump_json(indent=2) + "\n"

    @property
    def merged_values(self) -> MergedValues:
        """The argument `merged_values` of the API."""
        writes = self.writes or MeasuredWrites()
        if writes.merges_lists:
            return "objects and lists"
        return "none" if writes.merged_levels == 0 and writes.merges_lists is False else "objects"

    @property
    def limits(self) -> Limits:
        """Limits of the API, with the size of a request if it was measured."""
        usual = RuntimeApi.limits if self.api == "runtime" else SessionsApi.limits
        if self.body is None:
            return usual
        size = self.body.accepted_bytes
        if self.api == "runtime":
            return replace(usual, safe_payload_bytes=min(size, usual.safe_payload_bytes))
        # The body held one variable, so a context may be as large.
        largest = max(size, usual.max_context_bytes)
        return replace(
            usual, safe_payload_bytes=size, max_variable_bytes=largest, max_context_bytes=largest
        )

    def state_api(
        self,
        *,
        user_id: str | None = None,
        inject: Literal["merge", "replace"] | None = None,
        reads_state: bool | None = None,
        limits: Limits | None = None,
    ) -> StateApi:
        """Return the API that was measured, with arguments that follow the measurement.

        Args:
            user_id: see `SessionsApi`.
            inject, reads_state, limits: values that take precedence over the measured ones.
        """
        limits = self.limits if limits is None else limits
        reads = self.reads or MeasuredReads(works=False)
        if self.api == "runtime":
            etags = self.etags or MeasuredEtags(kind="strong", if_match="honoured")
            return RuntimeApi(
                conditional_writes=etags.if_match == "honoured",
                merged_values=self.merged_values,
                read_delay=reads.delay_seconds,
                limits=limits,
            )
        measured = None if self.writes is None else self.writes.inject
        return SessionsApi(
            user_id=user_id,
            inject=inject or measured or "merge",
            merged_values=self.merged_values,
            reads_state=reads.works if reads_state is None else reads_state,
            limits=limits,
        )


def _problem(line: ErrorDetails) -> str:
    """Return the problem of one member in a few words."""
    if line["type"] == "missing":
        return "is missing"
    if line["type"] == "extra_forbidden":
        return "is not a member of a profile"
    return line["msg"].replace("Input should be", "must be", 1)
