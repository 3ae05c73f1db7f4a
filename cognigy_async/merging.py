"""Which updates of one dialog may be sent as one request, so that the state cannot tell.

A server may replace a variable whole or merge objects into it. Either way the later of two
assignments stands, unless it is an object: merged into what the earlier one left, it gives
something else than merged into what was there before. So those two stay apart.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

from .models.limits import ENVELOPE, Limits, encode
from .models.update import StateUpdate


def merges(update: StateUpdate) -> bool:
    """Whether an update may share a request at all: no transition, no precondition.

    A transition stays alone, also as the last of a group: it makes a lost answer one that must not
    be repeated blindly, and that would hold for all the variables sent with it.
    """
    return update.next_step is None and update.if_match is None


def concern_the_same(one: StateUpdate, other: StateUpdate) -> bool:
    """Whether two updates of a dialog name the same user and the same profile."""
    return one.user_id == other.user_id and one.profile_id == other.profile_id


def together(limits: Limits, first: StateUpdate, assigned: Mapping[str, Any]) -> StateUpdate:
    """The update that assigns what several do, of which this is the first.

    Raises:
        UpdateValidationError: it cannot be.
    """
    people = {"user_id": first.user_id, "profile_id": first.profile_id}
    return StateUpdate.within(limits, {"dialog_id": first.dialog_id, **people, **assigned})


def key_of(update_ids: Iterable[str]) -> str:
    """The `Idempotency-Key` of a request that carries these updates; the same in every process."""
    return "merged-" + hashlib.sha256("\n".join(update_ids).encode()).hexdigest()[:40]


class Merge:
    """What the request of a group assigns so far: names and sizes, not values."""

    __slots__ = ("_most", "_room", "_sizes", "_totals")

    def __init__(self, limits: Limits) -> None:
        self._room = limits.safe_payload_bytes - ENVELOPE
        self._most = limits.max_context_bytes
        self._sizes: dict[str, dict[str, int]] = {}
        self._totals: dict[str, int] = {}

    @property
    def names(self) -> Mapping[str, Iterable[str]]:
        """The variables by context."""
        return self._sizes

    def take(self, payload: Mapping[str, Mapping[str, Any]]) -> bool:
        """Add the variables of an update that comes later than all before; false where it must
        stay apart, and then nothing is added.
        """
        sizes: dict[str, dict[str, int]] = {}
        totals = dict(self._totals)
        for context, variables in payload.items():
            known = self._sizes.get(context, {})
            added = sizes[context] = {}
            total = totals.get(context, 0)
            for name, value in variables.items():
                if name in known and isinstance(value, dict):
                    return False
                added[name] = size = len(encode(name)) + len(encode(value)) + 2
                total += size - known.get(name, 0)
            totals[context] = total
        if sum(totals.values()) > self._room or any(
            total > self._most for total in totals.values()
        ):
            return False
        for context, added in sizes.items():
            self._sizes.setdefault(context, {}).update(added)
        self._totals = totals
        return True
