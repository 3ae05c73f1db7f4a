"""One accepted update or read: what it is for, how far it has come, what became of it."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from contextvars import Context
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from ..models.identifiers import NO_METADATA

if TYPE_CHECKING:
    from ..auth.provider import AccessToken
    from ..hooks.callback_queue import CallbackQueue
    from ..hooks.observers import Observations
    from ..models.events import UpdateWatch
    from ..models.http import Request
    from ..models.results import Decide, DialogState, UpdateResult
    from ..models.update import StateUpdate
    from ..retry import RetryPolicy, RetryState
    from .dialog_queue import DialogQueue


class Kind(enum.Enum):
    """What an entry is for."""

    ASSIGN = "assign"
    """Variables, perhaps a transition; no precondition of the caller."""
    STRICT = "strict"
    """The same with the caller's `if_match`."""
    MODIFY = "modify"
    """Read, decide, write if nothing changed meanwhile."""
    READ = "read"
    RESET = "reset"
    """Put the context or the state of a session back to its beginning."""


class Action(enum.Enum):
    """The next request of an entry."""

    WRITE = "write"
    READ = "read"
    REBASE = "rebase"
    """Read the version that the next write is based on, after a conflict."""
    CONFIRM = "confirm"
    """Read whether the state changed, after a write without an answer."""
    REPORT = "report"
    """Read the version that a strict write ran into."""


ASSIGN = Kind.ASSIGN
READ = Kind.READ
STRICT = Kind.STRICT
WRITE = Action.WRITE
"""For where each update passes: on Python 3.11 a look-up on the class costs five times as much."""


@dataclass(frozen=True, slots=True)
class SendOptions:
    """On which terms an update or a read is carried out; one object for all that have the same.

    Attributes:
        timeout: seconds, for one request.
        deadline: moment of the client's clock after which nothing of it is sent, None for never.
        live: goes before bulk work.
        coalesce: whether it may share a request with others of its dialog, as far as it can.
        watch: looks on while it is under way.
    """

    policy: RetryPolicy
    timeout: float
    deadline: float | None = None
    live: bool = True
    coalesce: bool = field(default=False, compare=False)
    watch: UpdateWatch | None = None


class Sink(Protocol):
    """Who is told of the outcome of an entry."""

    def notify(self, item: WorkItem, /) -> None:
        """The entry has its outcome."""
        ...


@dataclass(slots=True, eq=False, repr=False)
class WorkItem:
    """One accepted update or read, from its acceptance to its outcome.

    Attributes:
        serial: tells the order of acceptance.
        live: as its terms say. exempt: comes from inside a callback, which waits for it.
        held: waits where its dialog is paused; others fail then.
        requests: what carries it out, in order; made when the first is needed.
        action, part, round: the next request; which part of an update; conflicts that led to
            another try, of a `modify` or where there are no versions.
        etag: the version that the next write depends on.
        known: the version that the state had when a transition was sent, as far as is known.
        sent_at: seconds of the client's clock at its first request, None before.
        attempts: requests made. trouble: what went wrong, None while nothing did.
        refused_token: what its last request was refused with.
        coalesces: may share a request with others of its dialog.
        members: the entries that this one carries, where it is a group of them.
        abandoned: its caller is gone: it is not repeated.
        headers: of the answer that said that it was applied.
        observations: what looks on; None where nothing does.
        waiter: what its sink wakes who waits for it with.
        cleared: what looks on let the next request go.
    """

    kind: Kind
    dialog_id: str
    update_id: str
    update: StateUpdate | None
    serial: int
    options: SendOptions
    context: Context | None
    sink: Sink
    from_callback: bool = False
    index: int = -1
    waits_when_paused: bool = False
    decide: Decide | None = None
    cleared: bool = False
    coalesces: bool = False
    known: str | None = None
    accepted_at: float = 0.0
    sent_at: float | None = None
    attempts: int = 0
    part: int = 0
    round: int = 0
    requests: list[Request] | None = None
    retry_state: RetryState | None = None
    refused_token: AccessToken | None = None
    abandoned: bool = False
    members: tuple[WorkItem, ...] = ()
    reserved: tuple[CallbackQueue, ...] = ()
    observations: Observations | None = None
    settled: bool = False
    queue: DialogQueue | None = None
    result: UpdateResult | None = None
    headers: Mapping[str, str] | None = None
    state: DialogState | None = None
    error: BaseException | None = None
    waiter: Any = None
    live: bool = field(init=False)
    action: Action = field(init=False)
    etag: str | None = field(init=False)
    metadata: Mapping[str, str] = field(init=False)

    def __post_init__(self) -> None:
        update = self.update
        self.live = self.options.live
        self.action = Action.READ if update is None else WRITE
        self.etag = None if update is None else update._if_match
        self.metadata = NO_METADATA if update is None else update._metadata

    @property
    def has_slot(self) -> bool:
        """Whether its event has its place with the callbacks, or there will be none."""
        return self.sent_at is not None or self.kind is Kind.READ

    @property
    def not_repeatable(self) -> bool:
        """Whether the request at hand must not be repeated blindly, or otherwise than it was."""
        if self.action is not WRITE:
            return False
        if self.kind is Kind.STRICT or self.members:
            return True
        if self.requests is None:
            return self.update is not None and self.update.next_step is not None
        return not self.requests[self.part].idempotent

    @property
    def idempotent(self) -> bool:
        """Whether the request at hand does no harm when it is carried out twice."""
        return self.requests is None or self.requests[self.part].idempotent
