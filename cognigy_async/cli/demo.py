"""`cognigy-async demo`: the main job, done for real against the emulator, and judged by it."""

from __future__ import annotations

from typing import Annotated

import anyio
import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from .demo_job import Plan, Story, run_job
from .demo_report import Reporter
from .output import console, say
from .running import NOT_APPLIED, Debug, reported

DIALOGS = 150
UPDATES = 10

INPUT_SECONDS = 7.0
"""On a slow machine the demo of the default size does less, not longer."""
SECONDS = 19.0


def demo(
    dialogs: Annotated[
        int | None, typer.Option(min=1, metavar="N", help=f"Dialogs; {DIALOGS} by default.")
    ] = None,
    updates: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help=f"Updates of each dialog; {UPDATES} by default."),
    ] = None,
    debug: Debug = False,
) -> None:
    """Run the main job against an emulator in this process, and check that nothing was lost.

    Takes less than 20 seconds in its default size. Ends with status 1 if a promise was broken.
    """
    if dialogs is None and updates is None:
        plan = Plan(DIALOGS, UPDATES, INPUT_SECONDS, SECONDS)
    else:
        plan = Plan(dialogs or DIALOGS, updates or UPDATES)
    with reported(debug=debug, news=False):
        try:
            story = _run(plan)
        except TimeoutError:
            say(f"The demo did not end within {SECONDS:g} s, which it should.", style="red")
            raise typer.Exit(NOT_APPLIED) from None
    if not story.kept:
        raise typer.Exit(NOT_APPLIED)


def _run(plan: Plan) -> Story:
    reporter = Reporter(console())
    bar = _Bar(plan.dialogs * plan.updates)

    def tell(story: Story) -> None:
        bar.stop()
        reporter.tell(story)
        # The fan-out is the part that takes its time.
        if story.update is not None and story.fan_out.metrics is None:
            bar.start()

    try:
        return anyio.run(run_job, plan, tell, bar.advance)
    finally:
        bar.stop()


class _Bar:
    """A progress bar on stderr while it is started; none where stderr is no terminal."""

    def __init__(self, total: int) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            console=console(stderr=True),
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._shown = self._progress.console.is_interactive
        self._task = self._progress.add_task("updates", total=total)

    def start(self) -> None:
        if self._shown:
            self._progress.start()

    def advance(self) -> None:
        if self._shown:
            self._progress.advance(self._task)

    def stop(self) -> None:
        if self._shown:
            self._progress.stop()
