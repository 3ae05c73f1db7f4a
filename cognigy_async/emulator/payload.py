"""The body of a PATCH: its JSON, and what the server finds wrong with it."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from pydantic_core import from_json

from cognigy_async import Limits, StateUpdate, UpdateValidationError

MEMBERS = frozenset(("session", "user", "transition"))


def parse(content: bytes) -> dict[str, Any]:
    """The JSON object that a request carries.

    Raises:
        ValueError: it is none.
    """
    body = from_json(content, allow_inf_nan=False)
    if not isinstance(body, dict):
        raise ValueError("the body must be a JSON object")
    return body


def fault_in(
    dialog_id: str, body: dict[str, Any], limits: Limits, flow_nodes: Collection[str] | None
) -> str | None:
    """Why the server refuses the body, or None.

    The variables are checked by the rules that a client checks them by before it sends them.
    """
    if not body.keys() <= MEMBERS:
        unknown = ", ".join(sorted(body.keys() - MEMBERS))
        return f"unknown member {unknown[:200]}; there are session, user and transition"
    arguments: dict[str, Any] = {"dialog_id": dialog_id}
    for context in ("session", "user"):
        if context in body:
            if not isinstance(body[context], dict):
                return f"{context} must be an object of variables"
            arguments[context] = body[context]
    if "transition" in body:
        transition = body["transition"]
        if not isinstance(transition, dict) or list(transition) != ["nextStep"]:
            return "transition must be an object with the single member nextStep"
        arguments["next_step"] = step = transition["nextStep"]
        if not isinstance(step, str):
            return "transition.nextStep must be a string"
        if flow_nodes is not None and step not in flow_nodes:
            return f"transition.nextStep: the flow has no node {step[:200]!r}"
    try:
        StateUpdate.from_fields(limits, arguments)
    except UpdateValidationError as error:
        return str(error)
    return None
