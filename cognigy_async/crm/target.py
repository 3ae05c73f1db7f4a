"""Define targets, and the errors with which they answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from cognigy_async import CognigyError, UpdateEvent


class DeliveryError(CognigyError):
    """An event was not delivered. The outbox delivers it again later."""


class EventRejectedError(DeliveryError):
    """The target will never take this event, which becomes a dead letter."""


class TargetUnavailableError(DeliveryError):
    """The target is down or throttles. The outbox pauses the deliveries to it.

    Attributes:
        retry_after: seconds until the target may be asked again; None if it gave no time.
    """

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class TargetGoneError(DeliveryError):
    """The target takes no more events until somebody corrects its settings."""


class Target(Protocol):
    """Receives events of updates."""

    @property
    def name(self) -> str:
        """Name by which the outbox keeps its deliveries, the same in all processes."""
        ...

    @property
    def batch_size(self) -> int:
        """Maximum number of events of one call of `deliver`."""
        ...

    @property
    def linger(self) -> float:
        """Seconds that the oldest event waits for a fuller batch."""
        ...

    @property
    def concurrency(self) -> int:
        """Maximum number of concurrent calls of `deliver`, with different dialogs."""
        ...

    async def open(self) -> None:
        """Open connections in the event loop that delivers."""
        ...

    async def deliver(self, events: Sequence[UpdateEvent]) -> Sequence[DeliveryError | None]:
        """Deliver events, which are in order for each dialog.

        Returns:
            For each event, in order: None, or why it was not delivered.

        Raises:
            DeliveryError: none of the events was delivered.
        """
        ...

    async def aclose(self) -> None:
        """Close the connections."""
        ...
