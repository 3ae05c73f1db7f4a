"""Charts as SVG that takes its colours from the page around it."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK, ACCENT, PAUSE = "#010203", "#040506", "#070809"
COLOURS = {INK: "currentColor", ACCENT: "var(--accent)", PAUSE: "var(--pause)"}
"""Placeholders for the colours of the page, which may be light or dark."""

STYLE: Any = {
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "font.size": 11,
    "svg.fonttype": "none",
    "svg.hashsalt": "cognigy-async",
    "text.color": INK,
    # Names of a journal are no formulas.
    "text.parse_math": False,
    "xtick.color": INK,
    "ytick.color": INK,
}


def throughput_chart(
    points: Sequence[tuple[float, float]], pauses: Sequence[tuple[float, float]], step: float
) -> str:
    """Draw the rows completed per second over time, with the pauses shaded."""
    with _style():
        figure, axes = _figure()
        end = points[-1][0] + step if points else 1.0
        for start, stop in pauses:
            axes.axvspan(start, min(stop, end), color=PAUSE, alpha=0.35, linewidth=0)
        axes.step(
            [at for at, _ in points], [rate for _, rate in points], where="post", color=ACCENT
        )
        axes.set(xlabel="seconds", ylabel="rows/s", xlim=(0, end), ylim=(0, None))
        return _svg(figure, "Rows completed per second; pauses are shaded")


def latency_histogram(bins: Sequence[tuple[float, int]]) -> str:
    """Draw the number of rows by latency."""
    with _style():
        figure, axes = _figure()
        width = bins[1][0] - bins[0][0] if len(bins) > 1 else 1.0
        axes.bar(
            [1000 * start for start, _ in bins],
            [count for _, count in bins],
            width=1000 * width,
            align="edge",
            color=ACCENT,
        )
        axes.set(xlabel="milliseconds", ylabel="rows", xlim=(0, None))
        return _svg(figure, "Rows by latency, from the first request to the answer")


def retry_bars(counts: Mapping[str, int]) -> str:
    """Draw the number of retries by reason."""
    with _style():
        figure, axes = _figure(1.0 + 0.35 * len(counts))
        names = sorted(counts, key=lambda name: counts[name])
        drawn = axes.barh(names, [counts[name] for name in names], color=ACCENT)
        axes.bar_label(drawn, padding=3, color=INK)
        axes.set(xlabel="retries")
        return _svg(figure, "Retries by reason")


@contextmanager
def _style() -> Iterator[None]:
    """Set the style of a chart, whatever a file `matplotlibrc` of the working directory says.

    Such a file could have texts set by LaTeX, which runs commands of the file.
    """
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(STYLE)
        yield


def _figure(height: float = 3.0) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(5.6, height), layout="constrained")
    return figure, figure.add_subplot()


def _svg(figure: Figure, label: str) -> str:
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    text = file.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
    for placeholder, colour in COLOURS.items():
        text = text.replace(placeholder, colour)
    return text.replace("<svg", f'<svg role="img" aria-label="{label}"', 1)
