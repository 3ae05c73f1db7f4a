"""Validate and encode the members of a contact profile.

Members and ids are those of docs.cognigy.com (API reference, contact profiles). The fields of a
profile follow the rules of variables.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ..errors import Fault, UpdateValidationError, VariableTypeError
from .conversion import Encode, to_json_values
from .identifiers import fault_of_text
from .limits import Limits
from .update import faults_of_variables
from .variables import TypeFault, encode

ID_LENGTH = 24
"""Characters of the id of a project."""


def profile_body(limits: Limits, encoding: Encode | None, given: Mapping[str, Any]) -> bytes:
    """Return the JSON object of a request that writes a profile.

    Args:
        given: `profile`, `active` and `contact_ids`, each may be None; for a creation `project_id`.

    Raises:
        UpdateValidationError: A member is invalid, there is none, or they are too large.
    """
    members: dict[str, Any] = {}
    faults: list[Fault] = []
    if "project_id" in given:
        members["projectId"] = project_id = given["project_id"]
        if fault := _fault_of_project_id(project_id):
            faults.append(fault)
    if (profile := given["profile"]) is not None:
        members["profile"] = profile if encoding is None else to_json_values(profile)
        faults += faults_of_variables(limits, "profile", members["profile"])
    if (active := given["active"]) is not None:
        members["active"] = active
        if type(active) is not bool:
            faults.append(TypeFault("active", f"is of type {_type(active)}", "pass True or False"))
    if (contact_ids := given["contact_ids"]) is not None:
        members["contactIds"], found = _read_contact_ids(contact_ids)
        faults += found
    if not members:
        remedy = "pass profile, active or contact_ids"
        faults.append(Fault("profile", "the call carries nothing", remedy))
    if faults:
        kind = VariableTypeError if isinstance(faults[0], TypeFault) else UpdateValidationError
        raise kind(tuple(faults))
    body = encode(members)
    if len(body) > limits.safe_payload_bytes:
        problem = f"the request takes {len(body)} bytes, more than {limits.safe_payload_bytes}"
        raise UpdateValidationError((Fault("profile", problem, "send fewer fields in a call"),))
    return body


def _fault_of_project_id(project_id: Any) -> Fault | None:
    if fault := fault_of_text("project_id", project_id):
        return fault
    if len(project_id) == ID_LENGTH:
        return None
    problem = f"has {len(project_id)} characters; the id of a project has {ID_LENGTH}"
    return Fault("project_id", problem, "copy it from the URL of the project in Cognigy.AI")


def _read_contact_ids(contact_ids: Any) -> tuple[list[Any], list[Fault]]:
    """Return the contact ids as a list, and the faults found in them."""
    if isinstance(contact_ids, str | bytes | Mapping) or not isinstance(contact_ids, Iterable):
        problem = f"is of type {_type(contact_ids)}"
        return [], [TypeFault("contact_ids", problem, "pass a list of strings")]
    ids = list(contact_ids)
    found = (fault_of_text(f"contact_ids[{at}]", text) for at, text in enumerate(ids))
    return ids, list(filter(None, found))


def _type(value: object) -> str:
    return type(value).__name__
