"""What callers hand over as an update, wherever they hand over many."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

from .errors import Fault, UpdateValidationError, VariableTypeError
from .limits import Limits
from .updates import StateUpdate

Row: TypeAlias = StateUpdate | Mapping[str, Any]
"""An update, or a mapping of its arguments."""


def parsed(row: Row, limits: Limits) -> StateUpdate:
    """A valid update from a row, or an `UpdateValidationError`."""
    if isinstance(row, StateUpdate):
        return row.under(limits)
    return StateUpdate.within(limits, _mapping(row))


def _mapping(row: Any) -> Mapping[str, Any]:
    if type(row) is dict:
        return row
    if isinstance(row, Mapping):
        try:
            return dict(row)
        except Exception as error:
            problem = f"reading it raised {type(error).__name__}"
            remedy = "pass a mapping that can be read"
            raise UpdateValidationError((Fault("update", problem, remedy),)) from error
    problem = f"is of type {type(row).__name__}"
    remedy = "pass a StateUpdate, or a mapping of its arguments"
    raise VariableTypeError((Fault("update", problem, remedy),))
