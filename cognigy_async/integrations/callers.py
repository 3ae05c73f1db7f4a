"""Tell an invalid value of the caller from one that the application's own code passed.

A value is the caller's if the caller's request, read as an update, has the same faults. Only what
the application passed on counts: an id with the same text, and variables whose names are all in the
refused update. This is found out after a failure only, so requests that succeed cost nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
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
from cognigy_async.spi import check_message

from .problems import Problem, problem_of

FIELD_NAMES = UpdateFields.__annotations__
CONTENT = frozenset({"session", "user", "next_step", "inject", "notify"})
"""Fields of an update that reach the server as its content."""


@dataclass(frozen=True, slots=True)
class CallerInput:
    """Parts of a request that its caller chose.

    Attributes:
        texts: Parameters of the path, and of the query if they are named like a dialog id.
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
        updates = _updates_in(given, error)
        found = {fault for fields in updates for fault in _faults_of(fields, client)}
        return not found.issuperset(error.faults)
    if isinstance(error, BadRequestError):
        # The server refused a variable or a step. The caller's are those of updates in the body.
        body = _parsed(given.body)
        dialogs = {*given.texts, *(part["dialog_id"] for part in _parts(body) if _has_id(part))}
        sends_update = any(not CONTENT.isdisjoint(part) for part in _parts(body))
        return not (sends_update and error.dialog_id in dialogs)
    return False


def caller_texts(path: Iterable[object], query: Mapping[str, str]) -> list[str]:
    """Return the parameters that may be dialog ids: those of the path, and `dialog_id`."""
    named = [text for name, text in query.items() if _plain_name(name) == "dialogid"]
    return [*map(str, path), *named]


def _plain_name(name: str) -> str:
    return name.replace("_", "").replace("-", "").casefold()


def _updates_in(given: CallerInput, error: UpdateValidationError) -> Iterator[dict[str, Any]]:
    """Yield what the parts of a request that the refused update has are as its arguments."""
    for text in given.texts:
        if _is_dialog_of(error, text):
            yield {"dialog_id": text, "next_step": "-"}
    if given.if_match is not None:
        yield {"dialog_id": "-", "next_step": "-", "if_match": given.if_match}
    if given.idempotency_key is not None:
        yield {"dialog_id": "-", "next_step": "-", "update_id": given.idempotency_key}
    body = _parsed(given.body)
    if isinstance(body, dict) and _are_names_of(error, "session", body):
        yield {"dialog_id": "-", "session": body}
    for part in _parts(body):
        fields = {name: part[name] for name in FIELD_NAMES if name in part}
        for name in ("session", "user"):
            if not _are_names_of(error, name, fields.get(name)):
                del fields[name]
        if "dialog_id" in fields and not _is_dialog_of(error, fields["dialog_id"]):
            del fields["dialog_id"]
        if fields:
            yield {"dialog_id": "-", **fields}
        if not part.keys() <= FIELD_NAMES.keys() or "dialog_id" not in part:
            yield part  # The faults of its keys come before all others.


def _is_dialog_of(error: UpdateValidationError, given: object) -> bool:
    """Return True if an id may be that of a refused update; errors show what can be printed."""
    if isinstance(given, str) and given.isprintable() and given:
        return error.dialog_id in (given[:80], given)
    return error.dialog_id is None


def _are_names_of(error: UpdateValidationError, context: str, variables: object) -> bool:
    """Return True if a refused update has all of the variables, or if its variables are unknown."""
    if not error.names or not isinstance(variables, dict):
        return True
    return {f"{context}.{name}" for name in variables} <= error.names


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
            if client.endpoint is not None and (update.inject or update.notify):
                check_message(client.api, client.endpoint, update)
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
