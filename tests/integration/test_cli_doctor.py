"""`cognigy-async doctor`: each thing that can be wrong, and what it says to do."""

from __future__ import annotations

import json
import os
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from email.utils import formatdate
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
)
from cognigy_async.emulator import Emulator, Faults

from .conftest import SECRET, Command

ALL = ["settings", "dns", "tls", "token", "read", "clock", "throttling"]


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
    (told,) = command.json["checks"]
    assert "in the environment" in told["remedy"]
    assert "in the environment" not in told["detail"]


def test_a_dialog_that_cannot_be(emulator: Emulator, command: Command) -> None:
    told = findings(command, "--dialog", "")["read"]
    assert (told["status"], told["detail"]) == ("failed", "dialog_id: is empty")
    assert told["remedy"]


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
def test_a_token_endpoint_that_is_none(
    emulator: Emulator, command: Command, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.setenv("COGNIGY_TOKEN_URL", f"{os.environ['COGNIGY_BASE_URL']}{path}")
    told = findings(command)["token"]
    assert (told["status"], "HTTP 404" in told["detail"]) == ("failed", True)
    assert "COGNIGY_TOKEN_URL" in told["remedy"]


def test_a_wrong_secret(
    emulator: Emulator, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COGNIGY_CLIENT_SECRET", "canary-secret")
    assert command("doctor") == 1
    assert "canary-secret" not in command.out + command.err
    told = findings(command)
    assert told["token"]["status"] == "failed"
    assert "COGNIGY_CLIENT_SECRET" in told["token"]["remedy"]
    assert told["read"]["status"] == "skipped"


def test_an_api_key(emulator: Emulator, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COGNIGY_CLIENT_ID")
    monkeypatch.delenv("COGNIGY_CLIENT_SECRET")
    monkeypatch.setenv("COGNIGY_API_KEY", "canary-key")
    told = findings(command)
    assert "canary-key" not in command.out
    assert told["token"]["status"] == "ok"
    assert told["read"]["status"] == "failed"
    assert "HTTP 401" in told["read"]["detail"]


def test_scopes_that_are_not_granted(
    emulator: Emulator, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COGNIGY_SCOPES", "runtime:write some:other")
    assert command("doctor") == 1
    told = findings(command)
    assert told["scopes"]["detail"] == "not granted: some:other"
    assert "COGNIGY_SCOPES" in told["scopes"]["remedy"]
    assert told["read"]["status"] == "ok", "there is a token, so the read is tried"


@pytest.mark.parametrize(
    ("status", "kind", "word"),
    [(404, "warning", "--dialog"), (403, "failed", "dialog:read"), (503, "failed", "later")],
)
def test_a_read_that_fails(
    emulator: Emulator, command: Command, status: int, kind: str, word: str
) -> None:
    emulator.faults = Faults(fail_status=status)
    told = findings(command, "--dialog", "d-1")
    assert told["read"]["status"] == kind
    assert word in told["read"]["remedy"]
    assert command("doctor") == (0 if kind == "warning" else 1)


def test_a_throttled_read_names_the_wait_at_once(emulator: Emulator, command: Command) -> None:
    emulator.script("throttle_tenant", method="GET")
    told = findings(command)
    assert told["read"]["status"] == "failed"
    assert "retry-after: " in told["throttling"]["detail"]


def test_nobody_listens(
    emulator: Emulator, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        monkeypatch.setenv("COGNIGY_BASE_URL", f"http://127.0.0.1:{taken.getsockname()[1]}")
        assert command("doctor") == 1
        told = findings(command)
    assert told["tls"]["status"] == "failed"
    assert told["tls"]["detail"].endswith("Connection refused")
    assert {told[check]["status"] for check in ("token", "read", "clock")} == {"skipped"}


def test_a_host_without_an_address(
    emulator: Emulator, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COGNIGY_BASE_URL", "https://no-such-host.invalid")
    told = findings(command)
    assert told["dns"]["status"] == "failed"
    assert told["dns"]["detail"] == "no-such-host.invalid has no address"
    assert "tls" not in told


@contextmanager
def accepting(context: ssl.SSLContext | None) -> Iterator[str]:
    """A port of this machine that takes TLS connections and closes them."""
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
                        connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
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


def test_a_certificate_that_nobody_vouches_for(
    emulator: Emulator, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    with accepting(context) as url:
        monkeypatch.setenv("COGNIGY_BASE_URL", url)
        told = findings(command)
    assert told["tls"]["status"] == "failed"
    assert "SSL_CERT_FILE" in told["tls"]["remedy"]


@pytest.mark.parametrize(("days", "status"), [(90, "ok"), (3, "warning")])
def test_how_long_a_certificate_is_valid(
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
        told = findings(command)
    assert told["tls"]["status"] == status
    assert f"valid for {days} days" in told["tls"]["detail"]


def test_a_port_that_speaks_no_tls(
    emulator: Emulator, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    with accepting(None) as url:
        monkeypatch.setenv("COGNIGY_BASE_URL", url)
        told = findings(command)
    assert told["tls"]["status"] == "failed"
    assert "speaks TLS" in told["tls"]["remedy"]


class Answers:
    """A transport whose answers tell a time."""

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
async def test_a_time_that_makes_no_sense(date: str) -> None:
    clock, _ = await looked_at({"date": date})
    assert clock.status == "skipped"


async def test_limits_that_the_server_tells() -> None:
    _, throttling = await looked_at(
        {"x-ratelimit-limit": "1000", "ratelimit-policy": '"q";q=1000;w=300', "set-cookie": SECRET}
    )
    assert throttling.detail == 'ratelimit-policy: "q";q=1000;w=300; x-ratelimit-limit: 1000'


async def test_limits_that_quote_the_credentials_are_left_out() -> None:
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


def test_a_session_is_neither_read_nor_written_unasked(
    on_sessions: Emulator, command: Command
) -> None:
    assert command("doctor") == 0
    told = findings(command)
    assert list(told) == ALL
    assert told["token"]["detail"].startswith("received")
    assert told["read"]["status"] == "skipped"
    assert "--probe-session" in told["read"]["remedy"]
    assert on_sessions.stats.requests == 0


def test_a_session_is_read_where_that_is_set(
    on_sessions: Emulator, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COGNIGY_READS_STATE", "true")
    assert findings(command)["read"]["status"] == "ok"
    assert on_sessions.dialogs == {}


def test_the_probe_tells_what_inject_does(
    on_sessions: Emulator, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = findings(command, "--probe-session", "s-1")
    assert (told["inject"]["status"], told["inject"]["detail"]) == (
        "ok",
        "behaviour of the server's inject: merge",
    )
    assert told["read"]["remedy"] is None
    assert list(on_sessions.dialogs) == ["s-1"]
    monkeypatch.setenv("COGNIGY_INJECT", "replace")
    told = findings(command, "--probe-session", "s-1")
    assert told["inject"]["status"] == "failed"
    assert told["inject"]["remedy"] == "Set COGNIGY_INJECT=merge."
    assert command("doctor", "--probe-session", "s-1") == 1


def test_the_probe_may_fail(on_sessions: Emulator, command: Command) -> None:
    on_sessions.faults = Faults(fail_status=403)
    told = findings(command, "--probe-session", "s-1")
    assert told["inject"]["status"] == "failed"
    assert "HTTP 403" in told["inject"]["detail"]
    assert told["inject"]["remedy"]


def test_the_probe_is_of_the_sessions_api(emulator: Emulator, command: Command) -> None:
    assert command("doctor", "--probe-session", "s-1") == 2
    assert "COGNIGY_API=sessions" in command.messages
    assert emulator.stats.requests == 0
