"""Coalescing: the updates at the head of a lane that go into one request, and what each comes to.

A group is an entry that stands in the lane for its members. It is sent, repeated and settled like
any other, so that nothing else needs to know of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, islice
from typing import Any

from .course import Course, Done
from .entries import Entry, Kind
from .errors import CognigyError, UpdateError, copy_of
from .hooks.observers import Observations
from .lane import Lane
from .merging import Merge, concern_the_same, key_of, together

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
