"""How updates come in: checked, given a place, a name and a number, and put into their lane."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from contextvars import Context, copy_context
from itertools import count
from typing import TYPE_CHECKING, Literal, TypeAlias

import anyio

from .checks import checked_seconds, checked_timeout, checked_type
from .entries import ASSIGN, READ, Action, Entry, Kind, Sink, Terms
from .errors import AuditError, ConfigurationError, DeadlineExceededError
from .hooks import Hooks
from .lane import LaneState
from .life import Life
from .limits import Limits
from .merging import merges
from .metadata import NO_METADATA
from .models import Decide
from .observing import Observations, Observer, Operation
from .retry import RetryPolicy
from .room import Room
from .rows import Row, parsed
from .updates import StateUpdate

if TYPE_CHECKING:
    from .api import StateApi
    from .audit.trail import AuditTrail
    from .events import UpdateWatch
    from .messages import Request

__all__ = ["Admission", "Priority", "Row", "kind_of"]

Priority: TypeAlias = Literal["live", "bulk"]
"""Live work goes before bulk work, which gives way and has patience."""

AUDIT_PAUSE = 0.02
"""Seconds before bulk work looks again whether the audit has caught up."""


class Admission:
    """The way into a client.

    Whoever lets an entry in first takes a place in the room; it is given back when the entry
    settles, or when it is refused.
    """

    def __init__(
        self,
        life: Life,
        room: Room,
        hooks: Hooks,
        api: StateApi,
        limits: Limits,
        on_failure: Literal["continue", "pause"],
        policy: RetryPolicy,
        timeout: float,
        audit: AuditTrail | None,
        *,
        coalesce: bool = False,
    ) -> None:
        self._life = life
        self._room = room
        self._hooks = hooks
        self.check = api.check
        """Raises `UpdateValidationError` for what the API cannot carry."""
        self.limits = limits
        """What updates are checked against."""
        self._pauses_dialogs = on_failure == "pause"
        self._usual = Terms(policy, checked_timeout(timeout), coalesce=coalesce)
        self._mergeable = api.keeps_other_variables
        self._audit = audit if audit is not None and audit.strict else None
        """Only a strict one keeps updates out."""
        self._ids = secrets.token_hex(8)
        self._serials = count(1)
        self.observers: tuple[Observer, ...] = ()
        """What looks on at every update."""

    def parse(self, row: Row) -> StateUpdate:
        """A valid update from what a caller hands over, or an `UpdateValidationError`."""
        # What is one already, and was checked against these very limits, needs no more.
        if type(row) is StateUpdate and row._limits is self.limits:
            update = row
        else:
            update = parsed(row, self.limits)
        self.check(update)
        return update

    def check_dialog_id(
        self, dialog_id: str, metadata: Mapping[str, str] | None = None
    ) -> tuple[str, Mapping[str, str]]:
        """Both as plain copies; raises `UpdateValidationError` for what is no dialog id."""
        fields = {"dialog_id": dialog_id, "next_step": "-", "metadata": metadata}
        update = StateUpdate.within(self.limits, fields)
        return update.dialog_id, update.metadata

    def terms(
        self,
        retry: RetryPolicy | None,
        timeout: float | None,
        deadline: float | None = None,
        priority: Priority = "live",
        coalesce: bool | None = None,
        watch: UpdateWatch | None = None,
    ) -> Terms:
        """On which terms an update is carried out: its own, or those of the client.

        Args:
            deadline: seconds from now.

        Raises:
            ConfigurationError: one of them cannot work.
            ClientUsageError: there is a deadline, and the client is not open.
        """
        usual = self._usual
        if (
            priority == "live"
            and retry is None
            and timeout is None
            and deadline is None
            and coalesce is None
            and watch is None
        ):
            return usual
        if priority not in ("live", "bulk"):
            raise ConfigurationError(f'priority={priority!r}: must be "live" or "bulk"')
        return Terms(
            usual.policy if retry is None else checked_type("retry", retry, RetryPolicy),
            usual.timeout if timeout is None else checked_timeout(timeout),
            None if deadline is None else self._moment(deadline),
            priority == "live",
            usual.coalesce if coalesce is None else coalesce,
            watch,
        )

    def take_room(self) -> bool:
        """Take a place if there is one; what a callback calls always finds one."""
        self._life.check_open()
        return self.try_take()

    def try_take(self) -> bool:
        """The same where it is known that the client is open."""
        if self._hooks.any and self._hooks.called_us():
            self._room.take_anyway()
            return True
        return self._room.try_take()

    def _moment(self, seconds: float) -> float:
        seconds = checked_seconds("deadline", seconds)
        self._life.check_open()
        return self._life.engine.now() + seconds

    async def wait_for_room(
        self, deadline: float | None = None, dialog_id: str | None = None
    ) -> None:
        """Take a place, waiting for it.

        Raises:
            ClientClosedError: the client was closed meanwhile.
            DeadlineExceededError: the deadline passed, or cannot be met.
        """
        if deadline is None or dialog_id is None:
            await self._room.take(dialog_id)
        else:
            self._check_deadline(deadline, dialog_id)
            await self._take_room_by(deadline, dialog_id)
        if not self._life.accepting:
            self._room.give_back()
            self._life.check_open()

    async def _take_room_by(self, deadline: float, dialog_id: str) -> None:
        seconds = max(0.0, deadline - self._life.engine.now())
        with anyio.move_on_after(seconds) as waiting:
            await self._room.take(dialog_id)
        if waiting.cancelled_caught:
            message = "The deadline passed before there was room for the update"
            raise DeadlineExceededError(message, dialog_id=dialog_id)

    def _check_deadline(self, deadline: float, dialog_id: str) -> None:
        """Refuse at once what cannot be sent in time, as far as is known."""
        engine = self._life.engine
        now, earliest = engine.now(), engine.earliest(dialog_id)
        if deadline <= now:
            message = "The deadline has passed already"
            raise DeadlineExceededError(message, dialog_id=dialog_id)
        if deadline <= earliest:
            wait = earliest - now
            message = f"The deadline cannot be met: nothing may be sent for {wait:.1f} s"
            raise DeadlineExceededError(message, dialog_id=dialog_id, retry_after=wait)

    def give_back(self) -> None:
        """A place is not needed after all."""
        self._room.give_back()

    def begin(
        self,
        kind: Kind,
        dialog_id: str,
        update: StateUpdate | None,
        terms: Terms,
        sink: Sink,
        *,
        context: Context | None = None,
        held: bool = False,
        decide: Decide | None = None,
        requests: list[Request] | None = None,
        index: int = -1,
        metadata: Mapping[str, str] = NO_METADATA,
    ) -> Entry:
        """Queue an entry that has its place in the room.

        Callbacks run in `context`, or in that of the caller where it is not given.

        Raises:
            DialogPausedError: the dialog is paused and the entry would not wait for `resume`.
            DeadlineExceededError: the deadline passed, or cannot be met.
            AuditError: a strict audit sink takes no records.
        """
        engine = self._life.engine
        if self._audit is not None and kind is not READ:
            try:
                self._audit.check()
            except AuditError:
                self._room.give_back()
                raise
        if terms.deadline is not None:
            try:
                self._check_deadline(terms.deadline, dialog_id)
            except DeadlineExceededError as error:
                if kind is not READ:
                    self._room.give_back()
                error.update_id = update.update_id if update is not None else None
                raise
        if self._pauses_dialogs and not held and kind is not READ:
            lane = engine.lanes.get(dialog_id)
            if lane is not None and lane.state is LaneState.PAUSED:
                self._room.give_back()
                raise engine.settlement.pause_error(lane)
        if context is None and (self._hooks.any or decide is not None):
            context = copy_context()
        serial = next(self._serials)
        named = update._update_id if update is not None else None
        entry = Entry(
            kind,
            dialog_id,
            named if named is not None else f"{self._ids}-{serial:x}",
            update,
            serial,
            terms,
            context,
            sink,
        )
        # Set here and not passed: keywords double the price of an entry.
        entry.exempt = self._hooks.any and self._hooks.called_us()
        entry.held = held
        entry.index = index
        if update is None:
            entry.decide = decide
            entry.metadata = metadata
            if requests is not None:
                entry.requests, entry.action = requests, Action.WRITE
        elif terms.coalesce:
            entry.coalesces = self._mergeable and merges(update)
        if self.observers:
            operation = _OPERATIONS.get(kind, "update")
            observed = Observations(self.observers, operation, dialog_id, entry.update_id)
            entry.observations = observed or None
        engine.accept(entry)
        return entry

    # What a stream needs besides.

    def check_open(self) -> None:
        """Raise `ClientUsageError` where no updates are taken."""
        self._life.check_open()

    def hungry(self, *, live: bool) -> bool:
        """Whether more updates of that class would find workers soon."""
        return self._life.engine.hungry(live=live)

    def try_take_for_bulk(self) -> bool:
        """Take a place if there is one, and the audit keeps up."""
        if self._audit is not None and self._audit.slow:
            return False
        return self.try_take()

    async def wait_for_bulk_room(self) -> None:
        """Take a place when the audit has caught up, waiting for it; see `wait_for_room`."""
        # It catches up in threads that know nothing of the event loop.
        while self._audit_is_slow():
            self._life.check_open()
            await anyio.sleep(AUDIT_PAUSE)
        if not self.take_room():
            await self.wait_for_room()

    def _audit_is_slow(self) -> bool:
        return self._audit is not None and self._audit.slow


_OPERATIONS: Mapping[Kind, Operation] = {
    Kind.MODIFY: "modify",
    Kind.READ: "read",
    Kind.RESET: "reset",
}


def kind_of(update: StateUpdate) -> Kind:
    """What an entry for an update is for."""
    return ASSIGN if update._if_match is None else Kind.STRICT
