"""Estimate the requests of a job and its duration under a rate limit, without sending anything."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .._utils.arguments import validate_seconds
from ..api.endpoint import count_requests
from ..api.runtime import RuntimeApi
from ..engine.coalescing import MOST_MERGED, Merge, concern_the_same, merges, together
from ..errors import CognigyError
from ..models.limits import Limits
from ..models.update import StateUpdate, UpdateInput, check_iterable, parse_update
from ..ratelimit.estimate import numeric_limits, seconds_under
from ..ratelimit.limit import RateLimit

if TYPE_CHECKING:
    from ..api.base import MergedValues, StateApi


@dataclass(frozen=True, slots=True)
class Plan:
    """Estimate of a job; result of `plan`.

    Attributes:
        updates: Number of valid inputs.
        invalid: Number of invalid inputs, which become outcomes with an error.
        dialogs: Number of different dialogs.
        requests: Minimum number of requests, with no retries and with every merge that coalescing
            allows.
        seconds: Minimum time from the first request to the last under the rate limit; None without
            a rate limit.
        warning: Text with a problem and its remedy, or None.
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
    """Estimate the requests of `update_many`. `plan` needs no client and sends nothing.

    `plan` reads the input once and does not keep it. Memory grows with the number of dialogs and,
    if updates are coalesced, with the number of variables per dialog.

    Args:
        updates: An iterable of `StateUpdate` or mappings of its arguments.
        rate_limit, coalesce, limits, api: See `AsyncStateClient`.
        session_ttl: Seconds that a session lives, for six types of endpoint 1,800 by default
            (docs.cognigy.com, "Session Management"). A job that takes longer gets a warning.

    Raises:
        ConfigurationError: The rate limit has no numbers, as ``"auto"``, or `session_ttl` is
            invalid.
        TypeError: `updates` cannot be iterated.
        Exception: Iterating over `updates` raised it.

    Example::

        plan(rows, rate_limit=RateLimit(1000, per=300)).seconds
    """
    if session_ttl is not None:
        session_ttl = validate_seconds("session_ttl", session_ttl, least=0.0)
    quota = numeric_limits(rate_limit)
    check_iterable("plan", updates)
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
    """Counts requests, update by update."""

    def __init__(self, api: StateApi, limits: Limits | None, *, coalesce: bool) -> None:
        self._api = api
        self._coalesce = coalesce and api.keeps_other_variables
        self._limits = limits if limits is not None else api.limits
        self._merged_values: MergedValues = api.merged_values
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
        """Count the requests of the groups that are still open."""
        for dialog_id in list(self._open):
            self._close(dialog_id)

    def _joins(self, update: StateUpdate, alone: int) -> bool:
        """Return True if the update joined the group of its dialog or started a new one."""
        dialog_id = update.dialog_id
        if not merges(update):
            self._close(dialog_id)
            return False
        payload = update.payload()
        began = Merge(self._limits, self._merged_values), 0, update, alone
        merge, members, first, requests = self._open.get(dialog_id, began)
        apart = members == MOST_MERGED or not concern_the_same(first, update)
        if apart or not merge.take(payload):
            self._close(dialog_id)
            merge = Merge(self._limits, self._merged_values)
            members, first, requests = 0, update, alone
            if not merge.take(payload):
                return False
        if not members:
            # Keep the first update without its values.
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
        # Values do not matter here: the number of requests depends on the names of variables.
        assigned: dict[str, Any] = {name: dict.fromkeys(of, 0) for name, of in merge.names.items()}
        try:
            stand_in = together(self._limits, first, assigned)
            self._api.check(stand_in)
            self.requests += self._requests(stand_in)
        except CognigyError:
            self.requests += members

    def _requests(self, update: StateUpdate) -> int:
        return count_requests(self._api, update)


def _warning(seconds: float | None, session_ttl: float | None) -> str | None:
    if seconds is None or session_ttl is None or seconds <= session_ttl:
        return None
    return (
        f"the job takes {seconds:.0f} s under the rate limit, longer than a session lives "
        f"({session_ttl:.0f} s), so the last sessions may have ended; coalesce, send fewer "
        "updates, or send those of the oldest sessions first"
    )
