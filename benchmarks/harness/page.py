"""The results as Markdown: targets and tables, for the page that shows them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from .figures import ratio_text

BEGIN = "<!-- results: written by benchmarks/plots.py -->"
END = "<!-- end of results -->"
BEGIN_CHOICE = "<!-- choice: written by benchmarks/plots.py -->"
END_CHOICE = "<!-- end of choice -->"

Results = Mapping[str, Any]

ALT = {
    "tenant.svg": "Updates per second by requests in flight, to a server that takes its time",
    "throughput.svg": "Updates per second of each contestant",
    "scenarios.svg": "Throughput as a multiple of a bare pool, by scenario",
    "by-in-flight.svg": "Throughput and latency by requests in flight",
    "latency.svg": "Latency percentiles at half of the maximum throughput",
    "by-dialogs.svg": "CPU and memory by the number of dialogs",
}

CARRIED = 0.95
"""Share of the rate that a server's latency allows, from which a transport carries a level."""

COSTS = {"update_many": 10.0, "update": 20.0}
"""Targets: CPU microseconds per update over a transport that does nothing."""


class Aim(NamedTuple):
    """A target, and whether it was reached."""

    what: str
    bound: str
    measured: str
    is_met: bool


def read(folder: Path) -> dict[str, Any]:
    """Read the files of results by name; `overhead` has one for each Python."""
    found: dict[str, Any] = {}
    for path in sorted(folder.glob("*.json")):
        results = json.loads(path.read_text(encoding="utf-8"))
        name, _, version = path.stem.partition("-")
        if version:
            found.setdefault(name, {})[version] = results
        else:
            found[name] = results
    return found


def inserted(page: str, text: str, marks: tuple[str, str] = (BEGIN, END)) -> str:
    """Return the page with `text` between two comments. Raise ValueError if one is missing."""
    before, begin, rest = page.partition(marks[0])
    _, end, after = rest.partition(marks[1])
    if not begin or not end:
        raise ValueError(f"the page needs a line {marks[0]} and, later, a line {marks[1]}")
    return f"{before}{begin}\n\n{text.strip()}\n\n{end}{after}"


def choice(found: Mapping[str, Results], folder: str) -> str:
    """Return a chart and three sentences for a reader who wants to choose a transport."""
    cases = found.get("tenant", {}).get("cases", {})
    advice = {
        "httpx": "Stay with `HttpxTransport`, the default, while it carries your load",
        "pyreqwest, uvloop": "Take `PyreqwestTransport` on uvloop for more",
        "aiohttp, uvloop": "Take `AiohttpTransport` to use a session of yours, with its proxy and "
        "traces",
    }
    lines = []
    for name, text in advice.items():
        parts = [
            f"{int(level):,} requests in flight at {title} "
            f"({_count(levels[level]['per_second']['median'])} updates a second, "
            f"{levels[level]['cpu_us']['median']:.0f} µs of CPU each)"
            for title in ("200 ms", "20 ms")
            if (levels := cases.get(title, {}).get("contestants", {}).get(f"library over {name}"))
            for level in _carried(levels)[-1:]
        ]
        if parts:
            lines.append(f"- {text}: {' and '.join(parts)}.")
    if not lines:
        return "Nothing was measured yet."
    return "\n".join((f"![{ALT['tenant.svg']}]({folder}/tenant.svg)\n", *lines))


def tables(found: Mapping[str, Results], plots: Mapping[str, Sequence[str]], folder: str) -> str:
    """Return the sections of all files of results, with their plots."""
    if not found:
        return "Nothing was measured yet."
    sections = {
        "tenant": _tenant,
        "throughput": _throughput,
        "in_flight": _in_flight,
        "latency": _latency,
        "dialogs": _dialogs,
        "overhead": _overhead,
    }
    rows = [(*aim[:3], "reached" if aim.is_met else "**not reached**") for aim in aims(found)]
    heads = ("", "target", "measured", "")
    parts = ["### Targets", _table(heads, rows)] if rows else []
    for name, section in sections.items():
        if name in found:
            title, text = section(found[name])
            shown = plots.get(name, ()) if name != "tenant" else ()
            images = [f"![{ALT[plot]}]({folder}/{plot})" for plot in shown]
            parts += [f"### {title}", *images[:1], text, *images[1:]]
            if machine := found[name].get("machine"):
                parts.append(f"[All runs]({folder}/{name}.json). {_machine(machine)}")
    return "\n\n".join(parts)


def aims(found: Mapping[str, Results]) -> Iterator[Aim]:
    """Yield the targets for which there are results."""
    for one in found.get("overhead", {}).values():
        for kind, most in COSTS.items():
            calls = f", {one['count']:,} calls at once" if kind == "update" else ""
            limit = ", with a rate limit" if one.get("rate_limit") else ""
            what = f"CPU of `{kind}`{calls}, Python {one['python']}{limit}"
            yield _at_most(what, most, one[kind]["cpu_us"])
    scenarios = found.get("throughput", {}).get("scenarios", {})
    for one_title, pair in ((one["title"], p) for one in scenarios.values() for p in one["ratios"]):
        if (aim := pair["aim"]) is not None:
            cpu = pair["cpu"]
            what = f"{pair['one']}, times {pair['other']}, by CPU ({one_title})"
            yield Aim(what, f"at least {aim:g}", ratio_text(cpu), cpu["median"] >= aim)
    yield from _aims_of_tenant(found.get("tenant", {}).get("cases", {}).get("20 ms", {}))
    for pair in found.get("in_flight", {}).get("ratios", ()):
        what = f"{pair['one']}, times {pair['other']}, by CPU, {pair['level']} in flight"
        cpu = pair["cpu"]
        yield Aim(what, "at least 0.95", ratio_text(cpu), cpu["median"] >= 0.95)
    for one in scenarios.get("quota", {}).get("contestants", {}).values():
        used = one["utilisation"]["median"]
        yield Aim("use of a rate limit", "at least 99%", f"{used:.1%}", used >= 0.99)
    for library, one in found.get("latency", {}).get("libraries", {}).items():
        p99 = one["p99_ratio"]
        what = f"p99 of `update` over {library}, times that of bare {library}"
        bound = f"at most {p99['aim']:g}"
        yield Aim(what, bound, ratio_text(p99), p99["median"] <= p99["aim"])
    for kind, numbers in found.get("dialogs", {}).get("kinds", {}).items():
        yield from _aims_of_dialogs(kind, numbers)


def _aims_of_tenant(case: Results) -> Iterator[Aim]:
    contestants = case.get("contestants", {})
    one = contestants.get("library over pyreqwest, uvloop", {}).get("256")
    bare = contestants.get("bare pyreqwest, uvloop", {}).get("256")
    if one is None or bare is None:
        return
    share = one["share"]["median"]
    of_bare = one["per_second"]["median"] / bare["per_second"]["median"]
    yield Aim(
        "library over pyreqwest, uvloop, 256 in flight at 20 ms: rate",
        "at least 0.95 of what the latency allows, or of bare pyreqwest",
        f"{share:.2f} and {of_bare:.2f}",
        max(share, of_bare) >= 0.95,
    )


def _aims_of_dialogs(kind: str, numbers: Mapping[str, Any]) -> Iterator[Aim]:
    if "1000000" not in numbers:
        return
    cpu, memory = (numbers["1000000"][what]["median"] for what in ("cpu_us", "peak_mb"))
    if kind in COSTS:
        calls = ", as many calls at once as requests in flight" if kind == "update" else ""
        yield _at_most(f"CPU of `{kind}`{calls}, 10^6 dialogs", COSTS[kind], cpu)
    if "1000" in numbers:
        growth = cpu / numbers["1000"]["cpu_us"]["median"]
        what = f"CPU of `{kind}` with 10^6 dialogs, times that with 10^3"
        yield Aim(what, "at most 1.1", f"{growth:.2f}", growth <= 1.1)
    if kind == "update_many" and "10000" in numbers:
        growth = memory - numbers["10000"]["peak_mb"]["median"]
        what = "memory of `update_many` with 10^6 dialogs, above that with 10^4"
        yield Aim(what, "below 10 MB", f"{growth:.1f} MB", growth < 10.0)


def _at_most(what: str, most_us: float, cost_us: float) -> Aim:
    return Aim(what, f"at most {most_us:g} µs", f"{cost_us:.1f} µs", cost_us <= most_us)


def _overhead(results: Results) -> tuple[str, str]:
    count = max(one["count"] for one in results.values())
    kinds = {
        "calibration": "calibration",
        "update_many": "`update_many`",
        "update": f"`update`, {count:,} calls that wait at once",
    }
    kinds |= {f"{kind}_nested": f"{title}, 1 kB" for kind, title in kinds.items()}
    rows = [
        (
            title,
            *[f"{one[kind]['cpu_us']:.1f} µs" for one in results.values()],
            " and ".join(f"{one[kind]['times_calibration']:.1f}" for one in results.values()),
        )
        for kind, title in kinds.items()
        if all(kind in one for one in results.values())
    ]
    pythons = [f"Python {one['python']}" for one in results.values()]
    heads = ("", *pythons, "times the calibration")
    return "Cost of the library itself", _table(heads, rows)


def _tenant(results: Results) -> tuple[str, str]:
    rows = []
    for title, case in results["cases"].items():
        for name, levels in case["contestants"].items():
            carried = _carried(levels)
            rest = [level for level in levels if not carried or int(level) > int(carried[-1])]
            rows.append((title, name, *_level(levels, carried[-1:]), *_level(levels, rest[:1])))
    heads = ("server", "", "carries", "updates/s", "CPU", "bends at", "updates/s", "CPU")
    return "A server that takes its time", _table(heads, rows)


def _carried(levels: Results) -> list[str]:
    """Return the numbers of requests in flight that a contestant carries."""
    return [level for level, one in levels.items() if one["share"]["median"] >= CARRIED]


def _level(levels: Results, numbers: Sequence[str]) -> tuple[str, str, str]:
    if not numbers:
        return "-", "-", "-"
    one = levels[numbers[0]]
    return numbers[0], _count(one["per_second"]["median"]), f"{one['cpu_us']['median']:.0f} µs"


def _throughput(results: Results) -> tuple[str, str]:
    scenarios = results["scenarios"]
    parts = [
        f"Medians of {results['rounds']} interleaved rounds (at most 3 but of the first scenario), "
        f"{results['in_flight']} requests in flight, {results['count']:,} updates of the "
        "fastest, fewer of the slow ones."
    ]
    for key, scenario in scenarios.items():
        if key == "dialogs" or not (scenario["ratios"] or key == "quota"):
            rows = [_contestant(name, one) for name, one in scenario["contestants"].items()]
            heads = (scenario["title"], "updates/s", "spread", "CPU", "server")
            parts.append(_table(heads, rows))
    if pairs := [row for key, one in scenarios.items() if key != "dialogs" for row in _pairs(one)]:
        columns = ("", "over", "updates/s", "bare pool", "ratio", "by CPU", "requests an update")
        parts.append(_table(columns, pairs))
    if "quota" in scenarios:
        (one,) = scenarios["quota"]["contestants"].values()
        seconds, least = one["seconds"]["median"], one["ideal_seconds"]["median"]
        parts.append(
            f"Under a rate limit of 500 requests a second, {one['utilisation']['median']:.1%} of "
            f"it were used: {seconds:.2f} s, where {least:g} s are the least. The server saw at "
            f"most {one['most_in_a_second']['highest']:g} requests within a second."
        )
    return "Updates per second", "\n\n".join(parts)


def _contestant(name: str, one: Results) -> tuple[str, ...]:
    rate, cpu, server = one["per_second"], one["cpu_us"]["median"], one["server_share"]["median"]
    spread = f"{_count(rate['lowest'])} to {_count(rate['highest'])}"
    return name, _count(rate["median"]), spread, f"{cpu:.1f} µs", f"{server:.0%}"


def _pairs(result: Results) -> Iterator[tuple[str, ...]]:
    for pair in result["ratios"]:
        one, other = (result["contestants"][pair[side]] for side in ("one", "other"))
        yield (
            result["title"],
            pair["one"].removeprefix("library over "),
            _count(one["per_second"]["median"]),
            _count(other["per_second"]["median"]),
            ratio_text(pair["per_second"]),
            f"{pair['cpu']['median']:.2f}",
            f"{one['requests_per_update']['median']:.3g}",
        )


def _in_flight(results: Results) -> tuple[str, str]:
    rows = []
    for name, levels in results["contestants"].items():
        for level, one in levels.items():
            rate, cpu = _count(one["per_second"]["median"]), one["cpu_us"]["median"]
            rows.append((name, level, rate, f"{cpu:.0f} µs", *_percentiles(one)))
    heads = ("", "in flight", "updates/s", "CPU", "p50", "p95", "p99")
    return "1 to 256 requests in flight", _table(heads, rows)


def _latency(results: Results) -> tuple[str, str]:
    rows = [
        (f"{name} {library}", f"{one['rate']:,}", *_percentiles(one[kind]))
        for library, one in results["libraries"].items()
        for kind, name in (("update", "`update` over"), ("bare", "bare"))
    ]
    table = _table(("", "a second", "p50", "p95", "p99"), rows)
    return "Latency at half of the maximum throughput", table


def _dialogs(results: Results) -> tuple[str, str]:
    rows = []
    for kind, numbers in results["kinds"].items():
        for number, one in numbers.items():
            cpu, memory = one["cpu_us"]["median"], one["peak_mb"]["median"]
            rows.append((f"`{kind}`", f"{int(number):,}", f"{cpu:.1f} µs", f"{memory:.1f} MB"))
    table = _table(("", "dialogs", "CPU of an update", "peak memory"), rows)
    return "A thousand to a million dialogs", table


def _machine(facts: Results) -> str:
    versions = [f"{name} {version}" for name, version in facts["versions"].items() if version]
    python = f"{facts['processor']}, {facts['cores']} cores; Python {facts['python']}"
    return f"{', '.join([python, *versions])}."


def _percentiles(one: Results) -> list[str]:
    return [f"{one[kind]['median']:.2f} ms" for kind in ("p50_ms", "p95_ms", "p99_ms")]


def _count(number: float) -> str:
    return f"{number:,.0f}"


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    cells = [tuple(heads), *map(tuple, rows)]
    widths = [max(3, *map(len, column)) for column in zip(*cells, strict=True)]
    cells.insert(1, tuple("-" * width for width in widths))
    lines = [" | ".join(map(str.ljust, line, widths)) for line in cells]
    return "\n".join(f"| {line} |" for line in lines)
