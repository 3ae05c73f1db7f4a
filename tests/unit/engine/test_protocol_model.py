"""However a server and the way to it fail: nothing is applied twice that must not be, and what an
update ends with is what happened.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cognigy_async import DialogState, Request
from cognigy_async.engine.work_item import Kind

from ._protocol import Play

STEP: dict[str, Any] = {"session": {"a": 1}, "next_step": "s"}


def count(state: DialogState) -> dict[str, Any]:
    return {"session": {"n": state.session["n"] + 1}}


def count_and_move(state: DialogState) -> dict[str, Any]:
    return {**count(state), "next_step": "s"}


class Server:
    """One dialog on a server that tells versions and honours `If-Match`, but no keys."""

    def __init__(self) -> None:
        self.version = 1
        self.session: dict[str, Any] = {"n": 0}
        self.applied: list[str] = []
        """What became of the answers to the requests that were carried out."""
        self.competitor = 0

    @property
    def etag(self) -> str:
        return f'"{self.version}"'

    def compete(self) -> None:
        """Somebody else counts as well."""
        self.session["n"] += 1
        self.competitor += 1
        self.version += 1

    def handle(self, request: Request, fault: str) -> int:
        if request.method == "GET":
            return 200
        if request.headers.get("if-match", self.etag) != self.etag:
            return 412
        self.session.update(json.loads(request.content).get("session", {}))
        self.applied.append(fault)
        self.version += 1
        return 200


FAULTS = (
    # The first are the more frequent ones.
    *["fine"] * 6,
    *["closed after"] * 4,
    *("closed before", "timed out before", "timed out after", "conflict", "not sent", "503", "429"),
    *("500 before", "500 after", "502 before", "502 after"),
)
events = st.tuples(
    st.sampled_from(FAULTS),
    # Somebody else writes before the request arrives, or after it was carried out.
    st.sampled_from(["", "", "", "before", "after"]),
    # Somebody reads through the same client while the request is under way.
    st.booleans(),
)


def exchange(made: Play, server: Server, event: tuple[str, str, bool]) -> str:
    """One request, on its way through this event."""
    fault, competitor, read = event
    if fault == "not sent":
        return made.not_sent()
    request = made.send()
    if competitor == "before" or fault == "conflict":
        server.compete()
    arrives = fault in ("fine", "conflict") or fault.endswith("after")
    status = server.handle(made.sent[-1], fault) if arrives and fault != "conflict" else 0
    body = {"session": dict(server.session), "version": server.version}
    etag = server.etag
    if competitor == "after":
        server.compete()
    if read:
        assert Play(Kind.READ, protocol=made.protocol).state(server.etag) == "done"
    if fault.startswith(("closed", "timed")):
        return made.never_answered(timed_out=fault.startswith("timed"))
    if fault == "conflict":
        return made.hear(request, 409)
    if fault != "fine":
        return made.hear(request, int(fault[:3]))
    return made.hear(request, status, body, etag=etag)


def start(kind: str) -> Play:
    if kind.startswith("modify"):
        return Play(Kind.MODIFY, decide=count_and_move if "transition" in kind else count)
    if kind.startswith("strict"):
        made = Play(Kind.STRICT, **(STEP if "transition" in kind else {}))
        made.item.etag = '"1"'
        return made
    return Play(**(STEP if "transition" in kind else {})).know('"1"')


ENDS = {"applied", "ambiguous", "done"}


@pytest.mark.quick("variables", "strict transition", "modify with transition")
@pytest.mark.parametrize(
    "kind",
    [
        *("variables", "transition", "strict", "strict transition"),
        *("modify", "modify with transition"),
    ],
)
@settings(deadline=None, max_examples=300)
@given(protocol=st.lists(events, max_size=12))
def test_an_update_ends_with_what_happened(
    kind: str, protocol: list[tuple[str, str, bool]]
) -> None:
    server, made = Server(), start(kind)
    word = ""
    for event in protocol:
        word = exchange(made, server, event)
        if word in ENDS or word.endswith("Error"):
            break
    else:
        # The policy allows no more.
        error = (
            made.give_up() if made.item.retry_state and made.item.retry_state.last_error else None
        )
        word = type(error).__name__ if error is not None else "nothing was sent"
        word = "ambiguous" if word == "AmbiguousUpdateError" else word
    times = len(server.applied)
    if kind != "variables":
        assert times <= 1
    if kind.startswith("modify"):
        # No count of anybody is lost.
        assert server.session["n"] == times + server.competitor
    if word == "applied":
        assert times >= 1
    elif word != "ambiguous" and "transition" in kind:
        assert times == 0
    elif word != "ambiguous":
        # Of variables a 500 counts as refused, whatever the server did before it.
        assert all(answer in ("500 after", "502 after") for answer in server.applied)
