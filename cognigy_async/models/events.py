"""The records that callbacks are given: frozen, one for each settled update."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

from ..errors import CallbackError, CognigyError
from .results import UpdateResult
from .update import StateUpdate


@dataclass(frozen=True, slots=True, repr=False)
class UpdateEvent:
    """An update that settled.

    Attributes:
        dialog_id, update_id: which update.
        update: what was written; None for a reset, and where a `modify` failed before it decided.
        result: of an update that was applied, else None.
        error: of an update that failed, else None.
        metadata: what the caller said about it.
    """

    dialog_id: str
    update_id: str
    update: StateUpdate | None
    result: UpdateResult | None
    error: CognigyError | None
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def payload(self) -> dict[str, Any]:
        """The object that was sent: `session`, `user`, `transition`. A new copy at each access."""
        return self.update.payload() if self.update is not None else {}

    def __repr__(self) -> str:
        told = "applied" if self.error is None else type(self.error).__name__
        return f"<UpdateEvent {self.update_id} dialog={self.dialog_id!r} {told}>"


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """An event that a callback did not take.

    Attributes:
        event: the event.
        error: why; its `__cause__` is what the callback raised last, if it was called.
        attempts: how often the callback was called with it.
    """

    event: UpdateEvent
    error: CallbackError
    attempts: int


DeliveryReceipt: TypeAlias = Callable[[CallbackError | None, int], None]
"""Called once when a callback is done with an event, with the number of calls: None where it took
it, else why it did not."""


class UpdateWatch(Protocol):
    """Looks on while updates are under way; an index is a position in `update_many`, -1 in others.

    For programs that keep a record which has to survive them, as a job with a journal does.
    """

    async def before_send(self, indexes: tuple[int, ...], key: str, etag: str | None) -> None:
        """A request is about to be sent, and waits for this, before each of its attempts.

        Called for what must not be repeated blindly, which is a request with a transition or with
        `if_match`, and for what has to be repeated as it was: a request that carries several
        updates. What it raises fails the update, which is not sent then; let it be a
        `CognigyError`.

        Args:
            indexes: of the updates that the request carries.
            key: its `Idempotency-Key`, without the number of a part.
            etag: the version of the state that is known from before, None where none is. If the
                state still has it later, the request was not applied.
        """
        ...

    def retrying(self, index: int, reason: str, seconds: float) -> None:
        """A request failed and is repeated after so many seconds; `reason` as in `Metrics.retries`.

        It must not raise.
        """
        ...

    def published(self, index: int, callback: str) -> DeliveryReceipt | None:
        """An update has settled, and its event has a place with this callback, named as in the log.

        Called before the outcome is read. What it returns is called in the event loop, also where
        the client is closed meanwhile; None to hear nothing. Neither must raise.
        """
        ...


Callback: TypeAlias = Callable[[UpdateEvent], Awaitable[object] | object]
"""Called with each event: an async function, or a plain one, which runs in a worker thread."""

DeadLetterHandler: TypeAlias = Callable[[DeadLetter], Awaitable[object] | object]
