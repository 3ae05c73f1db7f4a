"""One broken promise."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Breach:
    """One broken promise."""

    promise: str
    dialog_id: str
    text: str
