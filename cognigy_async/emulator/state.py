"""Dialogs: variables, versions, history, preconditions, and the two ways of merging."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

Merge: TypeAlias = Literal["replace", "recursive"]

COMPETITOR = "competitor"
"""The session variable that a competing writer counts up."""


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """One version of a dialog: what made it.

    Attributes:
        version: the version that it made.
        key: `Idempotency-Key` of the request.
        body: the assignment, as it was sent.
        if_match: `If-Match` of the request.
        competitor: whether a competing writer made it and no client.
        at: when, by the clock of the event loop.
    """

    version: int
    key: str | None
    body: Mapping[str, Any]
    if_match: str | None = None
    competitor: bool = False
    at: float = 0.0

    @property
    def seq(self) -> int | None:
        """The sequence number in the session variables, by the convention of `Stats`."""
        return sequence_number(self.body)

    def as_dict(self) -> dict[str, Any]:
        """The entry as JSON has it."""
        return {
            "version": self.version,
            "key": self.key,
            "body": self.body,
            "ifMatch": self.if_match,
            "competitor": self.competitor,
        }


@dataclass(slots=True, eq=False)
class Dialog:
    """The state of a dialog; `version` counts the writes, from 0 for none.

    Attributes:
        session, user: variables by name.
        next_step: where the last transition went.
        user_id: whose it is, where a request to the sessions API has said so.
        history: one entry for each version, the oldest first.
    """

    dialog_id: str
    version: int = 0
    session: dict[str, Any] = field(default_factory=dict)
    user: dict[str, Any] = field(default_factory=dict)
    next_step: str | None = None
    user_id: str | None = None
    history: list[HistoryEntry] = field(default_factory=list)
    identities: dict[str | int, HistoryEntry] = field(default_factory=dict, repr=False)
    """Entries by what tells whether an update is the same: its key, its sequence number."""

    @property
    def etag(self) -> str:
        """The version as `ETag` has it, in quotes."""
        return f'"{self.version}"'

    def applied_before(self, key: str | None, seq: int | None) -> HistoryEntry | None:
        """The entry of the same update, if it is in the history."""
        same = self.identities.get(key) if key is not None else None
        if same is None and seq is not None:
            same = self.identities.get(seq)
        return same

    def assign(
        self,
        body: Mapping[str, Any],
        *,
        merge: Merge,
        at: float,
        key: str | None = None,
        if_match: str | None = None,
        history_limit: int | None = None,
    ) -> HistoryEntry:
        """Apply a valid body as a new version."""
        for context, variables in ((self.session, "session"), (self.user, "user")):
            assigned = body.get(variables)
            if assigned:
                _assign(context, assigned, merge)
        transition = body.get("transition")
        if transition is not None:
            self.next_step = transition["nextStep"]
        return self._remember(key, body, if_match, False, at, history_limit)

    def compete(self, at: float, history_limit: int | None = None) -> HistoryEntry:
        """Let a competing writer make a new version: it counts up the variable `competitor`."""
        before = self.session.get(COMPETITOR)
        count = before + 1 if type(before) is int else 1
        self.session[COMPETITOR] = count
        return self._remember(None, {"session": {COMPETITOR: count}}, None, True, at, history_limit)

    def as_dict(self) -> dict[str, Any]:
        """The state as a GET answers it."""
        return {
            "dialogId": self.dialog_id,
            "version": self.version,
            "session": self.session,
            "user": self.user,
            "transition": None if self.next_step is None else {"nextStep": self.next_step},
        }

    def _remember(
        self,
        key: str | None,
        body: Mapping[str, Any],
        if_match: str | None,
        competitor: bool,
        at: float,
        limit: int | None,
    ) -> HistoryEntry:
        self.version += 1
        entry = HistoryEntry(self.version, key, body, if_match, competitor, at)
        self.history.append(entry)
        for identity in _identities(entry):
            known = self.identities.get(identity)
            # One with a transition stays known: it is the one that must not come again.
            if known is None or "transition" in body or "transition" not in known.body:
                self.identities[identity] = entry
        if limit is not None and len(self.history) > limit:
            oldest = self.history.pop(0)
            for identity in _identities(oldest):
                if self.identities.get(identity) is oldest:
                    del self.identities[identity]
        return entry


def holds(if_match: str, version: int) -> bool:
    """Whether an `If-Match` holds for a version; a dialog never written has version 0.

    Raises:
        ValueError: it is neither `*` nor a list of quoted tags.
    """
    if if_match.strip() == "*":
        return version > 0
    tags = [tag.strip() for tag in if_match.split(",")]
    for tag in tags:
        opaque = tag.removeprefix("W/")
        if len(opaque) < 2 or not (opaque[0] == opaque[-1] == '"'):
            raise ValueError("If-Match must be * or tags in double quotes, as ETag has them")
    return f'"{version}"' in tags


def sequence_number(body: Mapping[str, Any]) -> int | None:
    """The integer variable `seq` of the session, if the body assigns one."""
    session = body.get("session")
    seq = session.get("seq") if isinstance(session, dict) else None
    return seq if type(seq) is int else None


def _identities(entry: HistoryEntry) -> Iterable[str | int]:
    if entry.key is not None:
        yield entry.key
    seq = entry.seq
    if seq is not None:
        yield seq


def _assign(context: dict[str, Any], variables: Mapping[str, Any], merge: Merge) -> None:
    if merge == "replace":
        context.update(variables)
        return
    for name, value in variables.items():
        context[name] = _merged(context.get(name), value)


def _merged(old: object, new: object) -> object:
    """A new object; the history holds the old and the new one as they were."""
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return new
    merged = dict(old)
    for name, value in new.items():
        merged[name] = _merged(old.get(name), value)
    return merged
