"""The story of the demo, part by part, on a terminal or in a file."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from .demo_job import TOKEN_LIFETIME, Story

WIDEST = 100
"""Characters; longer lines are hard to read. On a narrower terminal they are shorter."""

REASONS = {
    "conflict": "conflict (409)",
    "fault": "server fault (500)",
    "gateway": "gateway (502, 504)",
    "no_response": "no answer",
    "not_sent": "not sent",
    "throttled": "throttled (429)",
    "unauthorized": "token expired (401)",
    "unavailable": "unavailable (503)",
}


class Reporter:
    """Prints each part of the story once it is there."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._parts = iter((_opening, _one_update, _fan_out, _transitions, _verdict))

    def tell(self, story: Story) -> None:
        """Print the next part."""
        console = self._console
        with console.capture() as captured:
            console.print(next(self._parts)(story), width=WIDEST)
        text = captured.get()
        if not console.is_terminal:
            # rich fills lines up, which is a nuisance in a file.
            text = "\n".join(line.rstrip() for line in text.split("\n"))
        console.out(text, highlight=False, end="")


def _opening(story: Story) -> RenderableType:
    return Text.assemble(
        ("cognigy-async demo", "bold"),
        f"\n   against an emulator on {story.base_url}, over real HTTP\n",
    )


def _one_update(story: Story) -> RenderableType:
    result = story.update
    assert result is not None
    return _part(
        "1. One update, and a callback for the CRM",
        "Its connection is dropped before the server has the request. A transition must not be "
        "made twice, so the client reads the state, sees that nothing was written, and sends it "
        "again on condition of that version.",
        (
            ("dialog", f"{result.dialog_id}, moved to process_checkout"),
            ("state", f"version {result.version}, etag {result.etag}"),
            ("requests", f"{result.attempts} in {seconds(result.latency)}"),
            ("CRM callback", f"called {times(story.crm_calls)}"),
        ),
    )


def _fan_out(story: Story) -> RenderableType:
    told, metrics = story.fan_out, story.fan_out.metrics
    assert metrics is not None
    retries = sorted(metrics.retries.items(), key=lambda item: -item[1])
    latency = metrics.latency
    less = f"; not {told.planned:,}, so as to end in time" if told.inputs < told.planned else ""
    return _part(
        "2. A fan-out",
        "Ordered updates of many dialogs, while the server throttles, conflicts, fails, drops "
        "connections before and after it applies an update, and its tokens expire.",
        (
            ("updates", f"{told.inputs:,} in {seconds(told.elapsed)}{less}"),
            (
                "outcome",
                f"{metrics.applied:,} applied, {metrics.failed:,} failed, "
                f"{metrics.ambiguous:,} ambiguous",
            ),
            ("requests", f"{metrics.requests:,}, at most {told.in_flight_max} at a time"),
            *(
                ("retries" if not index else "", f"{count:,} {REASONS.get(reason, reason)}")
                for index, (reason, count) in enumerate(retries)
            ),
            (
                "latency",
                f"p50 {seconds(latency.p50)}, p95 {seconds(latency.p95)}, "
                f"p99 {seconds(latency.p99)}",
            ),
            ("", f"at most {seconds(latency.max)}, repeats included"),
            ("tokens", f"{told.token_refreshes} refreshed; each lives {TOKEN_LIFETIME:g} s"),
            ("CRM callback", f"called {times(metrics.events_delivered)}"),
        ),
        errors=[str(error) for error in told.errors],
    )


def _transitions(story: Story) -> RenderableType:
    told = story.transitions
    dialogs = "One dialog is" if told.dialogs == 1 else f"{told.dialogs} dialogs are"
    explanation = (
        f"{dialogs} moved. For one of them the server applies the transition and its answer is "
        "lost: nobody can tell, so it is not made again, and its caller gets an "
        "AmbiguousUpdateError."
    )
    if told.dialogs > 1:
        explanation += (
            " Another request is lost before the server has it; there the version of the state "
            "tells, and it is sent again."
        )
    return _part(
        "3. Transitions",
        explanation,
        (("outcome", f"{told.applied} applied, {told.ambiguous} ambiguous"),),
        errors=[str(error) for error in told.errors],
    )


def _verdict(story: Story) -> RenderableType:
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(style="dim")
    for check in story.checks:
        style = "green" if check.kept else "bold red"
        table.add_row(check.name, Text(str(check.broken), style), check.meaning)
    told = (
        Text("Every promise was kept.", "bold green")
        if story.kept
        else Text("A promise was broken, or an update failed.", "bold red")
    )
    return Group(Text("The server's verdict", "bold"), Padding(table, (0, 0, 1, 3)), told)


def _part(
    title: str,
    explanation: str,
    rows: Sequence[tuple[str, str]],
    errors: Sequence[str] = (),
) -> RenderableType:
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True, style="cyan")
    table.add_column()
    for name, value in rows:
        table.add_row(name, Text(value))
    lines: list[RenderableType] = [Text(title, "bold")]
    lines.append(Padding(Text(explanation, "dim"), (0, 0, 0, 3)))
    lines.append(Padding(table, (0, 0, 0, 3)))
    lines += (Padding(Text(error, "red"), (0, 0, 0, 3)) for error in errors[:5])
    if len(errors) > 5:
        lines.append(Padding(Text(f"and {len(errors) - 5} more", "red"), (0, 0, 0, 3)))
    return Group(*lines, Text())


def seconds(value: float) -> str:
    """A duration in the unit in which it reads best."""
    return f"{value:.1f} s" if value >= 0.9995 else f"{value * 1000:.0f} ms"


def times(count: int) -> str:
    """How often."""
    return {0: "never", 1: "once", 2: "twice"}.get(count, f"{count:,} times")
