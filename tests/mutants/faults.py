"""Deliberate faults in the client, each a text of its source and what takes its place."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Fault:
    """A fault: `old` stands exactly once in `file`, which is relative to the package."""

    name: str
    file: str
    old: str
    new: str


DISPATCHER = "engine/dispatcher.py"
PROTOCOL = "engine/protocol.py"
SCHEDULER = "engine/scheduler.py"
QUEUES = "engine/ready_queues.py"
DIALOG = "engine/dialog_queue.py"
BACKOFF = "engine/backoff.py"
COMPLETION = "engine/completion.py"
COALESCING = "engine/coalescing.py"
PAUSES = "ratelimit/pauses.py"
WINDOW = "ratelimit/sliding_window.py"
OAUTH = "auth/oauth.py"
HOOKS = "hooks/callback_queue.py"
REGISTRY = "hooks/registry.py"
RETRY = "retry.py"
RECORDER = "engine/recorder.py"
OUTBOX = "crm/outbox.py"
STORE = "crm/store.py"
ADOPTION = "crm/adoption.py"
DELIVERY = "crm/delivery.py"
RESEND = "bulk/resend.py"
JOURNAL = "bulk/journal/journal.py"
WRITER = "bulk/journal/writer.py"

FAULTS = [
    Fault(
        "a new update goes before those that wait",
        DIALOG,
        "            self.behind[item] = None\n\n    def insert",
        "            self.behind[item] = None\n"
        "            self.behind.move_to_end(item, last=False)\n\n    def insert",
    ),
    Fault(
        "the newest update follows, not the oldest",
        DIALOG,
        "self.head = self.behind.popitem(last=False)[0] if self.behind else None",
        "self.head = self.behind.popitem(last=True)[0] if self.behind else None",
    ),
    Fault(
        "a dialog under way becomes ready with a new update",
        QUEUES,
        "        if lifted and queue.state is READY:",
        "        if queue.state is IN_FLIGHT:\n            queue.state = READY\n"
        "        if queue.state is READY:",
    ),
    Fault(
        "a group takes an update past a transition",
        COALESCING,
        "return update.repeatable and update.if_match is None",
        "return update.if_match is None",
    ),
    Fault(
        "a group takes a strict write",
        COALESCING,
        "return update.repeatable and update.if_match is None",
        "return update.repeatable",
    ),
    Fault(
        "a group keeps the older value of a variable",
        COALESCING,
        "        for context, variables in payload.items():\n"
        "            assigned.setdefault(context, {}).update(variables)\n"
        "        members.append(item)\n        ids.add",
        "        for context, variables in payload.items():\n"
        "            assigned[context] = {**variables, **assigned.get(context, {})}\n"
        "        members.append(item)\n        ids.add",
    ),
    Fault(
        "the last update of a group is not in its request",
        COALESCING,
        "            assigned.setdefault(context, {}).update(variables)\n"
        "        members.append(item)\n        ids.add",
        "            if len(members) < 2:\n"
        "                assigned.setdefault(context, {}).update(variables)\n"
        "        members.append(item)\n        ids.add",
    ),
    Fault(
        "a group passes over an update that cannot join",
        COALESCING,
        "        if item.update is None or not joins(head, item) or item.update_id in ids:\n"
        "            break\n",
        "        if item.update is None or not joins(head, item) or item.update_id in ids:\n"
        "            continue\n",
    ),
    Fault(
        "a worker is held through a backoff",
        DISPATCHER,
        "            else:\n                self._apply(queue, following, began)\n"
        "        except Exception as error:",
        "            else:\n                self._apply(queue, following, began)\n"
        "                await anyio.sleep(1.0)\n        except Exception as error:",
    ),
    Fault(
        "the wait of one dialog stops all",
        SCHEDULER,
        "        self.queues.wait(queue, until)\n        self._waker.wake_at(until)",
        "        self.queues.wait(queue, until)\n"
        "        self.tenant.throttle(until - 0.5, until, 0.5, 0.0)\n"
        "        self._waker.wake_at(until)",
    ),
    Fault(
        "one worker more than allowed",
        DISPATCHER,
        "for _ in range(self._workers):",
        "for _ in range(self._workers + 1):",
    ),
    Fault(
        "a backoff is cut by half",
        BACKOFF,
        "scheduler.wait(queue, now + wait)",
        "scheduler.wait(queue, now + wait / 2)",
    ),
    Fault(
        "a retry goes out at once",
        BACKOFF,
        "scheduler.wait(queue, now + wait)",
        "scheduler.wait(queue, now)",
    ),
    Fault(
        "Retry-After of the tenant is cut by a tenth",
        SCHEDULER,
        "self.tenant.throttle(now, sent, wait, offset)",
        "self.tenant.throttle(now, sent, 0.9 * wait, offset)",
    ),
    Fault(
        "Retry-After counts from the request",
        SCHEDULER,
        "self.tenant.throttle(now, sent, wait, offset)",
        "self.tenant.throttle(sent, sent, wait, offset)",
    ),
    Fault(
        "a shorter pause replaces a longer one",
        PAUSES,
        "        elif until <= self._until:\n            return\n",
        "",
    ),
    Fault(
        "a 429 pauses nobody else",
        BACKOFF,
        "scheduler.throttle_tenant(now, began, seconds, random.random())",
        "pass",
    ),
    Fault(
        "Retry-After of a 503 is not heard by others",
        BACKOFF,
        "failure.response_kind is ResponseKind.UNAVAILABLE and seconds is not None",
        "failure.response_kind is ResponseKind.UNAVAILABLE and False",
    ),
    Fault(
        "the pause of a dialog is not kept",
        PAUSES,
        "        self._pauses.put(dialog_id, (first, now, until), now)\n",
        "",
    ),
    Fault(
        "any answer ends the pause of a dialog",
        PAUSES,
        "if pause is not None and sent > pause[1]:",
        "if pause is not None:",
    ),
    Fault(
        "any answer ends the pause of the tenant",
        PAUSES,
        "        elif self._asked(sent):\n            self.consecutive_429s = 0\n"
        "            if now < self._until:",
        "        else:\n            self.consecutive_429s = 0\n            if now < self._until:",
    ),
    Fault(
        "a probe pauses the dialog of its update",
        BACKOFF,
        "scheduler.throttle_dialog(item.requested_dialog_id, now, began, seconds)",
        "scheduler.throttle_dialog(item.dialog_id, now, began, seconds)",
    ),
    Fault(
        "a probe reads a paused dialog",
        DISPATCHER,
        "if item.action is PROBE and scheduler.dialogs.until(item.probed_dialog_id) > began:",
        "if item.action is PROBE and scheduler.dialogs.until(item.probed_dialog_id) < 0:",
    ),
    Fault(
        "the pause of a dialog becomes one of the tenant's length zero",
        BACKOFF,
        "        if failure.dialog_only:\n",
        "        if False:\n",
    ),
    Fault(
        "the quota admits one request more",
        WINDOW,
        "        self.capacity = limit.capacity\n",
        "        self.capacity = limit.capacity + 1\n",
    ),
    Fault(
        "the window is a tenth shorter",
        WINDOW,
        "self._length = limit.per + limit.guard * limit.per",
        "self._length = 0.9 * limit.per",
    ),
    Fault(
        "a request without a slot in the window",
        DISPATCHER,
        "                    limiter.start(began, bulk=not queue.live)\n",
        "                    if item.attempts == 1:\n"
        "                        limiter.start(began, bulk=not queue.live)\n",
    ),
    Fault(
        "a request in flight frees its slot of the window",
        WINDOW,
        "        self._in_flight.append(now)\n        self.used += 1\n",
        "        self._in_flight.append(now)\n",
    ),
    Fault(
        "a 401 is not replayed",
        DISPATCHER,
        "        if item.abandoned or (item.live and refused_before):",
        "        if item.abandoned or item.live:",
    ),
    Fault(
        "a refused token stays in use",
        OAUTH,
        "            if self._token is not None and self._token.access is token:\n"
        "                self._token = None\n",
        "            pass\n",
    ),
    Fault(
        "a 401 discards a newer token",
        OAUTH,
        "if self._token is not None and self._token.access is token:",
        "if self._token is not None:",
    ),
    Fault(
        "each waiter refreshes for itself",
        OAUTH,
        "            if refresh is None:\n                if valid is None and self._cooldown",
        "            if True:\n                if valid is None and self._cooldown",
    ),
    Fault(
        "an expired token stays in use",
        OAUTH,
        "valid = token.access if token is not None and now < token.expires_at else None",
        "valid = token.access if token is not None else None",
    ),
    Fault(
        "a token is due for a refresh at once",
        OAUTH,
        "margin = min(self._refresh_margin, token.lifetime / 2)",
        "margin = token.lifetime",
    ),
    Fault(
        "a failed refresh discards the valid token",
        OAUTH,
        "            self._failures += 1\n            now = self._clock()\n",
        "            self._failures += 1\n            self._token = None\n"
        "            now = self._clock()\n",
    ),
    Fault(
        "a cancelled update is tried again",
        BACKOFF,
        "        if wait is None or item.abandoned:\n",
        "        if wait is None:\n",
    ),
    Fault(
        "a cancelled update is replayed after a 401",
        DISPATCHER,
        "        if item.abandoned or (item.live and refused_before):",
        "        if item.live and refused_before:",
    ),
    Fault(
        "a cancelled caller leaves its update in the queue",
        "client/client.py",
        "            self._lifecycle.require_engine().cancel(item)\n            raise\n"
        "        if item.error is not None:\n            raise item.error\n"
        "        assert item.result is not None\n        return item.result\n\n"
        "    async def submit(",
        "            raise\n"
        "        if item.error is not None:\n            raise item.error\n"
        "        assert item.result is not None\n        return item.result\n\n"
        "    async def submit(",
    ),
    Fault(
        "events of one dialog run at once",
        HOOKS,
        "        if queue is None:\n"
        "            self._by_dialog[event.dialog_id] = deque((delivery,))",
        "        if queue is None or len(queue) == 1:\n"
        "            self._by_dialog[event.dialog_id] = deque((delivery,))",
    ),
    Fault(
        "a later event goes first",
        HOOKS,
        "        else:\n            queue.append(delivery)\n",
        "        else:\n            queue.insert(1, delivery)\n",
    ),
    Fault(
        "a failed callback is not called again",
        HOOKS,
        "        if delivery.attempts > self._options.retries:\n",
        "        if delivery.attempts > self._options.retries:\n            pass\n"
        "        self._advance(dialog_id)\n        self._mark_finished(delivery)\n        return\n"
        "        if delivery.attempts > self._options.retries:\n",
    ),
    Fault(
        "an event comes twice",
        HOOKS,
        "            metrics.events_delivered += 1\n",
        "            metrics.events_delivered += 1\n"
        "            await self._invoker.call(self._callback, delivery.event)\n",
    ),
    Fault(
        "no slot is reserved for an event",
        REGISTRY,
        "            queue.used += 1\n        return self._blocking",
        "            pass\n        return ()",
    ),
    Fault(
        "a full callback queue holds nothing back",
        SCHEDULER,
        "reserved_only = hooks.has_callbacks and hooks.full",
        "reserved_only = False",
    ),
    Fault(
        "a slot is never freed",
        HOOKS,
        "        self._queued -= 1\n        self.used -= 1\n        self._start_deliveries()",
        "        self._queued -= 1\n        self._start_deliveries()",
    ),
    Fault(
        "no event for an update that failed before",
        COMPLETION,
        "        if item.result is not None or error is not None:\n            event",
        "        if (item.result is not None and item.attempts < 2) or error is not None:\n"
        "            event",
    ),
    Fault(
        "an ambiguous transition is sent again",
        PROTOCOL,
        "            repeatable = harmless or is_strong_etag(item.etag)\n",
        "            repeatable = True\n",
    ),
    Fault(
        "a transition is repeated without its condition",
        PROTOCOL,
        "        if repeatable:\n            return RetryLater(response_kind, error)\n",
        "        if repeatable:\n            item.etag = None\n"
        "            item.requests[item.part].headers.pop('if-match', None)\n"
        "            return RetryLater(response_kind, error)\n",
    ),
    Fault(
        "a conflict after a lost answer is rebased",
        PROTOCOL,
        "        if retry_state.unanswered is not None and not (keyed or _assigns_only(item)):\n"
        "            return Settled(error=self.final(item, error))\n",
        "",
    ),
    Fault(
        "a lost answer counts as a refusal",
        PROTOCOL,
        "        retry_state.unanswered = retry_state.last_error = error\n",
        "        retry_state.last_error = error\n",
    ),
    Fault(
        "a lost answer counts as not sent",
        PROTOCOL,
        "            item, ResponseKind.NO_RESPONSE if lost else ResponseKind.NOT_SENT, error\n",
        "            item, ResponseKind.NOT_SENT, error\n",
    ),
    Fault(
        "a 500 to a transition counts as a refusal",
        PROTOCOL,
        "MAYBE_APPLIED_KINDS = frozenset({ResponseKind.FAULT, ResponseKind.GATEWAY})",
        "MAYBE_APPLIED_KINDS = frozenset({ResponseKind.GATEWAY})",
    ),
    Fault(
        "what was not sent is called ambiguous",
        PROTOCOL,
        "        lost = isinstance(error, NoResponseError)\n",
        "        lost = True\n",
    ),
    Fault(
        "modify writes without a condition",
        PROTOCOL,
        "        item.etag = state.etag\n        item.requests = None\n",
        "        item.etag = None\n        item.requests = None\n",
    ),
    Fault(
        "modify writes the old value after a conflict",
        PROTOCOL,
        "            item.action = Action.READ\n            item.modification.conflicts += 1\n",
        "            item.action = Action.REBASE\n            item.modification.conflicts += 1\n",
    ),
    Fault(
        "a strict write is rebased",
        PROTOCOL,
        "        if item.kind is Kind.STRICT:\n            if isinstance",
        "        if False:\n            if isinstance",
    ),
    Fault(
        "a 503 counts as success",
        "api/runtime.py",
        "200 <= status < 300 else",
        "200 <= status < 300 or status == 503 else",
    ),
    Fault(
        "retries have no budget",
        SCHEDULER,
        "        return self.budget.take()\n",
        "        return True\n",
    ),
    Fault(
        "attempts have no limit",
        RETRY,
        "        if retry_state.elapsed > self.max_elapsed or attempts >= self.max_attempts:\n"
        "            return None\n",
        "",
    ),
    Fault(
        "a failed live update is given no outcome",
        COMPLETION,
        "        self._pending_limit.release()\n",
        "        self._pending_limit.release()\n"
        "        if item.attempts == 3:\n            return\n",
    ),
    Fault(
        "an update is lost after its second failure",
        DISPATCHER,
        "            if not waits:\n                self._completion.give_up(queue)",
        "            if queue.first.attempts == 2:\n                return\n"
        "            if not waits:\n                self._completion.give_up(queue)",
    ),
    Fault(
        "a worker that is not woken",
        SCHEDULER,
        "        if self._live or self._bulk or self._urgent:\n            self._waker.wake()\n",
        "",
    ),
    Fault(
        "the end of a wait wakes nobody",
        SCHEDULER,
        "        self.queues.wait(queue, until)\n        self._waker.wake_at(until)",
        "        self.queues.wait(queue, until)",
    ),
    Fault(
        "the pending count is kept",
        COMPLETION,
        "        metrics.pending -= 1\n",
        "        metrics.pending -= item.attempts < 2\n",
    ),
    Fault(
        "a queue with more updates is dropped",
        QUEUES,
        "        if item is None or queue.behind or queue.state is not IN_FLIGHT:",
        "        if item is None or len(queue.behind or ()) > 1 or queue.state is not IN_FLIGHT:",
    ),
    Fault(
        "an intent is not recorded",
        RECORDER,
        "            self._outbox.intend(intents, record)\n",
        "            record.recorded(None)\n",
    ),
    Fault(
        "an update is sent before its intent is written",
        OUTBOX,
        "            recorded[row.update_id, row.dialog_id] = row\n"
        "        session.recorder.commits.when_written(receipt.recorded)",
        "            recorded[row.update_id, row.dialog_id] = row\n"
        "        session.recorder.commits.noted.set()\n"
        "        receipt.recorded(None)",
    ),
    Fault(
        "an update returns before its outcome is recorded",
        OUTBOX,
        "pending, key))\n        session.recorder.commits.when_written(receipt.recorded)",
        "pending, key))\n"
        "        session.recorder.commits.noted.set()\n"
        "        receipt.recorded(None)",
    ),
    Fault(
        "a failed update is recorded as applied",
        OUTBOX,
        "            if event.error is None:\n                state",
        "            if True:\n                state",
    ),
    Fault(
        "a withdrawn intent stays",
        OUTBOX,
        "        batch.withdrawn += [key for key in keys if batch.intents.pop(key, None) "
        "is None]\n",
        "",
    ),
    Fault(
        "the intents of a dead process are forgotten",
        OUTBOX,
        "            delivery.seed(each)\n        self._resolve(session, intents)",
        "            delivery.seed(each)",
    ),
    Fault(
        "the events of a dead process are not adopted",
        ADOPTION,
        '        pending, dead = (_translated(column, masks) for column in ("pending", "dead"))',
        '        pending, dead = "0", "0"',
    ),
    Fault(
        "a delivery is recorded before it is made",
        DELIVERY,
        "                self._settle(rows, await self._deliver(rows))",
        "                self._recorder.deliver(self._mask, [row.id for row in rows])\n"
        "                self._settle(rows, await self._deliver(rows))",
    ),
    Fault(
        "a failed delivery is forgotten",
        DELIVERY,
        "            back.add(row.dialog_id)\n            dialog.hold(row.id)\n            longest",
        "            back.add(row.dialog_id)\n            longest",
    ),
    Fault(
        "an event passes one whose delivery failed",
        DELIVERY,
        "            elif (dialog.busy and row.dialog_id not in dialogs) or (\n"
        "                dialog.held and dialog.held[0] < row.id\n"
        "            ):",
        "            elif dialog.busy and row.dialog_id not in dialogs:",
    ),
    Fault(
        "two events of a dialog are delivered at one time",
        DELIVERY,
        "            elif (dialog.busy and row.dialog_id not in dialogs) or (",
        "            elif (False) or (",
    ),
    Fault(
        "a page of events skips one",
        DELIVERY,
        "            self._cursor = page[-1].id\n",
        "            self._cursor = page[-1].id + 1\n",
    ),
    Fault(
        "events are read from the newest",
        STORE,
        '            found = self.connection.execute(f"{query} ORDER BY id LIMIT ?", '
        "(*values, limit))",
        "            found = self.connection.execute(\n"
        '                f"{query} ORDER BY id DESC LIMIT ?", (*values, limit)\n'
        "            )",
    ),
    Fault(
        "an update of a dead process is sent over a newer version",
        PROTOCOL,
        '        if not unchanged:\n            problem = "the state has other',
        '        if False:\n            problem = "the state has other',
    ),
    Fault(
        "an update of a dead process counts as applied",
        PROTOCOL,
        "        if holds(state, update) and not (unchanged and update._next_step is not None):",
        "        if True:",
    ),
    Fault(
        "a job repeats a transition without a condition",
        RESEND,
        "        return update.replace(if_match=send.etag)",
        "        return update",
    ),
    Fault(
        "a job forgets the transitions that it sent",
        JOURNAL,
        "                sends=[OpenSend(*send) for send in sends],",
        "                sends=[OpenSend(*send) for send in sends][:0],",
    ),
    Fault(
        "a transition is sent before its record is written",
        WRITER,
        "        self._batch.durable = True\n"
        "        await self._written()\n"
        "\n"
        "    async def sending_together",
        "        self._batch.durable = True\n"
        "        self.commits.noted.set()\n"
        "\n"
        "    async def sending_together",
    ),
    Fault(
        "a job forgets which rows are done",
        JOURNAL,
        "                for line, status, dialog, number, kind, message, http in rows\n",
        "                for line, status, dialog, number, kind, message, http in [*rows][:0]\n",
    ),
    Fault(
        "a failed row has no dead letter",
        WRITER,
        "        self._batch.dead_letters.append(dead_letter(row.line, row.source, failure))\n",
        "",
    ),
]
