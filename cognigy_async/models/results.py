"""Results of a client: update results and outcomes, dialog states, the report of `aclose`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic_core import from_json

from ..errors import CognigyError
from .update import StateUpdate


class UpdateResult:
    """The result of an applied update.

    Attributes:
        dialog_id: id of the dialog.
        update_id: id of the update.
        status: HTTP status of the last response, 2xx.
        etag: version of the state after the update, for `if_match`; None without an etag.
        attempts: number of requests that the client made for the update, including reads.
        latency: seconds from the first request of the update to the last response.
        queued: seconds from the acceptance of the update to its first request.
        merged: number of updates in the same request; 1 if the update was not coalesced.
    """

    __slots__ = (
        "_body",
        "_carried_by",
        "_content",
        "_versioned",
        "attempts",
        "dialog_id",
        "etag",
        "latency",
        "merged",
        "queued",
        "status",
        "update_id",
    )

    def __init__(
        self,
        dialog_id: str,
        update_id: str,
        status: int,
        etag: str | None,
        attempts: int,
        latency: float,
        queued: float,
        content: bytes,
        merged: int = 1,
        carried_by: str | None = None,
        versioned: bool = True,
    ) -> None:
        self.dialog_id = dialog_id
        self.update_id = update_id
        self.status = status
        self.etag = etag
        self.attempts = attempts
        self.latency = latency
        self.queued = queued
        self.merged = merged
        self._carried_by = carried_by
        self._content: bytes | None = content
        self._body: Any = None
        self._versioned = versioned

    @property
    def body(self) -> Any:
        """The JSON body of the last response; None if it is empty, unusable or not JSON."""
        if self._content is not None:
            self._body = parse_json(self._content)
            self._content = None
        return self._body

    @property
    def carried_by(self) -> str:
        """The `Idempotency-Key` of the request, without the number of a part."""
        return self._carried_by if self._carried_by is not None else self.update_id

    def share(self, update_id: str, queued: float, merged: int) -> UpdateResult:
        """Return the result of one of the `merged` updates that the request carried."""
        return UpdateResult(
            self.dialog_id,
            update_id,
            self.status,
            self.etag,
            self.attempts,
            self.latency,
            queued,
            self._content or b"",
            merged,
            self.carried_by,
            self._versioned,
        )

    @property
    def version(self) -> int | None:
        """The version number of the state after the update; None if the server sent none."""
        # Without versions, `version` in the body may be a variable.
        return version_of(self.body) if self._versioned else None

    def __repr__(self) -> str:
        return (
            f"<UpdateResult {self.update_id} dialog={self.dialog_id!r} status={self.status} "
            f"etag={self.etag} attempts={self.attempts} latency={self.latency:.3f}s>"
        )


def parse_json(content: bytes) -> Any:
    """Return the parsed JSON; None if the content is empty or not JSON."""
    try:
        return from_json(content) if content else None
    except ValueError:
        return None


def version_of(body: Any) -> int | None:
    """Return the version number of a state in a response body; None if it has none."""
    version = body.get("version") if isinstance(body, dict) else None
    return version if type(version) is int else None


@dataclass(slots=True, eq=False)
class UpdateOutcome:
    """The outcome of one input of `update_many`: a result or an error.

    Attributes:
        index: position in the input, from 0.
        update: the update; None if the input was invalid.
        update_id: the id of the update; None if the input was invalid.
        result: result of the update if the server applied it, else None.
        error: error of the update if it failed, else None.
    """

    index: int
    update: StateUpdate | None
    update_id: str | None
    result: UpdateResult | None
    error: CognigyError | None

    @property
    def ok(self) -> bool:
        """True if the update was applied."""
        return self.error is None

    def __repr__(self) -> str:
        dialog_id = self.update.dialog_id if self.update else None
        outcome = "ok" if self.ok else type(self.error).__name__
        return f"<UpdateOutcome {self.index} dialog={dialog_id!r} {outcome}>"


@dataclass(frozen=True, slots=True, repr=False)
class DrainReport:
    """Numbers of the outcomes that `UpdateStream.drain` read.

    Attributes:
        applied: number of updates that the server applied.
        failed: number of updates that the server did not apply, including invalid inputs.
        ambiguous: number of updates that the server may or may not have applied.
        failures: the first 100 outcomes that are not `ok`, in the order of completion.
    """

    applied: int
    failed: int
    ambiguous: int
    failures: tuple[UpdateOutcome, ...]

    def __repr__(self) -> str:
        return (
            f"<DrainReport {self.applied} applied, {self.failed} failed, "
            f"{self.ambiguous} ambiguous>"
        )


@dataclass(frozen=True, slots=True, repr=False)
class DialogState:
    """The state of a dialog on the server.

    Attributes:
        dialog_id: id of the dialog.
        session: session variables by name.
        user: user variables by name.
        next_step: flow node of the last transition; None if the server sent no node.
        etag: version of the state, for `if_match`; None if the server sent no etag.
        version: version number of the state; None if the server sent no version.
    """

    dialog_id: str
    session: Mapping[str, Any]
    user: Mapping[str, Any]
    next_step: str | None
    etag: str | None
    version: int | None

    def __repr__(self) -> str:
        return (
            f"<DialogState dialog={self.dialog_id!r} etag={self.etag} "
            f"{len(self.session)} session and {len(self.user)} user variables>"
        )


@dataclass(frozen=True, slots=True)
class CloseReport:
    """Totals of a client, returned by `aclose`.

    Attributes:
        applied: number of updates that the server applied.
        failed: number of updates that the server did not apply.
        ambiguous: number of updates that the server may or may not have applied.
        unsent: accepted updates that the client did not send, in order for each dialog. Another
            client can send these updates unchanged.
        undelivered: events that the client passed to the dead-letter handlers.
    """

    applied: int
    failed: int
    ambiguous: int
    unsent: tuple[StateUpdate, ...]
    undelivered: int

    def __repr__(self) -> str:
        return (
            f"<CloseReport {self.applied} applied, {self.failed} failed, "
            f"{self.ambiguous} ambiguous, {len(self.unsent)} unsent, "
            f"{self.undelivered} events undelivered>"
        )


Decide = Callable[[DialogState], Mapping[str, Any] | None]
"""A function for `modify`: takes the state, returns an assignment, or None to write nothing."""
