"""Messages to the flow or to the user of a dialog, which an update may carry."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal, TypeAlias

from ..errors import Fault
from .limits import DEPTH_BOUND, Limits
from .variables import TypeFault, faults_of_json, printable

Receiver: TypeAlias = Literal["inject", "notify"]
"""The path of a message: to the flow as user input, or to the user."""

MEMBERS: Mapping[Receiver, tuple[str, ...]] = {
    "inject": ("text", "data"),
    "notify": ("text", "data", "attachments"),
}
"""Members of a message."""

TYPES: Mapping[str, tuple[str, type | tuple[type, ...]]] = {
    "text": ("str", str),
    "data": ("dict", Mapping),
    "attachments": ("list", (list, tuple)),
}
"""Type of each member for messages, and the accepted types."""


def read_message(
    limits: Limits, receiver: Receiver, message: Any
) -> tuple[dict[str, Any], list[Fault]]:
    """Return a copy of a message, whose `text` and `data` are never missing, and its faults.

    The vendor's API reference requires both members. The values of `data` are any JSON.
    """
    members = MEMBERS[receiver]
    if not isinstance(message, Mapping):
        problem = f"is of type {type(message).__name__}"
        return {}, [TypeFault(receiver, problem, f"use a mapping with {', '.join(members)}")]
    try:
        given = {name: value for name, value in dict(message).items() if value is not None}
    except Exception as error:
        problem = f"reading it raised {type(error).__name__}"
        return {}, [Fault(receiver, problem, "pass a plain dict")]
    faults: list[Fault] = [
        Fault(f"{receiver}.{printable(name)}", "is not a part of it", f"use {', '.join(members)}")
        for name in given
        if name not in members
    ]
    for name in given.keys() & set(members):
        kind, accepted = TYPES[name]
        if not isinstance(given[name], accepted):
            problem = f"is of type {type(given[name]).__name__}"
            faults.append(TypeFault(f"{receiver}.{name}", problem, f"use a {kind}"))
    for number, attachment in enumerate(given.get("attachments", ()) if not faults else ()):
        if not isinstance(attachment, Mapping):
            problem = f"is of type {type(attachment).__name__}"
            faults.append(TypeFault(f"{receiver}.attachments[{number}]", problem, "use a dict"))
    if not faults:
        faults += faults_of_json(replace(limits, max_depth=DEPTH_BOUND), receiver, given)
    if not faults and not any(given.values()):
        problem = "has neither text nor data"
        faults.append(Fault(receiver, problem, "give a text, or data for the flow"))
    return {"text": "", "data": {}, **given}, faults
