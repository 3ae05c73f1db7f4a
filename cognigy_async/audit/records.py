"""What an audit tells of an update. It names variables and never tells a value."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

import pydantic_core
from pydantic_core import from_json

from ..entries import Kind
from ..errors import (
    AmbiguousUpdateError,
    ClientClosedError,
    CognigyError,
    UpdateError,
    UpdateWithdrawnError,
)
from ..limits import encode
from ..models import parse, version_in

if TYPE_CHECKING:
    from ..entries import Entry
    from ..models import UpdateResult

__all__ = ["AuditRecord", "canonical", "record_of"]

ENCODER = f"pydantic_core {pydantic_core.__version__}"
LONGEST_SUMMARY = 100
TRACE_ID = re.compile(r"[\x21-\x7e]{1,128}").fullmatch


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditRecord:
    """One settled update.

    Attributes:
        timestamp: when it settled, UTC by the clock of this machine.
        update_id, dialog_id: which update.
        outcome: ``applied``, ``failed``, ``ambiguous`` (sent, and nobody can tell), ``withdrawn``
            (taken back before it was sent), ``not_sent`` (the client was closed before), or
            ``unchanged`` (a `modify` that decided to write nothing).
        payload_sha256: of the payload as JSON without white space, the keys of all objects sorted,
            UTF-8; None where a `modify` failed before it decided. Equal for equal payloads under
            one `encoder`.
        payload_bytes: size of the payload as it was sent.
        encoder: what made the JSON, with its version.
        variables: names like ``session.cart_total``; never values.
        error: name of the exception's class, None without one.
        status: of the last HTTP answer, None without one.
        attempts: requests made for it, reads included.
        latency_ms: milliseconds from its first request to its settlement; None if it had none.
        queue_ms: milliseconds from its acceptance to its first request, or to its settlement.
        etag, version: of the state after it; `version` only where the server told no etag.
        trace_id: the server's name for the last request, where it told one.
        summary: what came of it, at most 100 characters.
        metadata: what the caller said about it.
    """

    timestamp: datetime
    update_id: str
    dialog_id: str
    outcome: Literal["applied", "failed", "ambiguous", "withdrawn", "not_sent", "unchanged"]
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
        """Name and value of each attribute."""
        told = {name: getattr(self, name) for name in NAMES}
        told["metadata"] = dict(self.metadata)
        return told


NAMES = tuple(one.name for one in fields(AuditRecord))


def canonical(payload: object) -> bytes:
    """The JSON that is hashed: no white space, the keys of all objects sorted by code point."""
    return encode(_sorted(payload))


def record_of(entry: Entry, at: float, now: float) -> AuditRecord:
    """The record of an entry that settled: `at` in seconds of the epoch, `now` by its own clock."""
    update, result, error = entry.update, entry.result, entry.error
    body = update._body if update is not None else None
    payload: dict[str, Any] = from_json(body) if body is not None else {}
    etag = result.etag if result is not None else None
    began = entry.sent_at
    waited = (now if began is None else began) - entry.accepted_at
    lasted = None if began is None else now - began if result is None else result.latency
    return AuditRecord(
        timestamp=datetime.fromtimestamp(at, UTC),
        update_id=entry.update_id,
        dialog_id=entry.dialog_id,
        outcome=_outcome(entry),
        payload_sha256=hashlib.sha256(canonical(payload)).hexdigest() if body is not None else None,
        payload_bytes=len(body) if body is not None else 0,
        variables=tuple(
            f"{context}.{name}"
            for context in ("session", "user")
            for name in payload.get(context, ())
        ),
        error=type(error).__name__ if error is not None else None,
        status=result.status if result is not None else getattr(error, "status", None),
        attempts=entry.attempts,
        latency_ms=None if lasted is None else _milliseconds(lasted),
        queue_ms=_milliseconds(waited),
        etag=etag,
        version=_version(result) if result is not None and etag is None else None,
        trace_id=_trace_id(entry),
        summary=_summary(entry),
        metadata=dict(entry.metadata),
    )


def _sorted(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _sorted(value[name]) for name in sorted(value)}
    if isinstance(value, list):
        return [_sorted(item) for item in value]
    return value


def _milliseconds(seconds: float) -> float:
    return round(max(0.0, seconds) * 1e3, 3)


def _outcome(
    entry: Entry,
) -> Literal["applied", "failed", "ambiguous", "withdrawn", "not_sent", "unchanged"]:
    error = entry.error
    if error is None:
        return "applied" if entry.result is not None else "unchanged"
    if isinstance(error, AmbiguousUpdateError):
        return "ambiguous"
    if isinstance(error, UpdateWithdrawnError):
        return "withdrawn"
    return "not_sent" if isinstance(error, ClientClosedError) else "failed"


def _version(result: UpdateResult) -> int | None:
    if not result._versioned:
        return None
    # `result.body` replaces what it has not yet parsed, and its owner may do so at this moment.
    content = result._content
    return version_in(parse(content) if content is not None else result._body)


def _trace_id(entry: Entry) -> str | None:
    if isinstance(entry.error, UpdateError):
        return entry.error.trace_id
    headers = entry.headers or {}
    trace_id = headers.get("x-trace-id") or headers.get("x-request-id")
    return trace_id if trace_id and TRACE_ID(trace_id) else None


def _summary(entry: Entry) -> str:
    result, error = entry.result, entry.error
    if result is not None:
        told = f"applied: HTTP {result.status}, attempts: {entry.attempts}"
    elif error is None:
        told = "nothing to write"
    elif isinstance(error, UpdateError):
        told = error.message
    elif isinstance(error, CognigyError):
        told = str(error)
    else:
        # What a function of the caller's raises may name values.
        told = f"the function given to modify raised {type(error).__name__}"
    if entry.part and entry.kind is not Kind.READ and result is None:
        told = f"{entry.part} parts applied: {told}"
    return told if len(told) <= LONGEST_SUMMARY else f"{told[: LONGEST_SUMMARY - 3]}..."
