"""Tell an invalid value of the caller from one that the application's own code passed.

A value is the caller's if the caller's request, read as an update, has the same faults. This is
found out after a failure only, so that requests that succeed cost nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cognigy_async import (
    AsyncStateClient,
    BadRequestError,
    CognigyError,
    Fault,
    Limits,
    StateUpdate,
    UpdateFields,
    UpdateValidationError,
)

from .problems import Problem, problem_of

FIELD_NAMES = UpdateFields.__annotations__


@dataclass(frozen=True, slots=True)
class CallerInput:
    """Parts of a request that its caller chose.

    Attributes:
        texts: Parameters of the path and of the query.
        if_match: Header `If-Match`; None if there is none.
        body: Body, as far as the handler has read it.
        idempotency_key: Header `Idempotency-Key`; None if there is none.
    """

    texts: Sequence[str] = ()
    if_match: str | None = None
    body: bytes = b""
    idempotency_key: str | None = None


def problem_for_caller(
    error: CognigyError, given: CallerInput, client: AsyncStateClient | None
) -> Problem | None:
    """Return the response to an error, or None if the server should answer 500 and log it.

    Args:
        client: Client whose limits and API apply; None for the limits of `StateUpdate`.
    """
    if not is_mistake_of_service(error, given, client):
        return problem_of(error)
    # Cognigy.AI does not say which value it refused: it may be the caller's all the same.
    return problem_of(error, 502) if isinstance(error, BadRequestError) else None


def is_mistake_of_service(
    error: CognigyError, given: CallerInput, client: AsyncStateClient | None
) -> bool:
    """Return True if an error is due to a value that did not come from the caller.

    Args:
        client: Client whose limits and API apply; None for the limits of `StateUpdate`.
    """
    if isinstance(error, UpdateValidationError):
        found = {fault for fields in _updates_in(given) for fault in _faults_of(fields, client)}
        return not found.issuperset(error.faults)
    if isinstance(error, BadRequestError):
        # The server refused a variable or a step. The caller's are those of updates in the body.
        body = _parsed(given.body)
        dialogs = {*given.texts, *(part["dialog_id"] for part in _parts(body) if _has_id(part))}
        sends_update = any(not {"session", "user", "next_step"}.isdisjoint(p) for p in _parts(body))
        return not (sends_update and error.dialog_id in dialogs)
    return False


def _updates_in(given: CallerInput) -> Iterator[dict[str, Any]]:
    """Yield what the parts of a request are as arguments of an update."""
    for text in given.texts:
        yield {"dialog_id": text, "next_step": "-"}
    if given.if_match is not None:
        yield {"dialog_id": "-", "next_step": "-", "if_match": given.if_match}
    if given.idempotency_key is not None:
        yield {"dialog_id": "-", "next_step": "-", "update_id": given.idempotency_key}
    body = _parsed(given.body)
    if isinstance(body, dict):
        yield {"dialog_id": "-", "session": body}
    for part in _parts(body):
        yield part
        fields = {name: value for name, value in part.items() if name in FIELD_NAMES}
        if fields:
            yield {"dialog_id": "-", **fields}


def _parts(body: Any) -> Iterator[dict[str, Any]]:
    """Yield the objects in which a body may have updates: itself, its members and its items."""
    inner: Any = body if isinstance(body, list) else ()
    if isinstance(body, dict):
        yield body
        inner = body.values()
    for value in inner:
        for part in value if isinstance(value, list) else [value]:
            if isinstance(part, dict):
                yield part


def _faults_of(fields: Mapping[str, Any], client: AsyncStateClient | None) -> Sequence[Fault]:
    try:
        update = StateUpdate.from_fields(client.limits if client else Limits(), fields)
        if client is not None:
            client.api.check(update)
    except UpdateValidationError as error:
        return error.faults
    return ()


def _has_id(part: Mapping[str, Any]) -> bool:
    return isinstance(part.get("dialog_id"), str)


def _parsed(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None
