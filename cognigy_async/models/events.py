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
        dialog_id: id of the dialog.
        update_id: id of the update, the same for all calls with this event.
        update: the written update; None for a reset, for `create_profile` and `update_profile`, or
            if `modify` failed before it had an update.
        result: result of the update if the server applied it, else None.
        error: error of the update if it failed, else None.
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
        """The update as a JSON object, a new copy at each access: the changes, not the whole state.

        Its members are ``session`` and ``user``, the variables by name, and ``transition``, for
        example ``{"nextStep": "process_checkout"}``, and ``inject`` or ``notify``, the message. A
        member that the update does not have is missing. Without an `update` it is empty.
        `update.next_step` is the node alone.
        """
        return self.update.payload() if self.update is not None else {}

    def __repr__(self) -> str:
        outcome = "applied" if self.error is None else type(self.error).__name__
        return f"<UpdateEvent {self.update_id} dialog={self.dialog_id!r} {outcome}>"


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """An event that a callback did not handle.

    Attributes:
        event: the event that the callback did not handle.
        error: the reason. `error.__cause__` is the last exception of the callback, if any.
        attempts: number of calls of the callback with this event.
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

        The client calls this before each attempt of a request that must not be repeated blindly:
        with a transition, `if_match`, a message, or variables that the server may merge or drop.
        It also calls this before a request with merged updates, which must be repeated unchanged.
        An exception, best a `CognigyError`, fails the update without sending it.

        Args:
            indexes: indexes of the updates in the request.
            key: the `Idempotency-Key` of the request, without the number of a part.
            etag: the `If-Match` of the request, None if the request has no `If-Match`. A request
                that is sent again with a strong etag is applied at most once.
        """
        ...

    def retrying(self, index: int, reason: str, seconds: float, applied_parts: int) -> None:
        """Record that a failed request is repeated after `seconds`. Must not raise.

        `reason` is one of those of `MetricsSnapshot.retries`. `applied_parts` is the number of
        requests of the update that were applied before.
        """
        ...

    def published(self, index: int, callback: str) -> DeliveryReceipt | None:
        """Record that the event of a completed update was queued for a callback. Must not raise.

        The client calls this before the outcome is read, with the callback's name as in the log.
        The client then calls the returned receipt in the event loop, even if the client is closed
        before the callback is done. The receipt must not raise.
        """
        ...


Callback: TypeAlias = Callable[[UpdateEvent], Awaitable[object] | object]
"""An async function, or a plain one, which runs in a worker thread; called with each event."""

DeadLetterHandler: TypeAlias = Callable[[DeadLetter], Awaitable[object] | object]
