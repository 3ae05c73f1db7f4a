"""Decide from a dialog's state what became of an update whose process died."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..models.results import DialogState
    from ..models.update import StateUpdate


@dataclass(slots=True, eq=False)
class Resolution:
    """The data that only an update of a dead process has.

    Attributes:
        key: `Idempotency-Key` of its request, shared by the updates that were sent together.
        etag: version of the state before the request; None if it is not known.
        repeatable: False if the update must not be sent again.
        deadline: moment of the client's clock after which it must not be sent; None for never.
        blind_until: the same if the state cannot be read.
        readable: False if the state cannot be read.
    """

    key: str
    etag: str | None
    repeatable: bool
    deadline: float | None
    blind_until: float
    readable: bool = True


def holds(state: DialogState, update: StateUpdate) -> bool:
    """Return whether a state has all values, and the node, that an update assigns."""
    return (
        _has(state.session, update.session)
        and _has(state.user, update.user)
        and update.next_step in (None, state.next_step)
    )


def _has(variables: Mapping[str, Any], assigned: Mapping[str, Any]) -> bool:
    return all(name in variables and _equal(variables[name], assigned[name]) for name in assigned)


def _equal(one: Any, other: Any) -> bool:
    """Compare as JSON does: 1 equals 1.0 and differs from true."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and _has(one, other)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_equal, one, other))
    return isinstance(one, bool) is isinstance(other, bool) and bool(one == other)
