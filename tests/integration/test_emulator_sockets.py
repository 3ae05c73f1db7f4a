"""The emulator over sockets, in an asyncio event loop and as a process."""

from __future__ import annotations

import asyncio
import errno
import logging
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import httpx
import pytest

from cognigy_async import ConfigurationError
from cognigy_async.emulator import Emulator, Faults, run, serve
from tests.unit.emulator._client import KEY, Bare, bare_client

pytestmark = [pytest.mark.anyio, pytest.mark.real_time]

on_asyncio = pytest.mark.parametrize("anyio_backend", ["asyncio"])
on_trio = pytest.mark.parametrize("anyio_backend", ["trio"])


@asynccontextmanager
async def served(**arguments: Any) -> AsyncIterator[tuple[Emulator, Bare]]:
    emulator = Emulator(api_key=KEY, **arguments)
    async with serve(emulator) as base_url, bare_client(emulator, base_url) as client:
        yield emulator, client


@on_asyncio
async def test_it_answers_over_sockets() -> None:
    async with served() as (emulator, client):
        await client.log_in()
        assert (await client.patch(dialog_id="a/b %?")).status_code == 200
        assert (await client.get("a/b %?")).json()["session"] == {"seq": 1}
        head = await client.http.head("/")
        assert (head.status_code, head.content) == (404, b"")
        large = b'{"session": {"v": "' + b"x" * 3_000_000 + b'"}}'
        assert (await client.patch(large)).status_code == 413
        assert (await client.http.put("/nowhere", content=large)).status_code == 404
        assert (await client.get("a/b %?")).status_code == 200
        assert emulator.stats.connections == 1
        assert list(emulator.dialogs) == ["a/b %?"]


@on_asyncio
async def test_connections_are_counted() -> None:
    async with served(faults=Faults(latency=0.2)) as (emulator, client):
        await asyncio.gather(*(client.get(f"d-{number}") for number in range(3)))
        async with bare_client(emulator, str(client.http.base_url)) as other:
            await other.get()
        stats = emulator.stats
        assert (stats.connections, stats.connections_max, stats.in_flight_max) == (4, 4, 3)
        await asyncio.sleep(0.05)
        async with bare_client(emulator, str(client.http.base_url)) as other:
            await other.get()
        assert (stats.connections, stats.connections_max) == (5, 4)


@on_asyncio
@pytest.mark.parametrize(("fault", "applied"), [("drop_before", False), ("drop_after", True)])
async def test_a_dropped_connection(
    fault: Any, applied: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async with served() as (emulator, client):
        await client.get()
        emulator.script(fault)
        with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
            await client.patch()
        assert ("d-1" in emulator.dialogs) is applied
        assert (await client.patch()).status_code == 200
        assert (emulator.stats.dropped, emulator.stats.connections) == (1, 2)
    assert caplog.records == []


@on_asyncio
async def test_an_abandoned_request_is_not_in_flight() -> None:
    async with served(faults=Faults(latency=0.6)) as (emulator, client):
        client.http.timeout = httpx.Timeout(0.15)
        for _ in range(2):
            with pytest.raises(httpx.ReadTimeout):
                await client.patch()
        stats = emulator.stats
        assert (stats.writes, stats.overlapping_writes, stats.in_flight_max) == (2, 0, 1)
        assert stats.abandoned == 0
        await asyncio.sleep(0.8)
        # The server still applies abandoned requests.
        assert emulator.dialogs["d-1"].version == 2
        assert stats.abandoned == 2


@on_asyncio
async def test_an_abandoned_token_request_does_not_overlap() -> None:
    async with served(faults=Faults(token_latency=0.6)) as (emulator, client):
        client.http.timeout = httpx.Timeout(0.15)
        for _ in range(2):
            with pytest.raises(httpx.ReadTimeout):
                await client.token()
        assert emulator.stats.token_requests_overlapping == 1
        async with bare_client(emulator, str(client.http.base_url)) as other:
            await asyncio.gather(other.token(), other.token())
        assert emulator.stats.token_requests_overlapping == 2


@on_asyncio
async def test_a_hanging_request_ends_with_its_connection() -> None:
    async with served(faults=Faults(hang=1, hang_applies=True)) as (emulator, client):
        client.http.timeout = httpx.Timeout(0.1)
        with pytest.raises(httpx.ReadTimeout):
            await client.patch()
        await asyncio.sleep(0.05)
        assert emulator.stats.abandoned == 1
        assert emulator.dialogs["d-1"].version == 1


@on_asyncio
async def test_an_incomplete_request_is_abandoned() -> None:
    async with served() as (emulator, client):
        port = client.http.base_url.port
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(
            b"PATCH /runtime/v2/dialogs/d-1/state HTTP/1.1\r\n"
            b"Host: e\r\nContent-Length: 99\r\n\r\n{"
        )
        await writer.drain()
        await asyncio.sleep(0.05)
        writer.close()
        await asyncio.sleep(0.05)
        assert (emulator.stats.abandoned, emulator.stats.requests) == (1, 0)


@on_asyncio
@pytest.mark.parametrize("faults", [Faults(hang=1), Faults(latency=60)], ids=["hang", "latency"])
async def test_leaving_ends_requests_in_flight(
    faults: Faults, caplog: pytest.LogCaptureFixture
) -> None:
    before = asyncio.all_tasks()
    emulator = Emulator(api_key=KEY, faults=faults)
    loop = asyncio.get_running_loop()
    async with bare_client(emulator, "http://unused") as client:
        async with serve(emulator) as base_url:
            client.http.base_url = base_url
            request = asyncio.create_task(client.patch())
            await asyncio.sleep(0.1)
            assert emulator.stats.writes == 1
            start = loop.time()
        assert loop.time() - start < 0.5
        assert asyncio.all_tasks() - before <= {request}
        with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
            await request
        with pytest.raises(httpx.ConnectError):
            await client.get()
    assert asyncio.all_tasks() == before
    assert caplog.records == []


@on_asyncio
@pytest.mark.parametrize("steps", range(12))
async def test_a_connection_that_is_accepted_while_it_leaves_is_closed_too(steps: int) -> None:
    emulator = Emulator(api_key=KEY)
    with socket.socket() as client:
        async with serve(emulator) as base_url:
            # The system accepts it; the event loop does so in the next steps.
            url = httpx.URL(base_url)
            client.connect((url.host, url.port))
            for _ in range(steps):
                await asyncio.sleep(0)
        await asyncio.sleep(0.01)
        client.settimeout(0)
        # The system resets a connection that the loop did not accept.
        with suppress(ConnectionResetError):
            assert client.recv(1) == b""


@on_asyncio
async def test_signal_handlers_and_logging_stay_unchanged() -> None:
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.getsignal(number) for number in numbers]
    loggers = logging.getLogger("uvicorn.error").handlers, logging.getLogger().handlers
    handlers = [list(handlers) for handlers in loggers]
    async with served() as (_, client):
        await client.get()
        assert [signal.getsignal(number) for number in numbers] == before
        assert [list(handlers) for handlers in loggers] == handlers


@on_asyncio
async def test_a_port_that_is_taken_is_a_clear_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=rf"cannot listen on 127\.0\.0\.1:{port}: ") as raised:
            async with serve(Emulator(), port=port):
                pass
        assert raised.value.errno == errno.EADDRINUSE
    with pytest.raises(OSError, match=r"cannot listen on 127\.0\.0\.1:70000"):
        async with serve(Emulator(), port=70_000):
            pass


@on_asyncio
async def test_the_base_url_is_reachable_if_all_addresses_are_served() -> None:
    async with serve(Emulator(), host="0.0.0.0") as base_url:
        assert base_url.startswith("http://127.0.0.1:")
        async with bare_client(Emulator(), base_url) as client:
            assert (await client.http.get("/_emulator/stats")).status_code == 200


PAGES = {
    "another site": {"Origin": "http://evil.example", "Content-Type": "application/json"},
    "a rebound name": {"Host": "evil.example", "Content-Type": "application/json"},
    "a form": {"Content-Type": "application/x-www-form-urlencoded"},
    "plain text": {"Content-Type": "text/plain"},
    "a beacon": {"Content-Type": ""},
}
"""Headers of requests that a web page can make."""


@on_asyncio
@pytest.mark.parametrize("page", PAGES)
async def test_a_web_page_cannot_reset_it(page: str) -> None:
    async with served() as (emulator, client):
        await client.patch()
        for content in (b"", b"{}", b"a=b", b"x" * 300_000):
            headers = PAGES[page]
            answer = await client.http.post("/_emulator/reset", content=content, headers=headers)
            assert answer.status_code in (403, 415)
            assert answer.json()["message"]
            put = await client.http.put("/_emulator/faults", content=content, headers=headers)
            assert put.status_code in (403, 415)
        assert (emulator.stats.requests, emulator.stats.connections) == (1, 1)
        assert list(emulator.dialogs) == ["d-1"]
        # The same requests of a program.
        assert (await client.http.put("/_emulator/faults", json={"latency": 0})).is_success
        assert (await client.http.post("/_emulator/reset", json={})).is_success
        assert not emulator.dialogs


@on_asyncio
async def test_a_rebound_name_reads_no_state() -> None:
    async with served() as (_, client):
        await client.patch()
        for path in ("/_emulator/dialogs/d-1", "/_emulator/stats", "/runtime/v2/dialogs/d-1/state"):
            headers = client.headers | {"Host": f"evil.example:{client.http.base_url.port}"}
            answer = await client.http.get(path, headers=headers)
            assert answer.status_code == 403
            assert "seq" not in answer.text
            assert (await client.http.get(path, headers=client.headers)).status_code == 200


@on_asyncio
async def test_other_machines_use_a_host_that_is_allowed() -> None:
    emulator = Emulator(api_key=KEY)
    async with (
        serve(emulator, allowed_hosts=["emulator"]) as base_url,
        bare_client(emulator, base_url) as client,
    ):
        client.headers["Host"] = "emulator:8321"
        assert (await client.patch()).status_code == 200
        client.headers["Host"] = "other:8321"
        assert (await client.patch()).status_code == 403
    with pytest.raises(ConfigurationError, match="allowed host"):
        async with serve(Emulator(), allowed_hosts=["http://emulator"]):
            pass


def test_a_bad_allowed_host_does_not_start_it(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigurationError, match="allowed host"):
        run(Emulator(), allowed_hosts=["http://emulator"], on_listening=print)
    assert capsys.readouterr().out == ""


@on_trio
async def test_trio_is_referred_to_the_asgi_transport() -> None:
    with pytest.raises(RuntimeError, match=r"httpx\.ASGITransport"):
        async with serve(Emulator()):
            pass


@on_asyncio
async def test_the_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn.config", None)
    monkeypatch.delitem(sys.modules, "cognigy_async.emulator.server.sockets", raising=False)
    with pytest.raises(ImportError, match=r"pip install 'cognigy-async\[emulator\]'"):
        async with serve(Emulator()):
            pass


def test_the_package_imports_without_the_extra() -> None:
    code = (
        "import sys\n"
        "for name in ('uvicorn', 'httptools', 'starlette'): sys.modules[name] = None\n"
        "import cognigy_async.emulator\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)


FOREGROUND = """
import signal, sys
from cognigy_async.emulator import Emulator, run
run(Emulator(), on_listening=lambda url: print(url, flush=True))
assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
print("stopped")
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_run_ends_by_a_signal(number: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", FOREGROUND],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        base_url = process.stdout.readline().strip()
        assert httpx.get(f"{base_url}/_emulator/stats", trust_env=False).status_code == 200
        process.send_signal(number)
        out, err = process.communicate(timeout=10)
    assert (out, err, process.returncode) == ("stopped\n", "", 0)


def test_run_needs_the_main_thread() -> None:
    errors: list[BaseException] = []

    def elsewhere() -> None:
        try:
            run(Emulator(), on_listening=print)
        except RuntimeError as error:
            errors.append(error)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join(10)
    assert [str(error).partition(";")[2] for error in errors] == [" elsewhere use serve()"]
