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
        updates: numbers of the updates whose variables it carries.
        status: status that the client got; 0 for none, -1 if nothing was sent.
        applied_at: seconds of each application by the server.
        retry_after: seconds that the answer named.
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
    adds_one: bool = False
    ended: float = UNENDED
    status: int = 0
    fault: str = ""
    applied_at: list[float] = field(default_factory=list)
    retry_after: float | None = None
    of_dialog: bool = False
    torn_down: bool = False


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
    """Everything that happened in one run, in order."""

    exchanges: list[Exchange] = field(default_factory=list)
    tokens: list[TokenExchange] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    deliveries: list[Delivery] = field(default_factory=list)
    counters: dict[str, int] = field(default_factory=dict)
    competitors: Counter[str] = field(default_factory=Counter)
    last: dict[str, int] = field(default_factory=dict)
    faults: dict[str, int] = field(default_factory=dict)
    refused_tokens: dict[str, float] = field(default_factory=dict)
    problems: list[tuple[str, str, str]] = field(default_factory=list)
    crashes: list[float] = field(default_factory=list)
    job: tuple[int, int, int, int] | None = None
    dead_letters: dict[int, str] = field(default_factory=dict)
    sessions: dict[str, dict[str, Any]] = field(default_factory=dict)
    error: Exception | None = None
    pending: int = 0
    seconds: float = 0.0

    def timeline(self, dialog_id: str) -> str:
        """Return what happened to one dialog, a line each, by time; to all for an empty text."""
        lines: list[tuple[float, str]] = []
        for each in self.exchanges:
            if dialog_id in ("", each.dialog_id):
                applied = "".join(f" applied@{at:.3f}" for at in each.applied_at)
                text = f"{each.method} {list(each.updates)} key={each.key} step={each.step} "
                text += f"if-match={each.if_match} -> {each.status} {each.fault}{applied}"
                text += f" until {each.ended:.3f} retry-after={each.retry_after}"
                lines.append((each.began, text))
        for call in self.calls:
            if dialog_id in ("", call.dialog_id):
                lines.append((call.called_at, f"call {call.number} {call.kind}"))
                lines.append((call.ended_at, f"call {call.number} ended: {call.outcome}"))
        for one in self.deliveries:
            if dialog_id in ("", one.dialog_id):
                state = "dead letter" if one.dead else "ok" if one.succeeded else "failed"
                lines.append((one.began, f"callback {one.update} {state} until {one.ended:.3f}"))
        lines += [(at, "the process crashes") for at in self.crashes]
        ordered = sorted(lines, key=lambda line: line[0])
        return "\n".join(f"{at:10.3f}  {text}" for at, text in ordered)

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
