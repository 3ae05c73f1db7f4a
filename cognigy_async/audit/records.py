"""What an audit tells of an update. It names variables and never tells a value."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from operator import attrgetter
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

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
from ..models.limits import encode
from ..models.results import parse_json, version_of

if TYPE_CHECKING:
    from ..engine.work_item import WorkItem
    from ..models.http import Request
    from ..models.results import UpdateResult

ENCODER = f"pydantic_core {pydantic_core.__version__}"
LONGEST_SUMMARY = 100
NO_HEADERS: Mapping[str, str] = MappingProxyType({})
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
        told = dict(zip(NAMES, _attributes(self), strict=True))
        told["metadata"] = dict(self.metadata)
        return told


NAMES = tuple(one.name for one in fields(AuditRecord))
_attributes = attrgetter(*NAMES)


def canonical(payload: object) -> bytes:
    """The JSON that is hashed: no white space, the keys of all objects sorted by code point."""
    return encode(_sorted(payload))


class Draft(NamedTuple):
    """What is kept of a settled update until a thread makes its record: as little as may be.

    What another thread holds, and lets go of, costs the event loop more than this does.
    """

    at: float
    """When it settled, in seconds of the epoch."""
    now: float
    """The same by the clock of `accepted_at` and `sent_at`."""
    accepted_at: float
    sent_at: float | None
    update_id: str
    dialog_id: str
    metadata: Mapping[str, str]
    body: bytes | None
    attempts: int
    part: int
    error: BaseException | None
    status: int | None
    """Of an update that was applied, as what follows."""
    latency: float
    etag: str | None
    trace_id: str | None
    request: Request | None
    """Where there is a trace id, which must repeat nothing of it."""
    answer: UpdateResult | None
    """Where it may tell a version because there is no etag."""


def draft_of(item: WorkItem, at: float, now: float) -> Draft:
    """What to keep of an entry that settled."""
    update, result = item.update, item.result
    status = etag = trace_id = None
    latency = 0.0
    if result is not None:
        status, latency, etag = result.status, result.latency, result.etag
        headers = item.headers or NO_HEADERS
        trace_id = headers.get("x-trace-id") or headers.get("x-request-id")
    return Draft(
        at,
        now,
        item.accepted_at,
        item.sent_at,
        item.update_id,
        item.dialog_id,
        item.metadata,
        update._body if update is not None else None,
        item.attempts,
        item.part,
        item.error,
        status,
        latency,
        etag,
        trace_id,
        item.requests[-1] if trace_id and item.requests else None,
        result if etag is None else None,
    )


def record_of(draft: Draft) -> AuditRecord:
    """The record of an update that settled."""
    body, error, status, began = draft.body, draft.error, draft.status, draft.sent_at
    payload: dict[str, Any] = from_json(body) if body is not None else {}
    if began is None:
        waited, lasted = draft.now - draft.accepted_at, None
    else:
        waited = began - draft.accepted_at
        lasted = _milliseconds(draft.now - began if status is None else draft.latency)
    return AuditRecord(
        timestamp=datetime.fromtimestamp(draft.at, UTC),
        update_id=draft.update_id,
        dialog_id=draft.dialog_id,
        outcome=_outcome(draft),
        payload_sha256=hashlib.sha256(canonical(payload)).hexdigest() if body is not None else None,
        payload_bytes=len(body) if body is not None else 0,
        variables=tuple(
            f"{context}.{name}"
            for context in ("session", "user")
            for name in payload.get(context, ())
        ),
        error=type(error).__name__ if error is not None else None,
        status=status if status is not None else getattr(error, "status", None),
        attempts=draft.attempts,
        latency_ms=lasted,
        queue_ms=_milliseconds(waited),
        etag=draft.etag,
        version=_version(draft.answer) if draft.answer is not None else None,
        trace_id=_trace_id(draft),
        summary=_summary(draft),
        metadata=dict(draft.metadata),
    )


def _sorted(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _sorted(item) for name, item in sorted(value.items())}
    if isinstance(value, list):
        return [_sorted(item) for item in value]
    return value


def _milliseconds(seconds: float) -> float:
    return max(0, round(seconds * 1e6)) / 1e3


def _outcome(
    draft: Draft,
) -> Literal["applied", "failed", "ambiguous", "withdrawn", "not_sent", "unchanged"]:
    error = draft.error
    if error is None:
        return "applied" if draft.status is not None else "unchanged"
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
    return version_of(parse_json(content) if content is not None else result._body)


def _trace_id(draft: Draft) -> str | None:
    if isinstance(draft.error, UpdateError):
        return draft.error.trace_id
    trace_id, request = draft.trace_id, draft.request
    if not trace_id or request is None or not TRACE_ID(trace_id):
        return None
    return None if PrivateValues(request).occur_in(trace_id, is_id=True) else trace_id


def _summary(draft: Draft) -> str:
    error = draft.error
    if draft.status is not None:
        done = "applied" if draft.body is not None else "reset"
        told = f"{done}: HTTP {draft.status}, attempts: {draft.attempts}"
    elif error is None:
        told = "nothing to write"
    elif isinstance(error, UpdateError):
        told = error.message
    elif isinstance(error, CognigyError):
        told = str(error)
    else:
        # What a function of the caller's raises may name values.
        told = f"the function given to modify raised {type(error).__name__}"
    if draft.part and draft.status is None:
        told = f"{draft.part} parts applied: {told}"
    return told if len(told) <= LONGEST_SUMMARY else f"{told[: LONGEST_SUMMARY - 3]}..."
