"""`StateApi`: the protocol of an HTTP API of the server."""

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

MergedValues: TypeAlias = Literal["none", "objects", "objects and lists"]
"""Values that a server may merge into the earlier value of their variable."""
OptionalMethod: TypeAlias = Literal["get_state", "modify"]
"""A method of the client that an API may not support."""
ResetPart: TypeAlias = Literal["context", "state"]


class StateApi(Protocol):
    """Turns updates into requests, and responses into results or errors.

    All methods are pure: they use no network and no clock. Requests have no credentials yet.
    """

    @property
    def limits(self) -> Limits:
        """Limits of the API, used by a client without the argument `limits`."""
        ...

    @property
    def honours_idempotency_keys(self) -> bool:
        """True if the server applies each `Idempotency-Key` only once, so any retry is harmless."""
        ...

    @property
    def has_versions(self) -> bool:
        """True if a state has a version, which responses send as `ETag`."""
        ...

    @property
    def conditional_writes(self) -> bool:
        """True if the server refuses a write whose `If-Match` is not its current version."""
        ...

    @property
    def keeps_other_variables(self) -> bool:
        """True if a write keeps the variables it does not name, so that writes can be merged."""
        ...

    @property
    def merged_values(self) -> MergedValues:
        """Values that the server may merge into the earlier value, instead of replacing it."""
        ...

    @property
    def read_delay(self) -> float:
        """Seconds after a write in which a read may not show it; 0 if reads show it at once."""
        ...

    def check_use(self, use: OptionalMethod) -> None:
        """Raise `UnsupportedByApiError` if the API does not support a method of the client."""
        ...

    def check(self, update: StateUpdate) -> None:
        """Raise `UpdateValidationError` if the API cannot carry a valid update."""
        ...

    def writes(self, base_url: str, update: StateUpdate, update_id: str) -> list[Request]:
        """Return the requests of an update in the order of sending; `update_id` is the key.

        Raises:
            UpdateValidationError: the update does not fit into requests of this API.
        """
        ...

    def reset(
        self,
        base_url: str,
        dialog_id: str,
        what: ResetPart,
        user_id: str | None = None,
        flow_reference_id: str | None = None,
        entrypoint: str | None = None,
    ) -> Request:
        """Return the request that resets the context or the state of a session.

        Raises:
            UnsupportedByApiError: the API has no resets.
            UpdateValidationError: an argument is invalid.
        """
        ...

    def write_profile(self, base_url: str, profile_id: str | None, body: bytes) -> Request:
        """Return the request that updates a contact profile, or creates one if the id is None.

        Raises:
            UnsupportedByApiError: the API has no contact profiles.
            UpdateValidationError: the id is invalid.
        """
        ...

    def read(self, base_url: str, dialog_id: str) -> Request:
        """Return the request that reads a state."""
        ...

    def classify(self, response: Response) -> ResponseKind:
        """Return the kind of a response. The kind decides the next step."""
        ...

    def throttles_dialog(self, response: Response) -> bool:
        """Return True if a 429 concerns one dialog, False if it concerns the tenant."""
        ...

    def error(self, request: Request, response: Response, wall_clock: float) -> UpdateError:
        """Return the exception for a response other than a success.

        The exception must hold no value or credential of the request. `wall_clock` is in seconds
        since 1970.
        """
        ...

    def etag(self, response: Response) -> str | None:
        """Return the version of the state as `If-Match` takes it; None if there is no version."""
        ...

    def state(self, dialog_id: str, response: Response) -> DialogState | None:
        """Return the state of a successful read; None if the body is no state."""
        ...
