"""Who takes part: a name for each way to make the updates, on an event loop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from .bare import bare, naive_gather
from .elsewhere import javascript, missing_javascript, missing_wrk, wrk
from .library import sessions_api, update, update_many
from .measuring import measured
from .script import one_at_a_time
from .work import Work

__all__ = ["CONTESTANTS", "Contestant", "present"]


def _nothing() -> None:
    return None


def _missing_uvloop() -> str | None:
    return None if find_spec("uvloop") else "uvloop is not installed"


@dataclass(frozen=True)
class Contestant:
    """A way to make the updates.

    Attributes:
        run: does the work in this process and tells what it measured.
        share: of the updates of the fastest, since slow ones are measured as well with fewer.
        warm_up: as many updates before those that are measured, as a share of them.
        missing: why it cannot take part, or None.
    """

    run: Callable[[Work], dict[str, Any]]
    share: float = 1.0
    warm_up: float = 0.2
    missing: Callable[[], str | None] = _nothing


def _in_python() -> dict[str, Contestant]:
    table = {}
    for loop, missing in (("asyncio", _nothing), ("uvloop", _missing_uvloop)):
        for library, share in (("aiohttp", 1.0), ("httpx", 0.06), ("httpx2", 0.15)):
            suffix = "" if loop == "asyncio" else ", uvloop"
            table[f"library over {library}{suffix}"] = Contestant(
                measured(update_many(library), loop), share, missing=missing
            )
            table[f"bare {library}{suffix}"] = Contestant(
                measured(bare(library), loop), share, missing=missing
            )
            if loop == "asyncio":
                table[f"update over {library}"] = Contestant(measured(update(library), loop), share)
    return table


CONTESTANTS: dict[str, Contestant] = {
    **_in_python(),
    "library over aiohttp, sessions API": Contestant(
        measured(update_many("aiohttp", sessions_api), "asyncio")
    ),
    "official JavaScript client": Contestant(
        # Its code is compiled while it runs, and needs thousands of calls to be as fast as it gets.
        javascript,
        0.5,
        warm_up=1.0,
        missing=missing_javascript,
    ),
    "naive gather on httpx": Contestant(measured(naive_gather, "asyncio"), 0.06),
    "the tutorial's script": Contestant(measured(one_at_a_time, "asyncio"), 0.2),
    "wrk": Contestant(wrk, missing=missing_wrk),
}


def present(names: list[str], tell: Callable[[str], None]) -> list[str]:
    """Those that can take part; why another cannot is told."""
    there = []
    for name in names:
        if reason := CONTESTANTS[name].missing():
            tell(f"without {name}: {reason}")
        else:
            there.append(name)
    return there
