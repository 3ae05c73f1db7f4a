"""How an update becomes requests, and an answer a response_kind: the `StateApi` protocol."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias

from ..errors import UpdateError
from ..models.limits import Limits
from ..models.results import DialogState
from ..models.update import StateUpdate
from ..retry import ResponseKind

if TYPE_CHECKING:
    from ..models.http import Request, Response

__all__ = ["StateApi"]

Use: TypeAlias = Literal["get_state", "modify"]
Reset: TypeAlias = Literal["context", "state"]


class StateApi(Protocol):
    """One HTTP API of the server. All of it is pure: no network, no clock."""

    @property
    def limits(self) -> Limits:
        """What this API accepts unless the client is given other limits."""
        ...

    @property
    def honours_idempotency_keys(self) -> bool:
        """Whether the server applies one `Idempotency-Key` once, so that repeating is harmless."""
        ...

    @property
    def has_versions(self) -> bool:
        """Whether a state has a version that can be read (`ETag`) and demanded (`If-Match`)."""
        ...

    @property
    def keeps_other_variables(self) -> bool:
        """Whether a write leaves the variables alone that it does not name, so that two of them may
        be sent as one.
        """
        ...

    def check_use(self, use: Use) -> None:
        """Raise `UnsupportedByApiError` for a method of the client that cannot work."""
        ...

    def check(self, update: StateUpdate) -> None:
        """Raise `UpdateValidationError` for an update that this API cannot carry.

        It was checked against the limits already.
        """
        ...

    def writes(self, base_url: str, update: StateUpdate, update_id: str) -> list[Request]:
        """The requests that carry an update out, in order, unsigned.

        Raises:
            UpdateValidationError: it does not fit into requests of this API.
        """
        ...

    def reset(
        self,
        base_url: str,
        dialog_id: str,
        what: Reset,
        user_id: str | None = None,
        flow_reference_id: str | None = None,
        entrypoint: str | None = None,
    ) -> Request:
        """The request that puts the context or the state of a session back, unsigned.

        Raises:
            UnsupportedByApiError: this API has no resets. UpdateValidationError: bad input.
        """
        ...

    def read(self, base_url: str, dialog_id: str) -> Request:
        """The request that reads a state, unsigned."""
        ...

    def classify(self, response: Response) -> ResponseKind:
        """What an answer means for the next step."""
        ...

    def throttles_dialog(self, response: Response) -> bool:
        """Whether a 429 is the dialog's own, and not the tenant's."""
        ...

    def error(self, request: Request, response: Response, wall_clock: float) -> UpdateError:
        """An answer that is no success, as an exception; `wall_clock` is seconds of the epoch."""
        ...

    def etag(self, response: Response) -> str | None:
        """The version of the state that an answer tells, as `If-Match` takes it."""
        ...

    def state(self, dialog_id: str, response: Response) -> DialogState | None:
        """The state that a successful read tells; None where it is no state."""
        ...
