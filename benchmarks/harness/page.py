"""The tables of the page that shows what was measured, from the files of results."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .aims import Aim, aims

__all__ = ["inserted", "read", "tables"]

BEGIN = "<!-- results: written by benchmarks/plots.py -->"
END = "<!-- end of results -->"

Results = Mapping[str, Any]

ALT = {
    "throughput.svg": "Updates per second of each contestant",
    "scenarios.svg": "Throughput as a multiple of a bare pool, by scenario",
    "by-in-flight.svg": "Throughput and latency by requests in flight",
    "latency.svg": "Latency percentiles at half of the maximum throughput",
    "by-dialogs.svg": "CPU and memory by the number of dialogs",
}


def read(folder: Path) -> dict[str, Any]:
    """What there is, by the name of its file; `overhead` has one for each Python."""
    found: dict[str, Any] = {}
    for path in sorted(folder.glob("*.json")):
        told = json.loads(path.read_text(encoding="utf-8"))
        name, _, version = path.stem.partition("-")
        if version:
            found.setdefault(name, {})[version] = told
        else:
            found[name] = told
    return found


def inserted(page: str, text: str) -> str:
    """The page, with `text` between the two comments.

    Raises:
        ValueError: it has not both of them.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page needs a line {BEGIN} and, later, a line {END}")
    return f"{before}{begin}\n\n{text.strip()}\n\n{end}{after}"


def tables(found: Mapping[str, Results], plots: Mapping[str, Sequence[str]], folder: str) -> str:
    """Everything of all files, with the plots where they belong."""
    if not found:
        return "Nothing was measured yet."
    sections = {
        "overhead": _overhead,
        "throughput": _throughput,
        "in_flight": _in_flight,
        "latency": _latency,
        "dialogs": _dialogs,
    }
    parts = ["### What is aimed at", _aims(aims(found))]
    for name, section in sections.items():
        if name in found:
            title, text = section(found[name])
            images = [f"![{ALT[plot]}]({folder}/{plot})" for plot in plots.get(name, ())]
            parts += [f"### {title}", *images[:1], text, *images[1:]]
            if machine := found[name].get("machine"):
                parts.append(f"[All runs]({folder}/{name}.json). {_machine(machine)}")
    return "\n\n".join(parts)


def _aims(rows: Iterable[Aim]) -> str:
    return _table(
        ("", "aim", "measured", ""),
        [
            (aim.what, aim.bound, aim.measured, "reached" if aim.is_met else "**not reached**")
            for aim in rows
        ],
    )


def _overhead(results: Results) -> tuple[str, str]:
    count = max(told["count"] for told in results.values())
    kinds = {
        "calibration": "calibration",
        "update_many": "`update_many`",
        "update": f"`update`, {_count(count)} calls that wait at once",
    }
    rows = [
        (
            title,
            *[f"{told[kind]['cpu_us']:.1f} µs" for told in results.values()],
            " and ".join(f"{told[kind]['times_calibration']:.1f}" for told in results.values()),
        )
        for kind, title in kinds.items()
    ]
    heads = (
        "",
        *[f"Python {told['python']}" for told in results.values()],
        "times the calibration",
    )
    return "What the library itself costs", _table(heads, rows)


def _throughput(results: Results) -> tuple[str, str]:
    told = results["scenarios"]
    parts = []
    if "dialogs" in told:
        rows = [
            (
                name,
                _count(one["per_second"]["median"]),
                f"{_count(one['per_second']['lowest'])} to {_count(one['per_second']['highest'])}",
                f"{one['cpu_us']['median']:.1f} µs",
                f"{one['server_share']['median']:.0%}",
            )
            for name, one in told["dialogs"]["contestants"].items()
        ]
        parts.append(_table(("many dialogs", "updates/s", "spread", "CPU", "server"), rows))
    if compared := [row for key, one in told.items() if key != "dialogs" for row in _pairs(one)]:
        heads = ("", "over", "updates/s", "bare pool", "ratio", "by CPU", "requests an update")
        parts.append(_table(heads, compared))
    if "quota" in told:
        ((_, one),) = told["quota"]["contestants"].items()
        seconds, least = one["seconds"]["median"], one["ideal_seconds"]["median"]
        parts.append(
            f"Under a rate limit of 500 requests a second, {one['utilisation']['median']:.1%} of "
            f"it were used: {seconds:.2f} s, where {least:g} s are the least. The server saw at "
            f"most {one['most_in_a_second']['highest']:g} requests within a second."
        )
    method = (
        f"Medians of {results['rounds']} interleaved rounds (at most 3 but of the first scenario), "
        f"{results['in_flight']} requests in flight, {_count(results['count'])} updates of the "
        "fastest, fewer of the slow ones."
    )
    return "Updates per second", "\n\n".join([method, *parts])


def _pairs(told: Results) -> Iterable[tuple[str, ...]]:
    for compared in told["ratios"]:
        one, other = (told["contestants"][compared[side]] for side in ("one", "other"))
        yield (
            told["title"],
            compared["one"].removeprefix("library over "),
            _count(one["per_second"]["median"]),
            _count(other["per_second"]["median"]),
            _spread(compared["per_second"]),
            f"{compared['cpu']['median']:.2f}",
            f"{one['requests_per_update']['median']:.3g}",
        )


def _in_flight(results: Results) -> tuple[str, str]:
    rows = [
        (
            name,
            level,
            _count(one["per_second"]["median"]),
            f"{one['cpu_us']['median']:.0f} µs",
            *[f"{one[kind]['median']:.2f} ms" for kind in ("p50_ms", "p95_ms", "p99_ms")],
        )
        for name, levels in results["contestants"].items()
        for level, one in levels.items()
    ]
    heads = ("", "in flight", "updates/s", "CPU", "p50", "p95", "p99")
    return "1 to 256 requests in flight", _table(heads, rows)


def _latency(results: Results) -> tuple[str, str]:
    rows = [
        (
            f"{'`update` over' if kind == 'update' else 'bare'} {library}",
            _count(told["rate"]),
            *[f"{told[kind][p]['median']:.2f} ms" for p in ("p50_ms", "p95_ms", "p99_ms")],
        )
        for library, told in results["libraries"].items()
        for kind in ("update", "bare")
    ]
    table = _table(("", "a second", "p50", "p95", "p99"), rows)
    return "Latency at half of the maximum throughput", table


def _dialogs(results: Results) -> tuple[str, str]:
    rows = [
        (
            f"`{kind}`",
            _count(int(number)),
            f"{one['cpu_us']['median']:.1f} µs",
            f"{one['peak_mb']['median']:.1f} MB",
        )
        for kind, numbers in results["kinds"].items()
        for number, one in numbers.items()
    ]
    table = _table(("", "dialogs", "CPU of an update", "peak memory"), rows)
    return "A thousand to a million dialogs", table


def _machine(told: Results) -> str:
    names = {name: version for name, version in told["versions"].items() if version}
    versions = ", ".join(f"{name} {version}" for name, version in names.items())
    return f"{told['processor']}, {told['cores']} cores; Python {told['python']}, {versions}."


def _spread(value: Mapping[str, float]) -> str:
    return f"{value['median']:.2f} ({value['lowest']:.2f} to {value['highest']:.2f})"


def _count(number: float) -> str:
    return f"{number:,.0f}"


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
