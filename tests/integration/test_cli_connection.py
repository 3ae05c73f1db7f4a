"""The command behind a proxy, and with certificates of a company."""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import trustme
from anyio.from_thread import start_blocking_portal

from cognigy_async.emulator import Emulator

from .conftest import TENANT, Command
from .proxies import Proxy, proxying
from .tls import self_signed
from .transport_servers import answering, serving

PASSWORD = "t0p-secret/c4nary"
PROXY_VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
OVER = [
    ("httpx", "asyncio"),
    ("aiohttp", "asyncio"),
    ("aiohttp", "uvloop"),
    ("pyreqwest", "uvloop"),
]


class Company:
    """A network with a proxy and an authority of its own; only the proxy knows the tenant."""

    def __init__(self, folder: Path) -> None:
        authority = trustme.CA()
        self.ca_file = folder / "ca.pem"
        authority.cert_pem.write_to_path(str(self.ca_file))
        self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(TENANT, "127.0.0.1").configure_cert(self.tls)


@pytest.fixture
def company(
    emulator: Emulator, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> Company:
    for name in list(os.environ):
        if name.lower() in (*PROXY_VARIABLES, "ssl_cert_file", "ssl_cert_dir"):
            monkeypatch.delenv(name)
    return Company(tmp_path_factory.mktemp("company"))


@pytest.fixture
def proxy(emulator: Emulator, company: Company, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """Run a proxy before the emulator, and name a tenant that only the proxy knows."""
    port = urlsplit(os.environ["COGNIGY_BASE_URL"]).port
    assert port is not None
    monkeypatch.setenv("COGNIGY_BASE_URL", f"https://{TENANT}")
    monkeypatch.setenv("SSL_CERT_FILE", str(company.ca_file))
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(proxying(port, company.tls)) as proxy,
    ):
        yield proxy


@pytest.mark.parametrize(("transport", "loop"), OVER)
def test_all_requests_go_through_the_proxy(
    proxy: Proxy,
    emulator: Emulator,
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
    transport: str,
    loop: str,
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", proxy.url)
    keys = Path("keys")
    monkeypatch.setenv("SSLKEYLOGFILE", str(keys))
    over = ("--transport", transport, "--loop", loop)
    assert command("update", "d-1", "--session", "a=1", *over) == 0, command.err
    # Importing aiohttp may write a first line.
    assert not keys.exists() or "TRAFFIC_SECRET" not in keys.read_text()
    Path("rows.jsonl").write_text('{"dialog_id": "d-2", "session": {"a": 1}}\n')
    assert command("bulk", "run", "rows.jsonl", *over) == 0, command.err
    # A connection for the token and another one for the update, twice.
    assert proxy.lines == [f"CONNECT {TENANT}:443 HTTP/1.1"] * 4
    assert list(emulator.dialogs) == ["d-1", "d-2"]


@pytest.mark.parametrize(("transport", "loop"), OVER)
def test_a_server_without_tls_behind_a_proxy_with_a_password(
    proxy: Proxy,
    emulator: Emulator,
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
    transport: str,
    loop: str,
) -> None:
    user, password = "me@company", PASSWORD.replace("/", "%2F")
    proxy.requires = f"{user}:{PASSWORD}"
    monkeypatch.setenv("COGNIGY_BASE_URL", f"http://{TENANT}")
    monkeypatch.setenv("COGNIGY_ALLOW_INSECURE", "true")
    over = ("--transport", transport, "--loop", loop)
    address = proxy.url.removeprefix("http://")
    monkeypatch.setenv("COGNIGY_PROXY", f"http://{user.replace('@', '%40')}:{password}@{address}")
    assert command("update", "d-1", "--session", "a=1", *over) == 0, command.err
    assert [line.split()[:2] for line in proxy.lines] == [
        ["POST", f"http://{TENANT}/oauth/token"],
        ["PATCH", f"http://{TENANT}/runtime/v2/dialogs/d-1/state"],
    ]
    monkeypatch.setenv("COGNIGY_PROXY", f"{user.replace('@', '%40')}:{PASSWORD[:4]}@{address}")
    assert command("update", "d-1", "--session", "a=1", *over) == 1
    assert "HTTP 407" in command.messages
    assert PASSWORD[:4] not in command.err


@pytest.mark.quick("*-asyncio")
@pytest.mark.parametrize(("transport", "loop"), OVER)
def test_a_proxy_that_does_not_connect_is_named_without_its_password(
    proxy: Proxy,
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
    transport: str,
    loop: str,
) -> None:
    monkeypatch.delenv("COGNIGY_CLIENT_ID")
    monkeypatch.delenv("COGNIGY_CLIENT_SECRET")
    monkeypatch.setenv("COGNIGY_API_KEY", "k")
    address = proxy.url.removeprefix("http://")
    monkeypatch.setenv("https_proxy", f"http://me:c4nary@{address}")
    proxy.refuses = "403 Not for you"
    over = ("--transport", transport, "--loop", loop)
    assert command("get", "d-1", *over, "--debug") == 1
    assert f"(through the proxy {address} of HTTPS_PROXY)" in command.messages
    assert "c4nary" not in command.err


def test_a_proxy_over_tls(
    emulator: Emulator, company: Company, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = urlsplit(os.environ["COGNIGY_BASE_URL"]).port
    assert port is not None
    monkeypatch.setenv("COGNIGY_BASE_URL", f"http://{TENANT}")
    monkeypatch.setenv("COGNIGY_ALLOW_INSECURE", "true")
    monkeypatch.setenv("COGNIGY_CA_FILE", str(company.ca_file))
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(proxying(port, company.tls, company.tls)) as proxy,
    ):
        monkeypatch.setenv("COGNIGY_PROXY", proxy.url)
        assert command("update", "d-1", "--session", "a=1") == 0, command.err
    assert len(proxy.lines) == 2


@pytest.mark.parametrize(
    ("variables", "through"),
    [
        ({"HTTPS_PROXY": "{proxy}"}, True),
        ({"https_proxy": "{proxy}"}, True),
        ({"ALL_PROXY": "{proxy}"}, True),
        ({"HTTP_PROXY": "{proxy}"}, False),
        ({"HTTPS_PROXY": ""}, False),
        ({"HTTPS_PROXY": "{proxy}", "NO_PROXY": "other.invalid,.invalid"}, False),
        ({"HTTPS_PROXY": "{proxy}", "NO_PROXY": TENANT}, False),
        ({"HTTPS_PROXY": "{proxy}", "NO_PROXY": "*"}, False),
        ({"HTTPS_PROXY": "{proxy}", "NO_PROXY": "other.invalid"}, True),
        ({"HTTPS_PROXY": "http://127.0.0.1:9", "COGNIGY_PROXY": "{proxy}"}, True),
        ({"COGNIGY_PROXY": "{proxy}", "NO_PROXY": "*"}, True),
    ],
)
def test_the_variables_of_other_tools_count(
    proxy: Proxy,
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
    variables: dict[str, str],
    through: bool,
) -> None:
    monkeypatch.delenv("COGNIGY_CLIENT_ID")
    monkeypatch.delenv("COGNIGY_CLIENT_SECRET")
    monkeypatch.setenv("COGNIGY_API_KEY", "k")
    for name, value in variables.items():
        monkeypatch.setenv(name, value.replace("{proxy}", proxy.url.removeprefix("http://")))
    assert command("doctor") == 1, "the key is not that of the server"
    assert bool(proxy.lines) is through
    assert ("HTTP 401" in command.out) is through
    assert (f"{TENANT} has no address" in command.out) is not through


def test_a_server_on_this_machine_needs_no_proxy_on_another_one(
    emulator: Emulator, company: Company, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://proxy.invalid:3128")
    assert command("get", "d-1") == 0, command.err


def test_what_a_named_proxy_would_get_unencrypted_is_refused(
    emulator: Emulator, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COGNIGY_PROXY", "http://proxy.invalid:3128")
    for arguments in (["get", "d-1"], ["doctor"]):
        assert command(*arguments) == 2
        assert "COGNIGY_PROXY: leads to another machine" in command.messages + command.out
    monkeypatch.setenv("COGNIGY_ALLOW_INSECURE", "true")
    assert command("get", "d-1") == 1
    assert "through the proxy proxy.invalid:3128" in command.messages
    assert emulator.stats.requests == 0


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("COGNIGY_PROXY", "socks5://c4nary.invalid:1080"),
        ("COGNIGY_PROXY", "http://c4nary@:3128"),
        ("COGNIGY_PROXY", "http://c4nary.invalid:port"),
        ("COGNIGY_PROXY", "http://c4na ry.invalid"),
        ("HTTPS_PROXY", "socks5h://c4nary.invalid"),
        ("COGNIGY_CA_FILE", "missing.pem"),
        ("SSL_CERT_FILE", "missing.pem"),
        ("COGNIGY_CA_FILE", "."),
        ("COGNIGY_CA_FILE", "not.pem"),
    ],
)
def test_what_cannot_be_used_is_named_before_anything_is_sent(
    proxy: Proxy, command: Command, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    Path("not.pem").write_text("c4nary")
    monkeypatch.setenv(name, value)
    for arguments in (["get", "d-1"], ["doctor"]):
        assert command(*arguments) == 2
        shown = command.out + command.err
        assert f"{name}: " in shown
        assert "c4n" not in shown
    assert proxy.lines == []


@pytest.mark.parametrize("name", ["SSL_CERT_FILE", "COGNIGY_CA_FILE"])
def test_a_certificate_of_the_company(
    proxy: Proxy,
    company: Company,
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    monkeypatch.setenv("COGNIGY_PROXY", proxy.url)
    monkeypatch.delenv("SSL_CERT_FILE")
    assert command("doctor") == 1
    remedy = "its issuer is trusted here (COGNIGY_CA_FILE or SSL_CERT_FILE)"
    assert remedy in command.out
    if name == "COGNIGY_CA_FILE":
        monkeypatch.setenv("SSL_CERT_FILE", "not-read-then.pem")
    monkeypatch.setenv(name, str(company.ca_file))
    assert command("doctor") == 0, command.out
    assert command("get", "d-1") == 0, command.err


def test_a_server_that_shows_the_certificate_of_an_authority(
    company: Company, command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """`openssl req -x509` makes such a certificate, which pyreqwest refuses."""
    context, pem = self_signed(is_authority=True)
    file = tmp_path / "server.pem"
    file.write_bytes(pem)
    monkeypatch.setenv("COGNIGY_CA_FILE", str(file))
    for name in ("COGNIGY_CLIENT_ID", "COGNIGY_CLIENT_SECRET"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("COGNIGY_API_KEY", "k")
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(serving(answering, context)) as server,
    ):
        monkeypatch.setenv("COGNIGY_BASE_URL", server.url)
        assert command("update", "d-1", "--session", "a=1") == 0, command.err
        assert command("update", "d-1", "--session", "a=1", "--transport", "pyreqwest") == 1
    assert "CaUsedAsEndEntity" in command.err


def test_doctor_checks_all_through_the_proxy(
    proxy: Proxy, emulator: Emulator, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", proxy.url)
    assert command("doctor", "--json") == 0
    found = {check["check"]: check["detail"] for check in command.json["checks"]}
    address = proxy.url.removeprefix("http://")
    named = f"the proxy {address} of HTTPS_PROXY"
    assert found["dns"] == f"127.0.0.1, {named} resolves to 127.0.0.1"
    assert found["tls"].startswith(f"{TENANT} through {named}: TLSv1.3, certificate valid for ")
    # The check of TLS, the token, a read of each API, and the read with a token of its own.
    assert proxy.lines == [f"CONNECT {TENANT}:443 HTTP/1.1"] * 6
    assert emulator.stats.requests == 4
    proxy.lines.clear()
    proxy.refuses = "403 Not for you"
    assert command("doctor") == 1
    assert f"{TENANT}:443 through {named}: the proxy answers 403" in command.out
    assert len(proxy.lines) == 1


def test_the_benchmark_of_a_tenant_goes_through_the_proxy(
    proxy: Proxy, emulator: Emulator, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", proxy.url)
    arguments = ["bench", "--target", "tenant", "--yes", "--count", "5", "--rounds", "2", "--json"]
    assert command(*arguments, "--max-in-flight", "1", "--dialogs", "1") == 0, command.err
    assert command.json["rows"][0]["succeeded"] == 10
    # The token, and a connection for each round.
    assert proxy.lines == [f"CONNECT {TENANT}:443 HTTP/1.1"] * 3
