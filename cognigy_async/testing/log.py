"""The log of one simulated run: facts of the server, of the callers and of the callbacks."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

UNENDED = float("inf")


@dataclass(slots=True)
class Exchange:
    """One request to the API, as the network saw it.

    Attributes:
        began, ended: seconds at which the client sent it and got the answer.
        updates: numbers of the updates whose variables it carries; empty for a user's program.
        step: the transition that it makes.
        status: status that the client got; 0 for none, -1 if nothing was sent.
        applied_at: seconds of each application by the server.
        retry_after: seconds that the answer named.
        of_dialog: True if these seconds hold for the dialog alone.
        torn_down: True if the client cancelled the request.
    """

    began: float
    method: str
    dialog_id: str
    key: str | None
    updates: tuple[int, ...]
    step: str | None
    if_match: str | None
    token: str
    ended: float = UNENDED
    status: int = 0
    fault: str = ""
    applied_at: list[float] = field(default_factory=list)
    retry_after: float | None = None
    of_dialog: bool = False
    torn_down: bool = False

    def describe(self) -> str:
        """Return the request and its answer in one line, without what it lacks."""
        text = f"{self.method} {list(self.updates)}" if self.updates else self.method
        for name, value in (
            ("key", self.key),
            ("step", self.step),
            ("if-match", self.if_match),
        ):
            text += "" if value is None else f" {name}={value}"
        answer = {0: "no answer", -1: "not sent"}.get(self.status, str(self.status))
        text += f" -> {answer} at {self.ended:.3f}"
        text += f", {self.fault}" if self.fault else ""
        text += "".join(f", applied at {at:.3f}" for at in self.applied_at)
        text += "" if self.retry_after is None else f", retry after {self.retry_after:g} s"
        return text + (", torn down" if self.torn_down else "")


@dataclass(slots=True)
class TokenExchange:
    """One request for a token; `token` is None if it failed."""

    began: float
    ended: float = UNENDED
    token: str | None = None


@dataclass(slots=True)
class Call:
    """One call of a program.

    `outcome` is ``ok``, ``cancelled``, ``crashed`` with its process, or the class of an error.
    """

    number: int
    kind: str
    dialog_id: str
    called_at: float
    ended_at: float = UNENDED
    outcome: str = ""
    cancelled_at: float = UNENDED
    status: int | None = None


@dataclass(slots=True)
class Delivery:
    """One call of a callback or of a target of the outbox, or a dead letter."""

    began: float
    dialog_id: str
    update: int
    update_id: str
    ended: float = UNENDED
    succeeded: bool = False
    dead: bool = False
    failures: bool = False
    target: str = ""
    applied: bool = True


@dataclass(slots=True)
class Log:
    """Everything that happened in one run, in order.

    Attributes:
        sessions: session variables of each dialog at the end, as the server has them.
        competitors: number of writes of other clients by dialog.
        faults: number of faults that happened, by kind.
        problems: promise, dialog and text of what the run itself saw: it hung, or raised.
        error: the exception that a program raised.
        crashes: virtual seconds at which the process crashed.
        job: numbers of rows that succeeded, failed, are ambiguous, and are pending.
        dead_letters: classes of errors by the numbers of updates.
        pending: updates without an outcome after the close of the client.
        seconds: virtual seconds of the run.
    """

    exchanges: list[Exchange] = field(default_factory=list)
    tokens: list[TokenExchange] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    deliveries: list[Delivery] = field(default_factory=list)
    sessions: dict[str, dict[str, Any]] = field(default_factory=dict)
    competitors: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    problems: list[tuple[str, str, str]] = field(default_factory=list)
    crashes: list[float] = field(default_factory=list)
    job: tuple[int, int, int, int] | None = None
    dead_letters: dict[int, str] = field(default_factory=dict)
    error: Exception | None = None
    pending: int = 0
    seconds: float = 0.0

    def timeline(self, dialog_id: str) -> str:
        """Return what happened to one dialog, or to all for an empty id: a line each, by time."""
        lines = [(each.began, each.dialog_id, each.describe()) for each in self.exchanges]
        for call in self.calls:
            lines.append((call.called_at, call.dialog_id, f"call {call.number}: {call.kind}"))
            lines.append((call.ended_at, call.dialog_id, f"call {call.number}: {call.outcome}"))
        for one in self.deliveries:
            state = "dead letter" if one.dead else "ok" if one.succeeded else "failed"
            text = f"callback of {one.update_id}: {state} at {one.ended:.3f}"
            lines.append((one.began, one.dialog_id, text))
        lines += [(at, dialog_id, "the process crashes") for at in self.crashes]
        chosen = [line for line in lines if dialog_id in ("", line[1])]
        ordered = sorted(chosen, key=lambda line: line[0])
        return "\n".join(
            f"{at:10.3f}  {text if dialog_id else f'{name}  {text}'}" for at, name, text in ordered
        )

    def facts(self) -> str:
        """Return the log as text, equal for equal runs: without ids that are made at random."""
        rows: list[Any] = [
            (e.began, e.ended, e.method, e.dialog_id, e.updates, e.status, e.fault, e.applied_at)
            for e in self.exchanges
        ]
        rows += [(c.number, c.called_at, c.ended_at, c.outcome) for c in self.calls]
        rows += [(d.began, d.ended, d.update, d.succeeded, d.dead) for d in self.deliveries]
        rows += [self.crashes, self.job, sorted(self.dead_letters)]
        return repr(rows)
