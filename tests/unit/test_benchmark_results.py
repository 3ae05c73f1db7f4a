"""Results of the benchmarks: ratios, targets, plots and the page."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from benchmarks.harness import charts, figures, page
from benchmarks.harness.charts import COLOURS, INK, MUTED
from benchmarks.harness.figures import Pair
from benchmarks.harness.page import aims

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"

MINE, BARE = "library over aiohttp", "bare aiohttp"


def result(per_second: float, cpu_us: float, **more: float) -> dict[str, float]:
    return {"per_second": per_second, "cpu_us": cpu_us, "server_share": 0.25, **more}


RUNS = {
    # The machine was slow in the second round.
    MINE: [result(8_000, 120, requests_per_update=1), result(800, 130, requests_per_update=1)],
    BARE: [result(10_000, 90), result(1_000, 90)],
}
PAIR = Pair(MINE, BARE, 0.8)
MACHINE: dict[str, Any] = {
    "python": "3.11.0",
    "processor": "a processor",
    "cores": 2,
    "versions": {"aiohttp": "3.12", "node": None},
}


def throughput(**scenarios: tuple[str, Pair]) -> dict[str, Any]:
    results = {
        key: figures.summary(title, [pair], RUNS) for key, (title, pair) in scenarios.items()
    }
    head = {"machine": MACHINE, "rounds": 2, "count": 1_000, "in_flight": 64}
    return {**head, "scenarios": results}


def level(**values: float) -> dict[str, Any]:
    return {
        kind: {"median": value, "lowest": 0.9 * value, "highest": 1.2 * value}
        for kind, value in values.items()
    }


def tenant() -> dict[str, Any]:
    levels = {
        "128": level(per_second=6_300.0, cpu_us=60.0, share=0.99),
        "256": level(per_second=12_288.0, cpu_us=50.0, share=0.96),
        "512": level(per_second=16_000.0, cpu_us=51.0, share=0.63),
    }
    names = ("library over pyreqwest, uvloop", "bare pyreqwest, uvloop", "library over httpx")
    slow = {"128": level(per_second=900.0, cpu_us=990.0, share=0.14)}
    case = {"latency": 0.02, "contestants": dict(zip(names, (levels, levels, slow), strict=True))}
    return {"machine": MACHINE, "cases": {"20 ms": case, "200 ms": case | {"latency": 0.2}}}


LATENCIES = level(p50_ms=1.0, p95_ms=2.0, p99_ms=4.0)
FOUND: dict[str, Any] = {
    "throughput": throughput(dialogs=("many dialogs", PAIR), tls=("TLS", Pair(MINE, BARE))),
    "tenant": tenant(),
    "in_flight": {
        "machine": MACHINE,
        "ratios": [
            {"one": MINE, "other": BARE, "level": 8, "cpu": figures.ratio([9.0, 9.4], [10, 10])}
        ],
        "contestants": {
            name: {n: level(per_second=100.0 * int(n), cpu_us=90.0) | LATENCIES for n in ("1", "4")}
            for name in (MINE, BARE)
        },
    },
    "latency": {
        "machine": MACHINE,
        "libraries": {
            "aiohttp": {
                "rate": 4_000,
                "update": LATENCIES,
                "bare": LATENCIES,
                "p99_ratio": {"aim": 1.2, "median": 1.21, "lowest": 2.0, "highest": 4.0},
            }
        },
    },
    "dialogs": {
        "machine": MACHINE,
        "kinds": {
            "update_many": {
                "1000": level(cpu_us=10.0, peak_mb=60.0),
                "10000": level(cpu_us=10.0, peak_mb=60.0),
                "1000000": level(cpu_us=11.0, peak_mb=71.0),
            }
        },
    },
    "overhead": {
        "3.11": {
            "python": "3.11.0",
            "rate_limit": 1_000_000,
            "count": 20_000,
            **{
                kind: {"cpu_us": 15.0, "times_calibration": 5.0}
                for kind in ("calibration", "update_many", "update")
            },
        }
    },
}


def test_a_summary_has_medians_and_ratios_of_the_same_round() -> None:
    result = figures.summary("many dialogs", [PAIR, Pair(MINE, "absent")], RUNS)
    assert result["title"] == "many dialogs"
    assert result["contestants"][MINE]["per_second"]["median"] == 4_400
    (compared,) = result["ratios"]
    assert compared["aim"] == 0.8
    assert compared["per_second"] == {"median": 0.8, "lowest": 0.8, "highest": 0.8}
    assert compared["cpu"]["highest"] == 0.75
    assert compared["cpu"]["median"] == pytest.approx(0.72, abs=0.005)


def test_use_of_a_quota_is_that_of_whole_windows() -> None:
    # Ten a second: each window at once, the third one begins 50 ms late.
    times = [*[0.0] * 10, *[1.0] * 10, 2.05, 2.5, 2.9]
    assert figures.quota(times, 10) == {
        "seconds": 2.05,
        "ideal_seconds": 2.0,
        "utilisation": pytest.approx(2 / 2.05),
        "most_in_a_second": 10.0,
    }
    # What was left of a window that nobody needed is no loss.
    assert figures.quota(times[:20], 10)["utilisation"] == 1.0
    assert figures.quota([0.0, 0.1, 0.2], 2)["most_in_a_second"] == 3.0


def test_latencies_compare_each_round() -> None:
    kinds = ("p50_ms", "p95_ms", "p99_ms")
    mine = [dict.fromkeys(kinds, value) for value in (4.0, 40.0, 6.0)]
    bare = [dict.fromkeys(kinds, value) for value in (2.0, 20.0, 2.0)]
    result = figures.latencies(123.4, mine, bare)
    assert result["rate"] == 123
    assert result["p99_ratio"] == {"aim": 1.2, "median": 2.0, "lowest": 2.0, "highest": 3.0}
    (aim,) = aims({"latency": {"libraries": {"x": result}}})
    assert (aim.bound, aim.measured, aim.is_met) == ("at most 1.2", "2.00 (2.00 to 3.00)", False)


def test_targets_show_whether_they_were_reached() -> None:
    assert "0.72 (0.69 to 0.75)" in [aim.measured for aim in aims(FOUND)]
    reached = {aim.what: aim.is_met for aim in aims(FOUND)}
    assert reached == {
        "CPU of `update_many`, Python 3.11.0, with a rate limit": False,
        "CPU of `update`, 20,000 calls at once, Python 3.11.0, with a rate limit": True,
        f"{MINE}, times {BARE}, by CPU (many dialogs)": False,
        f"{MINE}, times {BARE}, by CPU, 8 in flight": False,
        "library over pyreqwest, uvloop, 256 in flight at 20 ms: rate": True,
        "p99 of `update` over aiohttp, times that of bare aiohttp": False,
        "CPU of `update_many`, 10^6 dialogs": False,
        "CPU of `update_many` with 10^6 dialogs, times that with 10^3": True,
        "memory of `update_many` with 10^6 dialogs, above that with 10^4": False,
    }


def test_targets_need_results() -> None:
    assert list(aims({})) == []
    assert list(aims({"dialogs": {"kinds": {"update_many": {"1000": level(cpu_us=1.0)}}}})) == []


# Plots.


@pytest.mark.parametrize("name", charts.CHARTS)
def test_plots_are_svg_in_colours_that_follow_the_reader(name: str) -> None:
    for draw in charts.CHARTS[name]:
        text = draw(FOUND[name])
        assert text is not None
        assert text == draw(FOUND[name])
        root = ET.fromstring(text)
        assert root.tag.endswith("svg")
        assert root.get("aria-label")
        assert "prefers-color-scheme: dark" in text
        assert not [colour for colour in (INK, MUTED, *COLOURS) if colour in text]


def test_plots_name_the_contestants_and_the_units() -> None:
    drawn = charts.throughput(FOUND["throughput"])
    assert drawn is not None
    assert all(text in drawn for text in (MINE, BARE, "4,400", "updates per second"))
    assert "p99 latency (ms)" in charts.by_in_flight(FOUND["in_flight"])


def test_nothing_is_drawn_of_scenarios_that_were_not_measured() -> None:
    results = {"scenarios": {}}
    assert charts.throughput(results) is None
    assert charts.scenarios(results) is None


# The page.


def test_tables_take_the_place_of_those_before() -> None:
    text = f"before\n\n{page.BEGIN}\nold\n{page.END}\n\nafter\n"
    once = page.inserted(text, "new")
    assert once == f"before\n\n{page.BEGIN}\n\nnew\n\n{page.END}\n\nafter\n"
    assert page.inserted(once, "new") == once


@pytest.mark.parametrize("text", ["", f"{page.BEGIN}", f"{page.END} {page.BEGIN}"])
def test_a_page_without_a_place_for_them_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="the page needs a line"):
        page.inserted(text, "new")


def test_tables_have_every_file_and_its_plots() -> None:
    text = page.tables(FOUND, {"throughput": ["throughput.svg", "scenarios.svg"]}, "benchmarks")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()]
    assert ["library over aiohttp", "4,400", "800 to 8,000", "125.0 µs", "25%"] in rows
    assert ["TLS", "aiohttp", "4,400", "5,500", "0.80 (0.80 to 0.80)", "0.72", "1"] in rows
    assert ["`update`, 20,000 calls that wait at once", "15.0 µs", "5.0"] in rows
    assert "](benchmarks/scenarios.svg)" in text
    assert "a processor, 2 cores; Python 3.11.0, aiohttp 3.12." in text
    assert min(len(row) for row in rows if row) > 2
    assert text.count("[All runs](benchmarks/") == 5


def test_a_transport_carries_what_reaches_the_rate_that_the_latency_allows() -> None:
    text = page.tables({"tenant": FOUND["tenant"]}, {}, ".")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()]
    fast = ["library over pyreqwest, uvloop", "256", "12,288", "50 µs", "512", "16,000", "51 µs"]
    assert ["20 ms", *fast] in rows
    assert ["200 ms", "library over httpx", *"---", "128", "900", "990 µs"] in rows


def test_the_choice_says_what_each_transport_carries() -> None:
    text = page.choice({"tenant": FOUND["tenant"]}, "benchmarks")
    chart, *lines = [line for line in text.splitlines() if line]
    assert chart.endswith("(benchmarks/tenant.svg)")
    slow, fast = (
        f"256 requests in flight at {title} (12,288 updates a second, 50 µs of CPU each)"
        for title in ("200 ms", "20 ms")
    )
    assert lines == [f"- Take `PyreqwestTransport` on uvloop for more: {slow} and {fast}."]
    assert page.choice({}, "benchmarks") == "Nothing was measured yet."


def test_a_scenario_without_a_pair_shows_its_contestants() -> None:
    results = throughput(faults=("2% faults", Pair(MINE, "absent")))
    text = page.tables({"throughput": results}, {}, ".")
    assert "### Targets" not in text
    lines = [line for line in text.splitlines() if line.startswith(f"| {MINE}")]
    assert len(lines) == 1
    assert "4,400" in lines[0]


def test_the_lines_of_a_table_have_the_same_length() -> None:
    lines = [line for line in page.tables(FOUND, {}, ".").splitlines() if line.startswith("|")]
    lengths = [len(list(group)) for _, group in itertools.groupby(map(len, lines))]
    assert min(lengths) > 2


def test_costs_with_the_nested_payload_are_shown_where_they_were_measured() -> None:
    kinds = ("calibration", "update_many", "update")
    one = FOUND["overhead"]["3.11"]
    nested = one | {f"{kind}_nested": one[kind] | {"cpu_us": 33.0} for kind in kinds}
    assert "1 kB" not in page.tables(FOUND, {}, ".")
    assert "1 kB" not in page.tables({"overhead": {"3.11": nested, "3.13": one}}, {}, ".")
    text = page.tables({"overhead": {"3.11": nested}}, {}, ".")
    assert text.count(", 1 kB") == 3
    assert text.count("| 33.0 µs") == 3


def test_the_page_shows_what_the_files_have() -> None:
    text = (DOCS / "benchmarks.md").read_text(encoding="utf-8")
    found = page.read(DOCS / "benchmarks")
    plots = {
        name: [file for draw in charts.CHARTS[name] if (file := plot_of(draw))]
        for name in charts.CHARTS
    }
    assert page.inserted(text, page.tables(found, plots, "benchmarks")) == text
    marks = page.BEGIN_CHOICE, page.END_CHOICE
    assert page.inserted(text, page.choice(found, "benchmarks"), marks) == text


def plot_of(draw: Any) -> str | None:
    path = DOCS / "benchmarks" / f"{draw.__name__.replace('_', '-')}.svg"
    return path.name if path.exists() else None


@pytest.mark.thorough
@pytest.mark.real_time
def test_from_a_run_to_the_page(tmp_path: Path) -> None:
    folder, text = tmp_path / "results", tmp_path / "results.md"
    marks = (page.BEGIN_CHOICE, page.END_CHOICE, page.BEGIN, page.END)
    text.write_text("\n".join(marks), encoding="utf-8")
    few = ["--scenario", "few-dialogs", "--only", BARE, "--count", "40", "--rounds", "1"]
    program("throughput.py", *few, "--in-flight", "4", "--json", str(folder / "throughput.json"))
    results = json.loads((folder / "throughput.json").read_text(encoding="utf-8"))
    assert results["machine"]["cores"] >= 1
    runs = results["scenarios"]["few-dialogs"]["runs"]
    assert set(runs) == {BARE}
    assert all(one["per_second"] > 0 and one["cpu_us"] > 0 for (one,) in runs.values())
    program("plots.py", str(folder))
    assert "### Updates per second" in text.read_text(encoding="utf-8")


@pytest.mark.real_time
def test_a_transport_is_measured_until_it_does_not_follow(tmp_path: Path) -> None:
    file = tmp_path / "tenant.json"
    few = ["--case", "20 ms", "--only", "library over httpx2", "--rounds", "1", "--seconds", "0.1"]
    program("tenant.py", *few, "--json", str(file))
    case = json.loads(file.read_text(encoding="utf-8"))["cases"]["20 ms"]
    levels = case["contestants"]["library over httpx2"]
    shares = [one["share"]["median"] for one in levels.values()]
    assert 1 <= len(shares) <= 8
    assert all(share >= 0.7 for share in shares[:-1])
    assert all(one["latency_ms"]["median"] >= 20 for one in levels.values())


@pytest.mark.real_time
def test_overhead_is_measured_with_a_tiny_and_a_nested_payload() -> None:
    few = ("--count", "200", "--rounds", "2", "--memory", "0")
    results = json.loads(program("overhead.py", *few, "--json"))
    assert results["payload_bytes"]["tiny"] < 50
    assert 900 < results["payload_bytes"]["nested"] < 1_100
    for base in ("calibration", "calibration_nested"):
        for kind in ("calibration", "update_many", "update"):
            row = results[base.replace("calibration", kind)]
            assert 0 < row["lowest_us"] <= row["cpu_us"] <= row["highest_us"]
            ratio = row["cpu_us"] / results[base]["cpu_us"]
            assert row["times_calibration"] == pytest.approx(ratio, abs=0.02)
    assert results["calibration_nested"]["lowest_us"] > results["calibration"]["lowest_us"]


@pytest.mark.thorough
@pytest.mark.real_time
def test_crowded_work_is_measured_as_a_multiple_of_its_plain_case() -> None:
    few = ("--count", "100", "--rounds", "1", "--memory", "0")
    crowded = json.loads(program("overhead.py", *few, "--json"))["crowded"]
    assert {"full_callback_queue", "failure_of_a_dialog", "lingering_without_merge"} <= set(crowded)
    assert "concurrent_flushes" in crowded
    for row in crowded.values():
        assert row["cpu_us"] > 0
        assert row["times_plain"] == pytest.approx(row["cpu_us"] / row["plain_us"], abs=0.02)
    table = program("overhead.py", *few).splitlines()
    assert [name for name in crowded if any(line.startswith(f"{name} ") for line in table)] == [
        *crowded
    ]


@pytest.mark.real_time
def test_an_outbox_is_measured_beside_no_outbox() -> None:
    few = ("--count", "200", "--rounds", "1", "--seconds", "0.1", "--memory", "200")
    results = json.loads(program("outbox.py", *few, "--events", "400", "--json"))
    costs = {name: row["lowest_us"] for name, row in results["cpu"].items()}
    assert 0 < costs["without"] < costs["recorded"]
    assert results["cpu"]["power"]["adds_us"] > 0
    load = results["latency"]["32 callers, 20 ms"]
    assert 15 < load["p50_without"] < load["p50"]
    calls = {name: row["calls"] for name, row in results["targets"].items()}
    # More if the linger ends while a busy machine still makes the updates.
    assert 4 <= calls["hubspot"] <= 8
    assert 2 <= calls["salesforce"] <= 6


def program(name: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / name), *arguments],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
