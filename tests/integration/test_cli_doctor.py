"""`cognigy-async doctor`: each kind of failure, and the remedy that it prints."""

from __future__ import annotations

import json
import os
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import trustme

from cognigy_async import Request, Response
from cognigy_async.cli.doctor.checks import (
    Finding,
    RecordingTransport,
    check_clock,
    check_throttling,
    settings_findings,
)
from cognigy_async.emulator import Emulator, Faults
from cognigy_async.integrations.settings import Settings

from .conftest import SECRET, Command

APIS = ["runtime", "sessions", "endpoint"]
ALL = ["settings", "dns", "tls", "token", "read", *APIS, "clock", "throttling"]


def findings(command: Command, *arguments: str) -> dict[str, dict[str, Any]]:
    command("doctor", "--json", *arguments)
    assert command.err == ""
    return {check["check"]: check for check in command.json["checks"]}


def test_all_well(emulator: Emulator, command: Command) -> None:
    assert command("doctor") == 0
    lines = command.out.splitlines()
    assert [line.split()[1] for line in lines] == ALL
    assert {line.split()[0] for line in lines} == {"ok", "skipped"}
    assert command("doctor", "--json") == 0
    assert command.json["ok"] is True
    assert [check["check"] for check in command.json["checks"]] == ALL
    assert emulator.dialogs == {}, "nothing is written"


def test_no_settings(emulator: Emulator, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COGNIGY_BASE_URL")
    assert command("doctor") == 2
    assert command.out.startswith("failed  settings   Settings are missing: COGNIGY_BASE_URL.")
    assert command("doctor", "--json") == 2
    assert command.json["ok"] is False
    (found,) = command.json["checks"]
    assert "in the environment" in found["remedy"]
    assert "in the environment" not in found["detail"]


def test_the_remedy_of_an_invalid_setting_is_not_that_of_a_missing_one(
    emulator: Emulator, command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "tenant.json").write_text("[]")
    monkeypatch.setenv("COGNIGY_TENANT", str(tmp_path / "tenant.json"))
    (found,) = findings(command).values()
    assert (found["check"], found["status"]) == ("settings", "failed")
    assert "tenant.json is not a tenant profile; write one with: " in found["detail"]
    assert found["remedy"] == "Correct this setting where it is set."


@pytest.mark.parametrize(
    ("address", "detail", "remedy"),
    [
        (
            "https://app.cognigy.ai",
            "app.cognigy.ai is the host of the user interface",
            "Set COGNIGY_BASE_URL=https://api-app.cognigy.ai.",
        ),
        (
            "https://api.example.com/openapi",
            "COGNIGY_BASE_URL ends with /openapi, which is not part of it",
            "Set COGNIGY_BASE_URL=https://api.example.com.",
        ),
        (
            "https://example.com/gateway/new/v2.0/",
            "COGNIGY_BASE_URL ends with /new/v2.0, which is not part of it",
            "Set COGNIGY_BASE_URL=https://example.com/gateway.",
        ),
        ("https://api-app.cognigy.ai", None, None),
        ("https://example.com/renew", None, None),
    ],
)
def test_addresses_that_people_copy(
    monkeypatch: pytest.MonkeyPatch, address: str, detail: str | None, remedy: str | None
) -> None:
    monkeypatch.setenv("COGNIGY_BASE_URL", address)
    monkeypatch.setenv("COGNIGY_API_KEY", "k-1")
    first, *others = settings_findings(Settings())
    assert (first.status, first.remedy) == ("ok", None)
    expected = [] if detail is None else [Finding("settings", "warning", detail, remedy)]
    assert others == expected


def test_sessions_without_a_user(
    emulator: Emulator, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COGNIGY_API", "sessions")
    found = findings(command)["settings"]
    assert (found["status"], "no user id" in found["detail"]) == ("ok", True)
    assert found["remedy"] == "Name the user with each update, or set COGNIGY_USER_ID."
    monkeypatch.setenv("COGNIGY_USER_ID", "u-1")
    found = findings(command)["settings"]
    assert (found["remedy"], "no user id" in found["detail"]) == (None, False)


def test_an_invalid_dialog_id(emulator: Emulator, command: Command) -> None:
    found = findings(command, "--dialog", "")["read"]
    assert (found["status"], found["detail"]) == ("failed", "dialog_id: is empty")
    assert found["remedy"]


def test_settings_without_effect(
    emulator: Emulator, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COGNIGY_SCOPE", "canary-value")
    monkeypatch.setenv("COGNIGY_USER_ID", "u-1")
    assert command("doctor") == 0
    assert command.out.count("warning settings") == 2
    assert command("doctor", "--json") == 0
    assert "canary-value" not in command.out
    warnings = [check for check in command.json["checks"] if check["status"] == "warning"]
    assert [warning["detail"].split()[0] for warning in warnings] == [
        "COGNIGY_SCOPE",
        "COGNIGY_USER_ID",
    ]
    assert all(warning["remedy"] for warning in warnings)


@pytest.mark.parametrize("path", ["/runtime/v2", "/nothing/here"])
def test_a_wrong_token_endpoint(
    emulator: Emulator,
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    path: str,
) -> None:
    monkeypatch.setenv("COGNIGY_TOKEN_URL", f"{os.environ['COGNIGY_BASE_URL']}{path}")
    found = findings(command)["token"]
    assert (found["status"], "HTTP 404" in found["detail"]) == ("failed", True)
    assert "COGNIGY_TOKEN_URL" in found["remedy"]
    assert "depends on COGNIGY_API" in found["remedy"]
    (tmp_path / "rows.jsonl").write_text('{"dialog_id": "d-1", "session": {"a": 1}}\n')
    for arguments in (["get", "d-1"], ["bulk", "run", "rows.jsonl"]):
        assert command(*arguments) == 1
        assert "HTTP 404" in command.messages
        assert "Check COGNIGY_TOKEN_URL" in command.messages
        assert "OAuthConfig" not in command.messages


def test_a_wrong_secret(
    emulator: Emulator, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COGNIGY_CLIENT_SECRET", "canary-secret")
    assert command("doctor") == 1
    assert "canary-secret" not in command.out + command.err
    found = findings(command)
    assert found["token"]["status"] == "failed"
    assert "COGNIGY_CLIENT_SECRET" in found["token"]["remedy"]
    assert found["read"]["status"] == "skipped"


def test_an_api_key(emulator: Emulator, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COGNIGY_CLIENT_ID")
    monkeypatch.delenv("COGNIGY_CLIENT_SECRET")
    monkeypatch.setenv("COGNIGY_API_KEY", "canary-key")
    found = findings(command)
    assert "canary-key" not in command.out
    assert found["token"]["status"] == "ok"
    assert found["read"]["status"] == "failed"
    assert "HTTP 401" in found["read"]["detail"]
    assert command("doctor") == 1


def test_scopes_that_are_not_granted(
    emulator: Emulator, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COGNIGY_SCOPES", "runtime:write some:other")
    assert command("doctor") == 1
    found = findings(command)
    assert found["scopes"]["detail"] == "not granted: some:other"
    assert "COGNIGY_SCOPES" in found["scopes"]["remedy"]
    assert found["read"]["status"] == "ok", "there is a token, so the read is tried"


@pytest.mark.parametrize(
    ("status", "kind", "word"),
    [(404, "warning", "--dialog"), (403, "failed", "dialog:read"), (503, "failed", "later")],
)
def test_a_read_that_fails(
    emulator: Emulator, command: Command, status: int, kind: str, word: str
) -> None:
    emulator.faults = Faults(fail_status=status)
    found = findings(command, "--dialog", "d-1")
    assert found["read"]["status"] == kind
    assert word in found["read"]["remedy"]
    assert ("credentials not verified" in found["read"]["detail"]) is (status == 503)
    assert command("doctor") == (0 if kind == "warning" else 1)


def test_a_throttled_read_names_the_wait_at_once(emulator: Emulator, command: Command) -> None:
    emulator.script("throttle_tenant", method="GET")
    found = findings(command)
    assert found["read"]["status"] == "failed"
    assert "retry-after: " in found["throttling"]["detail"]


def test_nobody_listens(
    emulator: Emulator, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        monkeypatch.setenv("COGNIGY_BASE_URL", f"http://127.0.0.1:{taken.getsockname()[1]}")
        assert command("doctor") == 1
        found = findings(command)
    assert found["tls"]["status"] == "failed"
    assert found["tls"]["detail"].endswith("Connection refused")
    skipped = ("token", "read", "runtime", "sessions", "clock")
    assert {found[check]["status"] for check in skipped} == {"skipped"}


def test_a_host_without_an_address(
    emulator: Emulator, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COGNIGY_BASE_URL", "https://no-such-host.invalid")
    found = findings(command)
    assert found["dns"]["status"] == "failed"
    assert found["dns"]["detail"] == "no-such-host.invalid has no address"
    assert "tls" not in found


@contextmanager
def accepting(
    context: ssl.SSLContext | None, answer: bytes = b"HTTP/1.1 400 Bad Request\r\n\r\n"
) -> Iterator[str]:
    """A port of this machine that takes TLS connections, or answers all alike, and closes them."""
    with ExitStack() as stack:
        listening = stack.enter_context(socket.create_server(("127.0.0.1", 0)))

        def serve() -> None:
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                try:
                    if context is None:
                        connection.sendall(answer)
                        connection.settimeout(5)
                        while connection.recv(65536):
                            pass
                    else:
                        connection = context.wrap_socket(connection, server_side=True)
                except OSError:
                    pass
                finally:
                    connection.close()

        thread = Thread(target=serve)
        thread.start()
        stack.callback(thread.join)
        stack.callback(listening.shutdown, socket.SHUT_RDWR)
        yield f"https://127.0.0.1:{listening.getsockname()[1]}"


def test_a_certificate_of_an_unknown_issuer(
    emulator: Emulator, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    with accepting(context) as url:
        monkeypatch.setenv("COGNIGY_BASE_URL", url)
        found = findings(command)
    assert found["tls"]["status"] == "failed"
    assert "SSL_CERT_FILE" in found["tls"]["remedy"]


@pytest.mark.parametrize(("days", "status"), [(90, "ok"), (3, "warning")])
def test_the_days_until_a_certificate_expires(
    emulator: Emulator,
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Any,
    days: int,
    status: str,
) -> None:
    import datetime

    authority = trustme.CA()
    end = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=days, hours=1)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1", not_after=end).configure_cert(context)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    with accepting(context) as url:
        monkeypatch.setenv("COGNIGY_BASE_URL", url)
        found = findings(command)
    assert found["tls"]["status"] == status
    assert f"valid for {days} days" in found["tls"]["detail"]


def test_a_port_that_speaks_no_tls(
    emulator: Emulator, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    with accepting(None) as url:
        monkeypatch.setenv("COGNIGY_BASE_URL", url)
        found = findings(command)
    assert found["tls"]["status"] == "failed"
    assert "speaks TLS" in found["tls"]["remedy"]


class Answers:
    """A transport that responds with fixed headers."""

    def __init__(self, headers: dict[str, str]) -> None:
        self.headers = headers

    async def send(self, request: Request, *, timeout: float) -> Response:
        return Response(200, self.headers)

    async def aclose(self) -> None:
        pass


async def looked_at(
    headers: dict[str, str], sent: dict[str, str] | None = None
) -> tuple[Finding, Finding]:
    transport = RecordingTransport(Answers(headers))
    await transport.send(Request("GET", "http://localhost/", sent or {}), timeout=1.0)
    return check_clock(transport), check_throttling(transport)


@pytest.mark.parametrize(
    ("offset", "status", "word"),
    [(0, "ok", "agree"), (-120, "warning", "ahead of"), (120, "warning", "behind")],
)
async def test_the_clock(offset: float, status: str, word: str) -> None:
    clock, _ = await looked_at({"date": formatdate(time.time() + offset, usegmt=True)})
    assert clock.status == status
    assert word in clock.detail


@pytest.mark.parametrize("date", ["", "yesterday"])
async def test_an_invalid_date_header(date: str) -> None:
    clock, _ = await looked_at({"date": date})
    assert clock.status == "skipped"


async def test_rate_limit_headers() -> None:
    _, throttling = await looked_at(
        {"x-ratelimit-limit": "1000", "ratelimit-policy": '"q";q=1000;w=300', "set-cookie": SECRET}
    )
    assert throttling.detail == 'ratelimit-policy: "q";q=1000;w=300; x-ratelimit-limit: 1000'


@pytest.mark.parametrize("name", ["ratelimit-limit", "x-ratelimit-limit", "x-rate-limit-limit"])
async def test_rate_limit_headers_of_each_family(name: str) -> None:
    _, throttling = await looked_at({name: "1000"})
    assert throttling.detail == f"{name}: 1000"


async def test_rate_limit_headers_that_quote_the_credentials_are_left_out() -> None:
    _, throttling = await looked_at(
        {"x-ratelimit-limit": "1000", "x-ratelimit-key": "for canary-token"},
        {"authorization": "Bearer canary-token"},
    )
    assert throttling.detail == "x-ratelimit-limit: 1000"


def test_no_check_shows_the_secret(emulator: Emulator, command: Command) -> None:
    command("doctor", "--json", "--debug")
    assert SECRET not in json.dumps(command.json) + command.err


# The sessions API.


@pytest.fixture
def on_sessions(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> Emulator:
    monkeypatch.setenv("COGNIGY_API", "sessions")
    monkeypatch.setenv("COGNIGY_USER_ID", "u-1")
    return emulator


def test_a_session_is_neither_read_nor_written_by_default(
    on_sessions: Emulator, command: Command
) -> None:
    assert command("doctor") == 0
    found = findings(command)
    assert list(found) == ALL
    assert found["token"]["detail"].startswith("received")
    assert found["read"]["status"] == "ok"
    assert found["read"]["detail"].startswith("the server did not refuse the credentials")
    assert "--probe-session" in found["read"]["remedy"]
    # The read of the credentials, and one read for each API, in two runs.
    assert (on_sessions.stats.reads, on_sessions.stats.writes) == (6, 0)
    assert on_sessions.dialogs == {}
    assert on_sessions.profiles == {}


def test_a_profile_that_does_not_exist_verifies_the_credentials(
    on_sessions: Emulator, command: Command
) -> None:
    on_sessions.script(404, method="GET")
    assert findings(command)["read"]["status"] == "ok"
    # The other one is the path that no API has.
    assert on_sessions.stats.answers[404] == 2


@pytest.mark.parametrize("api", ["runtime", "sessions"])
def test_a_wrong_key_is_found_on_either_api(
    emulator: Emulator, command: Command, monkeypatch: pytest.MonkeyPatch, api: str
) -> None:
    monkeypatch.delenv("COGNIGY_CLIENT_ID")
    monkeypatch.delenv("COGNIGY_CLIENT_SECRET")
    monkeypatch.setenv("COGNIGY_API", api)
    monkeypatch.setenv("COGNIGY_API_KEY", "canary-key")
    assert command("doctor") == 1
    assert "HTTP 401" in findings(command)["read"]["detail"]
    assert "canary-key" not in command.out


@pytest.mark.parametrize("status", [400, 418, 429, 500, 503])
def test_other_answers_do_not_verify_the_credentials(
    on_sessions: Emulator, command: Command, status: int
) -> None:
    on_sessions.faults = Faults(fail_status=status)
    found = findings(command)["read"]
    assert (found["status"], found["detail"][:25]) == ("failed", "credentials not verified:")
    assert found["remedy"]
    before = on_sessions.stats.requests
    assert command("doctor") == 1
    # An answer that asks to wait is the last one.
    assert on_sessions.stats.requests == before + (1 if status in (429, 503) else 4)


@pytest.mark.parametrize("api", ["runtime", "sessions"])
@pytest.mark.parametrize(
    ("status", "body"),
    [
        ("404 Not Found", b"<html>no such page</html>"),
        ("404 Not Found", b""),
        ("200 OK", b"<html>welcome</html>"),
        ("200 OK", b"[]"),
        ("200 OK", b"[" * 100_000),
        ("404 Not Found", b'{"a":' * 100_000),
        ("302 Found", b""),
    ],
)
def test_an_answer_that_is_not_of_the_api_does_not_verify_the_credentials(
    emulator: Emulator,
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
    api: str,
    status: str,
    body: bytes,
) -> None:
    monkeypatch.delenv("COGNIGY_CLIENT_ID")
    monkeypatch.delenv("COGNIGY_CLIENT_SECRET")
    monkeypatch.setenv("COGNIGY_API", api)
    monkeypatch.setenv("COGNIGY_API_KEY", "any-key")
    head = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    with accepting(None, head.encode() + body) as url:
        monkeypatch.setenv("COGNIGY_BASE_URL", url.replace("https:", "http:"))
        assert command("doctor") == 1
        found = findings(command)["read"]
    assert (found["status"], found["detail"][:25]) == ("failed", "credentials not verified:")


def test_a_session_is_read_with_reads_state(
    on_sessions: Emulator, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COGNIGY_READS_STATE", "true")
    assert findings(command)["read"]["status"] == "ok"
    assert on_sessions.dialogs == {}


def test_the_probe_finds_out_what_inject_does(
    on_sessions: Emulator, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = findings(command, "--probe-session", "s-1")
    assert (found["inject"]["status"], found["inject"]["detail"]) == (
        "ok",
        "behaviour of the server's inject: merge",
    )
    assert found["read"]["remedy"] is None
    assert list(on_sessions.dialogs) == ["s-1"]
    monkeypatch.setenv("COGNIGY_INJECT", "replace")
    found = findings(command, "--probe-session", "s-1")
    assert found["inject"]["status"] == "failed"
    assert found["inject"]["remedy"] == "Set COGNIGY_INJECT=merge."
    assert command("doctor", "--probe-session", "s-1") == 1


def test_the_probe_may_fail(on_sessions: Emulator, command: Command) -> None:
    on_sessions.faults = Faults(fail_status=403)
    found = findings(command, "--probe-session", "s-1")
    assert found["inject"]["status"] == "failed"
    assert "HTTP 403" in found["inject"]["detail"]
    assert found["inject"]["remedy"]


def test_the_probe_requires_the_sessions_api(emulator: Emulator, command: Command) -> None:
    assert command("doctor", "--probe-session", "s-1") == 2
    assert "COGNIGY_API=sessions" in command.messages
    assert emulator.stats.requests == 0


# Which APIs a base URL serves.


@pytest.mark.parametrize("status", [200, 404])
def test_both_apis_are_found_and_nothing_is_written(
    emulator: Emulator, command: Command, status: int
) -> None:
    if status == 404:
        emulator.faults = Faults(fail_status=404)
    found = findings(command)
    assert {found[api]["status"] for api in ("runtime", "sessions")} == {"ok"}
    assert found["runtime"]["detail"] == (
        f"served: GET /runtime/v2/dialogs/cognigy-async-doctor/state was answered HTTP {status}"
    )
    assert found["sessions"]["detail"] == (
        f"served: GET /new/v2.0/profiles/cognigyasyncdoctor000000 was answered HTTP {status}"
    )
    assert (found["endpoint"]["status"], found["endpoint"]["detail"][:10]) == (
        "skipped",
        "not asked:",
    )
    assert emulator.stats.writes == 0
    assert (emulator.dialogs, emulator.profiles) == ({}, {})


def test_a_key_that_one_api_refuses_shows_that_it_is_there(
    emulator: Emulator, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COGNIGY_CLIENT_ID")
    monkeypatch.delenv("COGNIGY_CLIENT_SECRET")
    monkeypatch.setenv("COGNIGY_API_KEY", "canary-key")
    found = findings(command)
    for api in ("runtime", "sessions"):
        assert found[api]["status"] == "ok"
        assert found[api]["detail"].endswith("HTTP 401, which refuses these credentials")
    assert "canary-key" not in command.out


Reply = tuple[int, bytes]
NOTHING: Reply = (404, b'{"code": 1002, "detail": "no such thing", "traceId": "api--%d"}')
NO_PROFILE: Reply = (404, b'{"code": 1002, "detail": "no such profile", "traceId": "api--%d"}')
NO_DIALOG: Reply = (404, b'{"message": "no such dialog", "traceId": "%d"}')
PAGE: Reply = (404, b"<html>Cannot GET anything</html>")


@contextmanager
def host(
    runtime: Reply, sessions: Reply, other: Reply = NOTHING
) -> Iterator[tuple[str, list[str]]]:
    """A server with one reply for each API and for other paths; it keeps the request lines."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(f"{self.command} {self.path}")
            reply = runtime if self.path.startswith("/runtime/") else other
            status, body = sessions if self.path.startswith("/new/") else reply
            body = body.replace(b"%d", b"%d" % len(asked))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}", asked
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def with_key(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COGNIGY_CLIENT_ID")
    monkeypatch.delenv("COGNIGY_CLIENT_SECRET")
    monkeypatch.setenv("COGNIGY_API_KEY", "any-key")


@pytest.mark.usefixtures("with_key")
@pytest.mark.parametrize(
    ("runtime", "sessions", "other", "verdicts"),
    [
        (NOTHING, NO_PROFILE, NOTHING, ("not found", "served")),
        (PAGE, NO_PROFILE, PAGE, ("not found", "served")),
        (PAGE, NO_PROFILE, NOTHING, ("not found", "served")),
        (NO_DIALOG, PAGE, PAGE, ("served", "not found")),
        (NO_DIALOG, (401, b'{"code": 401}'), PAGE, ("served", "served")),
        (NO_DIALOG, NO_PROFILE, (200, b"<html>welcome</html>"), ("served", "served")),
        (NO_DIALOG, (405, b"{}"), (200, b"<html>welcome</html>"), ("served", "served")),
        ((200, b"<html>in</html>"), (200, b"[]"), (200, b"<html></html>"), ("unknown", "unknown")),
        ((401, b"{}"), (401, b"{}"), (401, b"{}"), ("unknown", "unknown")),
        ((500, b"{}"), (302, b""), NOTHING, ("unknown", "unknown")),
    ],
)
@pytest.mark.parametrize("chosen", ["runtime", "sessions"])
def test_what_is_not_there_is_answered_like_a_path_that_does_not_exist(
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
    runtime: Reply,
    sessions: Reply,
    other: Reply,
    verdicts: tuple[str, str],
    chosen: str,
) -> None:
    monkeypatch.setenv("COGNIGY_API", chosen)
    with host(runtime, sessions, other) as (url, asked):
        monkeypatch.setenv("COGNIGY_BASE_URL", url)
        found = findings(command)
    paths = {
        "runtime": "/runtime/v2/dialogs/cognigy-async-doctor/state",
        "sessions": "/new/v2.0/profiles/cognigyasyncdoctor000000",
    }
    assert asked[-3:] == [
        "GET /cognigy-async-doctor",
        *(f"GET {path}" for path in paths.values()),
    ]
    for api, verdict in zip(paths, verdicts, strict=True):
        detail = found[api]["detail"]
        assert detail.startswith(f"{verdict}: GET {paths[api]} was answered HTTP ")
        missing = verdict == "not found" and api == chosen
        expected = "warning" if missing else "skipped" if verdict == "unknown" else "ok"
        assert found[api]["status"] == expected
        if missing:
            (served,) = {"runtime", "sessions"} - {api}
            assert f"COGNIGY_API={served}" in found[api]["remedy"]


@pytest.mark.usefixtures("with_key")
@pytest.mark.parametrize(
    ("chosen", "remedy"),
    [
        ("runtime", "Check COGNIGY_BASE_URL, or name an existing dialog with --dialog."),
        ("sessions", "Check COGNIGY_BASE_URL."),
    ],
)
def test_where_no_api_is_there_the_remedy_fits_the_chosen_one(
    command: Command, monkeypatch: pytest.MonkeyPatch, chosen: str, remedy: str
) -> None:
    monkeypatch.setenv("COGNIGY_API", chosen)
    with host(NOTHING, NOTHING, NOTHING) as (url, _):
        monkeypatch.setenv("COGNIGY_BASE_URL", f"{url}/new")
        found = findings(command)
        assert command("doctor") == 0
    assert (found[chosen]["status"], found[chosen]["remedy"]) == ("warning", remedy)
    # The sources of the settings are said once.
    assert command.out.count("default: all others") == 1
    assert "COGNIGY_BASE_URL ends with /new" in command.out


@pytest.mark.usefixtures("with_key")
@pytest.mark.parametrize("status", [429, 503])
def test_a_server_that_asks_to_wait_is_not_asked_further(
    command: Command, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    with host(NO_DIALOG, (status, b"{}"), (status, b"{}")) as (url, asked):
        monkeypatch.setenv("COGNIGY_BASE_URL", url)
        found = findings(command)
    assert asked[1:] == ["GET /cognigy-async-doctor"]
    for api in ("runtime", "sessions"):
        assert found[api]["status"] == "skipped"
        assert found[api]["detail"].startswith(f"unknown: the server answered HTTP {status}")
    with host(NO_DIALOG, (status, b"{}")) as (url, asked):
        monkeypatch.setenv("COGNIGY_BASE_URL", url)
        found = findings(command)
    assert found["sessions"]["status"] == "skipped"


@pytest.mark.usefixtures("with_key")
def test_a_dialog_that_exists_shows_that_the_runtime_api_is_there(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    with host((200, b'{"session": {}}'), NOTHING) as (url, asked):
        monkeypatch.setenv("COGNIGY_BASE_URL", url)
        found = findings(command, "--dialog", "d 1")
    assert "GET /runtime/v2/dialogs/d%201/state" in asked
    assert found["runtime"]["detail"].startswith("served: ")
    assert found["sessions"]["detail"].endswith("HTTP 404, as /cognigy-async-doctor was")
