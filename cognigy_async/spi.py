"""Non-public names for the project's own outer modules, such as `cognigy_async.bulk`.

They may change in any release; programs import from `cognigy_async` only.
"""

from __future__ import annotations

from .api.endpoint import check_message, count_requests, may_repeat
from .api.tenant import (
    MeasuredBody,
    MeasuredClock,
    MeasuredEtags,
    MeasuredRateLimit,
    MeasuredReads,
    MeasuredStates,
    MeasuredToken,
    MeasuredWrites,
)
from .hooks.outbox import RESEND_WITHIN, Intent, Outbox, OutboxClient, Receipt
from .models.events import DeliveryReceipt, UpdateWatch
from .models.identifiers import is_strong_etag
from .models.stored import dump_outcome, dump_update, load_outcome, load_update
from .models.update import DatedUpdate
from .ratelimit.estimate import seconds_under
from .ratelimit.headers import PREFIXES as RATE_LIMIT_PREFIXES
from .ratelimit.headers import read_headers as read_rate_limit
from .retry import retry_after

__all__ = [
    "RATE_LIMIT_PREFIXES",
    "RESEND_WITHIN",
    "DatedUpdate",
    "DeliveryReceipt",
    "Intent",
    "MeasuredBody",
    "MeasuredClock",
    "MeasuredEtags",
    "MeasuredRateLimit",
    "MeasuredReads",
    "MeasuredStates",
    "MeasuredToken",
    "MeasuredWrites",
    "Outbox",
    "OutboxClient",
    "Receipt",
    "UpdateWatch",
    "check_message",
    "count_requests",
    "dump_outcome",
    "dump_update",
    "is_strong_etag",
    "load_outcome",
    "load_update",
    "may_repeat",
    "read_rate_limit",
    "retry_after",
    "seconds_under",
]
