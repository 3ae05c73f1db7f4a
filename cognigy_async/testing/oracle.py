"""The oracle: lists the promises that a run broke. It shares no code with the client."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby, pairwise

from .log import UNENDED, Call, Exchange, Log
from .schedule import Schedule

SHORTEST_BACKOFF = 0.2
"""Least seconds that the retry policy of a simulation waits."""
TOLERANCE = 1e-6
"""Seconds by which times may differ for rounding."""
BACKED_OFF = {0, -1, 500, 503}
"""Statuses after which the same update waits before its next request."""
MAYBE_APPLIED = {0, 500}
"""Statuses after which nobody can tell whether the server applied the request."""
LONGEST_PAUSE = 20.0
"""Seconds after a 429 or 401 in which the oracle does not ask why an update waits."""
REFRESH_MARGIN = 5.0
"""Seconds before its expiry at which a token is refreshed."""
MOST_ATTEMPTS = 5
"""Requests of one live update that may fail."""
RETRIES = 0.2
"""Retries that each first attempt allows, besides `max_in_flight` and these:"""
SPARE_RETRIES = 10


@dataclass(frozen=True, slots=True)
class Breach:
    """One broken promise; `dialog_id` is empty if it is not about one dialog."""

    promise: str
    dialog_id: str
    text: str


def check(schedule: Schedule, log: Log) -> list[Breach]:
    """Return the broken promises of a run.

    Of a program of the user, the log has the requests but not the calls, so that only the rules
    for requests apply.
    """
    if log.problems:
        return list(_problems(log))
    rules = OF_REQUESTS if schedule.has_program else OF_REQUESTS + OF_CALLS
    return [breach for rule in rules for breach in rule(schedule, log)]


def _problems(log: Log) -> Iterator[Breach]:
    for promise, dialog_id, text in log.problems:
        yield Breach(promise, dialog_id, text)


def _writes(log: Log) -> dict[str, list[Exchange]]:
    writes: dict[str, list[Exchange]] = defaultdict(list)
    for each in log.exchanges:
        if each.method != "GET":
            writes[each.dialog_id].append(each)
    return writes


def _order(_: Schedule, log: Log) -> Iterator[Breach]:
    position = {call.number: index for index, call in enumerate(log.calls)}
    for dialog_id, writes in _writes(log).items():
        latest = -1
        for index, write in enumerate(writes):
            if index and write.began < writes[index - 1].ended:
                text = f"two writes at {write.began:.3f}"
                yield Breach("P1 order: overlapping", dialog_id, text)
            places = [position[number] for number in write.updates]
            is_repeat = index and write.key == writes[index - 1].key
            if places and min(places) <= latest and not is_repeat:
                text = f"{write.updates} was sent after a later update at {write.began:.3f}"
                yield Breach("P1 order", dialog_id, text)
            latest = max([latest, *places])
        keys = [key for key, _ in groupby(write.key for write in writes)]
        for key, count in Counter(keys).items():
            if count > 1:
                yield Breach("P1 order", dialog_id, f"{key} was sent again after another update")


def _bounds(schedule: Schedule, log: Log) -> Iterator[Breach]:
    changes = [(each.began, 1) for each in log.exchanges]
    changes += [(each.ended, -1) for each in log.exchanges]
    under_way = 0
    for at, change in sorted(changes):
        under_way += change
        if under_way > schedule.max_in_flight:
            yield Breach("P3 bounds", "", f"{under_way} requests under way at {at:.3f}")
            return


def _isolation(schedule: Schedule, log: Log) -> Iterator[Breach]:
    """Yield live updates that had to wait although nothing but another dialog was in their way."""
    if schedule.rate is not None or schedule.hook_queue < 100:
        return
    pauses = [each.ended for each in log.exchanges if _pauses_tenant(each)]
    sent = _sent(log)
    for call in log.calls:
        mine = sent[call.number]
        alone = all(
            other.ended_at < call.called_at or other is call
            for other in log.calls
            if other.dialog_id == call.dialog_id and other.called_at <= call.called_at
        )
        paused = any(each.of_dialog and each.dialog_id == call.dialog_id for each in log.exchanges)
        if not (mine and alone) or paused or call.kind not in ("update", "submit"):
            continue
        if _under_way_for(log, call.dialog_id, call.called_at):
            continue
        began = mine[0].began
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


def _under_way_for(log: Log, dialog_id: str, at: float) -> bool:
    return any(
        each.dialog_id == dialog_id and each.began < at <= each.ended for each in log.exchanges
    )


def _slots(schedule: Schedule, log: Log) -> Iterator[Breach]:
    """Yield requests that were sent while the queue of the callback was full."""
    done = {
        one.update: one.ended
        for one in log.deliveries
        if one.dead or (one.succeeded and not one.failures)
    }
    sent = _sent(log)
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


def _settled(_: Schedule, log: Log) -> Iterator[Breach]:
    if log.pending:
        yield Breach("P4 settled", "", f"{log.pending} updates are pending after the close")
    for call in log.calls:
        if not call.outcome or call.ended_at == UNENDED:
            yield Breach("P4 settled", call.dialog_id, f"call {call.number} has no outcome")


def _never_early(schedule: Schedule, log: Log) -> Iterator[Breach]:
    named = [each for each in log.exchanges if each.retry_after is not None and each.status > 0]
    for pause in named:
        until = pause.ended + (pause.retry_after or 0.0) - TOLERANCE
        for each in log.exchanges:
            same = not pause.of_dialog or each.dialog_id == pause.dialog_id
            # A 503 that a caller's cancellation ended still pauses the tenant.
            if same and pause.ended < each.began < until:
                text = f"a request at {each.began:.3f}, {until:.3f} was named at {pause.ended:.3f}"
                yield Breach("P5 never early", each.dialog_id, text)
                break
    kinds = {call.number: call.kind for call in log.calls}
    for dialog_id, writes in _writes(log).items():
        for first, second in pairwise(writes):
            waits = first.status in BACKED_OFF or first.status == 429
            early = second.began < first.ended + SHORTEST_BACKOFF - TOLERANCE
            # Bulk work that waits for the server goes on as soon as the server serves a request.
            served = any(
                first.ended <= each.ended <= second.began and each.status in (200, 409)
                for each in log.exchanges
            )
            bulk = schedule.has_program
            bulk = bulk or any(kinds[number] == "bulk" for number in first.updates)
            if first.key == second.key and waits and early and not (bulk and served):
                text = f"the backoff after {first.ended:.3f} ended early at {second.began:.3f}"
                yield Breach("P5 never early: backoff", dialog_id, text)


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


def _token(schedule: Schedule, log: Log) -> Iterator[Breach]:
    refused: dict[str, float] = {}
    for each in log.exchanges:
        if each.status == 401:
            token = each.token.removeprefix("Bearer ")
            refused[token] = min(refused.get(token, math.inf), each.ended)
    previous = None
    for request in log.tokens:
        if previous is not None and request.began < previous.ended:
            yield Breach("P7 token", "", f"two token requests at {request.began:.3f}")
        if previous is not None and previous.token is not None:
            fresh = previous.began + schedule.lifetime
            fresh -= min(REFRESH_MARGIN, schedule.lifetime / 2)
            known = min(refused.get(previous.token, math.inf), fresh)
            if request.began < known - TOLERANCE:
                text = f"a token request at {request.began:.3f}, valid until {known:.3f}"
                yield Breach("P7 token: refreshed again", "", text)
        previous = request
    expiries = {one.token: one.began + schedule.lifetime for one in log.tokens}
    for each in log.exchanges:
        if expiries.get(each.token.removeprefix("Bearer "), 0.0) <= each.began:
            text = f"an expired token was sent at {each.began:.3f}"
            yield Breach("P7 token: expired token sent", each.dialog_id, text)
            break
    for token, at in refused.items():
        for each in log.exchanges:
            if each.token.removeprefix("Bearer ") == token and each.began > at + TOLERANCE:
                text = f"a token refused at {at:.3f} was sent at {each.began:.3f}"
                yield Breach("P7 token: refused token sent", each.dialog_id, text)
                break


def _sent(log: Log) -> dict[int, list[Exchange]]:
    sent: dict[int, list[Exchange]] = defaultdict(list)
    for each in log.exchanges:
        for number in each.updates:
            sent[number].append(each)
    return sent


def _cancellation(schedule: Schedule, log: Log) -> Iterator[Breach]:
    for each in log.exchanges:
        if each.torn_down:
            yield Breach("P8 cancellation", each.dialog_id, f"torn down at {each.ended:.3f}")
    sent = _sent(log)
    for call in log.calls:
        if call.outcome != "cancelled" or schedule.coalesce:
            continue
        for each in sent[call.number]:
            if each.began > call.cancelled_at + TOLERANCE:
                text = f"update {call.number} was cancelled at {call.cancelled_at:.3f} and sent at "
                yield Breach("P8 cancellation", call.dialog_id, text + f"{each.began:.3f}")
                break


def _hooks(_: Schedule, log: Log) -> Iterator[Breach]:
    position = {call.number: index for index, call in enumerate(log.calls)}
    delivered: Counter[tuple[int, bool]] = Counter()
    events: Counter[str] = Counter()
    latest: dict[tuple[str, bool], int] = {}
    ended: dict[tuple[str, bool], float] = {}
    for one in log.deliveries:
        lane = (one.dialog_id, one.failures)
        if not one.dead:
            if one.began < ended.get(lane, 0.0):
                yield Breach("P9 hooks", one.dialog_id, f"two calls at {one.began:.3f}")
            ended[lane] = one.ended
        if one.succeeded or one.dead:
            events[one.update_id] += 1
            if events[one.update_id] > 1:
                text = f"the event of {one.update_id} came twice"
                yield Breach("P9 hooks", one.dialog_id, text)
        if one.succeeded and one.update >= 0:
            delivered[one.update, one.failures] += 1
            if position[one.update] < latest.get(lane, -1):
                yield Breach("P9 hooks: order", one.dialog_id, f"{one.update} came too late")
            latest[lane] = position[one.update]
        elif one.dead and one.update >= 0:
            delivered[one.update, False] += 1
    sent = _sent(log)
    for call in log.calls:
        answered = any(each.status == 200 for each in sent[call.number])
        wanted = call.outcome == "ok" or (call.outcome == "cancelled" and answered)
        if call.kind in ("read", "modify") or not wanted:
            continue
        if delivered[call.number, False] != 1:
            text = f"the event of update {call.number} was not delivered"
            yield Breach("P9 hooks: undelivered", call.dialog_id, text)


def _outcomes(_: Schedule, log: Log) -> Iterator[Breach]:
    sent = _sent(log)
    for call in _writing_calls(log):
        yield from _outcome(call, sent[call.number])
        tags = {each.if_match for each in sent[call.number]}
        if call.kind == "strict" and len(tags) > 1:
            text = f"strict update {call.number} was sent with {len(tags)} versions"
            yield Breach("P12 strict", call.dialog_id, text)
        attempts = sum(each.status in BACKED_OFF for each in sent[call.number])
        if call.kind != "bulk" and attempts > MOST_ATTEMPTS:
            text = f"update {call.number} failed {attempts} times"
            yield Breach("P14 no storm: attempts", call.dialog_id, text)


def _writing_calls(log: Log) -> list[Call]:
    """Return the calls with an outcome to check; `modify` is checked by its counter."""
    others = ("read", "modify")
    return [call for call in log.calls if call.kind not in others and call.outcome != "cancelled"]


def _token_failures(schedule: Schedule, log: Log) -> Iterator[Breach]:
    """Yield calls that failed for a token although one was valid, or could be had."""
    sent = _sent(log)
    refused = {each.token for each in log.exchanges if each.status == 401}
    for call in _writing_calls(log):
        if call.outcome != "AuthenticationError":
            continue
        newest = [each for each in log.tokens if each.token and each.ended <= call.ended_at][-1:]
        for request in newest:
            usable = request.ended < call.called_at and f"Bearer {request.token}" not in refused
            if usable and call.ended_at < request.began + schedule.lifetime - TOLERANCE:
                text = f"update {call.number} failed although a token was valid"
                yield Breach("P7 token: valid token unused", call.dialog_id, text)
        failed = any(
            each.token is None and call.called_at <= each.ended <= call.ended_at
            for each in log.tokens
        )
        if [each.status for each in sent[call.number]] == [401] and not failed:
            yield Breach("P7 token: not replayed", call.dialog_id, f"update {call.number}")


def _transitions(schedule: Schedule, log: Log) -> Iterator[Breach]:
    # Two updates of a user's program may make the same transition.
    applied: Counter[tuple[str, str | None]] = Counter()
    for each in log.exchanges:
        if each.step is not None:
            name = each.key if schedule.has_program else each.step
            applied[each.dialog_id, name] += len(each.applied_at)
    for (dialog_id, name), count in applied.items():
        if count > 1:
            text = f"the transition {name} was applied {count} times"
            yield Breach("P12 doubled transition", dialog_id, text)


def _unconditional(_: Schedule, log: Log) -> Iterator[Breach]:
    kinds = {call.number: call.kind for call in log.calls}
    for each in log.exchanges:
        if each.if_match is None and any(kinds[number] == "strict" for number in each.updates):
            text = f"a strict write was sent without If-Match at {each.began:.3f}"
            yield Breach("P11 coalescing: strict write", each.dialog_id, text)


def _final_state(_: Schedule, log: Log) -> Iterator[Breach]:
    late = {each.dialog_id for each in log.exchanges if each.fault == "late"}
    for dialog_id, writes in _writes(log).items():
        done = [each for each in writes if each.applied_at and each.updates]
        if not done or dialog_id in late:
            continue
        wanted = max(done[-1].updates, key=lambda number: _position(log, number))
        last = log.sessions[dialog_id].get("last")
        if last != wanted:
            yield Breach("P11 final state", dialog_id, f"it ends with {last}, not {wanted}")


def _position(log: Log, number: int) -> int:
    return next(index for index, call in enumerate(log.calls) if call.number == number)


def _outcome(call: Call, sent: list[Exchange]) -> Iterator[Breach]:
    is_applied = any(each.applied_at for each in sent)
    doubtful = any(each.status in MAYBE_APPLIED for each in sent)
    if call.outcome == "ok" and not is_applied:
        yield Breach("P4 lost", call.dialog_id, f"update {call.number} was not applied")
    if call.outcome not in ("ok", "AmbiguousUpdateError"):
        # A 500 to an assignment of values is a `ServerError`: repeating it by hand is harmless.
        hidden = any(
            each.applied_at and (each.status != 500 or each.step or call.kind == "strict")
            for each in sent
        )
        if hidden:
            text = f"update {call.number} ended with {call.outcome}, but was applied"
            yield Breach("P12 ambiguity", call.dialog_id, text)
    if call.outcome == "AmbiguousUpdateError" and not doubtful:
        text = f"update {call.number} is no more ambiguous than its answers"
        yield Breach("P12 ambiguity: false", call.dialog_id, text)
    if call.outcome in ("TypeError", "AssertionError", "KeyError", "AttributeError"):
        yield Breach("P4 settled", call.dialog_id, f"update {call.number}: {call.outcome}")


def _increments(_: Schedule, log: Log) -> Iterator[Breach]:
    least: Counter[str] = Counter()
    most: Counter[str] = Counter()
    for call in log.calls:
        if call.kind == "modify":
            least[call.dialog_id] += call.outcome == "ok"
            most[call.dialog_id] += call.outcome in ("ok", "AmbiguousUpdateError", "cancelled")
    for dialog_id, session in log.sessions.items():
        count = session.get("count", 0)
        others = log.competitors[dialog_id]
        if not least[dialog_id] <= count - others <= most[dialog_id]:
            text = f"{count} increments, {others} by others, "
            text += f"not {least[dialog_id]} to {most[dialog_id]}"
            yield Breach("P12 modify", dialog_id, text)


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


Rule = Callable[[Schedule, Log], Iterator[Breach]]
OF_REQUESTS: tuple[Rule, ...] = (
    _order,
    _bounds,
    _settled,
    _never_early,
    _quota,
    _token,
    _cancellation,
    _transitions,
)
"""Rules that need the requests only."""
OF_CALLS: tuple[Rule, ...] = (
    _isolation,
    _slots,
    _hooks,
    _outcomes,
    _token_failures,
    _unconditional,
    _increments,
    _final_state,
    _storm,
)
"""Rules that need the calls and callbacks as well."""
