"""Updates and their outcomes as bytes, to be kept in a file and read by a later process."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic_core import from_json, to_json

from .. import errors
from ..errors import CognigyError
from .events import UpdateEvent
from .identifiers import NO_METADATA
from .limits import DEFAULT_LIMITS
from .results import UpdateResult
from .update import StateUpdate

NONE_GIVEN = (None,) * 5
PLAIN = (str, int, float, bool)
"""Types of an error's attributes that are kept."""


def dump_update(update: StateUpdate, metadata: Mapping[str, str], *facts: Any) -> bytes:
    """Return an update, its metadata and facts of its request as three lines of JSON.

    The second and the third line are the body and the message, as they are sent.

    Args:
        metadata: texts for the event.
        facts: JSON values.
    """
    own = update._metadata
    owner = (update._user_id, update._profile_id)
    given = (update._next_step, update._if_match, update._update_id, *owner)
    line: tuple[Any, ...] = (facts,)
    if own or metadata or given != NONE_GIVEN:
        line += (given, dict(own), None if metadata == own else dict(metadata))
    return b"%b\n%b\n%b" % (to_json(line), update._body, update._message or b"")


def load_update(
    dialog_id: str, content: bytes
) -> tuple[StateUpdate, dict[str, str], tuple[Any, ...]]:
    """Return what `dump_update` got: an update, its metadata, and the facts.

    Raises:
        ValueError, TypeError: the content is damaged.
    """
    line, body, message = content.split(b"\n")
    facts, *more = from_json(line)
    given, own, metadata = more or (NONE_GIVEN, {}, None)
    update = StateUpdate.__new__(StateUpdate)
    update._dialog_id = dialog_id
    update._body = body
    update._message = message or None
    # It was validated against the limits of its client.
    update._limits = DEFAULT_LIMITS
    update._next_step, update._if_match, update._update_id, *owner = given
    update._user_id, update._profile_id = owner
    update._metadata = own or NO_METADATA
    return update, own if metadata is None else metadata, tuple(facts)


def dump_outcome(event: UpdateEvent) -> tuple[bytes, bytes | None]:
    """Return the outcome of an event as JSON, and the body of the response."""
    result = event.result
    if result is None:
        return to_json(_dump_error(event.error)), None
    content = result._content
    if content is None and result._body is not None:
        content = to_json(result._body)
    facts = (
        result.status,
        result.etag,
        result.attempts,
        result.latency,
        result.queued,
        result.merged,
        result._carried_by,
        result._versioned,
    )
    return to_json(facts), content or None


def load_outcome(
    dialog_id: str, update_id: str, outcome: bytes, answer: bytes | None
) -> UpdateResult | CognigyError:
    """Return the result or the error of an update; see `dump_outcome`.

    Raises:
        ValueError, TypeError, AttributeError: the outcome is damaged.
    """
    facts = from_json(outcome)
    if isinstance(facts, dict):
        return _load_error(facts)
    status, etag, attempts, latency, queued, merged, carried_by, versioned = facts
    return UpdateResult(
        dialog_id,
        update_id,
        status,
        etag,
        attempts,
        latency,
        queued,
        answer or b"",
        merged,
        carried_by,
        versioned,
    )


def _dump_error(error: BaseException | None) -> dict[str, Any]:
    if not isinstance(error, CognigyError):
        # The text of another exception may have values.
        return {"type": type(error).__name__, "args": [type(error).__name__], "facts": {}}
    facts = {name: _plain(value) for name, value in vars(error).items() if type(value) in PLAIN}
    args = [_plain(value) for value in error.args if type(value) in PLAIN]
    dumped = {"type": type(error).__name__, "args": args, "facts": facts}
    if error.__cause__ is not None:
        dumped["cause"] = _dump_error(error.__cause__)
    return dumped


def _plain(value: Any) -> Any:
    # A server may send half of a surrogate pair, which is no JSON.
    return value.encode(errors="replace").decode() if isinstance(value, str) else value


def _load_error(dumped: dict[str, Any]) -> CognigyError:
    kind = getattr(errors, dumped["type"], None)
    if not isinstance(kind, type) or not issubclass(kind, CognigyError):
        kind = CognigyError
    # Without the constructor, whose arguments differ from class to class.
    error: CognigyError = kind.__new__(kind)
    error.args = tuple(dumped["args"])
    vars(error).update(dict.fromkeys(getattr(kind, "__dataclass_fields__", ())))
    vars(error).update(dumped["facts"])
    if "cause" in dumped:
        error.__cause__ = _load_error(dumped["cause"])
    return error
