"""Coalescing: updates at the head of a dialog's queue share one request.

A group is an item that represents its members in the queue. It is sent, retried and completed like
any other item.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, islice
from typing import Any

from ..api.base import MergedValues
from ..errors import CognigyError, UpdateError, copy_error
from ..hooks.observers import Observations
from ..models.limits import Limits
from ..models.update import StateUpdate
from ..models.variables import ENVELOPE, encode
from .dialog_queue import DialogQueue
from .protocol import Settled, UpdateProtocol
from .work_item import RESOLVE, Group, Kind, WorkItem

MOST_MERGED = 1000
"""Maximum number of updates in one request; completing them blocks the event loop."""


def joins(head: WorkItem, item: WorkItem) -> bool:
    """Return whether an item may share the request of a coalescing head; ignore sizes.

    A group has one policy, one timeout and one deadline, and is either live or bulk.
    """
    return item.coalesces and (item.options is head.options or item.options == head.options)


def gather(queue: DialogQueue, protocol: UpdateProtocol, most: int) -> WorkItem:
    """Put the items that may share the request of a queue's head, which was not sent, into a group.

    At most `most` items join. Return the new head: the group, or the old head if none joins.
    """
    head = queue.first
    if head.kind is RESOLVE:
        return _gather_again(queue, protocol)
    first = head.update
    assert first is not None
    merge = Merge(protocol.limits, protocol.api.merged_values)
    assigned: dict[str, dict[str, Any]] = {}
    members: list[WorkItem] = []
    ids: set[str] = set()
    for item in islice(chain((head,), queue.behind or ()), min(most, MOST_MERGED)):
        # Callers may repeat an id; an outbox keeps the updates of one request apart by it.
        if item.update is None or not joins(head, item) or item.update_id in ids:
            break
        if not concern_the_same(first, item.update):
            break
        payload = item.update.payload()
        if not merge.take(payload):
            break
        for context, variables in payload.items():
            assigned.setdefault(context, {}).update(variables)
        members.append(item)
        ids.add(item.update_id)
    if len(members) < 2:
        return head
    update = together(protocol.limits, first, assigned)
    group = _group_of(head, update, key_of(item.update_id for item in members))
    group.from_callback = any(item.from_callback for item in members)
    try:
        protocol.api.check(update)
        protocol.request(group)
    except CognigyError:
        # The items can still be sent one by one.
        return head
    group.group = Group(tuple(members))
    # Reverse the order, so that the headers set by the oldest item's observer win.
    observed = [each.observations for each in reversed(members) if each.observations is not None]
    if observed:
        group.observations = Observations.joined(observed)
    queue.join(group)
    return group


def _group_of(head: WorkItem, update: StateUpdate, key: str) -> WorkItem:
    kind = RESOLVE if head.kind is RESOLVE else Kind.ASSIGN
    group = WorkItem(kind, head.dialog_id, key, update, head.serial, head.options, head.sink)
    group.index = head.index
    group.accepted_at = head.accepted_at
    return group


def _gather_again(queue: DialogQueue, protocol: UpdateProtocol) -> WorkItem:
    """Put the updates into a group that a dead process sent with one request.

    Return the head, which must not be repeated by itself, if they cannot be sent together again.
    """
    head = queue.first
    resolution, first = head.resolution, head.update
    assert resolution is not None
    assert first is not None
    members: list[WorkItem] = []
    assigned: dict[str, dict[str, Any]] = {}
    for item in chain((head,), queue.behind or ()):
        if item.resolution is None or item.resolution.key != resolution.key:
            break
        assert item.update is not None
        for context, variables in item.update.payload().items():
            assigned.setdefault(context, {}).update(variables)
        members.append(item)
    if len(members) < 2:
        return head
    try:
        update = together(protocol.limits, first, assigned)
    except CognigyError:
        # The limits are others than those of the dead process.
        for item in members:
            assert item.resolution is not None
            item.resolution.repeatable = item.coalesces = False
        return head
    group = _group_of(head, update, resolution.key)
    group.action = head.action
    assert head.record is not None
    group.record = head.record.for_group(group)
    group.group = Group(tuple(members))
    queue.join(group)
    return group


def outcomes(group: WorkItem, done: Settled) -> Iterator[tuple[WorkItem, Settled]]:
    """Yield each member of a completed group with its own outcome, in order."""
    for item in group.members:
        item.queue = None
        item.attempts = group.attempts
        item.requests, item.headers = group.requests, group.headers
        yield item, own_outcome(group, item, done)


def own_outcome(group: WorkItem, item: WorkItem, done: Settled) -> Settled:
    """Return the outcome of one member of a group."""
    if done.result is not None:
        result = done.result
        queued = result.queued + group.accepted_at - item.accepted_at
        return Settled(result.share(item.update_id, queued, len(group.members)))
    error = done.error
    if isinstance(error, CognigyError):
        error = copy_error(error)
        if isinstance(error, UpdateError):
            error.update_id = item.update_id
    return Settled(error=error)


def merges(update: StateUpdate) -> bool:
    """Return whether an update may share a request: it has only variables, and no precondition.

    Even the last update of a group may have no transition: the request could then not be
    repeated after a lost response.
    """
    return update.repeatable and update.if_match is None


def concern_the_same(one: StateUpdate, other: StateUpdate) -> bool:
    """Return whether two updates of a dialog name the same user and the same profile."""
    return one.user_id == other.user_id and one.profile_id == other.profile_id


def together(limits: Limits, first: StateUpdate, assigned: Mapping[str, Any]) -> StateUpdate:
    """Return an update of the variables in `assigned`, with the user and profile of `first`.

    Raises:
        UpdateValidationError: The assignments together break a limit.
    """
    people = {"user_id": first.user_id, "profile_id": first.profile_id}
    return StateUpdate.from_fields(limits, {"dialog_id": first.dialog_id, **people, **assigned})


def key_of(update_ids: Iterable[str]) -> str:
    """Return the `Idempotency-Key` of a group; it is the same in every process."""
    return "merged-" + hashlib.sha256("\n".join(update_ids).encode()).hexdigest()[:40]


MERGED_TYPES: Mapping[MergedValues, tuple[type, ...]] = {
    "none": (),
    "objects": (dict,),
    "objects and lists": (dict, list),
}


class Merge:
    """The names and sizes of the variables that a group assigns so far, without values."""

    __slots__ = ("_merged_types", "_most", "_sizes", "_space", "_totals")

    def __init__(self, limits: Limits, merged_values: MergedValues = "objects") -> None:
        self._merged_types = MERGED_TYPES[merged_values]
        self._space = limits.safe_payload_bytes - ENVELOPE
        self._most = limits.max_context_bytes
        self._sizes: dict[str, dict[str, int]] = {}
        self._totals: dict[str, int] = {}

    @property
    def names(self) -> Mapping[str, Iterable[str]]:
        """Names of variables by context."""
        return self._sizes

    def take(self, payload: Mapping[str, Mapping[str, Any]]) -> bool:
        """Add the payload of the next update. Return False and add nothing if it cannot join.

        It cannot join if the request would be too large, or if it assigns a value that the server
        may merge, such as an object, to a variable that the group already assigns.
        """
        sizes: dict[str, dict[str, int]] = {}
        totals = dict(self._totals)
        for context, variables in payload.items():
            known = self._sizes.get(context, {})
            added = sizes[context] = {}
            total = totals.get(context, 0)
            for name, value in variables.items():
                if name in known and isinstance(value, self._merged_types):
                    return False
                added[name] = size = len(encode(name)) + len(encode(value)) + 2
                total += size - known.get(name, 0)
            totals[context] = total
        if sum(totals.values()) > self._space or any(
            total > self._most for total in totals.values()
        ):
            return False
        for context, added in sizes.items():
            self._sizes.setdefault(context, {}).update(added)
        self._totals = totals
        return True
