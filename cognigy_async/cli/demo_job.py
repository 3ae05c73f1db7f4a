"""The main job against the emulator, and what the server says about it afterwards."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import anyio
from tenacity import wait_random_exponential

from cognigy_async import (
    AmbiguousUpdateError,
    AsyncStateClient,
    CognigyError,
    MetricsSnapshot,
    OAuthConfig,
    OAuthTokenProvider,
    RetryPolicy,
    UpdateEvent,
    UpdateResult,
)
from cognigy_async.emulator import Emulator, Faults, Rules, Step, Throttling, serve

from .demo_verdict import Check, Seen, judge

MAX_IN_FLIGHT = 16
RETRY = RetryPolicy(wait=wait_random_exponential(multiplier=0.1, max=1.0))
"""This server recovers at once, and the demo ends within its time."""
DIALOG = "d-8f3a"
NODE = "process_checkout"
TOKEN_LIFETIME = 3.0
"""Seconds; so many that also on a very slow machine a fresh token does not expire on its way."""

QUIET = Faults(latency=0.005, token_latency=0.05)
WEATHER = Faults(
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
"""What the fan-out goes through; probabilities of each request, and seconds."""

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
"""So that none is missing where chance would leave it out; one in `SPACING` requests at first."""
SPACING = 10
QUIET_STEPS: list[Step] = ["ok"] * (SPACING - 1)

LOST: tuple[Step, ...] = ("drop_after", "drop_before")
"""What the first transitions meet, one each."""


@dataclass(frozen=True)
class Plan:
    """How much the demo does.

    Attributes:
        dialogs, updates: of the fan-out: so many dialogs, so many ordered updates of each.
        input_seconds: after these it takes no further input, however slow the machine is.
        seconds: after these it gives up.
    """

    dialogs: int
    updates: int
    input_seconds: float = math.inf
    seconds: float = math.inf


@dataclass
class FanOut:
    """What became of the fan-out."""

    planned: int = 0
    inputs: int = 0
    elapsed: float = 0.0
    errors: list[CognigyError] = field(default_factory=list)
    metrics: MetricsSnapshot | None = None
    in_flight_max: int = 0
    token_refreshes: int = 0


@dataclass
class Transitions:
    """What became of the transitions."""

    dialogs: int = 0
    applied: int = 0
    ambiguous: int = 0
    errors: list[CognigyError] = field(default_factory=list)


@dataclass
class Story:
    """Everything that there is to tell."""

    base_url: str = ""
    update: UpdateResult | None = None
    crm_calls: int = 0
    fan_out: FanOut = field(default_factory=FanOut)
    transitions: Transitions = field(default_factory=Transitions)
    checks: tuple[Check, ...] = ()

    @property
    def kept(self) -> bool:
        """Whether every promise was kept and everything that could be applied was."""
        return (
            bool(self.checks)
            and all(check.kept for check in self.checks)
            and not self.fan_out.errors
            and not self.transitions.errors
        )


class Crm:
    """Stands for the system that is kept in step with the dialogs."""

    def __init__(self) -> None:
        self.records: dict[str, list[UpdateEvent]] = {}

    async def upsert(self, event: UpdateEvent) -> None:
        """Take one event, as slowly as a call over the network."""
        await anyio.sleep(0.002)
        self.records.setdefault(event.dialog_id, []).append(event)


async def run_job(plan: Plan, tell: Callable[[Story], None], advance: Callable[[], None]) -> Story:
    """Serve the emulator over HTTP and do the job; asyncio only.

    Args:
        plan: how much.
        tell: called after each part with the story so far.
        advance: called at each outcome of the fan-out.

    Raises:
        TimeoutError: it took longer than planned.
        OSError: no local port can be listened on.
        CognigyError: the first update fails.
    """
    emulator = Emulator(
        # The harder case: what is sent twice is applied twice.
        rules=Rules(token_lifetime=TOKEN_LIFETIME, honour_idempotency_keys=False),
        throttling=Throttling(retry_after="decimal"),
    )
    story = Story()
    with anyio.fail_after(None if plan.seconds == math.inf else plan.seconds):
        async with serve(emulator) as story.base_url:
            job = _Job(plan, emulator, story)
            tell(story)
            await job.one_update()
            tell(story)
            await job.fan_out(advance)
            tell(story)
            await job.move_dialogs()
            tell(story)
            story.checks = judge(emulator, job.seen, MAX_IN_FLIGHT)
            tell(story)
    return story


class _Job:
    def __init__(self, plan: Plan, emulator: Emulator, story: Story) -> None:
        self._plan = plan
        self._emulator = emulator
        self._story = story
        self._began = time.monotonic()
        self._crm = Crm()
        self.seen = Seen(self._crm.records)
        self._auth = OAuthTokenProvider(
            OAuthConfig(
                token_url=f"{story.base_url}/oauth/token",
                client_id="emulator-client",
                client_secret="emulator-secret",
                scopes=["runtime:write", "session:manage", "dialog:read"],
            )
        )

    def _client(self) -> AsyncStateClient:
        client = AsyncStateClient(
            self._story.base_url, auth=self._auth, max_in_flight=MAX_IN_FLIGHT, retry=RETRY
        )
        client.on_state_updated(self._crm.upsert)
        return client

    async def one_update(self) -> None:
        """An update that moves its dialog. Its first request is lost before the server has it."""
        self._emulator.faults = QUIET
        self._emulator.script("drop_before", dialog_id=DIALOG)
        async with self._client() as client:
            await client.get_state(DIALOG)
            self._story.update = await client.update(
                DIALOG,
                session={"cart_total": 149.99},
                user={"lifetime_orders": 12},
                next_step=NODE,
            )
        self.seen.updates += 1
        self.seen.settled += 1
        self.seen.moved.append((DIALOG, True))
        self._story.crm_calls = len(self._crm.records.get(DIALOG, ()))

    async def fan_out(self, advance: Callable[[], None]) -> None:
        """Many ordered updates of many dialogs, and everything goes wrong now and then."""
        emulator, told = self._emulator, self._story.fan_out
        told.planned = self._plan.dialogs * self._plan.updates
        emulator.faults = WEATHER
        for step in EACH_ONCE[: told.planned // SPACING]:
            emulator.script(*QUIET_STEPS, step)
        began = time.monotonic()
        refreshes = self._auth.token_refreshes
        async with self._client() as client:
            async with client.update_many(self._rows()) as outcomes:
                async for outcome in outcomes:
                    assert outcome.update is not None
                    if outcome.error is None:
                        seq = outcome.update.session["seq"]
                        self.seen.applied.append((outcome.update.dialog_id, seq))
                    else:
                        told.errors.append(outcome.error)
                    self.seen.settled += 1
                    advance()
            told.elapsed = time.monotonic() - began
            await client.flush()
            told.metrics = client.metrics.snapshot()
        told.in_flight_max = emulator.stats.in_flight_max
        told.token_refreshes = self._auth.token_refreshes - refreshes

    def _rows(self) -> Iterator[dict[str, Any]]:
        end = self._began + self._plan.input_seconds
        for seq in range(1, self._plan.updates + 1):
            for number in range(self._plan.dialogs):
                if time.monotonic() > end:
                    return
                self._story.fan_out.inputs += 1
                self.seen.updates += 1
                yield {
                    "dialog_id": f"d-{number:04}",
                    "session": {"seq": seq, "cart_total": round(seq * 9.99, 2)},
                }

    async def move_dialogs(self) -> None:
        """Transitions, which must not be made twice. One request is lost before the server has it,
        the answer to another one on its way back.
        """
        emulator, told = self._emulator, self._story.transitions
        emulator.faults = QUIET
        dialogs = [f"d-{number:04}" for number in range(min(self._plan.dialogs, 20))]
        told.dialogs = len(dialogs)
        for dialog_id, step in zip(dialogs, LOST, strict=False):
            emulator.script(step, dialog_id=dialog_id)
        async with self._client() as client, anyio.create_task_group() as tasks:

            async def move(dialog_id: str) -> None:
                self.seen.updates += 1
                applied = False
                try:
                    # So the client knows a version to compare with.
                    await client.get_state(dialog_id)
                    await client.update(dialog_id, session={"closed": True}, next_step=NODE)
                    applied = True
                    told.applied += 1
                except AmbiguousUpdateError:
                    told.ambiguous += 1
                except CognigyError as error:
                    told.errors.append(error)
                self.seen.settled += 1
                self.seen.moved.append((dialog_id, applied))

            for dialog_id in dialogs:
                tasks.start_soon(move, dialog_id)
