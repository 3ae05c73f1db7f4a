"""Names that the project's own edges need beyond the public ones.

They may change in any release. Programs import from `cognigy_async` only.
"""

from __future__ import annotations

from .models.events import DeliveryReceipt, UpdateWatch

__all__ = ["DeliveryReceipt", "UpdateWatch"]
