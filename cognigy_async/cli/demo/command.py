"""The command `cognigy-async demo`: run three parts and the checks, and print each result."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from textwrap import fill
from typing import Annotated, Any

import anyio
import typer
from rich.progress import Progress
from tenacity import wait_random_exponential

from cognigy_async import (
    AsyncStateClient,
    CognigyError,
    OAuthConfig,
    OAuthTokenProvider,
    RetryPolicy,
    UpdateEvent,
)
from cognigy_async.crm import Outbox, TargetUnavailableError
from cognigy_async.emulator import Emulator, Faults, Rules, Step, Throttling, serve

from .._options import DebugOption, choose_loop, choose_transport
from .._output import REASONS, console, counted, duration, printable, say
from .._run import NOT_APPLIED, report_errors
from .check import Outcome, run_checks

DIALOGS, UPDATES = 150, 10
INPUT_SECONDS, SECONDS = 7.0, 19.0
"""Maximum seconds of the input, and of the whole demo in its default size."""
MAX_IN_FLIGHT = 16
RETRY = RetryPolicy(max_attempts=20, wait=wait_random_exponential(multiplier=0.1, max=1.0))
"""Short waits, because this server recovers at once.

Many attempts, because its faults are independent: among 1,500 updates one meets five faults in a
row in one of 200 runs.
"""
MAX_WIDTH = 80
DIALOG = "d-8f3a"
NODE = "process_checkout"
TOKEN_LIFETIME = 3.0
"""Seconds. Even on a slow machine, a new token does not expire before it is used."""

CALM = Faults(latency=0.005, token_latency=0.05)
STORM = Faults(
    latency=0.01,
    latency_jitter=0.02,
    error_500=0.02,
    error_503=0.02,
    drop_before=0.02,
    drop_after=0.02,
    conflict=0.02,
    competitor=0.02,
    throttle_tenant=0.002,
    throttle_dialog=0.005,
    throttle_seconds=0.3,
    token_latency=0.1,
)
EACH_ONCE: list[Step] = ["conflict", "drop_after", "throttle_dialog", "error_503"]
EACH_ONCE.extend(("token_expiry", "drop_before", "throttle_tenant", "error_500"))
"""Faults that are always injected at the start, one per `SPACING` requests."""
SPACING = 10
BETWEEN: list[Step] = ["ok"] * (SPACING - 1)


def demo(
    dialogs: Annotated[int, typer.Option(min=1, metavar="N", help="Number of dialogs.")] = DIALOGS,
    updates: Annotated[int, typer.Option(min=1, metavar="N", help="Updates per dialog.")] = UPDATES,
    debug: DebugOption = False,
) -> None:
    """Show that no update is lost.

    A client writes to an emulator that injects faults. Then the command checks the state on the
    emulator. The default size takes less than 20 seconds. The command needs no settings.

    Exit status: 0 every promise was kept, 1 a promise was broken or an update failed.
    """
    default = (dialogs, updates) == (DIALOGS, UPDATES)
    input_end = time.monotonic() + INPUT_SECONDS if default else math.inf
    with report_errors(debug=debug, log=False):
        try:
            options = choose_loop(None).options
            kept = anyio.run(_run, dialogs, updates, input_end, backend_options=options)
        except TimeoutError:
            say(f"The demo did not end within {SECONDS:g} s.", style="red")
            kept = False
    if not kept:
        raise typer.Exit(NOT_APPLIED)


async def _run(dialogs: int, updates: int, input_end: float) -> bool:
    emulator = Emulator(
        # This is the harder case: the server applies a repeated request again.
        rules=Rules(token_lifetime=TOKEN_LIFETIME, honour_idempotency_keys=False),
        throttling=Throttling(retry_after="decimal"),
    )
    with anyio.fail_after(SECONDS if input_end < math.inf else None):
        with TemporaryDirectory(prefix="cognigy-demo-") as folder:
            async with serve(emulator) as base_url:
                demo = _Demo(emulator, base_url, Path(folder))
                await demo.update_once()
                await demo.fan_out(dialogs, updates, input_end)
                await demo.move_dialogs(min(dialogs, 20))
                return demo.print_checks()


class _Demo:
    def __init__(self, emulator: Emulator, base_url: str, folder: Path) -> None:
        self._emulator = emulator
        self._folder = folder
        self._crm_is_down = True
        self._base_url = base_url
        self._crm: dict[str, list[UpdateEvent]] = {}
        self._updates = 0
        self._outcomes: list[Outcome] = []
        self._printed = 0
        url = f"{base_url}/oauth/token"
        config = OAuthConfig(
            token_url=url, client_id="emulator-client", client_secret="emulator-secret"
        )
        self._auth = OAuthTokenProvider(config)
        _print(f"cognigy-async demo on the emulator {base_url}\n", "bold")

    def _client(self) -> AsyncStateClient:
        outbox = Outbox(self._folder)
        outbox.deliver_to(self._upsert, name="crm")
        return AsyncStateClient(
            self._base_url,
            auth=self._auth,
            max_in_flight=MAX_IN_FLIGHT,
            retry=RETRY,
            transport=choose_transport(None).create(),
            outbox=outbox,
        )

    async def _upsert(self, event: UpdateEvent) -> None:
        """Simulate a slow CRM, which is down at first."""
        await anyio.sleep(0.002)
        if self._crm_is_down:
            raise TargetUnavailableError("the CRM is down")
        self._crm.setdefault(event.dialog_id, []).append(event)

    async def update_once(self) -> None:
        """Move a dialog; its first request is lost before it reaches the server."""
        self._emulator.faults = CALM
        self._emulator.script("drop_before", dialog_id=DIALOG)
        self._updates += 1
        cart, orders = {"cart_total": 149.99}, {"lifetime_orders": 12}
        async with self._client() as client:
            await client.get_state(DIALOG)
            result = await client.update(DIALOG, session=cart, user=orders, next_step=NODE)
        self._outcomes.append(Outcome(DIALOG, None, None))
        self._print_part(
            "1. One update. The connection drops before the server has the request.",
            "The client reads the state, finds it unchanged, and sends the update again.",
            f"version {result.version} after {result.attempts} requests in "
            f"{duration(result.latency)}; the CRM is down: its event waits",
        )
        self._crm_is_down = False

    async def fan_out(self, dialogs: int, updates: int, input_end: float) -> None:
        """Send ordered updates of many dialogs while faults occur at random."""
        planned = dialogs * updates

        def rows() -> Iterator[dict[str, Any]]:
            for number in range(planned):
                if time.monotonic() > input_end:
                    return
                self._updates += 1
                seq = number // dialogs + 1
                session = {"seq": seq, "cart_total": round(seq * 9.99, 2)}
                yield {"dialog_id": f"d-{number % dialogs:04}", "session": session}

        self._emulator.faults = STORM
        for step in EACH_ONCE[: planned // SPACING]:
            self._emulator.script(*BETWEEN, step)
        began, out = time.monotonic(), console(stderr=True)
        async with self._client() as client:
            with Progress(console=out, transient=True, disable=not out.is_interactive) as bar:
                task = bar.add_task("updates", total=planned)
                async with client.update_many(rows()) as outcomes:
                    async for outcome in outcomes:
                        assert outcome.update is not None
                        dialog_id, seq = outcome.update.dialog_id, outcome.update.session["seq"]
                        self._outcomes.append(Outcome(dialog_id, seq, outcome.error))
                        bar.advance(task)
            elapsed = time.monotonic() - began
            await _until_delivered(client)
            metrics = client.metrics.snapshot()
        inputs = metrics.applied + metrics.failed + metrics.ambiguous
        less = f" instead of {planned:,}, to end in time" if inputs < planned else ""
        latency = metrics.latency
        retries = [
            f"{count:,} {REASONS.get(reason, reason)}"
            for reason, count in sorted(metrics.retries.items(), key=lambda retry: -retry[1])
        ]
        self._print_part(
            f"2. {inputs:,} updates of {counted(dialogs, 'dialog')}{less}. "
            "The server fails in every way.",
            f"{metrics.applied:,} applied, {metrics.failed:,} failed, {metrics.ambiguous:,} "
            f"ambiguous in {duration(elapsed)}; {metrics.targets[0].delivered:,} events "
            "in the CRM",
            f"{metrics.requests:,} requests, at most {self._emulator.stats.in_flight_max} in "
            f"flight; p50 {duration(latency.p50)}, p99 {duration(latency.p99)}, retries included",
            f"retries: {', '.join(retries) or 'none'}",
        )

    async def move_dialogs(self, number: int) -> None:
        """Move dialogs; one request is lost on its way, and the response to another one."""
        self._emulator.faults = CALM
        self._emulator.script("drop_after", dialog_id="d-0000")
        self._emulator.script("drop_before", dialog_id="d-0001")
        async with self._client() as client:

            async def move(dialog_id: str) -> None:
                self._updates += 1
                error: CognigyError | None = None
                try:
                    # The read gives the client a version to compare with.
                    await client.get_state(dialog_id)
                    await client.update(dialog_id, session={"closed": True}, next_step=NODE)
                except CognigyError as caught:
                    error = caught
                self._outcomes.append(Outcome(dialog_id, None, error))

            async with anyio.create_task_group() as tasks:
                for index in range(number):
                    tasks.start_soon(move, f"d-{index:04}")
            await _until_delivered(client)
        self._print_part(
            f"3. Transitions of {counted(number, 'dialog')}. A response is lost, and a request.",
            "A transition must not be applied twice. Where that is uncertain, the client sends "
            "nothing more and raises AmbiguousUpdateError.",
            f"{client.metrics.applied} applied, {client.metrics.ambiguous} ambiguous",
        )

    def print_checks(self) -> bool:
        """Print the checks; return whether every promise was kept and no update failed."""
        ok = not any(outcome.failed for outcome in self._outcomes)
        checks = run_checks(self._emulator, MAX_IN_FLIGHT, self._updates, self._outcomes, self._crm)
        self._print_part(
            "Broken promises that the server has counted",
            ", ".join(f"{name} {broken}" for name, broken, _ in checks),
        )
        for name, broken, meaning in checks:
            if broken:
                _print(f"   {name}: {broken}, {meaning}", "bold red")
                ok = False
        verdict = "Every promise was kept." if ok else "A promise was broken, or an update failed."
        _print(verdict, "bold green" if ok else "bold red")
        return ok

    def _print_part(self, title: str, *sentences: str) -> None:
        width = min(console().width, MAX_WIDTH)
        _print(fill(title, width, subsequent_indent="   "), "bold")
        for sentence in sentences:
            _print(fill(sentence, width, initial_indent="   ", subsequent_indent="      "))
        errors = [outcome.error for outcome in self._outcomes[self._printed :] if outcome.failed]
        self._printed = len(self._outcomes)
        for error in errors[:5]:
            _print(f"   {printable(str(error))}", "red")
        if len(errors) > 5:
            _print(f"   and {len(errors) - 5} more", "red")
        _print("")


async def _until_delivered(client: AsyncStateClient) -> None:
    """Wait until the CRM has every event. A service goes on instead."""
    while client.metrics.targets[0].depth:  # noqa: ASYNC110
        await anyio.sleep(0.01)


def _print(text: str, style: str = "") -> None:
    console().print(text, style=style, markup=False, soft_wrap=True)
