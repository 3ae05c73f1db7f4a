"""The job of the demo: three parts, each printed when it is done."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

import anyio
from rich.progress import Progress
from tenacity import wait_random_exponential

from cognigy_async import (
    AmbiguousUpdateError,
    AsyncStateClient,
    CognigyError,
    OAuthConfig,
    OAuthTokenProvider,
    RetryPolicy,
    UpdateEvent,
)
from cognigy_async.emulator import Emulator, Faults, Step, serve

from .._output import REASONS, console, counted, duration
from .check import Reported, run_checks

MAX_IN_FLIGHT = 16
RETRY = RetryPolicy(wait=wait_random_exponential(multiplier=0.1, max=1.0))
"""Short waits, because this server recovers at once."""
DIALOG = "d-8f3a"
NODE = "process_checkout"
TOKEN_LIFETIME = 3.0
"""Seconds; long enough that a fresh token does not expire on its way on a slow machine."""

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
EACH_ONCE: tuple[Step, ...] = (
    "conflict",
    "drop_after",
    "throttle_dialog",
    "error_503",
    "token_expiry",
    "drop_before",
    "throttle_tenant",
    "error_500",
)
"""Faults that come even if chance leaves them out: one in `SPACING` requests at first."""
SPACING = 10
NO_FAULT: Step = "ok"

ONE_UPDATE = """\
   The connection drops before the server has the request. A
   transition must not be applied twice: the client reads
   the state, finds it unchanged, and sends the update again
   on condition of that version."""
FAN_OUT = """\
   Ordered updates of many dialogs. Meanwhile the server
   throttles, reports conflicts, fails, drops connections
   before and after it applies an update, and lets tokens
   expire."""
TRANSITIONS = """\
   The response to the first one is lost. Nobody can know
   that it was applied, so the client does not repeat it and
   raises AmbiguousUpdateError. The request of the second is
   lost. The version of the state proves that, so the client
   sends it again."""


async def run_demo(dialogs: int, updates: int, input_seconds: float, seconds: float | None) -> bool:
    """Run the demo on asyncio; return whether every promise was kept and no update failed.

    Args:
        dialogs: dialogs of the fan-out.
        updates: ordered updates of each dialog.
        input_seconds: seconds after which the fan-out takes no more updates.
        seconds: seconds after which the demo gives up; None for never.

    Raises:
        TimeoutError: the demo gave up.
        OSError: no local port can be listened on.
        CognigyError: the first update failed.
    """
    emulator = Emulator(
        token_lifetime=TOKEN_LIFETIME,
        # The harder case: a request that is sent twice is applied twice.
        honour_idempotency_keys=False,
        retry_after="decimal",
    )
    input_end = time.monotonic() + input_seconds
    with anyio.fail_after(seconds):
        async with serve(emulator) as base_url:
            demo = _Demo(emulator, base_url)
            await demo.update_once()
            await demo.fan_out(dialogs, updates, input_end)
            await demo.move_dialogs(min(dialogs, 20))
            return demo.print_checks()


class _Demo:
    def __init__(self, emulator: Emulator, base_url: str) -> None:
        self._emulator = emulator
        self._base_url = base_url
        self._crm: dict[str, list[UpdateEvent]] = {}
        self._reported = Reported(self._crm)
        self._failures = 0
        self._auth = OAuthTokenProvider(
            OAuthConfig(
                token_url=f"{base_url}/oauth/token",
                client_id="emulator-client",
                client_secret="emulator-secret",
                scopes=["runtime:write", "session:manage", "dialog:read"],
            )
        )
        _print("cognigy-async demo", "bold")
        _print(f"   against an emulator on {base_url}, over HTTP\n")

    def _client(self) -> AsyncStateClient:
        client = AsyncStateClient(
            self._base_url, auth=self._auth, max_in_flight=MAX_IN_FLIGHT, retry=RETRY
        )
        client.on_state_updated(self._upsert)
        return client

    async def _upsert(self, event: UpdateEvent) -> None:
        """Stand in for a CRM that takes its time."""
        await anyio.sleep(0.002)
        self._crm.setdefault(event.dialog_id, []).append(event)

    async def update_once(self) -> None:
        """Move a dialog; its first request is lost before the server has it."""
        self._emulator.faults = CALM
        self._emulator.script("drop_before", dialog_id=DIALOG)
        cart, orders = {"cart_total": 149.99}, {"lifetime_orders": 12}
        async with self._client() as client:
            await client.get_state(DIALOG)
            result = await client.update(DIALOG, session=cart, user=orders, next_step=NODE)
        self._reported.updates += 1
        self._reported.outcomes += 1
        self._reported.moved.append((DIALOG, True))
        calls = counted(len(self._crm.get(DIALOG, ())), "time")
        self._print_part(
            "1. One update with a callback for the CRM",
            ONE_UPDATE,
            ("dialog", f"{DIALOG}, moved to {NODE}"),
            ("state", f"version {result.version}, etag {result.etag}"),
            ("requests", f"{result.attempts} in {duration(result.latency)}"),
            ("CRM callback", f"called {calls}"),
        )

    async def fan_out(self, dialogs: int, updates: int, input_end: float) -> None:
        """Send ordered updates of many dialogs, while everything fails now and then."""
        reported, planned = self._reported, dialogs * updates

        def rows() -> Iterator[dict[str, Any]]:
            for number in range(planned):
                if time.monotonic() > input_end:
                    return
                reported.updates += 1
                seq = number // dialogs + 1
                session = {"seq": seq, "cart_total": round(seq * 9.99, 2)}
                yield {"dialog_id": f"d-{number % dialogs:04}", "session": session}

        self._emulator.faults = STORM
        for step in EACH_ONCE[: planned // SPACING]:
            self._emulator.script(*[NO_FAULT] * (SPACING - 1), step)
        errors: list[CognigyError] = []
        before, refreshes = reported.updates, self._auth.token_refreshes
        began = time.monotonic()
        out = console(stderr=True)
        async with self._client() as client:
            with Progress(console=out, transient=True, disable=not out.is_interactive) as bar:
                task = bar.add_task("updates", total=planned)
                async with client.update_many(rows()) as outcomes:
                    async for outcome in outcomes:
                        assert outcome.update is not None
                        if outcome.error is None:
                            seq = outcome.update.session["seq"]
                            reported.applied.append((outcome.update.dialog_id, seq))
                        else:
                            errors.append(outcome.error)
                        reported.outcomes += 1
                        bar.advance(task)
            elapsed = time.monotonic() - began
            await client.flush()
            metrics = client.metrics.snapshot()
        inputs = reported.updates - before
        less = f" instead of {planned:,}, to end in time" if inputs < planned else ""
        retries = sorted(metrics.retries.items(), key=lambda retry: -retry[1])
        latency = metrics.latency
        self._print_part(
            "2. A fan-out",
            FAN_OUT,
            ("updates", f"{inputs:,}{less}, in {duration(elapsed)}"),
            (
                "outcome",
                f"{metrics.applied:,} applied, {metrics.failed:,} failed, "
                f"{metrics.ambiguous:,} ambiguous",
            ),
            (
                "requests",
                f"{metrics.requests:,}, at most {self._emulator.stats.in_flight_max} in flight",
            ),
            *(("retries", f"{count:,} {REASONS.get(reason, reason)}") for reason, count in retries),
            (
                "latency",
                f"p50 {duration(latency.p50)}, p95 {duration(latency.p95)}, "
                f"p99 {duration(latency.p99)}",
            ),
            ("", f"at most {duration(latency.max)}, retries included"),
            (
                "tokens",
                f"{self._auth.token_refreshes - refreshes} refreshed; each is valid for "
                f"{TOKEN_LIFETIME:g} s",
            ),
            ("CRM callback", f"called {counted(metrics.events_delivered, 'time')}"),
            errors=errors,
        )

    async def move_dialogs(self, number: int) -> None:
        """Move dialogs; one request is lost on its way, and the response to another one."""
        self._emulator.faults = CALM
        self._emulator.script("drop_after", dialog_id="d-0000")
        self._emulator.script("drop_before", dialog_id="d-0001")
        errors: list[CognigyError] = []
        async with self._client() as client, anyio.create_task_group() as tasks:

            async def move(dialog_id: str) -> None:
                self._reported.updates += 1
                applied = False
                try:
                    # The read gives the client a version to compare with.
                    await client.get_state(dialog_id)
                    await client.update(dialog_id, session={"closed": True}, next_step=NODE)
                    applied = True
                except CognigyError as error:
                    errors.append(error)
                self._reported.outcomes += 1
                self._reported.moved.append((dialog_id, applied))

            for index in range(number):
                tasks.start_soon(move, f"d-{index:04}")
        failed = [error for error in errors if not isinstance(error, AmbiguousUpdateError)]
        outcome = f"{number - len(errors)} applied, {len(errors) - len(failed)} ambiguous"
        title = f"3. Transitions of {counted(number, 'dialog')}"
        self._print_part(title, TRANSITIONS, ("outcome", outcome), errors=failed)

    def print_checks(self) -> bool:
        """Print the checks; return whether every promise was kept and no update failed."""
        _print("Checks on the server", "bold")
        ok = not self._failures
        for name, broken, meaning in run_checks(self._emulator, self._reported, MAX_IN_FLIGHT):
            _print(f"   {name:18}  {broken}  {meaning}", "bold red" if broken else "")
            ok = ok and not broken
        if ok:
            _print("\nEvery promise was kept.", "bold green")
        else:
            _print("\nA promise was broken, or an update failed.", "bold red")
        return ok

    def _print_part(
        self,
        title: str,
        explanation: str,
        *rows: tuple[str, str],
        errors: Sequence[CognigyError] = (),
    ) -> None:
        self._failures += len(errors)
        _print(title, "bold")
        _print(explanation, "dim")
        for name, text in rows:
            _print(f"   {name:14}{text}")
        for error in errors[:5]:
            _print(f"   {error}", "red")
        if len(errors) > 5:
            _print(f"   and {len(errors) - 5} more", "red")
        _print("")


def _print(text: str, style: str = "") -> None:
    console().print(text, style=style, markup=False, soft_wrap=True)
