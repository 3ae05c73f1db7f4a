"""Page of a report: one self-contained HTML file, in light and dark colours."""

from __future__ import annotations

import platform
import sqlite3
import time
from collections.abc import Iterable, Iterator
from html import escape
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from string import Template

from cognigy_async._utils.private_files import check_replaceable, is_stream, replace_private

from .charts import latency_histogram, retry_bars, throughput_chart
from .figures import ReportFigures, read_figures

PACKAGES = ("cognigy-async", "anyio", "httpx", "pydantic", "tenacity")

BEGIN = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="generator" content="cognigy_async bulk report">
"""
"""Begin of each report, by which a later run knows what it may replace."""

PAGE = Template(
    BEGIN
    + """<meta name="viewport" content="width=device-width, initial-scale=1">
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
"""
)


def check_report(path: Path) -> None:
    """Check that a report may be put at a path, before the job runs.

    Raises:
        OSError: The file that is there is not a report, or not one of this user.
    """
    if not is_stream(path):
        check_replaceable(path, BEGIN.encode())


def write_report(journal: Path, path: Path) -> None:
    """Write the report of a journal to a file, in the place of an earlier report, or to a stream.

    Raises:
        JournalRefusedError: The journal does not exist or is damaged.
        OSError: The file cannot be written, or the one that is there is not a report.
    """
    content = _page(read_figures(journal)).encode()
    if is_stream(path):
        with path.open("ab") as stream:
            stream.write(content)
    else:
        replace_private(path, content, BEGIN.encode())


def _page(figures: ReportFigures) -> str:
    summary = figures.summary
    began = summary.runs[0].began if summary.runs else 0.0
    at = time.strftime("%Y-%m-%d %H:%M:%S %Z", time.localtime(began))
    ended = summary.runs[-1].ended if summary.runs else None
    about = (
        f"Job {summary.job_id}, begun {at}. Runs: {len(summary.runs)}; the last one ended: "
        f"{ended or 'cut off'}."
    )
    return PAGE.substitute(
        title=escape(f"Job report: {Path(summary.source).name}"),
        about=escape(about),
        tiles="".join(_tiles(figures)),
        sections="".join(_sections(figures)),
    )


def _tiles(figures: ReportFigures) -> Iterator[str]:
    totals = figures.summary.totals
    tiles = {
        "succeeded": totals.succeeded,
        "failed": totals.failed,
        "ambiguous": totals.ambiguous,
        **({"unchanged": totals.unchanged} if totals.unchanged else {}),
        "requests": totals.requests,
        "retries": totals.retries.total(),
        "elapsed": f"{totals.elapsed:.1f} s",
    }
    for name, value in tiles.items():
        mark = ' class="bad"' if value and name in ("failed", "ambiguous") else ""
        yield f'<div{mark}><dt>{name}</dt><dd data-name="{name}">{value}</dd></div>'


def _sections(figures: ReportFigures) -> Iterator[str]:
    summary = figures.summary
    if figures.throughput:
        chart = throughput_chart(figures.throughput, figures.pauses, figures.step)
        yield _section("Throughput; pauses requested by the server are shaded", chart)
    if figures.latencies:
        rows = [
            (f"p{percent}" if percent < 100 else "longest", _milliseconds(seconds))
            for percent, seconds in figures.percentiles.items()
        ]
        table = _table(("latency", "ms"), rows, name="latency")
        chart = latency_histogram(figures.latencies)
        yield _section("Latency, including waits between attempts", chart)
        yield _section("Latency percentiles", table)
    retries = summary.totals.retries
    chart = retry_bars(retries) if retries else "<p>There were no retries.</p>"
    yield _section("Retries by reason", chart)
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
    yield _section("Versions", _table(("package", "version"), _versions(), name="versions"))


def _options(figures: ReportFigures) -> Iterable[tuple[str, object]]:
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
    kinds = [' class="n"' if head in ("ms", "rows") else "" for head in heads]

    def line(tag: str, cells: tuple[object, ...]) -> str:
        inner = "".join(
            f"<{tag}{kind}>{escape(str(cell))}</{tag}>"
            for kind, cell in zip(kinds, cells, strict=True)
        )
        return f"<tr>{inner}</tr>"

    body = "".join(line("td", row) for row in rows)
    head = line("th", heads)
    return f'<table data-name="{name}"><thead>{head}</thead><tbody>{body}</tbody></table>'
