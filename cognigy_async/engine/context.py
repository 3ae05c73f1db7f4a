"""What the parts of one engine share; made once, when the client is opened."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .._utils.waker import Waker
    from ..audit.trail import AuditTrail
    from ..client.config import ClientConfig
    from ..hooks.registry import Hooks
    from ..metrics import Metrics
    from ..ratelimit.limiter import Quota
    from ..transports.base import Transport
    from .capacity import Room
    from .protocol import Course


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """Shared parts of one engine. Copy what a hot path needs to `self`.

    Attributes:
        transport: the configured one, or the default.
        quota, audit: None where there is none.
        clock: seconds, monotonic.
    """

    config: ClientConfig
    course: Course
    transport: Transport
    quota: Quota | None
    audit: AuditTrail | None
    metrics: Metrics
    hooks: Hooks
    room: Room
    waker: Waker
    clock: Callable[[], float]
