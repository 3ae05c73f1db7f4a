"""`metadata`: what a caller says about an update, for callbacks and the audit. It is never sent."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from .errors import Fault
from .limits import TypeFault, has_surrogate, shown

MOST = 32
LONGEST_NAME = 128
LONGEST_TEXT = 1024
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
    if len(copy) > MOST:
        problem = f"has {len(copy)} entries, more than {MOST}"
        faults.append(Fault("metadata", problem, "keep what an auditor needs"))
    for name, text in copy.items():
        fault = _fault_in(name, "the name", name, LONGEST_NAME)
        fault = fault or _fault_in(name, "the text", text, LONGEST_TEXT)
        if fault is not None:
            faults.append(fault)
    return MappingProxyType(copy), faults


def _fault_in(name: Any, what: str, text: Any, longest: int) -> Fault | None:
    path = f"metadata.{shown(name)}"
    if not isinstance(text, str):
        return TypeFault(path, f"{what} is of type {type(text).__name__}", "pass a str")
    if len(text) > longest:
        problem = f"{what} has {len(text)} characters, more than {longest}"
        return Fault(path, problem, "shorten it")
    if has_surrogate(text):
        problem = f"{what} has a lone surrogate, which UTF-8 cannot carry"
        return Fault(path, problem, "decode it properly, or replace the character")
    return None
