"""What the parts of one engine share; made once, when the client is opened."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .._utils.waker import Waker
    from ..audit.trail import AuditTrail
    from ..client.config import ClientConfig
    from ..hooks.registry import CallbackRegistry
    from ..metrics import Metrics
    from ..ratelimit.limiter import CompositeLimiter
    from ..transports.base import Transport
    from .capacity import PendingLimit
    from .protocol import UpdateProtocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """Shared parts of one engine. Copy what a hot path needs to `self`.

    Attributes:
        transport: the configured one, or the default.
        quota, audit: None where there is none.
        clock: seconds, monotonic.
    """

    config: ClientConfig
    protocol: UpdateProtocol
    transport: Transport
    quota: CompositeLimiter | None
    audit: AuditTrail | None
    metrics: Metrics
    hooks: CallbackRegistry
    pending_limit: PendingLimit
    waker: Waker
    clock: Callable[[], float]
