"""Whether code is called by a callback: then it must not wait for what waits for the callback."""

from __future__ import annotations

from contextvars import ContextVar

__all__ = ["Call", "current", "inside_callback"]


class Call:
    """A call of a callback that is under way, or was."""

    __slots__ = ("active", "owner")

    def __init__(self, owner: object) -> None:
        self.owner = owner
        self.active = True


current: ContextVar[Call | None] = ContextVar("cognigy_async.call", default=None)
"""Set where a callback runs: what it calls must not wait for the queue that it holds up. Tasks that
the callback started inherit it, and the mark says whether the call is still under way."""


def inside_callback(owner: object) -> bool:
    """Whether this is called, directly or not, by a callback of `owner` that is under way."""
    call = current.get()
    return call is not None and call.active and call.owner is owner
