"""What was measured, as charts: one function for each file of results, from its JSON to SVG."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

from .drawing import COLOURS, INK, MUTED, canvas, svg

__all__ = ["CHARTS", "by_dialogs", "by_in_flight", "latency", "scenarios", "throughput"]

Results = Mapping[str, Any]

OURS = ("library", "update")
"""How the names of this library's contestants begin."""


def throughput(results: Results) -> str | None:
    """Every contestant of the first scenario."""
    if "dialogs" not in results["scenarios"]:
        return None
    contestants = results["scenarios"]["dialogs"]["contestants"]
    rates = {name: one["per_second"] for name, one in contestants.items()}
    names = sorted(rates, key=lambda name: rates[name]["median"])
    with canvas(0.9 + 0.27 * len(names)) as (figure, [axes]):
        for place, name in enumerate(names):
            colour = COLOURS[0] if name.startswith(OURS) else MUTED
            _dot(axes, rates[name], place, colour)
            axes.annotate(
                f"{rates[name]['median']:,.0f}",
                (rates[name]["highest"], place),
                xytext=(7, 0),
                textcoords="offset points",
                va="center",
                color=INK,
                fontsize=9,
            )
        _rows(axes, names)
        axes.set(xscale="log", xlabel="updates per second (logarithmic); line: lowest to highest")
        axes.set_xlim(right=max(rate["highest"] for rate in rates.values()) * 2.5)
        _numbers(axes)
        return svg(figure, "Updates per second of each contestant")


def scenarios(results: Results) -> str | None:
    """This library beside a bare pool on the same HTTP library, scenario by scenario."""
    found = [
        (told["title"], compared["one"].removeprefix("library over "), compared["per_second"])
        for told in results["scenarios"].values()
        for compared in told["ratios"]
        if compared["other"].startswith("bare ") and compared["one"].startswith("library")
    ]
    if not found:
        return None
    rows = [f"{title}: {library}" for title, library, _ in found][::-1]
    with canvas(0.9 + 0.27 * len(rows)) as (figure, [axes]):
        axes.axvline(1.0, color=MUTED, linewidth=1)
        for place, (_, library, rate) in enumerate(reversed(found)):
            _dot(axes, rate, place, COLOURS[0 if library.startswith("aiohttp") else 1])
        _rows(axes, rows)
        axes.set(xscale="log", xlabel="updates per second, times those of a bare pool")
        _numbers(axes, (0.2, 0.5, 1, 2, 5, 10, 20, 50))
        return svg(figure, "Throughput as a multiple of a bare pool, by scenario")


def by_in_flight(results: Results) -> str | None:
    """Throughput and p99 latency by requests in flight."""
    contestants: Mapping[str, Mapping[str, Any]] = results["contestants"]
    kinds = (("per_second", "updates per second"), ("p99_ms", "p99 latency (ms)"))
    with canvas(3.6, 2) as (figure, panels):
        for axes, (kind, label) in zip(panels, kinds, strict=True):
            for name, levels in contestants.items():
                _line(axes, levels, kind, COLOURS[0 if "aiohttp" in name else 1], name)
            axes.set(xscale="log", yscale="log", xlabel="requests in flight", ylabel=label)
            _numbers(axes, sorted({int(level) for one in contestants.values() for level in one}))
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_major_formatter(FuncFormatter(_number))
            axes.yaxis.set_minor_locator(NullLocator())
        _legend(figure, panels[0])
        return svg(figure, "Throughput and latency by requests in flight")


def latency(results: Results) -> str | None:
    """Percentiles of `update` and of the bare library at the same rate."""
    percentiles = (("p50_ms", "p50"), ("p95_ms", "p95"), ("p99_ms", "p99"))
    rows = [
        (library, kind, label) for library in results["libraries"] for kind, label in percentiles
    ][::-1]
    with canvas(1.2 + 0.3 * len(rows)) as (figure, [axes]):
        for place, (library, kind, _) in enumerate(rows):
            told = results["libraries"][library]
            for name, colour, aside in (("bare", MUTED, -0.14), ("update", COLOURS[0], 0.14)):
                label = f"{name}" if place == 0 else None
                _dot(axes, told[name][kind], place + aside, colour, label)
        _rows(axes, [f"{library} {label}" for library, _, label in rows])
        rates = ", ".join(f"{n} {one['rate']:,}" for n, one in results["libraries"].items())
        axes.set(xscale="log", xlabel=f"latency (ms); updates a second: {rates}")
        _numbers(axes)
        _legend(figure, axes)
        return svg(figure, "Latency percentiles at half of the maximum throughput")


def by_dialogs(results: Results) -> str | None:
    """CPU and memory by the number of dialogs."""
    kinds = (("cpu_us", "CPU of an update (µs)"), ("peak_mb", "peak resident memory (MB)"))
    with canvas(3.2, 2) as (figure, panels):
        for axes, (measured, label) in zip(panels, kinds, strict=True):
            for (name, levels), colour in zip(results["kinds"].items(), COLOURS, strict=False):
                _line(axes, levels, measured, colour, name)
            axes.set(xscale="log", xlabel="dialogs", ylabel=label)
            axes.set_ylim(0, 1.15 * axes.get_ylim()[1])
            _numbers(axes, sorted({int(n) for one in results["kinds"].values() for n in one}))
        _legend(figure, panels[0])
        return svg(figure, "CPU and memory by the number of dialogs")


CHARTS = {
    "throughput": (throughput, scenarios),
    "in_flight": (by_in_flight,),
    "latency": (latency,),
    "dialogs": (by_dialogs,),
}
"""For each file of results."""


def _dot(
    axes: Axes, value: Mapping[str, float], place: float, colour: str, label: str | None = None
) -> None:
    axes.plot([value["lowest"], value["highest"]], [place, place], color=colour, alpha=0.6)
    axes.plot([value["median"]], [place], "o", color=colour, label=label)


def _line(axes: Axes, levels: Mapping[str, Any], kind: str, colour: str, name: str) -> None:
    at = sorted(levels, key=int)
    values = [levels[level][kind] for level in at]
    where = [int(level) for level in at]
    dashed = "--" if name.startswith("bare") else "-"
    axes.plot(where, [v["median"] for v in values], f"o{dashed}", color=colour, label=name)
    low, high = [v["lowest"] for v in values], [v["highest"] for v in values]
    axes.fill_between(where, low, high, color=colour, alpha=0.15, linewidth=0)


def _rows(axes: Axes, names: list[str]) -> None:
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(-0.7, len(names) - 0.3)
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")
    axes.spines["left"].set_visible(False)


def _numbers(axes: Axes, at: Iterable[float] | None = None) -> None:
    """Plain numbers at the ticks, and not powers of ten."""
    if at is not None:
        low, high = axes.get_xlim()
        axes.xaxis.set_major_locator(FixedLocator([tick for tick in at if low <= tick <= high]))
        axes.set_xlim(low, high)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(_number))


def _number(value: float, _: int | None = None) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:g}"


def _legend(figure: Any, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels))
