"""`AuditRecord`: one completed update, with the names of its variables but without values."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import pydantic_core
from pydantic_core import from_json

from ..api.redaction import PrivateValues
from ..errors import (
    AmbiguousUpdateError,
    ClientClosedError,
    CognigyError,
    UpdateError,
    UpdateWithdrawnError,
)
from ..models.results import parse_json, version_of
from ..models.variables import encode

if TYPE_CHECKING:
    from ..models.results import UpdateResult
    from .completed_update import CompletedUpdate

ENCODER = f"pydantic_core {pydantic_core.__version__}"
MAX_SUMMARY = 100
"""Maximum number of characters of a summary."""

TRACE_ID = re.compile(r"[\x21-\x7e]{1,128}").fullmatch

AuditOutcome: TypeAlias = Literal[
    "applied", "failed", "ambiguous", "withdrawn", "not_sent", "unchanged"
]


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditRecord:
    """One completed update.

    Attributes:
        timestamp: time of completion, UTC by the clock of this machine.
        update_id: id of the update.
        dialog_id: id of the dialog.
        outcome: `applied`, `failed`, `ambiguous` (sent, result unknown), `withdrawn` (withdrawn
            before it was sent), `not_sent` (the client closed before it was sent), or `unchanged`
            (the function of `modify` returned None).
        payload_sha256: hash of the payload as UTF-8 JSON without white space and with sorted keys;
            None for a `modify` that failed before it had a payload. Equal payloads have equal
            hashes if `encoder` is the same.
        payload_bytes: size of the payload as it was sent.
        encoder: library that made the JSON, with its version.
        variables: names like `session.cart_total`, never values.
        error: class name of the exception; None without an exception.
        status: status of the last HTTP response; None without a response.
        attempts: number of requests for the update, including reads.
        latency_ms: milliseconds from the first request to completion; None if nothing was sent.
        queue_ms: milliseconds from acceptance to the first request, or to completion.
        etag: etag of the new state; None without an etag.
        version: version of the new state, only if the response had no etag; else None.
        trace_id: the server's id of the last request; None without an id.
        summary: description of the outcome, at most 100 characters.
        metadata: texts that the caller passed with the update.
    """

    timestamp: datetime
    update_id: str
    dialog_id: str
    outcome: AuditOutcome
    payload_sha256: str | None
    payload_bytes: int
    encoder: str = ENCODER
    variables: tuple[str, ...]
    error: str | None = None
    status: int | None = None
    attempts: int = 0
    latency_ms: float | None = None
    queue_ms: float = 0.0
    etag: str | None = None
    version: int | None = None
    trace_id: str | None = None
    summary: str
    metadata: Mapping[str, str] = field(default_factory=dict)

    def fields(self) -> dict[str, Any]:
        """Return name and value of each attribute."""
        values = dict(zip(NAMES, _attributes(self), strict=True))
        values["metadata"] = dict(self.metadata)
        return values


NAMES = tuple(one.name for one in fields(AuditRecord))
_attributes = attrgetter(*NAMES)


def record_of(update: CompletedUpdate) -> AuditRecord:
    """Return the record of a completed update."""
    payload, error, status, sent_at = update.payload, update.error, update.status, update.sent_at
    content: dict[str, Any] = from_json(payload) if payload is not None else {}
    if sent_at is None:
        queued, latency = update.completed_at - update.accepted_at, None
    else:
        queued = sent_at - update.accepted_at
        seconds = update.completed_at - sent_at if status is None else update.latency
        latency = _milliseconds(seconds)
    return AuditRecord(
        timestamp=datetime.fromtimestamp(update.timestamp, UTC),
        update_id=update.update_id,
        dialog_id=update.dialog_id,
        outcome=_outcome(update),
        payload_sha256=(
            hashlib.sha256(encode(_sorted(content))).hexdigest() if payload is not None else None
        ),
        payload_bytes=len(payload) if payload is not None else 0,
        variables=tuple(
            f"{context}.{name}"
            for context in ("session", "user", "profile")
            for name in content.get(context, ())
        ),
        error=type(error).__name__ if error is not None else None,
        status=status if status is not None else getattr(error, "status", None),
        attempts=update.attempts,
        latency_ms=latency,
        queue_ms=_milliseconds(queued),
        etag=update.etag,
        version=_version(update.result) if update.result is not None else None,
        trace_id=_trace_id(update),
        summary=_summary(update),
        metadata=dict(update.metadata),
    )


def _sorted(value: Any) -> Any:
    """Return a JSON value with the keys of all objects sorted by code point."""
    if isinstance(value, dict):
        return {name: _sorted(item) for name, item in sorted(value.items())}
    if isinstance(value, list):
        return [_sorted(item) for item in value]
    return value


def _milliseconds(seconds: float) -> float:
    return max(0, round(seconds * 1e6)) / 1e3


def _outcome(update: CompletedUpdate) -> AuditOutcome:
    error = update.error
    if error is None:
        return "applied" if update.status is not None else "unchanged"
    if isinstance(error, AmbiguousUpdateError):
        return "ambiguous"
    if isinstance(error, UpdateWithdrawnError):
        return "withdrawn"
    return "not_sent" if isinstance(error, ClientClosedError) else "failed"


def _version(result: UpdateResult) -> int | None:
    if not result._versioned:
        return None
    # Do not read `result.body`: its owner may be parsing it in another thread at this moment.
    content = result._content
    return version_of(parse_json(content) if content is not None else result._body)


def _trace_id(update: CompletedUpdate) -> str | None:
    """Return the trace id, unless it is malformed or repeats a part of the request."""
    if isinstance(update.error, UpdateError):
        return update.error.trace_id
    trace_id, request = update.trace_id, update.request
    if not trace_id or request is None or not TRACE_ID(trace_id):
        return None
    return None if PrivateValues(request).occur_in(trace_id, is_id=True) else trace_id


def _summary(update: CompletedUpdate) -> str:
    error = update.error
    if update.status is not None:
        done = "applied" if update.payload is not None else "reset"
        text = f"{done}: HTTP {update.status}, attempts: {update.attempts}"
    elif error is None:
        text = "nothing to write"
    elif isinstance(error, UpdateError):
        text = error.message
    elif isinstance(error, CognigyError):
        text = str(error)
    else:
        # The message of any other exception may contain values of variables.
        text = f"the function given to modify raised {type(error).__name__}"
    if update.parts_applied and update.status is None:
        text = f"{update.parts_applied} parts applied: {text}"
    return text if len(text) <= MAX_SUMMARY else f"{text[: MAX_SUMMARY - 3]}..."
