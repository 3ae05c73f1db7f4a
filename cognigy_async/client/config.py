"""The validated arguments of a client, and the arguments of its methods resolved against them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias, TypedDict

from .._utils.arguments import (
    validate_base_url,
    validate_count,
    validate_seconds,
    validate_timeout,
    validate_type,
)
from ..api.endpoint import Endpoint, check_message
from ..engine.work_item import SendOptions
from ..errors import ConfigurationError
from ..models.conversion import Encode, validate_encode
from ..models.limits import Limits
from ..models.update import StateUpdate, UpdateInput, parse_update
from ..ratelimit.limiter import RateLimits
from ..retry import RetryPolicy

if TYPE_CHECKING:
    from ..api.base import StateApi
    from ..audit.sinks import AuditSink
    from ..auth.provider import TokenProvider
    from ..hooks.outbox import Outbox
    from ..models.events import UpdateWatch
    from ..transports.base import Transport

Priority: TypeAlias = Literal["live", "bulk"]
"""Class of work: live work is sent before bulk work."""


class SendArguments(TypedDict, total=False):
    """Keyword arguments of the methods that send one operation; see `AsyncStateClient.update`."""

    retry: RetryPolicy | None
    timeout: float | None
    deadline: float | None
    priority: Priority


class SubmitArguments(SendArguments, total=False):
    """Keyword arguments of `submit`, `submit_nowait` and `update_many`."""

    coalesce: bool | None
    watch: UpdateWatch | None


@dataclass(frozen=True, kw_only=True)
class ClientConfig:
    """The arguments of `AsyncStateClient`, validated.

    Attributes:
        default_options: Send options of a call without send arguments.

    Raises:
        ConfigurationError: An argument is invalid.
    """

    base_url: str
    auth: TokenProvider
    api: StateApi
    max_in_flight: int
    max_pending: int
    rate_limit: RateLimits
    retry: RetryPolicy
    limits: Limits
    coalesce: bool
    linger: float
    on_failure: Literal["continue", "pause"]
    timeout: float
    audit: AuditSink | Sequence[AuditSink] | None
    transport: Transport | None
    allow_insecure: bool
    encode: Encode | None = None
    endpoint: Endpoint | None = None
    outbox: Outbox | None = None
    default_options: SendOptions = field(init=False)

    def __post_init__(self) -> None:
        if self.on_failure not in ("continue", "pause"):
            raise ConfigurationError(
                f'on_failure={self.on_failure!r}: must be "continue" or "pause"'
            )
        if self.transport is not None and not hasattr(self.transport, "send"):
            raise ConfigurationError("transport must have a method send, as HttpxTransport() has")
        if self.outbox is not None and not hasattr(self.outbox, "intend"):
            raise ConfigurationError('outbox must be an Outbox, such as Outbox("crm-outbox")')
        if not hasattr(self.api, "writes"):
            raise ConfigurationError("api must be a StateApi, such as RuntimeApi()")
        if not hasattr(self.auth, "get_token"):
            raise ConfigurationError(
                "auth must be a token provider: pass auth=OAuthTokenProvider(OAuthConfig(...)), or "
                'auth=ApiKey("...") for an API key'
            )
        base_url = validate_base_url(self.base_url, allow_insecure=self.allow_insecure)
        validate_count("max_in_flight", self.max_in_flight)
        validate_count("max_pending", self.max_pending)
        validate_type("retry", self.retry, RetryPolicy)
        validate_type("limits", self.limits, Limits)
        validate_encode(self.encode)
        if self.endpoint is not None:
            endpoint = validate_type("endpoint", self.endpoint, Endpoint)
            if not self.allow_insecure:
                endpoint.validate_encrypted()
        linger = validate_seconds("linger", self.linger, least=0.0)
        options = SendOptions(self.retry, validate_timeout(self.timeout), coalesce=self.coalesce)
        object.__setattr__(self, "base_url", base_url)
        object.__setattr__(self, "linger", linger)
        object.__setattr__(self, "default_options", options)

    @property
    def pauses_dialogs(self) -> bool:
        """True if a failed update pauses its dialog."""
        return self.on_failure == "pause"

    def parse(self, given: UpdateInput) -> StateUpdate:
        """Return a valid update that the API supports, or raise `UpdateValidationError`."""
        # Skip the validation if the update was already validated against this `Limits` object.
        if type(given) is StateUpdate and given._limits is self.limits:
            update = given
        else:
            update = parse_update(given, self.limits, self.encode)
        self.check(update)
        return update

    def check(self, update: StateUpdate) -> None:
        """Raise `UpdateValidationError` if the client cannot send a valid update."""
        self.api.check(update)
        if update._message is not None:
            check_message(self.api, self.endpoint, update)

    def validate_dialog_id(
        self, dialog_id: str, metadata: Mapping[str, str] | None = None
    ) -> tuple[str, Mapping[str, str]]:
        """Validate the arguments and return plain copies, or raise `UpdateValidationError`."""
        fields = {"dialog_id": dialog_id, "next_step": "-", "metadata": metadata}
        update = StateUpdate.from_fields(self.limits, fields)
        return update.dialog_id, update.metadata

    def send_options(
        self,
        retry: RetryPolicy | None = None,
        timeout: float | None = None,
        deadline: float | None = None,
        priority: Priority = "live",
        coalesce: bool | None = None,
        watch: UpdateWatch | None = None,
    ) -> SendOptions:
        """Return the send options of one operation; None stands for the client's argument.

        Args:
            deadline: Time of the client's clock.

        Raises:
            ConfigurationError: An argument is invalid.
        """
        defaults = self.default_options
        if priority == "live" and (retry, timeout, deadline, coalesce, watch) == (None,) * 5:
            return defaults
        if priority not in ("live", "bulk"):
            raise ConfigurationError(f'priority={priority!r}: must be "live" or "bulk"')
        return SendOptions(
            defaults.policy if retry is None else validate_type("retry", retry, RetryPolicy),
            defaults.timeout if timeout is None else validate_timeout(timeout),
            deadline,
            priority == "live",
            defaults.coalesce if coalesce is None else coalesce,
            watch,
        )
