"""What follows each answer to `modify`, to reads, and to updates of several parts."""

from __future__ import annotations

from contextvars import ContextVar
from types import MappingProxyType
from typing import Any

import pytest

from cognigy_async import (
    DialogState,
    Limits,
    NoResponseError,
    UnexpectedAnswerError,
    UpdateValidationError,
)
from cognigy_async.engine.protocol import RetryLater
from cognigy_async.engine.work_item import Kind
from cognigy_async.retry import OUTAGE_KINDS

from ._protocol import Play

current: ContextVar[str] = ContextVar("current", default="outside")


def assign(state: DialogState) -> dict[str, Any]:
    return {"session": {"n": state.session["n"] + 1}}


# Modify.


def test_modify_reads_decides_and_writes_under_the_version_it_read() -> None:
    seen: list[DialogState] = []

    def decide(state: DialogState) -> dict[str, Any]:
        seen.append(state)
        return {"session": {"n": 2}, "user": {"u": 1}, "next_step": "s"}

    made = Play(Kind.MODIFY, decide=decide)
    assert made.state('"7"', {"session": {"n": 1}, "user": {"u": 0}, "version": 7}) == "again write"
    assert made.answer(200, etag='"8"') == "applied"
    (state,) = seen
    assert (state.dialog_id, state.session, state.user) == ("d-1", {"n": 1}, {"u": 0})
    assert (state.etag, state.version) == ('"7"', 7)
    assert made.preconditions == ['"7"']
    body = b'{"session":{"n":2},"user":{"u":1},"transition":{"nextStep":"s"}}'
    assert made.sent[1].content == body
    assert made.sent[1].headers["idempotency-key"] == "u-1"
    assert made.item.update is not None
    assert made.item.update.payload()["user"] == {"u": 1}


def test_on_a_mismatch_modify_starts_over_as_another_write() -> None:
    made = Play(Kind.MODIFY, decide=assign)
    for number in (1, 5, 9):
        made.state(f'"{number}"', {"session": {"n": number}})
        assert made.answer(412) == "read"
    made.state('"11"', {"session": {"n": 11}})
    assert made.answer(200) == "applied"
    writes = [one for one in made.sent if one.method == "PATCH"]
    assert [one.content for one in writes] == [
        b'{"session":{"n":%d}}' % number for number in (2, 6, 10, 12)
    ]
    assert made.preconditions == ['"1"', '"5"', '"9"', '"11"']
    # A server that honours keys must not take the new assignment for the old one.
    keys = [one.headers["idempotency-key"] for one in writes]
    assert keys == ["u-1", "u-1/r1", "u-1/r2", "u-1/r3"]


def test_a_repeat_of_the_same_assignment_has_the_same_key() -> None:
    made = Play(Kind.MODIFY, decide=assign)
    made.state('"1"')
    assert made.answer(503) == "write"
    assert made.answer(200) == "applied"
    assert [one.headers.get("idempotency-key") for one in made.sent] == [None, "u-1", "u-1"]


def test_modify_may_write_nothing() -> None:
    made = Play(Kind.MODIFY, decide=lambda state: None)
    assert made.state('"7"') == "done"
    assert (made.done.result, made.done.state, made.done.error) == (None, None, None)
    assert len(made.sent) == 1


def test_what_the_function_raises_is_what_modify_ends_with() -> None:
    failure = LookupError("mine")

    def decide(state: DialogState) -> dict[str, Any]:
        raise failure

    made = Play(Kind.MODIFY, decide=decide)
    assert made.state('"7"') == "LookupError"
    assert made.error is failure


def test_the_function_runs_in_the_context_of_the_caller() -> None:
    seen: list[str] = []

    def decide(state: DialogState) -> None:
        seen.append(current.get())

    current.set("caller")
    made = Play(Kind.MODIFY, decide=decide)
    current.set("worker")
    made.state('"7"')
    assert seen == ["caller"]


@pytest.mark.parametrize(
    ("assignment", "path"),
    [
        ([], "modify"),
        ("session", "modify"),
        (7, "modify"),
        ({"if_match": "7"}, "modify"),
        ({"dialog_id": "d-2", "session": {"a": 1}}, "modify"),
        ({"update_id": "u"}, "modify"),
        ({1: 2}, "modify"),
        ({}, "update"),
        ({"session": {"a": None}}, "session.a"),
        ({"session": {"a": "x" * 600_000}}, "update"),
    ],
)
def test_what_is_no_assignment_is_refused_before_it_is_sent(assignment: Any, path: str) -> None:
    made = Play(Kind.MODIFY, decide=lambda state: assignment)
    made.state('"7"')
    assert isinstance(made.error, UpdateValidationError)
    assert made.error.path == path
    assert "'d-1'" in str(made.error)
    assert len(made.sent) == 1


def test_an_assignment_is_any_mapping() -> None:
    made = Play(Kind.MODIFY, decide=lambda state: MappingProxyType({"session": {"a": 1}}))
    assert made.state('"7"') == "again write"


def test_without_a_version_modify_would_not_be_safe() -> None:
    made = Play(Kind.MODIFY, decide=assign)
    assert made.state(None) == "UnexpectedAnswerError"
    assert "version" in str(made.error)


def test_a_modify_that_nobody_waits_for_writes_nothing() -> None:
    made = Play(Kind.MODIFY, decide=assign)
    made.item.abandoned = True
    assert made.state('"7"') == "UpdateWithdrawnError"


def test_a_modify_that_failed_before_nobody_waited_ends_with_that() -> None:
    made = Play(Kind.MODIFY, decide=assign)
    assert made.answer(503) == "read"
    made.item.abandoned = True
    assert made.state('"7"') == "ServerError"


def test_a_read_of_modify_that_fails_is_read_again() -> None:
    made = Play(Kind.MODIFY, decide=assign)
    for _ in range(2):
        assert made.answer(500) == "read"
        assert made.lose() == "read"
        assert made.not_sent() == "read"
        assert made.answer(409) == "read"
    made.state('"7"')
    assert made.answer(200) == "applied"
    missing = Play(Kind.MODIFY, decide=assign)
    assert missing.answer(404) == "DialogNotFoundError"


# Reads.


def test_a_read_ends_with_the_state() -> None:
    made = Play(Kind.READ)
    assert made.answer(503) == "read"
    assert made.lose() == "read"
    assert made.state('"8"', {"session": {"n": 1}, "version": 8}) == "done"
    state = made.done.state
    assert state is not None
    assert (state.dialog_id, state.session, state.etag, state.version) == (
        "d-1",
        {"n": 1},
        '"8"',
        8,
    )


def test_a_read_that_fails_is_never_ambiguous_and_names_no_update() -> None:
    made = Play(Kind.READ)
    assert made.lose() == "read"
    error = made.give_up()
    assert isinstance(error, NoResponseError)
    assert (error.dialog_id, error.update_id, error.attempts) == ("d-1", None, 1)
    assert "may have been applied" not in str(error)
    assert made.answer(200, b"<html>") == "read"
    assert isinstance(made.give_up(), UnexpectedAnswerError)
    # A server that is there and talks nonsense is no outage, which bulk work would wait out.
    assert isinstance(made.following, RetryLater)
    assert made.following.response_kind not in OUTAGE_KINDS
    assert made.answer(404) == "DialogNotFoundError"


# Updates of several parts.


SMALL = Limits(safe_payload_bytes=100)
WIDE: dict[str, Any] = {"session": {"a": "x" * 40, "b": "y" * 40, "c": "z" * 20}, "next_step": "s"}


def in_parts(**settings: Any) -> Play:
    return Play(limits=SMALL, **settings, **WIDE)


def test_the_parts_go_one_after_another_and_the_result_is_that_of_the_last() -> None:
    made = in_parts()
    assert made.answer(200, {"version": 1}, etag='"1"') == "again write"
    assert made.answer(204, {"version": 2}, etag='"2"') == "again write"
    assert made.answer(200, {"version": 3}, etag='"3"') == "applied"
    assert [one.headers["idempotency-key"] for one in made.sent] == ["u-1/0", "u-1/1", "u-1/2"]
    assert [b"nextStep" in one.content for one in made.sent] == [False, False, True]
    result = made.done.result
    assert result is not None
    assert (result.etag, result.version, result.attempts) == ('"3"', 3, 3)


def test_a_failure_midway_tells_how_much_was_applied() -> None:
    for applied in range(3):
        made = in_parts()
        for _ in range(applied):
            made.answer(200)
        assert made.answer(400) == "BadRequestError"
        assert made.error.applied_parts == applied


def test_only_the_part_with_the_transition_is_not_harmless() -> None:
    made = in_parts()
    for _ in range(2):
        assert made.answer(502) == "write"
        assert made.lose(timed_out=True) == "write"
        assert made.answer(200) == "again write"
    assert made.answer(502) == "ambiguous"
    assert made.error.applied_parts == 2


def test_the_last_part_depends_on_the_version_of_the_one_before() -> None:
    made = in_parts()
    made.answer(200, etag='"1"')
    made.answer(200, etag='"2"')
    assert made.lose() == "write"
    assert made.answer(200) == "applied"
    assert made.preconditions == [None, None, '"2"', '"2"']


def test_a_conflict_of_one_part_is_solved_for_that_part() -> None:
    made = in_parts()
    made.answer(200)
    assert made.answer(409) == "rebase"
    assert made.state('"5"') == "again write"
    assert made.answer(200) == "again write"
    assert made.answer(200) == "applied"
    assert made.preconditions == [None, None, '"5"', None]
    assert made.sent[1].content == made.sent[3].content


def test_a_part_that_was_applied_after_all_leaves_no_doubt_about_the_next() -> None:
    made = in_parts()
    assert made.lose() == "write"
    made.answer(200)
    assert made.answer(400) == "BadRequestError"
    assert made.error.applied_parts == 1


def test_a_part_in_doubt_makes_the_update_ambiguous() -> None:
    made = in_parts()
    made.answer(200)
    assert made.lose() == "write"
    assert made.answer(400) == "ambiguous"
    assert made.error.applied_parts == 1


def test_in_parts_with_keys_that_are_honoured_everything_is_repeated() -> None:
    made = in_parts(honours=True)
    made.answer(200)
    made.answer(200)
    assert made.answer(504) == "write"
    assert made.lose(timed_out=True) == "write"
    assert made.answer(200) == "applied"
    assert made.sent[-1].headers["idempotency-key"] == "u-1/2"
