"""Updates, outcomes and errors as JSON objects, as they cross the cluster.

Nothing is unpickled: whoever can write to the cluster must not be able to run code. Readers ignore
members that they do not know, so that clients and workers of two versions work together.
"""

from __future__ import annotations

import time
from dataclasses import fields
from typing import Any

from pydantic_core import to_json

import cognigy_async
from cognigy_async import (
    AmbiguousUpdateError,
    CognigyError,
    ConfigurationError,
    Fault,
    RetryPolicy,
    StateUpdate,
    UpdateResult,
    UpdateValidationError,
)

from .dialog_writer import BODY_BYTES, Json

MOST_BODY_BYTES = 100_000
"""Bytes of the body of a result that alone crosses the cluster; of several, each has a part."""

SEND_OPTIONS = ("timeout", "coalesce", "priority")
STRATEGIES = ("wait", "stop")


def dump_update(update: StateUpdate, update_id: str, options: Json) -> Json:
    """Return an update with its send options.

    `size` is its number of bytes. An update is `repeatable` if a worker may send it again without
    knowing what became of it.
    """
    content = update.fields() | {"update_id": update_id}
    return {
        "fields": content,
        "options": options,
        "repeatable": update.repeatable and update.if_match is None,
        "size": len(to_json(content)),
    }


def dump_options(retry: RetryPolicy | None, deadline: float | None, **options: Any) -> Json:
    """Return send options without those that are not set. `deadline` is in seconds from now.

    Raises:
        ConfigurationError: `retry` has functions of its own, which cannot cross the cluster.
    """
    found = {name: options[name] for name in SEND_OPTIONS if options.get(name) is not None}
    if unknown := options.keys() - set(SEND_OPTIONS):
        raise TypeError(f"unexpected keyword argument {min(unknown)!r}")
    if retry is not None:
        if retry.stop is not None or vars(retry.wait) != vars(RetryPolicy().wait):
            raise ConfigurationError(
                "retry: wait= and stop= are functions and cannot be sent to another machine; use "
                "the numbers of RetryPolicy, or pass retry= to the workers"
            )
        names = [each.name for each in fields(retry) if each.name not in STRATEGIES]
        found["retry"] = {name: getattr(retry, name) for name in names}
    if deadline is not None:
        found["deadline"] = time.time() + deadline
    return found


def load_options(options: Json) -> Json:
    """Return the keyword arguments of `AsyncStateClient.submit`."""
    found = {name: options[name] for name in SEND_OPTIONS if name in options}
    if "retry" in options:
        found["retry"] = RetryPolicy(**options["retry"])
    if "deadline" in options:
        found["deadline"] = options["deadline"] - time.time()
    return found


def dump_result(result: UpdateResult, updates: int = 1) -> Json:
    """Return the outcome of an applied update, one of several of an activity.

    A body that is larger than the part of one update is left out.
    """
    names = ("status", "etag", "attempts", "latency", "queued", "merged", "carried_by")
    found = {name: getattr(result, name) for name in names}
    found["versioned"] = result.version is not None
    size = len(to_json(result.body))
    if result.body is not None and size <= max(BODY_BYTES, MOST_BODY_BYTES // updates):
        found["body"] = result.body
    return {"result": found, "size": size if "body" in found else 0}


def dump_error(error: CognigyError) -> Json:
    """Return the outcome of a failed update."""
    return {"error": _dump_error(error)}


def load_outcome(dialog_id: str, update_id: str, outcome: Json) -> UpdateResult | CognigyError:
    """Return what a worker has found out about an update."""
    if "error" in outcome:
        return _load_error(outcome["error"])
    if "result" not in outcome:
        message = "The workers that sent it have stopped, several times"
        return AmbiguousUpdateError(message, dialog_id=dialog_id, update_id=update_id)
    found = outcome["result"]
    return UpdateResult(
        dialog_id,
        update_id,
        found["status"],
        found["etag"],
        found["attempts"],
        found["latency"],
        found["queued"],
        to_json(found["body"]) if "body" in found else b"",
        found["merged"],
        found["carried_by"],
        found["versioned"],
    )


def _dump_error(error: CognigyError) -> Json:
    # An exception of a user's own subclass becomes the public one that it derives from.
    names = (each.__name__ for each in type(error).__mro__)
    found: Json = {
        "type": next(name for name in names if name in cognigy_async.__all__),
        "args": [each for each in error.args if _is_plain(each)],
        "attributes": {name: value for name, value in vars(error).items() if _is_plain(value)},
    }
    if isinstance(error, UpdateValidationError):
        found["faults"] = [[fault.path, fault.problem, fault.remedy] for fault in error.faults]
        found["names"] = sorted(error.names)
    if isinstance(error.__cause__, CognigyError):
        found["cause"] = _dump_error(error.__cause__)
    return found


def _load_error(found: Json) -> CognigyError:
    kind = getattr(cognigy_async, found["type"], CognigyError)
    if not (isinstance(kind, type) and issubclass(kind, CognigyError)):
        kind = CognigyError
    error = kind.__new__(kind)
    error.args = tuple(found["args"])
    vars(error).update(found["attributes"])
    if "faults" in found:
        vars(error).update(faults=tuple(Fault(*each) for each in found["faults"]))
        vars(error).update(names=frozenset(found["names"]))
    if "cause" in found:
        error.__cause__ = _load_error(found["cause"])
    return error


def _is_plain(value: object) -> bool:
    return value is None or isinstance(value, str | int | float)
