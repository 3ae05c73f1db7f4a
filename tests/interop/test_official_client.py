"""The official JavaScript client against the emulator, and its requests compared with ours."""

from __future__ import annotations

import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import httpx
import pytest

from cognigy_async import (
    ApiKey,
    AsyncStateClient,
    OAuthConfig,
    OAuthTokenProvider,
    SessionsApi,
    TokenProvider,
)
from tests.interop.official import NODE, call, install

pytestmark = [
    pytest.mark.real_time,
    pytest.mark.skipif(NODE is None, reason="there is no Node.js to run the official client"),
    # The client may have to be downloaded first.
    pytest.mark.timeout(300),
]

KEY = "interop-api-key"
ID, SECRET = "interop-client", "interop-secret"
BY_KEY = {"type": "ApiKey", "apiKey": KEY}
BY_TOKEN = {"type": "OAuth2", "clientId": ID, "clientSecret": SECRET}
LOGIN = {"type": "clientCredentials", "scope": "runtime:write session:manage"}
PROFILE = "0123456789abcdef01234567"
PROJECT = "abcdef0123456789abcdef01"
CREATED: dict[str, Any] = {"profile": {"firstname": "Ann"}, "active": True, "contactIds": ["c-3"]}
SESSION = {"sessionId": "s-1", "userId": "u-1"}
FLOW = {
    "flowReferenceId": "a1111111-1111-4111-8111-111111111111",
    "entrypoint": "b2222222-2222-4222-8222-222222222222",
}
CALLS: list[tuple[str, dict[str, Any]]] = [
    ("injectContext", SESSION | {"context": {"cart": {"total": 1.5}, "name": "é"}}),
    ("injectContext", SESSION | {"context": {"b": [1, None]}}),
    ("injectState", SESSION | {"state": "pay"}),
    ("updateProfile", {"profileId": PROFILE, "profile": {"orders": 12}}),
    ("updateProfile", {"profileId": PROFILE, "active": False, "contactIds": ["c-1", "c-2"]}),
    ("createProfile", CREATED | {"projectId": PROJECT}),
    ("readProfile", {"profileId": PROFILE}),
    ("resetState", SESSION),
    ("resetContext", SESSION | FLOW),
]
VALUES = [
    {"cart": {"total": 1.5}, "name": "é"},
    {"cart": {"total": 1.5}, "name": "é", "b": [1, None]},
    {"state": "pay"},
    "",
    "",
    {"_id": f"{2:024x}", **CREATED},
    {
        "_id": PROFILE,
        "profile": {"orders": 12},
        "active": False,
        "contactIds": ["c-1", "c-2"],
    },
    {},
    {},
]


@pytest.fixture(scope="module", autouse=True)
def _installed() -> None:
    install()


@contextmanager
def emulator(*options: str) -> Iterator[str]:
    """Run `cognigy-async emulator` as a process, and yield its base URL."""
    arguments = ("--api-key", KEY, "--client-id", ID, "--client-secret", SECRET, *options)
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("COGNIGY_")
    }
    root = str(Path(__file__).parents[2])
    process = subprocess.Popen(
        [sys.executable, "-m", "cognigy_async", "emulator", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment | {"PYTHONPATH": root},
    )
    with process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().split()[-1]
        finally:
            process.kill()


def history(base_url: str) -> list[dict[str, Any]]:
    """Return the session as the emulator has it."""
    answer = httpx.get(f"{base_url}/_emulator/dialogs/s-1", trust_env=False)
    return [entry["body"] for entry in answer.json()["history"]]


WRITTEN = [
    {"session": {"cart": {"total": 1.5}, "name": "é"}},
    {"session": {"b": [1, None]}},
    {"transition": {"nextStep": "pay"}},
    {"transition": {"nextStep": "default"}},
    {"session": {}},
]


def test_calls_with_an_api_key() -> None:
    with emulator() as base_url:
        outcomes = call(base_url, BY_KEY, *CALLS)
        assert [outcome.get("value", outcome) for outcome in outcomes] == VALUES
        assert history(base_url) == WRITTEN


def test_calls_with_client_credentials() -> None:
    with emulator() as base_url:
        login, *outcomes = call(base_url, BY_TOKEN, *CALLS, login=LOGIN)
        assert login == {"value": None}
        assert [outcome.get("value", outcome) for outcome in outcomes] == VALUES
        assert history(base_url) == WRITTEN


def test_errors_are_those_that_the_client_knows() -> None:
    inject = CALLS[0]
    with emulator() as base_url:

        def failures_of(
            *calls: tuple[str, dict[str, Any]], key: str = KEY
        ) -> list[tuple[Any, ...]]:
            outcomes = call(base_url, {"type": "ApiKey", "apiKey": key}, *calls)
            assert all(outcome["traceId"].startswith("api--") for outcome in outcomes)
            assert all(outcome["message"] for outcome in outcomes)
            return [(outcome["error"], outcome["code"]) for outcome in outcomes]

        assert failures_of(inject, key="another") == [("UnauthorizedError", 401)]
        assert failures_of(
            ("injectContext", {"sessionId": "s-1", "context": {}}),
            ("injectState", SESSION),
            ("injectState", SESSION | {"state": 7}),
            ("injectContext", SESSION | {"context": {"a": "x" * 60_000}}),
            ("injectContext", SESSION | {"sessionId": "a/b", "context": {}}),
        ) == [
            ("MissingArgumentError", 1000),
            ("MissingArgumentError", 1000),
            ("InvalidArgumentError", 1005),
            ("PayloadTooLargeError", 413),
            ("ResourceNotFoundError", 1002),
        ]
        steps = {"steps": ["conflict", 403, "throttle_dialog"]}
        httpx.post(f"{base_url}/_emulator/script", json=steps, trust_env=False).raise_for_status()
        assert failures_of(inject, inject, inject) == [
            ("ConflictError", 1004),
            ("ForbiddenError", 403),
            # It has a class for 429 but does not use it.
            ("InternalServerError", 1008),
        ]
        steps = {"steps": [502, 503, 504], "dialog_id": "s-2"}
        httpx.post(f"{base_url}/_emulator/script", json=steps, trust_env=False).raise_for_status()
        other = ("injectState", SESSION | {"sessionId": "s-2", "state": "x"})
        assert failures_of(other, other, other) == [
            ("BadGatewayError", 502),
            ("ServiceUnavailableError", 503),
            ("GatewayTimeoutError", 504),
        ]


def test_credentials_that_are_wrong() -> None:
    with emulator() as base_url:
        (login,) = call(base_url, BY_TOKEN | {"clientSecret": "wrong"}, login=LOGIN)
        assert login["error"] == "UnauthorizedError"


# Their requests and ours.

OF_THE_CONNECTION = {
    "accept-encoding",
    "cache-control",
    "connection",
    "content-length",
    "host",
    "user-agent",
}


class Recorder(http.server.BaseHTTPRequestHandler):
    """A server that answers everything and keeps the requests."""

    rows: list[dict[str, Any]]

    def _record(self) -> None:
        content = self.rfile.read(int(self.headers.get("content-length", 0))).decode()
        headers = {name.lower(): value for name, value in self.headers.items()}
        is_form = "form" in headers.get("content-type", "")
        self.rows.append(
            {
                "method": self.command,
                "path": self.path,
                "headers": {n: v for n, v in headers.items() if n not in OF_THE_CONNECTION},
                "body": dict(parse_qsl(content)) if is_form else json.loads(content),
            }
        )
        token = {"access_token": "t-1", "token_type": "Bearer", "expires_in": 3600}
        answer = json.dumps(token if is_form else {}).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    do_POST = do_PATCH = _record  # noqa: N815

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@contextmanager
def recording() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    rows: list[dict[str, Any]] = []
    handler = type("Handler", (Recorder,), {"rows": rows})
    with ExitStack() as stack:
        server = stack.enter_context(http.server.HTTPServer(("127.0.0.1", 0), handler))
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        stack.callback(thread.join)
        stack.callback(server.shutdown)
        yield f"http://127.0.0.1:{server.server_port}", rows


WRITES = [one for one in CALLS if one[0] != "readProfile"]


async def write_as_they_do(base_url: str, auth: TokenProvider) -> None:
    api = SessionsApi(user_id="u-1")
    async with AsyncStateClient(base_url, auth=auth, api=api) as client:
        await client.update("s-1", session={"cart": {"total": 1.5}, "name": "é"})
        await client.update(
            "s-1",
            session={"b": [1, None]},
            next_step="pay",
            user={"orders": 12},
            profile_id=PROFILE,
        )
        await client.update_profile(PROFILE, active=False, contact_ids=["c-1", "c-2"])
        await client.create_profile(
            PROJECT, profile={"firstname": "Ann"}, active=True, contact_ids=["c-3"]
        )
        await client.reset_state("s-1")
        await client.reset_context(
            "s-1", flow_reference_id=FLOW["flowReferenceId"], entrypoint=FLOW["entrypoint"]
        )


async def test_the_same_operations_are_the_same_requests_with_an_api_key() -> None:
    with recording() as (base_url, theirs):
        assert all("value" in outcome for outcome in call(base_url, BY_KEY, *WRITES))
    with recording() as (base_url, ours):
        await write_as_they_do(base_url, ApiKey(KEY))
    assert [row["headers"]["x-api-key"] for row in ours] == [KEY] * len(WRITES)
    assert ours == theirs


async def test_the_same_operations_are_the_same_requests_with_client_credentials() -> None:
    with recording() as (base_url, theirs):
        outcomes = call(base_url, BY_TOKEN, *WRITES, login=LOGIN)
        assert all("value" in outcome for outcome in outcomes)
    with recording() as (base_url, ours):
        config = OAuthConfig(
            token_url=f"{base_url}/auth/oauth2/token",
            client_id=ID,
            client_secret=SECRET,
            scopes=LOGIN["scope"],
            client_auth="post",
        )
        await write_as_they_do(base_url, OAuthTokenProvider(config))
    assert ours[0]["body"]["grant_type"] == "client_credentials"
    assert [row["headers"].get("authorization") for row in ours] == [
        None,
        *["Bearer t-1"] * len(WRITES),
    ]
    # Their client accepts any media type for a token; ours names the one that it reads.
    assert ours[0]["headers"].pop("accept") == "application/json"
    theirs[0]["headers"].pop("accept")
    assert ours == theirs
