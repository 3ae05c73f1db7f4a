"""Rules of the oracle about events: callbacks, targets of an outbox, and the journal of a job."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from .facts import Breach, first_applied, position_in, requests_of, withdrawal_may_be_lost
from .log import UNENDED, Delivery, Log
from .schedule import Schedule


def slots(schedule: Schedule, log: Log) -> Iterator[Breach]:
    """Yield requests that were sent while the queue of the callback was full."""
    done = {
        one.update: one.ended
        for one in log.deliveries
        if one.dead or (one.succeeded and not one.failures)
    }
    sent = requests_of(log)
    held: list[tuple[float, float, str]] = []
    for call in log.calls:
        if sent[call.number]:
            failed = call.outcome not in ("ok", "cancelled")
            end = call.ended_at if failed else done.get(call.number, call.ended_at)
            held.append((sent[call.number][0].began, end, call.dialog_id))
    for began, _, dialog_id in held:
        used = sum(start <= began < end for start, end, _ in held)
        if used > schedule.hook_queue:
            text = f"{used} events for {schedule.hook_queue} slots at {began:.3f}"
            yield Breach("P9 hooks: no slot", dialog_id, text)
            return


def callbacks(_: Schedule, log: Log) -> Iterator[Breach]:
    """Yield events that came at one time, twice, out of order, or not at all."""
    position = position_in(log)
    delivered: Counter[int] = Counter()
    events: Counter[str] = Counter()
    latest: dict[tuple[str, bool], int] = {}
    ended: dict[tuple[str, bool], float] = {}
    for one in log.deliveries:
        lane = (one.dialog_id, one.failures)
        if not one.dead:
            if one.began < ended.get(lane, 0.0):
                yield Breach("P9 hooks", one.dialog_id, f"two calls at {one.began:.3f}")
            ended[lane] = one.ended
        if not (one.succeeded or one.dead):
            continue
        events[one.update_id] += 1
        if events[one.update_id] > 1:
            text = f"the event of {one.update_id} came twice"
            yield Breach("P9 hooks", one.dialog_id, text)
        if one.update < 0:
            continue
        delivered[one.update] += one.dead or not one.failures
        if one.succeeded:
            if position(one.update) < latest.get(lane, -1):
                yield Breach("P9 hooks: order", one.dialog_id, f"{one.update} came too late")
            latest[lane] = position(one.update)
    sent = requests_of(log)
    for call in log.calls:
        answered = any(each.status == 200 for each in sent[call.number])
        wanted = call.outcome == "ok" or (call.outcome == "cancelled" and answered)
        if call.kind not in ("read", "modify") and wanted and delivered[call.number] != 1:
            text = f"the event of update {call.number} was not delivered"
            yield Breach("P9 hooks: undelivered", call.dialog_id, text)


def deliveries(_: Schedule, log: Log) -> Iterator[Breach]:
    """Yield events that a target of the outbox did not get."""
    applied = first_applied(log)
    got = {(one.target, one.update) for one in log.deliveries if one.succeeded}
    for call in log.calls:
        if call.kind in ("read", "modify") or call.number not in applied:
            continue
        # Whatever its caller knows, somebody learns of each update that was applied.
        targets = ("crm", "alerts") if call.outcome == "ok" else ("alerts",)
        for target in targets:
            if (target, call.number) not in got:
                text = f"update {call.number} was applied, and {target} did not get it"
                yield Breach("P9 hooks: undelivered", call.dialog_id, text)


def contradictions(_: Schedule, log: Log) -> Iterator[Breach]:
    """Yield events that say something else than the server did, or than an earlier event."""
    applied = first_applied(log)
    earlier: dict[tuple[str, int], bool] = {}
    for one in log.deliveries:
        if one.update < 0:
            continue
        if one.update_id != f"u-{one.update}":
            text = f"the event of update {one.update} came with the id {one.update_id}"
            yield Breach("P9 hooks: event id", one.dialog_id, text)
        if one.applied and applied.get(one.update, one.began) >= one.began:
            text = f"update {one.update} came to {one.target} as applied, and was not"
            yield Breach("P9 hooks: false event", one.dialog_id, text)
        if one.target == "crm" and not one.applied:
            text = f"update {one.update} failed, and came to a target of applied updates"
            yield Breach("P9 hooks: false event", one.dialog_id, text)
        if earlier.setdefault((one.target, one.update), one.applied) != one.applied:
            text = f"update {one.update} came to {one.target} as applied and as failed"
            yield Breach("P9 hooks: contradiction", one.dialog_id, text)


def withdrawn(_: Schedule, log: Log) -> Iterator[Breach]:
    """Yield events of updates whose callers were cancelled before anything was sent."""
    sent = requests_of(log)
    known = {one.update for one in log.deliveries}
    for call in log.calls:
        unsent = call.outcome == "cancelled" and not sent[call.number]
        if unsent and call.number in known and not withdrawal_may_be_lost(log, call):
            text = f"update {call.number} was withdrawn, and an event of it came"
            yield Breach("P8 cancellation", call.dialog_id, text)


def delivery_order(_: Schedule, log: Log) -> Iterator[Breach]:
    """Yield events that a target got after the event of a later update, or at one time with it."""
    applied = first_applied(log)
    latest: dict[tuple[str, str], float] = {}
    previous: dict[tuple[str, str], Delivery] = {}
    known: set[tuple[str, int]] = set()
    for one in log.deliveries:
        key, lane = (one.target, one.update), (one.target, one.dialog_id)
        before = previous.get(lane)
        # A call that a crash cut off has no end.
        if before is not None and one.began < before.ended < UNENDED:
            yield Breach("P9 hooks: overlapping", one.dialog_id, f"two calls at {one.began:.3f}")
        previous[lane] = one
        if not (one.succeeded and one.applied and one.update in applied) or key in known:
            continue
        known.add(key)
        if applied[one.update] < latest.get(lane, 0.0):
            text = f"update {one.update} came to {one.target} after a later one at {one.began:.3f}"
            yield Breach("P9 hooks: order", one.dialog_id, text)
        latest[lane] = applied[one.update]


def job_rows(schedule: Schedule, log: Log) -> Iterator[Breach]:
    """Yield rows whose outcome in the journal is not what the server saw."""
    assert log.job is not None
    succeeded, failed, ambiguous, pending = log.job
    if pending or succeeded + failed + ambiguous != len(schedule.steps):
        yield Breach("P4 settled", "", f"{log.job} of {len(schedule.steps)} rows")
    if failed + ambiguous != len(log.dead_letters):
        text = f"{len(log.dead_letters)} dead letters of {failed + ambiguous} rows"
        yield Breach("P4 settled", "", text)
    applied = first_applied(log)
    for step in schedule.steps:
        error = log.dead_letters.get(step.number)
        if error is None and step.number not in applied:
            yield Breach("P4 lost", step.dialog_id, f"row {step.number} was not applied")
        # Repeating an assignment by hand is harmless.
        if error not in (None, "AmbiguousUpdateError") and step.moves and step.number in applied:
            text = f"row {step.number} ended with {error}, but was applied"
            yield Breach("P12 ambiguity", step.dialog_id, text)
