"""Charts as SVG with colours of their own for light and for dark; needs the extra ``report``.

The same figures give the same bytes.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

__all__ = ["COLOURS", "INK", "MUTED", "canvas", "svg"]

PAPER, INK, MUTED, LINE = "#010101", "#020202", "#030303", "#040404"
COLOURS = ("#050505", "#060606", "#070707")
"""Stand-ins: for what is to be seen first, second and third."""

LIGHT = {
    PAPER: "#ffffff",
    INK: "#1f2328",
    MUTED: "#6b7480",
    LINE: "#dde1e6",
    COLOURS[0]: "#2f5fd0",
    COLOURS[1]: "#c2570c",
    COLOURS[2]: "#177a4e",
}
DARK = {
    PAPER: "#1b1e25",
    INK: "#e4e7eb",
    MUTED: "#98a2ae",
    LINE: "#383e49",
    COLOURS[0]: "#82aaff",
    COLOURS[1]: "#f5a35c",
    COLOURS[2]: "#5fcf9a",
}
STYLE: Any = {
    "axes.axisbelow": True,
    "axes.edgecolor": MUTED,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.titlesize": 10.5,
    "figure.facecolor": PAPER,
    "font.size": 10,
    "grid.color": LINE,
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "lines.linewidth": 1.6,
    "lines.markersize": 5.5,
    "svg.fonttype": "none",
    "svg.hashsalt": "cognigy-async",
    "text.color": INK,
    "xtick.color": MUTED,
    "xtick.labelcolor": INK,
    "xtick.minor.size": 0,
    "ytick.color": MUTED,
    "ytick.labelcolor": INK,
    "ytick.minor.size": 0,
}


@contextmanager
def canvas(height: float, panels: int = 1) -> Iterator[tuple[Figure, list[Axes]]]:
    """A figure with panels side by side; inches."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.6, height), layout="constrained")
        yield figure, list(figure.subplots(1, panels, squeeze=False)[0])


def svg(figure: Figure, label: str) -> str:
    """The text of a file, with a label for those who do not see it."""
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    text = file.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    for stand_in in LIGHT:
        text = text.replace(stand_in, f"var(--{_name(stand_in)})")
    style = f":root {{ {_values(LIGHT)} }}\n"
    style += f"@media (prefers-color-scheme: dark) {{ :root {{ {_values(DARK)} }} }}"
    text = text.replace("<svg", f'<svg role="img" aria-label="{label}"', 1)
    return re.sub(r"(<svg[^>]*>)", rf"\1\n<style>{style}</style>", text, count=1)


def _name(stand_in: str) -> str:
    return f"c{int(stand_in[-2:])}"


def _values(colours: dict[str, str]) -> str:
    return " ".join(f"--{_name(stand_in)}: {colour};" for stand_in, colour in colours.items())
