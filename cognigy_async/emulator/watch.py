"""Watches what clients do: what is in flight, in which order updates come, what is repeated."""

from __future__ import annotations

from .asgi import Connection
from .state import HistoryEntry
from .stats import Stats


class Arrival:
    """A request between its arrival and its answer."""

    __slots__ = ("connection", "written")

    def __init__(self, connection: Connection | None, written: str | None = None) -> None:
        self.connection = connection
        self.written = written
        """The dialog that it writes."""

    @property
    def awaited(self) -> bool:
        """Whether somebody still waits for its answer."""
        return self.connection is None or not self.connection.is_closed()


class InFlight:
    """The requests under way of one kind."""

    def __init__(self) -> None:
        self._arrivals: set[Arrival] = set()

    def add(self, arrival: Arrival, most: int) -> int:
        """One more; how many are awaited now at most, and `most` if that is more."""
        arrivals = self._arrivals
        arrivals.add(arrival)
        if len(arrivals) <= most:
            return most
        return max(most, sum(each.awaited for each in arrivals))

    def remove(self, arrival: Arrival) -> None:
        """It is answered, or nobody waits for it; removing it twice is fine."""
        self._arrivals.discard(arrival)


class Watch:
    """Counts in `stats` what the requests to the API and to the token endpoint show."""

    def __init__(self, stats: Stats) -> None:
        self.stats = stats
        self._in_flight = InFlight()
        self._tokens_in_flight = InFlight()
        self._writes: dict[str, list[Arrival]] = {}
        self._highest_seq: dict[str, int] = {}

    def reset(self) -> None:
        """Forget the order of updates; what is under way stays so."""
        self._highest_seq.clear()

    def read_arrives(self, connection: Connection | None) -> Arrival:
        """A GET is whole."""
        self.stats.reads += 1
        return self._arrives(Arrival(connection))

    def write_arrives(
        self, connection: Connection | None, dialog_id: str | None, seq: int | None
    ) -> Arrival:
        """A write is whole: to a dialog, or (None) to what is no dialog's own."""
        self.stats.writes += 1
        if dialog_id is None:
            return self._arrives(Arrival(connection))
        arrival = Arrival(connection, dialog_id)
        others = self._writes.get(dialog_id)
        if others is None:
            self._writes[dialog_id] = [arrival]
        else:
            if any(other.awaited for other in others):
                self.stats.overlapping_writes += 1
            others.append(arrival)
        if seq is not None:
            self._count_order(dialog_id, seq)
        return self._arrives(arrival)

    def leaves(self, arrival: Arrival) -> None:
        """The answer is on its way, or there is none; to be told twice is fine."""
        self._in_flight.remove(arrival)
        dialog_id = arrival.written
        if dialog_id is not None:
            arrival.written = None
            writes = self._writes[dialog_id]
            writes.remove(arrival)
            if not writes:
                del self._writes[dialog_id]

    def token_request_arrives(self, connection: Connection | None) -> Arrival:
        """A token is asked for."""
        stats = self.stats
        stats.token_requests += 1
        arrival = Arrival(connection)
        stats.token_requests_overlapping = self._tokens_in_flight.add(
            arrival, stats.token_requests_overlapping
        )
        return arrival

    def token_request_leaves(self, arrival: Arrival) -> None:
        """Its answer is on its way, or there is none."""
        self._tokens_in_flight.remove(arrival)

    def applied(self, entry: HistoryEntry, before: HistoryEntry | None) -> None:
        """A client's write made a version; `before` is the same update's entry of earlier."""
        stats = self.stats
        stats.applied += 1
        if before is not None:
            stats.repeat_applies += 1
            if "transition" in entry.body and "transition" in before.body:
                stats.double_applies += 1

    def _arrives(self, arrival: Arrival) -> Arrival:
        stats = self.stats
        stats.requests += 1
        stats.in_flight_max = self._in_flight.add(arrival, stats.in_flight_max)
        return arrival

    def _count_order(self, dialog_id: str, seq: int) -> None:
        highest = self._highest_seq.get(dialog_id)
        if highest is None or seq > highest:
            self._highest_seq[dialog_id] = seq
        elif seq == highest:
            self.stats.repeated += 1
        else:
            self.stats.reordered += 1
