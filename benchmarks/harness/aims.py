"""What is aimed at, and whether it was reached; pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["Aim", "aims"]

LEAST_DIALOGS, MOST_DIALOGS = "1000", "1000000"
MEMORY_FROM = "10000"
GROWTH_OF_CPU = 1.1
GROWTH_OF_MEMORY = 10.0
"""Megabytes."""

UTILISATION = 0.99
COSTS = {"update_many": 10.0, "update": 20.0}
"""Microseconds of CPU for each update, over a transport that does nothing."""


@dataclass(frozen=True)
class Aim:
    """One row."""

    what: str
    bound: str
    measured: str
    is_met: bool


def aims(found: Mapping[str, Mapping[str, Any]]) -> Iterator[Aim]:
    """All of which there are results."""
    if "overhead" in found:
        yield from _overhead(found["overhead"])
    if "throughput" in found:
        yield from _throughput(found["throughput"]["scenarios"])
    if "latency" in found:
        yield from _latency(found["latency"]["libraries"])
    if "dialogs" in found:
        yield from _dialogs(found["dialogs"]["kinds"])


def _overhead(results: Mapping[str, Any]) -> Iterator[Aim]:
    for told in results.values():
        for kind, most in COSTS.items():
            cost = told[kind]["cpu_us"]
            limit = ", with a rate limit" if told.get("rate_limit") else ""
            calls = f", {told['count']:,} calls at once" if kind == "update" else ""
            what = f"CPU of `{kind}`{calls}, Python {told['python']}{limit}"
            yield Aim(what, f"at most {most:g} µs", f"{cost:.1f} µs", cost <= most)


def _throughput(scenarios: Mapping[str, Any]) -> Iterator[Aim]:
    for told in scenarios.values():
        for compared in told["ratios"]:
            aim, rate = compared["aim"], compared["per_second"]
            if aim is not None:
                measured = f"{rate['median']:.2f} ({rate['lowest']:.2f} to {rate['highest']:.2f})"
                measured += f", by CPU {compared['cpu']['median']:.2f}"
                what = f"{compared['one']}, times {compared['other']}"
                yield Aim(what, f"at least {aim:g}", measured, rate["median"] >= aim)
    if "quota" in scenarios:
        for one in scenarios["quota"]["contestants"].values():
            used = one["utilisation"]["median"]
            what = "use of a rate limit"
            yield Aim(what, f"at least {UTILISATION:.0%}", f"{used:.1%}", used >= UTILISATION)


def _latency(libraries: Mapping[str, Any]) -> Iterator[Aim]:
    for library, told in libraries.items():
        p99 = told["p99_ratio"]
        yield Aim(
            f"p99 of `update` over {library}, times that of bare {library}",
            f"at most {p99['aim']:g}",
            f"{p99['median']:.2f} ({p99['lowest']:.2f} to {p99['highest']:.2f})",
            p99["median"] <= p99["aim"],
        )


def _dialogs(kinds: Mapping[str, Any]) -> Iterator[Aim]:
    for kind, numbers in kinds.items():
        if kind in COSTS and MOST_DIALOGS in numbers:
            cost = numbers[MOST_DIALOGS]["cpu_us"]["median"]
            calls = ", as many calls at once as requests in flight" if kind == "update" else ""
            what = f"CPU of `{kind}`{calls}, 10^6 dialogs"
            yield Aim(what, f"at most {COSTS[kind]:g} µs", f"{cost:.1f} µs", cost <= COSTS[kind])
        if {LEAST_DIALOGS, MOST_DIALOGS} <= numbers.keys():
            most, least = (numbers[n]["cpu_us"]["median"] for n in (MOST_DIALOGS, LEAST_DIALOGS))
            yield Aim(
                f"CPU of `{kind}` with 10^6 dialogs, times that with 10^3",
                f"at most {GROWTH_OF_CPU:g}",
                f"{most / least:.2f}",
                most <= GROWTH_OF_CPU * least,
            )
        if kind == "update_many" and {MEMORY_FROM, MOST_DIALOGS} <= numbers.keys():
            most, least = (numbers[n]["peak_mb"]["median"] for n in (MOST_DIALOGS, MEMORY_FROM))
            yield Aim(
                "memory of `update_many` with 10^6 dialogs, above that with 10^4",
                f"below {GROWTH_OF_MEMORY:g} MB",
                f"{most - least:.1f} MB",
                most - least < GROWTH_OF_MEMORY,
            )
