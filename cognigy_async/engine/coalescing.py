"""Coalescing: the updates at the head of a lane that go into one request, and what each comes to.

A group is an entry that stands in the lane for its members. It is sent, repeated and settled like
any other, so that nothing else needs to know of it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, islice
from typing import Any

from ..errors import CognigyError, UpdateError, copy_error
from ..hooks.observers import Observations
from ..models.limits import ENVELOPE, Limits, encode
from ..models.update import StateUpdate
from .dialog_queue import DialogQueue
from .protocol import Settled, UpdateProtocol
from .work_item import Kind, WorkItem

MOST_MERGED = 1000
"""Updates in one request: they settle in one go, during which the event loop does nothing else."""


def joins(head: WorkItem, item: WorkItem) -> bool:
    """Whether an entry may share the request of a head that coalesces, sizes and names aside.

    Only what would be repeated, given up and paced alike: a group has one policy, one timeout, one
    deadline, and is either live or bulk.
    """
    return item.coalesces and (item.options is head.options or item.options == head.options)


def gather(queue: DialogQueue, protocol: UpdateProtocol, most: int) -> WorkItem:
    """Put what may share the request of a lane's head, which was not sent yet, into a group.

    Returns the new head: the group, or the old one where nothing joins it. At most `most` join.
    """
    head = queue.first
    first = head.update
    assert first is not None
    merge = Merge(protocol.limits)
    assigned: dict[str, dict[str, Any]] = {}
    members: list[WorkItem] = []
    for item in islice(chain((head,), queue.behind or ()), min(most, MOST_MERGED)):
        if item.update is None or not joins(head, item):
            break
        if not concern_the_same(first, item.update):
            break
        payload = item.update.payload()
        if not merge.take(payload):
            break
        for context, variables in payload.items():
            assigned.setdefault(context, {}).update(variables)
        members.append(item)
    if len(members) < 2:
        return head
    update = together(protocol.limits, first, assigned)
    group = WorkItem(
        Kind.ASSIGN,
        head.dialog_id,
        key_of(item.update_id for item in members),
        update,
        head.serial,
        head.options,
        None,
        head.sink,
        from_callback=any(item.from_callback for item in members),
        index=head.index,
    )
    group.accepted_at = head.accepted_at
    try:
        protocol.api.check(update)
        protocol.request(group)
    except CognigyError:
        # What the API cannot carry must not take the others along.
        return head
    group.members = tuple(members)
    # Backwards, so that the headers that the oldest one's observer sets are those that are sent.
    looking_on = [each.observations for each in reversed(members) if each.observations is not None]
    if looking_on:
        group.observations = Observations.joined(looking_on)
    queue.join(group)
    return group


def outcomes(group: WorkItem, done: Settled) -> Iterator[tuple[WorkItem, Settled]]:
    """What each member of a settled group comes to, in their order."""
    for item in group.members:
        item.queue = None
        item.attempts = group.attempts
        item.requests, item.headers = group.requests, group.headers
        own = Settled()
        if done.result is not None:
            result = done.result
            queued = result.queued + group.accepted_at - item.accepted_at
            own.result = result.share(item.update_id, queued, len(group.members))
        elif isinstance(done.error, CognigyError):
            own.error = error = copy_error(done.error)
            if isinstance(error, UpdateError):
                error.update_id = item.update_id
        else:
            own.error = done.error
        yield item, own


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
    return StateUpdate.from_fields(limits, {"dialog_id": first.dialog_id, **people, **assigned})


def key_of(update_ids: Iterable[str]) -> str:
    """The `Idempotency-Key` of a request that carries these updates; the same in every process."""
    return "merged-" + hashlib.sha256("\n".join(update_ids).encode()).hexdigest()[:40]


class Merge:
    """What the request of a group assigns so far: names and sizes, not values."""

    __slots__ = ("_most", "_sizes", "_space", "_totals")

    def __init__(self, limits: Limits) -> None:
        self._space = limits.safe_payload_bytes - ENVELOPE
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
        if sum(totals.values()) > self._space or any(
            total > self._most for total in totals.values()
        ):
            return False
        for context, added in sizes.items():
            self._sizes.setdefault(context, {}).update(added)
        self._totals = totals
        return True
