"""Charts of results as SVG, with colours for light and for dark; needs the extra `report`.

`CHARTS` has the functions for each file of results. The same results give the same bytes.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

Results = Mapping[str, Any]

LIBRARIES = ("pyreqwest", "aiohttp", "httpx2", "httpx")
"""Libraries in the order of `COLOURS`."""

OURS = ("library", "update")
"""Prefixes of the names of this library's contestants."""

PAPER, INK, MUTED, LINE = "#010101", "#020202", "#030303", "#040404"
COLOURS = ("#050505", "#060606", "#070707", "#080808")
PALETTE = {
    PAPER: ("#ffffff", "#1b1e25"),
    INK: ("#1f2328", "#e4e7eb"),
    MUTED: ("#6b7480", "#98a2ae"),
    LINE: ("#dde1e6", "#383e49"),
    COLOURS[0]: ("#2f5fd0", "#82aaff"),
    COLOURS[1]: ("#c2570c", "#f5a35c"),
    COLOURS[2]: ("#177a4e", "#5fcf9a"),
    COLOURS[3]: ("#8a3fb5", "#cf9bf0"),
}
"""Placeholders, with the colours that replace them: light and dark."""

IN_INK = ("axes.labelcolor", "legend.labelcolor", "text.color", "xtick.labelcolor")
STYLE: Any = {
    **dict.fromkeys((*IN_INK, "ytick.labelcolor"), INK),
    **dict.fromkeys(("axes.edgecolor", "xtick.color", "ytick.color"), MUTED),
    **dict.fromkeys(("axes.spines.right", "axes.spines.top", "legend.frameon"), False),
    **dict.fromkeys(("xtick.minor.size", "ytick.minor.size"), 0),
    "axes.axisbelow": True,
    "axes.facecolor": "none",
    "axes.grid": True,
    "figure.facecolor": PAPER,
    "font.size": 10,
    "grid.color": LINE,
    "lines.linewidth": 1.6,
    "lines.markersize": 5.5,
    "svg.fonttype": "none",
    "svg.hashsalt": "cognigy-async",
}


def tenant(results: Results) -> str:
    """Draw updates per second by requests in flight, and what the latency allows."""
    cases = {title: case for title, case in results["cases"].items() if "tail" not in title}
    with _canvas(3.8, len(cases)) as (figure, panels):
        for axes, (title, case) in zip(panels, cases.items(), strict=True):
            found = {n: one for n, one in case["contestants"].items() if n.startswith(OURS)}
            numbers = sorted({int(level) for one in found.values() for level in one})
            allowed = [number / case["latency"] for number in numbers]
            axes.plot(numbers, allowed, "--", color=MUTED, label="what the latency allows")
            for colour, (name, levels) in zip(COLOURS, found.items(), strict=False):
                _line(axes, levels, "per_second", colour, name.removeprefix("library "))
            rates = [
                one["per_second"]["highest"] for each in found.values() for one in each.values()
            ]
            axes.set(xscale="log", yscale="log", xlabel=f"requests in flight, {title} latency")
            axes.set(ylabel="updates per second", ylim=(None, 2.5 * max(rates)))
            _numbers(axes, numbers)
            _plain_y(axes)
        _legend(figure, panels[0])
        return _svg(figure, "Updates per second by requests in flight")


def throughput(results: Results) -> str | None:
    """Draw every contestant of the first scenario."""
    if "dialogs" not in results["scenarios"]:
        return None
    contestants = results["scenarios"]["dialogs"]["contestants"]
    rates = {name: one["per_second"] for name, one in contestants.items()}
    names = sorted(rates, key=lambda name: rates[name]["median"])
    with _canvas(0.9 + 0.27 * len(names)) as (figure, [axes]):
        for place, name in enumerate(names):
            _dot(axes, rates[name], place, COLOURS[0] if name.startswith(OURS) else MUTED)
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
        return _svg(figure, "Updates per second of each contestant")


def scenarios(results: Results) -> str | None:
    """Draw this library beside a bare pool on the same HTTP library, scenario by scenario."""
    found = [
        (result["title"], pair["one"].removeprefix("library over "), pair["per_second"])
        for result in results["scenarios"].values()
        for pair in result["ratios"]
        if pair["other"].startswith("bare ") and pair["one"].startswith("library")
    ][::-1]
    if not found:
        return None
    with _canvas(0.9 + 0.27 * len(found)) as (figure, [axes]):
        axes.axvline(1.0, color=MUTED, linewidth=1)
        for place, (_, library, rate) in enumerate(found):
            _dot(axes, rate, place, COLOURS[0 if library.startswith("pyreqwest") else 1])
        _rows(axes, [f"{title}: {library}" for title, library, _ in found])
        axes.set(xscale="log", xlabel="updates per second, times those of a bare pool")
        _numbers(axes, (0.2, 0.5, 1, 2, 5, 10, 20, 50))
        return _svg(figure, "Throughput as a multiple of a bare pool, by scenario")


def by_in_flight(results: Results) -> str:
    """Draw throughput and p99 latency by requests in flight."""
    contestants: Mapping[str, Mapping[str, Any]] = results["contestants"]
    kinds = (("per_second", "updates per second"), ("p99_ms", "p99 latency (ms)"))
    with _canvas(3.6, 2) as (figure, panels):
        for axes, (kind, label) in zip(panels, kinds, strict=True):
            for name, levels in contestants.items():
                colour = COLOURS[LIBRARIES.index(name.rpartition(" ")[2])]
                _line(axes, levels, kind, colour, name)
            axes.set(xscale="log", yscale="log", xlabel="requests in flight", ylabel=label)
            _numbers(axes, sorted({int(level) for one in contestants.values() for level in one}))
            _plain_y(axes)
        _legend(figure, panels[0])
        return _svg(figure, "Throughput and latency by requests in flight")


def latency(results: Results) -> str:
    """Draw percentiles of `update` and of the bare library at the same rate."""
    libraries: Mapping[str, Any] = results["libraries"]
    rows = [(library, p) for library in libraries for p in ("p50", "p95", "p99")][::-1]
    with _canvas(1.2 + 0.3 * len(rows)) as (figure, [axes]):
        for place, (library, p) in enumerate(rows):
            for name, colour, aside in (("bare", MUTED, -0.14), ("update", COLOURS[0], 0.14)):
                value, label = libraries[library][name][f"{p}_ms"], None if place else name
                _dot(axes, value, place + aside, colour, label)
        _rows(axes, [f"{library} {p}" for library, p in rows])
        rates = ", ".join(f"{library} {one['rate']:,}" for library, one in libraries.items())
        axes.set(xscale="log", xlabel=f"latency (ms); updates a second: {rates}")
        _numbers(axes)
        _legend(figure, axes)
        return _svg(figure, "Latency percentiles at half of the maximum throughput")


def by_dialogs(results: Results) -> str:
    """Draw CPU and memory by the number of dialogs."""
    kinds = (("cpu_us", "CPU of an update (µs)"), ("peak_mb", "peak resident memory (MB)"))
    with _canvas(3.2, 2) as (figure, panels):
        for axes, (measured, label) in zip(panels, kinds, strict=True):
            for (name, levels), colour in zip(results["kinds"].items(), COLOURS, strict=False):
                _line(axes, levels, measured, colour, name)
            axes.set(xscale="log", xlabel="dialogs", ylabel=label)
            axes.set_ylim(0, 1.15 * axes.get_ylim()[1])
            _numbers(axes, sorted({int(n) for one in results["kinds"].values() for n in one}))
        _legend(figure, panels[0])
        return _svg(figure, "CPU and memory by the number of dialogs")


CHARTS = {
    "tenant": (tenant,),
    "throughput": (throughput, scenarios),
    "in_flight": (by_in_flight,),
    "latency": (latency,),
    "dialogs": (by_dialogs,),
}


@contextmanager
def _canvas(height: float, panels: int = 1) -> Iterator[tuple[Figure, list[Axes]]]:
    """Yield a figure with panels side by side; the height is in inches."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.6, height), layout="constrained")
        yield figure, list(figure.subplots(1, panels, squeeze=False)[0])


def _dot(
    axes: Axes, value: Mapping[str, float], place: float, colour: str, label: str | None = None
) -> None:
    axes.plot([value["lowest"], value["highest"]], [place, place], color=colour, alpha=0.6)
    axes.plot([value["median"]], [place], "o", color=colour, label=label)


def _line(axes: Axes, levels: Mapping[str, Any], kind: str, colour: str, name: str) -> None:
    at = sorted(map(int, levels))
    median, lowest, highest = (
        [levels[str(level)][kind][which] for level in at]
        for which in ("median", "lowest", "highest")
    )
    axes.plot(at, median, "o--" if name.startswith("bare") else "o-", color=colour, label=name)
    axes.fill_between(at, lowest, highest, color=colour, alpha=0.15, linewidth=0)


def _rows(axes: Axes, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(-0.7, len(names) - 0.3)
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")
    axes.spines["left"].set_visible(False)


def _numbers(axes: Axes, at: Iterable[float] | None = None) -> None:
    """Show plain numbers at the ticks, not powers of ten."""
    if at is not None:
        low, high = axes.get_xlim()
        axes.xaxis.set_major_locator(FixedLocator([tick for tick in at if low <= tick <= high]))
        axes.set_xlim(low, high)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(_number))


def _plain_y(axes: Axes) -> None:
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(_number))
    axes.yaxis.set_minor_locator(NullLocator())


def _number(value: float, _: int | None = None) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:g}"


def _legend(figure: Any, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    # More than four do not fit into one row.
    columns = len(labels) if len(labels) <= 4 else 3
    figure.legend(handles, labels, loc="outside upper center", ncols=columns)


def _svg(figure: Figure, label: str) -> str:
    """Return a figure as SVG, with a label for readers who do not see it."""
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    text = file.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    light, dark = list[str](), list[str]()
    for number, (placeholder, colours) in enumerate(PALETTE.items(), 1):
        text = text.replace(placeholder, f"var(--c{number})")
        for values, colour in zip((light, dark), colours, strict=True):
            values.append(f"--c{number}: {colour};")
    style = f":root {{ {' '.join(light)} }}\n"
    style += f"@media (prefers-color-scheme: dark) {{ :root {{ {' '.join(dark)} }} }}"
    text = text.replace("<svg", f'<svg role="img" aria-label="{label}"', 1)
    return re.sub(r"(<svg[^>]*>)", rf"\1\n<style>{style}</style>", text, count=1)
