"""Queue the updates of dead processes, whose intents an outbox found without an outcome."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ..engine.resolution import Resolution
from ..engine.work_item import RESOLVE, Action, WorkItem
from ..hooks.outbox import RESEND_WITHIN, Intent

if TYPE_CHECKING:
    from ..engine.context import Context
    from ..engine.engine import Engine
    from ..models.limits import Limits
    from .admission import Admission


class Recovery:
    """The client as its outbox sees it; see `OutboxClient`."""

    def __init__(self, context: Context, engine: Engine, admission: Admission) -> None:
        self.metrics = context.metrics
        self.limits: Limits = context.config.limits
        # Bulk work waits for a server that is away, instead of giving up after a few attempts.
        self._options = replace(context.config.default_options, live=False, coalesce=False)
        self._pending_limit = context.pending_limit
        self._clock = context.clock
        self._engine = engine
        self._admission = admission

    def resolve(self, intents: Sequence[Intent], resend_within: float = RESEND_WITHIN) -> None:
        """Queue updates before all others of their dialogs, to find out what became of them."""
        scheduler, now = self._engine.scheduler, self._clock()
        if scheduler.stopped:
            return
        requests = Counter((intent.dialog_id, intent.key) for intent in intents)
        dialogs: dict[str, list[WorkItem]] = {}
        for intent in intents:
            item = self._item(intent, resend_within, now)
            # Updates that were sent with one request are repeated with one.
            item.coalesces = requests[intent.dialog_id, intent.key] > 1
            dialogs.setdefault(intent.dialog_id, []).append(item)
        for items in dialogs.values():
            scheduler.accept_first(items, now)

    def _item(self, intent: Intent, resend_within: float, now: float) -> WorkItem:
        item = WorkItem(
            RESOLVE,
            intent.dialog_id,
            intent.update_id,
            intent.update,
            self._admission.next_serial(),
            self._options,
            _Nobody(),
        )
        item.action = Action.READ
        item.metadata = intent.metadata
        item.waits_when_paused = True
        to_clock = now - time.time()
        deadline = None if intent.deadline is None else intent.deadline + to_clock
        blind_until = intent.recorded_at + resend_within + to_clock
        if deadline is not None:
            blind_until = min(blind_until, deadline)
        resolution = Resolution(intent.key, intent.etag, intent.repeatable, deadline, blind_until)
        recorder = self._engine.recorder
        assert recorder is not None
        recorder.adopt(item, resolution)
        self._pending_limit.acquire_beyond_capacity()
        self.metrics.pending += 1
        return item


class _Nobody:
    """Waits for no outcome: the process that did has died."""

    def notify(self, item: WorkItem, /) -> None:
        """Do nothing."""
