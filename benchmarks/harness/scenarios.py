"""Scenarios: what the contestants do, and which of them are compared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from .contestants import CONTESTANTS
from .figures import Pair
from .work import Work

PYREQWEST = Pair("library over pyreqwest", "bare pyreqwest")
PYREQWEST_UVLOOP = Pair("library over pyreqwest, uvloop", "bare pyreqwest, uvloop")
AIOHTTP = Pair("library over aiohttp", "bare aiohttp")
HTTPX = Pair("library over httpx", "bare httpx")
HTTPX2 = Pair("library over httpx2", "bare httpx2")


@dataclass(frozen=True)
class Scenario:
    """The same updates for every contestant.

    Attributes:
        pairs: Contestants to compare; they take part unless `contestants` is given.
        share: Factor of the number of updates.
        updates: Maximum number of updates; 0 for no maximum.
        rounds: Maximum number of rounds; 0 for no maximum.
        work: Attributes of `Work` that differ from the default.
    """

    title: str
    pairs: tuple[Pair, ...]
    contestants: tuple[str, ...] = ()
    share: float = 1.0
    updates: int = 0
    rounds: int = 3
    warmed_up: bool = True
    server: Literal["plain", "faults", "tls", "times"] = "plain"
    work: tuple[tuple[str, Any], ...] = ()

    @property
    def names(self) -> list[str]:
        """Contestants that take part."""
        paired = [name for pair in self.pairs for name in (pair.one, pair.other)]
        return list(self.contestants or dict.fromkeys(paired))

    def work_of(self, name: str, url: str, count: int, in_flight: int, **more: Any) -> Work:
        """Return the work of a contestant if that of the fastest has `count` updates."""
        contestant = CONTESTANTS[name]
        updates = max(1, int(count * self.share * contestant.share))
        updates = min(updates, self.updates or updates)
        # Enough to open every connection.
        warm_up = max(int(updates * contestant.warm_up), 4 * in_flight) if self.warmed_up else 0
        return Work(url, updates, warm_up, in_flight, **dict(self.work), **more)


SCENARIOS: dict[str, Scenario] = {
    "dialogs": Scenario(
        "many dialogs",
        (
            Pair("library over pyreqwest, uvloop", "bare pyreqwest, uvloop", 0.65),
            PYREQWEST,
            Pair("library over pyreqwest", "bare aiohttp", 1.3),
            Pair("library over pyreqwest, uvloop", "bare aiohttp, uvloop", 1.5),
            Pair("update over pyreqwest", "bare pyreqwest"),
            Pair("library over aiohttp", "bare aiohttp", 0.80),
            Pair("library over aiohttp, uvloop", "bare aiohttp, uvloop", 0.80),
            Pair("update over aiohttp", "bare aiohttp"),
            Pair("library over httpx", "bare httpx", 0.95),
            Pair("library over httpx, uvloop", "bare httpx, uvloop", 0.95),
            HTTPX2,
            Pair("library over httpx2, uvloop", "bare httpx2, uvloop"),
            Pair("library over pyreqwest", "naive gather on httpx", 12.0),
            Pair("library over pyreqwest", "the tutorial's script"),
            Pair("library over pyreqwest, sessions API", "official JavaScript client", 1.5),
            Pair("library over pyreqwest", "official JavaScript client", 1.5),
        ),
        rounds=0,
        # "update over httpx" and "update over httpx2" are for `latency.py` alone.
        contestants=tuple(name for name in CONTESTANTS if not name.startswith("update over httpx")),
    ),
    "few-dialogs": Scenario(
        "16 dialogs, in order", (PYREQWEST_UVLOOP, AIOHTTP, HTTPX2), work=(("dialogs", 16),)
    ),
    "hot-dialog": Scenario(
        "one dialog, coalesced",
        (PYREQWEST_UVLOOP, AIOHTTP, HTTPX2),
        share=0.5,
        work=(("dialogs", 1), ("coalesce", True)),
    ),
    "faults": Scenario(
        "2% faults",
        (PYREQWEST_UVLOOP, AIOHTTP, HTTPX2),
        # A 429 asks for a whole second, which should not be most of the time.
        share=2.0,
        server="faults",
        work=(("faults", True),),
    ),
    "large": Scenario(
        "64 KiB an update",
        (PYREQWEST_UVLOOP, AIOHTTP, HTTPX2),
        share=0.1,
        work=(("payload_bytes", 65_536),),
    ),
    "tls": Scenario("TLS", (PYREQWEST_UVLOOP, AIOHTTP, HTTPX, HTTPX2), server="tls"),
    "quota": Scenario(
        "500 requests a second",
        (),
        contestants=("library over pyreqwest",),
        # Six windows, and the request that shows where the last one ends.
        updates=3_010,
        warmed_up=False,
        server="times",
        work=(("per_second", 500),),
    ),
}
