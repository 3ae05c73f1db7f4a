"""Work items: accepted updates, reads and resets, with their progress."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from contextvars import Context
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from ..models.identifiers import NO_METADATA

if TYPE_CHECKING:
    from ..hooks.callback_queue import CallbackQueue
    from ..hooks.observers import Observations
    from ..models.events import UpdateWatch
    from ..models.http import Request
    from ..models.results import Decide, DialogState, UpdateResult
    from ..models.update import StateUpdate
    from ..retry import RetryPolicy, RetryState
    from .dialog_queue import DialogQueue
    from .recorder import Record
    from .resolution import Resolution


class Kind(enum.Enum):
    """The operation that an item stands for."""

    ASSIGN = "assign"
    """Assign variables, perhaps with a transition, without `if_match`."""
    STRICT = "strict"
    """Assign with the caller's `if_match`."""
    MODIFY = "modify"
    """Read the state, let the caller decide, write if the state is unchanged."""
    READ = "read"
    """Read the state."""
    RESET = "reset"
    """Reset the context or the state of a session."""
    PROFILE = "profile"
    """Update a contact profile, in a queue for the profile."""
    CREATION = "creation"
    """Create a contact profile, in a queue of its own."""
    RESOLVE = "resolve"
    """Find out what became of an update whose process died, from the intent in an outbox."""


class Action(enum.Enum):
    """The purpose of an item's next request."""

    WRITE = "write"
    """Carry out the update."""
    READ = "read"
    """Read the state, for a read or a `modify`."""
    REBASE = "rebase"
    """Read the version that the next write is based on, after a conflict."""
    PROBE = "probe"
    """Read another dialog, to find out whether the server is available."""
    REPORT = "report"
    """Read the version that a strict write conflicted with."""


ASSIGN = Kind.ASSIGN
CREATION = Kind.CREATION
READ = Kind.READ
RESOLVE = Kind.RESOLVE
STRICT = Kind.STRICT
WRITE = Action.WRITE
PROBE = Action.PROBE
"""Aliases for the hot path: on Python 3.11 a look-up on the class costs five times as much."""


PROFILE_PREFIX = "profiles/"
"""Beginning of the dialog id of an item that writes a contact profile; its id follows."""


@dataclass(frozen=True, slots=True)
class SendOptions:
    """Options of sending an update or a read; items with equal options share one object.

    Attributes:
        policy: decides on retries.
        timeout: seconds for one request.
        deadline: moment of the client's clock after which nothing is sent; None for never.
        live: goes before bulk work.
        coalesce: whether an update may share a request with others of its dialog.
        watch: notified while an update is under way.
    """

    policy: RetryPolicy
    timeout: float
    deadline: float | None = None
    live: bool = True
    coalesce: bool = field(default=False, compare=False)
    watch: UpdateWatch | None = None


class Sink(Protocol):
    """Receives the outcome of an item."""

    def notify(self, item: WorkItem, /) -> None:
        """Handle the outcome of an item."""
        ...


@dataclass(slots=True, eq=False)
class Modification:
    """The data that only a `modify` has.

    Attributes:
        decide: the caller's function from a state to an assignment.
        conflicts: number of writes that failed because the state had changed.
    """

    decide: Decide
    conflicts: int = 0


@dataclass(slots=True, eq=False)
class Reading:
    """The data that only a read has: the state; None until it is known."""

    state: DialogState | None = None


@dataclass(slots=True, eq=False)
class Group:
    """The data that only a group has: the items that share its request, in order."""

    members: tuple[WorkItem, ...]


@dataclass(slots=True, eq=False, repr=False)
class WorkItem:
    """One accepted update, read or reset, from its acceptance to its outcome.

    Attributes:
        kind: the operation.
        update: the update to send; None for a read, a reset, or a `modify` not yet decided.
        serial: position in the order of acceptance.
        sink: receives the outcome.
        context: context variables that callbacks and `modify` functions run in.
        live: goes before bulk work.
        from_callback: True if a callback submitted the item and may wait for it.
        waits_when_paused: waits while its dialog is paused; other items fail.
        coalesces: may share a request with other updates of its dialog.
        index: position in the input of a stream, -1 outside of streams.
        metadata: strings of the caller for callbacks and the audit.
        accepted_at, sent_at: seconds of the client's clock; `sent_at` is None before the first
            request.
        attempts: number of requests made.
        requests: the requests that carry the update, in order; None until the first is needed.
        action: the purpose of the next request.
        probed_dialog_id: dialog that the last probe read.
        part: index of the next request in `requests`.
        etag: version that the next write depends on, its `If-Match`; None for no condition.
        announced: True if the watch was called for the next request.
        reserved: callback queues in which a slot is reserved for the event.
        observations: the observers of this item, None if there are none.
        queue: the queue that contains the item, or None.
        waiter: object by which the waiting task is woken.
        abandoned: True if the caller cancelled; the item is not sent again.
        completed: True if the item has an outcome, in `result`, `reading` or `error`.
        headers: headers of the response that confirmed the update.
        retry_state: the failures so far; None if there were none.
        modification, reading, group: data of a `modify`, a read or a group; else None.
        record: the record in the outbox; None before there is one, or without an outbox.
    """

    kind: Kind
    dialog_id: str
    update_id: str
    update: StateUpdate | None
    serial: int
    options: SendOptions
    sink: Sink
    context: Context | None = field(default=None, init=False)
    live: bool = field(init=False)
    from_callback: bool = field(default=False, init=False)
    waits_when_paused: bool = field(default=False, init=False)
    coalesces: bool = field(default=False, init=False)
    index: int = field(default=-1, init=False)
    metadata: Mapping[str, str] = field(init=False)
    accepted_at: float = field(default=0.0, init=False)
    sent_at: float | None = field(default=None, init=False)
    attempts: int = field(default=0, init=False)
    requests: list[Request] | None = field(default=None, init=False)
    action: Action = field(init=False)
    probed_dialog_id: str = field(default="", init=False)
    part: int = field(default=0, init=False)
    etag: str | None = field(init=False)
    announced: bool = field(default=False, init=False)
    reserved: tuple[CallbackQueue, ...] = field(default=(), init=False)
    observations: Observations | None = field(default=None, init=False)
    queue: DialogQueue | None = field(default=None, init=False)
    waiter: Any = field(default=None, init=False)
    abandoned: bool = field(default=False, init=False)
    completed: bool = field(default=False, init=False)
    result: UpdateResult | None = field(default=None, init=False)
    error: BaseException | None = field(default=None, init=False)
    headers: Mapping[str, str] | None = field(default=None, init=False)
    retry_state: RetryState | None = field(default=None, init=False)
    modification: Modification | None = field(default=None, init=False)
    reading: Reading | None = field(default=None, init=False)
    group: Group | None = field(default=None, init=False)
    record: Record | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        update = self.update
        self.live = self.options.live
        self.action = Action.READ if update is None else WRITE
        self.etag = None if update is None else update._if_match
        self.metadata = NO_METADATA if update is None else update._metadata

    @property
    def members(self) -> tuple[WorkItem, ...]:
        """The items that share the request of this one; empty unless it is a group."""
        return () if self.group is None else self.group.members

    @property
    def requested_dialog_id(self) -> str:
        """Dialog that the next request is for: a probe reads another one than the item's."""
        return self.probed_dialog_id if self.action is PROBE else self.dialog_id

    @property
    def resolution(self) -> Resolution | None:
        """The data that only an update of a dead process has."""
        return None if self.record is None else self.record.resolution

    @property
    def has_slot(self) -> bool:
        """Return True if the event of the item has its callback slots or needs none."""
        return self.sent_at is not None or self.kind is READ

    @property
    def not_repeatable(self) -> bool:
        """Return whether the next request, which was built, must not be repeated blindly."""
        if self.action is not WRITE:
            return False
        if self.kind is Kind.STRICT or self.group is not None:
            return True
        return not self.idempotent

    @property
    def idempotent(self) -> bool:
        """Return True if the next request can be carried out twice without harm."""
        return self.requests is None or self.requests[self.part].idempotent

    @property
    def to_endpoint(self) -> bool:
        """Return True if the next write goes to the endpoint service."""
        return self.requests is not None and self.requests[self.part].url_token is not None
