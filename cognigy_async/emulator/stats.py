"""What the emulator has seen: counters, and what no client may do."""

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

    By convention the integer session variable ``seq``, where an update assigns one, grows from
    update to update of a dialog. By it the emulator sees whether updates arrive in order, whatever
    becomes of them. Whether an update is applied more than once it sees by its `Idempotency-Key`
    and by ``seq``.

    A request that its client no longer waits for (a time-out, a closed connection) is not in
    flight, even if the server is still at work on it.

    Attributes:
        requests: to the API, all kinds; `reads` are GET, `writes` PATCH and POST.
        applied: writes of clients that made a new version.
        replayed: writes answered from memory because their `Idempotency-Key` was applied before.
        answers: API answers by status.
        faults: faults met, by name; a scripted status by its number.
        dropped: connections closed without an answer.
        abandoned: requests whose client went away before the answer.
        in_flight_max: most API requests under way at one time.
        connections, connections_max: accepted, and most open at one time (0 without sockets).
        token_requests, tokens_issued, token_answers: of the token endpoint.
        token_requests_overlapping: most token requests under way at one time.
        repeated: writes that arrived with the same `seq` as the one before: repeats.
        repeat_applies: writes applied although the same update was applied before. Harmless where
            only variables are assigned; a server that honours keys has none with the same key.

        overlapping_writes: writes that arrived while another one of the dialog was in flight.
        early_requests: requests to a throttled tenant or dialog before the moment named.
        early_repeats: updates repeated before the `Retry-After` of the 503 that answered them.
        reordered: writes that arrived with a smaller `seq` than one before.
        double_applies: updates with a transition that were applied more than once.
        reused_keys: writes with the `Idempotency-Key` of another body.
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
        """Those counters of what no client may do that are not 0."""
        return {name: getattr(self, name) for name in VIOLATIONS if getattr(self, name)}

    def as_dict(self) -> dict[str, Any]:
        """Every counter by name, and `violations`."""
        counters = {each.name: getattr(self, each.name) for each in fields(self)}
        return {
            name: dict(value) if isinstance(value, Mapping) else value
            for name, value in counters.items()
        } | {"violations": self.violations()}

    def reset(self) -> None:
        """Every counter at 0 again, in place."""
        fresh = Stats()
        for each in fields(self):
            setattr(self, each.name, getattr(fresh, each.name))
