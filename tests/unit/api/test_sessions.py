"""Requests, rejected input and responses of the sessions API."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import unquote

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cognigy_async import (
    AuthenticationError,
    BadRequestError,
    ConfigurationError,
    DialogNotFoundError,
    Limits,
    PayloadTooLargeError,
    PermissionDeniedError,
    RateLimitedError,
    Request,
    ResponseKind,
    RuntimeApi,
    ServerError,
    StateConflictError,
    StateUpdate,
    UnexpectedAnswerError,
    UnsupportedByApiError,
    UpdateError,
    UpdateValidationError,
)
from cognigy_async.api.sessions import SessionsApi
from tests.unit._builders import CANARY, response, unhurried, variables

BASE = "https://api-trial.cognigy.ai"
API = SessionsApi(user_id="u-1")
PROFILE = "0123456789abcdef01234567"
NOW = 1_700_000_000.0


def made(limits: Limits | None = None, /, **fields: Any) -> StateUpdate:
    return StateUpdate.from_fields(limits or API.limits, {"dialog_id": "s", **fields})


def writes(limits: Limits | None = None, /, api: SessionsApi = API, **fields: Any) -> list[Request]:
    update = made(limits, **fields)
    api.check(update)
    return api.writes(BASE, update, "id")


def refused(api: SessionsApi = API, limits: Limits | None = None, /, **fields: Any) -> Any:
    with pytest.raises(UpdateValidationError) as caught:
        api.check(made(limits, **fields))
    return caught.value


# Requests.


def test_an_update_is_context_then_state_then_profile() -> None:
    sent = writes(session={"a": "é"}, user={"b": 1}, next_step="pay", profile_id=PROFILE)
    headers = {"accept": "application/json", "content-type": "application/json"}
    assert [(one.method, one.url, one.content.decode()) for one in sent] == [
        (
            "POST",
            f"{BASE}/new/v2.0/sessions/s/context/inject",
            '{"userId":"u-1","context":{"a":"é"}}',
        ),
        ("POST", f"{BASE}/new/v2.0/sessions/s/state/inject", '{"userId":"u-1","state":"pay"}'),
        ("PATCH", f"{BASE}/new/v2.0/profiles/{PROFILE}", '{"profile":{"b":1}}'),
    ]
    assert all(one.headers == headers for one in sent)
    # A dictionary of its own for each: they are signed one by one.
    assert len({id(one.headers) for one in sent}) == 3


@pytest.mark.parametrize(
    ("fields", "ends"),
    [
        ({"session": {"a": 1}}, ["s/context/inject"]),
        ({"next_step": "x"}, ["s/state/inject"]),
        ({"user": {"a": 1}, "profile_id": PROFILE}, [PROFILE]),
        ({"session": {"a": 1}, "profile_id": PROFILE}, ["s/context/inject"]),
    ],
)
def test_empty_parts_are_not_sent(fields: dict[str, Any], ends: list[str]) -> None:
    assert [one.url.split("/", 6)[-1] for one in writes(**fields)] == ends


def test_the_user_of_the_update_takes_precedence() -> None:
    (sent,) = writes(session={"a": 1}, user_id="u-2")
    assert json.loads(sent.content)["userId"] == "u-2"


def test_which_requests_may_be_repeated() -> None:
    fields = {"session": {"a": 1}, "user": {"b": 1}, "next_step": "x", "profile_id": PROFILE}
    assert [one.idempotent for one in writes(**fields)] == [True, False, True]
    replaces = SessionsApi(user_id="u", inject="replace")
    assert [one.idempotent for one in writes(api=replaces, **fields)] == [False, False, True]


def test_resets() -> None:
    context = API.reset(BASE, "s/1", "context", None, "flow", "entry")
    assert context.url == f"{BASE}/new/v2.0/sessions/s%2F1/context/reset"
    assert json.loads(context.content) == {
        "userId": "u-1",
        "flowReferenceId": "flow",
        "entrypoint": "entry",
    }
    state = API.reset(BASE, "s", "state", "u-2")
    assert state.url == f"{BASE}/new/v2.0/sessions/s/state/reset"
    assert json.loads(state.content) == {"userId": "u-2"}
    assert (context.method, state.method) == ("POST", "POST")
    assert not context.idempotent
    assert not state.idempotent


@pytest.mark.parametrize(
    "name", ["a/b", "?", "a?b=c", "#", "%", "%2F", "a b", ".", "..", "../x", "/", "é", "a\r\nb"]
)
def test_a_session_id_is_one_segment_of_the_path(name: str) -> None:
    update = made(dialog_id=name, session={"a": 1}, next_step="x")
    urls = [one.url for one in API.writes(BASE, update, "id")]
    urls += [API.read(BASE, name).url, API.reset(BASE, name, "state").url]
    for url in urls:
        # The transport must not make a path of it again.
        path = httpx.URL(url).raw_path.decode()
        before, segment, *_ = path.removeprefix("/new/v2.0/").split("/")
        assert (before, unquote(segment)) == ("sessions", name)
        assert path.count("/") <= 6


# Splitting.


def test_a_request_is_measured_as_it_is_sent() -> None:
    fields = {"session": {"a": "x" * 40, "b": "y" * 40}}
    size = len(writes(**fields)[0].content)
    assert len(writes(Limits(safe_payload_bytes=size), **fields)) == 1
    parts = writes(Limits(safe_payload_bytes=size - 1), **fields)
    assert [json.loads(part.content)["context"] for part in parts] == [
        {"a": "x" * 40},
        {"b": "y" * 40},
    ]


def test_the_limits_of_the_public_api_are_its_default() -> None:
    assert API.limits == Limits.cognigy_saas()
    big = {f"v{n}": "x" * 1000 for n in range(60)}
    parts = writes(session=big, next_step="x")
    assert [len(part.content) <= 60_000 for part in parts] == [True] * len(parts)
    assert [part.url.rsplit("/", 2)[-2] for part in parts] == ["context", "context", "state"]
    assert [part.idempotent for part in parts] == [True, True, False]


def test_limits_of_its_own() -> None:
    api = SessionsApi(user_id="u-1", limits=Limits.cognigy_app())
    assert (api.limits, API.limits) == (Limits.cognigy_app(), Limits.cognigy_saas())
    big = {f"v{n}": "x" * 1000 for n in range(200)}
    parts = writes(api.limits, api, session=big)
    assert len(parts) == 4
    assert max(len(part.content) for part in parts) <= 60_000
    with pytest.raises(ConfigurationError, match="limits: must be a Limits, not a str"):
        SessionsApi(limits="app")  # type: ignore[arg-type]


@given(session=variables, user=variables, most=st.integers(150, 500), user_id=st.text(min_size=1))
@unhurried
def test_the_parts_give_what_the_whole_would_and_each_one_fits(
    session: dict[str, Any], user: dict[str, Any], most: int, user_id: str
) -> None:
    fields: dict[str, Any] = {"session": session, "user": user, "profile_id": PROFILE}
    try:
        update = made(Limits(safe_payload_bytes=most), next_step="x", user_id=user_id, **fields)
        API.check(update)
    except UpdateValidationError:
        return
    context: dict[str, Any] = {}
    profile: dict[str, Any] = {}
    kinds = []
    for one in API.writes(BASE, update, "id"):
        assert len(one.content) <= most
        body = json.loads(one.content)
        kinds.append(next(kind for kind in ("context", "state", "profile") if kind in body))
        context |= body.get("context", {})
        profile |= body.get("profile", {})
    assert (context, profile) == (update.session, update.user)
    assert kinds == sorted(kinds, key=["context", "state", "profile"].index)


def test_a_variable_that_fits_no_request_is_refused() -> None:
    # It would fit in the runtime API's body, which has no user in it.
    limits = Limits(safe_payload_bytes=100)
    fault = refused(API, limits, session={"a": "x" * 80}, user_id="u" * 30)
    assert "send at most 100" in str(fault)
    assert (fault.path, fault.dialog_id) == ("update", "s")


def test_a_user_id_counts_as_it_is_sent() -> None:
    limits = Limits(safe_payload_bytes=300)
    fields = {"session": {"a": "x" * 150}}
    assert len(writes(limits, user_id="u" * 40, **fields)) == 1
    # Six bytes for each of its characters.
    assert refused(API, limits, user_id="u" + "\x01" * 40 + "u", **fields).path == "update"


def test_a_context_that_is_replaced_cannot_be_split() -> None:
    api = SessionsApi(user_id="u", inject="replace")
    fault = refused(api, session={f"v{n}": "x" * 1000 for n in range(60)})
    assert fault.path == "session"
    assert "would drop the first" in str(fault)
    assert len(writes(api=api, session={f"v{n}": "x" * 1000 for n in range(50)})) == 1


# Unsupported input.


def test_an_update_needs_a_user() -> None:
    fault = refused(SessionsApi(), session={"a": 1})
    assert (fault.path, type(fault)) == ("user_id", UpdateValidationError)
    assert "SessionsApi(user_id=...)" in str(fault)
    with pytest.raises(UpdateValidationError, match="user_id"):
        SessionsApi().reset(BASE, "s", "context")


def test_a_precondition_is_unsupported() -> None:
    fault = refused(session={"a": 1}, if_match='"1"')
    assert (fault.path, type(fault)) == ("if_match", UnsupportedByApiError)
    assert "leave it out" in str(fault)


def test_user_variables_need_a_profile() -> None:
    for fields in ({"user": {"a": 1}}, {"session": {"b": 1}, "user": {"a": CANARY}}):
        fault = refused(**fields)
        assert (fault.path, type(fault)) == ("user", UnsupportedByApiError)
        assert "profile_id" in str(fault)
        assert CANARY not in str(fault)
    # Another variable of that name is none.
    assert len(writes(session={"a": {"user": {}}})) == 1


@pytest.mark.parametrize(
    "profile_id", ["x", PROFILE[:-1], PROFILE + "0", PROFILE.upper(), "../" * 8]
)
def test_a_profile_id_has_24_characters(profile_id: str) -> None:
    assert refused(user={"a": 1}, profile_id=profile_id).path == "profile_id"


def test_reading_has_to_be_enabled_and_modify_is_unsupported() -> None:
    with pytest.raises(UnsupportedByApiError, match="reads_state=True"):
        API.check_use("get_state")
    reads = SessionsApi(reads_state=True)
    reads.check_use("get_state")
    for api in (API, reads):
        with pytest.raises(UnsupportedByApiError, match=r"modify\(\): needs versions.*update\(\)"):
            api.check_use("modify")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"user_id": ""}, "user_id: is empty"),
        ({"user_id": 7}, "user_id: is of type int"),
        ({"user_id": "\ud800"}, "user_id: has a lone surrogate"),
        ({"inject": "deep"}, 'must be "merge" or "replace"'),
    ],
)
def test_bad_arguments_are_rejected(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        SessionsApi(**arguments)


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"user_id": ""}, "user_id"),
        ({"user_id": 7}, "user_id"),
        ({"user_id": "x" * 257}, "user_id"),
        ({"profile_id": " "}, "profile_id"),
        ({"profile_id": b"x"}, "profile_id"),
    ],
)
def test_names_that_an_update_cannot_have(fields: dict[str, Any], path: str) -> None:
    with pytest.raises(UpdateValidationError) as caught:
        made(session={"a": 1}, **fields)
    assert caught.value.path == path


def test_an_update_keeps_user_and_profile() -> None:
    update = made(session={"a": 1}, user_id="u-9", profile_id=PROFILE)
    assert (update.user_id, update.profile_id) == ("u-9", PROFILE)
    assert update.replace(next_step="x").user_id == "u-9"
    assert update != update.replace(user_id="u-8")
    assert update != update.replace(profile_id=PROFILE[::-1])
    assert "user_id='u-9'" in repr(update)


@pytest.mark.parametrize("name", ["user_id", "profile_id"])
def test_the_runtime_api_has_no_users(name: str) -> None:
    with pytest.raises(UnsupportedByApiError, match=rf"{name}: .*SessionsApi\(\)"):
        RuntimeApi().check(made(session={"a": 1}, **{name: "x"}))


@pytest.mark.parametrize("what", ["context", "state"])
def test_the_runtime_api_has_no_resets(what: Any) -> None:
    with pytest.raises(UnsupportedByApiError, match=rf"reset_{what}\(\): .*update\("):
        RuntimeApi().reset(BASE, "d", what)


# Responses.


def problem(code: int, **members: Any) -> dict[str, Any]:
    told = {"type": "T", "title": "T", "status": 400, "detail": "why", "traceId": "api--7"}
    return {**told, "code": code, **members}


@pytest.mark.parametrize(
    ("status", "code", "response_kind", "kind"),
    [
        (400, 400, ResponseKind.REFUSED, BadRequestError),
        (400, 1000, ResponseKind.REFUSED, BadRequestError),
        (400, 1005, ResponseKind.REFUSED, BadRequestError),
        (401, 401, ResponseKind.UNAUTHORIZED, AuthenticationError),
        (401, 1008, ResponseKind.UNAUTHORIZED, AuthenticationError),
        (402, 402, ResponseKind.REFUSED, PermissionDeniedError),
        (403, 403, ResponseKind.REFUSED, PermissionDeniedError),
        (404, 1002, ResponseKind.REFUSED, DialogNotFoundError),
        (405, 1013, ResponseKind.REFUSED, UnexpectedAnswerError),
        (409, 1004, ResponseKind.CONFLICT, StateConflictError),
        (412, 412, ResponseKind.CONFLICT, StateConflictError),
        (413, 413, ResponseKind.REFUSED, PayloadTooLargeError),
        (429, 429, ResponseKind.THROTTLED, RateLimitedError),
        (429, 1008, ResponseKind.THROTTLED, RateLimitedError),
        (500, 500, ResponseKind.FAULT, ServerError),
        (500, 1001, ResponseKind.FAULT, ServerError),
        (500, 1003, ResponseKind.FAULT, ServerError),
        (500, 1008, ResponseKind.FAULT, ServerError),
        (500, 2000, ResponseKind.FAULT, ServerError),
        (500, 2001, ResponseKind.FAULT, ServerError),
        (500, 8001, ResponseKind.GATEWAY, ServerError),
        (502, 502, ResponseKind.GATEWAY, ServerError),
        (503, 503, ResponseKind.UNAVAILABLE, ServerError),
        (504, 504, ResponseKind.GATEWAY, ServerError),
        # The code goes before the status, as with the official client.
        (500, 1002, ResponseKind.REFUSED, DialogNotFoundError),
        (500, 1005, ResponseKind.REFUSED, BadRequestError),
        (400, 1004, ResponseKind.CONFLICT, StateConflictError),
        # A code that nobody knows says nothing.
        (400, 9999, ResponseKind.REFUSED, BadRequestError),
        (307, 0, ResponseKind.REFUSED, UnexpectedAnswerError),
    ],
)
def test_each_answer(
    status: int, code: int, response_kind: ResponseKind, kind: type[UpdateError]
) -> None:
    answer = response(status, problem(code))
    assert API.classify(answer) is response_kind
    error = API.error(API.reset(BASE, "s", "state"), answer, NOW)
    assert type(error) is kind
    assert (error.status, error.trace_id, error.detail) == (status, "api--7", "why")
    assert error.code == (None if status == 307 else code)
    assert "trace id api--7" in str(error)
    # What this API does not have is no remedy.
    assert "etag" not in str(error)
    assert "modify()" not in str(error)
    if code >= 1000:
        assert f"code {code}" in str(error)


def test_a_rejected_payload_names_states_and_no_nodes() -> None:
    error = API.error(API.reset(BASE, "s", "state"), response(400, problem(1005)), NOW)
    assert "next_step names a state" in error.remedy
    assert "node" not in str(error)


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"code": "1002"}', b'{"code": true}'])
def test_a_body_without_a_code_goes_by_its_status(body: bytes) -> None:
    assert API.classify(response(500, body)) is ResponseKind.FAULT
    error = API.error(API.reset(BASE, "s", "state"), response(500, body), NOW)
    assert (type(error), error.code, error.trace_id) == (ServerError, None, None)


def test_a_message_that_repeats_variables_is_withheld() -> None:
    for fields in (
        {"session": {"a": CANARY}},
        {"user": {"a": [{"b": CANARY}]}, "profile_id": PROFILE},
    ):
        (request,) = writes(**fields)
        said = problem(1005, detail=f"bad {CANARY}", traceId=f"api--{CANARY}")
        error = API.error(request, response(400, said), NOW)
        assert CANARY not in f"{error}{error!r}{vars(error)}"
        assert error.trace_id is None


def test_profiles_are_created_by_post_and_assigned_by_patch() -> None:
    created = API.write_profile(BASE, None, b"{}")
    assert (created.method, created.url, created.content, created.idempotent) == (
        "POST",
        f"{BASE}/new/v2.0/profiles",
        b"{}",
        False,
    )
    assigned = API.write_profile(BASE, PROFILE, b"{}")
    assert (assigned.method, assigned.url, assigned.idempotent) == (
        "PATCH",
        f"{BASE}/new/v2.0/profiles/{PROFILE}",
        True,
    )


def test_a_message_that_repeats_a_contact_id_is_withheld() -> None:
    request = API.write_profile(BASE, None, json.dumps({"contactIds": [CANARY]}).encode())
    said = problem(1005, detail=f"there is {CANARY} already")
    error = API.error(request, response(400, said), NOW)
    assert CANARY not in f"{error}{error!r}{vars(error)}"


def test_a_conflict_and_a_bad_request_say_whether_they_are_about_a_profile() -> None:
    profile, session = API.write_profile(BASE, PROFILE, b"{}"), API.reset(BASE, "s", "state")
    assert "writing the profile" in str(API.error(profile, response(409), NOW))
    assert "writing the session" in str(API.error(session, response(409), NOW))
    assert "profile schema" in str(API.error(profile, response(400), NOW))
    assert "profile schema" not in str(API.error(session, response(400), NOW))


def test_429_and_503_have_a_retry_after() -> None:
    request = API.reset(BASE, "s", "state")
    for status in (429, 503):
        assert API.error(request, response(status, retry_after="7"), NOW).retry_after == 7
    assert API.error(request, response(429), NOW).retry_after is None


def test_a_404_names_the_other_api() -> None:
    error = API.error(API.reset(BASE, "s", "state"), response(404, problem(1002)), NOW)
    assert "api=RuntimeApi()" in str(error)


def test_a_throttle_of_one_session() -> None:
    assert API.throttles_dialog(response(429, x_ratelimit_scope="dialog"))
    assert not API.throttles_dialog(response(429))
    own = SessionsApi(is_dialog_throttle=lambda headers: "x-own" in headers)
    assert own.throttles_dialog(response(429, x_own="1"))


def test_there_are_no_versions() -> None:
    assert not API.has_versions
    assert API.etag(response(200, {"version": 7}, etag='"7"')) is None


def test_a_state_that_is_read() -> None:
    state = API.state("s", response(200, {"context": {"a": 1}, "state": "pay"}))
    assert state is not None
    assert (state.session, state.next_step, state.user) == ({"a": 1}, "pay", {})
    assert (state.etag, state.version) == (None, None)
    kept = API.state("s", response(200, {"context": '{"a": 1}'}))
    assert kept is not None
    assert (kept.session, kept.next_step) == ({"a": 1}, None)


@pytest.mark.parametrize("body", [b"", b"[]", {}, {"context": 1}, {"context": "no json"}])
def test_an_answer_that_is_no_state(body: Any) -> None:
    assert API.state("s", response(200, body)) is None


# Arguments that a tenant profile sets.


@pytest.mark.parametrize("kind", [SessionsApi, RuntimeApi])
def test_merged_values_are_one_of_three(kind: Any) -> None:
    assert kind().merged_values == "objects"
    with pytest.raises(ConfigurationError, match=r'merged_values=.*"objects and lists"'):
        kind(merged_values="lists")


@pytest.mark.parametrize(
    ("merged_values", "value", "repeats"),
    [
        ("objects", [1], True),
        ("none", [1], True),
        ("objects and lists", [1], False),
        ("objects and lists", {"a": [1]}, False),
        ("objects and lists", {"a": 1}, True),
    ],
)
def test_a_list_is_not_repeated_where_lists_are_merged(
    merged_values: Any, value: Any, repeats: bool
) -> None:
    """A server that merges lists may append to them."""
    (request,) = writes(
        api=SessionsApi(user_id="u-1", merged_values=merged_values), session={"a": value}
    )
    assert request.idempotent == repeats
    runtime = RuntimeApi(merged_values=merged_values)
    update = StateUpdate(dialog_id="d", session={"a": value})
    (request,) = runtime.writes(BASE, update, "id")
    assert request.idempotent == repeats


def test_a_list_in_a_part_is_not_repeated_where_lists_are_merged() -> None:
    runtime = RuntimeApi(merged_values="objects and lists")
    limits = Limits(safe_payload_bytes=200)
    variables = {"a": ["x" * 120], "b": "y" * 120}
    for step, expected in ((None, [False, True]), ("s", [False, False])):
        fields = {"dialog_id": "d", "session": variables, "next_step": step}
        parts = runtime.writes(BASE, StateUpdate.from_fields(limits, fields), "id")
        assert [part.idempotent for part in parts] == expected


def test_limits_may_be_given() -> None:
    limits = Limits(safe_payload_bytes=100)
    assert SessionsApi(limits=limits).limits is limits
    assert RuntimeApi(limits=limits).limits is limits


@pytest.mark.parametrize("delay", [-1.0, float("nan"), float("inf"), "1"])
def test_a_read_delay_is_a_number_of_seconds(delay: Any) -> None:
    with pytest.raises(ConfigurationError, match="read_delay="):
        RuntimeApi(read_delay=delay)
