"""The objects that all parts of one engine share; created when the client is opened."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .._utils.waker import Waker
    from ..audit.trail import AuditTrail
    from ..client.config import ClientConfig
    from ..hooks.outbox import Outbox
    from ..hooks.registry import CallbackRegistry
    from ..metrics import Metrics
    from ..ratelimit.limiter import CompositeLimiter
    from ..transports.base import Transport
    from .capacity import PendingLimit
    from .protocol import UpdateProtocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """The shared objects of one engine. Its parts copy those of their hot paths to `self`.

    Attributes:
        transport: the transport of the configuration, or the default one.
        quota: the rate limits, None without any.
        audit: the audit trail, None without sinks.
        outbox: the outbox of the configuration, None without one.
        clock: monotonic seconds.
    """

    config: ClientConfig
    protocol: UpdateProtocol
    transport: Transport
    quota: CompositeLimiter | None
    audit: AuditTrail | None
    outbox: Outbox | None
    metrics: Metrics
    hooks: CallbackRegistry
    pending_limit: PendingLimit
    waker: Waker
    clock: Callable[[], float]
