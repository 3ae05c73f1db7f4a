"""Recording of what clients do: requests in flight, the order of updates, repeats."""

from __future__ import annotations

from .server.asgi import Connection
from .state import UNREPEATABLE, HistoryEntry
from .stats import Stats


class Arrival:
    """A request in flight; `dialog_id` is the dialog that it writes, if any."""

    __slots__ = ("connection", "dialog_id")

    def __init__(self, connection: Connection | None, dialog_id: str | None = None) -> None:
        self.connection = connection
        self.dialog_id = dialog_id

    @property
    def awaited(self) -> bool:
        """Return whether a client still waits for the response."""
        return self.connection is None or not self.connection.is_closed()


class Recorder:
    """Count requests to the APIs and to the token endpoints in `stats`."""

    def __init__(self, stats: Stats) -> None:
        self.stats = stats
        self._in_flight: set[Arrival] = set()
        self._token_requests: set[Arrival] = set()
        self._writes: dict[str, list[Arrival]] = {}
        self._highest_seq: dict[str, int] = {}

    def reset(self) -> None:
        """Forget the order of updates, but not the requests in flight."""
        self._highest_seq.clear()

    def begin_read(self, connection: Connection | None) -> Arrival:
        """Record that a read has arrived."""
        self.stats.reads += 1
        return self._begin(Arrival(connection))

    def begin_write(
        self, connection: Connection | None, dialog_id: str | None, seq: int | None
    ) -> Arrival:
        """Record that a write has arrived; `dialog_id` is None if it writes no dialog."""
        self.stats.writes += 1
        arrival = Arrival(connection, dialog_id)
        if dialog_id is not None:
            others = self._writes.setdefault(dialog_id, [])
            if any(other.awaited for other in others):
                self.stats.overlapping_writes += 1
            others.append(arrival)
            if seq is not None:
                self._record_order(dialog_id, seq)
        return self._begin(arrival)

    def end(self, arrival: Arrival) -> None:
        """Record the end of a request: its response is about to be sent, or never will be."""
        self._in_flight.discard(arrival)
        self._token_requests.discard(arrival)
        if arrival.dialog_id is not None:
            writes = self._writes[arrival.dialog_id]
            writes.remove(arrival)
            if not writes:
                del self._writes[arrival.dialog_id]

    def begin_token_request(self, connection: Connection | None) -> Arrival:
        """Record that a token request has arrived."""
        stats, arrival = self.stats, Arrival(connection)
        stats.token_requests += 1
        self._token_requests.add(arrival)
        stats.token_requests_overlapping = _peak(
            stats.token_requests_overlapping, self._token_requests
        )
        return arrival

    def record_applied(self, entry: HistoryEntry, earlier: HistoryEntry | None) -> None:
        """Record that a client's write was applied.

        Args:
            entry: Version that the write made.
            earlier: Version that the same update made before; None if there is none.
        """
        self.stats.applied += 1
        if earlier is not None:
            self.stats.repeat_applies += 1
            if any(name in entry.body and name in earlier.body for name in UNREPEATABLE):
                self.stats.double_applies += 1

    def _begin(self, arrival: Arrival) -> Arrival:
        self.stats.requests += 1
        self._in_flight.add(arrival)
        self.stats.in_flight_max = _peak(self.stats.in_flight_max, self._in_flight)
        return arrival

    def _record_order(self, dialog_id: str, seq: int) -> None:
        highest = self._highest_seq.get(dialog_id)
        if highest is None or seq > highest:
            self._highest_seq[dialog_id] = seq
        elif seq == highest:
            self.stats.repeated += 1
        else:
            self.stats.reordered += 1


def _peak(most: int, arrivals: set[Arrival]) -> int:
    """Return the number of awaited requests, or `most` if that is higher."""
    # The number of all requests is a cheap upper bound.
    if len(arrivals) <= most:
        return most
    return max(most, sum(each.awaited for each in arrivals))
