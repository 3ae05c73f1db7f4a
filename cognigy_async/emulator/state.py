"""Dialogs with variables, versions and history; preconditions; contact profiles."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias

Merge: TypeAlias = Literal["replace", "recursive"]


@dataclass(frozen=True, slots=True)
class Merging:
    """Rules by which an assigned value is merged into the value before.

    Attributes:
        levels: Number of levels of objects that are merged, from the value itself; below them,
            members are replaced. None for all.
        lists: Whether lists are merged element by element, and keep the elements beyond.
    """

    levels: int | None = None
    lists: bool = False


COMPETITOR = "competitor"
"""The session variable that a competing writer increments."""
MESSAGES = ("inject", "notify")
"""Members of a body with a message to the flow or to the user."""
UNREPEATABLE = ("transition", *MESSAGES)
"""Members of a body that must not be applied twice."""
PROFILE_MEMBERS = frozenset(("profile", "active", "contactIds"))


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """The write that made a version of a dialog.

    Attributes:
        version: Version that the write made.
        key: `Idempotency-Key` of the request.
        body: Assignment as it was sent.
        if_match: `If-Match` of the request.
        competitor: Whether a competing writer made the write, not a client.
        at: Time of the write, by the clock of the event loop; for `Emulator.write`, the time of the
            write before.
    """

    version: int
    key: str | None
    body: Mapping[str, Any]
    if_match: str | None = None
    competitor: bool = False
    at: float = 0.0

    @property
    def seq(self) -> int | None:
        """The sequence number, by the convention of `Stats`."""
        seq = sequence_number(self.body.get("session"))
        for name in MESSAGES:
            if name in self.body:
                seq = sequence_number(self.body[name]["data"])
        return seq

    @property
    def identities(self) -> Iterable[str | int]:
        """The key and the sequence number, if present; none for a competing writer."""
        if self.competitor:
            return []
        return [identity for identity in (self.key, self.seq) if identity is not None]

    def as_dict(self) -> dict[str, Any]:
        """Return the entry as a dict for JSON."""
        return {
            "version": self.version,
            "key": self.key,
            "body": self.body,
            "ifMatch": self.if_match,
            "competitor": self.competitor,
        }


@dataclass(slots=True, eq=False)
class Dialog:
    """The state of a dialog.

    Attributes:
        dialog_id: Id of the dialog or session.
        version: Number of writes.
        session, user: Variables by name.
        next_step: Target of the last transition.
        user_id: User of the session, if a request to the sessions API has named one.
        history: Entries by version, the oldest first.
        identities: Entries by `Idempotency-Key` and by sequence number.
        past: Moments of the last writes, each with the dialog before it; see `remember`.
    """

    dialog_id: str
    version: int = 0
    session: dict[str, Any] = field(default_factory=dict)
    user: dict[str, Any] = field(default_factory=dict)
    next_step: str | None = None
    user_id: str | None = None
    history: list[HistoryEntry] = field(default_factory=list)
    identities: dict[str | int, HistoryEntry] = field(default_factory=dict, repr=False)
    past: list[tuple[float, Dialog]] = field(default_factory=list, repr=False)

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The messages to the flow and to the user, in the order in which they arrived.

        Each has ``kind``, which is ``"inject"`` or ``"notify"``, `userId`, `text`, `data`, and
        `attachments` if it was sent.
        """
        return [
            {"kind": kind, **entry.body[kind]}
            for entry in self.history
            for kind in MESSAGES
            if kind in entry.body
        ]

    @property
    def etag(self) -> str:
        """The version as in `ETag`, in quotes."""
        return f'"{self.version}"'

    def find_earlier(self, key: str | None, seq: int | None) -> HistoryEntry | None:
        """Return the entry of an update that was applied before, if it is in the history."""
        for identity in (key, seq):
            if identity is not None and identity in self.identities:
                return self.identities[identity]
        return None

    def remember(self, now: float) -> None:
        """Keep a copy of the present state, for reads that do not see a write at `now` yet."""
        copy = replace(
            self,
            session=dict(self.session),
            user=dict(self.user),
            history=[],
            identities={},
            past=[],
        )
        self.past.append((now, copy))

    def seen_at(self, moment: float) -> Dialog:
        """Return the dialog without the writes after `moment`, and forget what was before it."""
        while self.past and self.past[0][0] <= moment:
            self.past.pop(0)
        return self.past[0][1] if self.past else self

    def assign(
        self,
        body: Mapping[str, Any],
        *,
        merge: Merge | Merging,
        at: float,
        key: str | None = None,
        if_match: str | None = None,
        history_limit: int | None = None,
    ) -> HistoryEntry:
        """Apply a valid body as a new version."""
        self._store(body, merge)
        entry = HistoryEntry(self.version + 1, key, body, if_match, at=at)
        return self._append(entry, history_limit)

    def compete(
        self,
        body: Mapping[str, Any] | None = None,
        *,
        at: float | None = None,
        merge: Merge | Merging = "replace",
        history_limit: int | None = None,
    ) -> HistoryEntry:
        """Apply a write of a competing writer: a valid body, or None to count in `competitor`.

        Without a time, it gets the time of the write before: the caller may have no event loop.
        """
        if body is None:
            before = self.session.get(COMPETITOR)
            body = {"session": {COMPETITOR: before + 1 if type(before) is int else 1}}
        self._store(body, merge)
        if at is None:
            at = self.history[-1].at if self.history else 0.0
        entry = HistoryEntry(self.version + 1, None, body, competitor=True, at=at)
        return self._append(entry, history_limit)

    def _store(self, body: Mapping[str, Any], merge: Merge | Merging) -> None:
        """Assign the variables and the transition of a valid body."""
        merging = Merging() if merge == "recursive" else merge
        for context, assigned in (
            (self.session, body.get("session")),
            (self.user, body.get("user")),
        ):
            for name, value in (assigned or {}).items():
                if isinstance(merging, Merging):
                    context[name] = _merge(context.get(name), value, merging)
                else:
                    context[name] = value
        transition = body.get("transition")
        if transition is not None:
            self.next_step = transition["nextStep"]

    def as_dict(self) -> dict[str, Any]:
        """Return the state in the format of a GET response."""
        return {
            "dialogId": self.dialog_id,
            "version": self.version,
            "session": self.session,
            "user": self.user,
            "transition": None if self.next_step is None else {"nextStep": self.next_step},
        }

    def _append(self, entry: HistoryEntry, limit: int | None) -> HistoryEntry:
        self.version = entry.version
        self.history.append(entry)
        for identity in entry.identities:
            known = self.identities.get(identity)
            # An entry with a transition is kept, because its update must not be applied again.
            if known is None or _moves(entry.body) or not _moves(known.body):
                self.identities[identity] = entry
        if limit is not None and len(self.history) > limit:
            oldest = self.history.pop(0)
            for identity in oldest.identities:
                if self.identities.get(identity) is oldest:
                    del self.identities[identity]
        return entry


@dataclass(slots=True, eq=False)
class Profile:
    """A contact profile.

    Attributes:
        profile_id: Id of the profile.
        profile: Fields by name.
        active: Whether flows may use it.
        contact_ids: Ids of its users.
        patches: Bodies that were written, in order; of a creation without the `projectId`.
        project_id: Project that a creation named; None for a profile that a test or a PATCH made.
    """

    profile_id: str
    profile: dict[str, Any] = field(default_factory=dict)
    active: bool = True
    contact_ids: list[str] = field(default_factory=list)
    patches: list[Mapping[str, Any]] = field(default_factory=list)
    project_id: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the profile in the format of a GET response."""
        return {
            "_id": self.profile_id,
            "profile": self.profile,
            "active": self.active,
            "contactIds": self.contact_ids,
        }

    def patch(self, body: Mapping[str, Any]) -> str | None:
        """Assign the members of a body; return the problem if it is invalid."""
        if not body.keys() <= PROFILE_MEMBERS:
            unknown = ", ".join(sorted(body.keys() - PROFILE_MEMBERS))
            return f"unknown member {unknown[:200]}; there are profile, active and contactIds"
        fields, active = body.get("profile", {}), body.get("active", self.active)
        contact_ids = body.get("contactIds", self.contact_ids)
        if not isinstance(fields, dict):
            return "profile must be an object"
        if not isinstance(active, bool):
            return "active must be true or false"
        if not isinstance(contact_ids, list) or not all(isinstance(i, str) for i in contact_ids):
            return "contactIds must be a list of strings"
        self.profile.update(fields)
        self.active, self.contact_ids = active, contact_ids
        self.patches.append(body)
        return None


def matches(if_match: str, version: int, *, weakly: bool = False) -> bool:
    """Return whether an `If-Match` matches a version; a dialog never written has version 0.

    Args:
        weakly: Let a weak tag match, which RFC 9110, 13.1.1, forbids.

    Raises:
        ValueError: The header is neither `*` nor a list of quoted tags.
    """
    if if_match.strip() == "*":
        return version > 0
    tags = [tag.strip() for tag in if_match.split(",")]
    for tag in tags:
        opaque = tag.removeprefix("W/")
        if len(opaque) < 2 or not (opaque[0] == opaque[-1] == '"'):
            raise ValueError("If-Match must be * or quoted tags, as an ETag header has them")
    return f'"{version}"' in tags or (weakly and f'W/"{version}"' in tags)


def sequence_number(variables: object) -> int | None:
    """Return the integer variable ``seq``, if there is one."""
    seq = variables.get("seq") if isinstance(variables, dict) else None
    return seq if type(seq) is int else None


def _moves(body: Mapping[str, Any]) -> bool:
    return any(name in body for name in UNREPEATABLE)


def _merge(old: object, new: object, merging: Merging, level: int = 1) -> object:
    """Return the merged value as a new object, because the history keeps both arguments."""
    if merging.lists and isinstance(old, list) and isinstance(new, list):
        pairs = zip(old, new, strict=False)
        merged_items = [_merge(before, value, merging, level) for before, value in pairs]
        return merged_items + (new[len(old) :] or old[len(new) :])
    is_deep = merging.levels is not None and level > merging.levels
    if is_deep or not (isinstance(old, dict) and isinstance(new, dict)):
        return new
    merged = dict(old)
    for name, value in new.items():
        merged[name] = _merge(old.get(name), value, merging, level + 1)
    return merged
