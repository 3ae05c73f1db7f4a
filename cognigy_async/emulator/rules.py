"""Configuration of the emulator: `Rules` for requests and tokens, `Throttling` for quotas."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any, Literal, Self, TypeAlias, get_args

import httpx

from cognigy_async import Limits, TenantProfile

from .state import Merge, Merging

Etags: TypeAlias = Literal["strong", "weak", "none"]
IfMatch: TypeAlias = Literal["strong", "weak", "ignored"]
Inject: TypeAlias = Literal["merge", "replace"]
ConflictStatus: TypeAlias = Literal[409, 412]
RetryAfter: TypeAlias = Literal["seconds", "decimal", "date", "none"]
QuotaHeaders: TypeAlias = Literal["none", "ietf", "ietf-early", "x"]
Quota: TypeAlias = tuple[int, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """Rules by which the emulator validates and applies requests, and issues tokens.

    Args:
        merge: "replace" assigns whole variables, "recursive" merges objects into objects; a
            `Merging` says how deep, and whether lists are merged.
        inject: "merge" keeps the variables that a context/inject does not name, "replace" drops
            them.
        honour_idempotency_keys: Whether a write with a known key repeats the first response and is
            not applied again. By default it is applied again, as the client assumes of a server.
        conflict_status: Status for an `If-Match` that does not match.
        etags: Kind of the `ETag` of a version in the runtime API.
        if_match: Comparison of an `If-Match`: "strong" as in RFC 9110, 13.1.1, by which a weak tag
            never matches; "weak" lets it match; "ignored" applies every write.
        reads_state: Whether the state of a dialog or session can be read; otherwise 404.
        read_delay: Seconds after a write in which reads do not see it yet.
        limits: Limits on the variables of a PATCH.
        flow_nodes: Nodes that a transition may name; None for any.
        max_body_bytes: Size above which the runtime API answers 413.
        max_payload_bytes: Size above which the sessions API answers 413.
        create_dialogs: Whether dialogs, sessions and profiles exist as soon as they are requested;
            otherwise use `Emulator.add_dialog` and `Emulator.add_profile`.
            ``Emulator(strict=True)`` is short for False.
        history_limit: Number of entries and keys that each dialog remembers; None for all.
        scopes: Scopes that a token may have. The runtime API requires ``runtime:write`` for a
            PATCH, and that or ``dialog:read`` for a GET; the sessions API requires none.
        token_lifetime: Seconds until a token expires, by the clock of the event loop.
        token_paths: Paths of the token endpoint.
        drop_error: Error that a dropped connection raises if the app is called in the process.

    Raises:
        ValueError: A field has an invalid value.
    """

    merge: Merge | Merging = "replace"
    inject: Inject = "merge"
    honour_idempotency_keys: bool = False
    conflict_status: ConflictStatus = 409
    etags: Etags = "strong"
    if_match: IfMatch = "strong"
    reads_state: bool = True
    read_delay: float = 0.0
    limits: Limits = field(default_factory=Limits)
    flow_nodes: Collection[str] | None = None
    max_body_bytes: int = 1024 * 1024
    max_payload_bytes: int = 60_000
    create_dialogs: bool = True
    history_limit: int | None = None
    scopes: Collection[str] = ("runtime:write", "session:manage", "dialog:read")
    token_lifetime: float = 3600.0
    token_paths: Collection[str] = ("/oauth/token", "/auth/oauth2/token")
    drop_error: Callable[[str], Exception] = httpx.RemoteProtocolError

    def __post_init__(self) -> None:
        if not isinstance(self.merge, Merging):
            _validate_choice(self, "merge", Merge)
        _validate_choice(self, "inject", Inject)
        _validate_choice(self, "etags", Etags)
        _validate_choice(self, "if_match", IfMatch)
        if not 0 <= self.read_delay < math.inf:
            raise ValueError(f"Rules(read_delay={self.read_delay!r}): must be finite, not negative")
        _validate_choice(self, "conflict_status", ConflictStatus)
        for name in ("max_body_bytes", "max_payload_bytes", "history_limit", "token_lifetime"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"Rules({name}={value!r}): must be positive and finite")

    @classmethod
    def like(cls, tenant: TenantProfile) -> Self:
        """Return the rules of a measured tenant; the defaults where nothing was measured."""
        measured: dict[str, Any] = {}
        if tenant.writes is not None:
            levels, lists = tenant.writes.merged_levels or 0, bool(tenant.writes.merges_lists)
            if levels or lists:
                measured["merge"] = Merging(None if levels == "all" else levels, lists)
            measured["inject"] = tenant.writes.inject or "merge"
        if tenant.reads is not None:
            measured["reads_state"] = tenant.reads.works
            measured["read_delay"] = tenant.reads.delay_seconds
        states = tenant.states
        if states is not None and states.unknown_state == "refused" and states.known_states:
            measured["flow_nodes"] = states.known_states
        if tenant.etags is not None:
            measured["etags"] = tenant.etags.kind
            measured["if_match"] = "ignored" if tenant.etags.if_match == "ignored" else "strong"
            if (tenant.etags.kind, tenant.etags.if_match) == ("weak", "honoured"):
                measured["if_match"] = "weak"
        if tenant.token is not None:
            if tenant.token.path is not None:
                measured["token_paths"] = (tenant.token.path,)
            if tenant.token.lifetime_seconds is not None:
                measured["token_lifetime"] = tenant.token.lifetime_seconds
        if tenant.body is not None:
            size = "max_body_bytes" if tenant.api == "runtime" else "max_payload_bytes"
            measured[size] = tenant.body.accepted_bytes
        return cls(**measured)


@dataclass(frozen=True, slots=True, kw_only=True)
class Throttling:
    """Quotas, and the headers that announce them.

    A quota of (requests, seconds) is counted in fixed windows. A window begins with the first
    request after the end of the last one. Requests above the quota are answered 429.

    Args:
        tenant_quota: Quota of all requests.
        dialog_quota: Quota of each dialog; its 429s have ``X-RateLimit-Scope: dialog``.
        address_quota: Quota of each calling address, as shared hosts have.
        quota_headers: Headers with which every response announces the quota of the address or
            tenant: ``"ietf"`` for `RateLimit-Policy` and `RateLimit`, ``"ietf-early"`` for
            `RateLimit-Limit`, `-Remaining` and `-Reset`, ``"x"`` for the latter with `X-`.
        retry_after: Format of `Retry-After`: whole seconds, seconds with three decimals, an HTTP
            date, or no header. Times are rounded up.
        dates: Whether every response has a `Date`, by `wall_clock`.
        notice: Seconds after a 429 in which a request may have been sent before the client got the
            429, and so does not count as early.
        wall_clock: Function that returns seconds since the epoch, for HTTP dates.

    Raises:
        ValueError: A field has an invalid value.
    """

    tenant_quota: Quota | None = None
    dialog_quota: Quota | None = None
    address_quota: Quota | None = None
    quota_headers: QuotaHeaders = "none"
    retry_after: RetryAfter = "seconds"
    dates: bool = False
    notice: float = 0.25
    wall_clock: Callable[[], float] = time.time

    def __post_init__(self) -> None:
        _validate_choice(self, "quota_headers", QuotaHeaders)
        _validate_choice(self, "retry_after", RetryAfter)
        if not 0 <= self.notice < math.inf:
            raise ValueError(f"Throttling(notice={self.notice!r}): must be finite, not negative")
        for name in ("tenant_quota", "dialog_quota", "address_quota"):
            quota: Quota | None = getattr(self, name)
            if quota is not None and not (quota[0] >= 1 and 0 < quota[1] < math.inf):
                raise ValueError(
                    f"Throttling({name}={quota!r}): must be (requests, seconds), both positive"
                )

    @classmethod
    def like(cls, tenant: TenantProfile) -> Self:
        """Return the quota, the headers and the clock of a measured tenant."""
        measured: dict[str, Any] = {}
        limit = tenant.rate_limit
        if limit is not None and limit.requests is not None:
            seconds = limit.seconds or limit.reset_seconds
            if seconds:
                measured["tenant_quota"] = (limit.requests, seconds)
                measured["quota_headers"] = limit.headers
        if tenant.clock is not None and tenant.clock.skew_seconds is not None:
            measured["dates"] = True
            measured["wall_clock"] = SkewedClock(tenant.clock.skew_seconds)
        return cls(**measured)


@dataclass(frozen=True, slots=True)
class SkewedClock:
    """A wall clock that is `skew` seconds ahead of that of this machine."""

    skew: float

    def __call__(self) -> float:
        """Return seconds since the epoch."""
        return time.time() + self.skew


def _validate_choice(config: object, name: str, choices: object) -> None:
    value = getattr(config, name)
    if value not in get_args(choices):
        raise ValueError(
            f"{type(config).__name__}({name}={value!r}): must be one of {get_args(choices)}"
        )
