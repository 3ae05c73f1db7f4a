"""Connections as of other command-line tools: proxies and certificates of the environment."""

from __future__ import annotations

import os
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import anyio
import httpx

from cognigy_async import (
    ConfigurationError,
    HttpxTransport,
    NotSentError,
    Request,
    Response,
    Transport,
)
from cognigy_async._utils.arguments import is_loopback
from cognigy_async._utils.tls import client_context, context_of_file
from cognigy_async.integrations.settings import Settings

from ._options import TransportName

if TYPE_CHECKING:
    import aiohttp

CA_FILES = ("COGNIGY_CA_FILE", "SSL_CERT_FILE")
"""Variables that name a file of certificates; the first one that is set counts."""

HEADERS = {"User-Agent": "cognigy-async"}
NO_LIMITS = httpx.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=30)


@dataclass(frozen=True, slots=True)
class Proxy:
    """An HTTP proxy.

    Attributes:
        url: its URL, with user and password if it needs them.
        source: the setting that names it.
    """

    url: str = field(repr=False)
    source: str

    @property
    def address(self) -> tuple[str, int]:
        """Host and port."""
        parts = urlsplit(self.url)
        return parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)

    def __str__(self) -> str:
        host, port = self.address
        return f"proxy {host}:{port} of {self.source}"


@dataclass(frozen=True, slots=True)
class Connection:
    """The way to one server.

    Attributes:
        proxy: the proxy to use; None for none.
        context: the certificates to trust; None for those that httpx brings.
        ca_file: the file that they are from.
    """

    proxy: Proxy | None = None
    context: ssl.SSLContext | None = None
    ca_file: Path | None = None

    @property
    def needs_openssl(self) -> bool:
        """True if a server may show the certificate of an authority as its own.

        `openssl req -x509` makes such certificates. OpenSSL accepts them, and rustls does not.
        """
        authorities = [] if self.context is None else self.context.get_ca_certs()
        names: list[Any] = [each.get("subjectAltName", ()) for each in authorities]
        return any(kind in ("DNS", "IP Address") for each in names for kind, _ in each)

    def transport(self, name: TransportName) -> Transport:
        """Return a new transport, which has to be closed."""
        if self.proxy is not None or self.context is not None:
            return _Transport(self, name)
        return name.create()

    def token_transport(self) -> Transport | None:
        """Return a transport for tokens, which keeps no connection; None for the usual one."""
        if self.proxy is not None or self.context is not None:
            return _TokenTransport(self)
        return None

    def httpx_client(self) -> httpx.AsyncClient:
        """Return a new client of httpx."""
        proxy = None if self.proxy is None else httpx.Proxy(self.proxy.url)
        if proxy is not None and proxy.url.scheme == "https":
            proxy.ssl_context = self.context
        return httpx.AsyncClient(
            proxy=proxy,
            verify=self.context or client_context(),
            headers=HEADERS,
            limits=NO_LIMITS,
            trust_env=False,
        )

    def aiohttp_session(self) -> aiohttp.ClientSession:
        """Return a new session of aiohttp for the running event loop."""
        import aiohttp

        tls = self.context or client_context()
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ssl=tls),
            headers=HEADERS,
            proxy=None if self.proxy is None else self.proxy.url,
        )


DIRECT = Connection()
"""A connection without a proxy, to servers that this process starts."""


class _Transport:
    """A transport over a `Connection`, opened at its first request."""

    def __init__(self, connection: Connection, name: TransportName) -> None:
        self._connection = connection
        self._name = name
        self._client: httpx.AsyncClient | None = None
        self._session: aiohttp.ClientSession | None = None
        self._inner: Transport | None = None

    async def send(self, request: Request, *, timeout: float) -> Response:
        """Send a request; see `Transport`. An error names the proxy."""
        if self._inner is None:
            self._inner = self._open()
        try:
            return await self._inner.send(request, timeout=timeout)
        except NotSentError as error:
            if self._connection.proxy is not None:
                error.message += f" (through the {self._connection.proxy})"
            raise

    async def aclose(self) -> None:
        """Close the transport and its connections."""
        if self._inner is not None:
            await self._inner.aclose()
        if self._client is not None:
            await self._client.aclose()
        if self._session is not None:
            await self._session.close()

    def _open(self) -> Transport:
        proxy = self._connection.proxy
        if self._name is TransportName.PYREQWEST:
            from cognigy_async import PyreqwestTransport

            url = None if proxy is None else proxy.url
            return PyreqwestTransport(proxy=url, ca_file=self._connection.ca_file)
        # Not every event loop can speak TLS to a server within TLS to a proxy.
        tunnels = proxy is not None and proxy.url.startswith("https:")
        if self._name is TransportName.AIOHTTP and not tunnels:
            from cognigy_async import AiohttpTransport

            self._session = self._connection.aiohttp_session()
            return AiohttpTransport(self._session)
        self._client = self._connection.httpx_client()
        return HttpxTransport(self._client)


class _TokenTransport:
    """A transport with a connection for each request: tokens are rare, and it needs no closing."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def send(self, request: Request, *, timeout: float) -> Response:
        """Send a request; see `Transport`."""
        transport = self._connection.transport(TransportName.HTTPX)
        try:
            return await transport.send(request, timeout=timeout)
        finally:
            with anyio.CancelScope(shield=True):
                await transport.aclose()

    async def aclose(self) -> None:
        """Do nothing: there is no open connection."""


def connections(settings: Settings) -> tuple[Connection, Connection]:
    """Return the connections to the API and to the token endpoint.

    `COGNIGY_PROXY` and `COGNIGY_CA_FILE` take precedence over the variables of other tools, such as
    `HTTPS_PROXY` with `NO_PROXY`, and `SSL_CERT_FILE`.

    Raises:
        ConfigurationError: a proxy or a file of certificates cannot be used.
    """
    ca_file = settings.ca_file
    source = CA_FILES[0]
    if ca_file is None and os.environ.get(CA_FILES[1]):
        source, ca_file = CA_FILES[1], Path(os.environ[CA_FILES[1]])
    context = None if ca_file is None else context_of_file(ca_file, source)
    api, tokens = (
        Connection(_proxy_for(settings, url), context, ca_file)
        for url in (settings.base_url, settings.token_endpoint or settings.base_url)
    )
    return api, tokens


def _proxy_for(settings: Settings, url: str) -> Proxy | None:
    parts = urlsplit(url)
    host = parts.hostname or ""
    if settings.proxy is not None:
        proxy = _proxy(settings.proxy.get_secret_value(), "COGNIGY_PROXY")
        leaves = parts.scheme == "http" and not is_loopback(proxy.address[0])
        if leaves and not settings.allow_insecure:
            # http:// is allowed for this machine because nothing leaves it.
            raise ConfigurationError(
                "COGNIGY_PROXY: leads to another machine, and requests to an address with http:// "
                "would go there unencrypted. Use an address with https://, unset COGNIGY_PROXY, or "
                "set COGNIGY_ALLOW_INSECURE=true on a network that you trust"
            )
        return proxy
    found = getproxies()
    key = parts.scheme if found.get(parts.scheme) else "all"
    if not found.get(key) or proxy_bypass(parts.netloc) or proxy_bypass(host):
        return None
    named = any(name.lower() == f"{key}_proxy" for name in os.environ)
    proxy = _proxy(found[key], f"{key.upper()}_PROXY" if named else "the system settings")
    # To a proxy on another machine, the name of this one would be its own.
    return None if is_loopback(host) and not is_loopback(proxy.address[0]) else proxy


def _proxy(text: str, source: str) -> Proxy:
    """Return a proxy, or raise `ConfigurationError` without quoting its URL."""
    url = text if "://" in text else f"http://{text}"
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        usable = False
    if not usable or not url.isascii() or not url.isprintable() or " " in url:
        raise ConfigurationError(
            f"{source}: must be the URL of an HTTP proxy, such as http://proxy.example:3128, with "
            "user and password percent-encoded; SOCKS is not supported"
        )
    return Proxy(url, source)
