"""Keep a CRM in step: a durable outbox and its targets."""

from .hubspot import HubSpot
from .mapping import FieldSource
from .outbox import Outbox
from .salesforce import Salesforce, SalesforceAuth
from .target import (
    DeliveryError,
    EventRejectedError,
    Target,
    TargetGoneError,
    TargetUnavailableError,
)
from .webhook import Webhook

__all__ = [
    "DeliveryError",
    "EventRejectedError",
    "FieldSource",
    "HubSpot",
    "Outbox",
    "Salesforce",
    "SalesforceAuth",
    "Target",
    "TargetGoneError",
    "TargetUnavailableError",
    "Webhook",
]
