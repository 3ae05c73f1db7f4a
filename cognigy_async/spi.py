"""Non-public names for the project's own outer modules, such as `cognigy_async.bulk`.

They may change in any release; programs import from `cognigy_async` only.
"""

from __future__ import annotations

from .models.events import DeliveryReceipt, UpdateWatch
from .ratelimit.estimate import seconds_under
from .ratelimit.headers import PREFIXES as RATE_LIMIT_PREFIXES
from .retry import MAX_BULK_WAIT

__all__ = [
    "MAX_BULK_WAIT",
    "RATE_LIMIT_PREFIXES",
    "DeliveryReceipt",
    "UpdateWatch",
    "seconds_under",
]
