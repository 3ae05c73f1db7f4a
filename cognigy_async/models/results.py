"""The values that come out: results, outcomes, states, the report of a close."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic_core import from_json

from ..errors import CognigyError
from .update import StateUpdate


class UpdateResult:
    """An update that was applied.

    Attributes:
        dialog_id, update_id: which update.
        status: HTTP status of the answer, 2xx.
        etag: version of the state after it, as `if_match` takes it; None where none was sent.
        attempts: requests made for it, reads included.
        latency: seconds from its first request to its answer, waits between included.
        queued: seconds from its acceptance to its first request.
        merged: how many updates its request carried, 1 where nothing was coalesced.
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
        """The parsed answer, to the last request of several; None where it is empty or no JSON."""
        if self._content is not None:
            self._body = parse_json(self._content)
            self._content = None
        return self._body

    @property
    def carried_by(self) -> str:
        """The `Idempotency-Key` of its request, without the number of a part."""
        return self._carried_by if self._carried_by is not None else self.update_id

    def share(self, update_id: str, queued: float, merged: int) -> UpdateResult:
        """The same result for one of `merged` updates that its request carried."""
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
            versioned=self._versioned,
        )

    @property
    def version(self) -> int | None:
        """The state's version number after the update, where the server tells it."""
        # Elsewhere a variable may have that name.
        return version_of(self.body) if self._versioned else None

    def __repr__(self) -> str:
        return (
            f"<UpdateResult {self.update_id} dialog={self.dialog_id!r} status={self.status} "
            f"etag={self.etag} attempts={self.attempts} latency={self.latency:.3f}s>"
        )


def parse_json(content: bytes) -> Any:
    """JSON, or None where it is none."""
    try:
        return from_json(content) if content else None
    except ValueError:
        return None


def version_of(body: Any) -> int | None:
    """The version number that an answer tells."""
    version = body.get("version") if isinstance(body, dict) else None
    return version if type(version) is int else None


@dataclass(slots=True, eq=False)
class UpdateOutcome:
    """What became of one input of `update_many`: a result or an error.

    Attributes:
        index: position in the input, from 0.
        update: the input; None where it was not a valid update.
        update_id: the id it was sent with; None where it was not valid.
    """

    index: int
    update: StateUpdate | None
    update_id: str | None
    result: UpdateResult | None
    error: CognigyError | None

    @property
    def ok(self) -> bool:
        """Whether it was applied."""
        return self.error is None

    def __repr__(self) -> str:
        dialog_id = self.update.dialog_id if self.update else None
        told = "ok" if self.ok else type(self.error).__name__
        return f"<UpdateOutcome {self.index} dialog={dialog_id!r} {told}>"


@dataclass(frozen=True, slots=True, repr=False)
class DialogState:
    """The state of a dialog as the server has it."""

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
    """What a client did in its life, told by `aclose`.

    Attributes:
        applied, failed, ambiguous: settled updates by outcome.
        unsent: updates that were accepted and not sent, in the order of acceptance of each dialog;
            they can be given to another client as they are.
        undelivered: events that no callback took.
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
"""The function that `modify` is given: from the state to an assignment, or None for no write."""
