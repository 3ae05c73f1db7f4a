"""Counters of requests to the emulator, and of forbidden behaviour of clients."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

VIOLATIONS = (
    "overlapping_writes",
    "early_requests",
    "early_repeats",
    "reordered",
    "double_applies",
    "reused_keys",
)


@dataclass(slots=True)
class Stats:
    """Counters since the start or the last reset.

    By convention, updates of a dialog may assign an integer session variable ``seq`` that grows
    from update to update; messages have it in their data. By ``seq``, the emulator sees whether
    updates arrive in order. By `Idempotency-Key` and ``seq``, it sees whether an update is applied
    more than once.

    A request whose client has given up (a timeout, a closed connection) is not in flight, even if
    the server still works on it.

    Attributes:
        requests: API requests; `reads` are GET, `writes` are PATCH and POST.
        applied: Writes of clients that made a new version.
        replayed: Writes with a known `Idempotency-Key` that got the first response again.
        answers: API responses by status.
        faults: Injected faults by name; a scripted status by its number.
        dropped: Connections closed without a response.
        abandoned: Requests whose client disconnected before the response.
        in_flight_max: Highest number of API requests in flight.
        connections: Accepted connections; 0 without sockets.
        connections_max: Highest number of open connections; 0 without sockets.
        token_requests: Requests to the token endpoint.
        tokens_issued: Tokens that the token endpoint issued.
        token_answers: Responses of the token endpoint, by status.
        token_requests_overlapping: Highest number of token requests in flight.
        repeated: Writes with the highest `seq` that had arrived before.
        repeat_applies: Writes applied although the same update was applied before. Harmless if
            only variables are assigned.

        overlapping_writes: Writes that arrived while another one of the dialog was in flight.
        early_requests: Requests to a throttled tenant or dialog before its `Retry-After`, or before
            the reset in quota headers if there is none.
        early_repeats: Updates repeated before the `Retry-After` of the 503 that answered them.
        reordered: Writes that arrived with a smaller `seq` than an earlier write.
        double_applies: Updates with a transition or a message that were applied more than once.
        reused_keys: Writes with the `Idempotency-Key` of another body.
    """

    requests: int = 0
    reads: int = 0
    writes: int = 0
    applied: int = 0
    replayed: int = 0
    answers: Counter[int] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    dropped: int = 0
    abandoned: int = 0
    in_flight_max: int = 0
    connections: int = 0
    connections_max: int = 0
    token_requests: int = 0
    tokens_issued: int = 0
    token_answers: Counter[int] = field(default_factory=Counter)
    token_requests_overlapping: int = 0
    repeated: int = 0
    repeat_applies: int = 0
    overlapping_writes: int = 0
    early_requests: int = 0
    early_repeats: int = 0
    reordered: int = 0
    double_applies: int = 0
    reused_keys: int = 0

    def violations(self) -> dict[str, int]:
        """Return the counters of forbidden behaviour that are not 0."""
        return {name: getattr(self, name) for name in VIOLATIONS if getattr(self, name)}

    def as_dict(self) -> dict[str, Any]:
        """Return all counters by name, and `violations`."""
        counters = {each.name: getattr(self, each.name) for each in fields(self)}
        return {
            name: dict(value) if isinstance(value, Mapping) else value
            for name, value in counters.items()
        } | {"violations": self.violations()}

    def reset(self) -> None:
        """Set all counters to 0 in place."""
        fresh = Stats()
        for each in fields(self):
            setattr(self, each.name, getattr(fresh, each.name))
