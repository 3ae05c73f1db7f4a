"""Define what a client needs of a durable outbox: a record before each update, and one after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from ..errors import OutboxError
    from ..metrics import TargetStatus
    from ..models.events import UpdateEvent
    from ..models.limits import Limits
    from ..models.update import StateUpdate

RESEND_WITHIN = 30.0
"""Seconds after its intent in which an update is sent again if its dialog cannot be read."""


class Intent(NamedTuple):
    """An update that is about to be sent.

    Attributes:
        dialog_id: id of the dialog.
        update_id: id of the update, and of its event.
        update: the update, with all that is needed to send it again.
        metadata: strings of the caller, for the event.
        key: `Idempotency-Key` of the request, without the number of a part. Updates that share a
            request have the same key.
        etag: version of the state on which the request depends, or else the last one that the
            client saw; None if it is not known.
        repeatable: False if the policy of the caller forbids sending an ambiguous update again.
        deadline: seconds of the epoch after which it must not be sent; None for never.
        recorded_at: seconds of the epoch, shortly before the first request.
    """

    dialog_id: str
    update_id: str
    update: StateUpdate
    metadata: Mapping[str, str]
    key: str
    etag: str | None
    repeatable: bool
    deadline: float | None
    recorded_at: float

    def __repr__(self) -> str:
        # Without the values of variables.
        return f"<Intent {self.update_id} dialog={self.dialog_id!r} key={self.key!r}>"


class Receipt(Protocol):
    """Waits for a record."""

    def recorded(self, error: OutboxError | None) -> None:
        """Go on: the record is written, or cannot be written. Never raises.

        Call it in the event loop of the client; a second call does nothing.
        """
        ...


class OutboxClient(Protocol):
    """The client, as an outbox sees it."""

    @property
    def limits(self) -> Limits:
        """The limits of the client, for updates that are built again from the files."""
        ...

    def resolve(self, intents: Sequence[Intent], resend_within: float = RESEND_WITHIN) -> None:
        """Find out what became of updates whose process died, in order for each dialog.

        The client calls `Outbox.settle` for each of them. Until then, later updates of its dialog
        wait. Intents that the client cannot settle before it closes stay for the next process.
        Call it in the event loop of the client. Intents of one request must come in one call.
        """
        ...


class Outbox(Protocol):
    """Records updates durably, and delivers their events to targets.

    `intend`, `settle` and `withdraw` return at once and take effect in the order of the calls. The
    receipt is called when the record is written, perhaps before `intend` or `settle` returns.
    """

    def status(self) -> tuple[TargetStatus, ...]:
        """Return the state of the deliveries to each target now. Any thread may call this."""
        ...

    async def open(self, client: OutboxClient) -> None:
        """Open the files, and call `client.resolve` with what a dead process left.

        Leaves nothing open if it raises.

        Raises:
            OutboxError: the files cannot be used.
        """
        ...

    async def run(self) -> None:
        """Write records and deliver events until cancelled. Called once, after `open`.

        If it ends before `close`, all updates without a record fail, and all later ones.
        """
        ...

    def intend(self, intents: Sequence[Intent], receipt: Receipt) -> None:
        """Record updates that share one request, before it is sent."""
        ...

    def settle(self, events: Sequence[UpdateEvent], receipt: Receipt) -> None:
        """Record the outcomes of updates, and queue their events for the targets."""
        ...

    def withdraw(self, dialog_id: str, update_ids: Sequence[str]) -> None:
        """Remove the intents of one call of `intend`, which will not be sent. Nobody waits for it.

        An update of `modify` that is decided again is withdrawn, and intended with the same id.
        """
        ...

    async def close(self, timeout: float) -> None:
        """Write what is left, let deliveries under way end within `timeout` seconds, and close.

        `run` runs meanwhile, unless it failed or was cancelled; it is cancelled afterwards.
        """
        ...
