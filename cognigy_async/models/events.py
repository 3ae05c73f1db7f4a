"""Events for callbacks, and the observer of updates in progress."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

from ..errors import CallbackError, CognigyError
from .results import UpdateResult
from .update import StateUpdate


@dataclass(frozen=True, slots=True, repr=False)
class UpdateEvent:
    """The outcome of one update, as callbacks get it.

    Attributes:
        dialog_id, update_id: the update.
        update: the written update; None for a reset, or if `modify` failed without an update.
        result: result of an applied update, else None.
        error: error of a failed update, else None.
        metadata: metadata that the caller passed with the update.
    """

    dialog_id: str
    update_id: str
    update: StateUpdate | None
    result: UpdateResult | None
    error: CognigyError | None
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def payload(self) -> dict[str, Any]:
        """The JSON object with `session`, `user` and `transition`; a new copy at each access."""
        return self.update.payload() if self.update is not None else {}

    def __repr__(self) -> str:
        outcome = "applied" if self.error is None else type(self.error).__name__
        return f"<UpdateEvent {self.update_id} dialog={self.dialog_id!r} {outcome}>"


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """An event that a callback did not handle.

    Attributes:
        event: the event.
        error: the reason; its `__cause__` is the last exception of the callback, if it was called.
        attempts: number of calls of the callback.
    """

    event: UpdateEvent
    error: CallbackError
    attempts: int


DeliveryReceipt: TypeAlias = Callable[[CallbackError | None, int], None]
"""Called once when a callback is done with an event: with None on success or else the error,
and with the number of calls."""


class UpdateWatch(Protocol):
    """Observes updates in progress, for programs that keep a journal of them.

    An index is a position in the input of `update_many`, -1 for other updates.
    """

    async def before_send(self, indexes: tuple[int, ...], key: str, etag: str | None) -> None:
        """Record that a request is about to be sent; the request waits until this returns.

        Called before each attempt of a request that must not be repeated blindly (with a
        transition or `if_match`), or that must be repeated unchanged (merged updates). An
        exception, best a `CognigyError`, fails the update without sending it.

        Args:
            indexes: updates that the request carries.
            key: its `Idempotency-Key`, without the number of a part.
            etag: the `If-Match` of the request, None if it has none. Sent again with a strong one,
                it is applied once at most.
        """
        ...

    def retrying(self, index: int, reason: str, seconds: float) -> None:
        """Record that a failed request is repeated after `seconds`. Must not raise.

        `reason` is one of those of `MetricsSnapshot.retries`.
        """
        ...

    def published(self, index: int, callback: str) -> DeliveryReceipt | None:
        """Record that the event of a completed update was queued for a callback. Must not raise.

        Called before the outcome is read, with the callback's name as in the log. The returned
        receipt is called in the event loop and must not raise; it is called even if the client is
        closed before that.
        """
        ...


Callback: TypeAlias = Callable[[UpdateEvent], Awaitable[object] | object]
"""An async function, or a plain one, which runs in a worker thread; called with each event."""

DeadLetterHandler: TypeAlias = Callable[[DeadLetter], Awaitable[object] | object]
