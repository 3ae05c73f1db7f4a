"""What is wrong with the ids and other names of an update."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from ..errors import Fault
from .limits import Limits, TypeFault, has_surrogate, printable

MAX_STEP_LENGTH = 1024
MAX_USER_ID_LENGTH = 256
HEADER_TEXT = re.compile(r"[\x21-\x7e]{1,512}").fullmatch


def faults_of_identifiers(
    limits: Limits, dialog_id: Any, next_step: Any, if_match: Any, update_id: Any
) -> list[Fault]:
    """Of dialog, step, precondition and update."""
    texts = (("dialog_id", dialog_id), ("next_step", next_step))
    faults = [
        fault
        for name, text in texts
        if (text is not None or name == "dialog_id") and (fault := fault_of_text(name, text))
    ]
    if isinstance(dialog_id, str) and len(dialog_id) > limits.max_dialog_id_length:
        problem = f"has {len(dialog_id)} characters, more than {limits.max_dialog_id_length}"
        faults.append(Fault("dialog_id", problem, "use the id that the server gave the dialog"))
    if isinstance(next_step, str) and len(next_step) > MAX_STEP_LENGTH:
        problem = f"has {len(next_step)} characters, more than {MAX_STEP_LENGTH}"
        faults.append(Fault("next_step", problem, "use the id of a node of the flow"))
    for name, text in (("if_match", if_match), ("update_id", update_id)):
        if text is not None and not isinstance(text, str):
            faults.append(_not_a_text(name, text))
        elif text is not None and not HEADER_TEXT(text):
            problem = "is no text that a header can carry"
            faults.append(Fault(name, problem, "use 1 to 512 visible ASCII characters, no spaces"))
    return faults


def faults_of_owner(user_id: Any, profile_id: Any) -> list[Fault]:
    """Of user and profile."""
    faults = [
        fault
        for name, text in (("user_id", user_id), ("profile_id", profile_id))
        if text is not None and (fault := fault_of_text(name, text))
    ]
    if isinstance(user_id, str) and len(user_id) > MAX_USER_ID_LENGTH:
        problem = f"has {len(user_id)} characters, more than {MAX_USER_ID_LENGTH}"
        faults.append(Fault("user_id", problem, "use the id that the endpoint gave the user"))
    return faults


def fault_of_text(name: str, text: Any) -> Fault | None:
    """What is wrong with a text that must say something, or None."""
    if not isinstance(text, str):
        return _not_a_text(name, text)
    if not text or text.isspace():
        return Fault(name, "is empty", "pass a text, or leave it out if it is optional")
    if has_surrogate(text):
        problem = "has a lone surrogate, which UTF-8 cannot carry"
        return Fault(name, problem, "decode it properly, or replace the character")
    return None


def _not_a_text(name: str, value: object) -> Fault:
    return TypeFault(name, f"is of type {type(value).__name__}", "pass a str")


MAX_METADATA_ENTRIES = 32
MAX_METADATA_NAME_LENGTH = 128
MAX_METADATA_TEXT_LENGTH = 1024
"""Characters. An audit record of each update carries all of it."""

NO_METADATA: Mapping[str, str] = MappingProxyType({})


def read_metadata(metadata: Any) -> tuple[Mapping[str, str], list[Fault]]:
    """A copy that cannot be changed, and what is wrong with it."""
    if not isinstance(metadata, Mapping):
        problem = f"is of type {type(metadata).__name__}"
        return NO_METADATA, [TypeFault("metadata", problem, "use a mapping from names to texts")]
    try:
        copy = dict(metadata)
    except Exception as error:
        problem = f"reading it raised {type(error).__name__}"
        return NO_METADATA, [Fault("metadata", problem, "pass a plain dict")]
    faults = []
    if len(copy) > MAX_METADATA_ENTRIES:
        problem = f"has {len(copy)} entries, more than {MAX_METADATA_ENTRIES}"
        faults.append(Fault("metadata", problem, "keep what an auditor needs"))
    for name, text in copy.items():
        fault = _metadata_fault(name, "the name", name, MAX_METADATA_NAME_LENGTH)
        fault = fault or _metadata_fault(name, "the text", text, MAX_METADATA_TEXT_LENGTH)
        if fault is not None:
            faults.append(fault)
    return MappingProxyType(copy), faults


def _metadata_fault(name: Any, what: str, text: Any, longest: int) -> Fault | None:
    path = f"metadata.{printable(name)}"
    if not isinstance(text, str):
        return TypeFault(path, f"{what} is of type {type(text).__name__}", "pass a str")
    if len(text) > longest:
        problem = f"{what} has {len(text)} characters, more than {longest}"
        return Fault(path, problem, "shorten it")
    if has_surrogate(text):
        problem = f"{what} has a lone surrogate, which UTF-8 cannot carry"
        return Fault(path, problem, "decode it properly, or replace the character")
    return None
