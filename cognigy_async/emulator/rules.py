"""Configuration of the emulator: `Rules` for requests and tokens, `Throttling` for quotas."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Literal, TypeAlias, get_args

import httpx

from cognigy_async import Limits

from .state import Merge

Inject: TypeAlias = Literal["merge", "replace"]
ConflictStatus: TypeAlias = Literal[409, 412]
RetryAfter: TypeAlias = Literal["seconds", "decimal", "date", "none"]
QuotaHeaders: TypeAlias = Literal["none", "ietf", "ietf-early", "x"]
Quota: TypeAlias = tuple[int, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """Rules by which the emulator validates and applies requests, and issues tokens.

    Args:
        merge: "replace" assigns whole variables, "recursive" merges objects into objects.
        inject: "merge" keeps the variables that a context/inject does not name, "replace" drops
            them.
        honour_idempotency_keys: Whether a write with a known key repeats the first response and is
            not applied again. By default it is applied again, as the client assumes of a server.
        conflict_status: Status for an `If-Match` that does not match.
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
        drop_error: Error that a dropped connection raises if the app is called in the process.

    Raises:
        ValueError: A field has an invalid value.
    """

    merge: Merge = "replace"
    inject: Inject = "merge"
    honour_idempotency_keys: bool = False
    conflict_status: ConflictStatus = 409
    limits: Limits = field(default_factory=Limits)
    flow_nodes: Collection[str] | None = None
    max_body_bytes: int = 1024 * 1024
    max_payload_bytes: int = 60_000
    create_dialogs: bool = True
    history_limit: int | None = None
    scopes: Collection[str] = ("runtime:write", "session:manage", "dialog:read")
    token_lifetime: float = 3600.0
    drop_error: Callable[[str], Exception] = httpx.RemoteProtocolError

    def __post_init__(self) -> None:
        _validate_choice(self, "merge", Merge)
        _validate_choice(self, "inject", Inject)
        _validate_choice(self, "conflict_status", ConflictStatus)
        for name in ("max_body_bytes", "max_payload_bytes", "history_limit", "token_lifetime"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"Rules({name}={value!r}): must be positive and finite")


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


def _validate_choice(config: object, name: str, choices: object) -> None:
    value = getattr(config, name)
    if value not in get_args(choices):
        raise ValueError(
            f"{type(config).__name__}({name}={value!r}): must be one of {get_args(choices)}"
        )
