"""Keep a CRM in step: a durable outbox and its targets."""

from .delivery import TargetStatus
from .outbox import Outbox
from .target import (
    DeliveryError,
    EventRejectedError,
    Target,
    TargetGoneError,
    TargetUnavailableError,
)

__all__ = [
    "DeliveryError",
    "EventRejectedError",
    "Outbox",
    "Target",
    "TargetGoneError",
    "TargetStatus",
    "TargetUnavailableError",
]
