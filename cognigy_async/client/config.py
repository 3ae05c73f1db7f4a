"""The arguments of a client, validated; and what follows from them for one update."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias

from .._utils.arguments import (
    validate_base_url,
    validate_count,
    validate_seconds,
    validate_timeout,
    validate_type,
)
from ..api.runtime import RuntimeApi
from ..engine.work_item import SendOptions
from ..errors import ConfigurationError
from ..models.limits import Limits
from ..models.update import Row, StateUpdate, parsed
from ..ratelimit.limiter import RateLimits
from ..retry import RetryPolicy

if TYPE_CHECKING:
    from ..api.base import StateApi
    from ..audit.sinks import AuditSink
    from ..auth.provider import TokenProvider
    from ..models.events import UpdateWatch
    from ..transports.base import Transport

Priority: TypeAlias = Literal["live", "bulk"]
"""Live work goes before bulk work, which gives way and has patience."""


@dataclass(frozen=True, kw_only=True)
class ClientConfig:
    """The arguments of `AsyncStateClient`; see there.

    Raises:
        ConfigurationError: an argument that cannot work.
    """

    base_url: str
    auth: TokenProvider
    api: StateApi = field(default_factory=RuntimeApi)
    max_in_flight: int = 32
    max_pending: int = 10_000
    rate_limit: RateLimits = None
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    limits: Limits
    coalesce: bool = False
    linger: float = 0.0
    on_failure: Literal["continue", "pause"] = "continue"
    timeout: float = 15.0
    audit: AuditSink | Sequence[AuditSink] | None = None
    transport: Transport | None = None
    allow_insecure: bool = False
    usual: SendOptions = field(init=False)
    """What an update without terms of its own is sent with."""

    def __post_init__(self) -> None:
        if self.on_failure not in ("continue", "pause"):
            problem = f'on_failure={self.on_failure!r}: must be "continue" or "pause"'
            raise ConfigurationError(problem)
        if self.transport is not None and not hasattr(self.transport, "send"):
            raise ConfigurationError("transport must have a method send, as HttpxTransport() has")
        if not hasattr(self.api, "writes"):
            raise ConfigurationError("api must be a StateApi, such as RuntimeApi()")
        if not hasattr(self.auth, "get_token"):
            raise ConfigurationError(
                "auth must be a token provider: OAuthTokenProvider(OAuthConfig(...)) or ApiKey(...)"
            )
        url = validate_base_url(self.base_url, allow_insecure=self.allow_insecure)
        object.__setattr__(self, "base_url", url)
        validate_count("max_in_flight", self.max_in_flight)
        validate_count("max_pending", self.max_pending)
        validate_type("retry", self.retry, RetryPolicy)
        validate_type("limits", self.limits, Limits)
        linger = validate_seconds("linger", self.linger, least=0.0)
        object.__setattr__(self, "linger", linger)
        usual = SendOptions(self.retry, validate_timeout(self.timeout), coalesce=self.coalesce)
        object.__setattr__(self, "usual", usual)

    @property
    def pauses_dialogs(self) -> bool:
        """Whether what follows a failed update is held back."""
        return self.on_failure == "pause"

    def parse(self, row: Row) -> StateUpdate:
        """A valid update from what a caller hands over, or an `UpdateValidationError`."""
        # What is one already, and was checked against these very limits, needs no more.
        if type(row) is StateUpdate and row._limits is self.limits:
            update = row
        else:
            update = parsed(row, self.limits)
        self.api.check(update)
        return update

    def check_dialog_id(
        self, dialog_id: str, metadata: Mapping[str, str] | None = None
    ) -> tuple[str, Mapping[str, str]]:
        """Both as plain copies; raises `UpdateValidationError` for what is no dialog id."""
        fields = {"dialog_id": dialog_id, "next_step": "-", "metadata": metadata}
        update = StateUpdate.from_fields(self.limits, fields)
        return update.dialog_id, update.metadata

    def options(
        self,
        retry: RetryPolicy | None,
        timeout: float | None,
        moment: float | None = None,
        priority: Priority = "live",
        coalesce: bool | None = None,
        watch: UpdateWatch | None = None,
    ) -> SendOptions:
        """On which terms an update is carried out: its own, or those of the client.

        Args:
            moment: of the client's clock, its deadline.

        Raises:
            ConfigurationError: one of them cannot work.
        """
        usual = self.usual
        if (
            priority == "live"
            and retry is None
            and timeout is None
            and moment is None
            and coalesce is None
            and watch is None
        ):
            return usual
        if priority not in ("live", "bulk"):
            raise ConfigurationError(f'priority={priority!r}: must be "live" or "bulk"')
        return SendOptions(
            usual.policy if retry is None else validate_type("retry", retry, RetryPolicy),
            usual.timeout if timeout is None else validate_timeout(timeout),
            moment,
            priority == "live",
            usual.coalesce if coalesce is None else coalesce,
            watch,
        )
