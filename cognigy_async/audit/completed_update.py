"""The value that the engine hands over to the audit for each completed update."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from ..models.http import Request
    from ..models.results import UpdateResult


class CompletedUpdate(NamedTuple):
    """A completed update, from which a sink's thread makes a record.

    It holds as few objects as possible: an object that another thread releases costs the event loop
    more time than copying its fields.

    Attributes:
        timestamp: time of completion, in seconds since the epoch.
        completed_at, accepted_at, sent_at: seconds of the client's clock; `sent_at` is None if no
            request was sent.
        payload: the update, or the body of a write to a contact profile, as JSON; None for a reset,
            and for a `modify` without a decision.
        attempts: number of requests made.
        parts_applied: number of requests that were applied before the last one.
        error: the exception of an update that was not applied.
        status, latency, etag, trace_id: from the response to an applied update; latency in seconds.
        request: the last request if there is a trace id, to check that the id repeats none of it.
        result: the result if there is no etag, because its body may contain a version.
    """

    timestamp: float
    completed_at: float
    accepted_at: float
    sent_at: float | None
    update_id: str
    dialog_id: str
    metadata: Mapping[str, str]
    payload: bytes | None
    attempts: int
    parts_applied: int
    error: BaseException | None
    status: int | None
    latency: float
    etag: str | None
    trace_id: str | None
    request: Request | None
    result: UpdateResult | None
