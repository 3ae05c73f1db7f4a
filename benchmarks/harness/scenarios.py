"""What is asked of the contestants, and which of them are compared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from .contestants import CONTESTANTS
from .work import Work

__all__ = ["SCENARIOS", "Pair", "Scenario"]

Server = Literal["plain", "faults", "tls", "times"]


@dataclass(frozen=True)
class Pair:
    """Updates per second of one contestant as times those of another, and what is aimed at."""

    one: str
    other: str
    aim: float | None = None


FOR_LATENCY = ("update over httpx", "update over httpx2")
"""Contestants that only `latency.py` needs."""

AIOHTTP = Pair("library over aiohttp", "bare aiohttp")
AIOHTTP_UVLOOP = Pair("library over aiohttp, uvloop", "bare aiohttp, uvloop")
HTTPX = Pair("library over httpx", "bare httpx")
HTTPX2 = Pair("library over httpx2", "bare httpx2")


@dataclass(frozen=True)
class Scenario:
    """The same updates for every contestant.

    Attributes:
        title: of its table.
        pairs: whom to compare; also who takes part, unless `contestants` says so.
        share: of the number of updates that is asked for.
        updates: at most so many, for every contestant; 0 for no such bound.
        rounds: at most so many; 0 for no such bound.
        warmed_up: there are more updates before those that are measured.
        server: which of the servers is met.
        work: what differs from the usual `Work`.
    """

    title: str
    pairs: tuple[Pair, ...]
    contestants: tuple[str, ...] = ()
    share: float = 1.0
    updates: int = 0
    rounds: int = 3
    warmed_up: bool = True
    server: Server = "plain"
    work: tuple[tuple[str, Any], ...] = ()

    @property
    def names(self) -> list[str]:
        """Who takes part."""
        paired = [name for pair in self.pairs for name in (pair.one, pair.other)]
        return list(self.contestants or dict.fromkeys(paired))

    def work_of(self, name: str, url: str, count: int, in_flight: int, **more: Any) -> Work:
        """What a contestant is asked for, where the fastest is asked for `count`."""
        updates = max(1, int(count * self.share * CONTESTANTS[name].share))
        updates = min(updates, self.updates or updates)
        return Work(
            url,
            updates,
            warm_up=self._warm_up(name, updates, in_flight),
            in_flight=in_flight,
            **dict(self.work),
            **more,
        )

    def _warm_up(self, name: str, updates: int, in_flight: int) -> int:
        """A share of the updates, and enough to open every connection."""
        if not self.warmed_up:
            return 0
        return max(int(updates * CONTESTANTS[name].warm_up), 4 * in_flight)


SCENARIOS: dict[str, Scenario] = {
    "dialogs": Scenario(
        "many dialogs",
        (
            Pair("library over aiohttp", "bare aiohttp", 0.80),
            Pair("library over aiohttp, uvloop", "bare aiohttp, uvloop", 0.80),
            Pair("update over aiohttp", "bare aiohttp"),
            Pair("library over httpx", "bare httpx", 0.95),
            Pair("library over httpx, uvloop", "bare httpx, uvloop", 0.95),
            HTTPX2,
            Pair("library over httpx2, uvloop", "bare httpx2, uvloop"),
            Pair("library over aiohttp", "naive gather on httpx", 12.0),
            Pair("library over aiohttp", "the tutorial's script"),
            Pair("library over aiohttp, sessions API", "official JavaScript client", 1.5),
            Pair("library over aiohttp", "official JavaScript client", 1.5),
        ),
        rounds=0,
        contestants=tuple(name for name in CONTESTANTS if name not in FOR_LATENCY),
    ),
    "few-dialogs": Scenario(
        "16 dialogs, in order",
        (AIOHTTP, AIOHTTP_UVLOOP, HTTPX2),
        work=(("dialogs", 16),),
    ),
    "hot-dialog": Scenario(
        "one dialog, coalesced",
        (AIOHTTP, HTTPX2),
        share=0.5,
        work=(("dialogs", 1), ("coalesce", True)),
    ),
    "faults": Scenario(
        "2% faults",
        (AIOHTTP, HTTPX2),
        # A 429 asks for a whole second, which should not be most of the time.
        share=2.0,
        server="faults",
        work=(("faults", True),),
    ),
    "large": Scenario(
        "64 KiB an update",
        (AIOHTTP, AIOHTTP_UVLOOP, HTTPX2),
        share=0.1,
        work=(("payload_bytes", 65_536),),
    ),
    "tls": Scenario(
        "TLS",
        (AIOHTTP, AIOHTTP_UVLOOP, HTTPX, HTTPX2),
        server="tls",
    ),
    "quota": Scenario(
        "500 requests a second",
        (),
        contestants=("library over aiohttp",),
        # Six windows, and what shows where the last one ends.
        updates=3_010,
        warmed_up=False,
        server="times",
        work=(("per_second", 500),),
    ),
}
