"""What a job will take, before anything is sent: requests, and time under the quota."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .._utils.arguments import validate_seconds
from ..api.runtime import RuntimeApi
from ..engine.coalescing import MOST_MERGED, Merge, concern_the_same, merges, together
from ..errors import CognigyError, ConfigurationError
from ..models.limits import Limits
from ..models.update import StateUpdate, UpdateInput, parse_update
from ..ratelimit.limit import RateLimit
from ..ratelimit.sliding_window import HEADROOM_DIVISOR

if TYPE_CHECKING:
    from ..api.base import StateApi


@dataclass(frozen=True, slots=True)
class Plan:
    """What `plan` found.

    Attributes:
        updates: valid inputs. invalid: the others, which become outcomes with an error.
        dialogs: different dialogs.
        requests: the fewest that carry all of it: without repeats, and with all that may share a
            request waiting at the same time where updates are coalesced.
        seconds: from the first of them to the last, where the quota is all that takes time; None
            where no rate limit was given.
        warning: what to look out for, and what to do; None where there is nothing.
    """

    updates: int
    invalid: int
    dialogs: int
    requests: int
    seconds: float | None
    warning: str | None


def plan(
    updates: Iterable[UpdateInput],
    *,
    rate_limit: RateLimit | Sequence[RateLimit] | None = None,
    coalesce: bool = False,
    limits: Limits | None = None,
    session_ttl: float | None = None,
    api: StateApi | None = None,
) -> Plan:
    """Count what `update_many` would send. Nothing is sent, and no client is needed.

    The input is read once and not kept: memory grows with the number of dialogs, and where updates
    are coalesced with the number of their variables.

    Args:
        updates: `StateUpdate`s, or mappings of its arguments.
        rate_limit, coalesce, limits, api: as the client will have them.
        session_ttl: seconds that a session lives without being used; a job that lasts longer finds
            sessions that have ended.

    Raises:
        ConfigurationError: a rate limit that is none, as ``"auto"``, of which nothing is known yet;
            a `session_ttl` that is no number of seconds.
        TypeError: the input cannot be iterated; what the input itself raises.
    """
    if session_ttl is not None:
        session_ttl = validate_seconds("session_ttl", session_ttl, least=0.0)
    quota = _limits_of(rate_limit)
    if isinstance(updates, str | bytes | Mapping) or not isinstance(updates, Iterable):
        raise TypeError(f"plan takes an iterable of updates, not {type(updates).__name__}")
    count = _Count(api if api is not None else RuntimeApi(), limits, coalesce=coalesce)
    for row in updates:
        count.add(row)
    count.end()
    seconds = seconds_under(quota, count.requests)
    return Plan(
        count.updates,
        count.invalid,
        len(count.dialogs),
        count.requests,
        seconds,
        _warning(seconds, session_ttl),
    )


class _Count:
    """Requests, update by update."""

    def __init__(self, api: StateApi, limits: Limits | None, *, coalesce: bool) -> None:
        self._api = api
        self._coalesce = coalesce and api.keeps_other_variables
        self._limits = limits if limits is not None else api.limits
        self._open: dict[str, tuple[Merge, int, StateUpdate, int]] = {}
        self.dialogs: set[str] = set()
        self.updates = 0
        self.invalid = 0
        self.requests = 0

    def add(self, row: UpdateInput) -> None:
        """Count one input."""
        try:
            update = parse_update(row, self._limits)
            self._api.check(update)
            alone = self._requests(update)
        except CognigyError:
            self.invalid += 1
            return
        self.updates += 1
        self.dialogs.add(update.dialog_id)
        if not (self._coalesce and self._joins(update, alone)):
            self.requests += alone

    def end(self) -> None:
        """Nothing more joins the groups that there are."""
        for dialog_id in list(self._open):
            self._close(dialog_id)

    def _joins(self, update: StateUpdate, alone: int) -> bool:
        """Whether an update went into the group of its dialog, or began a new one."""
        dialog_id = update.dialog_id
        if not merges(update):
            self._close(dialog_id)
            return False
        payload = update.payload()
        began = Merge(self._limits), 0, update, alone
        merge, members, first, requests = self._open.get(dialog_id, began)
        apart = members == MOST_MERGED or not concern_the_same(first, update)
        if apart or not merge.take(payload):
            self._close(dialog_id)
            merge, members, first, requests = Merge(self._limits), 0, update, alone
            if not merge.take(payload):
                return False
        if not members:
            # Of the first one no values are kept.
            first = together(self._limits, update, {"next_step": "-"})
        self._open[dialog_id] = (merge, members + 1, first, requests)
        return True

    def _close(self, dialog_id: str) -> None:
        if dialog_id not in self._open:
            return
        merge, members, first, requests = self._open.pop(dialog_id)
        if members == 1:
            self.requests += requests
            return
        # Sizes were looked at already; how many requests it takes depends on what is assigned.
        assigned: dict[str, Any] = {name: dict.fromkeys(of, 0) for name, of in merge.names.items()}
        try:
            stand_in = together(self._limits, first, assigned)
            self._api.check(stand_in)
            self.requests += self._requests(stand_in)
        except CognigyError:
            self.requests += members

    def _requests(self, update: StateUpdate) -> int:
        return len(self._api.writes("", update, "-"))


def _limits_of(rate_limit: RateLimit | Sequence[RateLimit] | None) -> Sequence[RateLimit]:
    if rate_limit is None:
        return ()
    several = rate_limit if isinstance(rate_limit, Sequence) else (rate_limit,)
    for limit in several:
        if not hasattr(limit, "capacity"):
            raise ConfigurationError(
                f"rate_limit={rate_limit!r}: a plan needs numbers, "
                "for example RateLimit(1000, per=300)"
            )
    return several


def seconds_under(
    rate_limit: RateLimit | Sequence[RateLimit] | None, requests: int
) -> float | None:
    """Return the seconds from the first of so many requests to the last; None without a limit.

    Raises:
        ConfigurationError: A rate limit that is not known in numbers.
    """
    several = _limits_of(rate_limit)
    return max((_seconds_under_one(limit, requests) for limit in several), default=None)


def _seconds_under_one(limit: RateLimit, requests: int) -> float:
    # Bulk work spreads the last tenth of a window over it.
    window = limit.per * (1 + limit.guard)
    capacity = limit.capacity
    windows, rest = divmod(requests, capacity)
    tenth = capacity // HEADROOM_DIVISOR
    if tenth:
        seconds = windows * window + max(0, rest - (capacity - tenth)) / tenth * window
    else:
        seconds = max(0, math.ceil(requests / capacity) - 1) * window
    if limit.burst is not None:
        seconds = max(seconds, (requests - limit.burst) * window / capacity)
    return seconds


def _warning(seconds: float | None, session_ttl: float | None) -> str | None:
    if seconds is None or session_ttl is None or seconds <= session_ttl:
        return None
    return (
        f"under the quota this takes {seconds:.0f} s, longer than the {session_ttl:.0f} s that a "
        "session lives: the last updates may find that theirs has ended; coalesce, send less, or "
        "send sooner what ends sooner"
    )
