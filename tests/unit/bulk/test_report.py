"""Reports: figures, charts and the page."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cognigy_async.bulk.journal.journal import Batch, Journal
from cognigy_async.bulk.report.figures import read_figures

ROOT = Path(__file__).parents[3]


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    path = tmp_path / "journal"
    with Journal(path) as journal:
        journal.begin_run({"input": '{"name": "a <b>"}'}, same_input=False)
        journal.write(
            Batch(
                outcomes=[
                    (n, f"d{n % 5}", 1 + (n == 7), 1, 100.0, 100.0 + n, 100.0 + 2 * n, 1, None)
                    for n in range(1, 101)
                ],
                failures=[(7, "BadRequestError", "m", 400)],
                events=[
                    (1, "d1", 110.0, "throttled", 5.0),
                    (2, "d2", 112.0, "throttled", 5.0),
                    (3, "d3", 130.0, "throttled", 1.0),
                    (3, "d3", 140.0, "fault", 1.0),
                ],
            )
        )
    return path


def test_figures_are_those_of_the_journal(journal: Path) -> None:
    figures = read_figures(journal)
    assert figures.pauses == ((10.0, 17.0), (30.0, 31.0))
    assert figures.percentiles == {50: 50.0, 90: 90.0, 95: 95.0, 99: 99.0, 100: 100.0}
    assert sum(count for _, count in figures.latencies) == 100
    assert sum(rate for _, rate in figures.throughput) * figures.step == pytest.approx(100)
    assert figures.slowest[0] == ("d0", 100.0)
    assert figures.failed == (("d2", "BadRequestError", 1),)


def test_a_page_escapes_what_it_shows(journal: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="reports need the extra report")
    from cognigy_async.bulk.report import write_report

    write_report(journal, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Job report: a &lt;b&gt;" in page
    assert '<div class="bad"><dt>failed</dt><dd data-name="failed">1</dd></div>' in page
    assert '<div><dt>ambiguous</dt><dd data-name="ambiguous">0</dd></div>' in page
    assert '<tr><td>p99</td><td class="n">99000.0</td></tr>' in page
    assert page.count("<svg") == 2


def test_charts_take_their_colours_from_the_page() -> None:
    pytest.importorskip("matplotlib", reason="reports need the extra report")
    from cognigy_async.bulk.report import charts

    for chart in (
        charts.throughput_chart([(0.0, 5.0), (1.0, 0.0)], [(0.5, 9.0)], 1.0),
        charts.latency_histogram([(0.0, 3), (0.1, 1)]),
        charts.retry_bars({"fault": 3}),
    ):
        assert chart.startswith('<svg role="img" aria-label=')
        assert "var(--accent)" in chart
        assert not any(placeholder in chart for placeholder in charts.COLOURS)


def test_charts_take_nothing_from_the_working_directory(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="reports need the extra report")
    # With this setting, LaTeX would run what a preamble in the same file says.
    (tmp_path / "matplotlibrc").write_text("text.usetex: True\naxes.facecolor: red\n")
    code = (
        "from cognigy_async.bulk.report import charts; print(charts.retry_bars({'fault': 3})); "
        "print(charts.throughput_chart([(0.0, 5.0)], [], 1.0)); "
        "print(charts.latency_histogram([(0.0, 3)]))"
    )
    ended = subprocess.run(
        [sys.executable, "-P", "-c", code],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("<svg") == 3
    assert "#ff0000" not in ended.stdout
    assert ">fault<" in ended.stdout


def test_names_in_charts_are_no_formulas() -> None:
    pytest.importorskip("matplotlib", reason="reports need the extra report")
    from cognigy_async.bulk.report import charts

    assert "$\\foo$" in charts.retry_bars({"$\\foo$": 1})
