"""Non-public names for the project's own outer modules, such as `cognigy_async.bulk`.

They may change in any release; programs import from `cognigy_async` only.
"""

from __future__ import annotations

from .api.endpoint import check_message, count_requests
from .models.events import DeliveryReceipt, UpdateWatch
from .models.identifiers import is_strong_etag
from .ratelimit.estimate import seconds_under
from .ratelimit.headers import PREFIXES as RATE_LIMIT_PREFIXES

__all__ = [
    "RATE_LIMIT_PREFIXES",
    "DeliveryReceipt",
    "UpdateWatch",
    "check_message",
    "count_requests",
    "is_strong_etag",
    "seconds_under",
]
