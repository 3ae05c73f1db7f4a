"""Contact profiles: what is known of a user across sessions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

MEMBERS = frozenset(("profile", "active", "contactIds"))


@dataclass(slots=True, eq=False)
class Profile:
    """A profile.

    Attributes:
        profile: fields by name.
        active: whether flows may use it.
        contact_ids: the users that it is of.
        patches: what was written, in order.
    """

    profile_id: str
    profile: dict[str, Any] = field(default_factory=dict)
    active: bool = True
    contact_ids: list[str] = field(default_factory=list)
    patches: list[Mapping[str, Any]] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """The profile as a GET answers it."""
        return {
            "_id": self.profile_id,
            "profile": self.profile,
            "active": self.active,
            "contactIds": self.contact_ids,
        }


class Profiles(dict[str, Profile]):
    """The profiles by id."""

    def find(self, profile_id: str, *, create: bool) -> Profile | None:
        """A profile, perhaps one that nobody has written yet."""
        profile = self.get(profile_id)
        return Profile(profile_id) if profile is None and create else profile

    def patch(self, profile: Profile, body: Mapping[str, Any]) -> str | None:
        """Assign what the body names, or tell what is wrong with it."""
        if not body.keys() <= MEMBERS:
            unknown = ", ".join(sorted(body.keys() - MEMBERS))
            return f"unknown member {unknown[:200]}; there are profile, active and contactIds"
        fields, active = body.get("profile", {}), body.get("active", profile.active)
        contact_ids = body.get("contactIds", profile.contact_ids)
        if not isinstance(fields, dict):
            return "profile must be an object"
        if not isinstance(active, bool):
            return "active must be true or false"
        if not isinstance(contact_ids, list) or not all(isinstance(i, str) for i in contact_ids):
            return "contactIds must be a list of strings"
        self[profile.profile_id] = profile
        profile.profile.update(fields)
        profile.active, profile.contact_ids = active, contact_ids
        profile.patches.append(body)
        return None
