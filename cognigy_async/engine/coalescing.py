"""Coalescing: the updates at the head of a lane that go into one request, and what each comes to.

A group is an entry that stands in the lane for its members. It is sent, repeated and settled like
any other, so that nothing else needs to know of it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, islice
from typing import Any

from ..errors import CognigyError, UpdateError, copy_of
from ..hooks.observers import Observations
from ..models.limits import ENVELOPE, Limits, encode
from ..models.update import StateUpdate
from .dialog_queue import Lane
from .protocol import Course, Done
from .work_item import Entry, Kind

MOST_MERGED = 1000
"""Updates in one request: they settle in one go, during which the event loop does nothing else."""


def joins(head: Entry, entry: Entry) -> bool:
    """Whether an entry may share the request of a head that coalesces, sizes and names aside.

    Only what would be repeated, given up and paced alike: a group has one policy, one timeout, one
    deadline, and is either live or bulk.
    """
    return entry.coalesces and (entry.terms is head.terms or entry.terms == head.terms)


def gather(lane: Lane, course: Course, most: int) -> Entry:
    """Put what may share the request of a lane's head, which was not sent yet, into a group.

    Returns the new head: the group, or the old one where nothing joins it. At most `most` join.
    """
    head = lane.first
    first = head.update
    assert first is not None
    merge = Merge(course.limits)
    assigned: dict[str, dict[str, Any]] = {}
    members: list[Entry] = []
    for entry in islice(chain((head,), lane.behind or ()), min(most, MOST_MERGED)):
        if entry.update is None or not joins(head, entry):
            break
        if not concern_the_same(first, entry.update):
            break
        payload = entry.update.payload()
        if not merge.take(payload):
            break
        for context, variables in payload.items():
            assigned.setdefault(context, {}).update(variables)
        members.append(entry)
    if len(members) < 2:
        return head
    update = together(course.limits, first, assigned)
    group = Entry(
        Kind.ASSIGN,
        head.dialog_id,
        key_of(entry.update_id for entry in members),
        update,
        head.serial,
        head.terms,
        None,
        head.sink,
        exempt=any(entry.exempt for entry in members),
        index=head.index,
    )
    group.accepted_at = head.accepted_at
    try:
        course.api.check(update)
        course.request(group)
    except CognigyError:
        # What the API cannot carry must not take the others along.
        return head
    group.members = tuple(members)
    # Backwards, so that the headers that the oldest one's observer sets are those that are sent.
    looking_on = [each.observations for each in reversed(members) if each.observations is not None]
    if looking_on:
        group.observations = Observations.joined(looking_on)
    lane.join(group)
    return group


def outcomes(group: Entry, done: Done) -> Iterator[tuple[Entry, Done]]:
    """What each member of a settled group comes to, in their order."""
    for entry in group.members:
        entry.lane = None
        entry.attempts = group.attempts
        entry.requests, entry.headers = group.requests, group.headers
        own = Done()
        if done.result is not None:
            result = done.result
            queued = result.queued + group.accepted_at - entry.accepted_at
            own.result = result.share(entry.update_id, queued, len(group.members))
        elif isinstance(done.error, CognigyError):
            own.error = error = copy_of(done.error)
            if isinstance(error, UpdateError):
                error.update_id = entry.update_id
        else:
            own.error = done.error
        yield entry, own


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
