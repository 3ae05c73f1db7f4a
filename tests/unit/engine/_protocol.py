"""One update played against answers that a test makes up."""

from __future__ import annotations

from typing import Any

from cognigy_async import (
    AmbiguousUpdateError,
    Limits,
    NoResponseError,
    NotSentError,
    Request,
    RetryPolicy,
    RuntimeApi,
    StateUpdate,
)
from cognigy_async.engine.protocol import Decision, RetryLater, SendNext, Settled, UpdateProtocol
from cognigy_async.engine.work_item import Kind, WorkItem
from cognigy_async.models.results import Decide
from tests.unit._builders import item, response

BASE = "http://server"


class Play:
    """The course of one update of dialog ``d-1``, request by request.

    Each step says in a word what follows. ``write``, ``read``, ``rebase`` and
    ``report`` are the next request, after a backoff or (``again``) at once; others are the end.
    """

    def __init__(
        self,
        kind: Kind = Kind.ASSIGN,
        *,
        honours: bool = False,
        conditional: bool = True,
        if_match: str = '"7"',
        ambiguous: Any = "retry",
        limits: Limits | None = None,
        decide: Decide | None = None,
        live: bool = True,
        protocol: UpdateProtocol | None = None,
        **fields: Any,
    ) -> None:
        api = RuntimeApi(honours_idempotency_keys=honours, conditional_writes=conditional)
        self.protocol = protocol or UpdateProtocol(api, BASE, Limits())
        update = None
        if kind in (Kind.ASSIGN, Kind.STRICT):
            given = {"dialog_id": "d-1", **(fields or {"session": {"a": 1}})}
            if kind is Kind.STRICT:
                given["if_match"] = if_match
            update = StateUpdate.from_fields(limits or Limits(), given)
        policy = RetryPolicy(ambiguous=ambiguous)
        self.item: WorkItem = item(
            kind, update=update, policy=policy, decide=decide, live=live, serial=1
        )
        self.item.accepted_at = 10.0
        self.now = 12.0
        self.sent: list[Request] = []
        self.following: Decision = SendNext()

    def know(self, etag: str | None) -> Play:
        """An earlier write of the same client told this version."""
        other = Play(protocol=self.protocol)
        assert other.answer(200, {}, **({"etag": etag} if etag else {})) == "applied"
        return self

    def send(self) -> Request:
        """The next request goes out, as the dispatcher sends it."""
        request = self.protocol.request(self.item)
        if self.item.sent_at is None:
            self.item.sent_at = self.now
        self.item.attempts += 1
        # The one object may be sent again with other headers.
        self.sent.append(
            Request(request.method, request.url, dict(request.headers), request.content)
        )
        return request

    def answer(self, status: int, body: object = None, /, **headers: str) -> str:
        """The next request is sent and answered."""
        return self.hear(self.send(), status, body, **headers)

    def hear(self, request: Request, status: int, body: object = None, /, **headers: str) -> str:
        """A request that was sent is answered."""
        answer = response(status, body, **headers)
        response_kind = self.protocol.api.classify(answer)
        self.now += 1.0
        return self.word(
            self.protocol.answered(self.item, response_kind, request, answer, self.now, 1.7e9)
        )

    def state(self, etag: str | None, body: object = None) -> str:
        """The next request is a read, and is answered with a state."""
        found = self.answer(200, body or {"session": {"n": 1}, "version": 8}, **named(etag))
        assert self.sent[-1].method == "GET"
        return found

    def lose(self, *, timed_out: bool = False) -> str:
        """The next request is sent and never answered."""
        self.send()
        return self.never_answered(timed_out=timed_out)

    def never_answered(self, *, timed_out: bool = False) -> str:
        """A request that was sent is not answered."""
        lost = NoResponseError("The connection was closed", timed_out=timed_out)
        return self.word(self.protocol.unanswered(self.item, lost))

    def not_sent(self) -> str:
        """The next request does not reach the server."""
        self.send()
        return self.word(self.protocol.unanswered(self.item, NotSentError("No connection")))

    def word(self, following: Decision) -> str:
        """What follows, in a word."""
        self.following = following
        action = self.item.action.value
        if isinstance(following, RetryLater):
            return action
        if isinstance(following, SendNext):
            return f"again {action}"
        if isinstance(following.error, AmbiguousUpdateError):
            return "ambiguous"
        if following.error is not None:
            return type(following.error).__name__
        return "applied" if following.result is not None else "done"

    @property
    def done(self) -> Settled:
        """The end."""
        assert isinstance(self.following, Settled)
        return self.following

    @property
    def error(self) -> Any:
        """What it ended with."""
        assert self.done.error is not None
        return self.done.error

    def give_up(self) -> Any:
        """The error that it settles with when the policy allows no more."""
        assert self.item.retry_state is not None
        assert self.item.retry_state.last_error is not None
        return self.protocol.final(self.item, self.item.retry_state.last_error)

    @property
    def preconditions(self) -> list[str | None]:
        """The `If-Match` of each write."""
        return [one.headers.get("if-match") for one in self.sent if one.method == "PATCH"]


def named(etag: str | None) -> dict[str, str]:
    """The header, where there is one."""
    return {"etag": etag} if etag is not None else {}
