"""`DialogWriter`: the workflow that keeps the order of one dialog's updates over all machines.

The code is replayed from recorded histories: a change of the order of its commands needs
`workflow.patched`. The tests replay histories of older versions, in the sandbox of Temporal.
Updates and outcomes are JSON objects; `wire` makes and reads them.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeAlias

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError, ApplicationError, is_cancelled_exception

Json: TypeAlias = dict[str, Any]

WORKFLOW = "CognigyDialogWriter"
UPDATE = "write"
WRITE, DELIVER = "cognigy_write", "cognigy_deliver"
BUSY = "Busy"
"""Type of the failure that asks the client to call again."""

IDLE = 30.0
"""Seconds without an update after which the workflow ends."""

MOST_CALLS = 1000
"""Calls of one execution. The server accepts 2,000."""

MOST_UPDATES = 1000
"""Updates of one activity."""

MOST_BYTES = 1_500_000
"""Bytes of the payload of one activity. The server accepts 2 MB."""

BODY_BYTES = 10_000
"""Bytes that the outcome of each update may take."""

MOST_EVENT_BYTES = 500_000
"""Bytes of events that wait for targets, after which callers wait."""

MOST_DEAD_LETTERS = 100
HEARTBEAT_TIMEOUT = timedelta(seconds=10)
"""Time without a heartbeat after which the cluster gives an activity to another worker."""

MOST_TIME = timedelta(days=1)
MOST_ATTEMPTS = 10
"""Attempts of an activity. A worker that dies uses one; an update that kills workers must end."""

WRITE_RETRY = RetryPolicy(
    initial_interval=timedelta(seconds=0.2),
    maximum_interval=timedelta(seconds=10),
    maximum_attempts=MOST_ATTEMPTS,
)
DELIVER_RETRY = RetryPolicy(
    initial_interval=timedelta(seconds=1), maximum_interval=timedelta(minutes=5)
)


@dataclass
class WriterState:
    """Hands what is left from one execution to the next one.

    Attributes:
        events: applied updates that targets have not taken yet, in order.
        dead_letters: events that a target will not take.
    """

    events: list[Json] = field(default_factory=list)
    dead_letters: list[Json] = field(default_factory=list)


class _Entry:
    """An update that waits for its outcome."""

    def __init__(self, update: Json) -> None:
        self.update = update
        self.outcome: Json | None = None


@workflow.defn(name=WORKFLOW)
class DialogWriter:
    """Hands the updates of one dialog to one activity at a time, in the order of arrival."""

    @workflow.init
    def __init__(self, state: WriterState) -> None:
        self._state = state
        self._waiting: deque[_Entry] = deque()
        self._calls = 0
        self._used_at = workflow.now()
        self._leaving = False
        self._deliveries: dict[str, asyncio.Task[None]] = {}

    @workflow.run
    async def run(self, state: WriterState) -> None:
        """Write until the dialog is idle, or the history is long."""
        self._idle = asyncio.create_task(asyncio.sleep(IDLE))
        self._start_deliveries()
        while not self._is_full():
            if self._waiting:
                await self._write_next()
            elif not self._idle.done():
                await workflow.wait_condition(lambda: self._has_work() or self._idle.done())
            elif (rest := self._rest_of_idle()) > 0:
                # One timer serves many updates, instead of one timer each.
                self._idle = asyncio.create_task(asyncio.sleep(rest))
            elif self._is_done():
                return
            else:
                await workflow.wait_condition(lambda: self._has_work() or self._is_done())
        self._idle.cancel()
        self._leaving = True
        while self._waiting or not workflow.all_handlers_finished():
            if self._waiting:
                await self._write_next()
            await workflow.wait_condition(
                lambda: bool(self._waiting) or workflow.all_handlers_finished()
            )
        for delivery in self._deliveries.values():
            delivery.cancel()
        await asyncio.gather(*self._deliveries.values(), return_exceptions=True)
        workflow.continue_as_new(self._state)

    @workflow.update(name=UPDATE)
    async def write(self, updates: list[Json]) -> list[Json]:
        """Write updates after all that arrived before. Return their outcomes in order."""
        self._calls += 1
        self._used_at = workflow.now()
        entries = [_Entry(update) for update in updates]
        self._waiting.extend(entries)
        await workflow.wait_condition(lambda: all(entry.outcome for entry in entries))
        return [entry.outcome for entry in entries if entry.outcome is not None]

    @write.validator
    def validate_write(self, updates: list[Json]) -> None:
        """Refuse a call that the next execution should take, or that events should wait for."""
        waiting = sum(map(_size, self._state.events))
        if self._is_full() or waiting > MOST_EVENT_BYTES:
            raise ApplicationError("call again", type=BUSY)

    @workflow.query
    def show(self) -> Json:
        """Return what waits, without variables."""
        return {
            "calls": self._calls,
            "waiting": len(self._waiting),
            "events": len(self._state.events),
            "dead_letters": [
                {
                    "update_id": letter["update"]["fields"]["update_id"],
                    "target": letter["targets"][0],
                    "error": letter["error"],
                }
                for letter in self._state.dead_letters
            ],
        }

    @workflow.signal
    def replay(self) -> None:
        """Hand the dead letters to their targets again."""
        letters, self._state.dead_letters = self._state.dead_letters, []
        self._state.events += letters
        self._start_deliveries()

    def _is_full(self) -> bool:
        return self._calls >= MOST_CALLS or workflow.info().is_continue_as_new_suggested()

    def _has_work(self) -> bool:
        return bool(self._waiting) or self._is_full()

    def _rest_of_idle(self) -> float:
        return IDLE - (workflow.now() - self._used_at).total_seconds()

    def _is_done(self) -> bool:
        kept = self._state.events or self._state.dead_letters
        return not kept and workflow.all_handlers_finished()

    async def _write_next(self) -> None:
        """Write what has gathered, as far as it may share an activity."""
        entries = self._take()
        try:
            answer: Json = await workflow.execute_activity(
                WRITE,
                [entry.update for entry in entries],
                result_type=dict,
                start_to_close_timeout=MOST_TIME,
                heartbeat_timeout=HEARTBEAT_TIMEOUT,
                retry_policy=WRITE_RETRY,
            )
        except ActivityError:
            answer = {"outcomes": [{"lost": MOST_ATTEMPTS} for _ in entries], "targets": []}
        unsent = []
        for entry, outcome in zip(entries, answer["outcomes"], strict=True):
            entry.outcome = outcome
            if outcome is None:
                # A worker that shuts down leaves the rest to another one.
                unsent.append(entry)
            elif answer["targets"] and "result" in outcome:
                event = {"update": entry.update, "outcome": outcome}
                self._state.events.append(event | {"targets": list(answer["targets"])})
        self._waiting.extendleft(reversed(unsent))
        self._start_deliveries()

    def _take(self) -> list[_Entry]:
        entries = [self._waiting.popleft()]
        size = entries[0].update["size"] + BODY_BYTES
        while self._waiting and len(entries) < MOST_UPDATES:
            update = self._waiting[0].update
            size += update["size"] + BODY_BYTES
            # The first one alone may be an update that must not be repeated: if the activity runs
            # again, it is known to be the one that may have been applied.
            if size > MOST_BYTES or not update["repeatable"]:
                break
            entries.append(self._waiting.popleft())
        return entries

    def _start_deliveries(self) -> None:
        for target in sorted({name for event in self._state.events for name in event["targets"]}):
            delivery = self._deliveries.get(target)
            if delivery is None or delivery.done():
                self._deliveries[target] = asyncio.create_task(self._deliver(target))

    async def _deliver(self, target: str) -> None:
        """Hand events to a target in order until none is left."""
        while (events := self._events_for(target)) and not self._leaving:
            try:
                answer: Json = await workflow.execute_activity(
                    DELIVER,
                    args=[target, events],
                    result_type=dict,
                    schedule_to_close_timeout=MOST_TIME,
                    heartbeat_timeout=HEARTBEAT_TIMEOUT,
                    retry_policy=DELIVER_RETRY,
                    cancellation_type=workflow.ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
                )
            except ActivityError as error:
                if is_cancelled_exception(error):
                    raise
                answer = {"errors": [f"not delivered within {MOST_TIME}"]}
            for event, text in zip(events, answer["errors"], strict=False):
                event["targets"].remove(target)
                if text is not None:
                    letter = {name: event[name] for name in ("update", "outcome")}
                    self._state.dead_letters.append(letter | {"targets": [target], "error": text})
            self._state.events = [event for event in self._state.events if event["targets"]]
            del self._state.dead_letters[:-MOST_DEAD_LETTERS]

    def _events_for(self, target: str) -> list[Json]:
        events: list[Json] = []
        size = 0
        for event in self._state.events:
            if target in event["targets"]:
                size += _size(event)
                if events and (size > MOST_BYTES or len(events) == MOST_UPDATES):
                    break
                events.append(event)
        return events


def _size(event: Json) -> int:
    size: int = event["update"]["size"] + event["outcome"]["size"]
    return size
