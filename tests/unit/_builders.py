"""Small makers of the values that many unit tests start from."""

from __future__ import annotations

import json
from contextvars import copy_context
from datetime import UTC, datetime
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st

from cognigy_async import AuditRecord, Request, Response, RetryPolicy, StateUpdate
from cognigy_async.engine.work_item import Kind, Modification, Reading, SendOptions, WorkItem
from cognigy_async.models.results import Decide

unhurried = settings(deadline=None)
"""A machine that is busy with something else must not fail a property."""

CANARY = "c4n4ry-5f0e"
"""Stands for a value that no message may repeat."""


class Heard:
    """A sink that keeps what it was told."""

    def __init__(self) -> None:
        self.work_items: list[WorkItem] = []

    def notify(self, item: WorkItem, /) -> None:
        self.work_items.append(item)


def update(dialog_id: str = "d-1", /, **fields: Any) -> StateUpdate:
    """An update of one variable, unless told otherwise."""
    return StateUpdate(dialog_id=dialog_id, **(fields or {"session": {"a": 1}}))


def item(
    kind: Kind = Kind.ASSIGN,
    dialog_id: str = "d-1",
    *,
    serial: int = 0,
    update: StateUpdate | None = None,
    policy: RetryPolicy | None = None,
    live: bool = True,
    from_callback: bool = False,
    deadline: float | None = None,
    decide: Decide | None = None,
) -> WorkItem:
    """An entry as the client makes it, without a client."""
    if update is None and kind in (Kind.ASSIGN, Kind.STRICT):
        etag = '"7"' if kind is Kind.STRICT else None
        update = StateUpdate(dialog_id=dialog_id, session={"a": 1}, if_match=etag)
    made = WorkItem(
        kind,
        dialog_id,
        f"u-{serial}",
        update,
        serial,
        SendOptions(policy or RetryPolicy(), 15.0, deadline, live),
        Heard(),
    )
    made.context = copy_context()
    made.from_callback = from_callback
    if decide is not None:
        made.modification = Modification(decide)
    elif kind is Kind.READ:
        made.reading = Reading()
    return made


def audit_record(number: int = 0, /, **changes: Any) -> AuditRecord:
    """A record as a client makes it."""
    fields: dict[str, Any] = {
        "timestamp": datetime(2026, 1, 2, 3, 4, 5, number, UTC),
        "update_id": f"u-{number}",
        "dialog_id": "d-1",
        "outcome": "applied",
        "payload_sha256": "ab" * 32,
        "payload_bytes": 20,
        "variables": ("session.a",),
        "status": 200,
        "attempts": 1,
        "latency_ms": 1.5,
        "summary": "applied",
        "metadata": {"who": "me"},
    }
    return AuditRecord(**fields | changes)


def response(status: int = 200, body: object = None, /, **headers: str) -> Response:
    """An answer; header names are written with underscores, a body that is not bytes is JSON."""
    content = (
        body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    )
    return Response(
        status, {name.replace("_", "-"): text for name, text in headers.items()}, content
    )


def request(content: bytes = b"", /, **headers: str) -> Request:
    """A write, with headers written as for `response`."""
    named = {name.replace("_", "-"): text for name, text in headers.items()}
    return Request("PATCH", "http://server/state", named, content)


def levels(depth: int, innermost: Any = 1, *, of: type = list) -> Any:
    """A value with so many levels of objects or lists."""
    value = innermost
    for _ in range(depth):
        value = [value] if of is list else {"k": value}
    return value


scalars = (
    st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
)


def _containers(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)


_third = scalars | st.none() | _containers(scalars | st.none())
_second = scalars | st.none() | _containers(_third)
values = scalars | _containers(_second)
"""What one variable may hold under the default limits: up to three levels, None only inside."""

names = (st.from_regex(r"[a-z]{1,2}[0-9]?", fullmatch=True) | st.text(max_size=3)).filter(
    lambda name: name.isidentifier() and not name.startswith(("_cognigy", "_session", "_user"))
)
variables = st.dictionaries(names, values, max_size=4)
