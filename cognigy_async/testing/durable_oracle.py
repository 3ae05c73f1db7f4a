"""The oracle of programs that outlive crashes. It shares no code with the client."""

from __future__ import annotations

from bisect import bisect
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from typing import TypeAlias

from .breach import Breach
from .log import UNENDED, Delivery, Exchange, Log
from .schedule import Schedule

Rule: TypeAlias = Callable[[Schedule, Log], Iterator[Breach]]
UNCERTAIN = {"AmbiguousUpdateError", "cancelled", "crashed"}
"""Outcomes of calls that may have been applied or not."""


def check_durable(schedule: Schedule, log: Log) -> list[Breach]:
    """Return the broken promises of a run over several lives of a process."""
    if log.problems:
        return [Breach(*problem) for problem in log.problems]
    rules: list[Rule] = [_order, _transitions, _final_state]
    if schedule.program == "job":
        rules += [_job]
    else:
        rules += [_delivered, _delivery_order, _increments, _withdrawn]
    return [breach for rule in rules for breach in rule(schedule, log)]


def _writes(log: Log) -> dict[str, list[Exchange]]:
    writes: dict[str, list[Exchange]] = defaultdict(list)
    for each in log.exchanges:
        if each.method != "GET":
            writes[each.dialog_id].append(each)
    return writes


def _position(log: Log) -> Callable[[int], int]:
    """Return what gives the place of an update in the order of the calls, or of the rows."""
    calls = {call.number: index for index, call in enumerate(log.calls)}
    return lambda number: calls.get(number, number)


def _order(schedule: Schedule, log: Log) -> Iterator[Breach]:
    position = _position(log)
    for dialog_id, writes in _writes(log).items():
        latest, life = -1, 0
        previous = None
        for write in writes:
            if previous is not None and write.began < previous.ended:
                text = f"two writes at {write.began:.3f}"
                yield Breach("P1 order: overlapping", dialog_id, text)
            # A job repeats the rows whose outcome was not recorded, in their order.
            if schedule.program == "job" and bisect(log.crashes, write.began) > life:
                life, latest = bisect(log.crashes, write.began), -1
            places = [position(number) for number in write.updates]
            is_repeat = previous is not None and write.key == previous.key
            if places and min(places) <= latest and not is_repeat:
                text = f"{write.updates} was sent after a later update at {write.began:.3f}"
                yield Breach("P1 order", dialog_id, text)
            latest = max([latest, *places])
            previous = write


def _transitions(_: Schedule, log: Log) -> Iterator[Breach]:
    applied: Counter[tuple[str, str]] = Counter()
    for each in log.exchanges:
        if each.step is not None:
            applied[each.dialog_id, each.step] += len(each.applied_at)
    for (dialog_id, step), count in applied.items():
        if count > 1:
            yield Breach("P12 doubled transition", dialog_id, f"{step} was applied {count} times")


def _final_state(_: Schedule, log: Log) -> Iterator[Breach]:
    position = _position(log)
    late = {each.dialog_id for each in log.exchanges if each.fault == "late"}
    for dialog_id, writes in _writes(log).items():
        done = [number for each in writes if each.applied_at for number in each.updates]
        if done and dialog_id not in late and log.last[dialog_id] != max(done, key=position):
            yield Breach("P11 final state", dialog_id, f"it ends with {log.last[dialog_id]}")


def _applied_at(log: Log) -> dict[int, float]:
    """Return when each update was applied first."""
    applied: dict[int, float] = {}
    for each in log.exchanges:
        for number in each.updates:
            for at in each.applied_at:
                applied[number] = min(at, applied.get(number, at))
    return applied


def _delivered(_: Schedule, log: Log) -> Iterator[Breach]:
    """Yield events that a target did not get, and those of updates that were not applied."""
    applied = _applied_at(log)
    got: dict[tuple[str, int], list[Delivery]] = defaultdict(list)
    for one in log.deliveries:
        if one.update < 0:
            continue
        if one.update_id != f"u-{one.update}":
            text = f"the event of update {one.update} came with the id {one.update_id}"
            yield Breach("P9 hooks: event id", one.dialog_id, text)
        if one.applied and applied.get(one.update, one.ended) >= one.ended:
            text = f"update {one.update} came to {one.target} as applied, and was not"
            yield Breach("P9 hooks: false event", one.dialog_id, text)
        if one.target == "crm" and not one.applied:
            text = f"update {one.update} was not applied, and came to a target of applied ones"
            yield Breach("P9 hooks: false event", one.dialog_id, text)
        if one.succeeded:
            got[one.target, one.update].append(one)
    for call in log.calls:
        if call.kind in ("read", "modify"):
            continue
        for target in ("crm", "alerts"):
            events = got[target, call.number]
            if call.outcome == "ok" and call.number in applied and not events:
                text = f"update {call.number} was applied, and {target} did not get it"
                yield Breach("P9 hooks: undelivered", call.dialog_id, text)
            if len({event.applied for event in events}) > 1:
                text = f"update {call.number} came to {target} as applied and as failed"
                yield Breach("P9 hooks: contradiction", call.dialog_id, text)
        if call.outcome == "ok" and call.number not in applied and call.kind != "submit":
            yield Breach("P4 lost", call.dialog_id, f"update {call.number} was not applied")
        # Whatever its caller knows, somebody learns of each update that was applied.
        if call.number in applied and not got["alerts", call.number]:
            text = f"update {call.number} was applied, and no event of it came"
            yield Breach("P9 hooks: undelivered", call.dialog_id, text)


def _delivery_order(_: Schedule, log: Log) -> Iterator[Breach]:
    """Yield events of applied updates that a target got after the event of a later update."""
    applied = _applied_at(log)
    latest: dict[tuple[str, str], float] = {}
    ended: dict[tuple[str, str], float] = {}
    known: set[tuple[str, int]] = set()
    for one in log.deliveries:
        key, lane = (one.target, one.update), (one.target, one.dialog_id)
        if one.began < ended.get(lane, 0.0):
            yield Breach("P9 hooks: overlapping", one.dialog_id, f"two calls at {one.began:.3f}")
        # A call that a crash cut off has no end.
        ended[lane] = one.ended if one.ended < UNENDED else one.began
        is_first = one.succeeded and one.applied and key not in known
        if not is_first or one.update not in applied:
            continue
        known.add(key)
        if applied[one.update] < latest.get(lane, 0.0):
            text = f"update {one.update} came to {one.target} after a later one at {one.began:.3f}"
            yield Breach("P9 hooks: order", one.dialog_id, text)
        latest[lane] = applied[one.update]


def _increments(_: Schedule, log: Log) -> Iterator[Breach]:
    least: Counter[str] = Counter()
    most: Counter[str] = Counter()
    for call in log.calls:
        if call.kind == "modify":
            least[call.dialog_id] += call.outcome == "ok"
            most[call.dialog_id] += call.outcome == "ok" or call.outcome in UNCERTAIN
    for dialog_id, count in log.counters.items():
        own = count - log.competitors[dialog_id]
        if not least[dialog_id] <= own <= most[dialog_id]:
            text = f"{own} increments, not {least[dialog_id]} to {most[dialog_id]}"
            yield Breach("P12 modify", dialog_id, text)


def _job(schedule: Schedule, log: Log) -> Iterator[Breach]:
    """Yield rows whose outcome in the journal is not what the server saw."""
    assert log.job is not None
    succeeded, failed, ambiguous, pending = log.job
    if pending or succeeded + failed + ambiguous != len(schedule.steps):
        text = f"{log.job} of {len(schedule.steps)} rows"
        yield Breach("P4 settled", "", text)
    if failed + ambiguous != len(log.dead_letters):
        text = f"{len(log.dead_letters)} dead letters of {failed + ambiguous} rows"
        yield Breach("P4 settled", "", text)
    applied = _applied_at(log)
    for step in schedule.steps:
        error = log.dead_letters.get(step.number)
        if error is None and step.number not in applied:
            yield Breach("P4 lost", step.dialog_id, f"row {step.number} was not applied")
        # Repeating an assignment by hand is harmless.
        known = error is None or error["type"] == "AmbiguousUpdateError" or not step.moves
        if step.number in applied and not known:
            text = f"row {step.number} ended with {error and error['type']}, but was applied"
            yield Breach("P12 ambiguity", step.dialog_id, text)


def _withdrawn(schedule: Schedule, log: Log) -> Iterator[Breach]:
    """Yield updates that were sent after their caller was cancelled before any request."""
    for call in log.calls if not schedule.coalesce else ():
        sent = [each.began for each in log.exchanges if call.number in each.updates]
        # A crash may come before the withdrawal is written.
        crashes = [at for at in log.crashes if call.cancelled_at <= at < call.cancelled_at + 1]
        if call.outcome == "cancelled" and sent and sent[0] > call.cancelled_at and not crashes:
            text = f"update {call.number} was cancelled at {call.cancelled_at:.3f} and sent"
            yield Breach("P8 cancellation", call.dialog_id, text + f" at {sent[0]:.3f}")
