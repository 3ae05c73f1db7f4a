"""What a run does: its updates, where they go, and how many at a time. The same for every
contestant."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["HEADERS", "Work"]

HEADERS = {
    "Accept": "application/json",
    "Content-Type": "application/json",
    "Authorization": "Bearer 0123456789abcdef",
}
TEXT = "x" * 150
ITEM = {"sku": "A-4711", "name": "a thing with a name", "price": 149.99, "amount": 2}


@functools.cache
def _items(size: int) -> list[dict[str, Any]]:
    """A list that is `size` bytes long as JSON, or a little less."""
    return [ITEM] * (size // len(json.dumps(ITEM) + ", "))


@dataclass(frozen=True)
class Work:
    """One run of one contestant; goes to its process as JSON.

    Attributes:
        count: updates that are measured.
        warm_up: as many before them.
        dialogs: over which the updates go round; 0 for one dialog each.
        payload_bytes: of an update, about; 0 for two variables, about 200 bytes.
        faults: the server has some, so requests have to be repeated.
        coalesce: updates that wait for the same dialog may be sent as one.
        per_second: a rate limit; 0 for none.
        rate: calls a second, at which they are made whatever becomes of them; 0 for a pool of
            workers.
        latencies: are kept for each request.
        server_pid: whose CPU time is told as well; 0 for nobody's.
        authority: a file in PEM with whom to trust.
    """

    url: str
    count: int
    warm_up: int = 0
    in_flight: int = 64
    dialogs: int = 0
    payload_bytes: int = 0
    faults: bool = False
    coalesce: bool = False
    per_second: int = 0
    rate: float = 0.0
    latencies: bool = False
    server_pid: int = 0
    authority: str | None = None

    @classmethod
    def from_json(cls, text: str) -> Work:
        return cls(**json.loads(text))

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @property
    def workers(self) -> int:
        """How many of a pool keep the order of each dialog, if each of them has its own."""
        return min(self.in_flight, self.dialogs) if self.dialogs else self.in_flight

    def dialog(self, number: int) -> str:
        return f"d{number % self.dialogs if self.dialogs else number}"

    def url_of(self, number: int) -> str:
        return f"{self.url}/runtime/v2/dialogs/{self.dialog(number)}/state"

    def session(self, number: int) -> dict[str, Any]:
        if self.payload_bytes:
            return {"n": number, "items": _items(self.payload_bytes)}
        return {"n": number, "text": TEXT}

    def content(self, number: int) -> bytes:
        return json.dumps({"session": self.session(number)}).encode()

    def rows(self, start: int, end: int) -> Iterator[dict[str, Any]]:
        for number in range(start, end):
            yield {"dialog_id": self.dialog(number), "session": self.session(number)}

    def shares(self, start: int, end: int) -> list[Iterator[int]]:
        """The numbers from `start` to `end` for each worker of a pool.

        They share what there is, or, where dialogs have several updates, each has all those of some
        dialogs, in their order.
        """
        if not self.dialogs:
            return [iter(range(start, end))] * self.in_flight
        return [
            iter([n for n in range(start, end) if n % self.dialogs % self.workers == worker])
            for worker in range(self.workers)
        ]
