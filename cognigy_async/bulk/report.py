"""The report of a job: one HTML file that needs nothing else, light and dark."""

from __future__ import annotations

import platform
import sqlite3
import time
from collections.abc import Iterable, Iterator
from html import escape
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from string import Template

from .charts import bars, histogram, throughput
from .figures import Figures, read_figures

PACKAGES = ("cognigy-async", "anyio", "httpx", "pydantic", "tenacity")

PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>$title</title>
<style>
:root { color-scheme: light dark; --ground: #fff; --ink: #1c2128; --faint: #5b6470;
  --line: #d8dde3; --accent: #2563ad; --pause: #d99a2b; --bad: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --ground: #15191e; --ink: #e4e8ed; --faint: #9aa4b0;
  --line: #333b45; --accent: #6cabf0; --pause: #c98f35; --bad: #ff8a80; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.25rem; max-width: 76rem; background: var(--ground);
  color: var(--ink); font: 1rem/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: 0 0 .25rem; overflow-wrap: anywhere; }
h2 { font-size: 1.05rem; margin: 0 0 .5rem; }
p { margin: 0 0 1rem; color: var(--faint); overflow-wrap: anywhere; }
dl { display: grid; grid-template-columns: repeat(auto-fit, minmax(8rem, 1fr)); gap: .75rem;
  margin: 0 0 1.5rem; }
dl div { border: 1px solid var(--line); border-radius: .5rem; padding: .6rem .75rem; }
dt { color: var(--faint); font-size: .85rem; }
dd { margin: 0; font-size: 1.35rem; font-variant-numeric: tabular-nums; }
.bad dd { color: var(--bad); }
main { display: grid; gap: 1.5rem 2rem; grid-template-columns: minmax(0, 1fr); }
@media (min-width: 60rem) { main { grid-template-columns: repeat(2, minmax(0, 1fr)); } }
section { min-width: 0; }
svg { display: block; width: 100%; height: auto; max-width: 42rem; }
table { border-collapse: collapse; width: 100%; font-size: .92rem; }
th, td { text-align: left; padding: .3rem .5rem .3rem 0; border-bottom: 1px solid var(--line);
  overflow-wrap: anywhere; vertical-align: top; }
th { color: var(--faint); font-weight: normal; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
</style>
</head>
<body>
<h1>$title</h1>
<p>$about</p>
<dl>$tiles</dl>
<main>$sections</main>
</body>
</html>
""")


def write_report(journal: Path, path: Path) -> None:
    """Write the report of a journal.

    Raises:
        JournalRefusedError: there is no such journal, or it is damaged.
        OSError: the file cannot be written.
    """
    path.write_text(render(read_figures(journal)), encoding="utf-8")


def render(figures: Figures) -> str:
    """The page."""
    summary = figures.summary
    began = summary.runs[0].began if summary.runs else 0.0
    at = time.strftime("%Y-%m-%d %H:%M:%S %Z", time.localtime(began))
    ended = summary.runs[-1].ended if summary.runs else None
    about = (
        f"Job {summary.job_id}, begun {at}, {len(summary.runs)} runs; the last one ended: "
        f"{ended or 'cut off'}."
    )
    return PAGE.substitute(
        title=escape(f"Job report: {Path(summary.source).name}"),
        about=escape(about),
        tiles="".join(_tiles(figures)),
        sections="".join(_sections(figures)),
    )


def _tiles(figures: Figures) -> Iterator[str]:
    totals = figures.summary.totals
    retries = sum(totals.retries.values())
    for name, number, bad in (
        ("succeeded", totals.succeeded, False),
        ("failed", totals.failed, totals.failed),
        ("ambiguous", totals.ambiguous, totals.ambiguous),
        ("requests", totals.requests, False),
        ("retries", retries, False),
    ):
        yield _tile(name, str(number), bad=bool(bad))
    yield _tile("elapsed", f"{totals.elapsed:.1f} s", bad=False)


def _tile(name: str, text: str, *, bad: bool) -> str:
    mark = ' class="bad"' if bad else ""
    return f'<div{mark}><dt>{name}</dt><dd data-name="{name}">{escape(text)}</dd></div>'


def _sections(figures: Figures) -> Iterator[str]:
    summary = figures.summary
    if figures.throughput:
        drawn = throughput(figures.throughput, figures.pauses, figures.step)
        yield _section("Throughput; pauses that the server asked for are shaded", drawn)
    if figures.latencies:
        rows = [
            (f"p{percent}" if percent < 100 else "longest", _milliseconds(seconds))
            for percent, seconds in figures.percentiles.items()
        ]
        table = _table(("latency", "ms"), rows, name="latency")
        yield _section("Latency, waits between attempts included", histogram(figures.latencies))
        yield _section("Percentiles of the latency", table)
    retries = summary.totals.retries
    yield _section(
        "Retries by reason", bars(retries) if retries else "<p>There were no retries.</p>"
    )
    yield _section(
        "Slowest dialogs",
        _table(
            ("dialog", "ms"),
            [(dialog, _milliseconds(seconds)) for dialog, seconds in figures.slowest],
            name="slowest",
        ),
    )
    if figures.failed:
        yield _section(
            "Dialogs with rows that were not applied",
            _table(("dialog", "error", "rows"), figures.failed, name="not-applied"),
        )
    options = [(name, "not set" if value is None else value) for name, value in _options(figures)]
    yield _section("Options", _table(("option", "value"), options, name="options"))
    yield _section("Versions", _table(("what", "version"), _versions(), name="versions"))


def _options(figures: Figures) -> Iterable[tuple[str, object]]:
    for name, value in sorted(figures.summary.options.items()):
        yield name, ", ".join(value) or None if isinstance(value, list) else value


def _versions() -> Iterator[tuple[str, str]]:
    for name in PACKAGES:
        try:
            yield name, version(name)
        except PackageNotFoundError:
            yield name, "not installed"
    yield "Python", platform.python_version()
    yield "SQLite", sqlite3.sqlite_version


def _milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:.1f}"


def _section(title: str, content: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{content}</section>"


def _table(heads: tuple[str, ...], rows: Iterable[tuple[object, ...]], *, name: str) -> str:
    numbers = {"ms", "rows"}
    kinds = [' class="n"' if head in numbers else "" for head in heads]
    top = "".join(f"<th{kind}>{head}</th>" for head, kind in zip(heads, kinds, strict=True))
    body = "".join(
        "<tr>"
        + "".join(
            f"<td{kind}>{escape(str(cell))}</td>" for cell, kind in zip(row, kinds, strict=True)
        )
        + "</tr>"
        for row in rows
    )
    return f'<table data-name="{name}"><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>'
