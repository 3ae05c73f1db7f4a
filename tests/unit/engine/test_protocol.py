"""What follows each answer: conflicts, lost answers, `modify`, and updates of several parts."""

from __future__ import annotations

from typing import Any

import pytest

from cognigy_async import (
    AuthenticationError,
    DialogState,
    Limits,
    NoResponseError,
    NotSentError,
    ResponseKind,
    RuntimeApi,
    ServerError,
    StateConflictError,
    UnexpectedAnswerError,
    UpdateError,
)
from cognigy_async.engine.protocol import RetryLater, UpdateProtocol
from cognigy_async.engine.token_failures import copy_for_one_update
from cognigy_async.engine.work_item import Kind
from tests.unit._builders import item

from ._protocol import BASE, Play

STEP: dict[str, Any] = {"session": {"a": 1}, "next_step": "s"}


def assign(state: DialogState) -> dict[str, Any]:
    return {"session": {"n": state.session["n"] + 1}}


def move(state: DialogState) -> dict[str, Any]:
    return {"session": {"n": state.session["n"] + 1}, "next_step": "s"}


def play(kind: str, **settings: Any) -> Play:
    """An update of this kind whose next request is its write."""
    if kind == "variables":
        return Play(**settings)
    if kind == "transition":
        return Play(**settings, **STEP)
    if kind == "transition of a known version":
        return Play(**settings, **STEP).know('"6"')
    if kind == "strict":
        return Play(Kind.STRICT, **settings)
    if kind == "strict transition":
        return Play(Kind.STRICT, **settings, **STEP)
    made = Play(Kind.MODIFY, decide=move if "transition" in kind else assign, **settings)
    assert made.state('"7"') == "again write"
    return made


KINDS = (
    *("variables", "transition", "transition of a known version"),
    *("strict", "strict transition", "modify", "modify with transition"),
)


def fail(made: Play, failure: str | int) -> str:
    if failure == "not sent":
        return made.not_sent()
    if failure in ("closed", "timed out"):
        return made.lose(timed_out=failure == "timed out")
    assert isinstance(failure, int)
    return made.answer(failure)


RETRY, AMBIGUOUS = "write", "ambiguous"

# Each kind of write: after a closed connection, a time-out, and a 500, 502 or 504.
DOUBT: list[tuple[dict[str, Any], dict[str, tuple[str, str, str]]]] = [
    (
        {},
        {
            "variables": (RETRY, RETRY, RETRY),
            "transition": (AMBIGUOUS, AMBIGUOUS, AMBIGUOUS),
            "transition of a known version": (RETRY, RETRY, RETRY),
            "strict": (RETRY, RETRY, RETRY),
            "strict transition": (RETRY, RETRY, RETRY),
            "modify": (RETRY, RETRY, RETRY),
            "modify with transition": (RETRY, RETRY, RETRY),
        },
    ),
    (
        {"ambiguous": "raise"},
        {
            kind: (AMBIGUOUS, AMBIGUOUS, AMBIGUOUS if "transition" in kind else RETRY)
            for kind in KINDS
        },
    ),
    ({"honours": True}, dict.fromkeys(KINDS, (RETRY, RETRY, RETRY))),
    (
        {"honours": True, "ambiguous": "raise"},
        dict.fromkeys(KINDS, (AMBIGUOUS, AMBIGUOUS, RETRY)),
    ),
]


@pytest.mark.parametrize(("settings", "table"), DOUBT, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_what_follows_a_write_that_may_have_been_applied(
    kind: str, settings: dict[str, Any], table: dict[str, tuple[str, str, str]]
) -> None:
    closed, timed_out, gateway = table[kind]
    assert fail(play(kind, **settings), "closed") == closed
    assert fail(play(kind, **settings), "timed out") == timed_out
    for status in (408, 500, 502, 504, 599):
        assert (status, fail(play(kind, **settings), status)) == (status, gateway)


@pytest.mark.parametrize("settings", [settings for settings, _ in DOUBT], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_what_follows_a_write_that_was_certainly_not_applied(
    kind: str, settings: dict[str, Any]
) -> None:
    for failure in ("not sent", 503, 429):
        made = play(kind, **settings)
        assert (failure, fail(made, failure)) == (failure, RETRY)
        assert not made.give_up().args[0].startswith("The update was sent")
        assert made.answer(200) == "applied"
    after = {"strict": "again report", "modify": "read"}.get(kind.split(maxsplit=1)[0], "rebase")
    for status in (409, 412):
        assert fail(play(kind, **settings), status) == after
    errors = {400: "BadRequestError", 403: "PermissionDeniedError", 404: "DialogNotFoundError"}
    errors |= {413: "PayloadTooLargeError", 302: "UnexpectedAnswerError"}
    for status, error in errors.items():
        assert fail(play(kind, **settings), status) == error


def test_a_repeat_is_the_same_request_with_the_same_key() -> None:
    made = Play()
    for failure in ("closed", 500, "not sent", 503, "timed out", 429, 502):
        assert fail(made, failure) == "write"
    assert made.answer(200) == "applied"
    assert {one.content for one in made.sent} == {b'{"session":{"a":1}}'}
    assert {one.headers["idempotency-key"] for one in made.sent} == {"u-1"}
    assert set(made.preconditions) == {None}


@pytest.mark.parametrize(
    ("failure", "response_kind"),
    [
        ("not sent", ResponseKind.NOT_SENT),
        ("closed", ResponseKind.NO_RESPONSE),
        (409, ResponseKind.CONFLICT),
        (412, ResponseKind.CONFLICT),
        (429, ResponseKind.THROTTLED),
        (500, ResponseKind.FAULT),
        (502, ResponseKind.GATEWAY),
        (503, ResponseKind.UNAVAILABLE),
    ],
)
def test_the_policy_is_told_what_happened(failure: str | int, response_kind: ResponseKind) -> None:
    made = Play()
    fail(made, failure)
    assert isinstance(made.following, RetryLater)
    assert made.following.response_kind is response_kind


def test_whether_a_429_is_the_dialogs_own() -> None:
    for scope, dialog_only in (("dialog", True), ("tenant", False)):
        made = Play()
        assert made.answer(429, x_ratelimit_scope=scope, retry_after="3") == "write"
        assert isinstance(made.following, RetryLater)
        assert made.following.dialog_only is dialog_only
        assert made.following.error.retry_after == 3.0
    assert made.answer(503, x_ratelimit_scope="dialog") == "write"
    assert isinstance(made.following, RetryLater)
    assert not made.following.dialog_only


# Results.


def test_a_result_tells_what_there_is_to_know() -> None:
    made = Play()
    made.answer(503)
    assert made.answer(204, {"version": 9}, etag='"9"') == "applied"
    result = made.done.result
    assert result is not None
    assert (result.dialog_id, result.update_id, result.status) == ("d-1", "u-1", 204)
    assert (result.etag, result.version, result.attempts) == ('"9"', 9, 2)
    assert (result.queued, result.latency) == (2.0, 2.0)


@pytest.mark.parametrize("body", [None, b"<html>", b"[1"])
def test_a_success_that_does_not_parse_is_applied_all_the_same(body: bytes | None) -> None:
    made = Play(**STEP)
    assert made.answer(200, body) == "applied"
    assert made.done.result is not None
    assert (made.done.result.body, made.done.result.etag) == (None, None)


def test_an_error_tells_what_there_is_to_know() -> None:
    made = Play()
    made.answer(503)
    assert made.answer(400, {"detail": "no", "traceId": "t-1"}) == "BadRequestError"
    error = made.error
    assert (error.dialog_id, error.update_id, error.attempts) == ("d-1", "u-1", 2)
    assert (error.status, error.trace_id, error.detail) == (400, "t-1", "no")
    assert error.applied_parts == 0


# Conflicts.


@pytest.mark.parametrize("fields", [{"session": {"a": 1}}, STEP])
def test_a_blind_write_reads_the_version_and_applies_again(fields: dict[str, Any]) -> None:
    made = Play(**fields)
    for etag in ('"8"', '"9"'):
        assert made.answer(409, etag='"not of the state"') == "rebase"
        assert made.state(etag) == "again write"
    assert made.answer(200, etag='"10"') == "applied"
    assert made.preconditions == [None, '"8"', '"9"']
    assert {one.headers["idempotency-key"] for one in made.sent if one.content} == {"u-1"}


def test_without_a_version_to_read_it_is_applied_blindly_again() -> None:
    made = Play()
    assert made.answer(409) == "rebase"
    assert made.state(None) == "again write"
    assert made.answer(200) == "applied"
    assert made.preconditions == [None, None]


def test_when_the_version_cannot_be_read_the_conflict_may_be_read_later() -> None:
    made = Play()
    made.answer(409)
    assert made.answer(503) == "rebase"
    assert isinstance(made.give_up(), ServerError)
    assert made.lose(timed_out=True) == "rebase"
    # A read changes nothing, so that losing its answer leaves no doubt.
    assert isinstance(made.give_up(), NoResponseError)
    assert made.answer(200, b"<html>") == "rebase"
    assert isinstance(made.give_up(), UnexpectedAnswerError)
    assert made.answer(404) == "DialogNotFoundError"


def test_a_strict_write_ends_with_the_conflict_and_its_version() -> None:
    made = Play(Kind.STRICT)
    assert made.answer(412, {"version": 9}, etag='"9"') == "StateConflictError"
    assert (made.error.current_etag, made.error.current_version) == ('"9"', 9)
    assert made.preconditions == ['"7"']


def test_where_the_answer_does_not_tell_the_version_it_is_read() -> None:
    made = Play(Kind.STRICT)
    assert made.answer(412) == "again report"
    assert made.state('"9"', {"version": 9}) == "StateConflictError"
    assert (made.error.current_etag, made.error.current_version) == ('"9"', 9)
    assert (made.error.status, made.error.attempts) == (412, 2)


def test_a_strict_write_is_a_conflict_although_the_version_cannot_be_read() -> None:
    for status in (404, 403):
        made = Play(Kind.STRICT)
        made.answer(412)
        assert made.answer(status) == "StateConflictError"
        assert made.error.status == 412
    made = Play(Kind.STRICT)
    made.answer(412)
    assert made.answer(503) == "report"
    assert made.lose() == "report"
    made.protocol.unauthorized(made.item, AuthenticationError("refused"))
    error = made.give_up()
    assert isinstance(error, StateConflictError)
    assert error.current_etag is None


# Lost answers.


@pytest.mark.parametrize(
    "kind", [kind for kind in KINDS if kind not in ("variables", "transition")]
)
def test_a_write_on_a_version_is_repeated_on_that_version(kind: str) -> None:
    """The first request may be carried out after its repeat; it finds another version then."""
    made = play(kind)
    for failure in ("closed", "timed out", 500, 502, 504, 408, 503, "not sent", 429):
        assert fail(made, failure) == "write"
    assert made.answer(200, etag='"8"') == "applied"
    assert len(set(made.preconditions)) == 1
    assert made.preconditions[0] in ('"6"', '"7"')
    assert len({one.headers["idempotency-key"] for one in made.sent if one.content}) == 1


@pytest.mark.parametrize("kind", ["transition of a known version", "strict", "modify"])
@pytest.mark.parametrize("lost", ["closed", "timed out", 408, 500, 502, 504])
@pytest.mark.parametrize("status", [409, 412])
def test_a_mismatch_after_a_lost_answer_is_ambiguous(
    kind: str, lost: str | int, status: int
) -> None:
    made = play(kind)
    assert fail(made, lost) == "write"
    assert made.answer(status, etag='"9"') == "ambiguous"
    assert isinstance(made.error.__cause__, StateConflictError)
    assert made.error.status == status
    assert f"; the repeat was refused with {status} (" in str(made.error)


@pytest.mark.parametrize("kind", ["transition of a known version", "strict", "modify"])
@pytest.mark.parametrize("lost", ["closed", "timed out", 408, 500, 502, 504])
def test_a_write_on_a_version_is_in_doubt_until_it_is_answered(kind: str, lost: str | int) -> None:
    made = play(kind)
    fail(made, lost)
    for failure in (503, 429, "not sent"):
        fail(made, failure)
        assert type(made.give_up()).__name__ == "AmbiguousUpdateError"
    assert type(made.protocol.expired(made.item)).__name__ == "AmbiguousUpdateError"


def test_a_transition_is_rebased_while_no_answer_was_lost() -> None:
    made = play("transition of a known version")
    assert made.answer(412) == "rebase"
    assert made.state('"9"') == "again write"
    assert made.lose() == "write"
    assert made.answer(200) == "applied"
    assert made.preconditions == ['"6"', '"9"', '"9"']


@pytest.mark.parametrize("etag", [None, 'W/"6"', "6", '"', ""])
def test_only_a_strong_etag_is_attached_to_a_transition(etag: str | None) -> None:
    made = Play(**STEP).know(etag)
    assert made.answer(409) == "rebase"
    assert made.state(etag or None) == "again write"
    assert made.lose() == "ambiguous"
    assert made.preconditions == [None, None]


@pytest.mark.parametrize("kind", [Kind.STRICT, Kind.MODIFY])
def test_a_write_on_a_weak_version_is_never_repeated(kind: Kind) -> None:
    for failure in ("closed", "timed out", 408, 500, 502, 504):
        made = Play(kind, decide=assign, if_match='W/"7"')
        if kind is Kind.MODIFY:
            assert made.state('W/"7"') == "again write"
        assert fail(made, failure) == "ambiguous"
        assert made.preconditions == ['W/"7"']


@pytest.mark.parametrize("settings", [{"conditional": False}, {"honours": True}], ids=str)
def test_nothing_is_attached_where_the_api_has_no_use_for_it(settings: dict[str, Any]) -> None:
    made = Play(**settings, **STEP).know('"6"')
    after = made.lose()
    assert after == ("write" if "honours" in settings else "ambiguous")
    assert made.preconditions == [None]


def test_a_conflict_without_conditions_is_repeated_without_one() -> None:
    made = Play(conditional=False, **STEP).know('"6"')
    for _ in range(4):
        assert made.answer(409) == "write"
    assert made.answer(409) == "StateConflictError"
    assert set(made.preconditions) == {None}


def test_a_version_is_known_from_earlier_answers_and_reads() -> None:
    reader = Play(Kind.READ)
    assert reader.state('"5"') == "done"
    made = Play(protocol=reader.protocol, **STEP)
    assert made.answer(200) == "applied"
    assert made.preconditions == ['"5"']


def test_a_version_read_after_a_conflict_is_known_later() -> None:
    made = Play()
    made.answer(409)
    made.state('"8"')
    assert made.answer(400) == "BadRequestError"
    later = Play(protocol=made.protocol, **STEP)
    later.answer(200)
    assert later.preconditions == ['"8"']


def test_a_version_that_is_known_no_longer_is_not_attached() -> None:
    made = play("transition of a known version").know(None)
    assert made.lose() == "ambiguous"
    assert made.preconditions == [None]


def test_the_versions_of_few_dialogs_are_remembered() -> None:
    reader = Play(Kind.READ)
    for number in range(30_000):
        reader.item = item(Kind.READ, f"d-{number}")
        assert reader.state(f'"{number}"') == "done"
    remembered = [part for part in vars(reader.protocol).values() if isinstance(part, dict)]
    assert sum(map(len, remembered)) <= 10_000
    for number in range(26_000, 30_000):
        made = Play(protocol=reader.protocol, **STEP)
        made.item.dialog_id = f"d-{number}"
        made.send()
        assert made.preconditions == [f'"{number}"']


# A server that never accepts its own etag.


@pytest.mark.parametrize(
    ("etag", "status", "writes"),
    [('W/"7"', 412, 2), ('W/"7"', 409, 2), ('"7-gzip"', 412, 2), ('"7"', 409, 5)],
)
def test_modify_ends_when_the_same_etag_is_refused_again(
    etag: str, status: int, writes: int
) -> None:
    made = Play(Kind.MODIFY, decide=assign)
    for _ in range(writes - 1):
        assert made.state(etag) == "again write"
        assert made.answer(status) == "read"
    assert made.state(etag) == "again write"
    assert made.answer(status) == "StateConflictError"
    assert ("does not accept the etag" in str(made.error)) is (writes == 2)
    assert ("weak" in str(made.error)) is etag.startswith("W/")
    assert made.preconditions == [etag] * writes


def test_modify_goes_on_while_the_etag_changes() -> None:
    made = Play(Kind.MODIFY, decide=assign)
    for number in range(20):
        assert made.state(f'"{number}"') == "again write"
        assert made.answer(412) == "read"


@pytest.mark.parametrize("told", [True, False])
def test_a_strict_write_says_that_its_own_etag_was_refused(told: bool) -> None:
    for etag, named_in in (('W/"7"', "weak"), ('"7"', "proxies")):
        made = Play(Kind.STRICT, if_match=etag)
        headers = {"etag": etag} if told else {}
        after = made.answer(412, **headers)
        if not told:
            assert after == "again report"
            after = made.state(etag)
        assert after == "StateConflictError"
        assert "does not accept the etag that it sends itself" in str(made.error)
        assert named_in in str(made.error)
    busy = Play(Kind.STRICT)
    assert busy.answer(409, etag='"7"') == "StateConflictError"
    assert "another version" in str(busy.error)


@pytest.mark.parametrize("fields", [{"session": {"a": 1}}, STEP], ids=str)
def test_an_update_drops_a_condition_that_the_server_never_accepts(fields: dict[str, Any]) -> None:
    made = Play(**fields)
    assert made.answer(409) == "rebase"
    for _ in range(2):
        assert made.state('"7-gzip"') == "again write"
        assert made.answer(412) == "rebase"
    assert made.state('"7-gzip"') == "again write"
    assert made.answer(200, etag='"8-gzip"') == "applied"
    assert made.preconditions == [None, '"7-gzip"', '"7-gzip"', None]
    # Later transitions do without it from the start.
    later = Play(protocol=made.protocol, **STEP)
    assert later.answer(200) == "applied"
    assert later.preconditions == [None]


# Doubt stays.


def test_after_a_lost_answer_only_success_is_certain() -> None:
    made = Play()
    made.lose()
    made.answer(503, retry_after="7")
    error = made.give_up()
    assert type(error).__name__ == "AmbiguousUpdateError"
    assert "could not be repeated" in str(error)
    assert (error.status, error.retry_after, error.attempts) == (503, 7.0, 2)
    assert isinstance(error.__cause__, ServerError)
    assert made.answer(200) == "applied"


@pytest.mark.parametrize("status", [400, 403, 404, 413])
def test_a_refusal_after_a_lost_answer_is_ambiguous(status: int) -> None:
    made = Play()
    made.lose(timed_out=True)
    assert made.answer(status, {"traceId": "t-1", "detail": "no"}) == "ambiguous"
    assert isinstance(made.error.__cause__, UpdateError)
    assert (made.error.status, made.error.trace_id, made.error.detail) == (status, "t-1", "no")


def test_refused_credentials_are_what_it_ends_with_where_nothing_else_is_known() -> None:
    made = Play()
    made.send()
    made.protocol.unauthorized(made.item, AuthenticationError("refused"))
    assert isinstance(made.give_up(), AuthenticationError)
    made.answer(503)
    made.protocol.unauthorized(made.item, AuthenticationError("refused"))
    assert isinstance(made.give_up(), AuthenticationError)
    made.lose()
    made.protocol.unauthorized(made.item, AuthenticationError("refused"))
    error = made.give_up()
    assert type(error).__name__ == "AmbiguousUpdateError"
    assert isinstance(error.__cause__, AuthenticationError)


def test_a_failure_that_many_share_is_told_to_each_with_his_own_facts() -> None:
    failure = AuthenticationError(
        "No token", transient=True, status=503, detail="busy", retry_after=2.0
    )
    own = copy_for_one_update(failure)
    told = Play().protocol.final(item(dialog_id="d-2"), own)
    assert own is told
    assert isinstance(told, AuthenticationError)
    assert (told.dialog_id, failure.dialog_id) == ("d-2", None)
    assert (told.message, told.transient, told.status) == ("No token", True, 503)
    assert (told.detail, told.retry_after, told.__cause__) == ("busy", 2.0, failure)


def test_a_conflict_after_a_lost_answer_of_variables_is_solved_as_ever() -> None:
    made = Play()
    made.lose()
    assert made.answer(409) == "rebase"
    made.state('"8"')
    assert made.answer(200) == "applied"


@pytest.mark.parametrize("kind", ["strict", "modify"])
@pytest.mark.parametrize("status", [500, 502, 504])
def test_a_mismatch_after_a_fault_may_be_our_own_write(kind: str, status: int) -> None:
    made = play(kind)
    assert made.answer(status) == "write"
    assert str(status) in str(made.give_up())
    assert made.answer(412, etag='"8"') == "ambiguous"
    again = play(kind)
    again.answer(status)
    assert again.answer(200) == "applied"


@pytest.mark.parametrize(("kind", "after"), [("strict", "StateConflictError"), ("modify", "read")])
def test_a_mismatch_after_a_refusal_is_somebody_elses(kind: str, after: str) -> None:
    for failure in ("not sent", 503, 429):
        made = play(kind)
        assert fail(made, failure) == "write"
        assert made.answer(412, etag='"8"') == after


@pytest.mark.parametrize("kind", ["strict", "modify"])
def test_where_keys_are_honoured_a_mismatch_may_still_be_our_own(kind: str) -> None:
    """A server may look at the precondition before the key."""
    made = play(kind, honours=True)
    assert made.answer(502) == "write"
    assert made.answer(412, etag='"8"') == "ambiguous"


def test_what_never_reached_the_server_is_in_no_doubt() -> None:
    made = Play(**STEP)
    made.not_sent()
    made.not_sent()
    assert isinstance(made.give_up(), NotSentError)
    assert made.answer(400) == "BadRequestError"


@pytest.mark.parametrize(("delay", "expected"), [(0.0, None), (2.5, 2.5)])
@pytest.mark.parametrize("kind", ["variables", "transition", "modify"])
def test_a_conflict_is_read_when_a_read_can_show_it(
    kind: str, delay: float, expected: float | None
) -> None:
    made = play(kind, protocol=UpdateProtocol(RuntimeApi(read_delay=delay), BASE, Limits()))
    assert made.answer(409) in ("rebase", "read")
    assert isinstance(made.following, RetryLater)
    assert made.following.reset_after == expected
