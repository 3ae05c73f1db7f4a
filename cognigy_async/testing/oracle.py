"""The oracle: lists the promises that a run broke. It shares no code with the client.

It reads the log: the requests that the server got, the outcomes of the calls, and the events that
callbacks and targets got.
"""

from __future__ import annotations

import math
from bisect import bisect
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise

from .events_oracle import (
    callbacks,
    contradictions,
    deliveries,
    delivery_order,
    job_rows,
    slots,
    withdrawn,
)
from .facts import (
    TOLERANCE,
    Breach,
    Rule,
    first_applied,
    is_torn,
    position_in,
    requests_of,
    withdrawal_may_be_lost,
    writes_of,
)
from .log import UNENDED, Call, Exchange, Log
from .schedule import Program, Schedule

SHORTEST_BACKOFF = 0.2
"""Least seconds that the retry policy of a simulation waits."""
BACKED_OFF = {0, -1, 500, 503}
"""Statuses after which the same update waits before its next request."""
MAYBE_APPLIED = {0, 500}
UNCERTAIN = {"AmbiguousUpdateError", "cancelled", "crashed"}
"""Outcomes of calls that may have been applied or not."""
PROGRAM_ERRORS = {"TypeError", "AssertionError", "KeyError", "AttributeError"}
LONGEST_PAUSE = 20.0
"""Seconds after a 429 in which the oracle does not ask why an update waits."""
REFRESH_MARGIN = 5.0
"""Seconds before its expiry at which a token is refreshed."""
MOST_ATTEMPTS = 5
RETRIES = 0.2
SPARE_RETRIES = 10


def check(schedule: Schedule, log: Log) -> list[Breach]:
    """Return the broken promises of a run."""
    if log.problems:
        return [Breach(*problem) for problem in log.problems]
    return [breach for rule in RULES[schedule.program] for breach in rule(schedule, log)]


# P1: the writes of a dialog, in the order of the calls and one at a time.


def _overlapping(_: Schedule, log: Log) -> Iterator[Breach]:
    for dialog_id, writes in writes_of(log).items():
        for first, second in pairwise(writes):
            if second.began < first.ended:
                text = f"two writes at {second.began:.3f}"
                yield Breach("P1 order: overlapping", dialog_id, text)


def _order(schedule: Schedule, log: Log) -> Iterator[Breach]:
    position = position_in(log)
    for dialog_id, writes in writes_of(log).items():
        latest, life, key = -1, 0, None
        for write in writes:
            if schedule.program == "job" and bisect(log.crashes, write.began) > life:
                # A job repeats the rows whose outcome was not recorded, in their order.
                life, latest = bisect(log.crashes, write.began), -1
            places = [position(number) for number in write.updates]
            is_repeat = key is not None and write.key == key
            if places and min(places) <= latest and not is_repeat:
                text = f"{write.updates} was sent after a later update at {write.began:.3f}"
                yield Breach("P1 order", dialog_id, text)
            latest, key = max([latest, *places]), write.key


def _repeats(_: Schedule, log: Log) -> Iterator[Breach]:
    for dialog_id, writes in writes_of(log).items():
        earlier: set[str] = set()
        for first, second in pairwise(writes):
            if first.key is not None:
                earlier.add(first.key)
            if second.key in earlier and second.key != first.key:
                text = f"a request came again at {second.began:.3f}, after another update"
                yield Breach("P1 order", dialog_id, text)


# P2: a dialog that waits does not hold others.


def _isolation(schedule: Schedule, log: Log) -> Iterator[Breach]:
    """Yield live updates that had to wait although nothing but another dialog was in their way."""
    if schedule.rate is not None or schedule.hook_queue < 100:
        return
    pauses = [each.ended for each in log.exchanges if _pauses_tenant(each)]
    sent = requests_of(log)
    for call in log.calls:
        if call.kind not in ("update", "submit") or not sent[call.number]:
            continue
        if not _is_alone(log, call):
            continue
        began = sent[call.number][0].began
        if any(at <= began and call.called_at < at + LONGEST_PAUSE for at in pauses):
            continue
        began = min(began, _token_until(schedule, log, call.called_at))
        ends = [each.ended for each in log.exchanges if call.called_at < each.ended < began]
        for at in [call.called_at, *ends]:
            busy = sum(each.began <= at < each.ended for each in log.exchanges)
            if at < began - TOLERANCE and busy < schedule.max_in_flight:
                text = f"update {call.number} waited from {at:.3f} to {began:.3f} for no reason"
                yield Breach("P2 isolation", call.dialog_id, text)
                break


def _is_alone(log: Log, call: Call) -> bool:
    """Return whether nothing of its own dialog is in the way of a call."""
    others = [each for each in log.calls if each.dialog_id == call.dialog_id and each is not call]
    exchanges = [each for each in log.exchanges if each.dialog_id == call.dialog_id]
    return not (
        any(each.called_at <= call.called_at <= each.ended_at for each in others)
        or any(each.of_dialog for each in exchanges)
        or any(each.began < call.called_at <= each.ended for each in exchanges)
    )


def _pauses_tenant(each: Exchange) -> bool:
    named = each.status == 503 and each.retry_after is not None
    return named or (each.status == 429 and not each.of_dialog)


def _token_until(schedule: Schedule, log: Log, at: float) -> float:
    """Return until when the client has a token that was valid at a time; 0 if it has none."""
    refused = {each.token.removeprefix("Bearer ") for each in log.exchanges if each.status == 401}
    tokens = [one for one in log.tokens if one.token is not None and one.ended < at]
    if not tokens or tokens[-1].token in refused:
        return 0.0
    return tokens[-1].began + schedule.lifetime - TOLERANCE


# P3: requests in flight.


def _bounds(schedule: Schedule, log: Log) -> Iterator[Breach]:
    changes = [(each.began, 1) for each in log.exchanges]
    changes += [(each.ended, -1) for each in log.exchanges]
    under_way = 0
    for at, change in sorted(changes):
        under_way += change
        if under_way > schedule.max_in_flight:
            yield Breach("P3 bounds", "", f"{under_way} requests under way at {at:.3f}")
            return


# P4: each call gets an outcome, and a success was applied.


def _settled(_: Schedule, log: Log) -> Iterator[Breach]:
    if log.pending:
        yield Breach("P4 settled", "", f"{log.pending} updates are pending after the close")
    for call in log.calls:
        if not call.outcome or call.ended_at == UNENDED:
            yield Breach("P4 settled", call.dialog_id, f"call {call.number} has no outcome")
        elif call.outcome in PROGRAM_ERRORS:
            text = f"call {call.number} ended with {call.outcome}"
            yield Breach("P4 settled", call.dialog_id, text)


def _lost(_: Schedule, log: Log) -> Iterator[Breach]:
    applied = first_applied(log)
    for call in _updates(log):
        if call.outcome == "ok" and call.number not in applied:
            yield Breach("P4 lost", call.dialog_id, f"update {call.number} was not applied")


def _updates(log: Log) -> Iterator[Call]:
    """Yield the calls whose outcome is that of an update with a number of its own."""
    for call in log.calls:
        if call.kind not in ("read", "modify") and call.outcome != "cancelled":
            yield call


# P5: nothing before its time.


def _retry_after(_: Schedule, log: Log) -> Iterator[Breach]:
    named = [each for each in log.exchanges if each.retry_after is not None and each.status > 0]
    for pause in named:
        until = pause.ended + (pause.retry_after or 0.0) - TOLERANCE
        for each in log.exchanges:
            same = not pause.of_dialog or each.dialog_id == pause.dialog_id
            if same and pause.ended < each.began < until:
                text = f"a request at {each.began:.3f}, {until:.3f} was named at {pause.ended:.3f}"
                yield Breach("P5 never early", each.dialog_id, text)
                break


def _backoff(_: Schedule, log: Log) -> Iterator[Breach]:
    kinds = {call.number: call.kind for call in log.calls}
    for dialog_id, writes in writes_of(log).items():
        for first, second in pairwise(writes):
            waits = first.status in BACKED_OFF or first.status == 429
            early = second.began < first.ended + SHORTEST_BACKOFF - TOLERANCE
            # Bulk work that waits for the server goes on as soon as the server serves a request.
            served = any(
                first.ended <= each.ended <= second.began and each.status in (200, 409)
                for each in log.exchanges
            )
            bulk = any(kinds[number] == "bulk" for number in first.updates)
            if first.key == second.key and waits and early and not (bulk and served):
                text = f"the backoff after {first.ended:.3f} ended early at {second.began:.3f}"
                yield Breach("P5 never early: backoff", dialog_id, text)


# P6: no window of the limit with more requests than it allows.


def _quota(schedule: Schedule, log: Log) -> Iterator[Breach]:
    if schedule.rate is None:
        return
    count, seconds = schedule.rate
    starts = sorted(each.began for each in log.exchanges)
    for first, last in zip(starts, starts[count:], strict=False):
        if last - first < seconds - TOLERANCE:
            text = f"{count + 1} requests from {first:.3f} to {last:.3f}"
            yield Breach("P6 quota", "", text)
            return


# P7: one refresh at a time, no token after its end, one repeat after a 401.


def _refreshes(schedule: Schedule, log: Log) -> Iterator[Breach]:
    refused: dict[str, float] = {}
    for each in log.exchanges:
        if each.status == 401:
            token = each.token.removeprefix("Bearer ")
            refused[token] = min(refused.get(token, math.inf), each.ended)
    for previous, request in pairwise(log.tokens):
        if request.began < previous.ended:
            yield Breach("P7 token", "", f"two token requests at {request.began:.3f}")
        if previous.token is not None:
            fresh = previous.began + schedule.lifetime
            fresh -= min(REFRESH_MARGIN, schedule.lifetime / 2)
            known = min(refused.get(previous.token, math.inf), fresh)
            if request.began < known - TOLERANCE:
                text = f"a token request at {request.began:.3f}, valid until {known:.3f}"
                yield Breach("P7 token: refreshed again", "", text)
    for token, at in refused.items():
        for each in log.exchanges:
            if each.token.removeprefix("Bearer ") == token and each.began > at + TOLERANCE:
                text = f"a token refused at {at:.3f} was sent at {each.began:.3f}"
                yield Breach("P7 token: refused token sent", each.dialog_id, text)
                break


def _expired(schedule: Schedule, log: Log) -> Iterator[Breach]:
    expiries = {one.token: one.began + schedule.lifetime for one in log.tokens}
    for each in log.exchanges:
        if expiries.get(each.token.removeprefix("Bearer "), 0.0) <= each.began:
            text = f"an expired token was sent at {each.began:.3f}"
            yield Breach("P7 token: expired token sent", each.dialog_id, text)
            break


def _unused_tokens(schedule: Schedule, log: Log) -> Iterator[Breach]:
    """Yield updates that failed for want of a token that was there, or was not asked for."""
    sent = requests_of(log)
    spoilt = {each.token for each in log.exchanges if each.status == 401}
    for call in _updates(log):
        if call.outcome != "AuthenticationError":
            continue
        newest = [one for one in log.tokens if one.token and one.ended <= call.ended_at][-1:]
        for request in newest:
            expires_at = request.began + schedule.lifetime
            usable = request.ended < call.called_at and f"Bearer {request.token}" not in spoilt
            if usable and call.ended_at < expires_at - TOLERANCE:
                text = f"update {call.number} failed although a token was valid"
                yield Breach("P7 token: valid token unused", call.dialog_id, text)
        failed = any(
            one.token is None and call.called_at <= one.ended <= call.ended_at for one in log.tokens
        )
        if [each.status for each in sent[call.number]] == [401] and not failed:
            yield Breach("P7 token: not replayed", call.dialog_id, f"update {call.number}")


# P8: a cancelled caller ends no request, and what was not sent stays unsent.


def _torn_down(_: Schedule, log: Log) -> Iterator[Breach]:
    for each in log.exchanges:
        if each.torn_down and not is_torn(log, each.ended):
            yield Breach("P8 cancellation", each.dialog_id, f"torn down at {each.ended:.3f}")


def _cancelled(schedule: Schedule, log: Log) -> Iterator[Breach]:
    # A group that is merged goes on without its cancelled member's caller.
    sent = requests_of(log) if not schedule.coalesce else {}
    for call in log.calls:
        starts = [each.began for each in sent.get(call.number, ())]
        if call.outcome != "cancelled" or not starts:
            continue
        if schedule.program == "outbox":
            # What was sent before the caller gave up is finished after a crash.
            starts = [] if withdrawal_may_be_lost(log, call) else starts[:1]
        late = [began for began in starts if began > call.cancelled_at + TOLERANCE]
        if late:
            text = f"update {call.number} was cancelled at {call.cancelled_at:.3f}, and sent"
            yield Breach("P8 cancellation", call.dialog_id, f"{text} at {late[0]:.3f}")


# P11: merged updates and the final state.


def _final_state(_: Schedule, log: Log) -> Iterator[Breach]:
    position = position_in(log)
    late = {each.dialog_id for each in log.exchanges if each.fault.startswith("late")}
    for dialog_id, writes in writes_of(log).items():
        # The last request that was applied: in a job, a row that is repeated comes again.
        done = [each.updates for each in writes if each.applied_at and each.updates]
        if not done or dialog_id in late:
            continue
        newest = max(done[-1], key=position)
        last = log.sessions[dialog_id].get("last")
        if last != newest:
            text = f"it ends with {last}, not with {newest}"
            yield Breach("P11 final state", dialog_id, text)


def _strict(_: Schedule, log: Log) -> Iterator[Breach]:
    kinds = {call.number: call.kind for call in log.calls}
    tags: dict[int, set[str | None]] = {}
    for each in log.exchanges:
        for number in each.updates:
            if kinds[number] != "strict":
                continue
            if each.if_match is None:
                text = f"a strict write was sent without If-Match at {each.began:.3f}"
                yield Breach("P11 coalescing: strict write", each.dialog_id, text)
            tags.setdefault(number, set()).add(each.if_match)
            if len(tags[number]) == 2:
                text = f"strict update {number} was sent with two versions"
                yield Breach("P12 strict", each.dialog_id, text)


# P12: what may not be repeated, and what callers know of it.


def _transitions(_: Schedule, log: Log) -> Iterator[Breach]:
    """Yield transitions that were applied twice. A request with a key of its own is another one."""
    applied: Counter[tuple[str, str, str | None]] = Counter()
    for each in log.exchanges:
        if each.step is not None:
            # The steps of a schedule have names of their own.
            key = None if each.updates else each.key
            applied[each.dialog_id, each.step, key] += len(each.applied_at)
    for (dialog_id, step, _key), count in applied.items():
        if count > 1:
            yield Breach("P12 doubled transition", dialog_id, f"{step} was applied {count} times")


def _ambiguity(_: Schedule, log: Log) -> Iterator[Breach]:
    requests = requests_of(log)
    for call in _updates(log):
        sent = requests[call.number]
        # A 500 to an assignment of values is a `ServerError`: repeating it by hand is harmless.
        hidden = any(
            each.applied_at and (each.status != 500 or each.step or call.kind == "strict")
            for each in sent
        )
        if call.outcome not in ("ok", "AmbiguousUpdateError") and hidden:
            text = f"update {call.number} ended with {call.outcome}, but was applied"
            yield Breach("P12 ambiguity", call.dialog_id, text)
        doubtful = any(each.status in MAYBE_APPLIED for each in sent)
        if call.outcome == "AmbiguousUpdateError" and not doubtful:
            text = f"update {call.number} is no more ambiguous than its answers"
            yield Breach("P12 ambiguity: false", call.dialog_id, text)


def _increments(_: Schedule, log: Log) -> Iterator[Breach]:
    least: Counter[str] = Counter()
    most: Counter[str] = Counter()
    for call in log.calls:
        if call.kind == "modify":
            least[call.dialog_id] += call.outcome == "ok"
            most[call.dialog_id] += call.outcome == "ok" or call.outcome in UNCERTAIN
    for dialog_id, session in log.sessions.items():
        own = session.get("count", 0) - log.competitors[dialog_id]
        if not least[dialog_id] <= own <= most[dialog_id]:
            text = f"{own} increments, not {least[dialog_id]} to {most[dialog_id]}"
            yield Breach("P12 modify", dialog_id, text)


# P14: retries are few.


def _attempts(_: Schedule, log: Log) -> Iterator[Breach]:
    sent = requests_of(log)
    for call in _updates(log):
        attempts = sum(each.status in BACKED_OFF for each in sent[call.number])
        if call.kind != "bulk" and attempts > MOST_ATTEMPTS:
            text = f"update {call.number} failed {attempts} times"
            yield Breach("P14 no storm: attempts", call.dialog_id, text)


def _storm(schedule: Schedule, log: Log) -> Iterator[Breach]:
    previous: dict[str, Exchange] = {}
    kinds = {call.number: call.kind for call in log.calls}
    # Reads have no key.
    firsts = sum(step.kind in ("read", "strict") for step in schedule.steps)
    retries = 0
    for each in log.exchanges:
        if each.key is None:
            continue
        before = previous.get(each.key)
        firsts += before is None
        # Bulk work without a token of the budget goes on: one probe per backoff.
        is_live = all(kinds[number] != "bulk" for number in each.updates)
        retries += is_live and before is not None and before.status in BACKED_OFF
        previous[each.key] = each
    if retries > RETRIES * firsts + schedule.max_in_flight + SPARE_RETRIES:
        yield Breach("P14 no storm", "", f"{retries} retries for {firsts} first attempts")


_EVERYWHERE: tuple[Rule, ...] = (_overlapping, _bounds, _torn_down, _transitions)
_AFTER_CRASHES: tuple[Rule, ...] = (*_EVERYWHERE, _order, _final_state)
RULES: dict[Program, tuple[Rule, ...]] = {
    "client": (
        *(*_EVERYWHERE, _order, _repeats, _isolation, slots, _settled, _lost, _retry_after),
        *(_backoff, _quota),
        *(_refreshes, _expired, _unused_tokens, _cancelled, callbacks, _final_state, _strict),
        *(_ambiguity, _increments, _attempts, _storm),
    ),
    "outbox": (
        *(*_AFTER_CRASHES, _repeats, _lost, _increments, _cancelled),
        *(deliveries, contradictions, withdrawn, delivery_order),
    ),
    "job": (*_AFTER_CRASHES, job_rows),
    "own": (*_EVERYWHERE, _repeats, _settled, _retry_after, _quota, _refreshes, _expired),
}
"""Rules by program. In an own program, the updates have no numbers."""
