"""The report of a job, as a browser shows it, against the journal it was made from."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from cognigy_async.bulk import read_summary
from cognigy_async.emulator import Emulator, Faults

from .conftest import Command

pytest.importorskip("matplotlib", reason="reports need the extra report")

CANARY = "canary-77ab"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")

PROBE = """<script>
addEventListener("load", () => {
  const seen = {};
  for (const place of document.querySelectorAll("[data-name]"))
    if (place.tagName === "DD" && place.getClientRects().length)
      seen[place.dataset.name] = place.innerText;
  const rows = (name) => [...document.querySelectorAll(`table[data-name=${name}] tbody tr`)]
    .map((row) => [...row.cells].map((cell) => cell.innerText));
  parent.document.documentElement.dataset.seen = JSON.stringify({
    seen, width: document.documentElement.scrollWidth, window: innerWidth,
    charts: [...document.querySelectorAll("svg")]
      .map((chart) => chart.getBoundingClientRect().width),
    latency: rows("latency"), failed: rows("not-applied"), options: rows("options"),
    ink: getComputedStyle(document.body).color,
    ground: getComputedStyle(document.body).backgroundColor,
  });
});
</script></body>"""


@pytest.fixture
def report(emulator: Emulator, command: Command) -> str:
    """Of a job with failures, retries and a pause."""
    rows: list[dict[str, Any]] = [
        {"dialog_id": f"d{n % 30}", "session": {"seq": n, "secret": CANARY}} for n in range(300)
    ]
    rows[7]["session"] = {"a-b": CANARY}
    Path("rows <b>.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    emulator.faults = Faults(error_503=0.05, drop_before=0.02, throttle_dialog=0.01)
    arguments = ["bulk", "run", "rows <b>.jsonl", "--journal", "job", "--report", "report.html"]
    assert command(*arguments) == 1
    assert "The report is in report.html." in command.messages
    return Path("report.html").read_text(encoding="utf-8")


def test_it_needs_nothing_else_and_holds_no_value(report: str) -> None:
    assert CANARY not in report
    assert not re.search(r"(?:src|href)=[\"']?(?!#)", report.replace('xlink:href="#', ""))
    assert "<script" not in report
    assert "@import" not in report
    assert "rows &lt;b&gt;.jsonl" in report
    assert report.count("<svg") == 3
    assert "currentColor" in report
    assert "var(--accent)" in report


def test_its_numbers_are_those_of_the_journal(report: str) -> None:
    totals = read_summary("job").totals
    tiles = dict(re.findall(r'<dd data-name="(\w+)">([^<]*)</dd>', report))
    assert tiles == {
        "succeeded": str(totals.succeeded),
        "failed": str(totals.failed),
        "ambiguous": str(totals.ambiguous),
        "requests": str(totals.requests),
        "retries": str(sum(totals.retries.values())),
        "elapsed": f"{totals.elapsed:.1f} s",
    }
    assert (totals.succeeded, totals.failed) == (299, 1)


@pytest.mark.real_time
@pytest.mark.browser
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [400, 1400])
def test_in_a_browser(report: str, tmp_path: Path, width: int, dark: bool) -> None:
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip(f"no browser was found: none of {', '.join(BROWSERS)} is installed")
    # The policy of the page forbids scripts; the copy that is looked at has one.
    page = re.sub(r"<meta http-equiv=[^>]*>", "", report).replace("</body>", PROBE)
    if dark:
        page = page.replace("@media (prefers-color-scheme: dark)", "@media all")
    # A headless window is never as narrow as a telephone; a frame is as wide as it is told to be.
    frame = f'<iframe width="{width}" height="3000" srcdoc="{html.escape(page)}"></iframe>'
    style = "<style>body { margin: 0 } iframe { border: 0 }</style>"
    (tmp_path / "page.html").write_text(f"{style}{frame}", encoding="utf-8")
    done = subprocess.run(
        [
            browser,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            f"--user-data-dir={tmp_path / 'profile'}",
            "--window-size=1500,3000",
            "--dump-dom",
            f"file://{tmp_path}/page.html",
        ],
        capture_output=True,
        text=True,
        check=True,
        timeout=50,
    )
    found = re.search(r'data-seen="([^"]*)"', done.stdout)
    assert found, done.stdout[-500:]
    seen = json.loads(html.unescape(found[1]))
    totals = read_summary(Path("job")).totals
    assert seen["seen"]["succeeded"] == str(totals.succeeded)
    assert seen["seen"]["failed"] == str(totals.failed)
    assert seen["seen"]["requests"] == str(totals.requests)
    assert seen["seen"]["retries"] == str(sum(totals.retries.values()))
    assert seen["window"] == width
    assert seen["width"] <= width
    assert all(150 < chart <= width for chart in seen["charts"])
    assert [row[0] for row in seen["latency"]] == ["p50", "p90", "p95", "p99", "longest"]
    milliseconds = [float(row[1]) for row in seen["latency"]]
    assert milliseconds == sorted(milliseconds)
    assert seen["failed"] == [["d7", "UpdateValidationError", "1"]]
    assert ["on_failure", "continue"] in seen["options"]
    bright = [sum(map(int, re.findall(r"\d+", seen[name])[:3])) for name in ("ink", "ground")]
    assert (bright[0] > bright[1]) is dark
