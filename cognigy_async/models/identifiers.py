"""Validate the ids, the step and the metadata of an update."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from ..errors import Fault
from .limits import Limits
from .variables import SURROGATE, TypeFault, has_surrogate, printable

MAX_STEP_LENGTH = 1024
MAX_USER_ID_LENGTH = 256
HEADER_TEXT = re.compile(r"[\x21-\x7e]{1,512}").fullmatch

MAX_METADATA_ENTRIES = 32
MAX_METADATA_NAME_LENGTH = 128
MAX_METADATA_TEXT_LENGTH = 1024
"""Limits in characters. Each audit record holds all metadata of its update."""

INVISIBLE = frozenset({"Cc", "Cf"})
"""Categories of Unicode: control characters, and those of format, which have no width."""

NO_METADATA: Mapping[str, str] = MappingProxyType({})


def faults_of_identifiers(
    limits: Limits, dialog_id: Any, next_step: Any, if_match: Any, update_id: Any
) -> list[Fault]:
    """Return the faults of a dialog id, a step, an etag and an update id."""
    remedy = "use the id that the server gave the dialog"
    faults = _faults_of_text("dialog_id", dialog_id, limits.max_dialog_id_length, remedy)
    faults += _faults_of_ends("dialog_id", dialog_id)
    if next_step is not None:
        remedy = "use the id of a node, or the name of a state, of the flow"
        faults += _faults_of_text("next_step", next_step, MAX_STEP_LENGTH, remedy)
    for name, text in (("if_match", if_match), ("update_id", update_id)):
        if text is not None and not isinstance(text, str):
            faults.append(_type_fault(name, text))
        elif text is not None and not HEADER_TEXT(text):
            problem = "is not a text that a header can carry"
            faults.append(Fault(name, problem, "use 1 to 512 visible ASCII characters, no spaces"))
    return faults


def faults_of_owner(user_id: Any, profile_id: Any) -> list[Fault]:
    """Return the faults of a user id and a profile id."""
    faults: list[Fault] = []
    if user_id is not None:
        remedy = "use the id that the endpoint gave the user"
        faults += _faults_of_text("user_id", user_id, MAX_USER_ID_LENGTH, remedy)
        faults += _faults_of_ends("user_id", user_id)
    if profile_id is not None and (fault := fault_of_text("profile_id", profile_id)):
        faults.append(fault)
    return faults + _faults_of_ends("profile_id", profile_id)


def _faults_of_text(name: str, text: Any, longest: int, remedy: str) -> list[Fault]:
    faults = [fault] if (fault := fault_of_text(name, text)) else []
    if isinstance(text, str) and len(text) > longest:
        problem = f"has {len(text)} characters, more than {longest}"
        faults.append(Fault(name, problem, remedy))
    return faults


def fault_of_text(name: str, text: Any) -> Fault | None:
    """Return the fault of a required text, or None: wrong type, blank, a lone surrogate."""
    if not isinstance(text, str):
        return _type_fault(name, text)
    if not text or text.isspace():
        remedy = "pass a text, or leave it out if it is optional"
        if name == "dialog_id":
            remedy = "pass the id that the server gave the dialog"
        return Fault(name, "is empty", remedy)
    return Fault(name, *SURROGATE) if has_surrogate(text) else None


def _faults_of_ends(name: str, text: Any) -> list[Fault]:
    """Return the fault of an id that begins or ends with a character that nobody sees.

    It is the id of another dialog than the one that was meant, as after a copy from a sheet.
    """
    if isinstance(text, str) and text and not text.isspace():
        for char, place in ((text[0], "begins"), (text[-1], "ends")):
            if char.isspace() or unicodedata.category(char) in INVISIBLE:
                meant = unicodedata.name(char, "a control character").lower()
                return [Fault(name, f"{place} with U+{ord(char):04X}, {meant}", "remove it")]
    return []


def _type_fault(name: str, value: object) -> Fault:
    return TypeFault(name, f"is of type {type(value).__name__}", "pass a str")


def read_metadata(metadata: Any) -> tuple[Mapping[str, str], list[Fault]]:
    """Return a read-only copy of the metadata, and the faults found in it."""
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
        problem, remedy = SURROGATE
        return Fault(path, f"{what} {problem}", remedy)
    return None


def is_strong_etag(etag: str | None) -> bool:
    """Return whether an etag can match an `If-Match` (RFC 9110, 13.1.1: strong comparison)."""
    return etag is not None and len(etag) > 1 and etag[0] == etag[-1] == '"'
