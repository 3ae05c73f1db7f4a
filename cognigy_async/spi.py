"""Non-public names for the project's own outer modules, such as `cognigy_async.bulk`.

They may change in any release; programs import from `cognigy_async` only.
"""

from __future__ import annotations

from .models.events import DeliveryReceipt, UpdateWatch
from .models.identifiers import is_strong_etag
from .models.update import DatedUpdate
from .ratelimit.estimate import seconds_under
from .ratelimit.headers import PREFIXES as RATE_LIMIT_PREFIXES

__all__ = [
    "RATE_LIMIT_PREFIXES",
    "DatedUpdate",
    "DeliveryReceipt",
    "UpdateWatch",
    "is_strong_etag",
    "seconds_under",
]
